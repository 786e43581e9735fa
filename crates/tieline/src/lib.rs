//! A line between two processes, which carries whole messages over any transport.
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
//! An [`Endpoint`] is an address that can be written as text. Every endpoint leads to the same kind of
//! [`Channel`], with the same limits, the same errors and the same reasons for its end:
//!
//! | endpoint | meaning |
//! |---|---|
//! | `unix:/run/agent.sock` | a Unix socket, accessible to its owner only |
//! | `pipe:agent` | a Windows named pipe, accessible to its owner only |
//! | `exec:claude --verbose` | a child process, over its stdin and stdout |
//! | `stdio:` | this process's own stdin and stdout |
//! | `tcp:127.0.0.1:7000` | a TCP port, without authentication |
//! | `mem:name` | another part of this process |
//! | `ws://127.0.0.1:8080/ws`, `wss:`, `ws-unix:`, `ws-pipe:` | a WebSocket; see [`web::register`] to send a token |
//! | `https://example.org/mcp`, `mcp+https://example.org/other`, `http:`, `http-unix:`, `http-pipe:` | a server that speaks MCP over HTTP |
//! | `http://127.0.0.1:8080/sse`, `https:`, `http-unix:`, `http-pipe:` | server-sent events, with POST requests in the other direction |
//! | `content-length+exec:pylsp` | any endpoint, with another framing |
//! | `resume+unix:/run/agent.sock` | any endpoint, in a session that survives lost connections |
//!
//! # Connecting to a program
//!
//! ```
//! use tieline::{Channel, Incoming, ReceiverExt, SenderExt};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let (mut sender, mut receiver) = tieline::connect("exec:cat").await?.split();
//! sender.send(r#"{"jsonrpc":"2.0","method":"hello"}"#).await?;
//! // Alternatively, `receiver.next_message()` skips faults.
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
//! # Accepting connections
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
//! # JSON-RPC
//!
//! [`rpc::Peer`] uses JSON-RPC 2.0 over any channel, in both directions:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tieline::rpc::Peer;
//!
//! let channel = tieline::connect("exec:my-agent").await?;
//! let peer = Peer::spawn(channel, ());
//! let sum: f64 = peer.call("add", (2, 3)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The directory `examples` contains complete programs of about 30 lines: a client that receives
//! notifications, an agent, a server on a Unix socket and on the web, and a client whose session
//! survives lost connections.
//!
//! # Reconnecting
//!
//! [`link::Link`] is a channel that reconnects: it restarts a program that failed, and retries a server
//! until it is reachable. [`link::Client`] is for applications that connect and disconnect on demand.
//! Both report their progress as [`link::LineState`].
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
//!         Incoming::Reset(reset) => println!("reconnected, after {}", reset.cause),
//!         Incoming::End(_) => break println!("{}", client.state()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Sessions
//!
//! With tieline on both ends, the prefix `resume+` turns the channel into a [`link::Session`]; use it on
//! both sides. *Within a session, every message is delivered exactly once and in order, or the session
//! ends with an error that states which messages were delivered.*
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
//! // This arrives even if the connection is lost in the meantime.
//! sender.send("once").await?;
//! assert!(matches!(receiver.recv().await, Incoming::Message(m) if m == "once"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to go from here
//! - [`Options`]: message limits, timeouts, framing, and the environment of a child process.
//! - [`link::Pool`] keeps lines open for reuse; [`link::HealthMonitor`] monitors the health of a line.
//! - [`process::Guardian`] makes sure that no descendant of a child process survives, even if this program is killed
//!   (Linux).
//! - [`Registry`] adds custom schemes to the built-in ones.
//! - [`web::HttpServer`] serves browsers and scripts, which authenticate with a token.
//! - [`Framed`] combines a transport and a framing chosen at compile time, without boxing.
//! - [`Control`] describes a line: the peer's identity, the message counts, and the reason for the end.
//! - [`TransportError`] describes what failed and where, whether a retry may succeed, and how to solve
//!   the problem.
//!
//! # Features
//!
//! | feature | contents | default |
//! |---|---|---|
//! | `rpc` | the module `rpc`: JSON-RPC 2.0 | yes |
//! | `process` | the module `process`, and the scheme `exec` | yes |
//! | `pool` | `link::Pool` | no |
//! | `web` | the module `web`, and the schemes `ws`, `ws-unix`, `ws-pipe`, `http`, `http-unix` and `http-pipe` | no |
//! | `tls` | `web`, and the schemes `wss` and `https` | no |
//! | `oauth` | `web`, and access tokens for its servers (`OauthConfig`) | no |
//!
//! A build without features (`default-features = false`) supports all other endpoints, sessions and
//! links. An endpoint whose feature is disabled is refused with [`ErrorKind::FeatureMissing`], which
//! names the feature.
//!
//! The crate needs Rust 1.85 and a Tokio runtime with time and I/O enabled.

use std::sync::LazyLock;

/// Reconnecting links, clients, sessions, pools, circuit breakers and health checks.
pub mod link {
    pub use tieline_link::*;
}

/// Child processes: their environment, how they are stopped, and how their descendants are contained.
#[cfg(feature = "process")]
pub mod process {
    #[cfg(any(unix, windows))]
    pub use tieline_transport::{
        ChildExit, Environment, Guardian, Hold, Process, ProcessAccount, ProcessConfig,
        StopTimeouts, resolve, until_children_are_gone,
    };
    #[cfg(target_os = "linux")]
    pub use tieline_transport::{adopt_orphans, reap_orphans};
}

/// The state machines of framing, JSON-RPC, sessions and the web, without I/O.
pub mod proto {
    pub use tieline_proto::*;
}

/// The JSON-RPC 2.0 peer.
#[cfg(feature = "rpc")]
pub mod rpc {
    pub use tieline_rpc::*;
}

/// The layer below this facade: transports, connections, channels, and the traits with which to
/// implement your own.
pub mod transport {
    pub use tieline_transport::*;
}

/// WebSocket, server-sent events with POST, and a web server that authenticates its clients.
#[cfg(feature = "web")]
pub mod web {
    pub use tieline_http::*;
}

pub use tieline_proto::{ByteSize, Fault, FramingKind};
pub use tieline_transport::{
    Acceptor, Address, BoxChannel, Channel, ChannelConfig, CloseReason, Connector, Control,
    DynAcceptor, DynConnector, Endpoint, ErrorKind, Framed, Incoming, MemoryBudget, Options,
    Receiver, ReceiverExt, Registry, Reset, Scheme, SendError, Sender, SenderExt, ServeOptions,
    TransportError, TransportKind, memory_pair, serve,
};

/// The schemes that [`connect`] and [`listen`] support.
static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut registry = Registry::new();
    #[cfg(feature = "web")]
    web::register_with_mcp(&mut registry, web::ClientConfig::default(), tieline_mcp::Remote::boxed);
    #[cfg(not(feature = "web"))]
    without_web(&mut registry);
    registry
});

/// Registers the schemes of a build without the feature `web`. Their errors name the missing feature.
#[cfg(any(test, not(feature = "web")))]
fn without_web(registry: &mut Registry) {
    use tieline_transport::MissingFeature;

    let web = ["ws", "ws-unix", "ws-pipe", "http", "http-unix", "http-pipe"];
    for scheme in web.into_iter().chain(["mcp+http", "mcp+http-unix", "mcp+http-pipe"]) {
        registry.register_missing(
            scheme,
            MissingFeature { what: "WebSockets and HTTP", feature: "web" },
        );
    }
    for scheme in ["wss", "https", "mcp+https"] {
        registry.register_missing(scheme, MissingFeature { what: "TLS", feature: "tls" });
    }
}

/// Connects to `endpoint` with the default [`Options`].
///
/// Cancel-safe: dropping the future leaves no connection or process behind.
///
/// # Errors
/// Fails if the text is not a valid endpoint or its transport cannot connect. Each cause has its own
/// [`ErrorKind`].
pub async fn connect(endpoint: &str) -> Result<BoxChannel, TransportError> {
    connect_with(endpoint, &Options::default()).await
}

/// Connects to `endpoint` with `options`.
///
/// Cancel-safe: dropping the future leaves no connection or process behind.
///
/// # Errors
/// See [`connect`].
pub async fn connect_with(endpoint: &str, options: &Options) -> Result<BoxChannel, TransportError> {
    let endpoint = endpoint.parse()?;
    let session = link::SessionOptions::default();
    link::connector(&REGISTRY, &endpoint, options, session)?.connect().await
}

/// Listens on `endpoint` with the default [`Options`] until the acceptor is dropped.
///
/// # Errors
/// Fails if the text is not a valid endpoint or its transport cannot listen. Each cause has its own
/// [`ErrorKind`].
pub async fn listen(endpoint: &str) -> Result<Box<dyn DynAcceptor>, TransportError> {
    listen_with(endpoint, &Options::default()).await
}

/// Listens on `endpoint` with `options` until the acceptor is dropped.
///
/// # Errors
/// See [`listen`].
pub async fn listen_with(
    endpoint: &str,
    options: &Options,
) -> Result<Box<dyn DynAcceptor>, TransportError> {
    let endpoint = endpoint.parse()?;
    link::listen(&REGISTRY, &endpoint, options, link::SessionOptions::default()).await
}

/// Creates a client of `endpoint`, which connects on demand. Does no I/O.
///
/// # Errors
/// Fails if the text is not a valid endpoint or an option does not apply to it.
pub fn client(
    endpoint: &str,
    options: &Options,
    client: link::ClientOptions,
) -> Result<link::Client, TransportError> {
    link::Client::new(&REGISTRY, &endpoint.parse()?, options, client)
}

/// Connects to `endpoint` with a [`Session`](link::Session). The prefix `resume+` is optional here. A
/// session provides its [`states`](link::Session::states), which the channel of [`connect`] does not.
///
/// Cancel-safe: dropping the future leaves no connection or process behind.
///
/// # Errors
/// Fails if the first connection fails or the server refuses the session; see [`connect`].
pub async fn connect_session(
    endpoint: &str,
    options: &Options,
    session: link::SessionOptions,
) -> Result<link::Session, TransportError> {
    link::connect_session(&REGISTRY, &endpoint.parse()?, options, session).await
}

/// Connects to `endpoint` with a [`Link`](link::Link), which reconnects.
///
/// Cancel-safe: dropping the future leaves no connection or process behind.
///
/// # Errors
/// Fails if the first connection fails; see [`connect`].
pub async fn connect_link(
    endpoint: &str,
    options: &Options,
    link: link::LinkOptions,
) -> Result<link::Link, TransportError> {
    let session = link::SessionOptions::default();
    let connector = link::connector(&REGISTRY, &endpoint.parse()?, options, session)?;
    link::Link::connect(connector, link).await
}

#[cfg(test)]
#[tokio::test]
async fn error_for_a_web_scheme_names_the_missing_feature() {
    let mut registry = Registry::new();
    without_web(&mut registry);
    let web =
        "this build lacks WebSockets and HTTP; enable the feature \"web\" of the crate tieline";
    let tls = "this build lacks TLS; enable the feature \"tls\" of the crate tieline";
    for (endpoint, expected) in [
        ("ws://127.0.0.1:1/ws", web),
        ("http-unix:/run/a.sock", web),
        ("wss://example.com/ws", tls),
        ("https://example.com/sse", tls),
    ] {
        let endpoint: Endpoint = endpoint.parse().unwrap_or(Endpoint::stdio());
        let connected = registry.connect(&endpoint, &Options::default()).await.err();
        let listening = registry.listen(&endpoint, &Options::default()).await.err();
        for (error, operation) in [(connected, "connect to"), (listening, "listen on")] {
            let shown = error.map(|error| error.to_string());
            assert_eq!(shown, Some(format!("cannot {operation} {endpoint}: {expected}")));
        }
    }
}
