//! The guard that keeps a session alive.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::shared_session::SharedSession;

/// A guard that both halves of a session hold. Dropping the last one ends the session.
pub(super) struct Lifeline {
    pub(super) shared: Arc<SharedSession>,
    pub(super) task: AbortHandle,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if self.shared.leave() {
            self.task.abort();
        }
    }
}
