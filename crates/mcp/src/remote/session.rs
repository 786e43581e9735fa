//! The session of the versions up to 2025-11-25: how it begins, what it needs to begin anew, and its general stream.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tieline_proto::jsonrpc::member;
use tieline_proto::{ExchangeMethod, ExchangeRequest};

use super::failure::Failure;
use super::outgoing::{Outgoing, Sort};
use super::stream::{Stream, Task};
use super::{Remote, headers};
use crate::text::string;
use crate::{PROTOCOL_VERSION, SESSION_ID};

/// How many resources are remembered that the host has subscribed to.
const MAX_RESOURCES: usize = 1024;
/// The longest parameters of a request that are remembered.
const MAX_PARAMS: usize = 8 * 1024;

/// A session with the server.
#[derive(Debug, Default)]
pub(super) struct RemoteSession {
    pub(super) id: Option<String>,
    version: Option<String>,
    /// The parameters of the host's `initialize`.
    initialize: Option<Bytes>,
    /// The host's `notifications/initialized`.
    pub(super) initialized: Option<Bytes>,
    /// The parameters of the last `logging/setLevel` that succeeded.
    level: Option<Bytes>,
    /// The parameters of each `resources/subscribe`, by the URI.
    resources: BTreeMap<String, Bytes>,
    is_opening: bool,
    /// Whether `initialize` has succeeded.
    is_open: bool,
    /// Whether the server has lost the session, and a new one could not be opened.
    pub(super) is_lost: bool,
    /// Whether the general stream was open in this session.
    pub(super) had_general: bool,
}

impl RemoteSession {
    /// Returns whether the host has sent `initialize`, and it has not failed.
    pub(super) fn has_begun(&self) -> bool {
        self.is_open || self.is_opening
    }

    /// Returns whether the response to `initialize` is missing.
    pub(super) fn is_opening(&self) -> bool {
        self.is_opening
    }

    /// Returns the headers of a request in the session.
    pub(super) fn headers(&self) -> Vec<(String, String)> {
        self.headers_in(self.id.as_ref())
    }

    /// Returns the headers of a request in a session with this id.
    pub(super) fn headers_in(&self, id: Option<&String>) -> Vec<(String, String)> {
        let id = id.into_iter().map(|id| (SESSION_ID.to_owned(), id.clone()));
        let version = self.version.iter().map(|it| (PROTOCOL_VERSION.to_owned(), it.clone()));
        id.chain(version).collect()
    }

    pub(super) fn held_bytes(&self) -> usize {
        let parts = [&self.initialize, &self.initialized, &self.level];
        let parts: usize = parts.into_iter().flatten().map(Bytes::len).sum();
        let resources = self.resources.iter().map(|(uri, params)| uri.len() + params.len());
        parts + resources.sum::<usize>()
    }

    /// Returns the request that ends the session.
    pub(super) fn farewell(&mut self) -> Option<ExchangeRequest> {
        self.id.as_ref()?;
        let headers = self.headers();
        self.id = None;
        Some(ExchangeRequest { method: ExchangeMethod::Delete, headers, body: Bytes::new() })
    }
}

impl Remote {
    /// Prepares for the host's `initialize`, which begins a new session.
    pub(super) fn begin(&mut self, message: &[u8]) {
        let initialize = Bytes::copy_from_slice(member(message, "params").unwrap_or(b"{}"));
        let initialize = Some(initialize);
        self.session = RemoteSession { initialize, is_opening: true, ..Default::default() };
    }

    /// Takes the head of the response to `initialize`.
    pub(super) fn identified(&mut self, id: Option<&Bytes>) {
        let id = id.and_then(|id| std::str::from_utf8(id).ok());
        let id = id.filter(|id| headers::is_plain(id) && id.len() <= MAX_PARAMS);
        self.session.id = id.map(str::to_owned);
    }

    /// Takes the result of `initialize`.
    pub(super) fn opened(&mut self, result: &[u8]) {
        let version = member(result, "protocolVersion").and_then(string);
        let version = version.filter(|version| headers::is_plain(version) && version.len() <= 64);
        self.session.version = version.map(|version| version.into_owned());
        self.session.is_open = true;
        (self.session.is_opening, self.session.is_lost) = (false, false);
    }

    /// Records that `initialize` has failed.
    pub(super) fn not_opened(&mut self) {
        self.session.is_opening = false;
        self.session.id = None;
    }

    /// Records a request of the session that has succeeded, to repeat it in the next session.
    pub(super) fn succeeded(&mut self, sort: Sort, params: &[u8]) {
        if params.len() > MAX_PARAMS {
            return;
        }
        let uri = member(params, "uri").and_then(string).map(|uri| uri.into_owned());
        let resources = &mut self.session.resources;
        let params = Bytes::copy_from_slice(params);
        match (sort, uri) {
            (Sort::Level, _) => self.session.level = Some(params),
            (Sort::Subscribe { is_end: true }, Some(uri)) => _ = resources.remove(&uri),
            (Sort::Subscribe { is_end: false }, Some(uri)) if resources.len() < MAX_RESOURCES => {
                resources.insert(uri, params);
            }
            _ => {}
        }
    }

    /// Sends a message again in a new session, because the server no longer has its session.
    pub(super) fn repeat(&mut self, outgoing: Outgoing, session: Option<&String>) {
        for id in &outgoing.ids {
            self.owed.remove(id);
        }
        if session == self.session.id.as_ref() {
            self.reopen();
        }
        if outgoing.sort == Sort::Response {
            // The server's request was part of the session.
            return;
        }
        let is_first = |it: &&Outgoing| {
            it.is_repeated && !matches!(it.sort, Sort::Request | Sort::Notification)
        };
        let at = self.outgoing.iter().take_while(is_first).count();
        self.outgoing.insert(at, Outgoing { is_repeated: true, ..outgoing });
    }

    /// Opens a new session with the recorded `initialize`, if the current one is open.
    pub(super) fn reopen(&mut self) {
        let Some(initialize) = self.session.initialize.clone() else { return };
        if self.session.is_opening {
            return;
        }
        self.stop_general();
        let mut first = vec![self.own_request(&initialize, "initialize", Sort::Reopen)];
        let initialized = self.session.initialized.clone();
        first.extend(initialized.map(|it| Outgoing::new(it, Vec::new(), Sort::Initialized)));
        if let Some(level) = self.session.level.clone() {
            first.push(self.own_request(&level, "logging/setLevel", Sort::Restore));
        }
        for params in self.session.resources.values().cloned().collect::<Vec<_>>() {
            first.push(self.own_request(&params, "resources/subscribe", Sort::Restore));
        }
        for outgoing in first.into_iter().rev() {
            self.outgoing.push_front(Outgoing { is_repeated: true, ..outgoing });
        }
        (self.session.id, self.session.is_opening) = (None, true);
        (self.session.had_general, self.session.is_lost) = (false, false);
        self.warn("the server no longer has the session; opening a new one");
    }

    /// Gives up what waits for a new session, which could not be opened.
    pub(super) fn not_reopened(&mut self, failure: &Failure) {
        self.not_opened();
        self.session.is_lost = true;
        let (waiting, others): (VecDeque<_>, _) =
            self.outgoing.drain(..).partition(|it| !it.is_modern && it.sort != Sort::Initialize);
        self.outgoing = others;
        let text =
            format!("the session was lost, and a new one could not be opened: {}", failure.text);
        self.warn(text.clone());
        let failure = Failure::new(failure.code, text);
        for outgoing in waiting.iter().filter(|it| it.sort != Sort::Restore) {
            for id in &outgoing.ids {
                self.fail(id, &failure);
            }
        }
    }

    fn stop_general(&mut self) {
        let general = self.streams.iter().find(|(_, it)| matches!(it.task(), Task::General));
        if let Some(number) = general.map(|(number, _)| *number) {
            self.stop(number);
        }
    }

    /// Opens the stream for messages that belong to no request.
    pub(super) fn open_general(&mut self) {
        self.stop_general();
        let number = self.number();
        let stream = Stream::waiting(Task::General, self.session.id.clone(), self.now);
        self.streams.insert(number, stream);
    }
}
