//! Frames of the control protocol, and how they are distinguished from messages.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Error;

/// A parsed line.
pub(super) enum Frame {
    /// A message for the inbox.
    Message(Bytes),
    /// A request from the program.
    Request { id: String, request: Value },
    /// The response to a request. `line` is the original line. A response without an id may belong to
    /// any request.
    Response { id: Option<String>, answer: Answered, line: Bytes },
    /// The cancellation of one of the program's requests.
    Cancel { id: String },
    /// A keep-alive frame, which has no content.
    KeepAlive,
}

/// The response, or the reason why there is none.
pub(super) type Answered = Result<Value, NoAnswer>;

/// Why a request has no response.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The program's error message.
    Refused(String),
    /// What is wrong with the response.
    Unusable(String),
}

impl NoAnswer {
    /// Converts this into the error of the named request.
    pub(super) fn into_error(self, request: String) -> Error {
        match self {
            Self::Refused(message) => Error::Refused { request, message },
            Self::Unusable(problem) => Error::BadAnswer { request, problem },
        }
    }
}

/// How many bytes of an invalid response are shown.
const SHOWN: usize = 200;

impl Frame {
    /// Parses a line. A control frame without its required members is delivered as a message, so that
    /// it is visible. A response may be incomplete.
    pub(super) fn of(line: Bytes) -> Self {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
        }
        let kind = serde_json::from_slice(&line).map(|Head { kind }| kind);
        let control = match kind.as_deref() {
            Ok("control_request") => read(&line)
                .map(|ControlRequest { request_id: id, request }| Self::Request { id, request }),
            Ok("control_response") => Some(response_of(line.clone())),
            Ok("control_cancel_request") => {
                read(&line).map(|Cancellation { request_id: id }| Self::Cancel { id })
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
struct ControlRequest {
    request_id: String,
    request: Value,
}

#[derive(Deserialize)]
struct Cancellation {
    request_id: String,
}

fn response_of(line: Bytes) -> Frame {
    let mut frame: Value = read(&line).unwrap_or_default();
    let mut response = frame.get_mut("response").map(Value::take).unwrap_or_default();
    let id = [&response, &frame].into_iter().find_map(|it| it.get("request_id")?.as_str());
    let id = id.map(str::to_owned);
    let is_success = response.get("subtype").is_some_and(|subtype| subtype == "success");
    let mut member = |name| response.get_mut(name).map(Value::take).unwrap_or_default();
    let answer = match (is_success, member("error")) {
        (true, _) => Ok(member("response")),
        (_, Value::String(error)) => Err(NoAnswer::Refused(error)),
        (_, Value::Null) => Err(NoAnswer::Unusable(format!("it is {}", excerpt(&line)))),
        (_, error) => Err(NoAnswer::Refused(error.to_string())),
    };
    Frame::Response { id, answer, line }
}

fn excerpt(line: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(line.get(..SHOWN).unwrap_or(line)))
}

/// Returns whether this is the beginning of a response to one of our requests. Only the first bytes of a
/// discarded line are known, and they need not be JSON.
pub(super) fn is_lost_answer(head: &[u8]) -> bool {
    head.trim_ascii_start().starts_with(b"{") && contains(head, b"\"control_response\"")
}

/// Returns whether the text contains the id.
pub(super) fn names(head: &[u8], id: &str) -> bool {
    contains(head, format!("\"{id}\"").as_bytes())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
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
    fn control_frames_are_distinguished_from_messages() {
        let kind = |line: &str| match Frame::of(Bytes::copy_from_slice(line.as_bytes())) {
            Frame::Message(_) => "message".to_owned(),
            Frame::Request { id, request } => format!("request {id} {request}"),
            Frame::Response { id, answer, .. } => {
                format!("response {} {answer:?}", id.as_deref().unwrap_or("-"))
            }
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
                r#"response a Err(Refused("no"))"#,
            ),
            (
                r#"{"type":"control_response","response":{"request_id":"a","error":7}}"#,
                r#"response a Err(Refused("7"))"#,
            ),
            (
                r#"{"type":"control_response","response":{"subtype":"success","response":5}}"#,
                "response - Ok(Number(5))",
            ),
            // A request without an id cannot be answered, and only an object has a type.
            (r#"{"type":"control_request","request":{}}"#, "message"),
            (r#"{"type":7}"#, "message"),
            ("42", "message"),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
    }
}
