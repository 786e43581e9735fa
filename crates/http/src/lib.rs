//! The line on the web: WebSockets, events and POSTs both ways, and an HTTP server that checks everyone first.
//!
//! ```text
//!   ws://host/ws ──── Registry ──▶ WebChannel ─┬─ channels like any other
//!   http://host/sse ─ Registry ──▶ EventChannel┘
//!
//!   browser, script, tieline ──▶ HttpServer ─ host, origin, token ──┬─ /ws  ─┬─▶ WebAcceptor
//!                                  no program is started before   ├─ /sse ─┤
//!                                                                 └─ /rpc ─┘
//! ```
//!
//! In a WebSocket a message is a text frame where it is UTF-8, as all JSON is, else a binary one; both are
//! taken, and so are several messages of a line each in one text. In a stream of events each is an event one
//! way, and a POST the other. `resume+` in front of a URL asks for the protocol [`RESUMABLE`], which carries
//! the frames of a session; an EventSource, which can ask for nothing, has one all the same. `docs/web-protocol.md`
//! has the rest.
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
mod channel;
mod client;
mod credentials;
mod drain;
mod events;
mod handshake;
mod public_url;
mod server;
mod stream;
mod subprotocol;
mod task;
mod tls;
mod token;

pub use address::{Place, WebAddress};
pub use channel::{WebChannel, WebReceiver, WebSender, WebSocketConfig};
pub use client::{ClientConfig, connect, register};
pub use events::{EventChannel, EventReceiver, EventSender};
pub use handshake::{PLAIN, RESUMABLE, TOKEN_PREFIX};
pub use public_url::PublicUrl;
pub use server::{
    Access, HttpServer, ServerConfig, ServerCounts, ServerLimits, WebAcceptor, WebLine,
};
pub use subprotocol::Subprotocol;
pub use tls::{ClientIdentity, ClientTls, ServerTls};
pub use token::Token;
