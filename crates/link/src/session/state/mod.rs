//! The state of a session under its main lock: the protocol's state machine, and groups of fields, each
//! with invariants of its own. The session's halves, its task and its handshakes change the state only
//! through methods.
//!
//! | group | content |
//! |---|---|
//! | `inbound` | the items that wait for the consumer |
//! | `reading` | the reader of the connection |
//! | `liveness` | the heartbeat of the connection |
//! | `progress` | timed messages, and connections lost without progress |
//! | `renewal` | the replacement of a lost session |
//! | `ending` | the ends of both directions and of the session |
//! | `wakers` | the tasks to wake |
//!
//! The methods are in `receive` (received frames, and the consumer's operations), `send`, `connect`
//! (handshakes and new connections) and in this file (everything else).

mod connect;
mod ending;
mod inbound;
mod liveness;
mod progress;
mod reading;
mod receive;
mod renewal;
mod role;
mod send;
mod wakers;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tieline_proto::json::Limits;
use tieline_proto::session::{Farewell, Frame, SessionMachine};
use tieline_proto::{HeartbeatConfig, HeartbeatEvent};
use tieline_transport::{
    Account, CloseReason, Control, LostBy, Owner, SendError, Sender, SessionInfo, SessionLost,
    Traffic,
};

use self::ending::Ending;
use self::inbound::Inbound;
use self::liveness::Liveness;
use self::progress::Progress;
use self::reading::Reading;
use self::renewal::Renewal;
use self::wakers::Wakers;
use super::options::SessionOptions;
use crate::link::LinkSender;

pub(super) use self::inbound::Item;
pub(super) use self::role::{Offer, OnOver, Remains, Role, ServerRole, random};
pub(super) use self::wakers::Waits;

/// Messages of at least this size update the memory account when they are sent or taken. Smaller ones are
/// counted when the queue is full, and by the task.
const LARGE: usize = 64 * 1024;

/// How long an acknowledgement may wait for a message to carry it.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often to check for a system suspend, if the other end may be on another machine.
const SUSPEND_CHECK: Duration = Duration::from_secs(2);

pub(super) struct SessionState {
    machine: SessionMachine,
    role: Role,
    /// The sending half of the Link that carries the session.
    line: Option<LinkSender>,
    /// The number of the current connection.
    connection: u64,
    /// When the task was last polled, or when the consumer began to read: at most about 100 ms ago while
    /// there is activity. The clock is not read for every message.
    now: Duration,
    /// If set, received messages must be JSON within these limits.
    json: Option<Limits>,
    heartbeat: HeartbeatConfig,
    /// The memory account of kept messages and of those that wait for the consumer.
    account: Account,
    /// The messages of earlier generations, and the faults of all generations.
    counted: Traffic,
    inbound: Inbound,
    reading: Reading,
    liveness: Liveness,
    progress: Progress,
    renewal: Renewal,
    ending: Ending,
    wakers: Wakers,
}

impl SessionState {
    pub(super) fn new(
        role: Role,
        options: &SessionOptions,
        json: Option<Limits>,
        account: Account,
    ) -> Self {
        Self {
            machine: options.machine(),
            role,
            line: None,
            connection: 0,
            now: Duration::ZERO,
            json,
            heartbeat: options.heartbeat,
            account,
            counted: Traffic::default(),
            inbound: Inbound::default(),
            reading: Reading::default(),
            liveness: Liveness::new(options.heartbeat),
            progress: Progress::new(),
            renewal: Renewal::default(),
            ending: Ending::default(),
            wakers: Wakers::default(),
        }
    }

    /// Sets the sending half of the Link that carries the session.
    pub(super) fn set_sender(&mut self, line: LinkSender) {
        self.line = Some(line);
    }

    /// Returns whether there is a connection at present.
    pub(super) fn has_line(&self) -> bool {
        self.line.as_ref().is_some_and(LinkSender::has_line)
    }

    /// Returns whether both ends have ended the session.
    pub(super) fn is_settled(&self) -> bool {
        self.machine.is_settled()
    }

    /// Returns why the session is over, as the sender's error.
    pub(super) fn closed(&self) -> Option<SendError> {
        self.ending.reason().map(|reason| SendError::Closed(Box::new(reason.clone())))
    }

    /// Returns whether the session is over.
    pub(super) fn is_finished(&self) -> bool {
        self.ending.is_over()
    }

    /// Returns whether the sender was closed. If so, there may be no caller left to report lost messages
    /// to.
    pub(super) fn was_closed(&self) -> bool {
        self.ending.is_closed()
    }

    /// Returns whether this side was closed because of a failure.
    pub(super) fn has_closed_with_failure(&self) -> bool {
        self.ending.has_failed()
    }

    /// Registers the session's task, which is being polled.
    pub(super) fn register_task(&mut self, now: Duration, waker: &Waker) {
        self.now = now;
        self.wakers.register_task(waker);
    }

    /// Lets the session's task end the session. The first reason is kept.
    pub(super) fn doom(&mut self, reason: CloseReason) {
        self.ending.doom(reason);
    }

    /// Returns the reason if the task is to end the session now. `is_written` means that nothing is left
    /// to write.
    pub(super) fn verdict(&mut self, is_written: bool, grace: Duration) -> Option<CloseReason> {
        let lingers = self.ending.lingers_until();
        let has_lingered = lingers.is_some() && self.machine.is_settled() && is_written;
        if let Some(doom) = self.ending.take_doom() {
            return Some(doom);
        }
        if !has_lingered && lingers.is_some_and(|until| until <= self.now) {
            return Some(self.lost(LostBy::Expired(grace)));
        }
        let is_over = self.machine.is_over() || self.has_failed();
        let is_over = is_over && (is_written || !self.has_line());
        (is_over || has_lingered).then(|| self.ending.agreed_reason())
    }

    /// Returns whether this side has closed because of a failure, and the other end has acknowledged all
    /// messages, so that only the farewell is missing.
    fn has_failed(&self) -> bool {
        self.ending.has_failed() && self.machine.kept().0 == 0
    }

    /// Records the end of the session, and why it failed, if the consumer has reported that. Returns the
    /// wakers of all waiting tasks, and the sending half of the Link.
    pub(super) fn finish(
        &mut self,
        reason: CloseReason,
        failure: Option<CloseReason>,
    ) -> ([Option<Waker>; 4], Option<LinkSender>) {
        self.ending.finish(reason.clone());
        if !self.ending.has_peer_ended() {
            self.inbound.push(Item::End(reason));
        }
        let remains = self.remains();
        if let Role::Server(server) = &self.role {
            server.over(remains, failure);
        }
        (self.wakers.take_all(), self.line.take())
    }

    /// Returns whether this is the server's end of a session that belongs to `owner`.
    pub(super) fn belongs_to(&self, owner: &Owner) -> bool {
        matches!(&self.role, Role::Server(server) if server.belongs_to(owner))
    }

    /// Handles the drop of a session that did not end.
    pub(super) fn abandon(&self) {
        if let (Role::Server(server), false) = (&self.role, self.is_finished()) {
            server.over(None, None);
        }
    }

    /// Returns what the client is still to receive, if this side has ended the session.
    fn remains(&mut self) -> Option<Remains> {
        if let Role::Client(_) = self.role {
            return None;
        }
        let farewell = self.ending.take_farewell()?;
        let mut machine = self.machine.clone();
        if self.ending.is_undeliverable() {
            machine.discard_kept();
        }
        Some(Remains { machine, farewell })
    }

    /// Handles the drop of both halves: if the sender was closed first, the session lingers until the
    /// other end has acknowledged everything. Returns whether it lingers.
    pub(super) fn linger(&mut self, until: Duration) -> bool {
        let is_done = self.machine.is_settled() || self.has_failed();
        let lingers = self.ending.is_closed() && !is_done && !self.ending.is_over();
        if lingers {
            self.ending.linger(until);
            self.wakers.wake_task();
        }
        lingers
    }

    /// Sends a farewell that ends the session, if that is possible without waiting.
    pub(super) fn send_farewell(&mut self, text: &str) {
        // Received messages that were not consumed are lost with the session, so they are not acknowledged.
        let received = self.machine.position().acknowledged;
        let farewell = Farewell { received, text: text.to_owned() };
        self.ending.farewell(&farewell);
        let _ = self.pump();
        let mut cx = Context::from_waker(Waker::noop());
        let Some(line) = &mut self.line else { return };
        if let Poll::Ready(Ok(())) = line.poll_ready(&mut cx) {
            let _ = line.start_send(Frame::Bye(farewell).to_bytes());
            let _ = line.poll_flush(&mut cx);
        }
    }

    /// Pings the other end when the connection is idle, and after a suspend if the other end may be on
    /// another machine. Returns true if there is no response, so that the connection is to be given up.
    pub(super) fn is_dead(
        &mut self,
        wall: Option<Duration>,
        line: impl FnOnce() -> Option<Control>,
    ) -> bool {
        if let Some(wall) = wall {
            self.liveness.check_for_suspend(self.now, wall);
        }
        if self.has_line() && self.liveness.next_wake() <= self.now {
            if let Some(line) = line() {
                self.liveness.check_line(self.now, &line.info(), self.line_outgoing());
            }
        }
        while self.has_line() {
            match self.liveness.poll(self.now) {
                Some(HeartbeatEvent::Ping) => self.machine.ping(self.connection),
                Some(HeartbeatEvent::Down) => return true,
                Some(_) => {}
                None => break,
            }
        }
        false
    }

    /// Returns when the task must be polled next: for an acknowledgement, a heartbeat or another deadline.
    pub(super) fn next_wake(&mut self, is_remote: bool) -> Option<Duration> {
        // Messages that wait for the consumer will have to be acknowledged.
        let waits = (!self.inbound.is_empty()).then(|| self.now.saturating_add(PATIENCE));
        let has_line = self.has_line();
        let due = self.machine.wake_at().or(waits).filter(|_| has_line);
        let beat = has_line.then(|| self.liveness.next_wake());
        // Timers may stop during a suspend and continue with the remaining time, so poll for suspends.
        let look = (has_line && is_remote).then(|| self.now.saturating_add(SUSPEND_CHECK));
        let others = [beat, look, self.ending.lingers_until(), self.reading.lent_until()];
        self.wakers.set_task_timed(due.is_some());
        [due].into_iter().chain(others).flatten().min()
    }

    /// Updates the memory account with the kept messages and those that wait for the consumer. If the
    /// budget is exceeded, the session ends when its task is polled next.
    pub(super) fn count_memory(&mut self) {
        let held = self.machine.kept().1 + self.inbound.held_bytes();
        let counted = self.account.set(held).and_then(|()| match self.wakers.task() {
            Some(task) => self.account.check(task),
            None => Ok(()),
        });
        let Err(refused) = counted else { return };
        if !self.ending.is_doomed() {
            let lost = self.lost(LostBy::Line(refused.into()));
            self.ending.doom(lost);
            self.wakers.wake_task();
        }
    }

    /// Returns the number of messages over all connections.
    pub(super) fn count(&self) -> Traffic {
        let mut counted = self.counted;
        counted.messages_out += self.machine.delivered().sent;
        // The end of a direction is numbered, but is not a message.
        let end = u64::from(self.ending.has_peer_ended());
        counted.messages_in += self.machine.position().received - end;
        counted
    }

    /// Returns the session's state for its control.
    pub(super) fn info(&self) -> SessionInfo {
        let mut info = SessionInfo::default();
        info.epoch = self.role.epoch();
        info.is_connected = self.has_line();
        (info.kept_messages, info.kept_bytes) = self.machine.kept();
        info.waiting_messages = self.inbound.len();
        info.latency = self.progress.latency().clone();
        info
    }

    /// Returns the close reason for the loss of the session, which says what was delivered.
    pub(super) fn lost(&self, cause: LostBy) -> CloseReason {
        let epoch = self.role.epoch();
        let delivered = self.machine.delivered();
        CloseReason::SessionLost(Arc::new(SessionLost { delivered, epoch, cause }))
    }

    /// Returns why the session ended when its Link has ended. If a lost session has not been replaced
    /// yet, this is the reason for its loss.
    pub(super) fn ended(&self, reason: CloseReason) -> CloseReason {
        match (reason, self.renewal.cause()) {
            (CloseReason::ByUs, _) => CloseReason::ByUs,
            (_, Some(cause)) => cause.clone(),
            (reason, None) => self.lost(LostBy::Line(reason)),
        }
    }
}
