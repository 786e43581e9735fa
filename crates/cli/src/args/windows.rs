//! What only Windows lets a line be told.

use std::time::Duration;

use clap::Args as Group;
use tieline_transport::{Hold, Options};

use super::values::up_to_a_day;
use crate::report::Failure;

#[derive(Group)]
pub(super) struct System {
    /// How long a program may take to end after CTRL_BREAK, before it is killed, like 500ms, 10s or 5m;
    /// at most a day. CTRL_BREAK comes 2 s after the end of its input, and only where there is a console
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = up_to_a_day)]
    pub(super) stop_timeout: Duration,
    /// Who may connect to a pipe that is listened on, as a security descriptor in SDDL [default: this
    /// user alone]
    #[arg(long, value_name = "SDDL")]
    pipe_security: Option<String>,
    #[arg(long, hide = true, value_parser = no_such_users)]
    allow_uid: Vec<u32>,
}

/// Unix's options for sockets, which exist only to say what to use instead.
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
    Err("Windows has other users and permissions; say who may connect to a pipe with --pipe-security".into())
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
