//! What a person reads when something failed.

use std::error::Error;
use std::fmt;
use std::io::Write;

use tieline_transport::TransportError;

/// Why the program ends with status 1.
pub(crate) enum Failure {
    /// A transport could not do something.
    Transport(TransportError),
    /// Anything else, said in one sentence.
    Said(String),
}

impl Failure {
    /// Says it on stderr, where somebody may be reading.
    pub(crate) fn print(&self) {
        let _ = std::io::stderr().write_all(self.text().as_bytes());
    }

    fn text(&self) -> String {
        let error = match self {
            Self::Said(sentence) => return format!("tieline: {sentence}\n"),
            Self::Transport(error) => error,
        };
        let mut text = format!("tieline: {error}\n");
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!("  because: {error}\n"));
            cause = error.source();
        }
        if let Some(hint) = error.hint() {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        text
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Said(error.to_string())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Said(sentence) => sentence.fmt(f),
        }
    }
}
