//! The errors after which the messages of a byte stream can no longer be found.

use std::fmt;

use super::{FramingKind, MAX_HEADER_BLOCK};
use crate::byte_size::ByteSize;
use crate::printable::Count;
use crate::session::Refusal;
use crate::websocket::Violation;

/// The error of a byte stream in which the next message can no longer be found. It ends the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer announced a message above the limit.
    Oversize {
        /// The announced length in bytes.
        length: u64,
        /// The limit on the size of a message.
        limit: ByteSize,
    },
    /// A header block longer than [`MAX_HEADER_BLOCK`].
    HeaderBlockOversize,
    /// A header line that is not `Name: value` ending with CR LF.
    MalformedHeader,
    /// A header block without `Content-Length`.
    MissingContentLength,
    /// A header block with more than one `Content-Length`.
    DuplicateContentLength,
    /// A `Content-Length` that is not a plain decimal number below 2⁶⁴.
    InvalidContentLength,
    /// The peer's first bytes are in another framing, or they refuse the framing of this side.
    OtherFraming {
        /// The peer's framing. `Lines` stands for any text without headers.
        theirs: FramingKind,
        /// The framing of this line.
        ours: FramingKind,
    },
    /// The peer requests a session, but this line carries none.
    UnexpectedGreeting,
    /// The peer's first bytes are a TLS record.
    UnexpectedTls,
    /// The peer's first bytes are an HTTP request or response.
    UnexpectedHttp,
    /// The peer accepts only sessions, and this line is not a session.
    UnexpectedSession,
    /// The peer does not accept processes of this process's user.
    UserNotAccepted,
    /// The peer refuses this client for another reason.
    Refused(Refusal),
    /// The first message of a client that is not authenticated is not JSON.
    FirstNotJson,
    /// The peer violated the WebSocket protocol.
    WebSocket(Violation),
}

impl FrameError {
    /// Returns true if the peer has explained why it does not serve this client.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::UserNotAccepted | Self::Refused(_) | Self::UnexpectedSession | Self::FirstNotJson
        )
    }

    /// Returns true if every line to the other side ends like this until one of the sides is changed: the other
    /// side does not serve this client, or uses another framing or protocol.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused(refusal) => !refusal.may_pass(),
            Self::OtherFraming { .. }
            | Self::UnexpectedGreeting
            | Self::UnexpectedTls
            | Self::UnexpectedHttp
            | Self::UnexpectedSession
            | Self::UserNotAccepted
            | Self::FirstNotJson => true,
            _ => false,
        }
    }

    /// Returns the error of a client that is refused although it has not requested a session. `ours` is
    /// the client's framing.
    pub(super) fn of_refusal(refusal: Refusal, ours: FramingKind) -> Self {
        let other = |theirs| Self::OtherFraming { theirs, ours };
        match refusal {
            Refusal::Unasked | Refusal::Malformed => Self::UnexpectedSession,
            Refusal::User => Self::UserNotAccepted,
            Refusal::UsesLines => other(FramingKind::Lines),
            Refusal::UsesContentLength => other(FramingKind::ContentLength),
            Refusal::UsesLengthPrefix => other(FramingKind::LengthPrefix),
            Refusal::NotJson => Self::FirstNotJson,
            refusal => Self::Refused(refusal),
        }
    }
}

impl From<Violation> for FrameError {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Oversize { length, limit } => Self::Oversize { length, limit },
            other => Self::WebSocket(other),
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oversize { length, limit } => {
                write!(
                    f,
                    "the peer announced a message of {}, above the limit of {limit}",
                    Count(*length, "byte")
                )
            }
            Self::HeaderBlockOversize => {
                write!(f, "a header block is longer than {MAX_HEADER_BLOCK}")
            }
            Self::MalformedHeader => {
                f.write_str("a header line is not `Name: value` ending with CR LF")
            }
            Self::MissingContentLength => f.write_str("a header block has no Content-Length"),
            Self::DuplicateContentLength => {
                f.write_str("a header block has more than one Content-Length")
            }
            Self::InvalidContentLength => {
                f.write_str("a Content-Length is not a plain decimal number below 2^64")
            }
            Self::OtherFraming { theirs, ours } => {
                write!(f, "the other side uses the framing {theirs}, but this line uses {ours}; ")?;
                match (theirs, ours) {
                    (FramingKind::Lines, ours) => write!(
                        f,
                        "leave out {ours}+ in front of the endpoint, or start the server with --listen \
                         {ours}+unix:PATH"
                    )?,
                    (theirs, FramingKind::Lines) => write!(
                        f,
                        "put {theirs}+ in front of the endpoint, as in {theirs}+unix:PATH"
                    )?,
                    (theirs, ours) => write!(
                        f,
                        "put {theirs}+ in front of the endpoint in place of {ours}+, as in \
                         {theirs}+unix:PATH"
                    )?,
                }
                write!(f, " (for the program of `serve`: --framing {theirs})")
            }
            Self::UnexpectedGreeting => f.write_str(
                "the other side asks for a session, but this line has none; leave out resume+ and --resume \
                 there, or start the server with --resume",
            ),
            Self::UnexpectedTls => f.write_str(
                "the other side uses TLS, but this line does not; a client writes wss:// or https:// in front \
                 of the address of a web server, and a server for web clients listens on https://",
            ),
            Self::UnexpectedHttp => f.write_str(
                "the other side uses HTTP, but this line does not; a client writes ws:// or http:// in front \
                 of the address of a web server, and a server for web clients listens on http://",
            ),
            Self::UnexpectedSession => f.write_str(
                "the other side accepts only sessions; put resume+ in front of the endpoint, or add --resume",
            ),
            Self::UserNotAccepted => {
                f.write_str("the other side does not accept processes of this user")
            }
            Self::Refused(refusal) => write!(f, "the other side refuses this client: {refusal}"),
            Self::FirstNotJson => f.write_str(
                "the first message is not JSON, which is required of clients that are not authenticated",
            ),
            Self::WebSocket(violation) => violation.fmt(f),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_permanent_unless_the_server_is_only_busy() {
        for (refusal, is_permanent) in [
            (Refusal::Full, false),
            (Refusal::Draining, false),
            (Refusal::Version, true),
            (Refusal::Unasked, true),
            (Refusal::User, true),
            (Refusal::UsesLines, true),
            (Refusal::UsesContentLength, true),
            (Refusal::UsesLengthPrefix, true),
            (Refusal::NoSessions, true),
            (Refusal::NotJson, true),
            (Refusal::Other(99), true),
        ] {
            let error = FrameError::of_refusal(refusal, FramingKind::Lines);
            assert_eq!(error.is_permanent(), is_permanent, "{refusal}");
        }
        assert!(!FrameError::MalformedHeader.is_permanent());
    }
}
