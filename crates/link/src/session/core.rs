//! The state of a session under its main lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{Hello, Sequence, Session as Machine, Ticket};
use tieline_proto::{ByteSize, Fault, Heartbeat, Histogram, SuspendDetector};
use tieline_transport::{
    Account, BoxChannel, CloseReason, LostBy, Reset, SendError, SessionInfo, SessionLost, Traffic,
};

use super::SessionOptions;
use super::server::Server;
use crate::link::LinkSender;
use crate::shared::remember;

/// How many received messages may wait for the consumer.
const INBOUND_MESSAGES: usize = 2048;
/// How many bytes of received messages may wait for the consumer, plus one message of any size. This is
/// more than the other end sends without an acknowledgement by default, so that reading continues and pings
/// are answered whatever the consumer does.
const INBOUND_BYTES: usize = 32 << 20;

/// Messages of at least this size update the memory account when they are sent or taken. Smaller ones are
/// counted when the queue is full, and by the task.
pub(super) const LARGE: usize = 64 * 1024;

/// How long the consumer reads the connection itself before the task checks whether it still does. A ping, an
/// acknowledgement or the loss of the connection may have to wait this long if it does not.
const LENT_FOR: Duration = Duration::from_millis(100);

pub(super) struct Core {
    pub(super) machine: Machine,
    pub(super) role: Role,
    pub(super) line: Option<LinkSender>,
    /// When the task was last polled, or when the consumer began to read: at most about 100 ms ago while
    /// there is activity. The clock is not read for every message.
    pub(super) now: Duration,
    /// The heartbeat of the current connection.
    pub(super) heartbeat: Heartbeat,
    pub(super) looked: Looked,
    /// Consecutive connections that were lost without progress.
    pub(super) tries: Tries,
    pub(super) slept: SuspendDetector,
    pub(super) inbound: VecDeque<Item>,
    pub(super) inbound_bytes: usize,
    /// The bytes that the receiver took last, all of which it may still hold.
    pub(super) taken_bytes: usize,
    /// The task has stopped reading until the consumer has received something.
    pub(super) is_held_up: bool,
    /// The task's timer wakes it before an acknowledgement is late.
    pub(super) is_timed: bool,
    /// The number of the session: one that could not be resumed is replaced by a new one.
    pub(super) generation: u64,
    /// The generation that the consumer last received from.
    pub(super) given_generation: u64,
    /// The number of the current connection.
    pub(super) lines: u64,
    /// The memory account of kept messages and of those that wait for the consumer.
    pub(super) account: Account,
    /// The positions of both directions at the last check for progress.
    pub(super) progress: (Sequence, Sequence),
    /// The session was lost; the consumer receives this reset once there is another.
    pub(super) reset: Option<(u64, CloseReason)>,
    /// Lost messages of an earlier session that the sender has not reported yet.
    pub(super) untold: u64,
    /// The message whose acknowledgement is timed, and when it was sent.
    pub(super) timed: Option<(Sequence, Duration)>,
    /// The measured latencies.
    pub(super) latency: Histogram,
    /// Messages of earlier generations, and faults of all.
    pub(super) counted: Traffic,
    /// This side has ended its direction.
    pub(super) is_closing: bool,
    /// The sender was dropped, and the task is to send the end. If the receiver is dropped too, only a
    /// farewell is sent.
    pub(super) ends_soon: bool,
    /// This side has ended its direction by closing the sender, not by dropping it.
    pub(super) is_closed: bool,
    /// Both halves were dropped after closing. Sent messages may still arrive until this time.
    pub(super) lingers_until: Option<Duration>,
    /// The other end has ended its direction.
    pub(super) has_peer_ended: bool,
    pub(super) is_receiver_gone: bool,
    pub(super) end: Option<CloseReason>,
    /// The task is to end the session for this reason. Set where locks of the Link are held.
    pub(super) doom: Option<CloseReason>,
    /// Nothing more is sent, because the next message cannot be delivered.
    pub(super) is_undeliverable: bool,
    /// Frames that still arrive over the current connection are ignored; the next connection repeats them.
    pub(super) is_fenced: bool,
    /// Until when the consumer reads the connection itself.
    pub(super) lent_until: Option<Duration>,
    pub(super) task: Option<Waker>,
    /// The task that sends, if it waits.
    pub(super) sender: Option<Waker>,
    /// What that task waits for.
    sender_waits: Waits,
    /// The task that waits for the end.
    pub(super) gone: Option<Waker>,
    pub(super) receiver: Option<Waker>,
}

/// Counts consecutive connections that were lost without progress.
#[derive(Default)]
pub(super) struct Tries {
    /// What the other end and this one had received when the last of them was connected.
    position: Option<(Sequence, Sequence)>,
    count: u32,
    /// When the first of them was lost.
    since: Duration,
}

/// How long a message is tried at least, however many connections are lost.
const TRIED_FOR: Duration = Duration::from_secs(60);

impl Tries {
    /// Records a new connection, with what both ends have received. Returns the number of consecutive
    /// connections without progress once that has lasted for too long.
    fn again(
        &mut self,
        position: (Sequence, Sequence),
        is_sending: bool,
        now: Duration,
    ) -> Option<u32> {
        let is_vain = self.position.replace(position) == Some(position) && is_sending;
        if !is_vain {
            self.count = 0;
            return None;
        }
        if self.count == 0 {
            self.since = now;
        }
        self.count += 1;
        (now.saturating_sub(self.since) >= TRIED_FOR).then_some(self.count)
    }
}

/// The state of the current connection when a ping was last due or missed.
#[derive(Clone, Copy, Default)]
pub(super) struct Looked {
    pub(super) at: Duration,
    pub(super) bytes_in: u64,
    /// A complete frame was received since.
    pub(super) has_frames: bool,
}

/// What a sender waits for.
#[derive(Clone, Copy)]
pub(super) enum Waits {
    /// Room for another message.
    Room,
    /// All messages are written.
    Written,
    /// The other end has acknowledged all messages.
    Acknowledged,
    /// The other end has acknowledged everything, including the end of this direction.
    Settled,
}

/// Which end of the session this is.
pub(super) enum Role {
    /// The ticket to resume the session; `None` before it was granted.
    Client(Option<Ticket>),
    Server(Box<Server>),
}

/// An item that waits for the consumer.
pub(super) enum Item {
    Message(Sequence, Bytes),
    Fault(Sequence, Fault),
    Reset(Box<Reset>),
    End(CloseReason),
}

impl Item {
    /// Returns the length of the message in bytes.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Message(_, message) => message.len() as u64,
            Self::Fault(..) | Self::Reset(_) | Self::End(_) => 0,
        }
    }
}

impl Core {
    pub(super) fn new(role: Role, options: &SessionOptions) -> Self {
        Self {
            machine: machine(options),
            role,
            line: None,
            now: Duration::ZERO,
            heartbeat: Heartbeat::new(options.heartbeat, Duration::ZERO),
            looked: Looked::default(),
            tries: Tries::default(),
            slept: SuspendDetector::default(),
            inbound: VecDeque::new(),
            inbound_bytes: 0,
            taken_bytes: 0,
            is_held_up: false,
            is_timed: false,
            generation: 0,
            given_generation: 0,
            lines: 0,
            account: Account::unbounded(),
            progress: (0, 0),
            reset: None,
            untold: 0,
            timed: None,
            latency: Histogram::new(),
            counted: Traffic::default(),
            is_closing: false,
            ends_soon: false,
            is_closed: false,
            lingers_until: None,
            has_peer_ended: false,
            is_receiver_gone: false,
            end: None,
            doom: None,
            is_undeliverable: false,
            is_fenced: false,
            lent_until: None,
            task: None,
            sender: None,
            sender_waits: Waits::Room,
            gone: None,
            receiver: None,
        }
    }

    /// Returns whether reading must pause until the consumer has received something.
    pub(super) fn is_full(&self) -> bool {
        self.inbound.len() >= INBOUND_MESSAGES || self.inbound_bytes >= INBOUND_BYTES
    }

    /// Lets the consumer read the connection itself, if no other task waits for received frames and only
    /// messages are expected. Returns whether that is a change; `None` if the consumer may not read.
    pub(super) fn lend_reading(&mut self, now: impl FnOnce() -> Duration) -> Option<bool> {
        // After the end of input the consumer does not poll again.
        if self.is_fenced || self.sender.is_some() || self.has_peer_ended {
            return None;
        }
        if self.doom.is_some() || self.end.is_some() {
            return None;
        }
        let is_new = self.lent_until.is_none();
        if is_new {
            self.now = now();
            self.lent_until = Some(self.now.saturating_add(LENT_FOR));
        }
        Some(is_new)
    }

    /// Registers a sender that waits for something to be received. Reading must then not be left to a
    /// consumer that may not poll. Returns the task to wake.
    #[must_use = "the task is to read"]
    pub(super) fn wait_to_send(&mut self, waker: &Waker, waits: Waits) -> Option<Waker> {
        self.sender_waits = waits;
        remember(&mut self.sender, waker);
        self.take_back_reading()
    }

    /// Returns the sender's waker if it need not wait any longer. It is woken for nothing else: it would take
    /// reading back from a receiver in the same task, which would then read again, in an endless loop.
    pub(super) fn free_sender(&mut self, is_written: bool) -> Option<Waker> {
        let is_free = match self.sender_waits {
            Waits::Room => self.machine.has_room(),
            Waits::Written => is_written || self.machine.has_room() || !self.has_line(),
            Waits::Acknowledged => self.machine.kept().0 == 0,
            Waits::Settled => self.machine.is_settled(),
        };
        if is_free { self.sender.take() } else { None }
    }

    /// Lets the task read again. Returns its waker, if the consumer was reading.
    #[must_use = "the task is to read"]
    pub(super) fn take_back_reading(&mut self) -> Option<Waker> {
        self.lent_until.take().and_then(|_| self.task.clone())
    }

    /// Queues an item for the consumer. Without a receiver it is dropped, and not acknowledged.
    pub(super) fn push(&mut self, item: Item) {
        if self.is_receiver_gone {
            return;
        }
        if let Item::Message(_, message) = &item {
            self.inbound_bytes += message.len();
        }
        self.inbound.push_back(item);
    }

    /// Updates the memory account with the kept messages and those that wait for the consumer. If the
    /// budget is exceeded, the session ends when its task is polled next.
    pub(super) fn count_memory(&mut self) {
        let held = self.machine.kept().1 + self.inbound_bytes + self.taken_bytes;
        let counted = self.account.set(held).and_then(|()| match &self.task {
            Some(task) => self.account.check(task),
            None => Ok(()),
        });
        if let Err(refused) = counted
            && self.doom.is_none()
        {
            self.doom = Some(self.lost(LostBy::Line(refused.into())));
            if let Some(task) = &self.task {
                task.wake_by_ref();
            }
        }
    }

    /// Moves all waiting items to the receiver, which has returned everything that it took before.
    pub(super) fn take_inbound(&mut self, into: &mut VecDeque<Item>) {
        std::mem::swap(&mut self.inbound, into);
        let before = std::mem::replace(&mut self.taken_bytes, self.inbound_bytes);
        self.inbound_bytes = 0;
        if before.max(self.taken_bytes) >= LARGE {
            self.count_memory();
        }
    }

    /// Returns the number of messages over all connections.
    pub(super) fn count(&self) -> Traffic {
        let mut counted = self.counted;
        counted.messages_out += self.machine.delivered().sent;
        // The end of a direction is numbered, but is not a message.
        counted.messages_in += self.machine.position().received - u64::from(self.has_peer_ended);
        counted
    }

    /// Returns the session's state for its control.
    pub(super) fn info(&self) -> SessionInfo {
        let mut info = SessionInfo::default();
        info.epoch = self.epoch();
        info.is_connected = self.has_line();
        (info.kept_messages, info.kept_bytes) = self.machine.kept();
        info.waiting_messages = self.inbound.len();
        info.latency = self.latency.clone();
        info
    }

    fn epoch(&self) -> u64 {
        match &self.role {
            Role::Client(ticket) => ticket.as_ref().map_or(0, Ticket::epoch),
            Role::Server(server) => server.epoch(),
        }
    }

    /// Returns the close reason for losing the session, with what was delivered.
    pub(super) fn lost(&self, cause: LostBy) -> CloseReason {
        let epoch = self.epoch();
        let delivered = self.machine.delivered();
        CloseReason::SessionLost(Arc::new(SessionLost { delivered, epoch, cause }))
    }

    /// Records a new connection, on which the other end has `received` this much. Returns the reason to end
    /// the session if the next message cannot be delivered.
    pub(super) fn is_tried_in_vain(
        &mut self,
        received: Sequence,
        max_tries: u32,
        last: Option<CloseReason>,
    ) -> Option<CloseReason> {
        let acknowledged = self.machine.delivered().acknowledged;
        let next = self.machine.kept_message(received.saturating_sub(acknowledged));
        let position = (received, self.machine.position().received);
        let tries = self.tries.again(position, next.is_some(), self.now)?;
        let bytes = next.filter(|_| tries >= max_tries)?;
        self.is_undeliverable = true;
        Some(self.lost(LostBy::Undeliverable { bytes, tries, last }))
    }

    /// Returns why the session has ended with its Link. If a lost session was not replaced yet, that is why
    /// it was lost.
    pub(super) fn ended(&self, reason: CloseReason) -> CloseReason {
        match (reason, &self.reset) {
            (CloseReason::ByUs, _) => CloseReason::ByUs,
            (_, Some((_, cause))) => cause.clone(),
            (reason, None) => self.lost(LostBy::Line(reason)),
        }
    }

    /// Returns whether the session was replaced by a new one, and the consumer has not received the reset
    /// yet.
    pub(super) fn is_reset_pending(&self) -> bool {
        self.generation != self.given_generation && !self.is_receiver_gone
    }

    pub(super) fn is_over(&self) -> bool {
        self.machine.is_over()
    }

    pub(super) fn has_line(&self) -> bool {
        self.line.as_ref().is_some_and(LinkSender::has_line)
    }

    pub(super) fn closed(&self) -> Option<SendError> {
        self.end.clone().map(|reason| SendError::Closed(Box::new(reason)))
    }
}

/// A connection on which a client has sent its greeting.
pub(super) struct Offer {
    pub(super) line: BoxChannel,
    /// The message limit after the handshake.
    pub(super) usual: Option<ByteSize>,
    pub(super) hello: Hello,
}

pub(super) fn machine(options: &SessionOptions) -> Machine {
    // A message is acknowledged when the consumer has received it, not while it waits for the consumer.
    let mut config = options.session;
    config.commits = true;
    Machine::new(config)
}
