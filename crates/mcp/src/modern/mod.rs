//! The protocol version 2026-07-28, for a program on stdio.
//!
//! This version has no sessions. Each POST is a self-contained request, and its response is JSON or an
//! event stream. All requests of a client use one [`ModernProgram`]:
//!
//! ```text
//!   POST ──▶ Era::of ──▶ ModernRequest ──▶ ModernProgram::post ──▶ outgoing ──▶ the program
//!   response ◀── answer, next ◀── the call ◀── from_program ◀── a message of the program
//! ```
//!
//! The program speaks this version or an earlier one. It is asked for its versions first. For a program
//! of an earlier version, requests and responses are translated. A [`SessionTranslator`] does the reverse: it
//! is between a session of an earlier version and a program that only speaks this one.

mod behind_session;
mod capabilities;
mod head;
pub(crate) mod json;
mod program;
mod request;
mod schemas;

use bytes::Bytes;
use tieline_proto::jsonrpc::{elements, member};

pub use behind_session::{SessionTranslator, Translated};
pub(crate) use head::base64_of;
pub use head::{METHOD, ModernHead, NAME, PARAM};
pub use program::{ModernAnswer, ModernLimits, ModernNext, ModernProgram, ProgramEra};
pub(crate) use request::named_by;
pub use request::{Era, ModernRequest};
pub use schemas::ToolHeaders;

/// The protocol version that this module implements.
const MODERN_VERSION: &str = "2026-07-28";

/// The names of members in `_meta`.
pub(crate) mod meta {
    pub(crate) const PREFIX: &str = "io.modelcontextprotocol/";
    pub(crate) const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    pub(crate) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    pub(crate) const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    pub(crate) const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    pub(crate) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    pub(crate) const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
}

/// The code of the error for a header that is missing, or that differs from the body.
const HEADER_MISMATCH: i64 = -32020;
/// The code of the error for a request that needs a capability that the client has not declared.
const MISSING_CAPABILITY: i64 = -32021;
/// The code of the error for a protocol version that is not supported.
const UNSUPPORTED_VERSION: i64 = -32022;

/// Returns whether the member `list` of an object contains the protocol version of this module.
fn lists_modern_version(object: &[u8], list: &str) -> bool {
    let versions = member(object, list).map(Bytes::copy_from_slice);
    let versions = versions.as_ref().and_then(elements).unwrap_or_default();
    versions.iter().any(|version| json::string(version).as_deref() == Some(MODERN_VERSION))
}
