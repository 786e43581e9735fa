//! Pumps messages between lines: what `tieline serve`, `connect` and `bridge` do.
//!
//! ```text
//!   near (a client)                                        far (a child, a server)
//!      Receiver ──▶ messages ──▶ [tap] ──▶ Sender             end of input is passed on
//!      Sender   ◀── [tap] ◀── messages ◀── Receiver           its end is the line's end
//! ```
//!
//! [`bridge`] joins two channels; [`Server`] accepts many and gives each a far end of its own.
//! Nothing is ever put into the stream that did not come from the other side, unless a
//! [dialect](Bridge::dialect) is given: then requests that the far side leaves behind are answered.
//!
//! [`Chaos`] is the opposite: it joins byte streams, knows no message, and does them harm on purpose.

mod admit;
mod bridge;
mod chaos;
mod dialogue;
mod ending;
mod held;
mod line;
mod outbox;
mod own;
mod patience;
mod publish;
mod pump;
mod restore;
mod restored;
mod serve;
mod tap;
mod timestamp;
mod turn_away;
mod unanswered;
mod watch;

pub use bridge::{Bridge, BridgeEnd, BridgeReport, bridge, bridge_supervised};
pub use chaos::{Chaos, ChaosReport, Faults};
pub use outbox::{Overflow, UnknownOverflow};
pub use serve::{Server, ServerReport};
pub use tap::{Tap, TapEnd};
pub use tieline_link::State;
pub use tieline_transport::Traffic;
pub use timestamp::printable;
pub use watch::{LineView, ProgramView, ServerView, ServerWatch};
