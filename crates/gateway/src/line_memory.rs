//! Counts the memory that the gateway itself uses for one line: a message that waits for room, its own
//! messages, request ids and the record of a handshake.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use tieline_transport::{Account, CloseReason, Holding, MemoryBudget, MemoryRefused};

use crate::lock::{lock, remember};

/// The budget is updated when the sum crosses a multiple of this, so most changes cost one addition.
const STEP: usize = 64 * 1024;

/// The sum of all [`MemoryPart`]s of a line, counted against the memory budget that all lines share.
pub(crate) struct LineMemory {
    bytes: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    account: Account,
    /// The refusal by the budget, after which the line has to end.
    refused: Option<MemoryRefused>,
    line: Option<Waker>,
}

impl LineMemory {
    /// Creates the counter of a line, or returns `None` if there is no budget.
    pub(crate) fn of(memory: Option<&MemoryBudget>) -> Option<Arc<Self>> {
        let account = memory?.account(Holding::Queue);
        let state = Mutex::new(State { account, refused: None, line: None });
        Some(Arc::new(Self { bytes: AtomicUsize::new(0), state }))
    }

    /// Completes when the line has to end because it uses too much memory.
    pub(crate) async fn refused(&self) -> CloseReason {
        let refused = poll_fn(|cx| {
            let mut state = self.state();
            let revoked = state.account.check(cx.waker()).err();
            if let Some(refused) = state.refused.or(revoked) {
                return Poll::Ready(refused);
            }
            remember(&mut state.line, cx.waker());
            Poll::Pending
        });
        refused.await.into()
    }

    fn change(&self, before: usize, after: usize) {
        let all = match after.checked_sub(before) {
            Some(more) => self.bytes.fetch_add(more, Relaxed) + more,
            None => self.bytes.fetch_sub(before - after, Relaxed) - (before - after),
        };
        let all_before = all - after + before;
        if all.div_ceil(STEP) == all_before.div_ceil(STEP) {
            return;
        }
        let mut state = self.state();
        if let Err(refused) = state.account.set(self.bytes.load(Relaxed)) {
            state.refused.get_or_insert(refused);
            let line = state.line.take();
            drop(state);
            line.into_iter().for_each(Waker::wake);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for LineMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineMemory").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// The size of one of a line's buffers. Dropping it returns the bytes to the budget.
#[derive(Debug, Default)]
pub(crate) struct MemoryPart {
    held: Option<Arc<LineMemory>>,
    bytes: usize,
}

impl MemoryPart {
    /// Creates the size of an empty buffer. Without `held`, nothing is counted.
    pub(crate) fn of(held: Option<&Arc<LineMemory>>) -> Self {
        Self { held: held.cloned(), bytes: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Sets the size of the buffer. If the budget is exceeded, [`LineMemory::refused`] completes.
    pub(crate) fn set(&mut self, bytes: usize) {
        if let Some(held) = &self.held {
            held.change(std::mem::replace(&mut self.bytes, bytes), bytes);
        }
    }
}

impl Drop for MemoryPart {
    fn drop(&mut self) {
        self.set(0);
    }
}
