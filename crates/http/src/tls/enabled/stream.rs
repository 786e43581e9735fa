//! A TLS stream of either side, and its halves.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tieline_transport::{ReadEnd, WriteEnd};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::lock::lock;
use crate::unsent::unsent;

pub(crate) type TlsStream = Box<tokio_rustls::TlsStream<TcpStream>>;

/// Returns the TCP stream that carries `stream`.
pub(crate) fn tcp_of(stream: &TlsStream) -> &TcpStream {
    stream.get_ref().0
}

pub(crate) fn split(stream: TlsStream) -> (TlsHalf, TlsHalf) {
    let shared = Arc::new(Mutex::new(stream));
    (TlsHalf(shared.clone()), TlsHalf(shared))
}

/// One half of a TLS stream. Both halves share the stream, because a write may have to read, and a read
/// may have to write.
pub(crate) struct TlsHalf(Arc<Mutex<TlsStream>>);

/// The default methods are right: the kernel's bytes are encrypted, and need not be part of a message.
impl ReadEnd for TlsHalf {}

impl AsyncRead for TlsHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_shutdown(cx)
    }
}

impl WriteEnd for TlsHalf {
    fn unsent(&self) -> Option<usize> {
        unsent(lock(&self.0).get_ref().0)
    }
}
