//! Messages by server-sent events one way and by POST the other.
//!
//! ```text
//!   EventSender ───▶ ┌──────────────┐ ───▶ Far ─▶ events of a GET     (a server)
//!                    │ two queues,  │             POSTs               (a client)
//!   EventReceiver ◀──│ under a lock │ ◀─── Far ◀─ POSTs               (a server)
//!                    └──────────────┘             events of a GET     (a client)
//! ```
//!
//! The channel is the same at both ends; what differs is who has the other end of its queues.

mod backend;
mod channel;
mod client;
pub(crate) mod message;
mod posting;
mod reference;
pub(crate) mod stream;

pub(crate) use backend::{ChannelBackend, Outward};
pub(crate) use channel::{ChannelParams, pair};
pub use channel::{EventChannel, EventReceiver, EventSender};
pub(crate) use client::EventStreams;

/// The path of tieline's own event streams, and of what is posted to them.
pub(crate) const SSE_PATH: &str = "/sse";
/// What a stream is to be: [`PLAIN`](crate::PLAIN) or [`RESUMABLE`](crate::RESUMABLE), as a WebSocket's
/// subprotocol. Without it, it is one for an EventSource.
pub(crate) const PROTOCOL: &str = "tieline-protocol";
/// The number of a POST among those of its stream, counted from 1.
pub(crate) const SEQUENCE: &str = "tieline-sequence";
/// In the response to a GET: the client may end its input. In a POST: the input ends after the messages of this
/// POST.
pub(crate) const HALF_CLOSE: &str = "tieline-half-close";
/// The value of [`HALF_CLOSE`].
pub(crate) const YES: &str = "1";
/// The type of a body with messages behind their lengths, in the framing `length-prefix`.
pub(crate) const FRAMES: &str = "application/vnd.tieline.frames";
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// The event that says where to post.
pub(crate) const ENDPOINT: &str = "endpoint";
/// The event whose data is a message in base64, because it is no UTF-8.
pub(crate) const BINARY: &str = "binary";
/// The last event of a line that has ended, and not of a connection that was cut.
pub(crate) const END: &str = "end";
