//! Resumable sessions, which survive the connections that carry them.
//!
//! ```text
//!    one end                                                    the other end
//!   send(m) ─▶ Outgoing ── next() ─▶ frame ═ connection ═▶ receive() ─▶ Incoming ─▶ message
//!               replay buffer                 may break                 accepts exactly last + 1
//!                   ▲ acknowledged ◀───── sent with data, or on its own ───────┘
//! ```
//!
//! Each direction numbers its messages and keeps them until the other end has acknowledged them. When a
//! connection breaks, the client connects again and proves its identity with a secret. Both ends report
//! the messages that they have received, and each sends the messages that the other has missed. The
//! guarantee is: *within a session, every message is delivered once and in order, or the session ends
//! with an error that states which messages were delivered.*
//!
//! [`SessionMachine`] is the state of one end. [`Ticket`] is the client's right to resume the session,
//! which the server checks with its [`Lease`]. [`Frame`] is the wire format. Times are durations since
//! any fixed moment.

mod incoming;
mod lease;
mod outgoing;
mod refusal;
mod ticket;
mod violation;
mod wire;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

pub use incoming::Received;
pub use lease::Lease;
pub use refusal::{Malformed, Refusal};
pub use ticket::Ticket;
pub use violation::Violation;
pub use wire::{
    Farewell, Frame, Head, Hello, LARGEST_GREETING, OVERHEAD, Position, Welcome, user_refusal,
};
pub(crate) use wire::{LONGEST_REFUSAL, is_greeting, may_be_refusal, plain_refusal, refusal_of};

use incoming::Incoming;
use outgoing::Outgoing;

/// The version of the protocol that is supported.
pub const VERSION: u8 = 1;

/// The sequence number of a message in its direction. The first is 1.
pub type Sequence = u64;

/// The name of a session: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret that authorizes a client to resume a session: 128 random bits, never printed.
#[derive(Clone)]
pub struct Secret(pub [u8; 16]);

impl Secret {
    /// Returns whether the secrets are equal, in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The configuration of one end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// How many unacknowledged messages are kept for replay; 1,024 by default. With fewer than 128,
    /// sending may have to wait 100 ms for an acknowledgement. With fewer than 512, it may also have to
    /// wait while the other end has many messages to consume.
    pub replay_messages: usize,
    /// How many bytes of unacknowledged messages are kept; 8 MiB by default. An empty buffer accepts one
    /// message of any size. A limit below 1 MiB has the same effect as fewer than 128 messages.
    pub replay_bytes: usize,
    /// Whether a received message is acknowledged only when the consumer [commits](SessionMachine::commit) it, and
    /// not when it is handed to the consumer; false by default.
    pub commits: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { replay_messages: 1024, replay_bytes: 8 << 20, commits: false }
    }
}

/// The numbers of the messages that were delivered and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The last acknowledged message.
    pub acknowledged: Sequence,
    /// The last message that was sent or queued. Messages after `acknowledged` may or may not have
    /// arrived.
    pub sent: Sequence,
}

/// The state of one end of a session, independent of the connection that carries it.
///
/// After an error from [`receive`](Self::receive) or [`resume`](Self::resume), the session is over: the
/// other end is not the end with which the session began, or it is faulty.
#[derive(Clone, Debug)]
pub struct SessionMachine {
    outgoing: Outgoing,
    incoming: Incoming,
    /// The pong that is due next. A later ping replaces it.
    pong: Option<u64>,
    ping: Option<u64>,
}

impl SessionMachine {
    /// Creates the state of a new session, on its first connection.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            outgoing: Outgoing::new(config),
            incoming: Incoming::new(config.commits),
            pong: None,
            ping: None,
        }
    }

    /// Returns whether another message may be [sent](Self::send).
    pub fn has_room(&self) -> bool {
        self.outgoing.has_room()
    }

    /// Queues a message and keeps it until it is acknowledged. Returns its number, or `None` after
    /// [`end`](Self::end).
    ///
    /// Check [`has_room`](Self::has_room) first: this method enforces no limit. A message may itself exceed
    /// the limit in bytes.
    pub fn send(&mut self, message: Bytes) -> Option<Sequence> {
        self.outgoing.send(message)
    }

    /// Ends this direction. The other end receives the end of input after the last message.
    pub fn end(&mut self) {
        self.outgoing.end();
    }

    /// Returns the next frame for the current connection. Call this when the connection has room for a
    /// frame. A message that is not completely written when the connection breaks is sent again.
    pub fn next(&mut self, now: Duration) -> Option<Frame> {
        Some(match self.step(now)? {
            Step::Message { sequence, acknowledged, place } => {
                let message = self.outgoing.message(place).clone();
                Frame::Data { sequence, acknowledged, message }
            }
            Step::Other(frame) => frame,
        })
    }

    /// Returns the next frame, like [`next`](Self::next), encoded as its head and its message.
    pub fn next_encoded(&mut self, now: Duration) -> Option<(Head, &Bytes)> {
        static NONE: Bytes = Bytes::new();
        Some(match self.step(now)? {
            Step::Message { sequence, acknowledged, place } => {
                (Head::of_message(sequence, acknowledged), self.outgoing.message(place))
            }
            // None of these frames has a message.
            Step::Other(frame) => (frame.encode().0, &NONE),
        })
    }

    fn step(&mut self, now: Duration) -> Option<Step> {
        if let Some(token) = self.pong.take() {
            return Some(Step::Other(Frame::Pong { token }));
        }
        if let Some(token) = self.ping.take() {
            return Some(Step::Other(Frame::Ping { token }));
        }
        let acknowledged = self.incoming.acknowledged();
        if let Some(step) = self.outgoing.next(acknowledged) {
            self.incoming.told();
            return Some(step);
        }
        self.incoming.is_due(now).then(|| {
            self.incoming.told();
            Step::Other(Frame::Ack { acknowledged })
        })
    }

    /// Returns whether an acknowledgement is due even if there is no message to carry it.
    pub fn owes(&self, now: Duration) -> bool {
        self.incoming.is_due(now)
    }

    /// Returns whether so many messages are unacknowledged that the other end may soon have to wait:
    /// half of the number that it keeps by default. While received messages are still being consumed, a
    /// smaller number need not be acknowledged yet.
    pub fn owes_much(&self) -> bool {
        self.incoming.owes_much()
    }

    /// Records that the last frame from [`next`](Self::next) was not written because the connection broke.
    /// The next connection acknowledges again, and the session is not [over](Self::is_over) before that.
    pub fn frame_not_written(&mut self) {
        self.incoming.untold();
    }

    /// Returns whether the response to a ping is due.
    pub fn is_asked(&self) -> bool {
        self.pong.is_some()
    }

    /// Returns the time at which [`next`](Self::next) will return an acknowledgement even without other
    /// events.
    pub fn wake_at(&self) -> Option<Duration> {
        self.incoming.due()
    }

    /// [Decodes](Frame::decode) and processes a frame received on the connection.
    ///
    /// # Errors
    /// The same as [`receive`](Self::receive), or the frame is malformed.
    pub fn receive_encoded(
        &mut self,
        now: Duration,
        frame: Bytes,
    ) -> Result<Option<Received>, Violation> {
        // The fast path: nearly all frames are data.
        match Frame::data(frame) {
            Ok((sequence, acknowledged, message)) => {
                self.outgoing.acknowledged(acknowledged)?;
                self.incoming.message(now, sequence, message)
            }
            Err(frame) => self.receive(now, Frame::decode(frame)?),
        }
    }

    /// Processes a frame received on the connection, after the handshake.
    ///
    /// # Errors
    /// The other end violated the protocol. No violation is ignored.
    pub fn receive(&mut self, now: Duration, frame: Frame) -> Result<Option<Received>, Violation> {
        match frame {
            Frame::Data { sequence, acknowledged, message } => {
                self.outgoing.acknowledged(acknowledged)?;
                self.incoming.message(now, sequence, message)
            }
            Frame::End { sequence, acknowledged } => {
                self.outgoing.acknowledged(acknowledged)?;
                self.incoming.end(now, sequence)
            }
            Frame::Ack { acknowledged } => {
                self.outgoing.acknowledged(acknowledged)?;
                Ok(None)
            }
            Frame::Ping { token } => {
                self.pong = Some(token);
                Ok(None)
            }
            Frame::Pong { token } => Ok(Some(Received::Pong(token))),
            Frame::Bye(farewell) => {
                self.outgoing.acknowledged(farewell.received)?;
                Ok(Some(Received::Bye(farewell)))
            }
            Frame::Hello(_) | Frame::Welcome(_) | Frame::Refused { .. } => {
                Err(Violation::Handshake)
            }
        }
    }

    /// Commits all messages up to this one, which means that the consumer has processed them and does
    /// not need them again. A number above the last received one is treated as the last one. This is
    /// only for sessions that [commit](SessionConfig::commits).
    pub fn commit(&mut self, now: Duration, sequence: Sequence) {
        self.incoming.commit(now, sequence);
    }

    /// Forgets the messages received after this number, so that the other end sends them again on the
    /// next connection. This is for adapters that forward messages and whose own consumer reports how
    /// many it has received.
    ///
    /// Call this only between two connections, and only for sessions that
    /// [commit](SessionConfig::commits). Does nothing and returns false if later messages were already
    /// committed, or if the number was never received.
    pub fn rewind(&mut self, sequence: Sequence) -> bool {
        self.incoming.rewind(sequence)
    }

    /// Queues a ping, which is sent after the frame that is being written.
    pub fn ping(&mut self, token: u64) {
        self.ping = Some(token);
    }

    /// Returns the position of this end, for the handshake.
    pub fn position(&self) -> Position {
        Position {
            received: self.incoming.received(),
            acknowledged: self.incoming.acknowledged(),
            sent: self.outgoing.sent(),
        }
    }

    /// Checks that the other end's position matches this one: neither end has lost messages, and neither
    /// claims to have received messages that were never sent.
    ///
    /// # Errors
    /// The mismatch, as the code of a refusal.
    pub fn check(&self, theirs: Position) -> Result<(), Refusal> {
        self.outgoing.check(theirs)?;
        // The other end has lost messages that it sent to us.
        if theirs.sent < self.incoming.received() { Err(Refusal::Gap) } else { Ok(()) }
    }

    /// Resumes the session on a new connection, on which the other end has the position `theirs`. The
    /// following calls of [`next`](Self::next) replay, in order, the messages that the other end has not
    /// received. Returns their number.
    ///
    /// An acknowledgement is due at once, even if its number is not new. It includes messages consumed
    /// since the position for the handshake was read, and shows the server that the client has seen the
    /// new secret.
    ///
    /// # Errors
    /// The same as [`check`](Self::check). On error, nothing has changed.
    pub fn resume(&mut self, theirs: Position) -> Result<u64, Refusal> {
        self.check(theirs)?;
        self.pong = None;
        self.ping = None;
        self.incoming.resume();
        Ok(self.outgoing.resume(theirs))
    }

    /// Returns how many of the sent messages the other end has acknowledged.
    pub fn delivered(&self) -> Delivered {
        self.outgoing.delivered()
    }

    /// Discards the messages kept for replay. [`check`](Self::check) then fails with [`Refusal::Gap`] if the
    /// other end lacks any of them.
    pub fn discard_kept(&mut self) {
        self.outgoing.discard_kept();
    }

    /// Returns the number of messages kept for replay, and their total length in bytes.
    pub fn kept(&self) -> (usize, usize) {
        self.outgoing.kept()
    }

    /// Returns the length of the kept message before which there are `before` others, if there is one.
    pub fn kept_message(&self, before: u64) -> Option<usize> {
        self.outgoing.kept_message(before)
    }

    /// Returns whether both directions have ended and both ends were acknowledged, so that nothing is left
    /// to send.
    ///
    /// This end's last acknowledgement may be lost with its connection. To let the other end finish as
    /// well, accept another resumption, or send a [`Bye`](Frame::Bye).
    pub fn is_over(&self) -> bool {
        self.outgoing.is_over() && self.incoming.is_over()
    }

    /// Returns whether this end's direction has ended, and its end and all messages before it were
    /// acknowledged.
    pub fn is_settled(&self) -> bool {
        self.outgoing.is_over()
    }
}

/// The next item to write.
enum Step {
    /// The message at this position of the replay buffer.
    Message { sequence: Sequence, acknowledged: Sequence, place: usize },
    /// A frame without a message, other than those of the handshake and [`Frame::Bye`].
    Other(Frame),
}
