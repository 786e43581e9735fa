//! The frames of the control protocol, and the telling of them from messages.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a line is.
pub(super) enum Frame {
    /// For who takes the messages.
    Message(Bytes),
    /// The program asks.
    Request { id: String, request: Value },
    /// The program answers.
    Response { id: String, answer: Result<Value, String> },
    /// The program no longer asks.
    Cancel { id: String },
    /// A sign of life.
    KeepAlive,
}

impl Frame {
    /// A control frame that lacks what it must have is a message, so that somebody sees it.
    pub(super) fn of(line: Bytes) -> Self {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
        }
        let kind = serde_json::from_slice(&line).map(|Head { kind }| kind);
        let control = match kind.as_deref() {
            Ok("control_request") => {
                read(&line).map(|Asked { request_id: id, request }| Self::Request { id, request })
            }
            Ok("control_response") => {
                read(&line).map(|Answered { response }| response.into_frame())
            }
            Ok("control_cancel_request") => {
                read(&line).map(|Cancelled { request_id: id }| Self::Cancel { id })
            }
            Ok("keep_alive") => Some(Self::KeepAlive),
            _ => None,
        };
        control.unwrap_or(Self::Message(line))
    }
}

fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Option<T> {
    serde_json::from_slice(line).ok()
}

#[derive(Deserialize)]
struct Asked {
    request_id: String,
    request: Value,
}

#[derive(Deserialize)]
struct Cancelled {
    request_id: String,
}

#[derive(Deserialize)]
struct Answered {
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    subtype: String,
    request_id: String,
    #[serde(default)]
    response: Value,
    #[serde(default)]
    error: Value,
}

impl Response {
    fn into_frame(self) -> Frame {
        let answer = match (self.subtype.as_str(), self.error) {
            ("success", _) => Ok(self.response),
            (_, Value::String(error)) => Err(error),
            (_, error) => Err(error.to_string()),
        };
        Frame::Response { id: self.request_id, answer }
    }
}

pub(super) fn user(content: Value) -> Value {
    json!({
        "type": "user",
        "session_id": "",
        "message": { "role": "user", "content": content },
        "parent_tool_use_id": null,
    })
}

pub(super) fn request(id: &str, request: Value) -> Value {
    json!({ "type": "control_request", "request_id": id, "request": request })
}

pub(super) fn cancel(id: &str) -> Value {
    json!({ "type": "control_cancel_request", "request_id": id })
}

pub(super) fn response(id: &str, answer: Result<Value, String>) -> Value {
    let response = match answer {
        Ok(response) => json!({ "subtype": "success", "request_id": id, "response": response }),
        Err(error) => json!({ "subtype": "error", "request_id": id, "error": error }),
    };
    json!({ "type": "control_response", "response": response })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_frames_are_told_from_messages() {
        let kind = |line: &str| match Frame::of(Bytes::copy_from_slice(line.as_bytes())) {
            Frame::Message(_) => "message".to_owned(),
            Frame::Request { id, request } => format!("request {id} {request}"),
            Frame::Response { id, answer } => format!("response {id} {answer:?}"),
            Frame::Cancel { id } => format!("cancel {id}"),
            Frame::KeepAlive => "keep alive".to_owned(),
        };
        for (line, expected) in [
            (r#"{"type":"assistant"}"#, "message"),
            (r#"{"uuid":"u","x":{"type":"keep_alive"},"type":"result"}"#, "message"),
            (r#"{"type":"keep_alive"}"#, "keep alive"),
            (r#"{"type":"control_request","request_id":"a","request":{}}"#, "request a {}"),
            (r#"{"request":{},"request_id":"a","type":"control\u005frequest"}"#, "request a {}"),
            (r#"{"type":"control_cancel_request","request_id":"a"}"#, "cancel a"),
            (
                r#"{"type":"control_response","response":{"subtype":"success","request_id":"a"}}"#,
                "response a Ok(Null)",
            ),
            (
                r#"{"type":"control_response","response":{"subtype":"error","request_id":"a","error":"no"}}"#,
                r#"response a Err("no")"#,
            ),
            // What has no id cannot be answered; what is no object has no type.
            (r#"{"type":"control_request","request":{}}"#, "message"),
            (r#"{"type":"control_response"}"#, "message"),
            (r#"{"type":7}"#, "message"),
            ("42", "message"),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
    }
}
