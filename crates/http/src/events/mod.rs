//! Channels over server-sent events in one direction and POSTs in the other.
//!
//! ```text
//!   EventSender ───▶ ┌──────────────┐ ───▶ ChannelBackend ─▶ events of a GET     (a server)
//!                    │ two queues,  │                        POSTs               (a client)
//!   EventReceiver ◀──│ under a lock │ ◀─── ChannelBackend ◀─ POSTs               (a server)
//!                    └──────────────┘                        events of a GET     (a client)
//! ```
//!
//! The channel is the same at both ends. They differ in what uses the other end of its queues.

mod backend;
mod channel;
mod client;
pub(crate) mod message;
mod posting;
mod queues;
mod reference;
pub(crate) mod stream;

pub(crate) use backend::{ChannelBackend, Outward};
pub(crate) use channel::{ChannelParams, pair};
pub use channel::{EventChannel, EventReceiver, EventSender};
pub(crate) use client::EventStreams;
pub(crate) use posting::FullBody;
pub(crate) use stream::Progress;

/// The path of tieline's own event streams and of the POSTs to them.
pub(crate) const SSE_PATH: &str = "/sse";
/// The header that requests a protocol, [`PLAIN`](crate::PLAIN) or [`RESUMABLE`](crate::RESUMABLE), like
/// a WebSocket's subprotocol. Without it, the stream is for an EventSource.
pub(crate) const PROTOCOL: &str = "tieline-protocol";
/// The header with the number of a POST in its stream, counted from 1.
pub(crate) const SEQUENCE: &str = "tieline-sequence";
/// The header for half-close. In the response to a GET, it permits the client to end its input. In a
/// POST, it states that the input ends after this POST's messages.
pub(crate) const HALF_CLOSE: &str = "tieline-half-close";
/// The value of [`HALF_CLOSE`].
pub(crate) const YES: &str = "1";
/// The content type of a body with length-prefixed messages.
pub(crate) const FRAMES: &str = "application/vnd.tieline.frames";
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// The event with the URL for POSTs.
pub(crate) const ENDPOINT: &str = "endpoint";
/// The event whose data is a message in base64, for messages that are not UTF-8.
pub(crate) const BINARY: &str = "binary";
/// The last event of a line. Without it, the connection was cut.
pub(crate) const END: &str = "end";
