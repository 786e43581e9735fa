//! Decides which calls may use the current line of a Link, which has one line at a time.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use tieline_transport::CloseReason;

use super::{PeerState, SharedPeer};
use crate::error::NotSent;

/// Restricts a handle to one line of a Link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) line: u64,
    /// Whether its messages may go first while the reset handler runs.
    pub(crate) goes_first: bool,
}

/// Controls access to the queue.
pub(super) struct EpochGate {
    state: GateState,
    /// The number of the current line of the Link.
    line: u64,
    /// How the previous line was lost.
    lost: Option<CloseReason>,
}

enum GateState {
    Open,
    /// Closed to all calls: messages of the previous line are still being handled.
    Closed,
    /// Open to the reset handler only. Other calls wait.
    ResetHandlerOnly,
}

impl Default for EpochGate {
    fn default() -> Self {
        Self { state: GateState::Open, line: 1, lost: None }
    }
}

impl EpochGate {
    /// Returns whether a message may be queued now: false while the reset handler goes first.
    fn check(&self, bound: Option<Bound>) -> Result<bool, NotSent> {
        let is_late = bound.is_some_and(|bound| bound.line != self.line);
        match &self.state {
            GateState::Closed => Err(self.lost()),
            _ if is_late => Err(self.lost()),
            GateState::Open => Ok(true),
            GateState::ResetHandlerOnly => Ok(bound.is_some_and(|bound| bound.goes_first)),
        }
    }

    fn lost(&self) -> NotSent {
        NotSent::Reset(self.lost.clone().unwrap_or(CloseReason::ByPeer))
    }
}

impl SharedPeer {
    /// Waits until a message of `length` bytes may be queued, including the wait for room.
    pub(super) async fn admit(
        &self,
        length: usize,
        bound: Option<Bound>,
        is_call: bool,
    ) -> Result<(usize, MutexGuard<'_, PeerState>), NotSent> {
        loop {
            let weight = self.reserve(length).await?;
            let moved = {
                let state = self.lock();
                match state.check_open(is_call).and_then(|()| state.gate.check(bound)) {
                    Ok(true) => return Ok((weight, state)),
                    // The wait is registered under the lock, so that no change after the check is
                    // missed.
                    Ok(false) => Ok(self.gate_moved.notified()),
                    Err(why) => Err(why),
                }
            };
            self.room.add_permits(weight);
            moved?.await;
        }
    }

    /// Switches to another line. Drops queued messages, which were meant for the previous line, and
    /// fails pending calls, which cannot be answered. Nothing is accepted until the reset handler
    /// starts.
    pub(crate) fn reset(&self, line: u64, cause: &CloseReason) {
        let mut state = self.lock();
        let dropped = std::mem::take(&mut state.outgoing);
        state.outgoing_bytes = 0;
        state.unread = None;
        self.refusal_bytes.store(0, Relaxed);
        state.gate = EpochGate { state: GateState::Closed, line, lost: Some(cause.clone()) };
        let wakers = state.fail_calls(cause, NotSent::Reset);
        drop(state);
        self.room.add_permits(dropped.iter().map(|out| out.weight).sum());
        self.gate_moved.notify_waiters();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Opens the gate for the reset handler.
    pub(crate) fn begin(&self) {
        self.lock().gate.state = GateState::ResetHandlerOnly;
    }

    /// Returns the number of the current line.
    pub(crate) fn line(&self) -> u64 {
        self.lock().gate.line
    }

    /// Opens the gate for all when the reset handler has finished.
    pub(crate) fn begun(&self) {
        self.lock().gate.state = GateState::Open;
        self.gate_moved.notify_waiters();
    }
}
