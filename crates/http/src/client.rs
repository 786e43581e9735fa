//! Connects to WebSocket endpoints.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header;
use hyper::{Request, Response, StatusCode};
use tieline_proto::json::Limits;
use tieline_proto::websocket::Role;
use tieline_transport::{
    BoxFuture, Connector, DynAcceptor, DynConnector, Endpoint, ErrorKind, Operation, Options,
    Registry, Scheme, TransportError, TransportKind,
};

use crate::address::{MCP, WebAddress};
use crate::client_config::ClientConfig;
use crate::credentials::unsendable;
use crate::dial_error::no_session;
use crate::dialer::{Client, Dialer};
use crate::events::EventStreams;
use crate::exchange::{Exchanges, NewExchange};
use crate::handshake::{HALF_CLOSE, RESUMABLE, accept, has_word, key, one};
use crate::subprotocol::Subprotocol;
use crate::switch::{Empty, gone, switch};
use crate::websocket::{Content, Made, WebChannel, WebSocketConfig};

/// Registers `ws:`, `wss:`, `ws-unix:` and `ws-pipe:` for WebSockets, and `http:`, `https:`, `http-unix:` and
/// `http-pipe:` for events and POSTs, all with `config`.
pub fn register(registry: &mut Registry, config: ClientConfig) {
    let client = Arc::new(Client::new(config));
    for scheme in ["ws", "wss", "ws-unix", "ws-pipe"] {
        registry.register(scheme, WebSockets(client.clone()));
    }
    for scheme in ["http", "https", "http-unix", "http-pipe"] {
        registry.register(scheme, EventStreams(client.clone()));
    }
}

/// Works like [`register`]. Also registers `mcp+http:`, `mcp+https:`, `mcp+http-unix:` and `mcp+http-pipe:` for
/// the protocol that `machine` implements. The same schemes without `mcp+` are for this protocol, too, if the
/// last segment of the path is `mcp`.
pub fn register_with_mcp(registry: &mut Registry, config: ClientConfig, machine: NewExchange) {
    register(registry, config.clone());
    let client = Arc::new(Client::new(config));
    for scheme in ["http", "https", "http-unix", "http-pipe"] {
        registry.register(scheme, Exchanges::new(client.clone(), machine));
        registry.register(format!("{MCP}{scheme}"), Exchanges::new(client.clone(), machine));
    }
}

/// Connects to the WebSocket at `endpoint`, as a registry does, but returns the channel's own type.
///
/// Cancel-safe: dropping the future drops the connection attempt.
///
/// # Errors
/// The connection attempt failed. Each cause has its own [`ErrorKind`].
pub async fn connect(
    endpoint: &Endpoint,
    config: ClientConfig,
    options: &Options,
) -> Result<WebChannel, TransportError> {
    let client = Arc::new(Client::new(config));
    let connector = WebSockets(client).typed(endpoint, options);
    Connector::connect(&connector.map_err(|error| error.at(endpoint))?).await
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
        "ws-pipe" => "ws-pipe",
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

    /// Returns whether to offer half-close. The session protocol signals the end of input itself.
    fn offers_half_close(&self) -> bool {
        self.content != Content::Carrier
    }

    /// Checks that the response accepts the upgrade and chooses only subprotocols and extensions that
    /// were offered. Returns whether it accepts half-close.
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

    /// Returns the subprotocols to offer.
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

/// The maximum number of characters of a header that an error shows.
const MAX_SHOWN: usize = 64;

fn no_web_socket(problem: String) -> TransportError {
    TransportError::handshake("WebSocket", problem)
        .with_hint("check host, port and path, and whether the server expects TLS there")
}
