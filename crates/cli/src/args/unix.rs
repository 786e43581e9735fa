//! What only Unix lets a line be told.

use std::time::Duration;

use clap::Args as Group;
use tieline_transport::{Hold, Options};

use super::values::up_to_a_day;
use crate::signals::parent::Watched;

#[derive(Group)]
pub(super) struct System {
    /// Accept processes of this user on the other end, beside our own and root's; may be given
    /// several times
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
    /// How long a program may take to end after SIGTERM, before SIGKILL, like 500ms, 10s or 5m; at
    /// most a day. SIGTERM comes 2 s after the end of its input
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = up_to_a_day)]
    pub(super) stop_timeout: Duration,
    /// Start programs in a PID namespace of their own, which the kernel ends as a whole: nothing is
    /// left even if tieline and the guardian of a program are killed at the same moment. Fails where
    /// namespaces are not allowed
    #[cfg(target_os = "linux")]
    #[arg(long)]
    isolate: bool,
    /// End, as after SIGTERM, when the process that started tieline ends, or the one with this PID. Use it
    /// when stdin and stdout cannot tell, because other processes hold them open
    #[arg(long, value_name = "PID", num_args = 0..=1, require_equals = true,
          default_missing_value = "parent")]
    with_parent: Option<Watched>,
    /// How a guardian holds what comes of its program: for tests
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "HOLD", default_value = "auto", hide = true, value_parser = hold)]
    hold: Hold,
}

impl System {
    #[cfg(target_os = "linux")]
    pub(super) fn hold(&self) -> Hold {
        if self.isolate { Hold::Isolated } else { self.hold }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn hold(&self) -> Hold {
        Hold::Auto
    }

    pub(super) fn with_parent(&self) -> Option<Watched> {
        self.with_parent
    }

    pub(super) fn set(&self, options: &mut Options) {
        options.allow_uids.clone_from(&self.allow_uid);
    }
}

#[cfg(target_os = "linux")]
fn hold(name: &str) -> Result<Hold, String> {
    match name {
        "auto" => Ok(Hold::Auto),
        "descent" => Ok(Hold::Descent),
        "cgroup" => Ok(Hold::Cgroup),
        _ => Err("there are auto, descent and cgroup".into()),
    }
}
