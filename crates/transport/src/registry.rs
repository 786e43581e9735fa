//! From an endpoint's text to a connector or an acceptor.

use std::collections::BTreeMap;
use std::sync::Arc;

use tieline_proto::json::Limits;
use tieline_proto::{Codec, DetectedLines, FramingKind, Json};

use crate::{
    BoxChannel, BoxConnection, BoxFuture, Connector, DynAcceptor, DynConnector, DynListener,
    DynTransport, Endpoint, ErrorKind, Framed, Memory, Operation, Options, Transport,
    TransportError, TransportKind,
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

    /// The bytes below its messages; `None` by default, and for what carries messages from birth.
    fn bytes(&self) -> Option<&dyn DynTransport> {
        None
    }
}

impl<T: Transport> Scheme for T {
    fn bytes(&self) -> Option<&dyn DynTransport> {
        Some(self)
    }

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
            let framed =
                Framed::new(transport, config, codec, channel)?.within(options.memory.clone());
            Box::new(Named(framed, endpoint.clone()))
        } else {
            let framed =
                Framed::new(transport, config, codec, channel)?.within(options.memory.clone());
            Box::new(Named(framed, endpoint.clone()))
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
            let codec = match framing {
                FramingKind::Lines => {
                    let accepts = options.detect_content_length && endpoint.framing().is_none();
                    let max_message = options.channel.max_message;
                    Codec::Detected(DetectedLines::new(max_message, accepts))
                }
                framing => framing.codec(options.channel.max_message),
            };
            let (transport, channel) = (self.clone(), options.channel);
            let named = |error: TransportError| error.at(endpoint);
            let acceptor: Box<dyn DynAcceptor> = if options.json {
                let codec = Json::new(codec, Limits::default());
                let framed =
                    Framed::new(transport, config, codec, channel)?.within(options.memory.clone());
                Box::new(framed.listen().await.map_err(named)?)
            } else {
                let framed =
                    Framed::new(transport, config, codec, channel)?.within(options.memory.clone());
                Box::new(framed.listen().await.map_err(named)?)
            };
            Ok(acceptor)
        })
    }
}

/// A connector whose errors name the endpoint as it was written, with what stands in front of its scheme:
/// below it, a transport knows the place alone.
struct Named<C>(C, Endpoint);

impl<C: Connector> Connector for Named<C> {
    type Channel = C::Channel;

    async fn connect(&self) -> Result<C::Channel, TransportError> {
        self.0.connect().await.map_err(|error| error.at(&self.1))
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

    /// Connects to the byte stream at `endpoint`; a framing in front says nothing here. Cancel-safe:
    /// a dropped attempt leaves nothing behind.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`];
    /// [`UnsupportedOperation`](ErrorKind::UnsupportedOperation) where messages do not go as a stream
    /// of bytes.
    pub async fn connect_bytes(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<BoxConnection, TransportError> {
        let connected = self.bytes(endpoint, Operation::Connect)?.connect(endpoint, options).await;
        connected.map_err(|error| locate(error, endpoint))
    }

    /// Starts to listen for byte streams on `endpoint`; a framing in front says nothing here.
    ///
    /// # Errors
    /// As [`Registry::connect_bytes`].
    pub async fn listen_bytes(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynListener>, TransportError> {
        let listening = self.bytes(endpoint, Operation::Listen)?.listen(endpoint, options).await;
        listening.map_err(|error| locate(error, endpoint))
    }

    fn bytes(
        &self,
        endpoint: &Endpoint,
        operation: Operation,
    ) -> Result<&dyn DynTransport, TransportError> {
        self.scheme(endpoint, operation)?.bytes().ok_or_else(|| {
            TransportError::new(ErrorKind::UnsupportedOperation, operation)
                .at(endpoint)
                .with_hint("it carries messages, which are no stream of bytes")
        })
    }

    fn scheme(
        &self,
        endpoint: &Endpoint,
        operation: Operation,
    ) -> Result<&dyn Scheme, TransportError> {
        let name = endpoint.scheme();
        if endpoint.is_resumable() {
            let hint = "use connector or listen of tieline_link, which speak the session protocol";
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// It carries messages from birth.
    struct Telegraph;

    impl Scheme for Telegraph {
        fn connector(
            &self,
            _: &Endpoint,
            _: &Options,
        ) -> Result<Box<dyn DynConnector>, TransportError> {
            Err(TransportError::new(ErrorKind::Refused, Operation::Connect))
        }

        fn listen<'a>(
            &'a self,
            _: &'a Endpoint,
            _: &'a Options,
        ) -> BoxFuture<'a, Result<Box<dyn DynAcceptor>, TransportError>> {
            Box::pin(async { Err(TransportError::new(ErrorKind::Refused, Operation::Listen)) })
        }
    }

    #[tokio::test]
    async fn bytes_are_reached_as_messages_are_by_the_endpoints_text() {
        let (registry, options) = (Registry::new(), Options::default());
        let endpoint: Endpoint = "content-length+mem:door".parse().unwrap();
        let mut listener = registry.listen_bytes(&endpoint, &options).await.unwrap();
        let mut client = registry.connect_bytes(&endpoint, &options).await.unwrap();
        let mut server = listener.accept().await.unwrap();
        client.write_all(b"no\0frame").await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"no\0frame");
    }

    #[tokio::test]
    async fn what_carries_messages_from_birth_has_no_bytes() {
        let mut registry = Registry::new();
        registry.register("telegraph", Telegraph);
        let (endpoint, options) = ("telegraph:here".parse().unwrap(), Options::default());
        let Err(error) = registry.connect_bytes(&endpoint, &options).await else { panic!("how?") };
        assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error}");
        assert_eq!(error.endpoint(), Some(&endpoint));
        let Err(error) = registry.listen_bytes(&endpoint, &options).await else { panic!("how?") };
        assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error}");
    }
}
