//! The write half of a Unix socket. It distinguishes a peer that ended its direction from one that is
//! gone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::unix::OwnedWriteHalf;

use crate::connection::WriteEnd;
use crate::hangup::Hangup;

/// The write half of a Unix socket.
#[derive(Debug)]
pub struct UnixWriteHalf {
    socket: OwnedWriteHalf,
    /// Created by the first call of `poll_gone`.
    watch: Option<Hangup>,
}

impl UnixWriteHalf {
    pub(super) fn new(socket: OwnedWriteHalf) -> Self {
        Self { socket, watch: None }
    }

    fn watch(&mut self) -> io::Result<&Hangup> {
        if self.watch.is_none() {
            self.watch = Some(Hangup::watch(self.socket.as_ref())?);
        }
        self.watch.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl WriteEnd for UnixWriteHalf {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // If no descriptor is left for the watch, the next write notices it.
        let Ok(watch) = self.watch() else { return Poll::Pending };
        watch.poll(cx)
    }

    fn unsent(&self) -> Option<usize> {
        crate::readiness::unsent(self.socket.as_ref())
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
