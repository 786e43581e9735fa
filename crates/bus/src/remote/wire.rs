//! The frames between a broker and a remote client, version 1. No I/O.
//!
//! A frame is one message of the channel: its type (1 byte), a number (8 bytes, big-endian) that is chosen by the
//! client and names an operation or a subscription, and fields. Texts have a length of 2 bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::VERSION;
use super::failure;
use super::violation::{Malformed, Violation};
use crate::error::Error;
use crate::message::Message;
use crate::queue::Overflow;
use crate::subject::{Pattern, Subject};

/// The bytes of a greeting, so that other protocols are not mistaken for it.
const MAGIC: [u8; 4] = *b"TBUS";

const HELLO: u8 = 0x01;
const PUBLISH: u8 = 0x02;
const REQUEST: u8 = 0x03;
const CANCEL: u8 = 0x04;
const SUBSCRIBE: u8 = 0x05;
const UNSUBSCRIBE: u8 = 0x06;
const TAKEN: u8 = 0x07;
const WELCOME: u8 = 0x11;
const PUBLISHED: u8 = 0x12;
const ANSWER: u8 = 0x13;
const FAILED: u8 = 0x14;
const SUBSCRIBED: u8 = 0x15;
const DELIVER: u8 = 0x16;
const GAP: u8 = 0x17;
const CANCELLED: u8 = 0x18;
const ENDED: u8 = 0x19;
const BYE: u8 = 0x1a;

/// A frame of a client.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FromClient {
    /// The first frame, with the version as its number.
    Hello,
    Publish {
        id: u64,
        subject: Subject,
        message: Message,
    },
    Request {
        id: u64,
        subject: Subject,
        message: Message,
    },
    /// The request is no longer needed.
    Cancel {
        id: u64,
    },
    Subscribe {
        id: u64,
        pattern: Pattern,
        options: WireOptions,
    },
    Unsubscribe {
        id: u64,
    },
    /// The reader of the subscription has taken messages, so that more may be sent.
    Taken {
        id: u64,
        messages: u64,
        bytes: u64,
    },
}

/// The options of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WireOptions {
    /// Empty for none.
    pub(super) group: String,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) overflow: Overflow,
}

/// A frame of the broker.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FromBroker {
    /// The answer to the greeting.
    Welcome {
        max_message: u64,
    },
    Published {
        id: u64,
        matched: u64,
    },
    Answer {
        id: u64,
        message: Message,
    },
    /// An operation has failed.
    Failed {
        id: u64,
        error: Error,
    },
    Subscribed {
        id: u64,
    },
    Deliver {
        id: u64,
        subject: Subject,
        message: Message,
    },
    Gap {
        id: u64,
        lost: u64,
    },
    /// A request that was delivered to this subscription was cancelled.
    Cancelled {
        id: u64,
        reply: Subject,
    },
    /// The subscription has ended: because it was too slow, or because the broker was closed.
    Ended {
        id: u64,
        is_too_slow: bool,
    },
    /// The client has broken the protocol; the connection ends.
    Bye {
        text: String,
    },
}

/// An encoded frame: its beginning, and the payload of its message.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    pub(super) head: Bytes,
    pub(super) payload: Bytes,
}

struct Writer(BytesMut);

impl Writer {
    fn new(kind: u8, id: u64) -> Self {
        let mut head = BytesMut::with_capacity(64);
        head.put_u8(kind);
        head.put_u64(id);
        Self(head)
    }

    fn number(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    fn byte(mut self, byte: u8) -> Self {
        self.0.put_u8(byte);
        self
    }

    /// Adds a text, or its beginning if it is longer than 64 KiB.
    fn text(mut self, text: &str) -> Self {
        let mut length = text.len().min(usize::from(u16::MAX));
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        self.0.put_u16(length as u16);
        self.0.put_slice(text.as_bytes().get(..length).unwrap_or_default());
        self
    }

    fn message(self, message: &Message) -> Encoded {
        let reply = message.reply.as_ref().map_or("", Subject::as_str);
        let mut it = self.text(reply).byte(message.headers().len() as u8);
        for (name, value) in message.headers() {
            it = it.text(name).text(value);
        }
        Encoded { head: it.0.freeze(), payload: message.payload.clone() }
    }

    fn done(self) -> Encoded {
        Encoded { head: self.0.freeze(), payload: Bytes::new() }
    }
}

/// Reads the fields of a frame.
struct Reader(Bytes);

impl Reader {
    fn byte(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed::Truncated)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed::Truncated)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.0.try_get_u16().map_err(|_| Malformed::Truncated)?;
        if self.0.len() < usize::from(length) {
            return Err(Malformed::Truncated);
        }
        let text = self.0.split_to(usize::from(length));
        String::from_utf8(text.into()).map_err(|_| Malformed::Text)
    }

    fn subject(&mut self) -> Result<Subject, Malformed> {
        Ok(Subject::new(&self.text()?)?)
    }

    /// Reads a message, which is the rest of the frame.
    fn message(&mut self) -> Result<Message, Malformed> {
        let reply = self.text()?;
        let mut message = Message::default();
        for _ in 0..self.byte()? {
            let (name, value) = (self.text()?, self.text()?);
            message = message.with_header(&name, &value)?;
        }
        if !reply.is_empty() {
            message.reply = Some(Subject::new(&reply)?);
        }
        message.payload = std::mem::take(&mut self.0);
        Ok(message)
    }

    fn end<T>(self, frame: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(frame) } else { Err(Malformed::Excess(self.0.len())) }
    }
}

impl FromClient {
    pub(super) fn encode(&self) -> Encoded {
        match self {
            Self::Hello => {
                let mut hello = Writer::new(HELLO, VERSION);
                hello.0.put_slice(&MAGIC);
                hello.done()
            }
            Self::Publish { id, subject, message } => {
                Writer::new(PUBLISH, *id).text(subject.as_str()).message(message)
            }
            Self::Request { id, subject, message } => {
                Writer::new(REQUEST, *id).text(subject.as_str()).message(message)
            }
            Self::Cancel { id } => Writer::new(CANCEL, *id).done(),
            Self::Subscribe { id, pattern, options } => {
                let overflow = match options.overflow {
                    Overflow::Block => 0,
                    Overflow::DropOldest => 1,
                    Overflow::DropNewest => 2,
                    Overflow::Disconnect => 3,
                };
                let it = Writer::new(SUBSCRIBE, *id).text(pattern.as_str()).text(&options.group);
                it.number(options.messages).number(options.bytes).byte(overflow).done()
            }
            Self::Unsubscribe { id } => Writer::new(UNSUBSCRIBE, *id).done(),
            Self::Taken { id, messages, bytes } => {
                Writer::new(TAKEN, *id).number(*messages).number(*bytes).done()
            }
        }
    }

    pub(super) fn decode(frame: Bytes) -> Result<Self, Violation> {
        let mut it = Reader(frame);
        let (kind, id) = (it.byte()?, it.number()?);
        let frame = match kind {
            HELLO => {
                if it.0 != MAGIC.as_slice() {
                    return Err(Violation::NotHello);
                }
                if id != VERSION {
                    return Err(Violation::Version(id));
                }
                return Ok(Self::Hello);
            }
            PUBLISH => Self::Publish { id, subject: it.subject()?, message: it.message()? },
            REQUEST => Self::Request { id, subject: it.subject()?, message: it.message()? },
            CANCEL => Self::Cancel { id },
            SUBSCRIBE => {
                let pattern = Pattern::new(&it.text()?).map_err(Malformed::from)?;
                let (group, messages, bytes) = (it.text()?, it.number()?, it.number()?);
                let overflow = match it.byte()? {
                    0 => Overflow::Block,
                    1 => Overflow::DropOldest,
                    2 => Overflow::DropNewest,
                    3 => Overflow::Disconnect,
                    _ => return Err(Malformed::Value.into()),
                };
                let options = WireOptions { group, messages, bytes, overflow };
                Self::Subscribe { id, pattern, options }
            }
            UNSUBSCRIBE => Self::Unsubscribe { id },
            TAKEN => Self::Taken { id, messages: it.number()?, bytes: it.number()? },
            kind => return Err(Malformed::Kind(kind).into()),
        };
        Ok(it.end(frame)?)
    }
}

impl FromBroker {
    pub(super) fn encode(&self) -> Encoded {
        match self {
            Self::Welcome { max_message } => {
                Writer::new(WELCOME, VERSION).number(*max_message).done()
            }
            Self::Published { id, matched } => Writer::new(PUBLISHED, *id).number(*matched).done(),
            Self::Answer { id, message } => Writer::new(ANSWER, *id).message(message),
            Self::Failed { id, error } => {
                let (code, subject, numbers) = failure::encode(error);
                let it = Writer::new(FAILED, *id).byte(code).text(&subject);
                it.number(numbers.0).number(numbers.1).done()
            }
            Self::Subscribed { id } => Writer::new(SUBSCRIBED, *id).done(),
            Self::Deliver { id, subject, message } => {
                Writer::new(DELIVER, *id).text(subject.as_str()).message(message)
            }
            Self::Gap { id, lost } => Writer::new(GAP, *id).number(*lost).done(),
            Self::Cancelled { id, reply } => {
                Writer::new(CANCELLED, *id).text(reply.as_str()).done()
            }
            Self::Ended { id, is_too_slow } => {
                Writer::new(ENDED, *id).byte(u8::from(*is_too_slow)).done()
            }
            Self::Bye { text } => Writer::new(BYE, 0).text(text).done(),
        }
    }

    pub(super) fn decode(frame: Bytes) -> Result<Self, Violation> {
        let mut it = Reader(frame);
        let (kind, id) = (it.byte()?, it.number()?);
        let frame = match kind {
            WELCOME if id != VERSION => return Err(Violation::Version(id)),
            WELCOME => Self::Welcome { max_message: it.number()? },
            PUBLISHED => Self::Published { id, matched: it.number()? },
            ANSWER => Self::Answer { id, message: it.message()? },
            FAILED => {
                let (code, subject) = (it.byte()?, it.text()?);
                let error = failure::decode(code, subject, (it.number()?, it.number()?));
                Self::Failed { id, error }
            }
            SUBSCRIBED => Self::Subscribed { id },
            DELIVER => Self::Deliver { id, subject: it.subject()?, message: it.message()? },
            GAP => Self::Gap { id, lost: it.number()? },
            CANCELLED => Self::Cancelled { id, reply: it.subject()? },
            ENDED => Self::Ended { id, is_too_slow: it.byte()? != 0 },
            BYE => Self::Bye { text: it.text()? },
            kind => return Err(Malformed::Kind(kind).into()),
        };
        Ok(it.end(frame)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Operation;
    use tieline_testkit::random::Random;

    fn whole(encoded: &Encoded) -> Bytes {
        [&encoded.head[..], &encoded.payload[..]].concat().into()
    }

    fn frames() -> (Vec<FromClient>, Vec<FromBroker>) {
        let subject = || Subject::new("a.b").unwrap();
        let mut message = Message::new("payload").with_header("a", "größe").unwrap();
        message.reply = Some(Subject::new("c").unwrap());
        let plain = Message::new("");
        let options =
            WireOptions { group: "w".into(), messages: 5, bytes: 6, overflow: Overflow::Block };
        let clients = vec![
            FromClient::Hello,
            FromClient::Publish { id: 1, subject: subject(), message: message.clone() },
            FromClient::Request { id: u64::MAX, subject: subject(), message: plain.clone() },
            FromClient::Cancel { id: 3 },
            FromClient::Subscribe { id: 4, pattern: Pattern::new("a.>").unwrap(), options },
            FromClient::Unsubscribe { id: 4 },
            FromClient::Taken { id: 4, messages: 7, bytes: 8 },
        ];
        let text = || std::sync::Arc::from("a.b");
        let limit = tieline_proto::ByteSize::kib(1);
        let errors = [
            Error::Denied { operation: Operation::Publish, subject: text() },
            Error::Denied { operation: Operation::Subscribe, subject: text() },
            Error::TooLarge { bytes: 9, limit },
            Error::QueueTooLong { messages: 3, bytes: limit },
            Error::TooManySubscriptions { limit: 3, of_client: true },
            Error::TooManySubscriptions { limit: 3, of_client: false },
            Error::TooManyRequests { limit: 3 },
            Error::NoResponders { subject: text() },
            Error::ResponderLost { subject: text(), taken: true },
            Error::ResponderLost { subject: text(), taken: false },
            Error::Closed,
            Error::Other { text: text() },
        ];
        let mut brokers = vec![
            FromBroker::Welcome { max_message: 1 },
            FromBroker::Published { id: 1, matched: 2 },
            FromBroker::Answer { id: 1, message: message.clone() },
            FromBroker::Subscribed { id: 1 },
            FromBroker::Deliver { id: 1, subject: subject(), message },
            FromBroker::Deliver { id: 1, subject: subject(), message: plain },
            FromBroker::Gap { id: 1, lost: 2 },
            FromBroker::Cancelled { id: 1, reply: subject() },
            FromBroker::Ended { id: 1, is_too_slow: true },
            FromBroker::Bye { text: "why".into() },
        ];
        brokers.extend(errors.map(|error| FromBroker::Failed { id: 1, error }));
        (clients, brokers)
    }

    #[test]
    fn frames_are_decoded_as_they_were_encoded() {
        let (clients, brokers) = frames();
        for frame in clients {
            assert_eq!(FromClient::decode(whole(&frame.encode())).unwrap(), frame);
        }
        for frame in brokers {
            assert_eq!(FromBroker::decode(whole(&frame.encode())).unwrap(), frame);
        }
    }

    #[test]
    fn damaged_frames_are_errors_or_other_frames() {
        let seed = 5_150;
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let (clients, brokers) = frames();
        let whole: Vec<Bytes> = (clients.iter().map(FromClient::encode))
            .chain(brokers.iter().map(FromBroker::encode))
            .map(|it| whole(&it))
            .collect();
        let mut errors = 0;
        for _ in 0..100_000 {
            let mut frame = whole[random.below(whole.len() as u64) as usize].to_vec();
            frame.truncate(random.below(frame.len() as u64 + 1) as usize);
            for _ in 0..random.below(4) {
                let length = frame.len() as u64;
                if let Some(byte) = frame.get_mut(random.below(length.max(1)) as usize) {
                    *byte = random.below(256) as u8;
                }
            }
            let frame = Bytes::from(frame);
            errors += usize::from(FromClient::decode(frame.clone()).is_err());
            errors += usize::from(FromBroker::decode(frame).is_err());
        }
        assert!(errors > 100_000, "{errors}");
    }
}
