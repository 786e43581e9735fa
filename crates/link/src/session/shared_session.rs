//! The state shared by the halves of a session, its task and its handshakes.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::task::Waker;
use std::time::Duration;

use tieline_proto::BackoffConfig;
use tieline_proto::session::{Sequence, Welcome};
use tieline_transport::{Account, CloseReason, Control, Endpoint, Holding, Traffic};
use tokio::time::Instant;

use super::intake::Intake;
use super::options::{LineOptions, SessionOptions};
use super::state::{Role, SessionState};
use crate::link::LinkSender;
use crate::lock::lock;
use crate::receiver::{LinkReceiver, Live};
use crate::recovery::Recovery;
use crate::shared_link::SharedLink;

pub(super) struct SharedSession {
    intake: Mutex<Intake>,
    state: Mutex<SessionState>,
    begun: Instant,
    pub(super) options: SessionOptions,
    pub(super) line: LineOptions,
    /// The Link, which is set once the first connection is established.
    link: OnceLock<Arc<SharedLink>>,
    of_link: OnceLock<Control>,
    control: OnceLock<Control>,
    /// The final counters, once the session is over.
    pub(super) total: Arc<OnceLock<Traffic>>,
}

impl SharedSession {
    pub(super) fn new(role: Role, options: SessionOptions, line: LineOptions) -> Self {
        let account = Account::of(line.memory.as_ref(), Holding::Queue);
        let state = SessionState::new(role, &options, line.json, account);
        Self {
            intake: Mutex::new(Intake::new()),
            state: Mutex::new(state),
            begun: Instant::now(),
            options,
            line,
            link: OnceLock::new(),
            of_link: OnceLock::new(),
            control: OnceLock::new(),
            total: Arc::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SessionState> {
        lock(&self.state)
    }

    /// Locks the intake. This lock is taken before `state`.
    pub(super) fn intake(&self) -> MutexGuard<'_, Intake> {
        lock(&self.intake)
    }

    pub(super) fn try_intake(&self) -> Option<MutexGuard<'_, Intake>> {
        match self.intake.try_lock() {
            Ok(intake) => Some(intake),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Sets the Link that carries the session.
    pub(super) fn set_link(
        &self,
        (sender, receiver): (LinkSender, LinkReceiver),
        link: (Arc<SharedLink>, Control),
        control: Control,
    ) {
        let _ = self.link.set(link.0);
        let _ = self.of_link.set(link.1);
        let _ = self.control.set(control);
        self.intake().set_receiver(receiver);
        self.state().set_sender(sender);
    }

    /// Returns whether the other end may be on another machine, which is not suspended together with this
    /// one.
    pub(super) fn is_remote(&self) -> bool {
        let elsewhere = Recovery::Reconnect(BackoffConfig::REMOTE);
        self.of_link.get().is_some_and(|link| Recovery::suiting(&link.info()) == elsewhere)
    }

    pub(super) fn link(&self) -> Option<&Arc<SharedLink>> {
        self.link.get()
    }

    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.control.get().map(Control::endpoint)
    }

    /// Processes the server's welcome. Messages that the server lacks are then sent on the same
    /// connection.
    pub(super) fn welcomed(&self, welcome: &Welcome) -> Result<(), CloseReason> {
        let mut state = self.state();
        state.welcomed(welcome)?;
        self.resumed(&mut state, welcome.position.received);
        Ok(())
    }

    /// Ends the session, and the Link that carries it. The first reason is kept.
    pub(super) fn finish(&self, reason: CloseReason) {
        let (wakers, reason, line) = {
            let mut state = self.state();
            if state.is_finished() {
                return;
            }
            let failure = self.failure();
            let reason = self.control.get().map_or(reason.clone(), |control| control.end(reason));
            let _ = self.total.set(self.count(&state));
            let (wakers, line) = state.finish(reason.clone(), failure);
            (wakers, reason, line)
        };
        if let Some(link) = self.link.get() {
            if let CloseReason::ByUs = reason {
                link.leave();
            }
            link.finish(reason);
            link.abort();
        }
        drop(line);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Handles the drop of both halves. If the sender was closed first, the session lingers until the
    /// other end has acknowledged everything, for at most the grace period; otherwise it ends at once.
    /// Returns false if it lingers.
    pub(super) fn leave(&self) -> bool {
        let until = self.now().saturating_add(self.options.grace);
        if self.state().linger(until) {
            return false;
        }
        self.send_farewell();
        self.finish(CloseReason::ByUs);
        true
    }

    /// Returns why this end fails, if the consumer has reported it and the session is not over.
    pub(super) fn failure(&self) -> Option<CloseReason> {
        self.control.get().and_then(Control::reason_to_report).filter(|reason| !reason.is_clean())
    }

    /// Returns whether closing this end is to report a failure with a farewell. Such a farewell follows the
    /// acknowledgement of all messages.
    pub(super) fn reports_failure(&self) -> bool {
        let acknowledges_late =
            self.of_link.get().is_some_and(|link| link.capabilities().acknowledges_late);
        !acknowledges_late && self.failure().is_some()
    }

    /// Sends a farewell that says why the session is over, if that is possible without waiting.
    pub(super) fn send_farewell(&self) {
        let failure = self.failure();
        let text = failure.as_ref().map_or(Cow::Borrowed(""), CloseReason::public_text);
        self.state().send_farewell(&text);
    }

    /// Pings the other end when the connection is idle, and after a suspend if the other end may be on
    /// another machine. Gives up the connection if there is no response.
    pub(super) fn check_liveness(&self, state: &mut SessionState, wall: Option<Duration>) {
        if state.is_dead(wall, || self.link().and_then(|link| link.line())) {
            self.fence(state, CloseReason::TimedOut);
        }
    }

    /// Processes the frames that were read, and notes the progress. Fails with the reason if the session is
    /// over.
    pub(super) fn receive_all(
        &self,
        state: &mut SessionState,
        intake: &mut Intake,
    ) -> Result<(), CloseReason> {
        if state.connection().0 != intake.connection {
            // Another connection was granted in the meantime. These frames will be sent again on that
            // one.
            intake.batch.clear();
        }
        if intake.batch.is_empty() {
            return Ok(());
        }
        let received = state.receive_all(intake.batch.drain(..));
        self.note_progress(state);
        received
    }

    /// Processes the frames that the consumer has read itself. Returns the tasks to wake.
    pub(super) fn was_read(
        &self,
        state: &mut SessionState,
        intake: &mut Intake,
        live: Live,
    ) -> [Option<Waker>; 2] {
        let received = self.receive_all(state, intake);
        state.was_read(received, live != Live::Else)
    }

    /// Lets the waits for a connection start over if there was progress in either direction since the
    /// last call.
    fn note_progress(&self, state: &mut SessionState) {
        if !state.note_progress(|| self.now()) {
            return;
        }
        if let Some(link) = self.link() {
            link.is_well.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether the current connection has failed, so that the Link is to replace it.
    pub(super) fn is_broken(&self) -> bool {
        self.link().is_some_and(|link| link.is_broken.load(Ordering::Acquire))
    }

    /// Returns the traffic over all connections.
    pub(super) fn count(&self, state: &SessionState) -> Traffic {
        let mut counted = state.count();
        if let Some(link) = self.of_link.get() {
            let link = link.info();
            (counted.bytes_in, counted.bytes_out) = (link.bytes_in, link.bytes_out);
        }
        counted
    }

    /// Begins a new connection, after the handshake. The other end has received all messages up to
    /// `received`.
    pub(super) fn resumed(&self, state: &mut SessionState, received: Sequence) {
        let last = self.link().and_then(|link| link.last_end());
        state.resumed(received, self.now(), self.options.max_tries, last);
        self.note_progress(state);
    }

    /// Handles the drop of the receiver.
    pub(super) fn receiver_gone(&self) {
        let task = self.state().receiver_gone();
        task.into_iter().for_each(Waker::wake);
    }

    /// Gives up the current connection, because another replaces it, or because it is dead. The next one is
    /// granted under the same lock, so that it cannot be given up by mistake.
    pub(super) fn fence(&self, state: &mut SessionState, reason: CloseReason) {
        state.fence();
        if let Some(link) = self.link.get() {
            link.give_up_line(reason);
        }
    }
}

impl Drop for SharedSession {
    fn drop(&mut self) {
        self.state.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).abandon();
    }
}
