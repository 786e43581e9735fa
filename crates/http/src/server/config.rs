//! What a server of the web needs to know.

use std::time::Duration;

use tieline_proto::ByteSize;
use tieline_proto::json::Limits;
use tieline_transport::{
    ConfigError, Endpoint, ErrorKind, MemoryBudget, Operation, TransportError,
};

use crate::address::{Place, WebAddress, authority_of};
use crate::channel::WebSocketConfig;
use crate::public_url::PublicUrl;
use crate::subprotocol::Subprotocol;
use crate::tls::ServerTls;
use crate::token::Token;

/// What a server of the web needs to know. The defaults are safe; each weakening is by name.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub place: Place,
    /// What is shown over TLS; `None`: it is spoken in the clear.
    pub tls: Option<ServerTls>,
    /// Who is let in.
    pub access: Access,
    /// Names that the server is called by beside its own address and `localhost`: `example.org` with any
    /// port, as behind a proxy, or `example.org:8443` with that one.
    pub hosts: Vec<String>,
    /// Origins whose pages may talk to it beside its own: `https://example.org`.
    pub origins: Vec<String>,
    /// The URL that clients use, where a reverse proxy stands in front of the server. Its host is accepted as
    /// `Host` and its origin as `Origin`; the one-time URL begins with it; the cookie gets its path, and
    /// `Secure` if it begins with `https:`. The proxy may pass the path on or strip it. `None`, the default:
    /// clients use the server's own address.
    pub public_url: Option<PublicUrl>,
    /// WebSocket subprotocols that are granted to plain clients that offer them, beside tieline's own; `mcp`
    /// and `acp` by default. Of several the first that the client offers is granted.
    pub subprotocols: Vec<Subprotocol>,
    /// Listening beyond loopback is allowed although there is no token or no TLS.
    pub expose_without_token_and_tls: bool,
    /// Users other than our own and root who may connect to a Unix socket.
    pub allow_uids: Vec<u32>,
    /// The permission bits of a Unix socket, as in [`Options`](tieline_transport::Options::socket_mode).
    pub socket_mode: Option<u32>,
    /// The group of a Unix socket; `None`: the system's choice.
    pub socket_group: Option<u32>,
    /// How much at once, and for how long.
    pub limits: ServerLimits,
    /// What counts what connections, bodies and queues hold in memory, together with all others that share it;
    /// no bound by default.
    pub memory: Option<MemoryBudget>,
    /// How its WebSockets behave.
    pub web_socket: WebSocketConfig,
    /// Every plain message that comes must be JSON within these limits; one that is not is a fault.
    pub json: Option<Limits>,
}

/// Who is let in.
#[derive(Clone, Debug)]
pub enum Access {
    /// Who shows this token, or a cookie that was got with a one-time key.
    Token(Token),
    /// Anybody who reaches it, on loopback every user of the machine. The lists of hosts and origins
    /// still keep foreign pages out.
    Anybody,
}

/// How much a server takes at once, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections in all; 4,096 by default.
    pub connections: usize,
    /// Connections of one address (of an IPv6 network of 64 bits); 1,024 by default.
    pub connections_per_peer: usize,
    /// Lines that wait to be accepted, of each kind; 64 by default.
    pub backlog: usize,
    /// How long the TLS handshake may take; 10 s by default.
    pub handshake_timeout: Duration,
    /// How long the head of a request may take, also the next one on a connection that idles; 30 s by
    /// default.
    pub header_timeout: Duration,
    /// Bytes in the head of a request; 16 KiB by default, 8 KiB at least.
    pub header_bytes: usize,
    /// Header lines of a request; 64 by default.
    pub headers: usize,
    /// Streams of events whose clients may post to them, those among them that are away for a while;
    /// 1,024 by default.
    pub event_streams: usize,
    /// How long an EventSource that is away is remembered, with what it has posted and was not taken over
    /// yet: as long as its session is kept; 2 min by default.
    pub event_grace: Duration,
    /// Calls by a POST of their own at once; 64 by default.
    pub rpc_calls: usize,
    /// How long such a call may take; 60 s by default.
    pub rpc_timeout: Duration,
    /// Bytes that the bodies of requests hold at once, all connections together, beyond one that is as
    /// long as may be, and beyond the first 16 KiB of each; 64 MiB by default. Where there is no room a
    /// body is not read on, for [`post_wait`](Self::post_wait) at most; then it is told to come later
    /// (503).
    pub body_bytes: ByteSize,
    /// What is still read of a request that was answered before all of its body had come, and discarded, so that
    /// the answer arrives at clients that write their whole body first: at most so many bytes; 64 MiB by
    /// default, and always two of the longest messages.
    pub drain_bytes: ByteSize,
    /// How long that may take; 30 s by default, and 5 s without a byte.
    pub drain_timeout: Duration,
    /// How long a POST waits for room before it is told to come later; 10 s by default.
    pub post_wait: Duration,
    /// How long a POST waits until its line takes what is in it, because the program does not read or its
    /// stream is away, before it is told to come later; 75 s by default, which is longer than a program may
    /// be at work ([`ChannelConfig::program_stall_timeout`](tieline_transport::ChannelConfig)).
    pub take_wait: Duration,
}

impl From<Token> for Access {
    fn from(token: Token) -> Self {
        Self::Token(token)
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_peer: 1024,
            backlog: 64,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            header_bytes: 16 * 1024,
            headers: 64,
            event_streams: 1024,
            event_grace: Duration::from_secs(120),
            rpc_calls: 64,
            rpc_timeout: Duration::from_secs(60),
            body_bytes: ByteSize::mib(64),
            drain_bytes: ByteSize::mib(64),
            drain_timeout: Duration::from_secs(30),
            post_wait: Duration::from_secs(10),
            take_wait: Duration::from_secs(75),
        }
    }
}

impl ServerConfig {
    /// A server at `place` for those who have a token, or for anybody.
    pub fn new(place: Place, access: impl Into<Access>) -> Self {
        Self {
            place,
            tls: None,
            access: access.into(),
            hosts: Vec::new(),
            origins: Vec::new(),
            public_url: None,
            subprotocols: Subprotocol::usual(),
            expose_without_token_and_tls: false,
            allow_uids: Vec::new(),
            socket_mode: None,
            socket_group: None,
            limits: ServerLimits::default(),
            memory: None,
            web_socket: WebSocketConfig::default(),
            json: None,
        }
    }

    /// A server at `http://host:port` (port 0 is any that is free) or `http-unix:/path`, or with
    /// `https://` if a certificate is set then.
    ///
    /// # Errors
    /// The endpoint is none of these, or has a path.
    pub fn at(endpoint: &Endpoint, access: impl Into<Access>) -> Result<Self, TransportError> {
        let address = WebAddress::of(endpoint)?;
        let is_listener = matches!(endpoint.scheme(), "http" | "https" | "http-unix");
        let has_target = !matches!(address.place, Place::Unix(_)) && address.target != "/";
        if !is_listener
            || has_target
            || endpoint.framing().is_some()
            || endpoint.is_resumable()
            || endpoint.is_carrier()
        {
            let problem = "a server listens at a host and a port".to_owned();
            let error =
                TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Parse);
            return Err(error.at(endpoint).with_hint("write it like http://127.0.0.1:8080"));
        }
        Ok(Self::new(address.place, access))
    }

    /// Refuses values that are out of bounds.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.web_socket.channel.validate()?;
        let limits = &self.limits;
        let positive = |is_positive: bool, field, must| match is_positive {
            true => Ok(()),
            false => Err(ConfigError { field, must }),
        };
        positive(limits.connections > 0, "connections", "be at least 1")?;
        positive(limits.connections_per_peer > 0, "connections_per_peer", "be at least 1")?;
        positive(limits.backlog > 0, "backlog", "be at least 1")?;
        positive(limits.headers > 0, "headers", "be at least 1")?;
        positive(limits.header_bytes >= 8 * 1024, "header_bytes", "be at least 8 KiB")?;
        let longer = "be longer than zero";
        positive(!limits.handshake_timeout.is_zero(), "handshake_timeout", longer)?;
        positive(!limits.header_timeout.is_zero(), "header_timeout", longer)?;
        positive(limits.event_streams > 0, "event_streams", "be at least 1")?;
        positive(limits.rpc_calls > 0, "rpc_calls", "be at least 1")?;
        positive(!limits.rpc_timeout.is_zero(), "rpc_timeout", longer)?;
        positive(!self.web_socket.close_timeout.is_zero(), "close_timeout", longer)?;
        let are_hosts = self.hosts.iter().all(|host| authority_of(host, 1).is_some());
        positive(are_hosts, "hosts", "be names, each with a port or without")?;
        let are_origins = self.origins.iter().all(|it| super::access::Origin::read(it).is_some());
        positive(are_origins, "origins", "be like https://example.org")
    }
}
