//! Detection, without writing, that no process reads from the other end of a descriptor any more.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A separate readiness registration for a descriptor to which other code writes.
///
/// It only queries readiness, so the descriptor may stay in blocking mode, as it must if other processes
/// share it. The registration is separate so that it does not clear the readiness for writes.
#[derive(Debug)]
pub(crate) struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// Watches a duplicate of `fd`. Must be called within a runtime.
    ///
    /// # Errors
    /// The system cannot watch the descriptor: a file, for example, has no other end.
    pub(crate) fn watch(fd: impl AsFd) -> io::Result<Self> {
        let duplicate = fd.as_fd().try_clone_to_owned()?;
        crate::readiness::register(duplicate, Interest::WRITABLE).map(Self)
    }

    /// Polls until the other end is closed: POLLERR for a pipe, POLLHUP for a socket or a terminal.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Each iteration waits for another kernel event: room to write, or a hangup.
            let Ok(mut event) = ready!(self.0.poll_write_ready(cx)) else { return Poll::Ready(()) };
            if event.ready().is_write_closed() {
                return Poll::Ready(());
            }
            event.clear_ready();
        }
    }
}
