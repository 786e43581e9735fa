//! Pumps messages between lines, as `tieline serve`, `connect` and `bridge` do.
//!
//! ```text
//!   near (a client)                                        far (a child, a server)
//!      Receiver ──▶ messages ──▶ [tap] ──▶ Sender             end of input is passed on
//!      Sender   ◀── [tap] ◀── messages ◀── Receiver           its end is the line's end
//! ```
//!
//! [`bridge`] joins two channels. [`Server`] accepts many clients and connects each to its own far side, or
//! several to one ([`Processes`]).
//! Nothing is added to the stream unless a [dialect](Bridge::dialect) is given. With one, requests that the
//! far side leaves unanswered when it ends get an error response.
//!
//! [`Chaos`] is a fault-injecting proxy for tests. It joins byte streams and knows nothing about messages.

mod admit;
mod bridge;
mod bridged_line;
mod chaos;
mod dialogue;
mod ending;
mod far_breaker;
mod gateway_messages;
mod judge;
mod line_memory;
mod lock;
mod metrics;
mod outbox;
mod patience;
mod pool;
mod probe;
mod processes;
mod pump;
mod restore;
mod restored;
mod serve;
mod shared;
mod side;
mod tap;
mod timestamp;
mod turn_away;
mod unanswered;
mod watch;

pub use bridge::{Bridge, BridgeEnd, BridgeReport, bridge, bridge_supervised};
pub use chaos::{Chaos, ChaosReport, Faults};
pub use ending::PROGRAM_FAILURES;
pub use outbox::{Overflow, UnknownOverflow};
pub use processes::{
    NotShareable, PoolView, ProcessModel, Processes, ProgramsView, UnknownProcessModel,
};
pub use serve::{Server, ServerReport};
pub use tap::{Tap, TapEnd};
pub use tieline_link::LineState;
pub use tieline_transport::Traffic;
pub use timestamp::printable;
pub use watch::{LineView, ProgramView, ServerView, ServerWatch};
