//! How the rules of a session can be broken.

use std::fmt;

use super::{Malformed, Sequence};

/// How the other side broke the protocol of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A message is missing before this one.
    Gap {
        /// The one that was to come.
        expected: Sequence,
        /// The one that came.
        got: Sequence,
    },
    /// It acknowledges what was never sent.
    NeverSent {
        /// What it acknowledges.
        acknowledged: Sequence,
        /// The last that was sent.
        sent: Sequence,
    },
    /// A message came behind the end of its direction.
    AfterEnd,
    /// A frame of the handshake came where none is due, or none where one is.
    Handshake,
    /// A frame cannot be read.
    Malformed(Malformed),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { expected, got } => {
                write!(f, "message {expected} is missing: {got} came in its place")
            }
            Self::NeverSent { acknowledged, sent } => {
                write!(f, "message {acknowledged} is acknowledged, and {sent} was the last sent")
            }
            Self::AfterEnd => f.write_str("a message came behind the end of its direction"),
            Self::Handshake => f.write_str("a frame of the handshake is out of its place"),
            Self::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

impl std::error::Error for Violation {}

impl From<Malformed> for Violation {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
