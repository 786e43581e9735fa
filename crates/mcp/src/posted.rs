//! The body of a POST.

use bytes::Bytes;
use tieline_proto::json::{Limits, to_one_line};
use tieline_proto::jsonrpc::{
    Dialect, Message, Request, classify, write_notification, write_request, write_response,
};

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

/// Returns a message outside its batch and on one line, as stdio requires.
pub(crate) fn alone(message: &Message, is_in_batch: bool) -> Bytes {
    const DIALECT: &Dialect = &Dialect::MCP;
    let text: Bytes = match message {
        Message::Request(it) if is_in_batch => {
            write_request(DIALECT, it.id(), &it.method(), it.params()).into()
        }
        Message::Notification(it) if is_in_batch => {
            write_notification(DIALECT, &it.method(), it.params()).into()
        }
        Message::Response(it) if is_in_batch => {
            write_response(DIALECT, it.id(), it.outcome()).into()
        }
        Message::Request(it) => it.message().clone(),
        Message::Notification(it) => it.message().clone(),
        Message::Response(it) => Bytes::copy_from_slice(it.message()),
        Message::Batch(_) | Message::Invalid(_) => Bytes::new(),
    };
    match text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        false => text,
        true => to_one_line(&text, Limits::default()).unwrap_or_default(),
    }
}
