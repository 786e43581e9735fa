//! TCP, for cases in which no better transport is available. A TCP port has no owner and no permissions,
//! so listening must be enabled explicitly.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::ByteSize;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener as TokioListener, TcpStream};
use tokio::time::timeout;

use crate::connection::{IoConnection, ReadEnd, WriteEnd};
use crate::control::ControlBuilder;
use crate::endpoint::{Address, Endpoint};
use crate::error::{ConfigError, ErrorKind, Operation, TransportError, common_kind};
use crate::info::{Capabilities, TransportKind};
use crate::options::{Options, validate_timeout};
use crate::profile::PerformanceProfile;
use crate::transport::{Listener, Transport, TransportConfig};

/// TCP streams without encryption or authentication.
///
/// Every process that can reach the port can connect. On a loopback address, these are all users and
/// programs of the machine, including web pages in a browser. Accepted connections are marked
/// ([`Capabilities::unauthenticated`]), and a server should not trust them before they have sent a whole
/// message of the right kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

/// A connection over TCP.
pub type TcpConnection = IoConnection<OwnedReadHalf, OwnedWriteHalf>;

/// The configuration of [`Tcp`].
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// A host name or an address.
    pub host: String,
    /// The port. A listener with port 0 uses any free port.
    pub port: u16,
    /// How long connecting may take, including name resolution; 5 s by default.
    pub connect_timeout: Duration,
    /// Whether listening is allowed, although every process that can reach the port can connect.
    pub allow_unauthenticated: bool,
}

impl TcpConfig {
    /// Returns the default configuration for `port` on `host`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            connect_timeout: Duration::from_secs(5),
            allow_unauthenticated: false,
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(Address::Tcp { host: self.host.clone(), port: self.port })
    }
}

impl TransportConfig for TcpConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.host.is_empty() {
            return Err(ConfigError { field: "host", must: "not be empty" });
        }
        validate_timeout("connect_timeout", self.connect_timeout)
    }
}

const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(1),
    round_trip: Duration::from_micros(200),
    throughput: ByteSize::new(500_000_000),
};

impl ReadEnd for OwnedReadHalf {
    #[cfg(unix)]
    fn unread(&self) -> Option<u64> {
        crate::readiness::unread(AsRef::<TcpStream>::as_ref(self))
    }
}

impl WriteEnd for OwnedWriteHalf {
    #[cfg(unix)]
    fn unsent(&self) -> Option<usize> {
        crate::readiness::unsent(AsRef::<TcpStream>::as_ref(self))
    }
}

impl Transport for Tcp {
    type Config = TcpConfig;
    type Connection = TcpConnection;
    type Listener = TcpListener;

    fn kind(&self) -> TransportKind {
        TransportKind::TCP
    }

    fn profile(&self) -> PerformanceProfile {
        PROFILE
    }

    fn config(&self, endpoint: &Endpoint, options: &Options) -> Result<TcpConfig, TransportError> {
        let Address::Tcp { host, port } = endpoint.address() else {
            return Err(crate::endpoint::foreign(endpoint));
        };
        Ok(TcpConfig {
            connect_timeout: options.connect_timeout,
            allow_unauthenticated: options.allow_unauthenticated_tcp,
            ..TcpConfig::new(host, *port)
        })
    }

    async fn connect(&self, config: &TcpConfig) -> Result<TcpConnection, TransportError> {
        let endpoint = config.endpoint();
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        let fail = |kind| TransportError::new(kind, Operation::Connect).at(&endpoint);
        let limit = config.connect_timeout;
        let connected = timeout(limit, TcpStream::connect((config.host.as_str(), config.port)));
        let connected = connected.await.map_err(|_| fail(ErrorKind::TimedOut(limit)))?;
        let stream = connected.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
                _ => common_kind(&error),
            };
            fail(kind).because(error).with_hint("start the server first, or check host and port")
        })?;
        Ok(connection(stream, endpoint, false))
    }

    async fn listen(&self, config: &TcpConfig) -> Result<TcpListener, TransportError> {
        let endpoint = config.endpoint();
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        let fail = |kind| TransportError::new(kind, Operation::Listen).at(&endpoint);
        if !config.allow_unauthenticated {
            return Err(fail(ErrorKind::Unauthenticated));
        }
        let bound = TokioListener::bind((config.host.as_str(), config.port)).await;
        let listener = bound.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::AddressInUse,
                _ => common_kind(&error),
            };
            fail(kind).because(error)
        })?;
        // If the port was 0, the system has chosen one.
        let port = listener.local_addr().map_or(config.port, |address| address.port());
        let endpoint = TcpConfig { port, ..config.clone() }.endpoint();
        Ok(TcpListener { listener, endpoint })
    }
}

/// A listener on a TCP port. Dropping it stops listening.
#[derive(Debug)]
pub struct TcpListener {
    listener: TokioListener,
    endpoint: Endpoint,
}

impl Listener for TcpListener {
    type Connection = TcpConnection;

    async fn accept(&mut self) -> Result<TcpConnection, TransportError> {
        match self.listener.accept().await {
            Ok((stream, _)) => Ok(connection(stream, self.endpoint.clone(), true)),
            Err(error) => {
                let kind = common_kind(&error);
                let failed = TransportError::new(kind, Operation::Accept).because(error);
                Err(failed.at(&self.endpoint))
            }
        }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

fn connection(stream: TcpStream, endpoint: Endpoint, accepted: bool) -> TcpConnection {
    // Messages are already written in batches; Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let control = ControlBuilder {
        kind: TransportKind::TCP,
        endpoint,
        peer: None,
        capabilities: Capabilities {
            half_close: true,
            unauthenticated: accepted,
            ..Capabilities::default()
        },
        profile: PROFILE,
        backing: Arc::new(()),
    };
    IoConnection::new(read, write, control.build())
}
