//! Replays a recorded handshake to a new program.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::Value;
use tieline_proto::jsonrpc::{
    Dialect, Handshake, INTERNAL_ERROR, Message, Request, write_error, write_request, write_result,
};

use super::record::{Plan, Replayed};

/// The replay of a record to a new program.
///
/// The opening request is sent first, byte for byte as the client sent it. When the program has answered
/// it as the previous one did, the other messages follow, and then those of the client. Responses to
/// replayed requests never reach the client.
pub(crate) struct Replay {
    dialect: Dialect,
    rules: &'static Handshake,
    opening: Option<Opening>,
    /// Requests that were replayed after the opening request and have no response yet.
    owed: VecDeque<(Bytes, &'static str)>,
    registrations: Vec<(Bytes, Result<Bytes, Bytes>)>,
}

struct Opening {
    request: Request,
    result: Bytes,
    then: Vec<Replayed>,
}

/// What to do with a message from the new program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplayStep {
    /// Pass it on to the client.
    Pass,
    /// Drop the message, which was for the gateway.
    Swallowed,
    /// Drop it and send this response to the program.
    Answer(Bytes),
    /// The handshake is done: send these messages to the program, and then the client's.
    Opened(Vec<Bytes>),
    /// The state cannot be restored.
    Failed(String),
}

impl Replay {
    /// Creates the replay of `plan`. Returns it with the first message to send, or `None` if there is nothing
    /// to replay.
    ///
    /// # Errors
    /// Returns why the state cannot be restored.
    pub(crate) fn of(
        plan: Plan,
        dialect: Dialect,
        rules: &'static Handshake,
    ) -> Result<Option<(Self, Bytes)>, String> {
        let (request, result, then, registrations) = match plan {
            Plan::Nothing => return Ok(None),
            Plan::Impossible(why) => return Err(why),
            Plan::Replay { request, result, then, registrations } => {
                (request, result, then, registrations)
            }
        };
        let first = request.message().clone();
        let opening = Some(Opening { request, result, then });
        let owed = VecDeque::new();
        Ok(Some((Self { dialect, rules, opening, owed, registrations }, first)))
    }

    /// Returns whether the opening request has no response yet. The client's messages wait for it.
    pub(crate) fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// Returns whether no message from the program can concern the replay any more.
    pub(crate) fn is_done(&self) -> bool {
        self.opening.is_none() && self.owed.is_empty() && self.registrations.is_empty()
    }

    /// Handles a message from the program.
    pub(crate) fn handle(&mut self, message: &Message) -> ReplayStep {
        match message {
            Message::Response(response) => self.answered(response.id(), response.outcome()),
            Message::Request(request) => self.asked(request),
            Message::Invalid(invalid) if self.is_opening() && invalid.is_response() => {
                match self.opening.as_ref().is_some_and(|it| it.request.id() == invalid.id()) {
                    true => ReplayStep::Failed(format!(
                        "its answer to `{}` is invalid: {}",
                        self.rules.request,
                        invalid.problem()
                    )),
                    false => ReplayStep::Swallowed,
                }
            }
            Message::Notification(_) | Message::Batch(_) | Message::Invalid(_) => ReplayStep::Pass,
        }
    }

    fn answered(&mut self, id: &[u8], outcome: Result<&[u8], &[u8]>) -> ReplayStep {
        if let Some(opening) = self.opening.take_if(|it| it.request.id() == id) {
            let result = match outcome {
                Ok(result) => result,
                Err(error) => return ReplayStep::Failed(refused(self.rules.request, error)),
            };
            if let Some(difference) = difference(&opening.result, result) {
                return ReplayStep::Failed(difference);
            }
            return ReplayStep::Opened(opening.then.into_iter().map(|it| self.write(it)).collect());
        }
        if self.is_opening() {
            // No other request has been sent to the program yet.
            return ReplayStep::Swallowed;
        }
        let Some(place) = self.owed.iter().position(|(owed, _)| **owed == *id) else {
            return ReplayStep::Pass;
        };
        match (self.owed.remove(place), outcome) {
            (Some((_, method)), Err(error)) => ReplayStep::Failed(refused(method, error)),
            _ => ReplayStep::Swallowed,
        }
    }

    fn write(&mut self, replayed: Replayed) -> Bytes {
        match replayed {
            Replayed::Notification(message) => message,
            Replayed::Request { method, params } => {
                // The id of the original request may be in use again by the client.
                let id = Bytes::from(format!("\"tieline-restore-{}\"", self.owed.len() + 1));
                let request = write_request(&self.dialect, &id, method, params.as_deref());
                self.owed.push_back((id, method));
                request.into()
            }
        }
    }

    /// Handles a request from the program. A registration that the client has answered before gets the
    /// same response again. While the client's messages wait, other requests are refused, because the
    /// client's response could not reach the program.
    fn asked(&mut self, request: &Request) -> ReplayStep {
        let (method, id) = (&*request.method(), request.id());
        if self.rules.registration.is_some_and(|[register, _]| register == method) {
            let params = request.params().unwrap_or_default();
            if let Some(place) = self.registrations.iter().position(|(it, _)| **it == *params) {
                let (_, outcome) = self.registrations.swap_remove(place);
                return ReplayStep::Answer(self.response(id, outcome));
            }
        }
        match (self.is_opening(), method) {
            (false, _) => ReplayStep::Pass,
            (true, "ping") => ReplayStep::Answer(write_result(&self.dialect, id, b"{}").into()),
            (true, _) => {
                let text = "requests to the client are refused until the handshake is done";
                ReplayStep::Answer(
                    write_error(&self.dialect, id, INTERNAL_ERROR, text, None).into(),
                )
            }
        }
    }

    fn response(&self, id: &[u8], outcome: Result<Bytes, Bytes>) -> Bytes {
        let open: &[u8] = if self.dialect.version { b"{\"jsonrpc\":\"2.0\"," } else { b"{" };
        let (name, value): (&[u8], _) = match outcome {
            Ok(result) => (b",\"result\":", result),
            Err(error) => (b",\"error\":", error),
        };
        [open, b"\"id\":", id, name, &value, b"}"].concat().into()
    }
}

fn refused(method: &str, error: &[u8]) -> String {
    let error = String::from_utf8_lossy(error.get(..300).unwrap_or(error));
    format!("it answered `{method}` with an error: {error}")
}

/// Returns a description of something that the previous program offered to the client and the new one
/// does not.
fn difference(before: &[u8], now: &[u8]) -> Option<String> {
    let parse = |text| serde_json::from_slice::<Value>(text).unwrap_or_default();
    let (before, now) = (parse(before), parse(now));
    for name in ["protocolVersion", "capabilities", "agentCapabilities"] {
        let Some(before) = before.get(name) else { continue };
        if let Some(missing) = missing(before, now.get(name).unwrap_or(&Value::Null), name) {
            return Some(format!("its `{missing}` differs from that of the previous program"));
        }
    }
    None
}

/// Returns the path of the first value of `before` that is missing in `now`.
fn missing(before: &Value, now: &Value, path: &str) -> Option<String> {
    match (before, now) {
        // This was not offered before.
        (Value::Null | Value::Bool(false), _) => None,
        (Value::Object(before), Value::Object(now)) => before.iter().find_map(|(name, value)| {
            missing(value, now.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"))
        }),
        // This is more than was offered before.
        (Value::Bool(true), Value::Object(_)) => None,
        (before, now) => (before != now).then(|| path.to_owned()),
    }
}

#[cfg(test)]
mod tests;
