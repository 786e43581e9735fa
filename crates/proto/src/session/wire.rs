//! Frames as they stand on the wire, version 1. `docs/session-protocol.md` has them to the bit.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Malformed, Refusal, Secret, Sequence, SessionId};
use crate::ByteSize;

/// The version of the protocol that is spoken here.
pub const VERSION: u8 = 1;

/// What a frame adds to the message that it carries, in bytes.
pub const OVERHEAD: usize = 1 + 8 + 8;

/// The largest frame that an end takes before it knows who speaks: 4 KiB. None of the handshake is
/// nearly as long.
pub const LARGEST_GREETING: ByteSize = ByteSize::kib(4);

/// So many bytes of a text are taken; the rest is cut off.
const MAX_TEXT: usize = 1024;

/// What every handshake begins with, so that nothing else is taken for one.
const MAGIC: [u8; 4] = *b"TIEL";

const HELLO: u8 = 0x01;
const WELCOME: u8 = 0x02;
const REFUSED: u8 = 0x03;
const DATA: u8 = 0x10;
const END: u8 = 0x11;
const ACK: u8 = 0x12;
const PING: u8 = 0x13;
const PONG: u8 = 0x14;
const BYE: u8 = 0x15;

/// One frame: one message of the connection that carries the session.
#[derive(Clone, Debug)]
pub enum Frame {
    /// The client's first word.
    Hello(Hello),
    /// The server's answer.
    Welcome(Welcome),
    /// The server's answer, if there is to be no session.
    Refused {
        /// Why not.
        refusal: Refusal,
        /// The same in words, with details.
        text: String,
    },
    /// A message.
    Data {
        /// Its number.
        sequence: Sequence,
        /// All up to this number were taken over in the other direction.
        acknowledged: Sequence,
        /// The message.
        message: Bytes,
    },
    /// The end of this direction. It has a number, and is acknowledged, as a message is.
    End {
        /// Its number.
        sequence: Sequence,
        /// As in [`Data`](Self::Data).
        acknowledged: Sequence,
    },
    /// An acknowledgement alone.
    Ack {
        /// As in [`Data`](Self::Data).
        acknowledged: Sequence,
    },
    /// A sign of life is asked for.
    Ping {
        /// To be given back.
        token: u64,
    },
    /// The answer to a ping.
    Pong {
        /// What the ping had.
        token: u64,
    },
    /// The session is over, in both directions; nobody will resume it.
    Bye(Farewell),
}

/// Asks for a session, or for the one that was.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The session to be resumed, with its secret and epoch; `None` asks for a new one.
    pub resumes: Option<(SessionId, Secret, u64)>,
    /// Where the client stands; all nothing for a new session.
    pub position: Position,
}

/// Grants a session.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// Its name.
    pub session: SessionId,
    /// What it is resumed with the next time.
    pub secret: Secret,
    /// Which connection of the session this is. The first is 1.
    pub epoch: u64,
    /// Where the server stands.
    pub position: Position,
}

/// How far one end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last message received.
    pub received: Sequence,
    /// The last one taken over; not beyond `received`.
    pub acknowledged: Sequence,
    /// The last one that was ever written to a connection.
    pub sent: Sequence,
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The last message that whoever says so has received.
    pub received: Sequence,
    /// In words; empty if it ended as it should.
    pub text: String,
}

impl Frame {
    /// The frame as the connection carries it: what stands in front, and the message behind it.
    pub fn encode(self) -> (Head, Bytes) {
        let mut head = Head::new();
        match self {
            Self::Hello(hello) => return (head, hello.encode()),
            Self::Welcome(welcome) => return (head, welcome.encode()),
            Self::Refused { refusal, text } => {
                return (head, texted(&[REFUSED, VERSION, refusal.code()], &text));
            }
            Self::Bye(farewell) => {
                head.put(BYE);
                head.put_number(farewell.received);
                return (Head::new(), texted(&head, &farewell.text));
            }
            Self::Data { sequence, acknowledged, message } => {
                return (Head::of_message(sequence, acknowledged), message);
            }
            Self::End { sequence, acknowledged } => {
                head.put(END);
                head.put_number(sequence);
                head.put_number(acknowledged);
            }
            Self::Ack { acknowledged } => {
                head.put(ACK);
                head.put_number(acknowledged);
            }
            Self::Ping { token } => {
                head.put(PING);
                head.put_number(token);
            }
            Self::Pong { token } => {
                head.put(PONG);
                head.put_number(token);
            }
        }
        (head, Bytes::new())
    }

    /// The frame in one piece.
    pub fn to_bytes(self) -> Bytes {
        let (head, message) = self.encode();
        if head.is_empty() {
            return message;
        }
        let mut whole = BytesMut::with_capacity(head.len() + message.len());
        whole.extend_from_slice(&head);
        whole.extend_from_slice(&message);
        whole.freeze()
    }

    /// What a frame of data holds: its number, what it acknowledges, and the message. Any other is given
    /// back, and so is one that cannot be read.
    #[inline]
    pub(super) fn data(mut frame: Bytes) -> Result<(Sequence, Sequence, Bytes), Bytes> {
        let Some(([DATA, numbers @ ..], _)) = frame.split_first_chunk::<OVERHEAD>() else {
            return Err(frame);
        };
        let (numbers, _) = numbers.as_chunks();
        match numbers {
            [sequence, acknowledged] if *sequence != [0; 8] => {
                let numbers = (u64::from_be_bytes(*sequence), u64::from_be_bytes(*acknowledged));
                frame.advance(OVERHEAD);
                Ok((numbers.0, numbers.1, frame))
            }
            _ => Err(frame),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(mut frame: Bytes) -> Result<Self, Malformed> {
        let from = &mut frame;
        let decoded = match from.try_get_u8().map_err(|_| Malformed::Short)? {
            DATA => {
                let (sequence, acknowledged) = (sequence(from)?, number(from)?);
                return Ok(Self::Data { sequence, acknowledged, message: frame });
            }
            END => Self::End { sequence: sequence(from)?, acknowledged: number(from)? },
            ACK => Self::Ack { acknowledged: number(from)? },
            PING => Self::Ping { token: number(from)? },
            PONG => Self::Pong { token: number(from)? },
            BYE => Self::Bye(Farewell { received: number(from)?, text: text(from) }),
            HELLO => Self::Hello(Hello::decode(from)?),
            WELCOME => Self::Welcome(Welcome::decode(from)?),
            REFUSED => {
                // Whoever refuses may do so for the version's sake.
                let _ = byte(from)?;
                Self::Refused { refusal: Refusal::of(byte(from)?), text: text(from) }
            }
            other => return Err(Malformed::Kind(other)),
        };
        if frame.is_empty() { Ok(decoded) } else { Err(Malformed::Long) }
    }
}

impl Hello {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + 4 + 1 + 1 + 16 + 16 + 8 + 24);
        out.put_u8(HELLO);
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(u8::from(self.resumes.is_some()));
        if let Some((session, secret, epoch)) = &self.resumes {
            out.put_slice(&session.0);
            out.put_slice(&secret.0);
            out.put_u64(*epoch);
            self.position.encode(&mut out);
        }
        out.freeze()
    }

    fn decode(from: &mut Bytes) -> Result<Self, Malformed> {
        if array::<4>(from)? != MAGIC {
            return Err(Malformed::Magic);
        }
        versioned(from)?;
        match byte(from)? {
            0 => return Ok(Self { resumes: None, position: Position::default() }),
            1 => {}
            other => return Err(Malformed::Flag(other)),
        }
        let resumes = (SessionId(array(from)?), Secret(array(from)?), number(from)?);
        Ok(Self { resumes: Some(resumes), position: Position::decode(from)? })
    }
}

impl Welcome {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + 1 + 16 + 16 + 8 + 24);
        out.put_u8(WELCOME);
        out.put_u8(VERSION);
        out.put_slice(&self.session.0);
        out.put_slice(&self.secret.0);
        out.put_u64(self.epoch);
        self.position.encode(&mut out);
        out.freeze()
    }

    fn decode(from: &mut Bytes) -> Result<Self, Malformed> {
        versioned(from)?;
        Ok(Self {
            session: SessionId(array(from)?),
            secret: Secret(array(from)?),
            epoch: number(from)?,
            position: Position::decode(from)?,
        })
    }
}

impl Position {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.received);
        out.put_u64(self.acknowledged);
        out.put_u64(self.sent);
    }

    fn decode(from: &mut Bytes) -> Result<Self, Malformed> {
        Ok(Self { received: number(from)?, acknowledged: number(from)?, sent: number(from)? })
    }
}

/// What stands in front of a message in its frame.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; OVERHEAD],
    length: usize,
}

impl Head {
    fn new() -> Self {
        Self { bytes: [0; OVERHEAD], length: 0 }
    }

    /// What stands in front of a message.
    pub(super) fn of_message(sequence: Sequence, acknowledged: Sequence) -> Self {
        let mut bytes = [DATA; OVERHEAD];
        if let Some((_, numbers)) = bytes.split_first_mut()
            && let Some((first, second)) = numbers.split_at_mut_checked(8)
        {
            first.copy_from_slice(&sequence.to_be_bytes());
            second.copy_from_slice(&acknowledged.to_be_bytes());
        }
        Self { bytes, length: OVERHEAD }
    }

    fn put(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn put_number(&mut self, number: u64) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length + 8) {
            place.copy_from_slice(&number.to_be_bytes());
            self.length += 8;
        }
    }
}

impl std::ops::Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The longest frame that refuses a session.
pub(crate) const LONGEST_REFUSAL: usize = 3 + MAX_TEXT;

/// Whether a frame that begins so may refuse a session.
pub(crate) fn may_be_refusal(start: &[u8]) -> bool {
    start.iter().zip([REFUSED, VERSION]).all(|(byte, expected)| *byte == expected)
}

/// Whether `frame` is what a listener for sessions sends to a client that has not asked for one: a
/// refusal, with words.
pub fn is_refusal(frame: &[u8]) -> bool {
    let [REFUSED, VERSION, code, text @ ..] = frame else { return false };
    let refusal = Refusal::of(*code);
    let is_text = !text.is_empty() && std::str::from_utf8(text).is_ok();
    is_text && matches!(refusal, Refusal::Unasked | Refusal::Malformed)
}

fn texted(front: &[u8], text: &str) -> Bytes {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = BytesMut::with_capacity(front.len() + end);
    out.put_slice(front);
    out.put_slice(text.get(..end).unwrap_or_default().as_bytes());
    out.freeze()
}

fn byte(from: &mut Bytes) -> Result<u8, Malformed> {
    from.try_get_u8().map_err(|_| Malformed::Short)
}

fn number(from: &mut Bytes) -> Result<u64, Malformed> {
    from.try_get_u64().map_err(|_| Malformed::Short)
}

/// No message has the number 0: it would be one that everybody has received.
fn sequence(from: &mut Bytes) -> Result<Sequence, Malformed> {
    match number(from)? {
        0 => Err(Malformed::Zero),
        sequence => Ok(sequence),
    }
}

fn array<const N: usize>(from: &mut Bytes) -> Result<[u8; N], Malformed> {
    let mut array = [0; N];
    from.try_copy_to_slice(&mut array).map_err(|_| Malformed::Short)?;
    Ok(array)
}

fn versioned(from: &mut Bytes) -> Result<(), Malformed> {
    match byte(from)? {
        VERSION => Ok(()),
        other => Err(Malformed::Version(other)),
    }
}

/// The rest, as text. It is for people: what is not UTF-8 is replaced, what is long is cut.
fn text(from: &mut Bytes) -> String {
    let all = from.split_off(0);
    String::from_utf8_lossy(all.get(..all.len().min(MAX_TEXT)).unwrap_or_default()).into_owned()
}
