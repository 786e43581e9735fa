//! Tasks that end with their owner.

use tokio::task::AbortHandle;

/// Aborts a task when dropped.
pub(crate) struct Task(pub(crate) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
