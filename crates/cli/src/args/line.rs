//! What is said of a line, whatever is done with it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as Group;
use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE};
use tieline_transport::{Address, ChannelConfig, Endpoint, Guardian, Hold, Options, StopTimeouts};

#[cfg(target_os = "linux")]
use super::values::hold;
use super::values::{duration, up_to_a_day};
use crate::report::Failure;

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

    pub(crate) fn is_isolated(&self) -> bool {
        self.reach.hold() == Hold::Isolated
    }

    pub(crate) fn for_programs_at(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        self.reach.for_programs_at(endpoints)
    }

    /// How long what is under way may be handed over: the program's time to end is not cut short.
    pub(crate) fn grace(&self) -> Duration {
        let usual = StopTimeouts::default().terminate;
        tieline_gateway::Bridge::default().grace + self.reach.stop_timeout.saturating_sub(usual)
    }
}

/// What every line can be told.
#[derive(Group)]
pub(crate) struct Reach {
    /// The largest message, like 512KiB or 64MiB
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MAX_MESSAGE)]
    pub(crate) max_message: ByteSize,
    /// End a line whose reader has taken nothing for so long, like 10s or 5m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) stall_timeout: Duration,
    /// Accept processes of this user on the other end, beside our own and root's; may be given
    /// several times
    #[cfg(unix)]
    #[arg(long, value_name = "UID")]
    pub(crate) allow_uid: Vec<u32>,
    /// How long a program may take to end after SIGTERM, before SIGKILL, like 500ms, 10s or 5m; at
    /// most a day. SIGTERM comes 2 s after the end of its input
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = up_to_a_day)]
    pub(crate) stop_timeout: Duration,
    /// Start programs in a PID namespace of their own, which the kernel ends as a whole: nothing is
    /// left even if tieline and the guardian of a program are killed at the same moment. Fails where
    /// namespaces are not allowed
    #[cfg(target_os = "linux")]
    #[arg(long)]
    pub(crate) isolate: bool,
    /// How a guardian holds what comes of its program: for tests
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "HOLD", default_value = "auto", hide = true, value_parser = hold)]
    hold: Hold,
    /// Who may connect to a pipe that is listened on, as a security descriptor in SDDL [default: this
    /// user alone]
    #[cfg(windows)]
    #[arg(long, value_name = "SDDL")]
    pub(crate) pipe_security: Option<String>,
}

impl Reach {
    #[cfg(target_os = "linux")]
    fn hold(&self) -> Hold {
        if self.isolate { Hold::Isolated } else { self.hold }
    }

    #[cfg(not(target_os = "linux"))]
    fn hold(&self) -> Hold {
        Hold::Auto
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
        Options {
            channel: ChannelConfig {
                max_message: self.max_message,
                stall_timeout: self.stall_timeout,
                ..ChannelConfig::default()
            },
            #[cfg(unix)]
            allow_uids: self.allow_uid.clone(),
            #[cfg(windows)]
            pipe_security: self.pipe_security.clone(),
            // As `main` did first of all.
            guardian: Some(Guardian::of_this_program().with_hold(self.hold())),
            stop: StopTimeouts { terminate: self.stop_timeout, ..StopTimeouts::default() },
            ..Options::default()
        }
    }
}
