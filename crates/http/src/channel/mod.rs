//! A WebSocket as a [`Channel`](tieline_transport::Channel).
//!
//! ```text
//!   WebSender ───▶ ┌──────────────────────────┐
//!                  │ Shared: queue, masks,    ├──▶ one write for many frames
//!   WebReceiver ──▶│ close; under one lock    │
//!     ▲  pongs,    └──────────────────────────┘
//!     │  pings, close
//!     └── read ── Decoder ── messages
//! ```
//!
//! As every channel it is passive: whoever receives answers pings, sends them on an idle line, and
//! carries out the other side's wish to close. Both halves write, so a write that has to wait wakes
//! both. While the receiver is not polled, because its consumer is busy, the sender pings when it is flushed
//! (`keepalive`).

mod input;
mod keepalive;
mod out;
mod reason;
mod receiver;
mod sender;
mod shared;

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
pub(crate) use reason::{heard, told};
pub use sender::WebSender;
pub(crate) use shared::{Shared, lock};

use self::out::Out;
use self::receiver::Reader;
use self::shared::{Counts, Lifeline};
use crate::stream::Stream;

/// What a WebSocket needs to know.
#[derive(Clone, Copy, Debug)]
pub struct WebSocketConfig {
    /// Limits, queue and the deadline of a write.
    pub channel: ChannelConfig,
    /// When an idle line is asked whether anybody is there; `None`: never.
    pub heartbeat: Option<HeartbeatConfig>,
    /// How long the other side may take for its part of the close handshake, and how long what is left
    /// to be sent may take behind its own; 10 s by default.
    pub close_timeout: Duration,
    /// Messages pass as they are, empty ones and those of several lines, too, for programs to which it
    /// matters what is text and what is binary ([`WebReceiver::kind`], [`WebSender::set_kind`]); no by
    /// default. Sessions are not concerned.
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

/// What its messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Whatever is UTF-8 goes as text, all else as binary; of a text that comes, each line can be a
    /// message. With limits, each that comes must be JSON within them.
    Plain(Option<Limits>),
    /// The frames of a session: binary alone.
    Carrier,
    /// As they are.
    Verbatim,
}

/// What is known of a WebSocket that was just made.
pub(crate) struct Made {
    pub(crate) stream: Stream,
    /// What was read of it behind the handshake.
    pub(crate) read: BytesMut,
    pub(crate) role: Role,
    pub(crate) content: Content,
    /// The client can end its input and still receive, as was negotiated.
    pub(crate) half_close: bool,
    pub(crate) kind: TransportKind,
    pub(crate) endpoint: Endpoint,
    pub(crate) peer: Option<PeerIdentity>,
    /// Whom the gate has let in.
    pub(crate) principal: Option<Principal>,
    /// Anybody may have made it.
    pub(crate) unauthenticated: bool,
    /// What counts what it holds in memory.
    pub(crate) memory: Option<MemoryBudget>,
    /// Let go of with the last half.
    pub(crate) held: Option<Box<dyn Send + Sync>>,
}

/// A [`Channel`] over a WebSocket.
///
/// # Half-close
///
/// [`close`](tieline_transport::SenderExt::close) ends the line; what the other side had sent before still
/// arrives. Between two ends of tieline a client's `close` ends only its input, and it still receives, if
/// [`Capabilities::half_close`] is set and no reason was noted with [`Control::say_at_close`].
///
/// # Close frame
///
/// The close frame says why, if a reason was noted ([`Control::say_at_close`]): a child that failed is 1011, an
/// overrun 1013, a stop 1001, and so on. Dropping both halves ends the line at once; if nothing is queued, a close
/// frame is tried.
pub struct WebChannel {
    sender: WebSender,
    receiver: WebReceiver,
    control: Control,
}

/// What is expected of a WebSocket.
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
            Content::Plain(_) if config.verbatim => Content::Verbatim,
            content => content,
        };
        let memory = made.memory.as_ref();
        let out = Out::new(write, made.role, &config.channel, memory);
        let shared = Shared::new(out, content, config, ends_input, counts, control.clone());
        let shared = Arc::new(shared);
        let reader = Reader::new(read, made.read, made.role, expects_end, shared.clone(), memory);
        let lifeline = Arc::new(Lifeline::new(shared.clone()));
        Self {
            sender: WebSender::new(shared.clone(), lifeline.clone()),
            receiver: WebReceiver::new(reader, shared, lifeline),
            control,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
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

/// A server that shuts down.
pub(crate) fn going_away() -> Close {
    Close::because(CloseCode::GOING_AWAY, "the server shuts down")
}
