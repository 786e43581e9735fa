//! A connection: which message goes to which stream, and what is kept.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::jsonrpc::{Id, Message, Request};

use super::calls::{Call, Calls, Effect};
use super::routing::session_of;
use super::streams::{GENERAL, Streams, Unopened};
use super::{AcpHead, AcpPosted};
use crate::place::{Next, Place, read_event_id};
use crate::{Ending, Refusal};

/// Limits on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpLimits {
    /// The number of the client's requests that have no response yet; 1,024 by default.
    pub calls: usize,
    /// The number of bytes of the ids of these requests and of their sessions' ids, and of the ids of the agent's
    /// requests; 256 KiB of each by default.
    pub id_bytes: usize,
    /// The number of sessions with a stream; 256 by default.
    pub sessions: usize,
    /// How many of these may be sessions that the agent has not named; 16 by default.
    pub unknown_sessions: usize,
    /// The number of bytes that are kept for streams without an HTTP connection, and for a resumption of streams;
    /// 4 MiB by default. Beyond this limit, the oldest messages are dropped, but each stream keeps its newest
    /// one.
    pub kept_bytes: usize,
    /// The number of bytes that may wait for HTTP connections before the agent has to wait; 1 MiB by default.
    pub waiting_bytes: usize,
    /// How long a connection without a stream is kept; 30 min by default.
    pub idle: Duration,
    /// How long a connection without a stream is kept for the responses to its requests if its place is needed;
    /// 60 s by default.
    pub unread: Duration,
    /// How long a POST with `initialize` waits for the response, because an agent may need time to start; 2 min
    /// by default.
    pub initialize_wait: Duration,
    /// How long clients are asked to wait before they open a stream again; 1 s by default.
    pub retry: Duration,
}

impl Default for AcpLimits {
    fn default() -> Self {
        Self {
            calls: 1024,
            id_bytes: 256 * 1024,
            sessions: 256,
            unknown_sessions: 16,
            kept_bytes: 4 * 1024 * 1024,
            waiting_bytes: 1024 * 1024,
            idle: Duration::from_secs(30 * 60),
            unread: Duration::from_secs(60),
            initialize_wait: Duration::from_secs(120),
            retry: Duration::from_secs(1),
        }
    }
}

/// A connection. All times are measured by the caller's clock from a fixed moment.
#[derive(Debug)]
pub struct AcpConnection {
    pub(super) limits: AcpLimits,
    pub(super) initialize: Initialize,
    pub(super) calls: Calls,
    pub(super) streams: Streams,
    last_use: Duration,
    ended: Option<Ending>,
}

/// The state of the `initialize` request.
#[derive(Debug)]
pub(super) enum Initialize {
    /// The request was sent to the agent.
    Waiting {
        id: Id,
        until: Duration,
    },
    /// The response was not sent to the client yet.
    Answered {
        response: Bytes,
        is_success: bool,
    },
    Done,
}

/// The response to a POST with `initialize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initialized {
    /// The response is not known yet. Call again when a message has arrived, or at this time.
    Wait(Duration),
    /// The agent's response. The client gets the id of the connection.
    Accepted(Bytes),
    /// The agent's error. The connection has ended.
    Rejected(Bytes),
    /// The connection ended before there was a response.
    Ended(Refusal),
}

impl AcpConnection {
    /// Creates a connection that begins with this `initialize` request, which the caller sends to the agent.
    pub fn new(now: Duration, opening: &Request, limits: AcpLimits) -> Self {
        let until = now.saturating_add(limits.initialize_wait);
        Self {
            limits,
            initialize: Initialize::Waiting { id: Id::from(opening.id()), until },
            calls: Calls::default(),
            streams: Streams::new(),
            last_use: now,
            ended: None,
        }
    }

    /// Returns the message for the agent that a POST with `initialize` contains.
    pub fn opening(posted: &AcpPosted) -> Bytes {
        posted.text()
    }

    /// Returns the response to the POST with `initialize`.
    pub fn initialized(&mut self, now: Duration) -> Initialized {
        match std::mem::replace(&mut self.initialize, Initialize::Done) {
            Initialize::Answered { response, is_success: true } => {
                self.last_use = now;
                Initialized::Accepted(response)
            }
            Initialize::Answered { response, is_success: false } => {
                self.end(Ending::Program);
                Initialized::Rejected(response)
            }
            Initialize::Waiting { id, until } => match self.ended {
                Some(ending) => Initialized::Ended(ending.acp_refusal()),
                None if now < until => {
                    self.initialize = Initialize::Waiting { id, until };
                    Initialized::Wait(until)
                }
                None => {
                    self.end(Ending::Program);
                    let text = "the agent did not answer the initialize request in time";
                    Initialized::Ended(Refusal::new(504, text))
                }
            },
            Initialize::Done => Initialized::Ended(Refusal::unknown_connection()),
        }
    }

    /// Handles a POST without `initialize`. Returns the message for the agent.
    ///
    /// # Errors
    /// 400: the request is `initialize`, its id is in use, or the header with the session is missing or names
    /// another session than the message. 404: the connection has ended. 503: too many requests have no response.
    pub fn post(
        &mut self,
        now: Duration,
        head: &AcpHead,
        posted: &AcpPosted,
    ) -> Result<Bytes, Refusal> {
        let checked = self.take(head, posted.message());
        checked.map_err(|refusal| posted.refused(refusal))?;
        self.last_use = now;
        Ok(posted.text())
    }

    fn take(&mut self, head: &AcpHead, message: &Message) -> Result<(), Refusal> {
        if self.is_over() || !matches!(self.initialize, Initialize::Done) {
            return Err(Refusal::unknown_connection());
        }
        match message {
            Message::Request(request) => {
                let method = request.method();
                if method == "initialize" {
                    return Err(Refusal::invalid("the connection is already initialized"));
                }
                let session = session_of(head, &method, request.params())?;
                let effect = Effect::of(&method);
                self.calls.begin(request, Call { session, effect }, &self.limits)
            }
            Message::Notification(notification) => {
                session_of(head, &notification.method(), notification.params()).map(drop)
            }
            Message::Response(response) => {
                let stream = self.calls.asked(response.id());
                let session = stream.and_then(|stream| self.streams.session(stream));
                if session.is_some() && head.session().is_some_and(|it| Some(it) != session) {
                    let text = "the header Acp-Session-Id names another session than the request";
                    return Err(Refusal::invalid(text));
                }
                self.calls.answered(response.id());
                Ok(())
            }
            Message::Batch(_) | Message::Invalid(_) => Err(Refusal::invalid("not a message")),
        }
    }

    /// Handles a GET: opens the stream of the connection or of a session, or resumes it. Returns the stream, and
    /// how many missed messages of it are no longer kept.
    ///
    /// # Errors
    /// 400: the event id is unknown. 404: the connection has ended, or too many streams of sessions are open that
    /// the agent does not know. 406: event streams are not accepted. 409: the stream is already open. 503: too
    /// many sessions have a stream.
    pub fn get(&mut self, now: Duration, head: &AcpHead) -> Result<(Place, u64), Refusal> {
        head.check_get()?;
        if self.is_over() || !matches!(self.initialize, Initialize::Done) {
            return Err(Refusal::unknown_connection());
        }
        let session = head.session();
        let opened = match head.last_event_id() {
            None => self.streams.open(session, &self.limits).map(|place| (place, 0)),
            Some(id) => {
                let number = match session {
                    None => Some(GENERAL),
                    Some(session) => self.streams.of_session(session),
                };
                let known = read_event_id(id).filter(|(stream, _)| number == Some(*stream));
                match known {
                    Some((number, last)) => self.streams.attach(number, Some(last)),
                    None => Err(Unopened::NeverSent),
                }
            }
        };
        let opened = opened.map_err(|why| match why {
            Unopened::UnknownSession => {
                let text = "the agent does not know this session; create or load it first";
                Refusal::new(404, text)
            }
            Unopened::Full => {
                let text = "too many sessions of this connection have a stream; close some";
                Refusal::new(503, text)
            }
            Unopened::Open => {
                let text = "this stream is open already; to replace it, send Last-Event-ID";
                Refusal::new(409, text)
            }
            Unopened::NeverSent => {
                let text = "the header Last-Event-ID is not the id of an event that this stream sent recently";
                Refusal::new(400, text)
            }
        })?;
        self.last_use = now;
        Ok(opened)
    }

    /// Appends the next event of a stream to `out`.
    pub fn next(&mut self, place: Place, out: &mut BytesMut) -> Next {
        match self.streams.next(place, &self.limits, out) {
            Next::Wait if self.is_over() => Next::End,
            next => next,
        }
    }

    /// Ends the HTTP connection of a stream whose client has disconnected, or which was written to the end.
    pub fn detach(&mut self, now: Duration, place: Place) {
        self.streams.detach(place, &self.limits);
        self.last_use = now;
    }

    /// Returns whether another message of the agent may be taken. If not, wait until an event has been written or
    /// an HTTP connection has ended.
    pub fn has_room(&self) -> bool {
        self.streams.waiting() < self.limits.waiting_bytes
    }

    /// Returns the number of bytes that the connection holds.
    pub fn held_bytes(&self) -> usize {
        self.streams.held_bytes() + self.calls.held_bytes()
    }

    /// Returns how many messages were dropped before a client received them. After the end of the connection, this
    /// includes the messages of streams that no client reads, unless the client has ended it.
    pub fn lost(&self) -> u64 {
        let is_unread = self.ended.is_some_and(|why| why != Ending::Deleted);
        self.streams.lost() + if is_unread { self.streams.unread() } else { 0 }
    }

    /// Drops the messages that are only kept for resumptions.
    pub fn forget(&mut self) {
        self.streams.make_room_within(0);
    }

    /// Returns the time at which to call [`expire`](Self::expire) next.
    pub fn deadline(&self) -> Option<Duration> {
        self.is_unused().then(|| self.last_use.saturating_add(self.limits.idle))
    }

    /// Ends the connection and returns true if it was idle for too long.
    pub fn expire(&mut self, now: Duration) -> bool {
        let is_idle = self.deadline().is_some_and(|deadline| deadline <= now);
        if is_idle {
            self.end(Ending::Idle);
        }
        is_idle
    }

    /// Returns since when the connection has been abandoned: it has no open stream, and no request without a
    /// response, or only such whose responses no client has waited for in a while.
    pub fn abandoned_since(&self, now: Duration) -> Option<Duration> {
        let unread = if self.calls.is_empty() { Duration::ZERO } else { self.limits.unread };
        let is_left = self.is_unused() && self.last_use.saturating_add(unread) <= now;
        (is_left && !self.is_over()).then_some(self.last_use)
    }

    /// Ends the connection. Its streams end after their pending messages. The first reason counts.
    pub fn end(&mut self, why: Ending) {
        self.ended.get_or_insert(why);
    }

    /// Returns whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// Returns whether no client is connected.
    fn is_unused(&self) -> bool {
        self.streams.attached() == 0 && matches!(self.initialize, Initialize::Done)
    }

    #[cfg(test)]
    pub(super) fn check_exact(&self) {
        self.streams.check_exact();
        self.calls.check_exact();
    }
}
