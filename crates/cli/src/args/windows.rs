//! What only Windows lets a line be told.

use std::time::Duration;

use clap::Args as Group;
use tieline_transport::{Hold, Options};

use super::values::up_to_a_day;

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
    }
}
