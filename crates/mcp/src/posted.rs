//! The body of a POST.

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, Message, Request, classify};

use crate::Refusal;

/// The messages in the body of a POST, all of which are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    pub(crate) messages: Vec<Message>,
    pub(crate) is_batch: bool,
}

impl Posted {
    /// Reads a body. Whether batches are allowed depends on the session.
    ///
    /// # Errors
    /// 400: the body is not JSON, not JSON-RPC, or has a request whose id is `null`.
    pub fn read(body: Bytes, limits: Limits) -> Result<Self, Refusal> {
        let body = body.slice_ref(body.trim_ascii());
        let (messages, is_batch) = match classify(body, &Dialect::MCP_2025_03_26, limits) {
            Message::Batch(messages) => (messages, true),
            one => (vec![one], false),
        };
        for message in &messages {
            match message {
                Message::Invalid(invalid) => {
                    let text = invalid.problem().to_string();
                    let refusal = Refusal { code: invalid.code(), ..Refusal::new(400, text) };
                    return Err(match is_batch {
                        true => refusal,
                        false => refusal.answering(invalid.id()),
                    });
                }
                Message::Request(request) if request.id() == b"null" => {
                    return Err(Refusal::invalid("the id of a request must not be null"));
                }
                _ => {}
            }
        }
        Ok(Self { messages, is_batch })
    }

    /// Returns the `initialize` request, if the body is exactly one such request.
    pub fn opening(&self) -> Option<&Request> {
        self.request().filter(|request| request.method() == "initialize")
    }

    /// Adds the request's id to a refusal, if the body is a single request.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> Refusal {
        match self.request() {
            Some(request) => refusal.answering(request.id()),
            None => refusal,
        }
    }

    /// Returns the request, if the body is a single request.
    fn request(&self) -> Option<&Request> {
        match &self.messages[..] {
            [Message::Request(request)] if !self.is_batch => Some(request),
            _ => None,
        }
    }
}
