//! A resumable session: what survives the connection that carries it.
//!
//! ```text
//!    one end                                                    the other
//!   send(m) ─▶ Outgoing ── next() ─▶ frame ═ connection ═▶ receive() ─▶ Incoming ─▶ message
//!               replay buffer                 may break                 takes exactly last + 1
//!                   ▲ acknowledged ◀────────── rides on data, or alone ────────┘
//! ```
//!
//! Each direction numbers its messages, and keeps them until the other side has said that it took
//! them over. When a connection breaks, the client makes another and proves with a secret that it is
//! who it was; both sides say what they have received, and what the other lacks is sent again. The
//! promise: *within a session every message is delivered once, in order, or the session ends with an
//! error that says what was delivered.*
//!
//! [`Session`] is one end's messages; [`Ticket`] and [`Lease`] are the two ends' knowledge of who may
//! resume it, [`Frame`] is what stands on the wire. Time is that since any fixed moment.

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
    Farewell, Frame, Head, Hello, LARGEST_GREETING, OVERHEAD, Position, VERSION, Welcome,
    is_refusal,
};
pub(crate) use wire::{LONGEST_REFUSAL, may_be_refusal};

use incoming::Incoming;
use outgoing::Outgoing;

/// The number of a message in its direction. The first is 1.
pub type Sequence = u64;

/// What names a session: 128 random bits.
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

/// Who knows it may resume the session: 128 random bits, never printed.
#[derive(Clone)]
pub struct Secret(pub [u8; 16]);

impl Secret {
    /// Whether they are the same, in a time that does not tell where they differ.
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

/// The bounds of a session, for one end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// So many messages are kept that the other side has not acknowledged; by default 1,024. Fewer than 128
    /// may have to wait 100 ms for an acknowledgement, and fewer than 512 where the other side has much
    /// to take over.
    pub replay_messages: usize,
    /// So many bytes of them; by default 8 MiB. An empty buffer takes one message of any size. Less than
    /// 1 MiB may have to wait as fewer than 128 messages do.
    pub replay_bytes: usize,
    /// A message is acknowledged when the consumer [commits](Session::commit) it, not when it is
    /// handed over; by default not.
    pub commits: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { replay_messages: 1024, replay_bytes: 8 << 20, commits: false }
    }
}

/// What the other side is known to have taken over, of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// All up to this number were acknowledged.
    pub acknowledged: Sequence,
    /// Up to this number was sent or waits to be. What lies between may have arrived or not.
    pub sent: Sequence,
}

/// The messages of one end of a session, on whatever connection it has.
///
/// After an error that [`receive`](Self::receive) or [`resume`](Self::resume) gives, the session is
/// over: the other side is not who it says, or is broken.
#[derive(Clone, Debug)]
pub struct Session {
    outgoing: Outgoing,
    incoming: Incoming,
    /// Answers to the other side's ping wait here for their turn; the last counts.
    pong: Option<u64>,
    ping: Option<u64>,
}

impl Session {
    /// One that has neither sent nor received. It has a connection from the start.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            outgoing: Outgoing::new(config),
            incoming: Incoming::new(config.commits),
            pong: None,
            ping: None,
        }
    }

    /// Whether another message may be [sent](Self::send).
    pub fn has_room(&self) -> bool {
        self.outgoing.has_room()
    }

    /// Takes a message over, to be kept until it is acknowledged. Gives its number.
    ///
    /// Ask [`has_room`](Self::has_room) before: there is no other bound, and a message that is taken
    /// may itself go beyond that in bytes. After [`end`](Self::end) nothing more is taken: `None`.
    pub fn send(&mut self, message: Bytes) -> Option<Sequence> {
        self.outgoing.send(message)
    }

    /// Nothing more will be sent. The other side is told behind the last message.
    pub fn end(&mut self) {
        self.outgoing.end();
    }

    /// The next frame for the connection there is. Call it when that has room for a frame; a frame
    /// that is not wholly written when the connection breaks will be sent again.
    pub fn next(&mut self, now: Duration) -> Option<Frame> {
        Some(match self.step(now)? {
            Step::Message { sequence, acknowledged, place } => {
                let message = self.outgoing.message(place).clone();
                Frame::Data { sequence, acknowledged, message }
            }
            Step::Other(frame) => frame,
        })
    }

    /// The same, as it stands on the wire: what is in front, and the message behind it.
    pub fn next_encoded(&mut self, now: Duration) -> Option<(Head, &Bytes)> {
        static NONE: Bytes = Bytes::new();
        Some(match self.step(now)? {
            Step::Message { sequence, acknowledged, place } => {
                (Head::of_message(sequence, acknowledged), self.outgoing.message(place))
            }
            // None of these has anything behind.
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

    /// Whether [`next`](Self::next) would have an acknowledgement alone.
    pub fn owes(&self, now: Duration) -> bool {
        self.incoming.is_due(now)
    }

    /// Whether so much is owed that the other side may soon have to wait for it: half of what is kept by
    /// default. While more of what has come is being taken over, less need not be told.
    pub fn owes_much(&self) -> bool {
        self.incoming.owes_much()
    }

    /// What [`next`](Self::next) gave last has not left, because the connection is broken. It will be said
    /// on the next one, and the session is not [over](Self::is_over) before.
    pub fn unsaid(&mut self) {
        self.incoming.untold();
    }

    /// Whether [`next`](Self::next) would have the answer to a ping.
    pub fn is_asked(&self) -> bool {
        self.pong.is_some()
    }

    /// When [`next`](Self::next) will have an acknowledgement although nothing happens before.
    pub fn wake_at(&self) -> Option<Duration> {
        self.incoming.due()
    }

    /// [Decodes](Frame::decode) a frame that came over the connection, and takes it.
    ///
    /// # Errors
    /// As [`receive`](Self::receive); or it is no frame.
    pub fn receive_encoded(
        &mut self,
        now: Duration,
        frame: Bytes,
    ) -> Result<Option<Received>, Violation> {
        // Nearly all are of this kind, and there are many.
        match Frame::data(frame) {
            Ok((sequence, acknowledged, message)) => {
                self.outgoing.acknowledged(acknowledged)?;
                self.incoming.message(now, sequence, message)
            }
            Err(frame) => self.receive(now, Frame::decode(frame)?),
        }
    }

    /// Takes a frame that came over the connection. [`Frame`]s of the handshake are no part of it.
    ///
    /// # Errors
    /// The other side breaks the protocol. Nothing of it is ever passed over in silence.
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

    /// The consumer has taken over all messages up to this one, and needs none of them again. Only
    /// where the session [commits](SessionConfig::commits); numbers that were not received are taken
    /// as the last that was.
    pub fn commit(&mut self, now: Duration, sequence: Sequence) {
        self.incoming.commit(now, sequence);
    }

    /// Forgets all that was received behind this number, so that the other side sends it again on the next
    /// connection: for those who only pass it on, and hear from their own consumer how far that has
    /// come. Only between two connections, and only where the session
    /// [commits](SessionConfig::commits). False, and nothing is done, if that was taken over already, or
    /// was never received.
    pub fn rewind(&mut self, sequence: Sequence) -> bool {
        self.incoming.rewind(sequence)
    }

    /// Asks the other side for a sign of life, behind what is being written.
    pub fn ping(&mut self, token: u64) {
        self.ping = Some(token);
    }

    /// Where this end stands, for the handshake.
    pub fn position(&self) -> Position {
        Position {
            received: self.incoming.received(),
            acknowledged: self.incoming.acknowledged(),
            sent: self.outgoing.sent(),
        }
    }

    /// Whether the other side's place fits to this one's: neither has forgotten anything, and neither
    /// knows what the other never sent.
    ///
    /// # Errors
    /// What does not fit, in the terms of a refusal.
    pub fn check(&self, theirs: Position) -> Result<(), Refusal> {
        self.outgoing.check(theirs)?;
        // They have forgotten what they sent to us.
        if theirs.sent < self.incoming.received() { Err(Refusal::Gap) } else { Ok(()) }
    }

    /// There is another connection, on which the other side stands so: what it has not received is
    /// sent again, in order, by the next calls of [`next`](Self::next). Gives how many that are.
    ///
    /// There is an acknowledgement at once, with or without something new in it. It says what was
    /// taken over since the position for the handshake was read; and it shows the server that the
    /// client has seen the new secret.
    ///
    /// # Errors
    /// As [`check`](Self::check); then nothing has changed.
    pub fn resume(&mut self, theirs: Position) -> Result<u64, Refusal> {
        self.check(theirs)?;
        self.pong = None;
        self.ping = None;
        self.incoming.resume();
        Ok(self.outgoing.resume(theirs))
    }

    /// What the other side has taken over of what was sent here.
    pub fn delivered(&self) -> Delivered {
        self.outgoing.delivered()
    }

    /// So many messages and bytes of them are kept for the other side.
    pub fn kept(&self) -> (usize, usize) {
        self.outgoing.kept()
    }

    /// The length of the message that is kept behind `before` others, if there is one.
    pub fn kept_message(&self, before: u64) -> Option<usize> {
        self.outgoing.kept_message(before)
    }

    /// Both sides have said that they have ended, and each was given the other's acknowledgement:
    /// nothing is left to be sent. This end's own may have been lost with its connection: who wants the
    /// other to end well, too, resumes once more for those who ask, or says [`Bye`](Frame::Bye).
    pub fn is_over(&self) -> bool {
        self.outgoing.is_over() && self.incoming.is_over()
    }

    /// This end has said that it has ended, and the other has acknowledged that and all before it.
    pub fn is_settled(&self) -> bool {
        self.outgoing.is_over()
    }
}

/// What is to be written next.
enum Step {
    /// A message that is kept at this place.
    Message { sequence: Sequence, acknowledged: Sequence, place: usize },
    /// A frame without a message: none of the handshake, and no farewell.
    Other(Frame),
}
