//! TCP: for where there is nothing better. It has no owner and no permissions, so listening on it is
//! refused unless it is asked for by an ugly name.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::ByteSize;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener as TokioListener, TcpStream};
use tokio::time::timeout;

use crate::control::ControlBuilder;
use crate::error::common_kind;
use crate::options::validate_timeout;
use crate::{
    Address, Capabilities, ConfigError, Endpoint, ErrorKind, IoConnection, Listener, Operation,
    Options, PerformanceProfile, Transport, TransportConfig, TransportError, TransportKind,
    WriteEnd,
};

/// TCP streams, in the clear and without authentication.
///
/// Whoever reaches the port may connect, on a loopback address every user and every program of the
/// machine, a web page in a browser included. A connection that comes in says so
/// ([`Capabilities::unauthenticated`]), and whoever serves it should believe nothing before it has
/// sent a whole message of the right kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

/// A connection over TCP.
pub type TcpConnection = IoConnection<OwnedReadHalf, OwnedWriteHalf>;

/// What [`Tcp`] needs to know.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// A name or an address.
    pub host: String,
    /// The port; to listen, 0 is any that is free.
    pub port: u16,
    /// How long connecting may take, finding the address included; 5 s by default.
    pub connect_timeout: Duration,
    /// Listening is allowed, although anybody may connect.
    pub allow_unauthenticated: bool,
}

impl TcpConfig {
    /// The port `port` of `host`, with the defaults.
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
            return Err(crate::registry::foreign(endpoint));
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
        // With port 0, the one that was found.
        let port = listener.local_addr().map_or(config.port, |address| address.port());
        let endpoint = TcpConfig { port, ..config.clone() }.endpoint();
        Ok(TcpListener { listener, endpoint })
    }
}

/// A TCP port that is listened on. Dropping it stops listening.
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
    // Messages are written in batches already; holding one back would only delay it.
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
