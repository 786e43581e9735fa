//! A WebSocket as a [`Channel`].
//!
//! ```text
//!   WebSender ───▶ ┌──────────────────────────┐
//!                  │ SharedSocket: queue,     ├──▶ one write for many frames
//!   WebReceiver ──▶│ masks, close; one lock   │
//!     ▲  pongs,    └──────────────────────────┘
//!     │  pings, close
//!     └── read ── Decoder ── messages
//! ```
//!
//! Like every channel, a WebSocket is passive: polling the receiver answers pings, sends pings on an
//! idle line, and completes the other side's close handshake. Both halves write, so a write that has to
//! wait wakes both. While the receiver is not polled because its consumer is busy, flushing the sender
//! sends the pings (`keepalive`).

mod input;
mod keepalive;
mod out;
mod reason;
mod receiver;
mod sender;
mod shared_socket;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tieline_proto::HeartbeatConfig;
use tieline_proto::json::Limits;
use tieline_proto::websocket::{Close, CloseCode, Role};
use tieline_transport::{
    Capabilities, Channel, ChannelConfig, Connection, Control, ControlBuilder, Endpoint,
    IoConnection, MemoryBudget, PeerIdentity, PerformanceProfile, Principal, TransportKind,
};

pub use input::WebReceiver;
pub(crate) use reason::{close_for, reason_of};
pub use sender::WebSender;
pub(crate) use shared_socket::SharedSocket;

use self::out::Out;
use self::receiver::Reader;
use self::shared_socket::{Counts, Lifeline};
use crate::stream::Stream;

/// The configuration of a WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct WebSocketConfig {
    /// Limits, queue sizes and the stall timeout of writes.
    pub channel: ChannelConfig,
    /// When to ping an idle connection; never if `None`.
    pub heartbeat: Option<HeartbeatConfig>,
    /// How long the other side may take to complete the close handshake, and how long this side may take to
    /// send its remaining messages after the other side has closed; 10 s by default.
    pub close_timeout: Duration,
    /// Whether messages are passed on unchanged, including empty and multi-line ones, for programs that
    /// distinguish text from binary ([`WebReceiver::kind`], [`WebSender::set_kind`]); false by default.
    /// Sessions ignore this.
    pub verbatim: bool,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            channel: ChannelConfig::default(),
            heartbeat: Some(HeartbeatConfig::default()),
            close_timeout: Duration::from_secs(10),
            verbatim: false,
        }
    }
}

/// The content of a WebSocket's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Plain messages. UTF-8 is sent as text, and everything else is sent as binary. Each line of a
    /// received text can be a message. With limits, every received message must be JSON within these
    /// limits.
    Plain(Option<Limits>),
    /// The same, but binary messages of the other side are ignored.
    Texts(Option<Limits>),
    /// The frames of a session, which are binary.
    Carrier,
    /// Messages that are passed on unchanged.
    Verbatim,
}

/// The parameters of a new WebSocket channel.
pub(crate) struct Made {
    pub(crate) stream: Stream,
    /// The bytes that were read after the handshake.
    pub(crate) read: BytesMut,
    pub(crate) role: Role,
    pub(crate) content: Content,
    /// Whether the client can end its input and still receive, as negotiated.
    pub(crate) half_close: bool,
    pub(crate) kind: TransportKind,
    pub(crate) endpoint: Endpoint,
    pub(crate) peer: Option<PeerIdentity>,
    /// The authenticated principal.
    pub(crate) principal: Option<Principal>,
    /// Whether the client was not authenticated.
    pub(crate) unauthenticated: bool,
    pub(crate) memory: Option<MemoryBudget>,
    /// A value to drop when the line ends or both halves are dropped.
    pub(crate) held: Option<Box<dyn Send + Sync>>,
}

/// A [`Channel`] over a WebSocket.
///
/// # Half-close
///
/// [`close`](tieline_transport::SenderExt::close) ends the line; messages that the other side has sent
/// before still arrive. Between two tieline endpoints, a client's `close` ends only its input, and it
/// still receives, if [`Capabilities::half_close`] is set and no reason was set with
/// [`Control::report_at_close`].
///
/// # Close frame
///
/// The close frame states the reason set with [`Control::report_at_close`]: 1011 for a failed child
/// process, 1013 for an overrun, 1001 for a stop, and so on. Dropping both halves ends the line at once.
/// The close frame is then sent only if nothing is queued and it can be written without waiting.
pub struct WebChannel {
    sender: WebSender,
    receiver: WebReceiver,
    control: Control,
}

/// The expected performance of a WebSocket.
const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(5),
    round_trip: Duration::from_micros(200),
    throughput: tieline_proto::ByteSize::new(400_000_000),
};

impl WebChannel {
    pub(crate) fn new(made: Made, config: WebSocketConfig) -> Self {
        let peer_identity = made.peer.is_some();
        let ends_input = made.half_close && made.role == Role::Client;
        let expects_end = made.half_close && made.role == Role::Server;
        let counts = Arc::new(Counts::holding(made.held, made.principal));
        let builder = ControlBuilder {
            kind: made.kind,
            endpoint: made.endpoint,
            peer: made.peer,
            capabilities: Capabilities {
                peer_identity,
                unauthenticated: made.unauthenticated,
                half_close: ends_input,
                notices_hangup: true,
                ..Capabilities::default()
            },
            profile: PROFILE,
            backing: counts.clone(),
        };
        let control = builder.build();
        let (read, write) = made.stream.split();
        let (read, write) = IoConnection::new(read, write, control.clone()).into_split();
        let content = match made.content {
            Content::Plain(_) | Content::Texts(_) if config.verbatim => Content::Verbatim,
            content => content,
        };
        let memory = made.memory.as_ref();
        let out = Out::new(write, made.role, &config.channel, memory);
        let shared = SharedSocket::new(out, content, config, ends_input, counts, control.clone());
        let shared = Arc::new(shared);
        let reader = Reader::new(read, made.read, made.role, expects_end, shared.clone(), memory);
        let lifeline = Arc::new(Lifeline::new(shared.clone()));
        Self {
            sender: WebSender::new(shared.clone(), lifeline.clone()),
            receiver: WebReceiver::new(reader, shared, lifeline),
            control,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<SharedSocket> {
        self.sender.shared()
    }
}

impl Channel for WebChannel {
    type Sender = WebSender;
    type Receiver = WebReceiver;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (WebSender, WebReceiver) {
        (self.sender, self.receiver)
    }
}

/// Returns the close frame of a server that is shutting down.
pub(crate) fn going_away() -> Close {
    Close::because(CloseCode::GOING_AWAY, "shutting down")
}
