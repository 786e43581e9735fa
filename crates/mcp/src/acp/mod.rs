//! The remote transport of the Agent Client Protocol (ACP), for an agent on stdio.
//!
//! It is defined in the RFD "Streamable HTTP & WebSocket Transport". A POST is answered with 202, and all
//! messages of the agent go to streams that GETs open: one for the connection, and one for each session.
//! The exception is `initialize`, whose POST is answered with the agent's response.
//!
//! ```text
//!   POST ──▶ AcpPosted ──▶ AcpConnection::post ──▶ the agent
//!   GET  ──▶ get, next ◀── the stream ◀── from_program ◀── a message of the agent
//! ```
//!
//! WebSockets need no machine: each message is one frame.

mod calls;
mod connection;
mod head;
mod posted;
mod routing;
mod stream;
mod streams;

pub use connection::{AcpConnection, AcpLimits, Initialized};
pub use head::{ACP_CONNECTION_ID, ACP_SESSION_ID, AcpHead};
pub use posted::AcpPosted;

#[cfg(test)]
mod tests;
