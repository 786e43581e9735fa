//! The operations of a remote client that are in flight, as its broker counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::violation::Violation;
use super::{MAX_OPERATION_BYTES, MAX_OPERATIONS};

#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Counts>);

#[derive(Default)]
struct Counts {
    operations: AtomicUsize,
    bytes: AtomicUsize,
}

/// One operation, which is counted until this is dropped.
pub(super) struct Operation {
    counts: Arc<Counts>,
    bytes: usize,
}

impl InFlight {
    /// Counts an operation whose message has this size. The connection's reader alone calls this.
    pub(super) fn begin(&self, bytes: usize) -> Result<Operation, Violation> {
        let Self(counts) = self;
        if counts.operations.load(Ordering::Relaxed) >= 2 * MAX_OPERATIONS
            || counts.bytes.load(Ordering::Relaxed) >= 2 * MAX_OPERATION_BYTES
        {
            return Err(Violation::TooMuchInFlight);
        }
        counts.operations.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(Operation { counts: counts.clone(), bytes })
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.counts.operations.fetch_sub(1, Ordering::Relaxed);
        self.counts.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
