//! The client: connects to a WebSocket endpoint.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Builder;
use hyper::{Request, Response, StatusCode};
use tieline_proto::HeartbeatConfig;
use tieline_proto::json::Limits;
use tieline_proto::websocket::Role;
use tieline_transport::{
    BoxFuture, CloseReason, Connector, DynAcceptor, DynConnector, Endpoint, ErrorKind,
    MemoryBudget, Operation, Options, PeerIdentity, Registry, Scheme, TransportError,
    TransportKind,
};
#[cfg(unix)]
use tieline_transport::{Connection, Transport, Unix, UnixConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::address::{Place, WebAddress};
use crate::channel::{Content, Made, WebChannel, WebSocketConfig};
use crate::credentials::unsendable;
use crate::events::EventStreams;
use crate::handshake::{HALF_CLOSE, RESUMABLE, accept, has_word, key};
use crate::proxy::{PROXY, Proxies, Proxy, Route};
use crate::request_header::{BasicAuth, RequestHeader};
use crate::stream::Stream;
use crate::subprotocol::Subprotocol;
use crate::switch::{Empty, switch};
use crate::tls::{ClientTls, Trust};
use crate::token::Token;

/// The configuration of a client, for all of its connections.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Sent as `Authorization: Bearer`, only to the endpoint's host: redirects are not followed.
    pub token: Option<Token>,
    /// Sent as `Authorization: Basic`, instead of a token.
    pub basic: Option<BasicAuth>,
    /// Added to every request. `Authorization` and `Origin` may be among them if nothing else here sets them.
    pub headers: Vec<RequestHeader>,
    /// Allows sending token, password and [credentials](RequestHeader::is_credential) among the headers to other
    /// machines without TLS, where they can be read on the network. By default that is
    /// [refused](ErrorKind::CleartextCredential). Only `localhost` and loopback addresses count as this machine.
    pub send_token_without_tls: bool,
    /// Through which proxies servers are reached. By default none are, whatever the environment says: use
    /// [`Proxies::from_env`].
    pub proxies: Proxies,
    /// Sent as `Origin`, for servers that require one; none by default.
    pub origin: Option<String>,
    /// Subprotocols that a WebSocket offers, the preferred one first; none by default. If the server chooses
    /// none of them, the connection fails, as in browsers.
    pub subprotocols: Vec<Subprotocol>,
    /// TLS roots and the client certificate.
    pub tls: ClientTls,
    /// When to ping an idle connection; `None`: never.
    pub heartbeat: Option<HeartbeatConfig>,
    /// See [`WebSocketConfig::verbatim`].
    pub verbatim: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            token: None,
            basic: None,
            headers: Vec::new(),
            send_token_without_tls: false,
            proxies: Proxies::default(),
            origin: None,
            subprotocols: Vec::new(),
            tls: ClientTls::default(),
            heartbeat: Some(HeartbeatConfig::default()),
            verbatim: false,
        }
    }
}

/// The maximum size of a response's headers.
pub(crate) const MAX_HEADERS: usize = 16 * 1024;

/// Registers `ws:`, `wss:` and `ws-unix:` for WebSockets, and `http:`, `https:` and `http-unix:` for events and
/// POSTs, all with `config`.
pub fn register(registry: &mut Registry, config: ClientConfig) {
    let client = Arc::new(Client { trust: Trust::of(config.tls.clone()), config });
    for scheme in ["ws", "wss", "ws-unix"] {
        registry.register(scheme, WebSockets(client.clone()));
    }
    for scheme in ["http", "https", "http-unix"] {
        registry.register(scheme, EventStreams(client.clone()));
    }
}

/// Connects to the WebSocket at `endpoint`, as a registry does, but returns the channel's own type.
///
/// Cancel-safe: dropping the future drops the connection attempt.
///
/// # Errors
/// Each cause has its own [`ErrorKind`].
pub async fn connect(
    endpoint: &Endpoint,
    config: ClientConfig,
    options: &Options,
) -> Result<WebChannel, TransportError> {
    let client = Arc::new(Client { trust: Trust::of(config.tls.clone()), config });
    let connector = WebSockets(client).typed(endpoint, options);
    Connector::connect(&connector.map_err(|error| error.at(endpoint))?).await
}

pub(crate) struct Client {
    pub(crate) config: ClientConfig,
    trust: Trust,
}

/// Opens connections to one server.
pub(crate) struct Dialer {
    pub(crate) client: Arc<Client>,
    pub(crate) address: WebAddress,
    route: Route,
    allow_uids: Vec<u32>,
    pub(crate) connect_timeout: Duration,
    pub(crate) memory: Option<MemoryBudget>,
}

/// The WebSocket schemes.
struct WebSockets(Arc<Client>);

impl WebSockets {
    fn typed(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<WebConnector, TransportError> {
        options.channel.validate()?;
        let address = WebAddress::of(endpoint)?;
        let content = match endpoint.framing() {
            None if endpoint.is_carrier() => Content::Carrier,
            None => Content::Plain(options.json.then(Limits::default)),
            Some(_) => {
                let kind = ErrorKind::UnsupportedOperation;
                let error = TransportError::new(kind, Operation::Configure);
                return Err(
                    error.with_hint("omit the framing: a WebSocket delimits messages itself")
                );
            }
        };
        let ClientConfig { heartbeat, verbatim, .. } = self.0.config;
        let channel = options.channel;
        let config = WebSocketConfig { channel, heartbeat, verbatim, ..WebSocketConfig::default() };
        Ok(WebConnector {
            dialer: Dialer::new(self.0.clone(), endpoint, address, options)?,
            endpoint: endpoint.clone(),
            kind: kind_of(endpoint),
            content,
            config,
        })
    }
}

impl Scheme for WebSockets {
    fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError> {
        Ok(Box::new(self.typed(endpoint, options)?))
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        _: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynAcceptor>, TransportError>> {
        Box::pin(async move {
            let error = TransportError::new(ErrorKind::UnsupportedOperation, Operation::Listen);
            Err(error.at(endpoint).with_hint("to accept WebSockets, listen on http:// or https://"))
        })
    }
}

fn kind_of(endpoint: &Endpoint) -> TransportKind {
    TransportKind::custom(match endpoint.scheme() {
        "wss" => "wss",
        "ws-unix" => "ws-unix",
        _ => "ws",
    })
}

struct WebConnector {
    dialer: Dialer,
    endpoint: Endpoint,
    kind: TransportKind,
    content: Content,
    config: WebSocketConfig,
}

impl Connector for WebConnector {
    type Channel = WebChannel;

    async fn connect(&self) -> Result<WebChannel, TransportError> {
        self.dialer.in_time(&self.endpoint, self.dial()).await
    }
}

impl Dialer {
    /// Creates a dialer for `address`, which is that of `endpoint`.
    ///
    /// # Errors
    /// The headers contradict each other, or the proxy for this server is invalid.
    pub(crate) fn new(
        client: Arc<Client>,
        endpoint: &Endpoint,
        address: WebAddress,
        options: &Options,
    ) -> Result<Self, TransportError> {
        client.config.check_headers()?;
        let route = client.config.proxies.route(endpoint, &address)?;
        let (allow_uids, connect_timeout) = (options.allow_uids.clone(), options.connect_timeout);
        let memory = options.memory.clone();
        Ok(Self { client, address, route, allow_uids, connect_timeout, memory })
    }

    pub(crate) async fn reach(&self) -> Result<(Stream, Option<PeerIdentity>), TransportError> {
        self.client.config.may_go_to(&self.address)?;
        match &self.address.place {
            Place::Tcp { host, port } => {
                let stream = match &self.route {
                    Route::Direct => {
                        TcpStream::connect((host.as_str(), *port)).await.map_err(unreached)?
                    }
                    Route::Tunnel(proxy) => proxy.tunnel(&self.address.place.to_string()).await?,
                    Route::Forward(proxy) => proxy.connect().await?,
                };
                // Messages are written in batches already; Nagle's algorithm would only delay them.
                let _ = stream.set_nodelay(true);
                Ok(match self.address.is_secure {
                    true => (self.client.trust.connect(host, stream).await?, None),
                    false => (Stream::Tcp(stream), None),
                })
            }
            #[cfg(unix)]
            Place::Unix(path) => {
                let config = UnixConfig {
                    allow_uids: self.allow_uids.clone(),
                    connect_timeout: self.connect_timeout,
                    ..UnixConfig::new(path)
                };
                let connection = Unix.connect(&config).await?;
                let peer = connection.control().peer();
                Ok((Stream::Unix(connection), peer))
            }
            #[cfg(not(unix))]
            Place::Unix(_) => {
                let _ = &self.allow_uids;
                Err(failed(ErrorKind::UnsupportedPlatform))
            }
        }
    }

    /// Runs `dialing` with the connect timeout.
    pub(crate) async fn in_time<T>(
        &self,
        endpoint: &Endpoint,
        dialing: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let limit = self.connect_timeout;
        let made = timeout(limit, dialing).await;
        made.unwrap_or_else(|_| Err(failed(ErrorKind::TimedOut(limit))))
            .map_err(|error| self.naming_proxy(error).at(endpoint))
    }

    /// Adds the proxy to the hint of an error that does not name it.
    fn naming_proxy(&self, error: TransportError) -> TransportError {
        let names_it = matches!(error.kind(), ErrorKind::Handshake { protocol: PROXY, .. });
        let Some(proxy) = self.route.proxy().filter(|_| !names_it) else { return error };
        let hint = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
        error.with_hint(format!("{hint}the connection goes through the proxy {proxy}"))
    }

    /// Returns what a request names: the path, or the whole URL where a proxy forwards it.
    pub(crate) fn uri(&self, path: &str) -> String {
        match self.route.forwarder() {
            None => path.to_owned(),
            Some(_) => format!("http://{}{path}", self.address.host_header()),
        }
    }

    /// Returns the error for a response with another status than the expected one.
    pub(crate) fn denied(&self, status: StatusCode) -> TransportError {
        let error = failed(ErrorKind::Denied { status: status.as_u16() });
        match (&self.address.place, status) {
            (Place::Unix(_), StatusCode::FORBIDDEN) => error.with_hint(
                "the server does not accept your user (add it to the server's --allow-uid), or not \
                 this Host or Origin header (--allow-host or --allow-origin)",
            ),
            (_, StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                self.route.forwarder().map_or(error, |proxy| proxy.denied(status))
            }
            _ => error,
        }
    }

    /// Adds the `Host` header and the client's credentials to a request.
    pub(crate) fn introduce(&self, request: Builder) -> Result<Builder, TransportError> {
        let request = self.client.config.introduce(request, &self.address)?;
        Ok(match self.route.forwarder().and_then(Proxy::credentials) {
            Some((name, value)) => request.header(name, value),
            None => request,
        })
    }
}

impl WebConnector {
    async fn dial(&self) -> Result<WebChannel, TransportError> {
        let (stream, peer) = self.dialer.reach().await?;
        let key = key()?;
        let request = self.request(&key)?;
        let check = |response: &Response<Incoming>| self.check(response, &key);
        let switched = switch(stream, request, check, gone(no_web_socket)).await?;
        let made = Made {
            stream: switched.stream,
            read: switched.read,
            role: Role::Client,
            content: self.content,
            half_close: switched.checked,
            kind: self.kind,
            endpoint: self.endpoint.clone(),
            peer,
            principal: None,
            unauthenticated: false,
            memory: self.dialer.memory.clone(),
            held: None,
        };
        Ok(WebChannel::new(made, self.config))
    }

    fn request(&self, key: &str) -> Result<Request<Empty>, TransportError> {
        let mut request = Request::get(&self.dialer.address.target)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, key);
        let offered = self.offered().collect::<Vec<_>>().join(", ");
        if !offered.is_empty() {
            request = request.header(header::SEC_WEBSOCKET_PROTOCOL, offered);
        }
        if self.offers_half_close() {
            request = request.header(header::SEC_WEBSOCKET_EXTENSIONS, HALF_CLOSE);
        }
        let request = self.dialer.introduce(request)?;
        request.body(Empty).map_err(|_| unsendable("the path"))
    }

    /// Whether to offer the half-close. The session protocol has its own end of input.
    fn offers_half_close(&self) -> bool {
        self.content != Content::Carrier
    }

    /// Checks that the response accepts what was requested, and nothing else. Returns whether it accepts the
    /// half-close.
    fn check(&self, response: &Response<Incoming>, key: &str) -> Result<bool, TransportError> {
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.dialer.denied(status));
        }
        let headers = response.headers();
        if !has_word(headers, &header::UPGRADE, "websocket")
            || !has_word(headers, &header::CONNECTION, "upgrade")
        {
            return Err(no_web_socket("the server switched to another protocol".to_owned()));
        }
        if one(headers, &header::SEC_WEBSOCKET_ACCEPT) != Some(accept(key).as_str()) {
            return Err(no_web_socket(
                "the server's Sec-WebSocket-Accept does not match the key".to_owned(),
            ));
        }
        let has_half_close = headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
        let extension = one(headers, &header::SEC_WEBSOCKET_EXTENSIONS);
        if has_half_close && !(self.offers_half_close() && extension == Some(HALF_CLOSE)) {
            return Err(no_web_socket(
                "the server chose an extension that was not offered".to_owned(),
            ));
        }
        let mut chosen = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let (chosen, more) = (chosen.next(), chosen.next());
        if more.is_some() {
            return Err(no_web_socket("the server chose more than one subprotocol".to_owned()));
        }
        let chosen = chosen.map(|value| String::from_utf8_lossy(value.as_bytes()));
        self.check_chosen(chosen.as_deref())?;
        Ok(has_half_close)
    }

    /// The subprotocols to offer.
    fn offered(&self) -> impl Iterator<Item = &str> {
        let session = (self.content == Content::Carrier).then_some(RESUMABLE);
        let named = &self.dialer.client.config.subprotocols;
        session.into_iter().chain(named.iter().map(Subprotocol::as_str))
    }

    /// Checks that the subprotocol that the server chose was offered.
    fn check_chosen(&self, chosen: Option<&str>) -> Result<(), TransportError> {
        match chosen {
            Some(RESUMABLE) if self.content == Content::Carrier => Ok(()),
            _ if self.content == Content::Carrier => {
                let problem = format!("the server did not accept the subprotocol {RESUMABLE}");
                Err(no_session(problem))
            }
            Some(chosen) if self.offered().any(|offered| offered == chosen) => Ok(()),
            Some(chosen) => {
                let problem = format!(
                    "the server chose the subprotocol {:?}, which was not offered",
                    chosen.chars().take(MAX_SHOWN).collect::<String>()
                );
                Err(no_web_socket(problem)
                    .with_hint("offer it with --subprotocol, if you want to use it"))
            }
            None if self.offered().next().is_none() => Ok(()),
            None => {
                let offered = self.offered().collect::<Vec<_>>().join(", ");
                let problem =
                    format!("the server accepted none of the subprotocols offered: {offered}");
                Err(no_web_socket(problem).with_hint("connect without --subprotocol"))
            }
        }
    }
}

/// How many characters of a header an error shows.
const MAX_SHOWN: usize = 64;

/// Returns the value of a header that may appear once.
pub(crate) fn one<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Creates the error for a server that does not accept a session.
pub(crate) fn no_session(problem: String) -> TransportError {
    TransportError::handshake("session", problem)
        .with_hint("omit `resume+`, or enable sessions on the server (tieline serve --resume)")
}

pub(crate) fn failed(kind: ErrorKind) -> TransportError {
    TransportError::new(kind, Operation::Connect)
}

fn no_web_socket(problem: String) -> TransportError {
    TransportError::handshake("WebSocket", problem)
        .with_hint("check host, port and path, and whether the server expects TLS there")
}

fn unreached(error: io::Error) -> TransportError {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        // Unknown host or no route: both may be temporary.
        _ => ErrorKind::NotFound,
    };
    failed(kind).because(error).with_hint("start the server first, or check host and port")
}

/// Returns a function that turns a failure of the handshake into an error: `what` creates it if the server
/// did not speak HTTP.
pub(crate) fn gone(what: fn(String) -> TransportError) -> impl Fn(hyper::Error) -> TransportError {
    move |error| {
        if error.is_parse() {
            return what(format!("the server's response is not HTTP ({error})"));
        }
        match is_tls(&error) {
            true => failed(ErrorKind::Tls).because(io::Error::other(error)),
            false => lost(io::Error::other(error)),
        }
    }
}

/// Whether TLS has failed: a server that requires a client certificate says so only after the handshake.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<rustls::Error>())
    })
}

/// Creates the error for a connection that was lost before the response arrived; a retry may succeed.
pub(crate) fn lost(reason: impl Into<CloseReason>) -> TransportError {
    failed(ErrorKind::Closed(reason.into())).with_hint(
        "the connection ended during the handshake: try again, or check the server's log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_handshake_reports_its_cause_and_whether_it_was_tls() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let cause = io::Error::new(io::ErrorKind::InvalidData, alert);
        let outer = failed(ErrorKind::Io).because(cause);
        assert!(is_tls(&outer) && !is_tls(&io::Error::other("cut")));
        // The message already shows the outer error; the source is the inner one.
        let error = lost(io::Error::other(outer));
        assert!(error.source().unwrap().to_string().contains("CertificateRequired"), "{error:?}");
        assert!(error.is_retryable() && lost(io::Error::other("cut")).source().is_none());
    }
}
