//! Options of a line, shared by all commands that open one.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as Group;
use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE};
use tieline_transport::{
    Address, ChannelConfig, Endpoint, Hold, MemoryBudget, Options, ProcessAccount, StopTimeouts,
};

use super::logging::Logging;
use super::memory::Memory;
use super::system::System;
use super::values::{message_size, stall_timeout};
use crate::children::{self, StderrMode};
use crate::report::Failure;
use crate::signals::Signals;

/// Options of a line, and the file that records it.
#[derive(Group)]
pub(crate) struct Line {
    #[command(flatten)]
    reach: Reach,
    /// Append every message, with its time and direction, to FILE as NDJSON
    #[arg(long, value_name = "FILE")]
    pub(crate) tap: Option<PathBuf>,
}

impl Line {
    pub(crate) fn options(&self, logging: &Logging) -> Options {
        self.reach.options(logging)
    }

    /// Returns how programs' output on stderr is handled.
    pub(crate) fn stderr(&self, logging: &Logging) -> StderrMode {
        self.reach.stderr(logging)
    }

    /// Returns the account of the programs that these options start.
    pub(crate) fn account(&self) -> &ProcessAccount {
        &self.reach.account
    }

    /// Returns the memory budget that all lines share.
    pub(crate) fn memory(&self) -> MemoryBudget {
        self.reach.memory.budget()
    }

    pub(crate) fn is_isolated(&self) -> bool {
        self.reach.hold() == Hold::Isolated
    }

    /// Stops the command when the process of `--with-parent` exits.
    pub(crate) fn end_with_parent(&self, signals: &Signals) -> io::Result<()> {
        self.reach.end_with_parent(signals)
    }

    pub(crate) fn for_programs_at(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        self.reach.for_programs_at(endpoints)
    }

    /// Returns how long messages in flight may be delivered after a stop. If --stop-timeout exceeds its
    /// default, the excess is added.
    pub(crate) fn grace(&self) -> Duration {
        let usual = StopTimeouts::default().terminate;
        tieline_gateway::Bridge::default().grace
            + self.reach.system.stop_timeout.saturating_sub(usual)
    }
}

/// Options of a line.
#[derive(Group)]
pub(crate) struct Reach {
    /// Refuse messages larger than SIZE, for example 512KiB or 64MiB
    ///
    /// With the framing lines, a larger message is discarded and the next one is delivered. With another
    /// framing, and on a WebSocket, it ends the line.
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MAX_MESSAGE, value_parser = message_size)]
    #[arg(hide_short_help = true)]
    pub(crate) max_message: ByteSize,
    /// End the line of a client that has read nothing for TIME, for example 10s or 5m
    ///
    /// With `connect`, `call` and `bridge`, the client is the process that reads stdout.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = stall_timeout)]
    #[arg(hide_short_help = true)]
    pub(crate) stall_timeout: Duration,
    /// End the line of a program or server that has read nothing for TIME
    ///
    /// A server that tieline connects to has this limit, too, and not that of --stall-timeout. Until a
    /// program reads its first byte, the limit is 10 minutes, or TIME if that is longer.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = stall_timeout)]
    #[arg(hide_short_help = true)]
    pub(crate) program_stall_timeout: Duration,
    /// Pass on what programs write to stderr (passthrough), log it (log), or discard it (off)
    /// [default: passthrough on a terminal, log elsewhere, off with --quiet]
    ///
    /// passthrough writes it to tieline's stderr line by line, after the program's name and process ID
    /// if several programs are running. On a terminal, control characters are escaped. log writes a log
    /// line for each line, at most 100 per second. With any MODE, the error for a failed program shows
    /// its last lines on stderr.
    #[arg(long, value_name = "MODE", hide_possible_values = true)]
    stderr: Option<StderrMode>,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    system: System,
    #[arg(skip)]
    account: ProcessAccount,
}

impl Reach {
    pub(crate) fn stderr(&self, logging: &Logging) -> StderrMode {
        self.stderr.unwrap_or_else(|| logging.usual_stderr_mode())
    }

    fn hold(&self) -> Hold {
        self.system.hold()
    }

    /// Stops the command when the process of `--with-parent` exits.
    pub(crate) fn end_with_parent(&self, signals: &Signals) -> io::Result<()> {
        signals.end_with(self.system.with_parent())
    }

    /// Refuses `--isolate` and `--stderr` when no program is started.
    pub(crate) fn for_programs_at(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        let starts = endpoints.iter().any(|it| matches!(it.address(), Address::Exec(_)));
        if self.hold() == Hold::Isolated && !starts {
            let why = "--isolate has no effect: it needs an exec: endpoint, and there is none";
            return Err(Failure::Usage(why.into()));
        }
        if self.stderr.is_some() && !starts {
            let why = "--stderr has no effect: it needs an exec: endpoint, and there is none";
            return Err(Failure::Usage(why.into()));
        }
        Ok(())
    }

    pub(crate) fn options(&self, logging: &Logging) -> Options {
        let mut options = Options {
            channel: ChannelConfig {
                max_message: self.max_message,
                stall_timeout: self.stall_timeout,
                program_stall_timeout: self.program_stall_timeout,
                ..ChannelConfig::default()
            },
            memory: Some(self.memory.budget()),
            guardian: Some(children::guardian().with_hold(self.hold())),
            account: Some(self.account.clone()),
            stderr: children::stderr(self.stderr(logging), &self.account),
            stop: StopTimeouts { terminate: self.system.stop_timeout, ..StopTimeouts::default() },
            ..children::options()
        };
        self.system.set(&mut options);
        options
    }
}
