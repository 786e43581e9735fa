//! Close frames.

use std::fmt;

use super::Violation;
use super::header::MAX_CONTROL;
use crate::printable::truncated;

/// A close status code (RFC 6455, section 7.4, and the IANA registry of close codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// Normal closure.
    pub const NORMAL: Self = Self(1000);
    /// The server is shutting down, or the browser has left the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer violated the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The peer sent a type of message that is not accepted.
    pub const UNSUPPORTED: Self = Self(1003);
    /// The peer sent text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// The peer violated a policy of the side that closes.
    pub const POLICY: Self = Self(1008);
    /// The peer sent a message above the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// The side that closes had an internal error.
    pub const INTERNAL: Self = Self(1011);
    /// The peer should try again later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// Creates a code from its number. Returns `None` if a close frame must not carry it.
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// Returns the code's number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns the registered meaning of the code, if it is known.
    pub const fn meaning(self) -> Option<&'static str> {
        Some(match self.0 {
            1000 => "normal",
            1001 => "going away",
            1002 => "protocol error",
            1003 => "unsupported data",
            1007 => "invalid payload",
            1008 => "policy violation",
            1009 => "message too big",
            1010 => "extension missing",
            1011 => "internal error",
            1012 => "restart",
            1013 => "try again later",
            1014 => "bad gateway",
            _ => return None,
        })
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning() {
            Some(meaning) => write!(f, "{} ({meaning})", self.0),
            None => self.0.fmt(f),
        }
    }
}

/// The payload of a close frame: the reason why a side closed the WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The code.
    pub code: CloseCode,
    /// The reason as readable text, which may be empty. At most 123 bytes of it are sent.
    pub text: String,
}

impl Close {
    /// Creates a close reason without text.
    pub fn new(code: CloseCode) -> Self {
        Self { code, text: String::new() }
    }

    /// Creates a close reason with text, of which at most 123 bytes are sent.
    pub fn because(code: CloseCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn read(payload: &[u8]) -> Result<Option<Self>, Violation> {
        if payload.is_empty() {
            return Ok(None);
        }
        let (code, text) = payload.split_first_chunk().ok_or(Violation::MalformedClose)?;
        let code = CloseCode::new(u16::from_be_bytes(*code)).ok_or(Violation::MalformedClose)?;
        let text = std::str::from_utf8(text).map_err(|_| Violation::NotUtf8)?;
        Ok(Some(Self { code, text: text.to_owned() }))
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        let text = truncated(&self.text, MAX_CONTROL - 2);
        [&self.code.0.to_be_bytes()[..], text.as_bytes()].concat()
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.as_str() {
            "" => self.code.fmt(f),
            text => write!(f, "{}: {}", self.code, text.escape_debug()),
        }
    }
}

impl Violation {
    /// Returns the code of the close frame that reports this violation to the peer.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::NotUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::Oversize { .. } => CloseCode::TOO_BIG,
            Self::TooManyFrames => CloseCode::POLICY,
            Self::Unsupported => CloseCode::UNSUPPORTED,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}
