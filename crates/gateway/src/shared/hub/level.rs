//! The level of log messages: the program uses the most verbose level that any client wants, and each
//! client gets only the messages that it wants.

use tieline_proto::jsonrpc::{LevelRules, Request, Response, locate, write_request};

use super::opening::Stage;
use super::{ClientId, Hub, Kind, ReplyTo};

/// Returns the index of the level in an object.
fn level_in(rules: &LevelRules, object: &[u8]) -> Option<usize> {
    let level = locate(object, &[rules.member]).ok().flatten()?;
    let level = level.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    rules.levels.iter().position(|it| it.as_bytes() == level)
}

impl Hub {
    /// Handles a client's request to set its level.
    pub(super) fn set_level(&mut self, reply: ReplyTo, request: &Request) {
        let params = request.params().unwrap_or_default();
        let found = self.rules.level.and_then(|rules| Some((rules, level_in(rules, params)?)));
        let (Some((rules, level)), Some(client)) = (found, self.clients.get_mut(&reply.client))
        else {
            // The program reports what is wrong with the request.
            self.forward(reply, request, Kind::Plain);
            return;
        };
        client.level = Some(level);
        let wanted = self.wanted_level(rules);
        if self.level == Some(wanted) {
            return self.reply_result(&reply, b"{}");
        }
        self.level = Some(wanted);
        if wanted == level {
            self.forward(reply, request, Kind::Level);
        } else {
            self.ask_level(rules, wanted);
            self.reply_result(&reply, b"{}");
        }
    }

    /// Adapts the program's level after a client has joined or left.
    pub(super) fn follow_level(&mut self) {
        let (Some(rules), Some(level)) = (self.rules.level, self.level) else { return };
        let wanted = self.wanted_level(rules);
        if wanted != level && !self.clients.is_empty() {
            self.level = Some(wanted);
            self.ask_level(rules, wanted);
        }
    }

    fn ask_level(&mut self, rules: &LevelRules, level: usize) {
        let Some(level) = rules.levels.get(level) else { return };
        let params = format!("{{\"{}\":\"{level}\"}}", rules.member);
        self.ask(Kind::Level, |dialect, id| {
            write_request(dialect, id, rules.request, Some(params.as_bytes()))
        });
    }

    fn wanted_level(&self, rules: &LevelRules) -> usize {
        let ready = self
            .clients
            .values()
            .filter(|it| it.level.is_some() || it.stage == Stage::Opened { is_confirmed: true });
        ready.map(|it| it.level.unwrap_or(rules.default)).min().unwrap_or(rules.default)
    }

    /// Handles the program's response to a request that sets its level.
    pub(super) fn level_answered(&mut self, reply: Option<ReplyTo>, response: &Response) {
        if response.outcome().is_err() {
            self.level = None;
        }
        if let Some(reply) = reply {
            let response = response.rewritten(&self.dialect, &reply.id, None);
            self.reply(&reply, response);
        }
    }

    /// Returns whether a client wants a notification from the program, judged by its level.
    pub(super) fn wants(&self, client: ClientId, method: &str, params: &[u8]) -> bool {
        let rules = self.rules.level.filter(|rules| rules.notification == method);
        let level = rules.and_then(|rules| level_in(rules, params));
        let (Some(rules), Some(level)) = (rules, level) else { return true };
        let own = self.clients.get(&client).and_then(|it| it.level);
        match own.or(self.level.map(|_| rules.default)) {
            Some(least) => level >= least,
            None => true,
        }
    }
}
