//! A client's side of MCP over HTTP: messages of a host that speaks stdio become requests to a server, and their
//! responses become messages for the host.
//!
//! ```text
//!   host ──▶ SessionTranslator ──▶ outgoing ──▶ POST, GET, DELETE ──▶ the server
//!   host ◀── SessionTranslator ◀── take     ◀── JSON, events      ◀── the server
//! ```
//!
//! The version is that of each message of the host. A request that names a version in `_meta` is sent without a
//! session, with the headers of 2026-07-28. Anything else belongs to the session that `initialize` has opened. The
//! translator helps hosts of earlier versions to use servers that only speak 2026-07-28.

mod answers;
mod failure;
mod headers;
mod outgoing;
mod session;
mod stream;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::json::{Limits, to_one_line};
use tieline_proto::jsonrpc::{Dialect, Id, Notification, member, write_error};
use tieline_proto::{
    ByteSize, DEFAULT_MAX_MESSAGE, Exchange, ExchangeEvent, ExchangeRequest, ExchangeStep,
};

use self::failure::Failure;
use self::outgoing::{Outgoing, Sort};
use self::session::RemoteSession;
use self::stream::Stream;
use crate::modern::{SessionTranslator, ToolHeaders, Translated};

/// The bounds of a [`Remote`].
#[derive(Clone, Copy, Debug)]
pub struct RemoteLimits {
    /// The largest message that is accepted from the server; 16 MiB by default.
    pub max_message: ByteSize,
    /// How many requests of the host may be without a response. Further ones get an error.
    pub requests: usize,
    /// How many messages of the host may wait to be sent.
    pub queued: usize,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        Self { max_message: DEFAULT_MAX_MESSAGE, requests: 256, queued: 64 }
    }
}

/// How long the server may take to end the response to a request that the host has cancelled.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// How many requests of the server are remembered that the host has not answered.
const MAX_ASKED: usize = 1024;
/// What each request costs in addition to its id.
const EACH: usize = 256;

/// A server that is reached over HTTP.
#[derive(Debug)]
pub struct Remote {
    limits: RemoteLimits,
    translator: SessionTranslator,
    session: RemoteSession,
    tools: ToolHeaders,
    /// Messages that are not sent yet.
    outgoing: VecDeque<Outgoing>,
    /// The requests in flight, and those that are sent again later, by their numbers.
    streams: BTreeMap<u64, Stream>,
    /// The requests without a response.
    owed: HashMap<Id, Owed>,
    /// The server's requests that the host has not answered.
    asked: HashSet<Id>,
    steps: VecDeque<ExchangeStep>,
    has_input_ended: bool,
    next: u64,
    now: Duration,
    random: f64,
}

/// A request without a response.
#[derive(Debug)]
struct Owed {
    /// The number of its POST.
    stream: u64,
    sort: Sort,
    is_modern: bool,
    is_cancelled: bool,
}

impl Remote {
    /// Creates the machine for one line.
    pub fn new(limits: RemoteLimits) -> Self {
        Self {
            limits,
            translator: SessionTranslator::default(),
            session: RemoteSession::default(),
            tools: ToolHeaders::default(),
            outgoing: VecDeque::new(),
            streams: BTreeMap::new(),
            owed: HashMap::new(),
            asked: HashSet::new(),
            steps: VecDeque::new(),
            has_input_ended: false,
            next: 0,
            now: Duration::ZERO,
            random: 0.5,
        }
    }

    /// Creates the machine for one line, for messages of the server up to `max_message`.
    pub fn boxed(max_message: ByteSize) -> Box<dyn Exchange> {
        Box::new(Self::new(RemoteLimits { max_message, ..RemoteLimits::default() }))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Passes a message of the server to the host.
    fn deliver(&mut self, message: Bytes) {
        let translated = match self.translator.is_transparent() {
            true => Translated { to_client: vec![message], to_program: Vec::new() },
            false => self.translator.from_program(message),
        };
        self.pass(translated);
    }

    fn pass(&mut self, translated: Translated) {
        for message in translated.to_client {
            // The framing `lines` needs one line.
            let is_spread = message.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
            let line = is_spread.then(|| to_one_line(&message, Limits::default()).ok()).flatten();
            self.steps.push_back(ExchangeStep::Deliver(line.unwrap_or(message)));
        }
        for message in translated.to_program {
            self.queue(message);
        }
    }

    /// Answers a request of the host with an error.
    fn fail(&mut self, id: &[u8], failure: &Failure) {
        let message = match &failure.raw {
            Some(error) => {
                tieline_proto::jsonrpc::write_response(&Dialect::MCP, id, Err(error)).into()
            }
            None => Bytes::from(write_error(&Dialect::MCP, id, failure.code, &failure.text, None)),
        };
        self.deliver(message);
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.steps.push_back(ExchangeStep::Warn(text.into()));
    }

    /// Cancels a request of the host. Returns whether the server still has to be told.
    fn cancel(&mut self, cancelled: &Notification) -> bool {
        let id = cancelled.params().and_then(|params| member(params, "requestId"));
        let Some(id) = id.map(Id::from) else { return true };
        if let Some(at) = self.outgoing.iter().position(|it| it.ids == [id.clone()]) {
            self.outgoing.remove(at);
            return false;
        }
        let Some(owed) = self.owed.get_mut(&id) else { return true };
        let number = owed.stream;
        if owed.is_modern {
            // Closing the connection cancels the request.
            self.owed.remove(&id);
            self.stop(number);
            return false;
        }
        owed.is_cancelled = true;
        let all = self.owed.values().filter(|it| it.stream == number).all(|it| it.is_cancelled);
        if let Some(stream) = self.streams.get_mut(&number).filter(|_| all) {
            stream.give_up_at = Some(self.now + CANCEL_GRACE);
        }
        true
    }

    /// Forgets a request, whose connection is closed.
    fn stop(&mut self, number: u64) {
        if self.streams.remove(&number).is_some_and(|stream| stream.is_running()) {
            self.steps.push_back(ExchangeStep::Stop(number));
        }
    }

    fn is_over(&self) -> bool {
        let is_waiting = self.owed.values().any(|owed| !owed.is_cancelled);
        let is_sending = self.streams.values().any(Stream::is_post);
        self.has_input_ended && !is_waiting && !is_sending && self.outgoing.is_empty()
    }
}

impl Exchange for Remote {
    fn has_room(&self) -> bool {
        self.outgoing.len() < self.limits.queued
    }

    fn send(&mut self, now: Duration, message: Bytes) {
        self.now = now;
        let translated = match self.translator.is_transparent() {
            true => Translated { to_program: vec![message], to_client: Vec::new() },
            false => self.translator.from_client(message),
        };
        self.pass(translated);
    }

    fn end_input(&mut self, now: Duration) {
        self.now = now;
        self.has_input_ended = true;
        // These have no end of their own.
        let endless = self.owed.iter().filter(|(_, owed)| owed.sort == Sort::Listen);
        for (id, number) in endless.map(|(id, owed)| (id.clone(), owed.stream)).collect::<Vec<_>>()
        {
            self.owed.remove(&id);
            self.stop(number);
        }
        // The host can no longer answer.
        for id in std::mem::take(&mut self.asked) {
            self.refuse(&id);
        }
    }

    fn receive(&mut self, now: Duration, number: u64, event: ExchangeEvent) {
        self.now = now;
        match event {
            ExchangeEvent::Head(status, headers) => self.head(number, status, &headers),
            ExchangeEvent::Body(bytes) => self.body(number, &bytes),
            ExchangeEvent::Ended => self.ended(number),
            ExchangeEvent::Failed(failure) => self.failed(number, &failure),
        }
    }

    fn step(&mut self, now: Duration, random: f64) -> Option<ExchangeStep> {
        (self.now, self.random) = (now, random);
        if self.steps.is_empty() {
            self.start_due();
            self.start_outgoing();
        }
        if self.steps.is_empty() && self.is_over() {
            return Some(ExchangeStep::End);
        }
        self.steps.pop_front()
    }

    fn wake_at(&self) -> Option<Duration> {
        self.streams.values().filter_map(Stream::wake_at).min()
    }

    fn has_sent_all(&self) -> bool {
        self.outgoing.is_empty()
    }

    fn held_bytes(&self) -> usize {
        let outgoing: usize = self.outgoing.iter().map(|it| it.message.len() + EACH).sum();
        let streams: usize = self.streams.values().map(|it| it.held_bytes() + EACH).sum();
        let owed: usize = self.owed.keys().map(|id| id.len() + EACH).sum();
        let asked: usize = self.asked.iter().map(|id| id.len()).sum();
        outgoing + streams + owed + asked + self.translator.held_bytes() + self.session.held_bytes()
    }

    fn farewell(&mut self) -> Option<ExchangeRequest> {
        self.session.farewell()
    }
}

#[cfg(test)]
mod tests;
