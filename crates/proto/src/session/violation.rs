//! Violations of the session protocol.

use std::fmt;

use super::{Malformed, Sequence};

/// A violation of the session protocol by the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Messages are missing before this one.
    Gap {
        /// The number that was expected.
        expected: Sequence,
        /// The number that was received.
        got: Sequence,
    },
    /// A message that was never sent was acknowledged.
    NeverSent {
        /// The number that was acknowledged.
        acknowledged: Sequence,
        /// The last number that was sent.
        sent: Sequence,
    },
    /// A message was received after the end of its direction.
    AfterEnd,
    /// A handshake frame was unexpected, missing or invalid.
    Handshake,
    /// A frame cannot be decoded.
    Malformed(Malformed),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { expected, got } => {
                write!(f, "expected message {expected}, received message {got}")
            }
            Self::NeverSent { acknowledged, sent } => {
                write!(
                    f,
                    "message {acknowledged} was acknowledged, but {sent} was the last one sent"
                )
            }
            Self::AfterEnd => f.write_str("a message was received after the end of its direction"),
            Self::Handshake => f.write_str("an invalid or unexpected handshake frame"),
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
