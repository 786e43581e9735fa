//! Requests from a program of an earlier version. The client of the current turn receives the result
//! `input_required`, and the call waits in the program until the client repeats it with the answers.

use std::time::Duration;

use tieline_proto::jsonrpc::{
    Dialect, Id, Request, Response, locate, member, write_error, write_notification, write_result,
};

use super::{ModernProgram, PROGRAM_ENDED};
use crate::Refusal;
use crate::modern::capabilities::Capabilities;
use crate::modern::json::{is_object, object, quoted};
use crate::modern::request::{ModernRequest, invalid_params};

/// The maximum number of requests from a program that wait for the answers of one client.
const MAX_ASKED: usize = 16;

/// Why a question of the program is refused.
const NOT_ALLOWED: &str =
    "the client does not support this, or it is not known which client to ask";

/// How long to wait for further requests from the program before the client is asked. A program that has
/// several questions writes them one right after the other.
const GATHER: Duration = Duration::from_millis(20);

/// The current turn: the only call whose client the program may ask.
#[derive(Debug)]
pub(super) struct Turn {
    /// The number under which the program knows the call.
    pub(super) passed: u64,
    /// The call that receives the response; `None` while the client is being asked.
    pub(super) call: Option<u64>,
    /// The requests that the client accepts.
    can: Capabilities,
    /// The parts of the call that must be the same when the client repeats it.
    subject: Vec<u8>,
    /// The open requests from the program, oldest first.
    pub(super) asked: Vec<Asked>,
    next_key: u64,
    /// The time at which the client is asked. Until then, further requests are collected.
    ask_at: Option<Duration>,
    /// The state that the client must send with the answers, and the time at which it expires.
    state: Option<(String, Duration)>,
    /// The program's response, if it arrived while the client was being asked.
    response: Option<Response>,
}

/// A request from the program.
#[derive(Debug)]
pub(super) struct Asked {
    id: Id,
    method: String,
    key: String,
    /// The request in the form that the client receives.
    request: Vec<u8>,
}

impl Asked {
    fn params(&self) -> &[u8] {
        member(&self.request, "params").unwrap_or(b"{}")
    }
}

impl Turn {
    pub(super) fn new(number: u64, request: &ModernRequest) -> Self {
        Self {
            passed: number,
            call: Some(number),
            can: request.can,
            subject: request.subject(),
            asked: Vec::new(),
            next_key: 1,
            ask_at: None,
            state: None,
            response: None,
        }
    }

    pub(super) fn held(&self) -> usize {
        let asked: usize = self.asked.iter().map(|it| it.request.len()).sum();
        let response = self.response.as_ref().map_or(0, |it| it.message().len());
        self.subject.len() + asked + response
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.ask_at.or(self.state.as_ref().map(|(_, until)| *until))
    }
}

impl ModernProgram {
    /// Returns whether a request with this state continues a call of this program.
    pub fn has_state(&self, state: &str) -> bool {
        let turn = self.legacy.turn.as_ref().and_then(|turn| turn.state.as_ref());
        turn.is_some_and(|(it, _)| it == state)
    }

    /// Returns whether a request would have to wait for answers to the program's questions about another
    /// call.
    pub fn is_occupied(&self, request: &ModernRequest) -> bool {
        request.may_need_input() && self.legacy.is_waiting()
    }

    /// Handles a request from the program.
    pub(super) fn asked(&mut self, now: Duration, request: &Request) {
        let (method, params) = (request.method(), request.params().unwrap_or(b"{}"));
        if method == "ping" {
            return self.send(write_result(&Dialect::MCP, request.id(), b"{}"));
        }
        let turn = self.legacy.turn.as_mut();
        let Some(turn) = turn.filter(|turn| turn.can.allow(&method, params)) else {
            self.remember_denial(&method, params);
            return self.refuse_program(request.id(), NOT_ALLOWED);
        };
        if turn.asked.len() >= MAX_ASKED {
            return self.refuse_program(request.id(), "too many requests wait for the client");
        }
        let quoted = quoted(&method);
        turn.asked.push(Asked {
            id: request.id().into(),
            method: method.to_string(),
            key: format!("input-{}", turn.next_key),
            request: object([("method", quoted.as_bytes()), ("params", params)]),
        });
        turn.next_key += 1;
        if turn.call.is_some() && turn.ask_at.is_none() {
            turn.ask_at = Some(now.saturating_add(GATHER));
        }
    }

    /// Records the missing capability in the call that the program works on, if there is only one call.
    fn remember_denial(&mut self, method: &str, params: &[u8]) {
        let Some(needed) = needed_for(method, params) else { return };
        if let Some(call) = self.legacy.only_call().and_then(|passed| self.call_of(passed)) {
            self.update(call, |call| call.denied = Some(needed));
        }
    }

    /// Asks the client, or gives up a call whose client did not return in time.
    pub(super) fn expire_turn(&mut self, now: Duration) {
        let ask_at = self.legacy.turn.as_mut().and_then(|turn| turn.ask_at.take());
        match ask_at {
            Some(_) => self.ask(now),
            None => self.forget_waiting(),
        }
    }

    /// Asks the client of the current turn.
    fn ask(&mut self, now: Duration) {
        let until = now.saturating_add(self.limits.input_wait);
        let Some(turn) = self.legacy.turn.as_mut() else { return };
        let Some(number) = turn.call.filter(|_| !turn.asked.is_empty()) else { return };
        let Some(state) = (self.tokens)() else {
            self.cancel(number);
            return self.fail_turn(number, "the system provides no random bytes; try again later");
        };
        let requests = object(turn.asked.iter().map(|it| (&*it.key, &it.request[..])));
        let shown = quoted(&state);
        let result = object([
            ("resultType", &b"\"input_required\""[..]),
            ("inputRequests", &requests),
            ("requestState", shown.as_bytes()),
        ]);
        turn.state = Some((state, until));
        let Some(call) = self.calls.get(&number) else { return };
        let message = write_result(&Dialect::MCP, call.id(), &result);
        self.respond(number, 200, message.into());
        if let Some(turn) = self.legacy.turn.as_mut() {
            turn.call = None;
        }
        // These calls would have to wait until a person has answered.
        self.send_elsewhere(|call| call.may_need_input && call.request().is_some());
    }

    /// Refuses open questions of a call that has ended: each request must get a response.
    pub(super) fn refuse_open(&mut self, asked: &[Asked]) {
        for asked in asked {
            self.refuse_program(&asked.id, "the call that needed this has ended");
        }
    }

    /// Continues the call that waits for the input of its client.
    pub(super) fn resume(
        &mut self,
        now: Duration,
        number: u64,
        state: &str,
    ) -> Result<(), Refusal> {
        let request = self.calls.get(&number).and_then(|call| call.request().cloned());
        let (Some(request), Some(turn)) = (request, self.legacy.turn.as_mut()) else {
            return Err(unknown_state());
        };
        if !turn.state.as_ref().is_some_and(|(it, until)| it == state && now < *until) {
            return Err(unknown_state());
        }
        if turn.subject != request.subject() {
            let text = "requestState belongs to a request with another method, name or arguments";
            return Err(Refusal { status: 200, ..invalid_params(text.into()) });
        }
        (turn.state, turn.call, turn.can) = (None, Some(number), request.can);
        turn.ask_at = None;
        let responses = locate(request.params(), &["inputResponses"]).ok().flatten();
        let responses = responses.unwrap_or_default();
        let answer = |asked: &Asked| member(responses, &asked.key).filter(|it| is_object(it));
        let (answered, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut turn.asked).into_iter().partition(|asked| answer(asked).is_some());
        let (open, refused): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|asked| request.can.allow(&asked.method, asked.params()));
        turn.asked = open;
        let (is_complete, response) = (turn.asked.is_empty(), turn.response.take());
        for asked in &answered {
            if let Some(result) = answer(asked) {
                self.send(write_result(&Dialect::MCP, &asked.id, result));
            }
        }
        self.queued.retain(|it| *it != number);
        self.update(number, |call| call.take_request());
        // The repeated request declares less than the first one.
        for asked in &refused {
            self.update(number, |call| call.denied = needed_for(&asked.method, asked.params()));
            self.refuse_program(&asked.id, NOT_ALLOWED);
        }
        if let Some(response) = response {
            let passed = self.passed_as(number);
            self.legacy_response(passed, &response);
        } else if !is_complete {
            self.ask(now);
        }
        Ok(())
    }

    /// Stores the program's response until the client that is being asked returns.
    pub(super) fn answered_meanwhile(&mut self, response: &Response) {
        let Some(turn) = self.legacy.turn.as_mut() else { return };
        turn.response = Some(response.clone());
        let asked = std::mem::take(&mut turn.asked);
        self.refuse_open(&asked);
    }

    /// Removes a request for which the program does not wait any more.
    pub(super) fn no_longer_asked(&mut self, id: &[u8]) {
        if let Some(turn) = self.legacy.turn.as_mut() {
            turn.asked.retain(|asked| *asked.id != *id);
        }
    }

    /// Returns the time at which the call that waits for the input of its client is given up, or `None`
    /// if no call waits.
    pub fn waiting_until(&self) -> Option<Duration> {
        let turn = self.legacy.turn.as_ref().filter(|turn| turn.call.is_none())?;
        turn.state.as_ref().map(|(_, until)| *until)
    }

    /// Gives up the call that waits for the input of its client, if there is one.
    pub fn forget_waiting(&mut self) {
        let Some(turn) = self.legacy.turn.take_if(|turn| turn.call.is_none()) else { return };
        for asked in &turn.asked {
            let text = "the client did not answer in time";
            self.send(write_error(&Dialect::MCP, &asked.id, PROGRAM_ENDED, text, None));
        }
        if turn.response.is_none() {
            let id = turn.passed.to_string();
            let params = object([("requestId", id.as_bytes())]);
            self.send(write_notification(&Dialect::MCP, "notifications/cancelled", Some(&params)));
        }
        self.pump();
    }
}

/// Returns, as an object, the capability that a client must have declared for this request from a
/// program.
fn needed_for(method: &str, params: &[u8]) -> Option<&'static [u8]> {
    let has = |name| member(params, name).is_some();
    Some(match method {
        "elicitation/create" if member(params, "mode") == Some(b"\"url\"") => {
            br#"{"elicitation":{"url":{}}}"#
        }
        "elicitation/create" => br#"{"elicitation":{}}"#,
        "sampling/createMessage" if has("tools") || has("toolChoice") => {
            br#"{"sampling":{"tools":{}}}"#
        }
        "sampling/createMessage" => br#"{"sampling":{}}"#,
        "roots/list" => br#"{"roots":{}}"#,
        _ => return None,
    })
}

/// Creates the refusal of a state that belongs to no waiting call.
pub(super) fn unknown_state() -> Refusal {
    let text = "requestState is unknown or has expired; send the request without it";
    Refusal { status: 200, ..invalid_params(text.into()) }
}
