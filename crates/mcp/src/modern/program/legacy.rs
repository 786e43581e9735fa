//! Translates requests for a program of an earlier version.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::jsonrpc::{Dialect, member, members, write_request, write_result};

use super::asking::{Turn, unknown_state};
use super::listening::{Announces, Watched};
use super::{ModernProgram, PROGRAM_ENDED};
use crate::modern::capabilities::Level;
use crate::modern::json::{object, quoted};
use crate::modern::request::{ModernRequest, unknown_method};
use crate::modern::{MODERN_VERSION, meta};

/// The state of a program of an earlier version.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    /// The result of `server/discover`.
    discovered: Bytes,
    pub(super) announces: Announces,
    pub(super) watched: Watched,
    /// Whether the program supports levels of log messages.
    has_levels: bool,
    level: Option<Level>,
    /// The calls in the program that may need input, except the one of the current turn.
    running: BTreeSet<u64>,
    /// The current turn, if a call has one.
    pub(super) turn: Option<Turn>,
}

impl Legacy {
    pub(super) fn held(&self) -> usize {
        self.discovered.len() + self.turn.as_ref().map_or(0, Turn::held)
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.turn.as_ref()?.deadline()
    }

    /// Returns the program's number of the only call that may need input, or `None` if there are several
    /// or none.
    pub(super) fn only_call(&self) -> Option<u64> {
        let mut all =
            self.running.iter().copied().chain(self.turn.as_ref().map(|turn| turn.passed));
        let only = all.next()?;
        all.next().is_none().then_some(only)
    }

    /// Returns whether a call waits for the input of its client.
    pub(super) fn is_waiting(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.call.is_none())
    }
}

/// The capabilities of servers that both eras have.
const KEPT: [&str; 6] = ["completions", "experimental", "logging", "prompts", "resources", "tools"];

impl ModernProgram {
    /// Stores the result of `initialize`.
    pub(super) fn initialized(&mut self, result: Bytes) {
        let capabilities = member(&result, "capabilities").unwrap_or(b"{}");
        self.legacy.announces = Announces::of(capabilities);
        self.legacy.has_levels = member(capabilities, "logging").is_some();
        let kept = KEPT.iter().filter_map(|name| Some((*name, member(capabilities, name)?)));
        let (kept, versions) = (object(kept), format!("[{}]", quoted(MODERN_VERSION)));
        let server = member(&result, "serverInfo").unwrap_or(b"{}");
        let of_server = object([(meta::SERVER_INFO, server)]);
        let mut discovered = vec![
            ("resultType", &b"\"complete\""[..]),
            ("supportedVersions", versions.as_bytes()),
            ("capabilities", &kept),
            ("ttlMs", b"0"),
            ("cacheScope", b"\"private\""),
            ("_meta", &of_server),
        ];
        discovered.extend(member(&result, "instructions").map(|it| ("instructions", it)));
        self.legacy.discovered = object(discovered).into();
    }

    /// Passes queued calls to the program. A call that may need input runs alone if its client can be
    /// asked, because a request from the program does not name the call that it belongs to.
    pub(super) fn pump_legacy(&mut self) {
        let mut blocked = false;
        let mut kept = std::collections::VecDeque::new();
        while let Some(number) = self.queued.pop_front() {
            let Some(call) = self.calls.get(&number) else { continue };
            let (needs_turn, can_be_asked) = (call.may_need_input, call.can.any());
            let is_free =
                self.legacy.turn.is_none() && (!can_be_asked || self.legacy.running.is_empty());
            if needs_turn && (blocked || !is_free) {
                blocked = true;
                kept.push_back(number);
                continue;
            }
            self.pass_to_legacy(number, needs_turn);
        }
        self.queued = kept;
    }

    fn pass_to_legacy(&mut self, number: u64, needs_turn: bool) {
        let Some(Some(request)) = self.update(number, |call| call.take_request()) else { return };
        match request.method() {
            "server/discover" => {
                let discovered = self.legacy.discovered.clone();
                let message = write_result(&Dialect::MCP, request.id(), &discovered);
                return self.respond(number, 200, message.into());
            }
            "subscriptions/listen" => return self.listen(number, request.params()),
            // The tasks of earlier versions are different.
            method if method.starts_with("tasks/") => {
                let refusal = unknown_method(method);
                return self.fail(number, refusal.status, refusal.code, &refusal.text);
            }
            // The program that has asked has ended, so the call cannot be continued.
            _ if needs_turn && request.state().is_some() => {
                let refusal = unknown_state();
                return self.fail(number, refusal.status, refusal.code, &refusal.text);
            }
            _ => {}
        }
        if needs_turn {
            match request.can.any() {
                true => self.legacy.turn = Some(Turn::new(number, &request)),
                false => drop(self.legacy.running.insert(number)),
            }
        }
        self.set_level(request.level);
        let id = number.to_string();
        let params = legacy_params(&request, id.as_bytes());
        self.send(write_request(&Dialect::MCP, id.as_bytes(), request.method(), Some(&params)));
    }

    /// Tells the program to send log messages of this level and above. Messages that a client did not
    /// ask for are filtered.
    fn set_level(&mut self, wanted: Option<Level>) {
        let Some(wanted) = wanted.filter(|_| self.legacy.has_levels) else { return };
        let others = self.calls.values().filter(|call| call.is_in_flight());
        let level = others.filter_map(|call| call.level).min().map_or(wanted, |it| it.min(wanted));
        if self.legacy.level != Some(level) {
            self.legacy.level = Some(level);
            let params = object([("level", quoted(level.name()).as_bytes())]);
            self.send_request("logging/setLevel", &params);
        }
    }

    /// Records that the program has finished a call.
    pub(super) fn settled(&mut self, passed: u64) {
        self.legacy.running.remove(&passed);
        if let Some(turn) = self.legacy.turn.take_if(|turn| turn.passed == passed) {
            self.refuse_open(&turn.asked);
        }
    }

    /// Returns the number under which the program knows a call.
    pub(super) fn passed_as(&self, number: u64) -> u64 {
        let turn = self.legacy.turn.as_ref().filter(|turn| turn.call == Some(number));
        turn.map_or(number, |turn| turn.passed)
    }

    /// Returns the call that the program knows under this number, or `None` if its client is being
    /// asked.
    pub(super) fn call_of(&self, passed: u64) -> Option<u64> {
        match self.legacy.turn.as_ref().filter(|turn| turn.passed == passed) {
            Some(turn) => turn.call,
            None => Some(passed),
        }
    }

    /// Fails a call whose turn cannot continue.
    pub(super) fn fail_turn(&mut self, number: u64, text: &str) {
        self.fail(number, 200, PROGRAM_ENDED, text);
    }
}

/// Writes the parameters for a program of an earlier version, without the members that exist only in the
/// modern era.
fn legacy_params(request: &ModernRequest, token: &[u8]) -> Vec<u8> {
    let Some(params) = members(request.params()) else { return b"{}".to_vec() };
    let in_meta = params.iter().find(|(name, _)| name == "_meta");
    let in_meta = in_meta.and_then(|(_, value)| members(value)).unwrap_or_default();
    let in_meta = in_meta.iter().filter(|(name, _)| !name.starts_with(meta::PREFIX));
    let in_meta: Vec<(&str, &[u8])> = in_meta
        .map(|(name, value)| (&**name, if name == "progressToken" { token } else { value }))
        .collect();
    let of_meta = (!in_meta.is_empty()).then(|| object(in_meta));
    let others = params
        .iter()
        .filter(|(name, _)| !matches!(&**name, "_meta" | "inputResponses" | "requestState"));
    let others = others.map(|(name, value)| (&**name, *value));
    object(of_meta.iter().map(|it| ("_meta", &it[..])).chain(others))
}
