//! The wire format of frames, version 1, as specified in `docs/session-protocol.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Malformed, Refusal, Secret, Sequence, SessionId, VERSION};
use crate::byte_size::ByteSize;
use crate::printable::truncated;

/// How many bytes a frame adds to the message that it carries.
pub const OVERHEAD: usize = 1 + 8 + 8;

/// The largest frame accepted during the handshake: 4 KiB. Handshake frames are much shorter.
pub const LARGEST_GREETING: ByteSize = ByteSize::kib(4);

/// The longest text that is sent or accepted, in bytes. Longer texts are truncated.
const MAX_TEXT: usize = 1024;

/// The bytes that identify a greeting, so that other protocols are not mistaken for it.
const MAGIC: [u8; 4] = *b"TIEL";

/// The lengths of a greeting: for a new session, and to resume one.
const GREETINGS: [usize; 2] = [7, 71];

const HELLO: u8 = 0x01;
const WELCOME: u8 = 0x02;
const REFUSED: u8 = 0x03;
const DATA: u8 = 0x10;
const END: u8 = 0x11;
const ACK: u8 = 0x12;
const PING: u8 = 0x13;
const PONG: u8 = 0x14;
const BYE: u8 = 0x15;

/// A frame: one message of the connection that carries the session.
#[derive(Clone, Debug)]
pub enum Frame {
    /// The client's greeting, its first frame.
    Hello(Hello),
    /// The server's response that grants the session.
    Welcome(Welcome),
    /// The server's response that refuses the session.
    Refused {
        /// The reason.
        refusal: Refusal,
        /// The reason as readable text, with details.
        text: String,
    },
    /// A message.
    Data {
        /// The number of the message.
        sequence: Sequence,
        /// The last consumed message of the other direction.
        acknowledged: Sequence,
        /// The message.
        message: Bytes,
    },
    /// The end of this direction. It is numbered and acknowledged like a message.
    End {
        /// The number of the end.
        sequence: Sequence,
        /// The last consumed message of the other direction.
        acknowledged: Sequence,
    },
    /// An acknowledgement on its own.
    Ack {
        /// The last consumed message of the other direction.
        acknowledged: Sequence,
    },
    /// A ping, to check that the other end is alive.
    Ping {
        /// A token to be returned in the pong.
        token: u64,
    },
    /// The response to a ping.
    Pong {
        /// The token of the ping.
        token: u64,
    },
    /// The end of the session in both directions. It cannot be resumed.
    Bye(Farewell),
}

/// The greeting, which requests a new session or resumes one.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The session to resume, with its secret and epoch. `None` requests a new session.
    pub resumes: Option<(SessionId, Secret, u64)>,
    /// The client's position. All numbers are 0 for a new session.
    pub position: Position,
}

/// The response to a greeting that grants the session.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The session's id.
    pub session: SessionId,
    /// The secret for the next resumption.
    pub secret: Secret,
    /// The number of this connection within the session. The first is 1.
    pub epoch: u64,
    /// The server's position.
    pub position: Position,
}

/// The progress of one end in sending and receiving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last message received.
    pub received: Sequence,
    /// The last message consumed, which is never above `received`.
    pub acknowledged: Sequence,
    /// The last message that was ever written to a connection.
    pub sent: Sequence,
}

/// The content of a [`Bye`](Frame::Bye): the reason why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The last message that the sender of the frame has received.
    pub received: Sequence,
    /// The reason as readable text, which is empty if the session ended normally.
    pub text: String,
}

impl Frame {
    /// Encodes the frame as a head and a message, which follow each other on the wire.
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

    /// Encodes the frame in one piece.
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

    /// Decodes a data frame into its number, its acknowledgement and its message. Any other frame, or a
    /// malformed one, is returned unchanged as the error.
    #[inline]
    pub(super) fn data(mut frame: Bytes) -> Result<(Sequence, Sequence, Bytes), Bytes> {
        let Some(([DATA, numbers @ ..], _)) = frame.split_first_chunk::<OVERHEAD>() else {
            return Err(frame);
        };
        let numbers = u128::from_be_bytes(*numbers);
        let (sequence, acknowledged) = ((numbers >> 64) as u64, numbers as u64);
        if sequence == 0 {
            return Err(frame);
        }
        frame.advance(OVERHEAD);
        Ok((sequence, acknowledged, frame))
    }

    /// Decodes a frame.
    ///
    /// # Errors
    /// The frame is malformed.
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
                // The version is not checked: it may be the reason for the refusal.
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

/// The bytes of a frame before its message.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; OVERHEAD],
    length: usize,
}

impl Head {
    fn new() -> Self {
        Self { bytes: [0; OVERHEAD], length: 0 }
    }

    /// Encodes the head of a data frame.
    pub(super) fn of_message(sequence: Sequence, acknowledged: Sequence) -> Self {
        let mut bytes = [DATA; OVERHEAD];
        let numbers = (u128::from(sequence) << 64) | u128::from(acknowledged);
        if let Some((_, place)) = bytes.split_first_mut() {
            place.copy_from_slice(&numbers.to_be_bytes());
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

/// The length of the longest frame that refuses a session.
pub(crate) const LONGEST_REFUSAL: usize = 3 + MAX_TEXT;

/// Returns whether a frame that begins with `start` may refuse a session.
pub(crate) fn may_be_refusal(start: &[u8]) -> bool {
    start.iter().zip([REFUSED, VERSION]).all(|(byte, expected)| *byte == expected)
}

/// Returns the refusal if `frame` is the response of a listener to a client that may not have requested
/// a session. Such a response contains a text.
pub(crate) fn refusal_of(frame: &[u8]) -> Option<Refusal> {
    let [REFUSED, VERSION, code, text @ ..] = frame else { return None };
    let is_text = !text.is_empty() && std::str::from_utf8(text).is_ok();
    is_text.then(|| Refusal::of(*code))
}

/// Returns whether a frame of this length that begins with `start` is a greeting, or `None` if `start`
/// is too short to decide.
pub(crate) fn is_greeting(length: usize, start: &[u8]) -> Option<bool> {
    let front = [&[HELLO], &MAGIC[..]].concat();
    let is_possible =
        GREETINGS.contains(&length) && start.iter().zip(&front).all(|(byte, other)| byte == other);
    if is_possible && start.len() < front.len() { None } else { Some(is_possible) }
}

/// Returns the bytes with which a listener refuses a client because of its user. They are the same for
/// every framing of the line.
pub fn user_refusal() -> Bytes {
    let text = "this server does not accept your user; its owner can start it with --allow-uid UID";
    plain_refusal(Refusal::User, text)
}

/// Returns the bytes that refuse a client that may not have requested a session. They are a
/// length-prefixed frame whose text ends with a line feed, for clients that read lines.
pub(crate) fn plain_refusal(refusal: Refusal, text: &str) -> Bytes {
    let frame = Frame::Refused { refusal, text: format!("{text}\n") }.to_bytes();
    let mut bytes = BytesMut::with_capacity(4 + frame.len());
    bytes.put_u32(frame.len().try_into().unwrap_or_default());
    bytes.put(frame);
    bytes.freeze()
}

fn texted(front: &[u8], text: &str) -> Bytes {
    let text = truncated(text, MAX_TEXT);
    let mut out = BytesMut::with_capacity(front.len() + text.len());
    out.put_slice(front);
    out.put_slice(text.as_bytes());
    out.freeze()
}

fn byte(from: &mut Bytes) -> Result<u8, Malformed> {
    from.try_get_u8().map_err(|_| Malformed::Short)
}

fn number(from: &mut Bytes) -> Result<u64, Malformed> {
    from.try_get_u64().map_err(|_| Malformed::Short)
}

/// Decodes the number of a message. 0 is invalid: it would be considered received from the start.
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

/// Decodes the rest as readable text: invalid UTF-8 is replaced, and long text is truncated.
fn text(from: &mut Bytes) -> String {
    let all = from.split_off(0);
    String::from_utf8_lossy(all.get(..all.len().min(MAX_TEXT)).unwrap_or_default()).into_owned()
}
