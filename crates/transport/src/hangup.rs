//! Notices, without writing, that nothing reads the other end of a descriptor any more.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A registration of its own for a descriptor that is written elsewhere.
///
/// It only asks for readiness, so the descriptor may be one that other processes share and that must
/// stay blocking. A second registration is needed because readiness that belongs to writes must not be
/// cleared.
#[derive(Debug)]
pub(crate) struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// Watches a duplicate of `fd`. Must be called in a runtime.
    ///
    /// # Errors
    /// The system cannot watch it. Files, for example, have no other end.
    pub(crate) fn watch(fd: impl AsFd) -> io::Result<Self> {
        let duplicate = fd.as_fd().try_clone_to_owned()?;
        crate::readiness::register(duplicate, Interest::WRITABLE).map(Self)
    }

    /// Ready when the other end is closed: POLLERR for a pipe, POLLHUP for a socket or a terminal.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Every turn waits for another event of the kernel's: room to write, or a hangup.
            let Ok(mut event) = ready!(self.0.poll_write_ready(cx)) else { return Poll::Ready(()) };
            if event.ready().is_write_closed() {
                return Poll::Ready(());
            }
            event.clear_ready();
        }
    }
}
