//! Options of a line that exist only on Windows.

use std::time::Duration;

use clap::Args as Group;
use tieline_transport::{Hold, Options};

use super::values::up_to_a_day;
use crate::report::Failure;

#[derive(Group)]
pub(super) struct System {
    /// Give a program TIME to exit after CTRL_BREAK before it is killed, for example 500ms, 10s or 5m
    ///
    /// CTRL_BREAK is sent 2 s after the end of the program's input, and only if there is a console. TIME
    /// is at most a day.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = up_to_a_day)]
    #[arg(hide_short_help = true)]
    pub(super) stop_timeout: Duration,
    /// Security descriptor, in SDDL, of pipes that are listened on [default: this user only]
    #[arg(long, value_name = "SDDL")]
    #[arg(hide_short_help = true)]
    pipe_security: Option<String>,
    #[arg(long, hide = true, value_parser = no_such_users)]
    allow_uid: Vec<u32>,
}

/// Options for Unix sockets, which exist here only to suggest the Windows option.
#[derive(Group)]
pub(crate) struct Sockets {
    #[arg(long, hide = true, value_parser = no_such_users)]
    socket_mode: Option<u32>,
    #[arg(long, hide = true, value_parser = no_such_users)]
    socket_group: Option<u32>,
}

impl Sockets {
    pub(crate) fn set(&self, options: &mut Options, _: bool) -> Result<(), Failure> {
        (options.socket_mode, options.socket_group) = (self.socket_mode, self.socket_group);
        Ok(())
    }
}

fn no_such_users(_: &str) -> Result<u32, String> {
    Err("not available on Windows; use --pipe-security to allow other users to connect".into())
}

impl System {
    pub(super) fn hold(&self) -> Hold {
        Hold::Auto
    }

    pub(super) fn with_parent(&self) -> Option<std::convert::Infallible> {
        None
    }

    pub(super) fn set(&self, options: &mut Options) {
        options.pipe_security.clone_from(&self.pipe_security);
        options.allow_uids.clone_from(&self.allow_uid);
    }
}
