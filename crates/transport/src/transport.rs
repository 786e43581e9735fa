//! The transport layer: connecting to byte streams and listening for them.

use std::future::Future;

use bytes::Bytes;

use crate::connection::{BoxConnection, Connection};
use crate::control::BoxFuture;
use crate::endpoint::Endpoint;
use crate::error::{ConfigError, TransportError};
use crate::info::TransportKind;
use crate::options::Options;
use crate::profile::PerformanceProfile;

/// A kind of byte-stream endpoint, with functions to connect to it and to listen on it.
///
/// A custom transport implements this trait and registers its scheme
/// ([`Registry::register`](crate::Registry::register)); see `examples/custom_transport`.
pub trait Transport: Clone + Send + Sync + 'static {
    /// The configuration for connecting and listening.
    type Config: TransportConfig;
    /// The type of connections.
    type Connection: Connection;
    /// The type of listeners.
    type Listener: Listener<Connection = Self::Connection>;

    /// Returns the kind, which is also the scheme.
    fn kind(&self) -> TransportKind;

    /// Returns the expected performance.
    fn profile(&self) -> PerformanceProfile;

    /// Creates the configuration for an endpoint and options.
    ///
    /// # Errors
    /// The endpoint does not belong to this transport, or a value is out of bounds.
    fn config(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Self::Config, TransportError>;

    /// Validates the configuration, then connects.
    ///
    /// Cancel-safe: a dropped attempt leaves no process, socket or file.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`](crate::ErrorKind).
    fn connect(
        &self,
        config: &Self::Config,
    ) -> impl Future<Output = Result<Self::Connection, TransportError>> + Send;

    /// Validates the configuration, then starts listening.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`](crate::ErrorKind);
    /// [`UnsupportedOperation`](crate::ErrorKind::UnsupportedOperation) if the transport can only connect.
    fn listen(
        &self,
        config: &Self::Config,
    ) -> impl Future<Output = Result<Self::Listener, TransportError>> + Send;
}

/// A transport's configuration.
pub trait TransportConfig: Clone + Send + Sync + 'static {
    /// Checks that all values are within bounds. Does no I/O.
    ///
    /// # Errors
    /// Returns the first field that is out of bounds.
    fn validate(&self) -> Result<(), ConfigError>;
}

/// A listener for incoming connections. Dropping it stops listening and removes its socket file, if it
/// has one.
pub trait Listener: Send + 'static {
    /// The type of connections.
    type Connection: Connection;

    /// Waits for the next connection. Cancel-safe.
    ///
    /// # Errors
    /// After a [retryable](TransportError::is_retryable) error, the listener still works. Wait a little
    /// and accept again.
    fn accept(&mut self) -> impl Future<Output = Result<Self::Connection, TransportError>> + Send;

    /// Returns the endpoint on which this listener accepts connections.
    fn endpoint(&self) -> &Endpoint;

    /// Sets the notice that is sent to a peer before it is disconnected because its user is not allowed.
    /// By default, no notice is sent. This has no effect if only the system decides which users may
    /// connect.
    fn refuse_with(&mut self, notice: RefusalNotice) {
        let _ = notice;
    }
}

/// The bytes that a listener sends to a peer whose user is not allowed.
#[derive(Clone, Debug, Default)]
pub struct RefusalNotice {
    /// The bytes.
    pub bytes: Bytes,
    /// True if the notice is sent only after the peer has sent some bytes, because a response before its
    /// request would be an error.
    pub is_response: bool,
}

/// The object-safe version of [`Transport`], which takes endpoints instead of configurations.
pub trait DynTransport: Send + Sync + 'static {
    /// Returns the kind, which is also the scheme.
    fn kind(&self) -> TransportKind;

    /// Returns the expected performance.
    fn profile(&self) -> PerformanceProfile;

    /// Connects, like [`Transport::connect`], but takes an endpoint.
    fn connect<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<BoxConnection, TransportError>>;

    /// Starts listening, like [`Transport::listen`], but takes an endpoint.
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

/// The object-safe version of [`Listener`].
pub trait DynListener: Send + 'static {
    /// Waits for the next connection, like [`Listener::accept`].
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxConnection, TransportError>>;

    /// Returns the endpoint on which this listener accepts connections.
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

/// The listener type of a transport that can only connect. It has no values.
pub enum NoListener<C> {
    /// Cannot be constructed.
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
