//! Failures of commands, and their output.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::ValueEnum;
use serde_json::Value;
use tieline_transport::{ChildExit, ErrorKind, TransportError};

use crate::children::StderrMode;
use crate::terminal;

/// The format of log lines and of a command's error.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Readable text
    Text,
    /// One JSON object per line
    Json,
}

/// The reason why a command failed.
pub(crate) enum Failure {
    /// A transport error.
    Transport(TransportError),
    /// A usage error: the command line can never work.
    Usage(String),
    /// Any other failure.
    Other {
        /// One sentence that says what failed, on what, and why.
        sentence: String,
        /// The last lines that a failed program wrote to stderr.
        stderr: Vec<String>,
        /// What to do about the failure.
        hint: Option<String>,
    },
}

impl Failure {
    /// Returns a failure that is neither a transport error nor a usage error, without a hint.
    pub(crate) fn other(sentence: impl Into<String>) -> Self {
        Self::Other { sentence: sentence.into(), stderr: Vec::new(), hint: None }
    }

    /// Returns the sentence that says what failed, on what, and why, with the error of the system if there is one.
    #[cfg(unix)]
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Transport(error) => match error.source() {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            },
            Self::Usage(sentence) | Self::Other { sentence, .. } => sentence.clone(),
        }
    }

    /// Returns what to do about the failure.
    #[cfg(unix)]
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Transport(error) => error.hint(),
            Self::Other { hint, .. } => hint.as_deref(),
            Self::Usage(_) => None,
        }
    }

    /// Prints the failure on stderr.
    pub(crate) fn print(&self, format: LogFormat) {
        let text = match format {
            LogFormat::Text => self.text(),
            LogFormat::Json => self.json(),
        };
        crate::stderr::say(text.as_bytes());
    }

    /// Returns status 2 for usage errors, and 1 otherwise.
    pub(crate) fn status(&self) -> ExitCode {
        let error = match self {
            Self::Transport(error) => error,
            Self::Usage(_) => return ExitCode::from(2),
            Self::Other { .. } => return ExitCode::FAILURE,
        };
        match error.kind() {
            ErrorKind::InvalidConfig(_)
            | ErrorKind::UnknownScheme { .. }
            | ErrorKind::UnsupportedPlatform
            | ErrorKind::UnsupportedOperation => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// Formats the failure as one JSON line, like those of the log.
    fn json(&self) -> String {
        let stderr = match self {
            Self::Other { stderr, .. } if !stderr.is_empty() => Some(stderr.join("\n")),
            _ => None,
        };
        let (message, because, hint) = match self {
            Self::Usage(sentence) => (sentence.clone(), None, None),
            Self::Other { sentence, hint, .. } => (sentence.clone(), None, hint.as_deref()),
            Self::Transport(error) => {
                let because = error.source().map(ToString::to_string);
                (error.to_string(), because, error.hint())
            }
        };
        let members = [
            ("message", message.into()),
            ("because", because.into()),
            ("stderr", stderr.into()),
            ("hint", hint.into()),
        ];
        json_line("ERROR", members)
    }

    /// Formats the failure as text. Each line is escaped, because it may quote the other side and be
    /// written to a terminal.
    fn text(&self) -> String {
        let mut lines = match self {
            Self::Usage(sentence) => vec![format!("tieline: {sentence}")],
            Self::Other { sentence, stderr, hint } => {
                let mut lines = vec![format!("tieline: {sentence}")];
                match stderr.as_slice() {
                    [] => {}
                    [line] => lines.push(format!("  last line on stderr: {}", line.trim_start())),
                    several => {
                        lines.push("  last lines on stderr:".into());
                        lines.extend(several.iter().map(|line| format!("    {line}")));
                    }
                }
                lines.extend(hint.iter().map(|hint| format!("  hint: {hint}")));
                lines
            }
            Self::Transport(error) => vec![format!("tieline: {error}")],
        };
        if let Self::Transport(error) = self {
            let mut cause = error.source();
            while let Some(error) = cause {
                lines.push(format!("  because: {error}"));
                cause = error.source();
            }
            lines.extend(error.hint().map(|hint| format!("  hint: {hint}")));
        }
        lines.iter().map(|line| terminal::line(line) + "\n").collect()
    }
}

/// Returns the last lines of a failed program for the error of a command. Returns none if they were just
/// passed on to stderr.
pub(crate) fn last_lines(exit: Option<&ChildExit>, mode: StderrMode) -> Vec<String> {
    let is_shown = mode == StderrMode::Passthrough;
    exit.filter(|_| !is_shown).map_or_else(Vec::new, ChildExit::last_lines)
}

/// Formats these members as a line of the JSON log.
pub(crate) fn json_line(
    level: &str,
    members: impl IntoIterator<Item = (&'static str, Value)>,
) -> String {
    let now = tieline_gateway::printable(SystemTime::now());
    let timestamp = humantime::format_rfc3339_micros(now).to_string();
    let first = [("timestamp", timestamp.into()), ("level", level.into())];
    let line: Value = first.into_iter().chain(members).collect();
    terminal::line(&line.to_string()) + "\n"
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self::other(sentence)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::other(error.to_string())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Usage(sentence) | Self::Other { sentence, .. } => sentence.fmt(f),
        }
    }
}
