//! Queues messages for the program and for the connections of the calls.

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    Dialect, METHOD_NOT_FOUND, write_error, write_notification, write_request,
};

use super::call::Call;
use super::{ModernProgram, Phase, envelope};
use crate::modern::json::{is_object, object};
use crate::modern::request::on_one_line;

/// How many bytes of an invalid result an error contains.
const SHOWN: usize = 200;

impl ModernProgram {
    pub(super) fn send(&mut self, message: impl Into<Bytes>) {
        let message = on_one_line(message.into());
        self.outgoing_bytes += message.len();
        self.outgoing.push_back(message);
    }

    /// Sends a request that belongs to no call. Returns its number.
    pub(super) fn send_request(&mut self, method: &str, params: &[u8]) -> u64 {
        let number = self.number();
        let id = number.to_string();
        self.send(write_request(&Dialect::MCP, id.as_bytes(), method, Some(params)));
        number
    }

    pub(super) fn refuse_program(&mut self, id: &[u8], why: &str) {
        self.send(write_error(&Dialect::MCP, id, METHOD_NOT_FOUND, why, None));
    }

    /// Queues a message for a call that is not its response.
    pub(super) fn push(&mut self, number: u64, message: Bytes) {
        let limit = self.limits.waiting_bytes;
        match self.calls.get(&number) {
            Some(call) if call.is_done() => {}
            Some(call) if call.held() + message.len() > limit => self.give_up(number),
            Some(_) => {
                self.update(number, |call| call.push(message));
                self.touched.push(number);
            }
            None => {}
        }
    }

    /// Queues the response for a call.
    pub(super) fn respond(&mut self, number: u64, status: u16, message: Bytes) {
        if self.calls.get(&number).is_some_and(|call| !call.is_done()) {
            self.update(number, |call| call.respond(status, message));
            self.touched.push(number);
        }
    }

    pub(super) fn fail(&mut self, number: u64, status: u16, code: i64, text: &str) {
        let Some(call) = self.calls.get(&number) else { return };
        let error = write_error(&Dialect::MCP, call.id(), code, text, None);
        self.respond(number, status, error.into());
    }

    /// Ends a call without a response, because its client does not read or there is too little memory.
    pub(super) fn give_up(&mut self, number: u64) {
        self.cancel(number);
        self.stop_listening(number);
        self.lost += self.calls.get(&number).map_or(0, Call::waiting);
        self.update(number, Call::give_up);
        self.touched.push(number);
        self.queued.retain(|it| *it != number);
    }

    /// Cancels the request of a call, if it was passed to the program.
    pub(super) fn cancel(&mut self, number: u64) {
        if !self.calls.get(&number).is_some_and(Call::is_in_flight) {
            return;
        }
        if self.stop_listening(number) {
            return;
        }
        let passed = self.passed_as(number);
        let id = passed.to_string();
        let mut members = vec![("requestId", id.as_bytes())];
        let claim = envelope();
        if matches!(self.phase, Phase::Modern) {
            members.push(("_meta", &claim));
        }
        members.push(("reason", br#""the client has disconnected""#));
        let params = object(members);
        self.send(write_notification(&Dialect::MCP, "notifications/cancelled", Some(&params)));
        self.settled(passed);
    }
}

/// Returns what is wrong with the outcome of a call: a result that is not an object has no room for the members that
/// every result must have.
pub(super) fn problem_of(outcome: Result<&[u8], &[u8]>) -> Option<String> {
    let result = outcome.ok().filter(|result| !is_object(result))?;
    let shown = String::from_utf8_lossy(result.get(..SHOWN).unwrap_or(result));
    Some(format!(
        "the program's response is not valid: the result is not an object; received: {shown:?}"
    ))
}
