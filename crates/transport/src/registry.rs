//! From an endpoint's text to a connector or an acceptor.

use std::collections::BTreeMap;
use std::sync::Arc;

use tieline_proto::json::Limits;
use tieline_proto::{FramingKind, Json};

use crate::{
    BoxChannel, BoxFuture, DynAcceptor, DynConnector, Endpoint, ErrorKind, Framed, Memory,
    Operation, Options, Transport, TransportError, TransportKind,
};

/// What a scheme stands for: how to get from an endpoint to messages.
///
/// Every [`Transport`] is one, with the framing that the endpoint or the options name. What carries
/// messages from birth implements it directly.
pub trait Scheme: Send + Sync + 'static {
    /// A connector for `endpoint`. Does no I/O.
    ///
    /// # Errors
    /// The endpoint or an option does not fit.
    fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError>;

    /// Starts to listen on `endpoint`.
    ///
    /// # Errors
    /// As [`Transport::listen`].
    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynAcceptor>, TransportError>>;
}

impl<T: Transport> Scheme for T {
    fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError> {
        let config = self.config(endpoint, options)?;
        let codec = framing_of(self.kind(), endpoint, options).codec(options.channel.max_message);
        let (transport, channel) = (self.clone(), options.channel);
        Ok(if options.json {
            let codec = Json::new(codec, Limits::default());
            Box::new(Framed::new(transport, config, codec, channel)?)
        } else {
            Box::new(Framed::new(transport, config, codec, channel)?)
        })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynAcceptor>, TransportError>> {
        Box::pin(async move {
            let config = self.config(endpoint, options)?;
            let framing = framing_of(self.kind(), endpoint, options);
            let codec = framing.codec(options.channel.max_message);
            let (transport, channel) = (self.clone(), options.channel);
            let acceptor: Box<dyn DynAcceptor> = if options.json {
                let codec = Json::new(codec, Limits::default());
                Box::new(Framed::new(transport, config, codec, channel)?.listen().await?)
            } else {
                Box::new(Framed::new(transport, config, codec, channel)?.listen().await?)
            };
            Ok(acceptor)
        })
    }
}

/// The endpoint's own framing, or the one asked for, or the transport's usual one.
fn framing_of(kind: TransportKind, endpoint: &Endpoint, options: &Options) -> FramingKind {
    let usual =
        if kind == TransportKind::MEMORY { FramingKind::LengthPrefix } else { FramingKind::Lines };
    endpoint.framing().or(options.framing).unwrap_or(usual)
}

/// The schemes that endpoints may have. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<BTreeMap<String, Arc<dyn Scheme>>>);

impl Registry {
    /// Every transport of this crate, with a name space of its own for `mem:`.
    pub fn new() -> Self {
        let mut registry = Self::default();
        registry.register("mem", Memory::default());
        registry.register("tcp", crate::Tcp);
        registry.register("pipe", crate::Pipe);
        #[cfg(unix)]
        {
            registry.register("unix", crate::Unix);
            registry.register("exec", crate::Process);
            registry.register("stdio", crate::Stdio);
        }
        #[cfg(windows)]
        {
            registry.register("exec", crate::Process);
            registry.register("stdio", crate::Stdio);
        }
        registry
    }

    /// Adds a scheme, or replaces it; what was cloned before does not change.
    pub fn register(&mut self, scheme: impl Into<String>, stands_for: impl Scheme) {
        Arc::make_mut(&mut self.0).insert(scheme.into(), Arc::new(stands_for));
    }

    /// A connector for `endpoint`. Does no I/O.
    ///
    /// # Errors
    /// The scheme is unknown, or the endpoint or an option does not fit.
    pub fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError> {
        let scheme = self.scheme(endpoint, Operation::Connect)?;
        scheme.connector(endpoint, options).map_err(|error| locate(error, endpoint))
    }

    /// Connects to `endpoint`. Cancel-safe: a dropped attempt leaves nothing behind.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`].
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<BoxChannel, TransportError> {
        self.connector(endpoint, options)?.connect().await
    }

    /// Starts to listen on `endpoint`.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`].
    pub async fn listen(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynAcceptor>, TransportError> {
        let scheme = self.scheme(endpoint, Operation::Listen)?;
        let listening = scheme.listen(endpoint, options).await;
        listening.map_err(|error| locate(error, endpoint))
    }

    fn scheme(
        &self,
        endpoint: &Endpoint,
        operation: Operation,
    ) -> Result<&dyn Scheme, TransportError> {
        let name = endpoint.scheme();
        if endpoint.is_resumable() {
            let hint = "make it by tieline_link::Sessions, which speaks the session protocol";
            let error = TransportError::new(ErrorKind::UnsupportedOperation, operation);
            return Err(error.at(endpoint).with_hint(hint));
        }
        if let Some(scheme) = self.0.get(name) {
            return Ok(&**scheme);
        }
        let error = match elsewhere(name) {
            Some(hint) => {
                TransportError::new(ErrorKind::UnsupportedPlatform, operation).with_hint(hint)
            }
            None => {
                let known = self.0.keys().cloned().collect();
                TransportError::new(ErrorKind::UnknownScheme { known }, operation)
            }
        };
        Err(error.at(endpoint))
    }
}

/// What exists on another operating system, and what to use on this one.
fn elsewhere(scheme: &str) -> Option<&'static str> {
    match scheme {
        "unix" if cfg!(not(unix)) => Some("there are no Unix sockets here; use pipe:"),
        _ => None,
    }
}

fn locate(error: TransportError, endpoint: &Endpoint) -> TransportError {
    if error.endpoint().is_some() { error } else { error.at(endpoint) }
}

/// A transport was registered for a scheme whose endpoints it does not understand.
pub(crate) fn foreign(endpoint: &Endpoint) -> TransportError {
    let problem = format!("`{}:` is not an endpoint of this transport", endpoint.scheme());
    TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Configure).at(endpoint)
}
