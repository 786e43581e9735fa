//! Byte-stream transports and message channels on top of them.
//!
//! ```text
//!   Endpoint     unix:/run/agent.sock · pipe:agent · exec:claude --verbose · stdio: · tcp:host:port · mem:name
//!      │
//!      ▼
//!   Transport ── connect, listen ──▶ Connection      bytes, identity, health, close
//!      │ + Framing (tieline-proto)
//!      ▼
//!   Connector ── connect ──┐
//!   Acceptor ─── accept ───┴───────▶ Channel         whole messages: Sender + Receiver
//! ```
//!
//! [`Registry`] turns an endpoint's text into a [`Channel`] of messages in one step. With types known
//! at compile time, [`Framed`] puts a framing on a transport: `Framed<Unix, Lines>`. A custom
//! transport implements [`Transport`] and registers its scheme.
//!
//! # Example
//!
//! ```
//! use tieline_transport::{Channel, Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let endpoint: Endpoint = "exec:cat".parse()?;
//! let channel = Registry::new().connect(&endpoint, &Options::default()).await?;
//! let (mut sender, mut receiver) = channel.split();
//!
//! sender.send(r#"{"hello":"world"}"#).await?;
//! sender.close().await?; // the end of cat's input
//!
//! let Incoming::Message(message) = receiver.recv().await else { panic!("no message") };
//! assert_eq!(message, r#"{"hello":"world"}"#);
//! let Incoming::End(reason) = receiver.recv().await else { panic!("no end") };
//! assert!(reason.is_clean(), "{reason}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//! - A channel is passive: no bytes move unless the caller sends or receives, and no background task
//!   runs for it, except the task that reads a child's stderr.
//! - Every queue is bounded. A `recv` that is dropped before it completes loses nothing; a `send` that
//!   is dropped before it completes has queued either the whole message or nothing.
//! - Dropping both halves ends the line at once, together with its child process or socket, and needs
//!   no runtime.
//! - A bad message is reported as a [`Fault`](tieline_proto::Fault), and the line continues. The end of
//!   a line is reported as a [`CloseReason`], which can be cloned and queried later.

// The options of child processes exist in every build, so that `Options` is the same.
#![cfg_attr(not(feature = "process"), allow(dead_code))]

mod account;
mod budget;
mod channel;
mod child_stderr;
mod close;
mod connection;
mod control;
mod deadline;
mod endpoint;
mod environment;
mod error;
mod files;
mod guardian;
mod info;
mod memory;
mod missing_feature;
mod options;
mod owner;
mod peer_reason;
mod pipe;
mod principal;
mod profile;
mod public_reason;
mod registry;
mod serve;
mod tcp;
mod throttle;
mod transport;

#[cfg(unix)]
mod anonymous_pipe;
#[cfg(unix)]
mod hangup;
#[cfg(all(feature = "process", any(unix, windows)))]
mod process;
#[cfg(unix)]
mod readiness;
#[cfg(any(unix, windows))]
mod stdio;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use account::{ProcessAccount, ProcessCounts};
pub use budget::{Account, Holding, MemoryBudget, MemoryRefused};
pub use channel::{
    Acceptor, BoxChannel, Channel, Connector, DynAcceptor, DynConnector, Framed, FramedAcceptor,
    FramedChannel, FramedReceiver, FramedSender, Incoming, Outgoing, ReadBuffer, Receiver,
    ReceiverExt, Refused, Reset, SendError, Sender, SenderExt, SharedSender, StallClock,
    WriteQueue,
};
pub use child_stderr::{ChildStderr, StderrLines, StderrSink};
pub use close::{
    ChildExit, CloseReason, GivenUp, LostBy, NotPassedOn, NotRestored, SessionLost, Unresponsive,
};
pub use connection::{
    BoxConnection, Connection, ConnectionExt, IoConnection, ReadEnd, ReadHalf, WriteEnd, WriteHalf,
};
pub use control::{Backing, BoxFuture, Control, ControlBuilder};
pub use deadline::from_now;
pub use endpoint::{Address, Endpoint, is_loopback, is_secret_name, percent_decoded, redact};
pub use environment::Environment;
pub use error::{ConfigError, ErrorKind, Operation, TransportError};
pub use files::{open_secret, warn_if_exposed};
pub use guardian::{Guardian, Hold};
pub use info::{Capabilities, ConnectionInfo, Health, SessionInfo, Traffic, TransportKind};
pub use memory::{
    Memory, MemoryChannel, MemoryConfig, MemoryConnection, MemoryListener, memory_pair,
};
pub use missing_feature::MissingFeature;
pub use options::{ChannelConfig, Options, StopTimeouts};
pub use owner::Owner;
pub use peer_reason::PeerReason;
pub use pipe::{Pipe, PipeConfig, PipeConnection, PipeListener};
pub use principal::Principal;
pub use profile::PerformanceProfile;
pub use registry::{Registry, Scheme};
pub use serve::{ServeOptions, serve};
pub use tcp::{Tcp, TcpConfig, TcpConnection, TcpListener};
pub use throttle::WarnThrottle;
pub use transport::{
    DynListener, DynTransport, Listener, NoListener, RefusalNotice, Transport, TransportConfig,
};

#[cfg(all(feature = "process", any(unix, windows)))]
pub use process::{
    ChildStdin, ChildStdout, Process, ProcessConfig, ProcessConnection, resolve,
    until_children_are_gone,
};
#[cfg(all(feature = "process", target_os = "linux"))]
pub use process::{adopt_orphans, check_cgroup, reap_orphans};
#[cfg(all(feature = "process", unix))]
pub use process::{is_signal_ignored, reset_inherited, start_detached, was_started_without_stdout};
#[cfg(unix)]
pub use readiness::unsent;
#[cfg(any(unix, windows))]
pub use stdio::{Stdin, Stdio, StdioConfig, StdioConnection, Stdout, stdout_closed};
#[cfg(unix)]
pub use unix::{
    PeerIdentity, Unix, UnixAddress, UnixConfig, UnixConnection, UnixListener, UnixWriteHalf,
};
#[cfg(windows)]
pub use windows::{PeerIdentity, PipeReadHalf, PipeWriteHalf, Sid};
