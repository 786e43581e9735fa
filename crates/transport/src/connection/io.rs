//! A connection made of any two byte streams. It counts bytes, and aborts the backing when dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Connection, ReadEnd, WriteEnd};
use crate::control::{Control, Lifeline};

/// A connection over any two byte streams. The built-in transports return this type, and custom
/// transports can use it. It counts bytes for its [`Control`], and aborts the
/// [`Backing`](crate::Backing) when its last half is dropped.
pub struct IoConnection<R, W> {
    read: ReadHalf<R>,
    write: WriteHalf<W>,
}

impl<R, W> IoConnection<R, W> {
    /// Creates a connection that reads from `read` and writes to `write`.
    pub fn new(read: R, write: W, control: Control) -> Self {
        let lifeline = Lifeline::new(control.clone());
        Self {
            read: ReadHalf { io: read, control: control.clone(), _lifeline: lifeline.clone() },
            write: WriteHalf { io: write, control, _lifeline: lifeline },
        }
    }
}

/// The read half of an [`IoConnection`].
pub struct ReadHalf<R> {
    io: R,
    control: Control,
    _lifeline: Arc<Lifeline>,
}

/// The write half of an [`IoConnection`].
pub struct WriteHalf<W> {
    io: W,
    control: Control,
    _lifeline: Arc<Lifeline>,
}

impl<R, W> Connection for IoConnection<R, W>
where
    R: ReadEnd,
    W: WriteEnd,
{
    type ReadHalf = ReadHalf<R>;
    type WriteHalf = WriteHalf<W>;

    fn control(&self) -> &Control {
        &self.read.control
    }

    fn into_split(self) -> (ReadHalf<R>, WriteHalf<W>) {
        (self.read, self.write)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for ReadHalf<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            self.control.meter().read(read);
        }
        polled
    }
}

impl<R: ReadEnd> ReadEnd for ReadHalf<R> {
    fn unread(&self) -> Option<u64> {
        self.io.unread()
    }
}

impl<W: AsyncWrite + Unpin> WriteHalf<W> {
    fn counted(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = polled {
            self.control.meter().wrote(written);
        }
        polled
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for WriteHalf<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.counted(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.counted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<W: WriteEnd> WriteEnd for WriteHalf<W> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_gone(cx)
    }

    fn unflushed(&self) -> usize {
        self.io.unflushed()
    }

    fn unsent(&self) -> Option<usize> {
        self.io.unsent()
    }
}

impl<R, W> WriteEnd for IoConnection<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: WriteEnd,
{
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.write.poll_gone(cx)
    }

    fn unflushed(&self) -> usize {
        self.write.unflushed()
    }

    fn unsent(&self) -> Option<usize> {
        self.write.unsent()
    }
}

/// Implements reading and writing of a whole connection with its halves.
macro_rules! delegate_io {
    ($type:ty, [$($bounds:tt)*], $read:ident, $write:ident) => {
        impl<$($bounds)*> AsyncRead for $type {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$read).poll_read(cx, buffer)
            }
        }

        impl<$($bounds)*> AsyncWrite for $type {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$write).poll_write(cx, bytes)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$write).poll_write_vectored(cx, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.$write.is_write_vectored()
            }

            fn poll_flush(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$write).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$write).poll_shutdown(cx)
            }
        }
    };
}
pub(super) use delegate_io;

delegate_io!(IoConnection<R, W>, [R: AsyncRead + Unpin, W: AsyncWrite + Unpin], read, write);
