//! Passes on messages from a program of the modern era, with the ids of the clients.

use tieline_proto::jsonrpc::{Dialect, Notification, Response, locate, member};

use super::output::problem_of;
use super::{INVALID_RESPONSE, ModernProgram, PROGRAM_ENDED, number_of};
use crate::modern::{HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION, meta};

/// The path of the tag in messages that belong to a subscription.
const TAG: [&str; 2] = ["_meta", meta::SUBSCRIPTION];

impl ModernProgram {
    /// Passes a queued call to the program.
    pub(super) fn pass_to_modern(&mut self, number: u64) {
        let Some(Some(request)) = self.update(number, |call| call.take_request()) else { return };
        let id = number.to_string();
        let token = locate(request.params(), &["_meta", "progressToken"]).ok().flatten();
        let change = token.map(|token| (token, id.as_bytes()));
        self.send(request.request().rewritten(id.as_bytes(), change));
    }

    pub(super) fn modern_response(&mut self, number: u64, response: &Response) {
        let is_gone = response.outcome().is_err_and(|it| error_code(it) == Some(PROGRAM_ENDED));
        // The gateway answers for a program that has ended.
        if is_gone && self.end_listening(number) {
            return;
        }
        let Some(call) = self.calls.get(&number).filter(|call| call.is_in_flight()) else { return };
        if let Some(problem) = problem_of(response.outcome()) {
            return self.fail(number, 200, INVALID_RESPONSE, &problem);
        }
        let result = response.outcome().ok();
        let tag = result.and_then(|result| locate(result, &TAG).ok().flatten());
        let change = tag.map(|tag| (tag, call.id()));
        let message = response.rewritten(&Dialect::MCP, call.id(), change);
        if let (Some(result), "tools/list") = (result, &*call.method) {
            self.headers.learn(result, call.is_first_page);
        }
        self.respond(number, status_of(response.outcome()), message);
    }

    pub(super) fn modern_notification(&mut self, notification: &Notification) {
        let params = notification.params().unwrap_or_default();
        let tag = locate(params, &TAG).ok().flatten();
        match &*notification.method() {
            "notifications/progress" => self.progress(notification),
            "notifications/message" => self.log_message(notification),
            "notifications/cancelled" => {
                let cancelled = member(params, "requestId").and_then(number_of);
                if let Some(number) = cancelled {
                    self.end_listening(number);
                }
            }
            _ => {
                let number = tag.and_then(number_of);
                let call = number.and_then(|number| Some((number, self.calls.get(&number)?)));
                if let (Some((number, call)), Some(tag)) = (call, tag) {
                    let message = notification.rewritten(tag, call.id());
                    self.push(number, message);
                }
            }
        }
    }

    /// Passes progress to the request that it belongs to.
    pub(super) fn progress(&mut self, notification: &Notification) {
        let params = notification.params().unwrap_or_default();
        let Ok(Some(token)) = locate(params, &["progressToken"]) else { return };
        let number = number_of(token).and_then(|number| self.call_of(number));
        let call = number.and_then(|number| Some((number, self.calls.get(&number)?)));
        let Some((number, call)) = call.filter(|(_, call)| call.is_in_flight()) else { return };
        if let Some(chosen) = &call.token {
            let message = notification.rewritten(token, chosen);
            self.push(number, message);
        }
    }

    /// Passes a log message to the newest of the requests that have asked for its level.
    pub(super) fn log_message(&mut self, notification: &Notification) {
        let params = notification.params().unwrap_or_default();
        let level = member(params, "level").and_then(crate::modern::capabilities::Level::of);
        let Some(level) = level else { return };
        let listens = |(_, call): &(&u64, &super::Call)| {
            call.is_in_flight() && call.level.is_some_and(|wanted| wanted <= level)
        };
        if let Some((number, _)) = self.calls.iter().rev().find(listens) {
            let number = *number;
            self.push(number, notification.message().clone());
        }
    }
}

/// Returns the HTTP status of a response.
pub(super) fn status_of(outcome: Result<&[u8], &[u8]>) -> u16 {
    match outcome.err().and_then(error_code) {
        Some(tieline_proto::jsonrpc::METHOD_NOT_FOUND) => 404,
        Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION) => 400,
        _ => 200,
    }
}

fn error_code(error: &[u8]) -> Option<i64> {
    std::str::from_utf8(member(error, "code")?).ok()?.parse().ok()
}
