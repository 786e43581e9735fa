//! Over a Link, lines come one after the other: which calls may go over the one that has just come.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use tieline_transport::CloseReason;

use super::{Outgoing, Shared, State};
use crate::NotSent;
use crate::peer::Bound;

/// What stands before the queue.
pub(super) struct EpochGate {
    stands: Stands,
    /// Which line of a Link it is,
    line: u64,
    /// and how the one before was lost.
    lost: Option<CloseReason>,
}

enum Stands {
    Open,
    /// For nobody: what the line before has left is still being handled.
    Shut,
    /// For whoever begins anew. The others wait.
    Ajar,
}

impl Default for EpochGate {
    fn default() -> Self {
        Self { stands: Stands::Open, line: 1, lost: None }
    }
}

impl EpochGate {
    /// Whether a message may be queued now; not while somebody else goes first.
    fn check(&self, bound: Option<Bound>) -> Result<bool, NotSent> {
        let is_late = bound.is_some_and(|bound| bound.line != self.line);
        match &self.stands {
            Stands::Shut => Err(self.lost()),
            _ if is_late => Err(self.lost()),
            Stands::Open => Ok(true),
            Stands::Ajar => Ok(bound.is_some_and(|bound| bound.goes_first)),
        }
    }

    fn lost(&self) -> NotSent {
        NotSent::Reset(self.lost.clone().unwrap_or(CloseReason::ByPeer))
    }
}

impl Shared {
    /// Waits until a message of `length` bytes may be queued, a call or not, and for the room that it
    /// needs.
    pub(super) async fn admit(
        &self,
        length: usize,
        bound: Option<Bound>,
        is_call: bool,
    ) -> Result<(usize, MutexGuard<'_, State>), NotSent> {
        loop {
            let weight = self.reserve(length).await?;
            let moved = {
                let state = self.lock();
                match state.check_open(is_call).and_then(|()| state.gate.check(bound)) {
                    Ok(true) => return Ok((weight, state)),
                    // Under the lock, so that nothing is missed behind the look.
                    Ok(false) => Ok(self.gate_moved.notified()),
                    Err(why) => Err(why),
                }
            };
            self.room.add_permits(weight);
            moved?.await;
        }
    }

    /// A message that was taken was not handed to the line.
    pub(crate) fn put_down(&self, unsent: &Outgoing) {
        let mut state = self.lock();
        if let Some(pending) = unsent.call.and_then(|id| state.calls.get_mut(id)) {
            pending.sent = false;
        }
    }

    /// Another line has come. What waits to be sent was meant for the one before, and what waits for
    /// an answer waits in vain. Nothing is taken until somebody is to begin anew.
    pub(crate) fn reset(&self, line: u64, cause: &CloseReason) {
        let mut state = self.lock();
        let dropped = std::mem::take(&mut state.outgoing);
        state.outgoing_bytes = 0;
        state.unread = None;
        self.refusal_bytes.store(0, Relaxed);
        state.gate = EpochGate { stands: Stands::Shut, line, lost: Some(cause.clone()) };
        let wakers = state.fail_calls(cause, NotSent::Reset);
        drop(state);
        self.room.add_permits(dropped.iter().map(|out| out.weight).sum());
        self.gate_moved.notify_waiters();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Somebody begins anew.
    pub(crate) fn begin(&self) {
        self.lock().gate.stands = Stands::Ajar;
    }

    /// Which line it is.
    pub(crate) fn line(&self) -> u64 {
        self.lock().gate.line
    }

    /// It was begun, and everybody goes on.
    pub(crate) fn begun(&self) {
        self.lock().gate.stands = Stands::Open;
        self.gate_moved.notify_waiters();
    }
}
