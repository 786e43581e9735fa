//! Level one: byte streams. How to connect, how to listen, and what a connection is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::control::Lifeline;
use crate::{
    BoxFuture, Capabilities, CloseReason, ConfigError, ConnectionInfo, Control, Endpoint, Health,
    Options, PerformanceProfile, TransportError, TransportKind,
};

/// How to connect to and listen on one kind of byte-stream endpoint.
///
/// Implementing this and registering the scheme ([`Registry::register`](crate::Registry::register))
/// is all that a transport of one's own needs; `examples/custom_transport.rs` is one.
pub trait Transport: Clone + Send + Sync + 'static {
    /// What connecting and listening need to know.
    type Config: TransportConfig;
    /// What connecting and accepting yield.
    type Connection: Connection;
    /// What listening yields.
    type Listener: Listener<Connection = Self::Connection>;

    /// The kind, which is also the scheme.
    fn kind(&self) -> TransportKind;

    /// What is expected of it.
    fn profile(&self) -> PerformanceProfile;

    /// The configuration that an endpoint's text and the options amount to.
    ///
    /// # Errors
    /// The endpoint is not one of this transport, or a value is out of bounds.
    fn config(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Self::Config, TransportError>;

    /// Connects. Validates the configuration before any I/O.
    ///
    /// Cancel-safe: a dropped attempt leaves nothing behind.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`](crate::ErrorKind).
    fn connect(
        &self,
        config: &Self::Config,
    ) -> impl Future<Output = Result<Self::Connection, TransportError>> + Send;

    /// Starts to listen. Validates the configuration before any I/O.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`](crate::ErrorKind);
    /// [`UnsupportedOperation`](crate::ErrorKind::UnsupportedOperation) where a transport cannot.
    fn listen(
        &self,
        config: &Self::Config,
    ) -> impl Future<Output = Result<Self::Listener, TransportError>> + Send;
}

/// A transport's configuration.
pub trait TransportConfig: Clone + Send + Sync + 'static {
    /// Refuses values that are out of bounds, naming the field. Does no I/O.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    fn validate(&self) -> Result<(), ConfigError>;
}

/// Yields the connections that come in. Dropping it stops listening and removes what it made.
pub trait Listener: Send + 'static {
    /// What comes in.
    type Connection: Connection;

    /// Waits for the next connection. Cancel-safe.
    ///
    /// # Errors
    /// One that [is retryable](TransportError::is_retryable) concerns the moment, not the listener:
    /// wait a little and accept again.
    fn accept(&mut self) -> impl Future<Output = Result<Self::Connection, TransportError>> + Send;

    /// Where it listens.
    fn endpoint(&self) -> &Endpoint;
}

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
}

impl<T: AsyncWrite + Send + 'static> WriteEnd for tokio::io::WriteHalf<T> {}

impl WriteEnd for Box<dyn WriteEnd> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_gone(cx)
    }
}

/// What can be done with any connection.
pub trait ConnectionExt: Connection {
    /// Reads up to `buffer.len()` bytes; 0 is the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after `limit`; nothing is lost by it.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        limit: Duration,
    ) -> impl Future<Output = io::Result<usize>> + Send {
        async move { tokio::time::timeout(limit, self.read(buffer)).await? }
    }

    /// Writes all of `bytes` and flushes. Not cancel-safe: a part may have been written.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after `limit`; a part may have been written.
    fn send(
        &mut self,
        bytes: &[u8],
        limit: Duration,
    ) -> impl Future<Output = io::Result<()>> + Send {
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
    fn close(self) -> impl Future<Output = CloseReason> + Send
    where
        Self: Sized,
    {
        async move {
            let control = self.control().clone();
            control.closing();
            let (mut read, mut write) = self.into_split();
            // A far side that is gone needs no end of input.
            let _ = write.shutdown().await;
            drop(write);
            let mut sink = tokio::io::sink();
            let drain = async {
                let _ = tokio::io::copy(&mut read, &mut sink).await;
                std::future::pending().await
            };
            tokio::select! { reason = control.stop() => reason, never = drain => never }
        }
    }
}

impl<C: Connection + ?Sized> ConnectionExt for C {}

/// A connection over any two byte streams: what the built-in transports yield, and what a
/// transport of one's own can. It counts bytes, answers for the [`Control`], and ends the backing
/// when its last half is dropped.
pub struct IoConnection<R, W> {
    read: ReadHalf<R>,
    write: WriteHalf<W>,
}

impl<R, W> IoConnection<R, W> {
    /// A connection that reads from `read` and writes to `write`.
    pub fn new(read: R, write: W, control: Control) -> Self {
        let lifeline = Lifeline::new(control.clone());
        Self {
            read: ReadHalf { io: read, control: control.clone(), _lifeline: lifeline.clone() },
            write: WriteHalf { io: write, control, _lifeline: lifeline },
        }
    }
}

/// The reading half of an [`IoConnection`].
pub struct ReadHalf<R> {
    io: R,
    control: Control,
    _lifeline: Arc<Lifeline>,
}

/// The writing half of an [`IoConnection`].
pub struct WriteHalf<W> {
    io: W,
    control: Control,
    _lifeline: Arc<Lifeline>,
}

impl<R, W> Connection for IoConnection<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
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
}

/// Reading and writing of a whole connection are those of its halves.
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

delegate_io!(IoConnection<R, W>, [R: AsyncRead + Unpin, W: AsyncWrite + Unpin], read, write);

/// A [`Connection`] of any transport.
pub struct BoxConnection {
    read: Box<dyn AsyncRead + Send + Unpin>,
    write: Box<dyn WriteEnd>,
    control: Control,
}

impl BoxConnection {
    /// Forgets of which transport the connection is.
    pub fn new(connection: impl Connection) -> Self {
        let control = connection.control().clone();
        let (read, write) = connection.into_split();
        Self { read: Box::new(read), write: Box::new(write), control }
    }
}

impl Connection for BoxConnection {
    type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
    type WriteHalf = Box<dyn WriteEnd>;

    fn control(&self) -> &Control {
        &self.control
    }

    fn into_split(self) -> (Self::ReadHalf, Self::WriteHalf) {
        (self.read, self.write)
    }
}

delegate_io!(BoxConnection, [], read, write);

/// The object-safe twin of [`Transport`]: any transport, by endpoint text.
pub trait DynTransport: Send + Sync + 'static {
    /// The kind, which is also the scheme.
    fn kind(&self) -> TransportKind;

    /// What is expected of it.
    fn profile(&self) -> PerformanceProfile;

    /// As [`Transport::connect`], from an endpoint.
    fn connect<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<BoxConnection, TransportError>>;

    /// As [`Transport::listen`], from an endpoint.
    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynListener>, TransportError>>;
}

impl<T: Transport> DynTransport for T {
    fn kind(&self) -> TransportKind {
        Transport::kind(self)
    }

    fn profile(&self) -> PerformanceProfile {
        Transport::profile(self)
    }

    fn connect<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<BoxConnection, TransportError>> {
        Box::pin(async move {
            let config = self.config(endpoint, options)?;
            Transport::connect(self, &config).await.map(BoxConnection::new)
        })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynListener>, TransportError>> {
        Box::pin(async move {
            let config = self.config(endpoint, options)?;
            let listener = Transport::listen(self, &config).await?;
            Ok(Box::new(listener) as Box<dyn DynListener>)
        })
    }
}

/// The object-safe twin of [`Listener`].
pub trait DynListener: Send + 'static {
    /// As [`Listener::accept`].
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxConnection, TransportError>>;

    /// Where it listens.
    fn endpoint(&self) -> &Endpoint;
}

impl<L: Listener> DynListener for L {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxConnection, TransportError>> {
        Box::pin(async move { Listener::accept(self).await.map(BoxConnection::new) })
    }

    fn endpoint(&self) -> &Endpoint {
        Listener::endpoint(self)
    }
}

/// The listener of a transport that only connects: there is none.
pub enum NoListener<C> {
    /// Never made.
    #[doc(hidden)]
    Never(std::convert::Infallible, std::marker::PhantomData<fn() -> C>),
}

impl<C: Connection> Listener for NoListener<C> {
    type Connection = C;

    async fn accept(&mut self) -> Result<C, TransportError> {
        match self {
            Self::Never(never, _) => match *never {},
        }
    }

    fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Never(never, _) => match *never {},
        }
    }
}
