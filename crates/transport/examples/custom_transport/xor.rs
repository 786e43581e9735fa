//! A transport that scrambles the bytes of another one.
//!
//! The transport does not protect any secrets. It shows the parts of a transport, and two points that
//! are easily forgotten: a write may accept only some of its bytes, and the information that the
//! transport below has about the peer, its health and its end must be passed on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tieline_transport::{
    Address, Backing, BoxFuture, ChildExit, CloseReason, ConfigError, Connection, Control,
    ControlBuilder, Endpoint, ErrorKind, Health, IoConnection, Listener, Operation, Options,
    PerformanceProfile, ReadEnd, Transport, TransportConfig, TransportError, TransportKind,
    WriteEnd,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const KIND: TransportKind = TransportKind::custom("xor");

/// Scrambling needs a copy, so at most this many bytes are written at a time.
const LARGEST_WRITE: usize = 64 * 1024;

/// The transport for `xor:KEY@ENDPOINT`: the endpoint of the transport below, with its bytes scrambled
/// by a number from 1 to 255 that both ends know.
#[derive(Clone)]
pub(crate) struct Xor<T>(T);

impl<T: Transport> Xor<T> {
    /// Creates a transport that scrambles the bytes that `below` carries.
    pub(crate) fn over(below: T) -> Self {
        Self(below)
    }
}

/// The configuration of [`Xor`].
#[derive(Clone)]
pub(crate) struct XorConfig<C> {
    key: u8,
    below: C,
    /// The endpoint as the user wrote it, for [`info`](Connection::info) and errors.
    endpoint: Endpoint,
}

impl<C: TransportConfig> TransportConfig for XorConfig<C> {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.key == 0 {
            return Err(ConfigError { field: "key", must: "not be 0, which changes no bytes" });
        }
        self.below.validate()
    }
}

/// A scrambled connection of the transport below.
pub(crate) type XorConnection<C> =
    IoConnection<Scrambled<<C as Connection>::ReadHalf>, Scrambled<<C as Connection>::WriteHalf>>;

impl<T: Transport> Transport for Xor<T> {
    type Config = XorConfig<T::Config>;
    type Connection = XorConnection<T::Connection>;
    type Listener = XorListener<T::Listener>;

    fn kind(&self) -> TransportKind {
        KIND
    }

    fn profile(&self) -> PerformanceProfile {
        self.0.profile()
    }

    fn config(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Self::Config, TransportError> {
        let parsed = match endpoint.address() {
            Address::Other { scheme, rest } if scheme == KIND.as_str() => rest.split_once('@'),
            _ => None,
        };
        let Some((Ok(key), below)) = parsed.map(|(key, below)| (key.parse(), below)) else {
            let problem = "the endpoint is not of the form xor:KEY@ENDPOINT".into();
            let kind = ErrorKind::InvalidEndpoint { problem };
            return Err(TransportError::new(kind, Operation::Configure).at(endpoint));
        };
        let below = self.0.config(&below.parse()?, options)?;
        Ok(XorConfig { key, below, endpoint: endpoint.clone() })
    }

    async fn connect(&self, config: &Self::Config) -> Result<Self::Connection, TransportError> {
        config.validate()?;
        let connected = self.0.connect(&config.below).await;
        connected
            .map(|below| scramble(below, config.key, &config.endpoint))
            .map_err(|error| error.at(&config.endpoint))
    }

    async fn listen(&self, config: &Self::Config) -> Result<Self::Listener, TransportError> {
        config.validate()?;
        let listening = self.0.listen(&config.below).await;
        listening
            .map(|below| XorListener { below, key: config.key, endpoint: config.endpoint.clone() })
            .map_err(|error| error.at(&config.endpoint))
    }
}

/// The listener of the transport below, whose connections are scrambled.
pub(crate) struct XorListener<L> {
    below: L,
    key: u8,
    endpoint: Endpoint,
}

impl<L: Listener> Listener for XorListener<L> {
    type Connection = XorConnection<L::Connection>;

    async fn accept(&mut self) -> Result<Self::Connection, TransportError> {
        let accepted = self.below.accept().await;
        accepted
            .map(|below| scramble(below, self.key, &self.endpoint))
            .map_err(|error| error.at(&self.endpoint))
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

fn scramble<C: Connection>(below: C, key: u8, endpoint: &Endpoint) -> XorConnection<C> {
    let control = ControlBuilder {
        kind: KIND,
        endpoint: endpoint.clone(),
        peer: below.control().peer(),
        capabilities: below.capabilities(),
        profile: below.control().profile(),
        backing: Arc::new(Below(below.control().clone())),
    };
    let (read, write) = below.into_split();
    let read = Scrambled { io: read, key, position: 0 };
    let write = Scrambled { io: write, key, position: 0 };
    IoConnection::new(read, write, control.build())
}

/// A backing that delegates health, stopping and the exit status to the transport below.
struct Below(Control);

impl Backing for Below {
    fn health(&self) -> Health {
        self.0.health()
    }

    fn child(&self) -> Option<u32> {
        self.0.child()
    }

    fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        self.0.ended()
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let control = self.0.clone();
        Box::pin(async move {
            match control.stop().await {
                CloseReason::ChildExited(exit) => Some(Arc::unwrap_or_clone(exit)),
                _ => None,
            }
        })
    }

    fn abort(&self) {
        self.0.abort();
    }
}

/// One direction of a scrambled connection.
pub(crate) struct Scrambled<I> {
    io: I,
    key: u8,
    /// The number of bytes so far. Each byte is scrambled by its position in the stream, so a lost or
    /// duplicated byte corrupts all bytes after it.
    position: u64,
}

impl<I> Scrambled<I> {
    /// Scrambles or unscrambles the next bytes of the stream.
    fn apply(&self, bytes: &mut [u8]) {
        for (byte, position) in bytes.iter_mut().zip(self.position..) {
            *byte ^= self.key.wrapping_mul(position as u8 | 1);
        }
    }
}

impl<R: ReadEnd> ReadEnd for Scrambled<R> {
    fn unread(&self) -> Option<u64> {
        self.io.unread()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Scrambled<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The caller's buffer may already contain other bytes.
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let fresh = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        self.apply(fresh);
        self.position += fresh.len() as u64;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Scrambled<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut scrambled = bytes.get(..LARGEST_WRITE).unwrap_or(bytes).to_vec();
        self.apply(&mut scrambled);
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &scrambled))?;
        // Only the accepted bytes are counted; the caller writes the rest again.
        self.position += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<W: WriteEnd> WriteEnd for Scrambled<W> {
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
