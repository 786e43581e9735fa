//! One sender for many tasks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use super::{SendError, Sender, SenderExt};

/// A sender that is cheap to clone. Many tasks can send at once; messages are sent in the order of the
/// calls and never interleave.
///
/// Dropping the last clone drops the sender; [`close`](Self::close) ends the direction for all clones.
pub struct SharedSender<S>(Arc<Mutex<S>>);

impl<S: Sender> SharedSender<S> {
    /// Shares `sender`.
    pub fn new(sender: S) -> Self {
        Self(Arc::new(Mutex::new(sender)))
    }

    /// Sends one message. Cancel-safe like [`SenderExt::send`].
    ///
    /// # Errors
    /// See [`Sender::start_send`].
    pub async fn send(&self, message: impl Into<Bytes> + Send) -> Result<(), SendError> {
        self.0.lock().await.send(message).await
    }

    /// Flushes and ends this direction for all clones ([`Sender::poll_close`]).
    ///
    /// # Errors
    /// [`SendError::Closed`] if the line ended before all messages were flushed.
    pub async fn close(&self) -> Result<(), SendError> {
        self.0.lock().await.close().await
    }
}

impl<S> Clone for SharedSender<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
