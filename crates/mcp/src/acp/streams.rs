//! The streams of a connection, and what is kept for them.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};

use super::connection::AcpLimits;
use super::stream::Stream;
use crate::head::MAX_VALUE;
use crate::place::{Next, Place};

/// The number of the stream of the connection.
pub(super) const GENERAL: u64 = 0;

/// What each stream costs in addition to its messages.
const EACH: usize = 512;

/// The streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    all: BTreeMap<u64, Stream>,
    /// The streams of sessions.
    of_sessions: HashMap<Box<str>, u64>,
    next_stream: u64,
    next_connection: u64,
    /// The number of streams that have an HTTP connection.
    attached: usize,
    /// The cost of all messages.
    kept: usize,
    /// The cost of the messages that wait to be written to an existing HTTP connection.
    waiting: usize,
    lost: u64,
}

/// Why a stream cannot be opened.
pub(super) enum Unopened {
    /// Too many streams of sessions that the agent does not know are open.
    UnknownSession,
    /// Too many sessions have a stream.
    Full,
    /// The stream is open already.
    Open,
    /// The event was never sent.
    NeverSent,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            all: BTreeMap::from([(GENERAL, Stream { is_known: true, ..Stream::default() })]),
            of_sessions: HashMap::new(),
            next_stream: GENERAL + 1,
            next_connection: 0,
            attached: 0,
            kept: 0,
            waiting: 0,
            lost: 0,
        }
    }

    pub(super) fn attached(&self) -> usize {
        self.attached
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns how many messages were dropped before a client received them.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns how many messages wait for a client to open their stream.
    pub(super) fn unread(&self) -> u64 {
        let unread = self.all.values().filter(|it| it.connection.is_none());
        unread.map(|it| it.kept.unwritten_messages()).sum()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.kept + self.all.len().saturating_sub(1) * EACH
    }

    /// Returns whether there is a stream with this number.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.all.contains_key(&number)
    }

    /// Returns whether a stream has an HTTP connection.
    pub(super) fn is_connected(&self, number: u64) -> bool {
        self.all.get(&number).is_some_and(|it| it.connection.is_some())
    }

    /// Returns the session of a stream.
    pub(super) fn session(&self, number: u64) -> Option<&str> {
        self.all.get(&number)?.session.as_deref()
    }

    /// Returns the stream of a session, if it has one.
    pub(super) fn of_session(&self, session: &str) -> Option<u64> {
        self.of_sessions.get(session).copied()
    }

    /// Returns the stream of a session that the agent has named. Without room for another one, or if no
    /// header can name the session, this is the stream of the connection.
    pub(super) fn confirm(&mut self, session: &str, limits: &AcpLimits) -> u64 {
        let is_nameable =
            session.len() <= MAX_VALUE && session.bytes().all(|it| matches!(it, b' '..=b'~'));
        if !is_nameable || session.is_empty() {
            return GENERAL;
        }
        let Some(number) = self.of_session(session).or_else(|| self.create(session, limits)) else {
            return GENERAL;
        };
        if let Some(stream) = self.all.get_mut(&number) {
            stream.is_known = true;
        }
        number
    }

    /// Records that the agent has closed a session, so that its stream is removed when it is not needed.
    pub(super) fn forget_session(&mut self, number: u64) {
        if let Some(stream) = self.all.get_mut(&number).filter(|it| it.session.is_some()) {
            stream.is_known = false;
        }
        self.remove_if_unused(number);
    }

    /// Opens the stream of the connection or of a session. The stream of an unknown session is created,
    /// because a client opens it before it loads the session.
    pub(super) fn open(
        &mut self,
        session: Option<&str>,
        limits: &AcpLimits,
    ) -> Result<Place, Unopened> {
        let number = match session {
            None => GENERAL,
            Some(session) => match self.of_session(session) {
                Some(number) => number,
                None => {
                    let unknown = self.all.values().filter(|it| !it.is_known).count();
                    if unknown >= limits.unknown_sessions {
                        return Err(Unopened::UnknownSession);
                    }
                    self.create(session, limits).ok_or(Unopened::Full)?
                }
            },
        };
        match self.all.get(&number) {
            Some(stream) if stream.connection.is_none() => Ok(self.attach(number, None)?.0),
            _ => Err(Unopened::Open),
        }
    }

    /// Gives a stream another HTTP connection, which continues after message `last`. Returns how many messages
    /// after it are no longer kept.
    pub(super) fn attach(
        &mut self,
        number: u64,
        last: Option<u64>,
    ) -> Result<(Place, u64), Unopened> {
        let connection = self.next_connection;
        let stream = self.all.get_mut(&number).ok_or(Unopened::NeverSent)?;
        let had_one = stream.connection.is_some();
        let before = if had_one { stream.kept.unwritten() } else { 0 };
        let missing = stream.attach(connection, last).ok_or(Unopened::NeverSent)?;
        self.waiting = self.waiting - before + stream.kept.unwritten();
        self.attached += usize::from(!had_one);
        self.next_connection += 1;
        self.lost += missing;
        Ok((Place { stream: number, connection }, missing))
    }

    /// Ends an HTTP connection. The stream can be resumed.
    pub(super) fn detach(&mut self, place: Place, limits: &AcpLimits) {
        let Some(stream) = self.at(place) else { return };
        stream.connection = None;
        let unwritten = stream.kept.unwritten();
        self.waiting -= unwritten;
        self.attached -= 1;
        self.remove_if_unused(place.stream);
        self.make_room_within(limits.kept_bytes);
    }

    /// Queues a message.
    pub(super) fn push(&mut self, number: u64, message: Bytes, limits: &AcpLimits) {
        let Some(stream) = self.all.get_mut(&number) else { return };
        let before = stream.kept.cost();
        stream.kept.push(message);
        let added = stream.kept.cost() - before;
        self.kept += added;
        if stream.connection.is_some() {
            self.waiting += added;
        }
        self.make_room_within(limits.kept_bytes);
    }

    /// Appends the next event of a stream to `out`.
    pub(super) fn next(&mut self, place: Place, limits: &AcpLimits, out: &mut BytesMut) -> Next {
        let Some(stream) = self.at(place) else { return Next::End };
        let before = stream.kept.unwritten();
        let is_written = stream.write_next(place.stream, limits.retry, out);
        let written = before - stream.kept.unwritten();
        self.waiting -= written;
        match is_written {
            true => Next::Event,
            false => Next::Wait,
        }
    }

    /// Drops the oldest messages until the rest is within the limit, apart from those that wait for a
    /// connection, which have their own limit. Each stream keeps its newest message.
    pub(super) fn make_room_within(&mut self, limit: usize) {
        while self.kept.saturating_sub(self.waiting) > limit {
            let can_evict = |it: &&mut Stream| it.kept.can_evict(it.connection.is_some());
            let largest = self.all.values_mut().filter(can_evict).max_by_key(|it| it.kept.cost());
            let Some(stream) = largest else { return };
            let before = stream.kept.cost();
            let Some(is_lost) = stream.kept.evict(stream.connection.is_some()) else { return };
            self.kept -= before - stream.kept.cost();
            self.lost += u64::from(is_lost);
        }
    }

    fn create(&mut self, session: &str, limits: &AcpLimits) -> Option<u64> {
        if self.of_sessions.len() >= limits.sessions && !self.remove_oldest() {
            return None;
        }
        let number = self.next_stream;
        self.next_stream += 1;
        let stream = Stream { session: Some(session.into()), ..Stream::default() };
        self.all.insert(number, stream);
        self.of_sessions.insert(session.into(), number);
        Some(number)
    }

    /// Removes the oldest stream of a session that has no HTTP connection and no message that was never
    /// written. Returns false if there is none.
    fn remove_oldest(&mut self) -> bool {
        let mut sessions = self.all.iter().filter(|(_, it)| it.session.is_some());
        let oldest = sessions.find(|(_, it)| it.connection.is_none() && it.kept.unwritten() == 0);
        let oldest = oldest.map(|(number, _)| *number);
        oldest.is_some_and(|number| {
            self.remove(number);
            true
        })
    }

    /// Removes the stream of an unknown session that has no HTTP connection.
    fn remove_if_unused(&mut self, number: u64) {
        let stream = self.all.get(&number);
        if stream.is_some_and(|it| !it.is_known && it.connection.is_none()) {
            self.remove(number);
        }
    }

    /// Removes the stream of a session, which has no HTTP connection.
    fn remove(&mut self, number: u64) {
        let Some(stream) = self.all.remove(&number) else { return };
        self.kept -= stream.kept.cost();
        self.lost += stream.kept.unwritten_messages();
        if let Some(session) = stream.session {
            self.of_sessions.remove(&session);
        }
    }

    /// Returns the stream, if it still has this HTTP connection.
    fn at(&mut self, place: Place) -> Option<&mut Stream> {
        let stream = self.all.get_mut(&place.stream)?;
        (stream.connection == Some(place.connection)).then_some(stream)
    }

    #[cfg(test)]
    pub(super) fn check_exact(&self) {
        let connected = || self.all.values().filter(|it| it.connection.is_some());
        assert_eq!(self.attached, connected().count());
        assert_eq!(self.kept, self.all.values().map(|it| it.kept.cost()).sum::<usize>());
        assert_eq!(self.waiting, connected().map(|it| it.kept.unwritten()).sum::<usize>());
        assert_eq!(self.of_sessions.len(), self.all.len().saturating_sub(1));
    }
}
