//! What is under the lock of a session.

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
use crate::LinkSender;
use crate::shared::remember;

/// What came in waits for the consumer up to so many messages,
const INBOUND_MESSAGES: usize = 2048;
/// or so many bytes of them; one message of any legal size besides. It is more than the other side may
/// have sent without an acknowledgement, if it is on its defaults: so reading goes on, and its pings are
/// answered, whatever the consumer does.
const INBOUND_BYTES: usize = 32 << 20;

/// For so long the consumer reads by himself before the task looks whether he still comes by. It is what
/// a ping, an acknowledgement or the loss of the connection may have to wait for one who does not.
const LENT_FOR: Duration = Duration::from_millis(100);

pub(super) struct Core {
    pub(super) machine: Machine,
    pub(super) role: Role,
    pub(super) line: Option<LinkSender>,
    /// When the task last looked, or lent the reading: about a tenth of a second ago at most, where anything
    /// happens. The clock is not asked for every message.
    pub(super) now: Duration,
    /// Of the connection of the moment.
    pub(super) heartbeat: Heartbeat,
    pub(super) looked: Looked,
    /// Connections in a row that were lost under a message.
    pub(super) tries: Tries,
    pub(super) slept: SuspendDetector,
    pub(super) inbound: VecDeque<Item>,
    pub(super) inbound_bytes: usize,
    /// The task has stopped reading until the consumer has taken something.
    pub(super) is_held_up: bool,
    /// The task looks again by itself before an acknowledgement is late.
    pub(super) is_timed: bool,
    /// Counts the machines: a session that could not be resumed was followed by another.
    pub(super) generation: u64,
    /// From which of them the consumer was given something last.
    pub(super) given_generation: u64,
    /// Which connection of all it is.
    pub(super) lines: u64,
    /// What is kept and what waits for the consumer, as it is counted.
    pub(super) account: Account,
    /// How far both directions had come when it was last looked.
    pub(super) progress: (Sequence, Sequence),
    /// The session was lost, and the consumer is to be told when there is another.
    pub(super) reset: Option<(u64, CloseReason)>,
    /// Messages of a lost session that the sender is yet to tell.
    pub(super) untold: u64,
    /// The message whose acknowledgement is timed, and when it was sent.
    pub(super) timed: Option<(Sequence, Duration)>,
    /// How long it took.
    pub(super) latency: Histogram,
    /// Messages of the machines before this one, and faults of all.
    pub(super) counted: Traffic,
    /// This side has ended its direction.
    pub(super) is_closing: bool,
    /// Its sender was dropped, and the task is to say so; if the receiver goes, too, there is no more
    /// than a farewell.
    pub(super) ends_soon: bool,
    /// By closing it, and not by going away.
    pub(super) is_closed: bool,
    /// Both halves were dropped behind that: what was sent may still arrive, until then.
    pub(super) lingers_until: Option<Duration>,
    /// The other side has ended its direction.
    pub(super) has_peer_ended: bool,
    pub(super) is_receiver_gone: bool,
    pub(super) end: Option<CloseReason>,
    /// The task is to end the session: who found out holds locks of the Link's.
    pub(super) doom: Option<CloseReason>,
    /// Nothing more is sent: the next message does not get through.
    pub(super) is_undeliverable: bool,
    /// What still comes over the connection of the moment will come again over the next.
    pub(super) is_fenced: bool,
    /// Until then it is the consumer that reads.
    pub(super) lent_until: Option<Duration>,
    pub(super) task: Option<Waker>,
    /// Who sends, and waits for room, for an acknowledgement, or until all is written.
    pub(super) sender: Option<Waker>,
    /// For which of the three.
    sender_waits: Waits,
    /// Who waits for the end.
    pub(super) gone: Option<Waker>,
    pub(super) receiver: Option<Waker>,
}

/// How many connections in a row were lost with nothing gained.
#[derive(Default)]
pub(super) struct Tries {
    /// What the other side had received, and this one, when the last of them was made.
    position: Option<(Sequence, Sequence)>,
    count: u32,
    /// When the first of them was lost.
    since: Duration,
}

/// So long at least a message is tried, however often a connection is lost meanwhile.
const TRIED_FOR: Duration = Duration::from_secs(60);

impl Tries {
    /// Another connection is there, at which both sides have received so much. Returns over how many in a row
    /// nothing came through, once that goes on for too long.
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

/// What was seen of the connection of the moment when a ping was due last, or missed.
#[derive(Clone, Copy, Default)]
pub(super) struct Looked {
    pub(super) at: Duration,
    pub(super) bytes_in: u64,
    /// A whole frame has come since.
    pub(super) has_frames: bool,
}

/// What a sender waits for.
#[derive(Clone, Copy)]
pub(super) enum Waits {
    /// That another message is taken.
    Room,
    /// That all is written.
    Written,
    /// That the other side has all.
    Settled,
}

/// Which end of the session this is.
pub(super) enum Role {
    /// What it is resumed with; `None` before it was granted.
    Client(Option<Ticket>),
    Server(Box<Server>),
}

/// What waits for the consumer.
pub(super) enum Item {
    Message(Sequence, Bytes),
    Fault(Sequence, Fault),
    Reset(Box<Reset>),
    End(CloseReason),
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

    /// No more is read until the consumer has taken something.
    pub(super) fn is_full(&self) -> bool {
        self.inbound.len() >= INBOUND_MESSAGES || self.inbound_bytes >= INBOUND_BYTES
    }

    /// The consumer is to read by himself, if nobody else waits for what comes in and nothing but messages
    /// is to be expected. Whether that is new.
    pub(super) fn lend_reading(&mut self, now: impl FnOnce() -> Duration) -> Option<bool> {
        // Behind the other side's end nobody asks for more.
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

    /// Who sends waits for something that comes in: it must not be left to a consumer who may not come by.
    /// Whom to wake.
    #[must_use = "the task is to read"]
    pub(super) fn wait_to_send(&mut self, waker: &Waker, waits: Waits) -> Option<Waker> {
        self.sender_waits = waits;
        remember(&mut self.sender, waker);
        self.take_back_reading()
    }

    /// The sender, if it need not wait any longer. It is not woken for anything else: it would take the reading
    /// from a receiver in the same task, which would be lent it again, and so on without end.
    pub(super) fn free_sender(&mut self, is_written: bool) -> Option<Waker> {
        let is_free = match self.sender_waits {
            Waits::Room => self.machine.has_room(),
            Waits::Written => is_written || self.machine.has_room() || !self.has_line(),
            Waits::Settled => self.machine.is_settled(),
        };
        if is_free { self.sender.take() } else { None }
    }

    /// The task is to read. Whom to wake.
    #[must_use = "the task is to read"]
    pub(super) fn take_back_reading(&mut self) -> Option<Waker> {
        self.lent_until.take().and_then(|_| self.task.clone())
    }

    /// Something for the consumer. Where nobody takes it, it is not kept, and not acknowledged.
    pub(super) fn push(&mut self, item: Item) {
        if self.is_receiver_gone {
            return;
        }
        if let Item::Message(_, message) = &item {
            self.inbound_bytes += message.len();
        }
        self.inbound.push_back(item);
    }

    /// Counts what is kept and what waits for the consumer. If that is too much, the session ends with the next
    /// turn of its task.
    pub(super) fn count_memory(&mut self) {
        let held = self.machine.kept().1 + self.inbound_bytes;
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

    /// Everything that waits is given to the consumer.
    pub(super) fn take_inbound(&mut self, into: &mut VecDeque<Item>) {
        std::mem::swap(&mut self.inbound, into);
        self.inbound_bytes = 0;
    }

    /// How many messages went over all connections.
    pub(super) fn count(&self) -> Traffic {
        let mut counted = self.counted;
        counted.messages_out += self.machine.delivered().sent;
        // The end of a direction has a number, and is no message.
        counted.messages_in += self.machine.position().received - u64::from(self.has_peer_ended);
        counted
    }

    /// How it stands.
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

    /// The session is lost for this reason.
    pub(super) fn lost(&self, cause: LostBy) -> CloseReason {
        let epoch = self.epoch();
        let delivered = self.machine.delivered();
        CloseReason::SessionLost(Arc::new(SessionLost { delivered, epoch, cause }))
    }

    /// There is another connection; the other side has `received` so much. Whether the session is to end,
    /// because the next message does not get through.
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

    /// Why the session has ended with its Link: if it is the one in place of another that was not
    /// begun yet, what became of that.
    pub(super) fn ended(&self, reason: CloseReason) -> CloseReason {
        match (reason, &self.reset) {
            (CloseReason::ByUs, _) => CloseReason::ByUs,
            (_, Some((_, cause))) => cause.clone(),
            (reason, None) => self.lost(LostBy::Line(reason)),
        }
    }

    /// The session was replaced by a new one, and the consumer does not know yet.
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

/// A connection on which somebody has greeted.
pub(super) struct Offer {
    pub(super) line: BoxChannel,
    /// How long its messages may be, once it is a session's.
    pub(super) usual: Option<ByteSize>,
    pub(super) hello: Hello,
}

pub(super) fn machine(options: &SessionOptions) -> Machine {
    // A message is taken over when the consumer has it, not when it waits for the consumer.
    let mut config = options.session;
    config.commits = true;
    Machine::new(config)
}
