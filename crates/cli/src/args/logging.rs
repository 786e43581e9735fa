//! Logging options.

use std::io::IsTerminal;

use clap::Args as Group;

use crate::children::StderrMode;
use crate::report::LogFormat;

#[derive(Group)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Log more: -v for debug messages, -vv for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log only errors and failures of programs
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Format of log lines: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    #[arg(hide_possible_values = true)]
    #[arg(hide_short_help = true)]
    pub(crate) log_format: LogFormat,
}

impl Logging {
    /// Returns whether only log lines may go to stderr: no hints, no start-up text.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet || self.log_format == LogFormat::Json
    }

    /// Returns how programs' output on stderr is handled if no option says so.
    pub(crate) fn usual_stderr_mode(&self) -> StderrMode {
        match self.log_format {
            _ if self.quiet => StderrMode::Off,
            LogFormat::Text if std::io::stderr().is_terminal() => StderrMode::Passthrough,
            // In the log of a service, each line then has its time and program.
            _ => StderrMode::Log,
        }
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
