//! Level one: how to get to byte streams. What connects and what listens.

use std::future::Future;

use crate::{
    BoxConnection, BoxFuture, ConfigError, Connection, Endpoint, Options, PerformanceProfile,
    TransportError, TransportKind,
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
