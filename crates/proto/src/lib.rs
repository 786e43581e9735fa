//! The protocol state machines of tieline, which convert bytes to messages and messages to bytes.
//!
//! No code in this crate owns a socket, a clock, a random source or a runtime. Every state machine takes
//! its input, the time and random numbers as arguments, so a test can split the input at any byte and a
//! fuzzer can reach every state.
//!
//! ```text
//!   bytes as they arrive          Framing::decode            whole messages, or one Fault each
//!   "{\"a\":1}\n{\"b\"" ─────▶ BytesMut ───────────▶ Frame::Message("{\"a\":1}")
//!
//!   messages                      Framing::encode            bytes for one vectored write
//!   Bytes ─────────────────────────────────────────▶ WriteBuf
//! ```
//!
//! Besides framing, [JSON-RPC](jsonrpc), [sessions](session), [server-sent events](sse) and
//! [WebSocket](websocket), the crate contains the state machines that decide when to retry ([`Backoff`],
//! [`Restarts`]), whether a call may be made ([`Breaker`], [`RetryBudget`]) and whether the peer is
//! still alive ([`Heartbeat`]).
//!
//! # Example
//!
//! ```
//! use bytes::BytesMut;
//! use tieline_proto::{Frame, Framing, Lines};
//!
//! let mut lines = Lines::default();
//! let mut buffer = BytesMut::from(&b"{\"id\":1}\n{\"id\""[..]);
//! assert_eq!(lines.decode(&mut buffer)?, Some(Frame::Message("{\"id\":1}".into())));
//! assert_eq!(lines.decode(&mut buffer)?, None); // the second message is incomplete
//! # Ok::<(), tieline_proto::FrameError>(())
//! ```

mod backoff;
mod breaker;
mod byte_size;
mod exchange;
mod framing;
mod heartbeat;
mod histogram;
pub mod json;
pub mod jsonrpc;
mod metrics;
mod printable;
mod restart;
mod retry_budget;
pub mod session;
pub mod sse;
mod suspend;
pub mod websocket;
mod write_buf;

pub use backoff::{Backoff, BackoffConfig};
pub use breaker::{Breaker, BreakerConfig, BreakerState, CallOutcome, Permit, Rejected};
pub use byte_size::{ByteSize, ByteSizeError};
pub use exchange::{
    Exchange, ExchangeEvent, ExchangeFailure, ExchangeMethod, ExchangeRequest, ExchangeStep,
};
pub use framing::{
    Codec, ContentLength, DetectedLines, EncodeError, Ending, FAULT_HEAD, Fault, Frame, FrameError,
    Framing, FramingKind, Json, LengthPrefix, Lines, MAX_HEADER_BLOCK, NotJson, Oversize,
    Truncated, UnknownFraming,
};
pub use heartbeat::{Heartbeat, HeartbeatConfig, HeartbeatEvent};
pub use histogram::Histogram;
pub use metrics::MetricsText;
pub use printable::{Count, printable, printable_lines, rounded};
pub use restart::{RestartPolicy, Restarts, UnknownRestartPolicy, Verdict};
pub use retry_budget::{RetryBudget, RetryBudgetConfig};
pub use suspend::SuspendDetector;
pub use write_buf::WriteBuf;

/// The default limit on the size of a message, received or sent: 16 MiB.
pub const DEFAULT_MAX_MESSAGE: ByteSize = ByteSize::mib(16);
