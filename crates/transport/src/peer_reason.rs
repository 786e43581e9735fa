//! The reason that the other side gives when it closes.

use std::fmt;

/// The reason why the other side closed a line, in the terms of its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerReason {
    /// The protocol's code, such as a WebSocket's close code.
    pub code: u16,
    /// The meaning that the protocol gives to the code, if it is known.
    pub meaning: Option<&'static str>,
    /// The other side's explanation in plain text, which may be empty. It is not trusted: `Display`
    /// escapes it.
    pub text: String,
    /// True if there was no failure, for example if a web page was closed or a server is shutting down.
    pub is_clean: bool,
}

impl PeerReason {
    /// Creates a reason that is not [clean](Self::is_clean).
    pub fn new(code: u16, meaning: Option<&'static str>, text: impl Into<String>) -> Self {
        Self { code, meaning, text: text.into(), is_clean: false }
    }

    /// Returns the same reason with another value of [`is_clean`](Self::is_clean).
    #[must_use]
    pub fn with_clean(self, is_clean: bool) -> Self {
        Self { is_clean, ..self }
    }
}

impl fmt::Display for PeerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning {
            Some(meaning) => write!(f, "{} ({meaning})", self.code)?,
            None => self.code.fmt(f)?,
        }
        match self.text.as_str() {
            "" => Ok(()),
            text => write!(f, ": {}", text.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_printed_without_control_characters() {
        for (reason, text) in [
            (PeerReason::new(1001, Some("going away"), ""), "1001 (going away)"),
            (PeerReason::new(4321, None, "as\nasked"), "4321: as\\nasked"),
            (
                PeerReason::new(1013, Some("try again later"), "full"),
                "1013 (try again later): full",
            ),
        ] {
            assert_eq!(reason.to_string(), text);
        }
    }
}
