//! How the other side has broken the protocol.

use std::fmt;

use crate::message::HeaderError;
use crate::subject::SubjectError;

/// A violation of the protocol between a broker and a remote client, by the other side. It ends the
/// connection and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The first frame is not a greeting, or a later one is.
    NotHello,
    /// The other side has another version of the protocol.
    Version(u64),
    /// A frame cannot be decoded.
    Malformed(Malformed),
    /// A number is in use for another operation or subscription.
    NumberInUse(u64),
    /// Too many operations, or too many bytes of them, are in flight.
    TooMuchInFlight,
    /// More messages were delivered than the subscription has asked for, or more were taken than delivered.
    Window(u64),
    /// A frame could not be read or written.
    Fault(String),
}

/// Why a frame cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// The frame is too short.
    Truncated,
    /// The frame has bytes after its last field.
    Excess(usize),
    /// There is no frame of this type.
    Kind(u8),
    /// A text is not UTF-8.
    Text,
    /// A field has a value that is not defined.
    Value,
    /// A subject or pattern is not valid.
    Subject(SubjectError),
    /// A header is not valid.
    Header(HeaderError),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHello => f.write_str(
                "the first frame is not a greeting of the bus protocol. Connect with a client of the bus",
            ),
            Self::Version(version) => write!(
                f,
                "the other side has version {version} of the bus protocol, and this side version {}. \
                 Update the older one",
                super::VERSION
            ),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::NumberInUse(number) => write!(f, "the number {number} is in use"),
            Self::TooMuchInFlight => f.write_str("too many operations or bytes are in flight"),
            Self::Window(number) => {
                write!(f, "the window of subscription {number} was not respected")
            }
            Self::Fault(fault) => write!(f, "a frame could not be read or written: {fault}"),
        }
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("a frame is too short"),
            Self::Excess(bytes) => write!(f, "a frame is {bytes} bytes too long"),
            Self::Kind(kind) => write!(f, "unknown frame type {kind:#04x}"),
            Self::Text => f.write_str("a text in a frame is not UTF-8"),
            Self::Value => f.write_str("a field of a frame has an undefined value"),
            Self::Subject(error) => error.fmt(f),
            Self::Header(error) => error.fmt(f),
        }
    }
}

impl From<Malformed> for Violation {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<SubjectError> for Malformed {
    fn from(error: SubjectError) -> Self {
        Self::Subject(error)
    }
}

impl From<HeaderError> for Malformed {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}
