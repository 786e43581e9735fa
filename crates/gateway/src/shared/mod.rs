//! Programs that several clients share.
//!
//! ```text
//!   line 1 ──▶ Port ─┐
//!   line 2 ──▶ Port ─┼─ Exchange (queues, Hub) ─ Driver ─ the program's channel
//!   line 3 ──▶ Port ─┘
//! ```
//!
//! To the line of a client, a [`Port`](port) is the channel of its program. The [`Hub`](hub) decides what happens to
//! each message, and the [driver] moves messages between the queues and the program.

mod driver;
mod exchange;
mod hub;
mod ledger;
mod port;
mod program;

pub(crate) use program::{ProgramOptions, SharedProgram};
