//! What a person reads when something failed.

use std::error::Error;
use std::fmt;

use tieline_transport::TransportError;

/// Why the program ends with status 1.
pub(crate) enum Failure {
    /// A transport could not do something.
    Transport(TransportError),
    /// Anything else, said in one sentence.
    Said(String),
}

impl Failure {
    pub(crate) fn print(&self) {
        match self {
            Self::Transport(error) => {
                eprintln!("tieline: {error}");
                let mut cause = error.source();
                while let Some(error) = cause {
                    eprintln!("  because: {error}");
                    cause = error.source();
                }
                if let Some(hint) = error.hint() {
                    eprintln!("  hint: {hint}");
                }
            }
            Self::Said(sentence) => eprintln!("tieline: {sentence}"),
        }
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
