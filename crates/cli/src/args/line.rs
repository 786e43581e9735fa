//! What is said of a line, whatever is done with it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as Group;
use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE};
use tieline_transport::{
    Address, ChannelConfig, Endpoint, Hold, MemoryBudget, Options, StopTimeouts,
};

use super::memory::Memory;
use super::system::System;
use super::values::{message_size, stall_timeout};
use crate::children;
use crate::report::Failure;
use crate::signals::Signals;

/// What every line can be told, and where it is recorded.
#[derive(Group)]
pub(crate) struct Line {
    #[command(flatten)]
    reach: Reach,
    /// Record every message, with its time and direction, in this file as NDJSON
    #[arg(long, value_name = "FILE")]
    pub(crate) tap: Option<PathBuf>,
}

impl Line {
    pub(crate) fn options(&self) -> Options {
        self.reach.options()
    }

    /// What counts the memory that all lines hold.
    pub(crate) fn memory(&self) -> MemoryBudget {
        self.reach.memory.budget()
    }

    pub(crate) fn is_isolated(&self) -> bool {
        self.reach.hold() == Hold::Isolated
    }

    /// Lets the line end with the process that `--with-parent` names.
    pub(crate) fn end_with_parent(&self, signals: &Signals) -> io::Result<()> {
        self.reach.end_with_parent(signals)
    }

    pub(crate) fn for_programs_at(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        self.reach.for_programs_at(endpoints)
    }

    /// How long what is under way may be handed over: the program's time to end is not cut short.
    pub(crate) fn grace(&self) -> Duration {
        let usual = StopTimeouts::default().terminate;
        tieline_gateway::Bridge::default().grace
            + self.reach.system.stop_timeout.saturating_sub(usual)
    }
}

/// What every line can be told.
#[derive(Group)]
pub(crate) struct Reach {
    /// The largest message, like 512KiB or 64MiB
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MAX_MESSAGE, value_parser = message_size)]
    pub(crate) max_message: ByteSize,
    /// End the line of a client that has taken nothing for TIME, like 10s or 5m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = stall_timeout)]
    pub(crate) stall_timeout: Duration,
    /// End the line of a program, or of a server, that has read nothing for TIME. Until a program reads its first byte
    /// the limit is 10 minutes, or TIME if that is longer
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = stall_timeout)]
    pub(crate) program_stall_timeout: Duration,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    system: System,
}

impl Reach {
    fn hold(&self) -> Hold {
        self.system.hold()
    }

    /// Lets the line end with the process that `--with-parent` names.
    pub(crate) fn end_with_parent(&self, signals: &Signals) -> io::Result<()> {
        signals.end_with(self.system.with_parent())
    }

    /// Isolation is for a program that is started here: refused where there is none.
    pub(crate) fn for_programs_at(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        let starts = endpoints.iter().any(|it| matches!(it.address(), Address::Exec(_)));
        if self.hold() == Hold::Isolated && !starts {
            let why =
                "--isolate is for a program that is started here, and there is no exec: endpoint";
            return Err(Failure::Usage(why.into()));
        }
        Ok(())
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options {
            channel: ChannelConfig {
                max_message: self.max_message,
                stall_timeout: self.stall_timeout,
                program_stall_timeout: self.program_stall_timeout,
                ..ChannelConfig::default()
            },
            memory: Some(self.memory.budget()),
            guardian: Some(children::guardian().with_hold(self.hold())),
            stop: StopTimeouts { terminate: self.system.stop_timeout, ..StopTimeouts::default() },
            ..children::options()
        };
        self.system.set(&mut options);
        options
    }
}
