//! WebSockets, server-sent events and POSTs as channels, and an HTTP server with access control.
//!
//! ```text
//!   ws://host/ws ──── Registry ──▶ WebChannel ─┬─ channels like any other
//!   http://host/sse ─ Registry ──▶ EventChannel┘
//!
//!   browser, script, tieline ──▶ HttpServer ─ host, origin, token ──┬─ /ws  ─┬─▶ WebAcceptor
//!                                  access control comes before    ├─ /sse ─┤
//!                                  anything is started            └─ /rpc ─┘
//! ```
//!
//! A WebSocket carries each message as a text frame if it is UTF-8, as all JSON is, and as a binary
//! frame otherwise. Both kinds are accepted, and so is a text frame with several messages, one on each
//! line. An event stream carries each message as an event in one direction and in a POST in the other.
//! `resume+` before a URL requests the protocol [`RESUMABLE`], which carries the frames of a session. An
//! EventSource, which cannot request a protocol, gets a session from the server. `docs/web-protocol.md`
//! describes the protocol in full.
//!
//! # Example
//!
//! ```
//! use tieline_http::{ClientConfig, HttpServer, ServerConfig, Token, register};
//! use tieline_transport::{Acceptor, Channel, Incoming, Options, ReceiverExt, Registry, SenderExt};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let token = Token::random()?;
//! let config = ServerConfig::at(&"http://127.0.0.1:0".parse()?, token.clone())?;
//! let (web, mut plain, _resumable) = HttpServer::listen(config).await?;
//!
//! let mut registry = Registry::new();
//! register(&mut registry, ClientConfig { token: Some(token), ..ClientConfig::default() });
//! let url = format!("{}/ws", web.endpoint()).replace("http:", "ws:").parse()?;
//! let options = Options::default();
//! let (client, server) = tokio::join!(registry.connect(&url, &options), plain.accept());
//!
//! let (mut sender, _receiver) = client?.split();
//! let (_sender, mut receiver) = server?.split();
//! sender.send(r#"{"hello":"web"}"#).await?;
//! let Incoming::Message(message) = receiver.recv().await else { panic!("no message") };
//! assert_eq!(message, r#"{"hello":"web"}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
mod client;
mod client_config;
mod credentials;
mod dial_error;
mod dialer;
mod drain;
mod events;
mod exchange;
#[cfg(feature = "oauth")]
mod fetch;
mod handshake;
mod local;
mod lock;
mod proxy;
mod public_url;
mod request_header;
mod server;
mod stream;
mod subprotocol;
mod switch;
mod task;
mod tls;
mod token;
mod unsent;
mod websocket;

pub use address::{Place, WebAddress};
pub use client::{connect, register, register_with_mcp};
pub use client_config::ClientConfig;
pub use events::{EventChannel, EventReceiver, EventSender};
pub use exchange::NewExchange;
pub use handshake::{PLAIN, RESUMABLE, TOKEN_PREFIX};
pub use proxy::Proxies;
pub use public_url::PublicUrl;
pub use request_header::{BasicAuth, RequestHeader};
pub use server::{
    Access, EventWriter, HttpServer, LineAcceptor, LoginUrls, OauthConfig, Responding, Route,
    RouteHandler, RouteLine, RouteRequest, RouteResponse, ServerConfig, ServerCounts, ServerLimits,
    WebAcceptor, WebLine,
};
pub use subprotocol::Subprotocol;
#[cfg(feature = "tls")]
pub use tls::system_roots;
pub use tls::{ClientIdentity, ClientTls, ServerTls};
pub use token::Token;
pub use websocket::{WebChannel, WebReceiver, WebSender, WebSocketConfig};
