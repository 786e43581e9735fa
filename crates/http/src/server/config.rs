//! The configuration of an HTTP server.

use std::time::Duration;

use tieline_proto::ByteSize;
use tieline_proto::json::Limits;
use tieline_transport::{
    ConfigError, Endpoint, ErrorKind, MemoryBudget, Operation, TransportError,
};

use super::added::Route;
use super::oauth::OauthConfig;
use super::routes::Routes;
use crate::address::{Place, WebAddress, authority_of};
use crate::public_url::PublicUrl;
use crate::subprotocol::Subprotocol;
use crate::tls::ServerTls;
use crate::token::Token;
use crate::websocket::WebSocketConfig;

/// The configuration of an HTTP server. The defaults are safe; anything weaker has to be set explicitly.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub place: Place,
    /// The TLS configuration, or `None` for plain HTTP.
    pub tls: Option<ServerTls>,
    /// The way in which clients authenticate.
    pub access: Access,
    /// The OAuth authorization server whose access tokens are accepted as well; none by default.
    pub oauth: Option<OauthConfig>,
    /// Host names that the server accepts in addition to its own address and `localhost`: `example.org`
    /// for any port, for example behind a proxy, or `example.org:8443` for only that port.
    pub hosts: Vec<String>,
    /// Origins, in addition to the server's own, whose pages may connect: `https://example.org`.
    pub origins: Vec<String>,
    /// The URL that clients use if a reverse proxy is in front of the server. Its host is accepted in
    /// `Host` and its origin in `Origin`; the one-time URL begins with it; the cookie has its path, and
    /// `Secure` if the URL begins with `https:`. The proxy may pass on the path or strip it. With
    /// `None`, the default, clients use the server's own address.
    pub public_url: Option<PublicUrl>,
    /// The name of the served program, which the page shows. With `None`, the default, the page shows
    /// `tieline`.
    pub program_name: Option<String>,
    /// WebSocket subprotocols, in addition to tieline's own, that plain clients may offer; `mcp` and
    /// `acp` by default. The server chooses the first known one that the client offers.
    pub subprotocols: Vec<Subprotocol>,
    /// Allows listening beyond loopback without a token or without TLS.
    pub expose_without_token_and_tls: bool,
    /// Users who may connect to a Unix socket, in addition to the server's own user and root.
    pub allow_uids: Vec<u32>,
    /// The permission bits of a Unix socket, as in [`Options`](tieline_transport::Options::socket_mode).
    pub socket_mode: Option<u32>,
    /// The group of a Unix socket, or `None` for the system's default.
    pub socket_group: Option<u32>,
    /// The security descriptor of a named pipe on Windows, as in
    /// [`Options`](tieline_transport::Options::pipe_security). With `None`, only the server's own user can connect.
    pub pipe_security: Option<String>,
    /// Limits on connections, requests and times.
    pub limits: ServerLimits,
    /// The memory budget for connections, bodies and queues, shared with everything else that uses it;
    /// unlimited by default.
    pub memory: Option<MemoryBudget>,
    /// The configuration of the server's WebSockets.
    pub web_socket: WebSocketConfig,
    /// If set, every plain message that is received must be JSON within these limits; any other is a
    /// fault.
    pub json: Option<Limits>,
    /// Routes in addition to the server's own; none by default.
    pub routes: Vec<Route>,
}

/// The way in which clients authenticate.
#[derive(Clone, Debug)]
pub enum Access {
    /// With this token, or with a cookie obtained by a one-time key.
    Token(Token),
    /// Without a token: every client that can connect is admitted. On loopback, these are all users of
    /// the machine. Host and Origin are still checked, which keeps out pages of other sites.
    Anybody,
}

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// The number of connections in total; 4,096 by default.
    pub connections: usize,
    /// The number of connections from one address (for IPv6, from one /64 network); 1,024 by default.
    pub connections_per_peer: usize,
    /// The number of lines that wait for each acceptor; 64 by default.
    pub backlog: usize,
    /// How long the TLS handshake may take; 10 s by default.
    pub handshake_timeout: Duration,
    /// How long the head of a request may take, including the wait for the next request on an idle connection;
    /// 30 s by default.
    pub header_timeout: Duration,
    /// The size of a request's head; 16 KiB by default, at least 8 KiB.
    pub header_bytes: usize,
    /// The number of header lines of a request; 64 by default.
    pub headers: usize,
    /// The number of concurrent requests of an HTTP/2 connection; 128 by default.
    pub streams: usize,
    /// The number of event streams that accept POSTs, including those whose client is disconnected;
    /// 1,024 by default.
    pub event_streams: usize,
    /// How long a disconnected EventSource and its unacknowledged POSTs are remembered. This should be
    /// as long as its session is kept; 2 min by default.
    pub event_grace: Duration,
    /// The number of concurrent calls by `POST /rpc`; 64 by default.
    pub rpc_calls: usize,
    /// How long such a call may take; 60 s by default.
    pub rpc_timeout: Duration,
    /// The number of bytes that all request bodies hold at once, beyond one body of maximum length and
    /// the first 16 KiB of each body; 64 MiB by default. While the limit is reached, no more of the
    /// bodies is read; after [`post_wait`](Self::post_wait), they are refused with 503.
    pub body_bytes: ByteSize,
    /// How many bytes of a request are read and discarded if it was answered before its whole body had
    /// arrived, so that the response reaches clients that write their whole body first; 64 MiB by
    /// default, and always at least two messages of maximum length.
    pub drain_bytes: ByteSize,
    /// How long the discarding may take; 30 s by default. It also stops after 5 s without a byte.
    pub drain_timeout: Duration,
    /// How long a POST waits for room in the body budget before it is refused with 503; 10 s by default.
    pub post_wait: Duration,
    /// How long a POST waits for its line to accept its messages before it is refused with 503. The line
    /// does not accept messages while the program does not read or the stream is disconnected. The
    /// default of 75 s is longer than a program may stall
    /// ([`ChannelConfig::program_stall_timeout`](tieline_transport::ChannelConfig)).
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
            streams: 128,
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
    /// Creates the default configuration for a server at `place`.
    pub fn new(place: Place, access: impl Into<Access>) -> Self {
        Self {
            place,
            tls: None,
            access: access.into(),
            oauth: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            public_url: None,
            program_name: None,
            subprotocols: Subprotocol::usual(),
            expose_without_token_and_tls: false,
            allow_uids: Vec::new(),
            socket_mode: None,
            socket_group: None,
            pipe_security: None,
            limits: ServerLimits::default(),
            memory: None,
            web_socket: WebSocketConfig::default(),
            json: None,
            routes: Vec::new(),
        }
    }

    /// Creates the default configuration for a server at `http://host:port` (port 0: any free port) or
    /// `http-unix:/path`, at `http-pipe:name` on Windows, or at `https://host:port` if [`tls`](Self::tls) is set
    /// afterwards.
    ///
    /// # Errors
    /// The endpoint has another scheme, or it has a path.
    pub fn at(endpoint: &Endpoint, access: impl Into<Access>) -> Result<Self, TransportError> {
        let address = WebAddress::of(endpoint)?;
        let is_listener = matches!(endpoint.scheme(), "http" | "https" | "http-unix" | "http-pipe");
        let has_target = matches!(address.place, Place::Tcp { .. }) && address.target != "/";
        if !is_listener
            || has_target
            || endpoint.framing().is_some()
            || endpoint.is_resumable()
            || endpoint.is_carrier()
        {
            let problem = "an HTTP server needs a host and a port, without a path".to_owned();
            let error =
                TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Parse);
            return Err(error.at(endpoint).with_hint("write it like http://127.0.0.1:8080"));
        }
        Ok(Self::new(address.place, access))
    }

    /// Checks that all values are within bounds.
    ///
    /// # Errors
    /// A field is out of bounds. The error names the first one.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.web_socket.channel.validate()?;
        self.oauth.as_ref().map_or(Ok(()), OauthConfig::validate)?;
        let limits = &self.limits;
        let positive = |is_positive: bool, field, must| match is_positive {
            true => Ok(()),
            false => Err(ConfigError { field, must }),
        };
        positive(limits.connections > 0, "connections", "be at least 1")?;
        positive(limits.connections_per_peer > 0, "connections_per_peer", "be at least 1")?;
        positive(limits.backlog > 0, "backlog", "be at least 1")?;
        positive(limits.headers > 0, "headers", "be at least 1")?;
        positive(limits.streams > 0, "streams", "be at least 1")?;
        positive(limits.header_bytes >= 8 * 1024, "header_bytes", "be at least 8 KiB")?;
        let longer = "be longer than zero";
        positive(!limits.handshake_timeout.is_zero(), "handshake_timeout", longer)?;
        positive(!limits.header_timeout.is_zero(), "header_timeout", longer)?;
        positive(limits.event_streams > 0, "event_streams", "be at least 1")?;
        positive(limits.rpc_calls > 0, "rpc_calls", "be at least 1")?;
        positive(!limits.rpc_timeout.is_zero(), "rpc_timeout", longer)?;
        positive(!self.web_socket.close_timeout.is_zero(), "close_timeout", longer)?;
        if let Some(oauth) = &self.oauth {
            let has_token = matches!(self.access, Access::Token(_));
            positive(has_token, "oauth", "not be used by a server that needs no token")?;
            // All servers on Unix sockets and pipes would have the same URL.
            let has_url = matches!(self.place, Place::Tcp { .. }) || self.public_url.is_some();
            let must = "have audiences on a Unix socket or a pipe without a public URL";
            positive(has_url || !oauth.audiences.is_empty(), "oauth", must)?;
        }
        let can_add = Routes::can_add(&self.routes);
        positive(can_add, "routes", "have free paths, upper-case methods and lower-case headers")?;
        let are_hosts = self.hosts.iter().all(|host| authority_of(host, 1).is_some());
        positive(are_hosts, "hosts", "be host names, with or without a port")?;
        let are_origins = self.origins.iter().all(|it| super::access::Origin::read(it).is_some());
        positive(are_origins, "origins", "be origins like https://example.org")
    }
}
