//! One line between two processes: it carries whole messages over whatever lies underneath.
//!
//! ```text
//!            connect("exec:my-agent")                      listen("unix:/run/me/agent.sock")
//!                      │                                                 │ accept
//!                      ▼                                                 ▼
//!                  Channel ◀───────── whole messages, both ways ─────▶ Channel
//!                 ┌────┴─────┐
//!              Sender     Receiver ── Message(bytes) │ Fault(one bad message) │ End(reason)
//! ```
//!
//! An [`Endpoint`] is text. Whatever it names, what comes out is the same [`Channel`], with the same
//! limits, errors and end:
//!
//! | endpoint | what it is |
//! |---|---|
//! | `unix:/run/agent.sock` | a Unix socket, for its owner alone |
//! | `pipe:agent` | a Windows named pipe, for its owner alone |
//! | `exec:claude --verbose` | a child process on its stdin and stdout |
//! | `stdio:` | this process's own stdin and stdout |
//! | `tcp:127.0.0.1:7000` | a TCP port, without authentication |
//! | `mem:name` | inside this process |
//! | `ws://127.0.0.1:8080/ws`, `wss:`, `ws-unix:` | a WebSocket; for a token see [`web::register`] |
//! | `http://127.0.0.1:8080/sse`, `https:`, `http-unix:` | events one way, POSTs the other |
//! | `content-length+exec:pylsp` | any of them, with the framing in front |
//! | `resume+unix:/run/agent.sock` | any of them, in a session that survives its connections |
//!
//! # Talk to a program
//!
//! ```
//! use tieline::{Channel, Incoming, ReceiverExt, SenderExt};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let (mut sender, mut receiver) = tieline::connect("exec:cat").await?.split();
//! sender.send(r#"{"jsonrpc":"2.0","method":"hello"}"#).await?;
//! match receiver.recv().await {
//!     Incoming::Message(message) => assert_eq!(message, r#"{"jsonrpc":"2.0","method":"hello"}"#),
//!     Incoming::Fault(fault) => eprintln!("one bad message: {fault}"),
//!     Incoming::End(reason) => eprintln!("the line has ended: {reason}"),
//!     _ => {}
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Be reached
//!
//! ```
//! use tieline::{Channel, Incoming, ReceiverExt, SenderExt};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("agent.sock");
//! # runtime.block_on(async {
//! let endpoint = format!("unix:{}", path.display());
//! let mut acceptor = tieline::listen(&endpoint).await?;
//! let client = tokio::spawn(async move { tieline::connect(&endpoint).await });
//!
//! let channel = acceptor.accept().await?;
//! println!("{:?} has connected", channel.control().peer());
//! let (mut sender, _receiver) = channel.split();
//! sender.send("welcome").await?;
//!
//! let (_sender, mut receiver) = client.await??.split();
//! assert!(matches!(receiver.recv().await, Incoming::Message(m) if m == "welcome"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Call and answer
//!
//! [`rpc::Peer`] speaks JSON-RPC 2.0 over any channel, both ways:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tieline::rpc::{Peer, PeerOptions};
//!
//! let channel = tieline::connect("exec:my-agent").await?;
//! let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
//! tokio::spawn(driver);
//! let sum: f64 = peer.call("add", (2, 3)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! An agent that answers is thirty lines: `crates/tieline/examples/agent.rs`.
//!
//! # Come back
//!
//! [`link::Link`] is a channel that connects again: a program that has failed is started again, a
//! server is sought until it is there. [`link::Client`] is for hosts that connect and disconnect as
//! they like. Both tell how far they have come ([`link::State`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tieline::link::ClientOptions;
//! use tieline::{Incoming, Options, ReceiverExt};
//!
//! let client = tieline::client("exec:my-server", &Options::default(), ClientOptions::default())?;
//! let mut messages = client.connect().await?;
//! client.send(r#"{"jsonrpc":"2.0","method":"hello"}"#).await?;
//! loop {
//!     match messages.recv().await {
//!         Incoming::Message(message) => println!("{message:?}"),
//!         Incoming::Reset(reset) => println!("a new one, after {}", reset.cause),
//!         Incoming::End(_) => break println!("{}", client.state()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Lose nothing
//!
//! Between two ends of tieline, `resume+` in front of an endpoint makes a [`link::Session`] of the
//! channel, on both sides. *Within a session every message is delivered once, in order, or the session
//! ends with an error that says what was delivered.*
//!
//! ```
//! use tieline::{Channel, Incoming, ReceiverExt, SenderExt};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("agent.sock");
//! # runtime.block_on(async {
//! let endpoint = format!("resume+unix:{}", path.display());
//! let mut acceptor = tieline::listen(&endpoint).await?;
//! let (client, server) = tokio::join!(tieline::connect(&endpoint), acceptor.accept());
//!
//! let (mut sender, _keep) = client?.split();
//! let (_keep_too, mut receiver) = server?.split();
//! // Whatever becomes of the connection meanwhile.
//! sender.send("once").await?;
//! assert!(matches!(receiver.recv().await, Incoming::Message(m) if m == "once"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to read on
//! - [`Options`]: message limits, timeouts, framing, environment of a child.
//! - [`link::Pool`]: lines that are kept for the next who needs one; [`link::HealthMonitor`]: how one does.
//! - [`Guardian`]: nothing that comes of a child is left, also when this program is killed (Linux).
//! - [`Registry`]: schemes of one's own beside the built-in ones.
//! - [`web::Web`]: be reached by browsers and scripts, and by nobody who has no token.
//! - [`Framed`]: a transport and a framing known at compile time, with nothing boxed.
//! - [`Control`]: who is on the other end, what was counted, and why it ended.
//! - [`TransportError`]: what failed, where, whether to try again, and what to do about it.
//!
//! Needs a tokio runtime with time and I/O enabled.

use std::sync::LazyLock;

/// Lines that come back, clients that come and go, pools, breakers and health.
pub mod link {
    pub use tieline_link::*;
}

/// The JSON-RPC 2.0 peer.
pub mod rpc {
    pub use tieline_rpc::*;
}

/// WebSockets, and the server of the web that checks everyone first.
pub mod web {
    pub use tieline_http::*;
}

pub use tieline_proto::*;
pub use tieline_transport::*;

/// The schemes behind [`connect`] and [`listen`].
static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut registry = Registry::new();
    web::register(&mut registry, web::ClientConfig::default());
    registry
});

/// Connects to `endpoint` with the default [`Options`]. Cancel-safe: a dropped attempt leaves
/// nothing behind.
///
/// # Errors
/// The text is no endpoint, or its transport cannot connect: each cause has its own [`ErrorKind`].
pub async fn connect(endpoint: &str) -> Result<BoxChannel, TransportError> {
    connect_with(endpoint, &Options::default()).await
}

/// Connects to `endpoint` with `options`. Cancel-safe: a dropped attempt leaves nothing behind.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(endpoint: &str, options: &Options) -> Result<BoxChannel, TransportError> {
    let endpoint = endpoint.parse()?;
    let session = link::SessionOptions::default();
    link::connector(&REGISTRY, &endpoint, options, session)?.connect().await
}

/// Listens on `endpoint` with the default [`Options`], until the acceptor is dropped.
///
/// # Errors
/// The text is no endpoint, or its transport cannot listen: each cause has its own [`ErrorKind`].
pub async fn listen(endpoint: &str) -> Result<Box<dyn DynAcceptor>, TransportError> {
    listen_with(endpoint, &Options::default()).await
}

/// Listens on `endpoint` with `options`, until the acceptor is dropped.
///
/// # Errors
/// As [`listen`].
pub async fn listen_with(
    endpoint: &str,
    options: &Options,
) -> Result<Box<dyn DynAcceptor>, TransportError> {
    let endpoint = endpoint.parse()?;
    link::listen(&REGISTRY, &endpoint, options, link::SessionOptions::default()).await
}

/// A client of `endpoint`, which connects when it is told to. Does no I/O.
///
/// # Errors
/// The text is no endpoint, or an option does not fit.
pub fn client(
    endpoint: &str,
    options: &Options,
    client: link::ClientOptions,
) -> Result<link::Client, TransportError> {
    link::Client::new(&REGISTRY, &endpoint.parse()?, options, client)
}

/// Connects to `endpoint` by a line that comes back. Cancel-safe: a dropped attempt leaves nothing
/// behind.
///
/// # Errors
/// As [`connect`], of the first connection.
pub async fn connect_link(
    endpoint: &str,
    options: &Options,
    link: link::LinkOptions,
) -> Result<link::Link, TransportError> {
    let session = link::SessionOptions::default();
    let connector = link::connector(&REGISTRY, &endpoint.parse()?, options, session)?;
    link::Link::connect(connector, link).await
}
