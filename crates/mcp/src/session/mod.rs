//! A session of the protocol versions 2025-03-26 to 2025-11-25, for a program on stdio.
//!
//! ```text
//!   POST ──▶ post ──▶ messages for the program      from_program ◀── a message of the program
//!              │                                        │ which stream?
//!              ▼                                        ▼
//!   response ◀── answer, next ◀── the POST's stream   the stream of the POST, or that of the GET
//!   GET ──────▶ get, next ◀────── the GET's stream, or any stream that is resumed
//! ```

mod ending;
mod requests;
mod routing;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Answers, Dialect, Id, Message, Request, classify, member, write_error, write_response,
};

pub use self::ending::Ending;
use self::requests::Requests;
use self::stream::{Opening, Stream, StreamNumber};
use crate::place::{Next, Place, read_event_id};
use crate::{Head, Posted, Refusal};

/// Limits on a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// The number of the client's requests that have no response yet; 1,024 by default.
    pub calls: usize,
    /// The number of bytes of the ids and progress tokens of these requests, and of the ids of the
    /// program's requests; 256 KiB of each by default.
    pub id_bytes: usize,
    /// The number of bytes that are kept for streams without a connection, and for a resumption of
    /// streams; 4 MiB by default. Beyond this limit, the oldest messages are dropped, but each stream
    /// keeps its newest one.
    pub kept_bytes: usize,
    /// The number of bytes that may wait for connections before the program has to wait; 1 MiB by
    /// default.
    pub waiting_bytes: usize,
    /// The number of finished streams that may be resumed; 64 by default.
    pub finished: usize,
    /// How long a finished stream may be resumed after its connection has ended; 60 s by default.
    pub finished_for: Duration,
    /// How long a session without a stream is kept; 30 min by default.
    pub idle: Duration,
    /// How long a POST waits for the first message before its response becomes an event stream; 250 ms by
    /// default.
    pub json_wait: Duration,
    /// How long a POST with `initialize` waits for the response, because a program may need time to
    /// start; 20 s by default.
    pub initialize_wait: Duration,
    /// How long clients are asked to wait before they reconnect; 1 s by default.
    pub retry: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            calls: 1024,
            id_bytes: 256 * 1024,
            kept_bytes: 4 * 1024 * 1024,
            waiting_bytes: 1024 * 1024,
            finished: 64,
            finished_for: Duration::from_secs(60),
            idle: Duration::from_secs(30 * 60),
            json_wait: Duration::from_millis(250),
            initialize_wait: Duration::from_secs(20),
            retry: Duration::from_secs(1),
        }
    }
}

/// The supported protocol versions.
pub(crate) const VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The only version with batches.
const WITH_BATCHES: &str = "2025-03-26";
/// The first version whose clients can parse an event without data.
const WITH_PRIMING: &str = "2025-11-25";
/// The maximum length of a version that is stored.
const MAX_VERSION: usize = 64;

/// A session. All times are measured by the caller's clock from a fixed moment.
#[derive(Debug)]
pub struct Session {
    limits: SessionLimits,
    /// The id of the `initialize` request, until the response arrives.
    initialize: Option<Id>,
    /// The version that the program chose.
    version: Option<Box<str>>,
    streams: BTreeMap<StreamNumber, Stream>,
    /// The streams of POSTs with unanswered requests.
    open: BTreeSet<StreamNumber>,
    requests: Requests,
    next_stream: StreamNumber,
    next_connection: u64,
    /// The number of streams that have a connection.
    attached: usize,
    /// The cost of all messages.
    kept: usize,
    /// The cost of the messages that wait to be written to an existing connection.
    waiting: usize,
    lost: u64,
    last_use: Duration,
    ended: Option<Ending>,
}

/// An accepted POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The messages for the program, in order.
    pub messages: Vec<Bytes>,
    /// The stream for the response, or `None` if no request was posted, so that the response is 202.
    pub place: Option<Place>,
    /// The streams of requests that were canceled. A stream without open requests has ended.
    pub touched: Vec<u64>,
}

/// The response to a POST with requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The response is not known yet. Call again when a message has arrived for the stream, or at this
    /// time.
    Wait(Duration),
    /// The response of the program, as JSON.
    Json(Bytes),
    /// An event stream, whose events [`Session::next`] returns.
    Events,
    /// The session ended before there was a response.
    Ended(Ending),
}

impl Session {
    /// Creates a session that begins with this `initialize` request.
    pub fn new(now: Duration, opening: &Request, limits: SessionLimits) -> Self {
        Self {
            limits,
            initialize: Some(Id::from(opening.id())),
            version: None,
            streams: BTreeMap::from([(GENERAL, Stream::new(1))]),
            open: BTreeSet::new(),
            requests: Requests::default(),
            next_stream: GENERAL + 1,
            next_connection: 0,
            attached: 0,
            kept: 0,
            waiting: 0,
            lost: 0,
            last_use: now,
            ended: None,
        }
    }

    /// Handles a POST.
    ///
    /// # Errors
    /// 400: the version is not supported, a batch is not allowed, or an id or progress token is in use or too
    /// long. 404: the session has ended. 503: too many requests are open.
    pub fn post(
        &mut self,
        now: Duration,
        head: &Head,
        posted: &Posted,
    ) -> Result<Accepted, Refusal> {
        let checked = self.check(head).and_then(|()| self.check_posted(posted));
        checked.map_err(|refusal| posted.refused(refusal))?;
        self.last_use = now;
        let mut requests = 0;
        let (mut messages, mut touched) = (Vec::with_capacity(posted.messages.len()), Vec::new());
        let number = self.next_stream;
        for message in &posted.messages {
            match message {
                Message::Request(request) => {
                    requests += 1;
                    self.requests.begin(request, number);
                }
                Message::Notification(notification) if notification.method() == CANCELLED => {
                    let id = notification.params().and_then(|it| member(it, "requestId"));
                    touched.extend(id.and_then(|id| self.cancelled(now, id)));
                }
                Message::Response(response) => _ = self.requests.answered(response.id()),
                _ => {}
            }
            messages.push(message.alone(&Dialect::MCP, posted.is_batch, Limits::default()));
        }
        if requests == 0 {
            return Ok(Accepted { messages, place: None, touched });
        }
        self.next_stream += 1;
        let wait = match self.initialize {
            Some(_) => self.limits.initialize_wait,
            None => self.limits.json_wait,
        };
        let mut stream = Stream::new(requests);
        let place = Place { stream: number, connection: self.connection() };
        let _ = stream.attach(place.connection, None);
        stream.undecided_until = Some(now.saturating_add(wait));
        self.attached += 1;
        self.streams.insert(number, stream);
        self.open.insert(number);
        Ok(Accepted { messages, place: Some(place), touched })
    }

    /// Handles a GET: opens the session's general stream, or resumes any stream. Returns the stream, and
    /// how many missed messages of it are no longer kept.
    ///
    /// # Errors
    /// 400: the version is not supported, or the event id is unknown. 404: the session has ended. 406:
    /// event streams are not accepted. 409: the general stream is already open.
    pub fn get(&mut self, now: Duration, head: &Head) -> Result<(Place, u64), Refusal> {
        self.check(head)?;
        head.check_get()?;
        let resumed = match head.last_event_id() {
            None => None,
            Some(id) => {
                let unknown = "the header Last-Event-ID is not the id of an event that this session sent \
                               recently";
                let known = read_event_id(id).filter(|(it, _)| self.streams.contains_key(it));
                Some(known.ok_or_else(|| Refusal::new(400, unknown))?)
            }
        };
        let (number, last) = resumed.map_or((GENERAL, None), |(it, last)| (it, Some(last)));
        let connection = self.next_connection;
        let Some(stream) = self.streams.get_mut(&number) else {
            return Err(Refusal::unknown_session());
        };
        if last.is_none() && stream.connection.is_some() {
            let text = "the session has an open GET stream already; a session has one at a time";
            return Err(Refusal::new(409, text));
        }
        let (had_one, before) = (stream.connection.is_some(), stream.unwritten());
        let Some(missing) = stream.attach(connection, last) else {
            return Err(Refusal::new(
                400,
                "the header Last-Event-ID names an event that was never sent",
            ));
        };
        let after = stream.unwritten();
        self.waiting = self.waiting - if had_one { before } else { 0 } + after;
        self.attached += usize::from(!had_one);
        self.next_connection += 1;
        self.last_use = now;
        self.lost += missing;
        Ok((Place { stream: number, connection }, missing))
    }

    /// Returns the response to a POST with requests.
    pub fn answer(&mut self, now: Duration, place: Place) -> Answer {
        let Some(stream) = self.stream(place) else {
            return Answer::Ended(self.ended.unwrap_or(Ending::Resumed));
        };
        let Some(until) = stream.undecided_until else { return Answer::Events };
        if let Some(only) = stream.take_only() {
            self.detach(now, place);
            self.remove(place.stream);
            return Answer::Json(only);
        }
        if stream.unwritten() == 0 && stream.open > 0 && now < until {
            return self.ended.map_or(Answer::Wait(until), Answer::Ended);
        }
        stream.undecided_until = None;
        Answer::Events
    }

    /// Appends the next event of a stream to `out`.
    pub fn next(&mut self, place: Place, out: &mut BytesMut) -> Next {
        let opening = self.opening();
        let is_over = self.is_over();
        let Some(stream) = self.stream(place) else { return Next::End };
        let before = stream.unwritten();
        let is_written = stream.write_next(place.stream, opening, out);
        let written = before - stream.unwritten();
        let is_finished = stream.open == 0;
        self.waiting -= written;
        match is_written {
            true => Next::Event,
            false if is_over || is_finished => Next::End,
            false => Next::Wait,
        }
    }

    /// Ends a connection whose client has disconnected or whose stream was written to the end. The
    /// stream can be resumed.
    pub fn detach(&mut self, now: Duration, place: Place) {
        let Some(stream) = self.stream(place) else { return };
        stream.detach(now);
        let unwritten = stream.unwritten();
        self.waiting -= unwritten;
        self.attached -= 1;
        self.last_use = now;
        self.make_room();
    }

    /// Returns whether another message of the program may be taken. If not, wait until an event has been
    /// written or a connection has been detached.
    pub fn has_room(&self) -> bool {
        self.waiting < self.limits.waiting_bytes
    }

    /// Returns the number of bytes that the session holds: messages, and the ids and tokens of requests.
    pub fn held_bytes(&self) -> usize {
        self.kept + self.requests.held()
    }

    /// Returns how many messages were dropped before a client received them.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Drops the messages that are only kept for resumptions.
    pub fn forget(&mut self) {
        self.make_room_within(0);
    }

    /// Returns the time at which to call [`expire`](Self::expire) next.
    pub fn deadline(&self) -> Option<Duration> {
        let finished = self.idle_streams().map(|(_, since)| since).min();
        let finished = finished.map(|at| at.saturating_add(self.limits.finished_for));
        let idle = (self.attached == 0).then(|| self.last_use.saturating_add(self.limits.idle));
        [finished, idle].into_iter().flatten().min()
    }

    /// Removes expired streams. Ends the session and returns true if it was idle for too long.
    pub fn expire(&mut self, now: Duration) -> bool {
        let age = self.limits.finished_for;
        let old = self.idle_streams().filter(|(_, since)| since.saturating_add(age) <= now);
        let old: Vec<_> = old.map(|(number, _)| number).collect();
        old.into_iter().for_each(|number| self.remove(number));
        let is_idle = self.attached == 0 && self.last_use.saturating_add(self.limits.idle) <= now;
        if is_idle {
            self.end(Ending::Idle);
        }
        is_idle
    }

    /// Returns since when the session has been abandoned: it has no stream with a connection, and no request
    /// without a response, or only such that were left for as long as a finished stream is kept.
    pub fn abandoned_since(&self, now: Duration) -> Option<Duration> {
        let resumable_until = match self.open.is_empty() {
            true => self.last_use,
            false => self.last_use.saturating_add(self.limits.finished_for),
        };
        let is_left = self.attached == 0 && resumable_until <= now && self.ended.is_none();
        is_left.then_some(self.last_use)
    }

    /// Ends the session. Its streams end after their pending messages. The first reason counts.
    pub fn end(&mut self, why: Ending) {
        self.ended.get_or_insert(why);
    }

    /// Returns whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    fn check(&self, head: &Head) -> Result<(), Refusal> {
        if self.is_over() {
            return Err(Refusal::unknown_session());
        }
        match head.version() {
            Some(version)
                if !VERSIONS.contains(&version) && self.version.as_deref() != Some(version) =>
            {
                let known = VERSIONS.join(", ");
                let text =
                    format!("unsupported MCP-Protocol-Version; this session supports {known}");
                Err(Refusal::new(400, text))
            }
            _ => Ok(()),
        }
    }

    fn check_posted(&self, posted: &Posted) -> Result<(), Refusal> {
        if posted.is_batch && self.version.as_deref() != Some(WITH_BATCHES) {
            let text = "batches are only allowed in sessions of protocol version 2025-03-26";
            return Err(Refusal::invalid(text));
        }
        let requests = || {
            posted.messages.iter().filter_map(|message| match message {
                Message::Request(request) => Some(request),
                _ => None,
            })
        };
        let is_open = !self.requests.is_empty();
        let opens = |id| !is_open && self.initialize.as_deref() == Some(id);
        if requests().any(|it| it.method() == "initialize" && !opens(it.id())) {
            return Err(Refusal::invalid("the session is already initialized"));
        }
        self.requests.check(requests(), &self.limits)
    }

    fn opening(&self) -> Opening {
        let primes = self.version.as_deref().is_some_and(|version| version >= WITH_PRIMING);
        Opening { primes, retry: self.limits.retry }
    }

    fn connection(&mut self) -> u64 {
        self.next_connection += 1;
        self.next_connection - 1
    }

    /// Returns the stream, if it still has this connection.
    fn stream(&mut self, place: Place) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(&place.stream)?;
        (stream.connection == Some(place.connection)).then_some(stream)
    }

    /// Returns the finished streams without a connection, in the order of their numbers, and when they
    /// became idle.
    fn idle_streams(&self) -> impl Iterator<Item = (StreamNumber, Duration)> {
        self.streams.iter().filter_map(|(number, it)| Some((*number, it.idle_since?)))
    }

    /// Removes the stream of a POST, which must have no connection.
    fn remove(&mut self, number: StreamNumber) {
        if let Some(stream) = self.streams.remove(&number) {
            self.kept -= stream.cost();
            self.lost += stream.unwritten_messages();
        }
    }
}

/// The number of the general stream, which carries messages that belong to no request.
const GENERAL: StreamNumber = 0;

const CANCELLED: &str = "notifications/cancelled";

#[cfg(test)]
mod tests;
