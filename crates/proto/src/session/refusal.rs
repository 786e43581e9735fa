//! Why there is no session, and why a frame is none.

use std::fmt;

use super::VERSION;

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The versions do not fit.
    Version,
    /// There is no such session, or no more.
    Unknown,
    /// The secret is not that of the session, or not the present one.
    Secret,
    /// The session belongs to somebody else.
    Principal,
    /// The secret belongs to another connection of the session than the one named.
    Epoch,
    /// One side lacks what the other does not have any more.
    Gap,
    /// One side has received, it says, what the other never sent.
    NeverSent,
    /// There are as many sessions as may be.
    Full,
    /// The server is about to end.
    Draining,
    /// The first frame was no greeting.
    Malformed,
    /// What came first is no frame: whoever speaks something else has not asked for a session, or the
    /// greeting was damaged on its way.
    Unasked,
    /// One that this version does not know.
    Other(u8),
}

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// It begins with a byte that no frame begins with.
    Kind(u8),
    /// It ends before all is there.
    Short,
    /// Something stands behind all that belongs to it.
    Long,
    /// A greeting without the word that all begin with.
    Magic,
    /// A greeting in another version.
    Version(u8),
    /// The first message of a direction is 1.
    Zero,
    /// A greeting asks neither for a new session nor for the one that was.
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
            other => Self::Other(other),
        }
    }

    /// Whether another attempt may have a better answer.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Full | Self::Draining | Self::Unasked)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "the other side speaks another version of the session protocol",
            Self::Unknown => "there is no such session, or no more",
            Self::Secret => "the secret is not that of the session",
            Self::Principal => "the session belongs to another user",
            Self::Epoch => "the secret belongs to another connection of the session",
            Self::Gap => "one side lacks messages that the other does not have any more",
            Self::NeverSent => "one side says that it has received what was never sent",
            Self::Full => "there are as many sessions as may be",
            Self::Draining => "the other side is about to end",
            Self::Malformed => "the first frame was no greeting of a session",
            Self::Unasked => "what came first was no frame of a session",
            Self::Other(code) => return write!(f, "refused for a reason with the number {code}"),
        })
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "no frame of a session begins with 0x{kind:02x}"),
            Self::Short => f.write_str("a frame of the session ends too early"),
            Self::Long => f.write_str("a frame of the session is longer than it should be"),
            Self::Magic => f.write_str("the greeting of a session does not begin as it should"),
            Self::Version(version) => write!(
                f,
                "the session protocol is spoken in version {version}, and here only in {VERSION}"
            ),
            Self::Zero => f.write_str("a message of the session has the number 0"),
            Self::Flag(flag) => {
                write!(f, "a greeting is for a new session (0) or the same (1), not for {flag}")
            }
        }
    }
}

impl std::error::Error for Malformed {}
