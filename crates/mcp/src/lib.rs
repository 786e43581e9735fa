//! The Model Context Protocol (MCP) and the Agent Client Protocol (ACP) over HTTP, for a program that speaks
//! one of them on stdio.
//!
//! This crate has no socket, clock, random source or runtime. An HTTP server passes in the heads and
//! bodies of requests and the program's messages, and receives responses, events, and messages for the
//! program.
//!
//! ```text
//!   POST, GET ─▶ Head, Posted ─▶ Session ─▶ messages for the program
//!   response ◀── Answer, Next ◀─ streams ◀─ messages of the program
//! ```
//!
//! [`Session`] implements the protocol versions 2025-03-26 to 2025-11-25 (the transport "Streamable
//! HTTP" with sessions). [`ModernProgram`] implements version 2026-07-28, which has no sessions.
//! [`AcpConnection`] implements ACP's remote transport, which is derived from Streamable HTTP.

mod acp;
mod answered;
mod head;
mod kept;
mod modern;
mod place;
mod posted;
mod refusal;
mod remote;
mod session;
mod text;

pub use acp::{
    ACP_CONNECTION_ID, ACP_SESSION_ID, AcpConnection, AcpHead, AcpLimits, AcpPosted, Initialized,
};
pub use head::{Head, LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID};
pub use modern::{
    Era, METHOD, ModernAnswer, ModernHead, ModernLimits, ModernNext, ModernProgram, ModernRequest,
    NAME, PARAM, ProgramEra, SessionTranslator, ToolHeaders, Translated,
};
pub use place::{Next, Place};
pub use posted::Posted;
pub use refusal::Refusal;
pub use remote::{Remote, RemoteLimits};
pub use session::{Accepted, Answer, Ending, Session, SessionLimits};
