//! The connection layer: byte streams between two processes.

mod boxed;
mod io;

use std::future::Future;
use std::io::Result;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use boxed::BoxConnection;
pub use io::{IoConnection, ReadHalf, WriteHalf};

use crate::close::CloseReason;
use crate::control::Control;
use crate::info::{Capabilities, ConnectionInfo, Health};

/// A bidirectional byte stream with a peer identity, a health and a close reason.
///
/// Dropping it, or both of its halves, ends it at once.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The incoming half.
    type ReadHalf: ReadEnd;
    /// The outgoing half. Shutting it down ends the other side's input.
    type WriteHalf: WriteEnd;

    /// Returns the control handle, which stays valid after the connection is split.
    fn control(&self) -> &Control;

    /// Splits the connection into its two directions, which different tasks can use.
    fn into_split(self) -> (Self::ReadHalf, Self::WriteHalf);

    /// Returns a snapshot of the connection's state and counters.
    fn info(&self) -> ConnectionInfo {
        self.control().info()
    }

    /// Returns the capabilities of the connection.
    fn capabilities(&self) -> Capabilities {
        self.control().capabilities()
    }

    /// Returns whether the other side is alive.
    fn health(&self) -> Health {
        self.control().health()
    }
}

/// The incoming half of a connection.
pub trait ReadEnd: AsyncRead + Send + Unpin + 'static {
    /// Returns how many bytes have arrived but have not been read yet: those that the operating system
    /// holds, and those in lower-level buffers. Returns `None` if the number is not known, which is the
    /// default. This may be a system call.
    ///
    /// For a file, this is the rest of the file. Terminals and other devices are reported as empty.
    fn unread(&self) -> Option<u64> {
        None
    }
}

impl<T: AsyncRead + Send + 'static> ReadEnd for tokio::io::ReadHalf<T> {}
impl ReadEnd for tokio::io::DuplexStream {}
impl ReadEnd for tokio::io::Empty {}

/// The outgoing half of a connection.
pub trait WriteEnd: AsyncWrite + Send + Unpin + 'static {
    /// Polls until the other side is gone, so that nothing that is sent will be read. Never ready if
    /// this transport does not [notice that](Capabilities::notices_hangup) without writing.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// Returns how many accepted bytes have not been handed to the operating system yet; a flush waits
    /// for them. While this number decreases, the other side may be slow but has not stopped reading.
    fn unflushed(&self) -> usize {
        0
    }

    /// Returns how many bytes the operating system still holds because they were not sent or not read
    /// yet. Returns `None` if the system does not report it, which is the default. This may be a system
    /// call.
    ///
    /// While this number decreases, there is progress, even if nothing can be written: Linux reports a
    /// TCP socket as writable only when a third of its send buffer, which may be megabytes, is free.
    fn unsent(&self) -> Option<usize> {
        None
    }
}

impl<T: AsyncWrite + Send + 'static> WriteEnd for tokio::io::WriteHalf<T> {}
impl WriteEnd for tokio::io::DuplexStream {}

/// Async methods for every connection.
pub trait ConnectionExt: Connection {
    /// Reads up to `buffer.len()` bytes. Returns 0 at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// [`TimedOut`](std::io::ErrorKind::TimedOut) after `limit`; no bytes are lost.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        limit: Duration,
    ) -> impl Future<Output = Result<usize>> + Send {
        async move { tokio::time::timeout(limit, self.read(buffer)).await? }
    }

    /// Writes all of `bytes` and flushes them. Not cancel-safe: part of them may have been written.
    ///
    /// # Errors
    /// [`TimedOut`](std::io::ErrorKind::TimedOut) after `limit`; part of `bytes` may have been written.
    fn send(&mut self, bytes: &[u8], limit: Duration) -> impl Future<Output = Result<()>> + Send {
        async move {
            let whole = async {
                self.write_all(bytes).await?;
                self.flush().await
            };
            tokio::time::timeout(limit, whole).await?
        }
    }

    /// Ends the other side's input, stops its process in stages if it is a child, and returns why the
    /// connection ended. Bytes that still arrive are discarded.
    ///
    /// Bytes that were written earlier are flushed first, as long as the other side reads them; if it
    /// reads none for 2 s, the rest is lost.
    fn close(self) -> impl Future<Output = CloseReason> + Send
    where
        Self: Sized,
    {
        async move {
            let control = self.control().clone();
            control.closing();
            let (mut read, mut write) = self.into_split();
            let end = async {
                shut_down(&mut write).await;
                drop(write);
                control.stop().await
            };
            // A peer whose output is not read may also stop reading.
            let mut sink = tokio::io::sink();
            let drain = async {
                let _ = tokio::io::copy(&mut read, &mut sink).await;
                std::future::pending().await
            };
            tokio::select! { reason = end => reason, never = drain => never }
        }
    }
}

/// How long closing waits without progress. A child has the same time to exit after the end of its
/// input.
const LAST_WRITE: Duration = Duration::from_secs(2);

async fn shut_down(write: &mut impl WriteEnd) {
    let mut unflushed = write.unflushed();
    // If the other side is gone, the shutdown fails, which does no harm.
    while tokio::time::timeout(LAST_WRITE, write.shutdown()).await.is_err() {
        let before = std::mem::replace(&mut unflushed, write.unflushed());
        if unflushed >= before {
            break;
        }
    }
}

impl<C: Connection + ?Sized> ConnectionExt for C {}
