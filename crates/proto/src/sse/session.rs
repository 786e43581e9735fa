//! The client side of a session, on behalf of a client that only knows event ids.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::session::{
    Farewell, Frame, Hello, Received, Refusal, Sequence, SessionConfig, SessionId, SessionMachine,
    Ticket, Violation, Welcome,
};

/// The number of events written without proof of receipt that the session's server keeps.
const WINDOW: usize = 512;
/// The number of bytes of such events that the server keeps. Both numbers are half of a session's
/// default replay limits.
const WINDOW_BYTES: usize = 4 << 20;
/// A session with default limits accepts no more messages when it keeps this many bytes.
const FULL_BYTES: usize = 8 << 20;

/// The client of a [session](crate::session), on behalf of a client that only knows events, such as a
/// browser's EventSource.
///
/// The EventSource receives each message as an event whose id is the sequence number, reconnects with the
/// last id it has seen, and sends its messages as POST requests.
///
/// ```text
///   numbered events     ◀─ receive() ◀─ frames ◀═ session's server, which keeps unacknowledged messages
///   last number seen    ─▶ hello(), proves()
///   posts               ─▶ send() ─▶ next() ─▶ frames ═▶
/// ```
///
/// An `EventSession` keeps no messages for the client: the session's server numbers, keeps and replays
/// them. Events that the client proves to have received are acknowledged. A client that never proves
/// receipt must not hold up the session, so of the events [written](Self::wrote) to its connection, all
/// but the last 512 messages or 4 MiB are acknowledged on its behalf. Once a client
/// [proves](Self::proves) receipt during a connection, it is expected to continue to do so, and no more
/// events are acknowledged on its behalf.
///
/// If a client reconnects and has missed events that are no longer kept, the error is [`Stale::Gone`].
#[derive(Clone, Debug)]
pub struct EventSession {
    session: SessionMachine,
    ticket: Option<Ticket>,
    /// The numbers and lengths of the events that this connection received and that are not
    /// acknowledged.
    unproven: VecDeque<(Sequence, usize)>,
    /// The number of these events that were written to the client.
    written: usize,
    /// The total length of those events in bytes.
    written_bytes: usize,
    proves: bool,
    /// The number of the server's end of input, once it was received.
    end: Option<Sequence>,
}

/// An item that [`EventSession::receive`] received for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An event.
    Event {
        /// Its sequence number.
        sequence: Sequence,
        /// Its data.
        message: Bytes,
    },
    /// The end of input, after which no more events follow. It is numbered like an event.
    End {
        /// Its sequence number.
        sequence: Sequence,
    },
    /// The session is over.
    Bye(Farewell),
}

/// The reason why a session cannot resume after the client's last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Later events were acknowledged on the client's behalf and are no longer kept.
    Gone {
        /// The last event that the client claims to have received.
        last: Sequence,
        /// The first event that is still kept.
        oldest: Sequence,
    },
    /// No event with this number was ever sent.
    NeverSent,
    /// The session is over, and the client has received all its events.
    Over,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { last, oldest } => {
                write!(f, "the events after {last} and before {oldest} are no longer kept")
            }
            Self::NeverSent => f.write_str("no event with this number was sent"),
            Self::Over => f.write_str("the session is over, and all its events were received"),
        }
    }
}

impl std::error::Error for Stale {}

impl EventSession {
    /// Creates the client of a session that has not been requested yet. Posted messages are kept for
    /// replay within `replay_messages` and `replay_bytes` of `config`.
    pub fn new(config: SessionConfig) -> Self {
        let config = SessionConfig { commits: true, ..config };
        Self {
            session: SessionMachine::new(config),
            ticket: None,
            unproven: VecDeque::new(),
            written: 0,
            written_bytes: 0,
            proves: false,
            end: None,
        }
    }

    /// Returns the greeting for a new connection of a client that has received all events up to `last`.
    /// After this, do not pass in frames of older connections.
    ///
    /// # Errors
    /// The session cannot resume after `last`. On error, nothing has changed.
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

    /// Processes the server's response to the greeting of a new or a resumed session.
    ///
    /// # Errors
    /// The session cannot continue: the server violated the protocol, or its position does not match.
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

    /// Processes a frame received on the current connection, after [`welcome`](Self::welcome).
    ///
    /// # Errors
    /// The server violated the protocol, and the session is over.
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

    /// Records that the events up to this one were written to the client's connection. They may not have
    /// arrived.
    pub fn wrote(&mut self, now: Duration, sequence: Sequence) {
        while let Some(&(number, length)) = self.unproven.get(self.written) {
            if number > sequence {
                break;
            }
            self.written += 1;
            self.written_bytes += length;
        }
        if self.proves {
            return;
        }
        let mut last = None;
        while self.written > WINDOW || self.written_bytes > WINDOW_BYTES {
            // A single event is kept even if it is above the window, unless it alone would fill the
            // session.
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

    /// Records the client's statement, made during its connection, that it has received all events up to
    /// this one.
    ///
    /// # Errors
    /// [`Stale::NeverSent`]: no event with this number was sent.
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

    /// Returns whether the end of input was received. If so, posted messages would no longer be
    /// processed.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Returns how many bytes of posted messages are kept until the session's server acknowledges them.
    pub fn kept_bytes(&self) -> usize {
        self.session.kept().1
    }

    /// Returns whether another message can be posted.
    pub fn has_room(&self) -> bool {
        self.session.has_room()
    }

    /// Queues a message of the client and keeps it until the session's server has acknowledged it. Check
    /// [`has_room`](Self::has_room) first. Returns false if the client's direction has ended.
    pub fn send(&mut self, message: Bytes) -> bool {
        self.session.send(message).is_some()
    }

    /// Ends the client's direction, and acknowledges every event received for the client, which will not
    /// request any events that it has missed.
    pub fn finish(&mut self, now: Duration) {
        self.session.end();
        let received = self.session.position().received;
        self.session.commit(now, received);
    }

    /// Returns the next frame to send on the current connection.
    pub fn next(&mut self, now: Duration) -> Option<Frame> {
        self.session.next(now)
    }

    /// Returns the time at which [`next`](Self::next) will return a frame even without other events.
    pub fn wake_at(&self) -> Option<Duration> {
        self.session.wake_at()
    }

    /// Returns the session's id, once it was welcomed.
    pub fn session(&self) -> Option<SessionId> {
        self.ticket.as_ref().map(Ticket::session)
    }

    /// Returns the number of the last event that was received for the client.
    pub fn last(&self) -> Sequence {
        self.session.position().received
    }

    /// Returns the number of the last event that was acknowledged, by the client or on its behalf.
    pub fn acknowledged(&self) -> Sequence {
        self.session.position().acknowledged
    }

    /// Returns whether both directions have ended, and both ends know it.
    pub fn is_over(&self) -> bool {
        self.session.is_over()
    }
}
