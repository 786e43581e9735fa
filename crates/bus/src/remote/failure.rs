//! Errors of operations as fields of a frame: a code, a text and two numbers.

use std::borrow::Cow;

use tieline_proto::ByteSize;

use crate::error::{Error, Operation};

/// Returns the code and the fields of an error. Errors that only the side of the client reports are sent as
/// text.
pub(super) fn encode(error: &Error) -> (u8, Cow<'_, str>, (u64, u64)) {
    let number = |it: usize| it as u64;
    let none = Cow::Borrowed("");
    match error {
        Error::Denied { operation: Operation::Publish, subject } => {
            (1, (&**subject).into(), (0, 0))
        }
        Error::Denied { operation: Operation::Subscribe, subject } => {
            (1, (&**subject).into(), (1, 0))
        }
        Error::TooLarge { bytes, limit } => (2, none, (number(*bytes), number(limit.bytes()))),
        Error::QueueTooLong { messages, bytes } => {
            (3, none, (number(*messages), number(bytes.bytes())))
        }
        Error::TooManySubscriptions { limit, of_client } => {
            (4, none, (number(*limit), u64::from(*of_client)))
        }
        Error::TooManyRequests { limit } => (5, none, (number(*limit), 0)),
        Error::NoResponders { subject } => (6, (&**subject).into(), (0, 0)),
        Error::ResponderLost { subject, taken } => (7, (&**subject).into(), (u64::from(*taken), 0)),
        Error::Closed => (8, none, (0, 0)),
        Error::Other { text } => (0, (&**text).into(), (0, 0)),
        other => (0, other.to_string().into(), (0, 0)),
    }
}

pub(super) fn decode(code: u8, text: String, (first, second): (u64, u64)) -> Error {
    let size = |it: u64| usize::try_from(it).unwrap_or(usize::MAX);
    let subject = text.as_str().into();
    match code {
        1 => {
            let operation = if first == 0 { Operation::Publish } else { Operation::Subscribe };
            Error::Denied { operation, subject }
        }
        2 => Error::TooLarge { bytes: size(first), limit: ByteSize::new(size(second)) },
        3 => Error::QueueTooLong { messages: size(first), bytes: ByteSize::new(size(second)) },
        4 => Error::TooManySubscriptions { limit: size(first), of_client: second != 0 },
        5 => Error::TooManyRequests { limit: size(first) },
        6 => Error::NoResponders { subject },
        7 => Error::ResponderLost { subject, taken: first != 0 },
        8 => Error::Closed,
        _ => Error::Other { text: subject },
    }
}
