//! The Model Context Protocol over HTTP, in front of a program that speaks it on stdio.
//!
//! Nothing here owns a socket, a clock, a random source or a runtime. An HTTP server passes in the heads and
//! bodies of requests and the program's messages. It gets responses, events, and messages for the program.
//!
//! ```text
//!   POST, GET ─▶ Head, Posted ─▶ Session ─▶ messages for the program
//!   response ◀── Answer, Next ◀─ streams ◀─ messages of the program
//! ```
//!
//! [`Session`] is for the protocol versions 2025-03-26 to 2025-11-25 (the transport "Streamable HTTP" with
//! sessions).

mod head;
mod posted;
mod refusal;
mod session;

pub use head::{Head, LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID};
pub use posted::Posted;
pub use refusal::Refusal;
pub use session::{Accepted, Answer, Next, Place, Session, SessionLimits};
