//! The body of a POST.

use bytes::Bytes;
use tieline_proto::json::{self, Limits};
use tieline_proto::jsonrpc::{Dialect, Message, Request};

use crate::{Posted, Refusal};

/// The message in the body of a POST, which is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpPosted(Message);

impl AcpPosted {
    /// Reads a body.
    ///
    /// # Errors
    /// 501: the body is a batch. 400: it is not JSON, not JSON-RPC, or has a request whose id is `null`.
    pub fn read(body: Bytes, limits: Limits) -> Result<Self, Refusal> {
        if body.trim_ascii_start().starts_with(b"[") && json::check(&body, limits).is_ok() {
            return Err(Refusal { status: 501, ..Refusal::invalid("ACP has no batches") });
        }
        let message = Posted::read(body, limits)?.messages.pop();
        message.map(Self).ok_or_else(|| Refusal::invalid("the body has no message"))
    }

    /// Returns the `initialize` request, if the message is one.
    pub fn opening(&self) -> Option<&Request> {
        self.request().filter(|request| request.method() == "initialize")
    }

    /// Adds the id of the request to a refusal, if the message is a request.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> Refusal {
        match self.request() {
            Some(request) => refusal.answering(request.id()),
            None => refusal,
        }
    }

    pub(super) fn message(&self) -> &Message {
        &self.0
    }

    /// Returns the message for the agent, on one line.
    pub(super) fn text(&self) -> Bytes {
        self.0.alone(&Dialect::ACP, false, Limits::default())
    }

    fn request(&self) -> Option<&Request> {
        match &self.0 {
            Message::Request(request) => Some(request),
            _ => None,
        }
    }
}
