//! A table of schemes, which creates connectors and acceptors from the text of endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use tieline_proto::json::Limits;
use tieline_proto::{Codec, DetectedLines, FramingKind, Json, LengthPrefix};

use crate::channel::{BoxChannel, Connector, DynAcceptor, DynConnector, Framed};
use crate::connection::BoxConnection;
use crate::control::BoxFuture;
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError};
use crate::info::TransportKind;
use crate::memory::Memory;
use crate::missing_feature::MissingFeature;
use crate::options::Options;
use crate::transport::{DynListener, DynTransport, Transport};

/// An implementation of an endpoint scheme, which creates connectors and acceptors for its endpoints.
///
/// Every [`Transport`] is a scheme; the endpoint or the options name the framing. Protocols that carry
/// messages natively implement this trait directly.
pub trait Scheme: Send + Sync + 'static {
    /// Returns a connector for `endpoint`. Does no I/O.
    ///
    /// # Errors
    /// The endpoint or an option is invalid for this scheme.
    fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError>;

    /// Starts listening on `endpoint`.
    ///
    /// # Errors
    /// See [`Transport::listen`].
    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynAcceptor>, TransportError>>;

    /// Returns the byte-stream transport below the messages. Returns `None`, the default, for protocols
    /// that carry messages natively.
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
        let codec = codec_of(self.kind(), endpoint, options);
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
            let codec = match codec_of(self.kind(), endpoint, options) {
                Codec::Lines(_) => {
                    let accepts = options.detect_content_length && endpoint.framing().is_none();
                    let max_message = options.channel.max_message;
                    Codec::Detected(DetectedLines::new(max_message, accepts))
                }
                codec => codec,
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

/// A connector whose errors name the endpoint as the user wrote it, including its framing. The transport
/// below knows only the address.
struct Named<C>(C, Endpoint);

impl<C: Connector> Connector for Named<C> {
    type Channel = C::Channel;

    async fn connect(&self) -> Result<C::Channel, TransportError> {
        self.0.connect().await.map_err(|error| error.at(&self.1))
    }
}

/// Returns the codec of a line. An endpoint of a session's connections uses the codec of session frames.
/// Any other endpoint uses its own framing, or else the framing in the options, or else the transport's
/// default.
fn codec_of(kind: TransportKind, endpoint: &Endpoint, options: &Options) -> Codec {
    let most = options.channel.max_message;
    if endpoint.is_carrier() {
        return Codec::LengthPrefix(LengthPrefix::new(most));
    }
    let usual =
        if kind == TransportKind::MEMORY { FramingKind::LengthPrefix } else { FramingKind::Lines };
    endpoint.framing().or(options.framing).unwrap_or(usual).codec(most)
}

/// A table of the known schemes. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<BTreeMap<String, Entry>>);

#[derive(Clone)]
enum Entry {
    Present(Arc<dyn Scheme>),
    Missing(MissingFeature),
}

impl Registry {
    /// Creates a registry of all transports in this crate, with its own namespace for `mem:`.
    pub fn new() -> Self {
        let mut registry = Self::default();
        registry.register("mem", Memory::default());
        registry.register("tcp", crate::Tcp);
        registry.register("pipe", crate::Pipe);
        #[cfg(unix)]
        registry.register("unix", crate::Unix);
        #[cfg(any(unix, windows))]
        registry.register("stdio", crate::Stdio);
        #[cfg(all(feature = "process", any(unix, windows)))]
        registry.register("exec", crate::Process);
        #[cfg(not(feature = "process"))]
        registry.register_missing(
            "exec",
            MissingFeature { what: "child processes", feature: "process" },
        );
        registry
    }

    /// Adds or replaces a scheme. Earlier clones do not change.
    pub fn register(&mut self, scheme: impl Into<String>, stands_for: impl Scheme) {
        Arc::make_mut(&mut self.0).insert(scheme.into(), Entry::Present(Arc::new(stands_for)));
    }

    /// Adds or replaces a scheme that this build lacks. Its endpoints are refused with
    /// [`ErrorKind::FeatureMissing`].
    pub fn register_missing(&mut self, scheme: impl Into<String>, missing: MissingFeature) {
        Arc::make_mut(&mut self.0).insert(scheme.into(), Entry::Missing(missing));
    }

    /// Returns a connector for `endpoint`. Does no I/O.
    ///
    /// # Errors
    /// The scheme is unknown, or the endpoint or an option is invalid for it.
    pub fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError> {
        let scheme = self.scheme(endpoint, Operation::Connect)?;
        scheme.connector(endpoint, options).map_err(|error| locate(error, endpoint))
    }

    /// Connects to `endpoint`. Cancel-safe: a dropped attempt leaves no process, socket or file.
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

    /// Starts listening on `endpoint`.
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

    /// Connects to the byte stream at `endpoint`, ignoring its framing. Cancel-safe: a dropped attempt
    /// leaves no process, socket or file.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`]; [`UnsupportedOperation`](ErrorKind::UnsupportedOperation)
    /// if the scheme carries messages natively.
    pub async fn connect_bytes(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<BoxConnection, TransportError> {
        let connected = self.bytes(endpoint, Operation::Connect)?.connect(endpoint, options).await;
        connected.map_err(|error| locate(error, endpoint))
    }

    /// Starts listening for byte streams on `endpoint`, ignoring its framing.
    ///
    /// # Errors
    /// See [`Registry::connect_bytes`].
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
                .with_hint("this endpoint carries messages, not a byte stream")
        })
    }

    fn scheme(
        &self,
        endpoint: &Endpoint,
        operation: Operation,
    ) -> Result<&dyn Scheme, TransportError> {
        let name = endpoint.scheme();
        if endpoint.is_resumable() {
            let hint =
                "use tieline_link's connector or listen, which implement the session protocol";
            let error = TransportError::new(ErrorKind::UnsupportedOperation, operation);
            return Err(error.at(endpoint).with_hint(hint));
        }
        let (kind, hint) = match self.0.get(name) {
            Some(Entry::Present(scheme)) => return Ok(&**scheme),
            Some(Entry::Missing(missing)) => (ErrorKind::FeatureMissing(*missing), None),
            None => match elsewhere(name) {
                Some(hint) => (ErrorKind::UnsupportedPlatform, Some(hint)),
                None => (ErrorKind::UnknownScheme { known: self.known() }, None),
            },
        };
        let error = TransportError::new(kind, operation).at(endpoint);
        Err(match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }

    /// Returns the schemes that this build supports.
    fn known(&self) -> Vec<String> {
        let is_present = |entry: &Entry| matches!(entry, Entry::Present(_));
        let present = self.0.iter().filter(|(_, entry)| is_present(entry));
        present.map(|(name, _)| name.clone()).collect()
    }
}

/// Returns a hint for a scheme that exists only on another operating system.
fn elsewhere(scheme: &str) -> Option<&'static str> {
    match scheme {
        "unix" if cfg!(not(unix)) => Some("Unix sockets are not supported here; use pipe:"),
        _ => None,
    }
}

fn locate(error: TransportError, endpoint: &Endpoint) -> TransportError {
    if error.endpoint().is_some() { error } else { error.at(endpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A scheme that carries messages natively.
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
    async fn scheme_that_the_build_lacks_names_its_feature() {
        let mut registry = Registry::new();
        let missing = MissingFeature { what: "child processes", feature: "process" };
        registry.register_missing("exec", missing);
        let (endpoint, options): (Endpoint, _) = ("exec:cat".parse().unwrap(), Options::default());
        for (error, operation) in [
            (registry.connect(&endpoint, &options).await.err(), "connect to"),
            (registry.connect_bytes(&endpoint, &options).await.err(), "connect to"),
            (registry.listen(&endpoint, &options).await.err(), "listen on"),
            (registry.listen_bytes(&endpoint, &options).await.err(), "listen on"),
        ] {
            let error = error.unwrap();
            assert_eq!(
                error.to_string(),
                format!(
                    "cannot {operation} exec:cat: this build lacks child processes; \
                     enable the feature \"process\" of the crate tieline"
                )
            );
            assert!(!error.is_retryable());
        }
        // The missing scheme is not listed when another scheme is unknown, and it can be replaced.
        let unknown = registry.connect(&"nothing:x".parse().unwrap(), &options).await.err();
        assert!(!unknown.unwrap().to_string().contains("exec"));
        registry.register("exec", Telegraph);
        let replaced = registry.connect(&endpoint, &options).await.err().unwrap();
        assert!(matches!(replaced.kind(), ErrorKind::Refused));
    }

    #[tokio::test]
    async fn byte_streams_ignore_the_framing() {
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
    async fn message_scheme_has_no_byte_streams() {
        let mut registry = Registry::new();
        registry.register("telegraph", Telegraph);
        let (endpoint, options) = ("telegraph:here".parse().unwrap(), Options::default());
        let Err(error) = registry.connect_bytes(&endpoint, &options).await else {
            panic!("connected to a message scheme")
        };
        assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error}");
        assert_eq!(error.endpoint(), Some(&endpoint));
        let Err(error) = registry.listen_bytes(&endpoint, &options).await else {
            panic!("listening on a message scheme")
        };
        assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error}");
    }
}
