//! A session whose client knows nothing of it but the numbers of the events that it gets.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::session::{
    Farewell, Frame, Hello, Received, Refusal, Sequence, Session, SessionConfig, Ticket, Violation,
    Welcome,
};

/// So many events that were written and are not proven to have arrived are kept by the session's server,
const WINDOW: usize = 512;
/// or so many bytes of them. Both are half of what a session keeps by default.
const WINDOW_BYTES: usize = 4 << 20;
/// From so many bytes on, a session that is on its defaults takes no more.
const FULL_BYTES: usize = 8 << 20;

/// The client of a [session](crate::session) in the place of one that knows only events, as a browser's
/// EventSource does: it gets each message as an event whose id has the number, comes again with the last
/// id that it has seen, and posts what it has to say.
///
/// ```text
///   events with numbers ◀─ receive() ◀─ frames ◀═ session's server, which keeps what is not acknowledged
///   last number seen    ─▶ hello(), proves()
///   posts               ─▶ send() ─▶ next() ─▶ frames ═▶
/// ```
///
/// It keeps no message for the client: numbering, keeping and replay are the session's. What the client
/// proves to have received is acknowledged. A client that proves nothing must not hold up the session;
/// so of what was [written](Self::wrote) to its connection, all but the last 512 messages or 4 MiB is
/// acknowledged in its place. One that [proves](Self::proves) while its connection lasts is believed to go
/// on with that, and nothing is acknowledged in its place any more.
///
/// A client that comes back and lacks more than is kept is told so: [`Stale::Gone`].
#[derive(Clone, Debug)]
pub struct EventSession {
    session: Session,
    ticket: Option<Ticket>,
    /// Events that this connection was given, and that are not acknowledged: their numbers and lengths.
    unproven: VecDeque<(Sequence, usize)>,
    /// Of those that were written: how many, and their bytes.
    written: usize,
    written_bytes: usize,
    proves: bool,
    /// The number of the end of its direction, once it has come.
    end: Option<Sequence>,
}

/// What came for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An event.
    Event {
        /// Its number.
        sequence: Sequence,
        /// Its data.
        message: Bytes,
    },
    /// Nothing follows. The end has a number, too.
    End {
        /// Its number.
        sequence: Sequence,
    },
    /// The session is over.
    Bye(Farewell),
}

/// Why a session does not go on where the client says that it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Events behind that were acknowledged in the client's place, and are not kept any more.
    Gone {
        /// The last event that the client has received, it says.
        last: Sequence,
        /// The first that is still there.
        oldest: Sequence,
    },
    /// No event with this number was ever given out.
    NeverSent,
    /// It has all that there was.
    Over,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { last, oldest } => {
                write!(f, "the events behind {last} and before {oldest} are not kept any more")
            }
            Self::NeverSent => f.write_str("no event with this number was given out"),
            Self::Over => f.write_str("the session is over, and all of it was received"),
        }
    }
}

impl std::error::Error for Stale {}

impl EventSession {
    /// One that was not asked for yet. What is posted is kept within `replay_messages` and
    /// `replay_bytes` of `config`.
    pub fn new(config: SessionConfig) -> Self {
        let config = SessionConfig { commits: true, ..config };
        Self {
            session: Session::new(config),
            ticket: None,
            unproven: VecDeque::new(),
            written: 0,
            written_bytes: 0,
            proves: false,
            end: None,
        }
    }

    /// The greeting for a new connection of a client that has received all up to `last`. From here on
    /// nothing of an older connection may be given in.
    ///
    /// # Errors
    /// It cannot go on from there. Nothing has changed.
    pub fn hello(&mut self, now: Duration, last: Sequence) -> Result<Hello, Stale> {
        let Some(ticket) = &self.ticket else {
            return if last == 0 { Ok(Ticket::ask()) } else { Err(Stale::NeverSent) };
        };
        if self.end.is_some_and(|end| last == end || last.checked_add(1) == Some(end)) {
            return Err(Stale::Over);
        }
        let position = self.session.position();
        if last > position.received {
            return Err(Stale::NeverSent);
        }
        if !self.session.rewind(last) {
            return Err(Stale::Gone { last, oldest: position.acknowledged + 1 });
        }
        self.session.commit(now, last);
        self.end = None;
        self.unproven.clear();
        (self.written, self.written_bytes) = (0, 0);
        Ok(ticket.present(self.session.position()))
    }

    /// The session was granted, or granted again.
    ///
    /// # Errors
    /// The session cannot go on: the server breaks its protocol, or stands elsewhere than it must.
    pub fn welcome(&mut self, welcome: &Welcome) -> Result<(), Refusal> {
        let fits = match &mut self.ticket {
            None => Ticket::granted(welcome).map(|ticket| self.ticket = Some(ticket)),
            Some(ticket) => {
                self.session.check(welcome.position)?;
                ticket.renewed(welcome)
            }
        };
        fits.map_err(|_| Refusal::Malformed)?;
        self.session.resume(welcome.position).map(|_| ())
    }

    /// Takes a frame of the connection that was welcomed.
    ///
    /// # Errors
    /// The server breaks the protocol; the session is over.
    pub fn receive(&mut self, now: Duration, frame: Frame) -> Result<Option<Taken>, Violation> {
        Ok(match self.session.receive(now, frame)? {
            Some(Received::Message { sequence, message }) => {
                self.unproven.push_back((sequence, message.len()));
                Some(Taken::Event { sequence, message })
            }
            Some(Received::End) => {
                let sequence = self.session.position().received;
                self.end = Some(sequence);
                Some(Taken::End { sequence })
            }
            Some(Received::Bye(farewell)) => Some(Taken::Bye(farewell)),
            Some(Received::Pong(_)) | None => None,
        })
    }

    /// The events up to this one were written to the client's connection, which does not mean that they
    /// have arrived.
    pub fn wrote(&mut self, now: Duration, sequence: Sequence) {
        while let Some((number, length)) = self.unproven.get(self.written).copied()
            && number <= sequence
        {
            self.written += 1;
            self.written_bytes += length;
        }
        if self.proves {
            return;
        }
        let mut last = None;
        while self.written > WINDOW || self.written_bytes > WINDOW_BYTES {
            // The only one may stay, unless nothing could follow it then.
            if self.written == 1 && self.written_bytes < FULL_BYTES {
                break;
            }
            match self.forget_first() {
                Some(number) => last = Some(number),
                None => break,
            }
        }
        if let Some(last) = last {
            self.session.commit(now, last);
        }
    }

    /// The client has received all events up to this one, it says while its connection lasts.
    ///
    /// # Errors
    /// [`Stale::NeverSent`]: none with this number was given out.
    pub fn proves(&mut self, now: Duration, last: Sequence) -> Result<(), Stale> {
        let position = self.session.position();
        if last > position.received {
            return Err(Stale::NeverSent);
        }
        self.proves = true;
        while self.unproven.front().is_some_and(|(number, _)| *number <= last) {
            self.forget_first();
        }
        self.session.commit(now, last);
        Ok(())
    }

    fn forget_first(&mut self) -> Option<Sequence> {
        let (number, length) = self.unproven.pop_front()?;
        if self.written > 0 {
            self.written -= 1;
            self.written_bytes -= length;
        }
        Some(number)
    }

    /// Whether the end has come: nobody is there any more who would take what is posted.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether more can be posted.
    pub fn has_room(&self) -> bool {
        self.session.has_room()
    }

    /// Takes over a message of the client's, to be kept until the session's server has acknowledged it. Ask
    /// [`has_room`](Self::has_room) before. False if the client's direction has ended.
    pub fn send(&mut self, message: Bytes) -> bool {
        self.session.send(message).is_some()
    }

    /// The client is done, in both directions: whatever it lacks it will not ask for.
    pub fn finish(&mut self, now: Duration) {
        self.session.end();
        let received = self.session.position().received;
        self.session.commit(now, received);
    }

    /// The next frame for the connection that was welcomed.
    pub fn next(&mut self, now: Duration) -> Option<Frame> {
        self.session.next(now)
    }

    /// When [`next`](Self::next) will have one although nothing happens before.
    pub fn wake_at(&self) -> Option<Duration> {
        self.session.wake_at()
    }

    /// The last event that was given out.
    pub fn last(&self) -> Sequence {
        self.session.position().received
    }

    /// The last event that was acknowledged, by the client or in its place.
    pub fn acknowledged(&self) -> Sequence {
        self.session.position().acknowledged
    }

    /// Both sides have ended, and each knows it of the other.
    pub fn is_over(&self) -> bool {
        self.session.is_over()
    }
}
