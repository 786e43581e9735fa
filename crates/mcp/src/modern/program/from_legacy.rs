//! Translates messages from a program of an earlier version for its clients.

use tieline_proto::jsonrpc::{
    Dialect, INVALID_PARAMS, Notification, Response, member, write_error, write_response,
};

use super::from_modern::status_of;
use super::output::problem_of;
use super::{INVALID_RESPONSE, ModernProgram};
use crate::modern::MISSING_CAPABILITY;
use crate::modern::json::{completed, object};

/// The methods whose results state how long they may be cached.
const CACHEABLE: [&str; 5] =
    ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"];

/// The code of the error for a resource that does not exist, in earlier versions.
const NO_RESOURCE: &[u8] = b"-32002";

impl ModernProgram {
    pub(super) fn legacy_response(&mut self, passed: u64, response: &Response) {
        let Some(number) = self.call_of(passed) else {
            // The client is being asked, and receives the response when it returns.
            return self.answered_meanwhile(response);
        };
        let Some(call) = self.calls.get(&number).filter(|call| call.is_in_flight()) else {
            return self.settled(passed);
        };
        let outcome = response.outcome();
        let is_failure = outcome.map_or(true, |it| member(it, "isError") == Some(b"true"));
        if let Some(needed) = call.denied.filter(|_| is_failure) {
            let data = object([("requiredCapabilities", needed)]);
            let text = "the client has not declared a capability that the program needs";
            let id = call.id();
            let error = write_error(&Dialect::MCP, id, MISSING_CAPABILITY, text, Some(&data));
            self.respond(number, 400, error.into());
            return self.settled(passed);
        }
        if let Some(problem) = problem_of(outcome) {
            self.fail(number, 200, INVALID_RESPONSE, &problem);
            return self.settled(passed);
        }
        let message = translated(call.id(), &call.method, response);
        if let (Ok(result), "tools/list") = (outcome, &*call.method) {
            self.headers.learn(result, call.is_first_page);
        }
        self.respond(number, status_of(outcome), message.into());
        self.settled(passed);
    }

    pub(super) fn legacy_notification(&mut self, notification: &Notification) {
        match &*notification.method() {
            "notifications/progress" => self.progress(notification),
            "notifications/message" => self.log_message(notification),
            "notifications/cancelled" => {
                let params = notification.params().unwrap_or_default();
                if let Some(id) = member(params, "requestId") {
                    self.no_longer_asked(id);
                }
            }
            _ => self.announce(notification),
        }
    }
}

/// Writes a response in the form of the modern era.
pub(super) fn translated(id: &[u8], method: &str, response: &Response) -> Vec<u8> {
    const COMPLETE: (&str, &[u8]) = ("resultType", b"\"complete\"");
    const UNCACHED: [(&str, &[u8]); 3] =
        [COMPLETE, ("ttlMs", b"0"), ("cacheScope", b"\"private\"")];
    match response.outcome() {
        Ok(result) => {
            let is_cacheable = CACHEABLE.contains(&method);
            let result = completed(result, if is_cacheable { &UNCACHED } else { &UNCACHED[..1] });
            write_response(&Dialect::MCP, id, Ok(&result))
        }
        Err(error) if member(error, "code") == Some(NO_RESOURCE) => {
            let code = INVALID_PARAMS.to_string();
            let others = ["message", "data"].map(|name| member(error, name).map(|it| (name, it)));
            let members = others.into_iter().flatten();
            let error = object([("code", code.as_bytes())].into_iter().chain(members));
            write_response(&Dialect::MCP, id, Err(&error))
        }
        Err(error) => write_response(&Dialect::MCP, id, Err(error)),
    }
}
