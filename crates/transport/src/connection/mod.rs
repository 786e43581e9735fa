//! Level one: what a byte stream between two processes is.

mod boxed;
mod io;

use std::future::Future;
use std::io::Result;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use boxed::BoxConnection;
pub use io::{IoConnection, ReadHalf, WriteHalf};

use crate::{Capabilities, CloseReason, ConnectionInfo, Control, Health};

/// A byte stream both ways, with identity, health and an end.
///
/// Dropping it, or both of its halves, ends it at once.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Where its bytes come in.
    type ReadHalf: AsyncRead + Send + Unpin + 'static;
    /// Where its bytes go out. Shutting it down is the end of input for the far side.
    type WriteHalf: WriteEnd;

    /// The handle that outlives the split.
    fn control(&self) -> &Control;

    /// The two directions, each to be used from another task.
    fn into_split(self) -> (Self::ReadHalf, Self::WriteHalf);

    /// A snapshot of what is known.
    fn info(&self) -> ConnectionInfo {
        self.control().info()
    }

    /// What it can do.
    fn capabilities(&self) -> Capabilities {
        self.control().capabilities()
    }

    /// Whether what stands behind it is alive.
    fn health(&self) -> Health {
        self.control().health()
    }
}

/// Where a connection's bytes go out.
pub trait WriteEnd: AsyncWrite + Send + Unpin + 'static {
    /// Ready when the far side is gone altogether, so that nothing sent will be read; where that is
    /// not [noticed](Capabilities::notices_hangup) without writing, never.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// How many bytes were taken and are not handed to the operating system yet: what a flush waits
    /// for. That it shrinks tells a slow far side from one that has stopped reading.
    fn unflushed(&self) -> usize {
        0
    }

    /// Returns how many bytes the operating system was given and still holds, because they were not sent or
    /// not read yet; `None`, the default, where it does not say. This may be a system call.
    ///
    /// That it shrinks is progress although nothing can be written: Linux calls a TCP socket writable only
    /// when a third of its send buffer, which may be megabytes, is free.
    fn unsent(&self) -> Option<usize> {
        None
    }
}

impl<T: AsyncWrite + Send + 'static> WriteEnd for tokio::io::WriteHalf<T> {}
impl WriteEnd for tokio::io::DuplexStream {}

/// What can be done with any connection.
pub trait ConnectionExt: Connection {
    /// Reads up to `buffer.len()` bytes; 0 is the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// [`TimedOut`](std::io::ErrorKind::TimedOut) after `limit`; nothing is lost by it.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        limit: Duration,
    ) -> impl Future<Output = Result<usize>> + Send {
        async move { tokio::time::timeout(limit, self.read(buffer)).await? }
    }

    /// Writes all of `bytes` and flushes. Not cancel-safe: a part may have been written.
    ///
    /// # Errors
    /// [`TimedOut`](std::io::ErrorKind::TimedOut) after `limit`; a part may have been written.
    fn send(&mut self, bytes: &[u8], limit: Duration) -> impl Future<Output = Result<()>> + Send {
        async move {
            let whole = async {
                self.write_all(bytes).await?;
                self.flush().await
            };
            tokio::time::timeout(limit, whole).await?
        }
    }

    /// Ends the stream for the far side, waits for what stands behind it to end, in stages, and
    /// says why it ended. What still comes in is thrown away.
    ///
    /// What was written before is waited for as long as it goes out; a far side that takes nothing
    /// of it for 2 s loses it.
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
            // A far side that is not read from may not read either.
            let mut sink = tokio::io::sink();
            let drain = async {
                let _ = tokio::io::copy(&mut read, &mut sink).await;
                std::future::pending().await
            };
            tokio::select! { reason = end => reason, never = drain => never }
        }
    }
}

/// How long closing waits while nothing moves, as long as a child has after the end of its input.
const LAST_WRITE: Duration = Duration::from_secs(2);

async fn shut_down(write: &mut impl WriteEnd) {
    let mut unflushed = write.unflushed();
    // A far side that is gone needs no end of input.
    while tokio::time::timeout(LAST_WRITE, write.shutdown()).await.is_err() {
        let before = std::mem::replace(&mut unflushed, write.unflushed());
        if unflushed >= before {
            break;
        }
    }
}

impl<C: Connection + ?Sized> ConnectionExt for C {}
