//! The responses to requests that are not accepted.

use std::borrow::Cow;

use bytes::Bytes;
use tieline_proto::jsonrpc::{Dialect, INVALID_REQUEST, write_error};

/// The response to a refused request: an HTTP status, and a JSON-RPC error for the body.
///
/// MCP reserves the codes from -32768 to -32000. Errors that JSON-RPC does not define therefore have the
/// code -31000 minus the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The JSON-RPC error code.
    pub code: i64,
    /// The text of the error: the problem, and what to do.
    pub text: Cow<'static, str>,
    /// The id of the refused request as the client wrote it, if there is one.
    pub id: Option<Bytes>,
    /// The data of the error, as raw JSON.
    pub data: Option<Bytes>,
}

impl Refusal {
    /// Creates a refusal with a code that is derived from the status.
    pub fn new(status: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code: -31000 - i64::from(status), text: text.into(), id: None, data: None }
    }

    /// Creates a refusal of a message that is not a valid request: 400 and -32600.
    pub fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self { code: INVALID_REQUEST, ..Self::new(400, text) }
    }

    /// Creates the refusal of a session id that is unknown or whose session has ended. It has the status
    /// 404, after which a client initializes a new session.
    pub fn unknown_session() -> Self {
        Self::new(404, "this session does not exist or has ended; initialize a new one")
    }

    /// Adds the id of the refused request.
    pub fn answering(self, id: &[u8]) -> Self {
        Self { id: Some(Bytes::copy_from_slice(id)), ..self }
    }

    /// Returns the body: a JSON-RPC error.
    pub fn body(&self) -> Bytes {
        let id = self.id.as_deref().unwrap_or(b"null");
        write_error(&Dialect::MCP, id, self.code, &self.text, self.data.as_deref()).into()
    }
}
