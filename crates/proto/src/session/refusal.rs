//! Errors of the handshake and of decoding frames.

use std::fmt;

use super::VERSION;

/// The reason why a session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The two ends use different versions of the protocol.
    Version,
    /// The session does not exist, or no longer exists.
    Unknown,
    /// The secret does not open the session, or is outdated.
    Secret,
    /// The session belongs to another principal.
    Principal,
    /// The secret is valid, but does not belong to the given epoch.
    Epoch,
    /// One end lacks messages that the other no longer has.
    Gap,
    /// One end claims to have received messages that the other never sent.
    NeverSent,
    /// The limit on sessions is reached.
    Full,
    /// The server is shutting down.
    Draining,
    /// The first frame was not a greeting.
    Malformed,
    /// The first bytes were not a frame: the client uses another protocol and has not requested a
    /// session, or the greeting was damaged in transit.
    Unasked,
    /// The listener does not accept processes of the client's user. It sends this refusal before it
    /// reads any bytes, even to clients that have not requested a session.
    User,
    /// The client does not use the framing of the listener, which is lines.
    UsesLines,
    /// The client does not use the framing of the listener, which is `Content-Length` headers.
    UsesContentLength,
    /// The client does not use the framing of the listener, which is a length before each message.
    UsesLengthPrefix,
    /// The client requests a session, and the listener has none.
    NoSessions,
    /// The client is not authenticated, and its first message is not JSON.
    NotJson,
    /// A reason that this version does not know.
    Other(u8),
}

/// The reason why a frame cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// Its first byte is not a known kind.
    Kind(u8),
    /// It is too short.
    Short,
    /// It has trailing bytes.
    Long,
    /// A greeting does not begin with the magic bytes.
    Magic,
    /// A greeting has another version.
    Version(u8),
    /// A message has the number 0. The first number is 1.
    Zero,
    /// A greeting has an unknown flag. The flag is 0 for a new session and 1 to resume one.
    Flag(u8),
}

impl Refusal {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Unknown => 2,
            Self::Secret => 3,
            Self::Principal => 4,
            Self::Epoch => 5,
            Self::Gap => 6,
            Self::NeverSent => 7,
            Self::Full => 8,
            Self::Draining => 9,
            Self::Malformed => 10,
            Self::Unasked => 11,
            Self::User => 12,
            Self::UsesLines => 13,
            Self::UsesContentLength => 14,
            Self::UsesLengthPrefix => 15,
            Self::NoSessions => 16,
            Self::NotJson => 17,
            Self::Other(code) => code,
        }
    }

    pub(super) fn of(code: u8) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::Unknown,
            3 => Self::Secret,
            4 => Self::Principal,
            5 => Self::Epoch,
            6 => Self::Gap,
            7 => Self::NeverSent,
            8 => Self::Full,
            9 => Self::Draining,
            10 => Self::Malformed,
            11 => Self::Unasked,
            12 => Self::User,
            13 => Self::UsesLines,
            14 => Self::UsesContentLength,
            15 => Self::UsesLengthPrefix,
            16 => Self::NoSessions,
            17 => Self::NotJson,
            other => Self::Other(other),
        }
    }

    /// Returns whether the refusal is temporary, so that another attempt may succeed.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Full | Self::Draining | Self::Unasked)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "the other side uses another version of the session protocol",
            Self::Unknown => "the session does not exist, or no longer exists",
            Self::Secret => "the secret does not open the session",
            Self::Principal => "the session belongs to another user",
            Self::Epoch => "the secret belongs to another connection of the session",
            Self::Gap => "one side lacks messages that the other no longer has",
            Self::NeverSent => "one side claims to have received messages that were never sent",
            Self::Full => "the limit on sessions is reached",
            Self::Draining => "the other side is shutting down",
            Self::Malformed => "the first frame was not a session greeting",
            Self::Unasked => "the first bytes were not a session frame",
            Self::User => "the other side does not accept processes of this user",
            Self::UsesLines => "the other side uses the framing lines",
            Self::UsesContentLength => "the other side uses the framing content-length",
            Self::UsesLengthPrefix => "the other side uses the framing length-prefix",
            Self::NoSessions => "the other side has no sessions",
            Self::NotJson => "the first message is not JSON",
            Self::Other(code) => return write!(f, "refused with the unknown code {code}"),
        })
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "a session frame has the unknown kind 0x{kind:02x}"),
            Self::Short => f.write_str("a session frame is too short"),
            Self::Long => f.write_str("a session frame has trailing bytes"),
            Self::Magic => f.write_str("a session greeting does not begin with TIEL"),
            Self::Version(version) => write!(
                f,
                "version {version} of the session protocol is not supported, only version {VERSION}"
            ),
            Self::Zero => f.write_str("a session message has the number 0"),
            Self::Flag(flag) => {
                write!(f, "a session greeting has the flag {flag}, which is neither 0 nor 1")
            }
        }
    }
}

impl std::error::Error for Malformed {}
