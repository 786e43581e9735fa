//! What is said about it all, and how.

use clap::{Args as Group, ValueEnum};

#[derive(Group)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// How log lines look: text for people, json for programs
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub(crate) log_format: LogFormat,
}

impl Logging {
    /// Nothing but log lines goes to stderr: no advice, no invitation.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet || self.log_format == LogFormat::Json
    }

    pub(crate) fn level(&self) -> tracing::Level {
        match (self.quiet, self.verbose) {
            (true, _) => tracing::Level::ERROR,
            (false, 0) => tracing::Level::INFO,
            (false, 1) => tracing::Level::DEBUG,
            (false, _) => tracing::Level::TRACE,
        }
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For programs, an object a line
    Json,
}
