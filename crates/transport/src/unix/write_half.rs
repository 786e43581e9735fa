//! The writing half of a Unix socket, which can tell a peer that ended its direction from one that
//! is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::unix::OwnedWriteHalf;

use crate::WriteEnd;

/// The writing half of a Unix socket.
#[derive(Debug)]
pub struct UnixWriteHalf {
    socket: OwnedWriteHalf,
    /// A second registration of the same socket, made when somebody first asks whether the peer is
    /// gone. The first one's readiness belongs to the writes and must not be cleared.
    watch: Option<AsyncFd<OwnedFd>>,
}

impl UnixWriteHalf {
    pub(super) fn new(socket: OwnedWriteHalf) -> Self {
        Self { socket, watch: None }
    }

    fn watch(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        if self.watch.is_none() {
            let socket = self.socket.as_ref().as_fd().try_clone_to_owned()?;
            self.watch = Some(crate::readiness::register(socket, Interest::WRITABLE)?);
        }
        self.watch.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl WriteEnd for UnixWriteHalf {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Without a descriptor to watch with, a write will find out.
        let Ok(watch) = self.watch() else { return Poll::Pending };
        loop {
            // Every turn waits for another event of the kernel's: room to write, or a hangup.
            let Ok(mut event) = ready!(watch.poll_write_ready(cx)) else { return Poll::Ready(()) };
            if event.ready().is_write_closed() {
                return Poll::Ready(());
            }
            event.clear_ready();
        }
    }
}

impl AsyncWrite for UnixWriteHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
