//! Options of a line that exist only on Unix.

use std::time::Duration;

use clap::Args as Group;
use tieline_transport::{Hold, Options};

use super::values::up_to_a_day;
use crate::report::Failure;
use crate::signals::parent::Watched;

#[derive(Group)]
pub(super) struct System {
    /// Accept peers that run as UID, besides the current user and root; may be repeated
    ///
    /// Sockets are created with mode 666, unless --socket-mode says otherwise, so that these users can
    /// connect; peers of other users are refused.
    #[arg(long, value_name = "UID")]
    #[arg(hide_short_help = true)]
    allow_uid: Vec<u32>,
    /// Give a program TIME to exit between SIGTERM and SIGKILL, for example 500ms, 10s or 5m
    ///
    /// SIGTERM is sent 2 s after the end of the program's input. TIME is at most a day.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = up_to_a_day)]
    #[arg(hide_short_help = true)]
    pub(super) stop_timeout: Duration,
    /// Start each program in its own PID namespace, which the kernel ends as a whole
    ///
    /// No process is left even if tieline and the program's guardian are killed at the same moment. This
    /// fails where namespaces are not allowed.
    #[cfg(target_os = "linux")]
    #[arg(long)]
    #[arg(hide_short_help = true)]
    isolate: bool,
    /// Stop, as on SIGTERM, when the process PID ends [default PID: the process that started tieline]
    ///
    /// Use it if stdin may stay open when that process ends because other processes hold it open.
    #[arg(long, value_name = "PID", num_args = 0..=1, require_equals = true,
          default_missing_value = "parent")]
    #[arg(hide_short_help = true)]
    with_parent: Option<Watched>,
    /// How a guardian contains its program's descendants (for tests)
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

/// Options that say which users may connect to the sockets.
#[derive(Group)]
pub(crate) struct Sockets {
    /// Create Unix sockets with these permission bits, for example 660 [default: 600]
    ///
    /// Every user that these bits allow to connect is accepted, unless another option lists the users. The
    /// default is 660 with --socket-group.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    #[arg(hide_short_help = true)]
    socket_mode: Option<u32>,
    /// Set the group of Unix sockets, by name or number, and let its members connect
    #[arg(long, value_name = "GROUP", value_parser = group)]
    #[arg(hide_short_help = true)]
    socket_group: Option<u32>,
}

impl Sockets {
    /// Sets the options, or refuses them if there is no Unix socket to which they apply.
    pub(crate) fn set(&self, options: &mut Options, has_socket: bool) -> Result<(), Failure> {
        let given = match (self.socket_mode, self.socket_group) {
            (Some(_), _) => "--socket-mode",
            (None, Some(_)) => "--socket-group",
            (None, None) => return Ok(()),
        };
        if !has_socket {
            let why = format!(
                "{given} has no effect: it needs a unix: or http-unix: endpoint to listen on"
            );
            return Err(Failure::Usage(why));
        }
        (options.socket_mode, options.socket_group) = (self.socket_mode, self.socket_group);
        Ok(())
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let is_octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if is_octal => Ok(mode),
        _ => Err("not permission bits; write them in octal as for chmod, for example 660".into()),
    }
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    group_in(&groups, text).ok_or_else(|| {
        "no such group in /etc/group; if it is defined elsewhere, give its number".into()
    })
}

/// Finds a group's number in lines of the form `name:password:number:members`.
fn group_in(groups: &str, name: &str) -> Option<u32> {
    let lines = groups.lines().map(|line| line.splitn(4, ':').collect::<Vec<_>>());
    lines
        .filter_map(|line| match line[..] {
            [this, _, number, ..] if this == name => number.parse().ok(),
            _ => None,
        })
        .next()
}

#[cfg(target_os = "linux")]
fn hold(name: &str) -> Result<Hold, String> {
    match name {
        "auto" => Ok(Hold::Auto),
        "descent" => Ok(Hold::Descent),
        "cgroup" => Ok(Hold::Cgroup),
        _ => Err("use auto, descent or cgroup".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, expected) in [("660", Some(0o660)), ("0666", Some(0o666)), ("700", Some(0o700))]
        {
            assert_eq!(mode(text).ok(), expected);
        }
        for text in ["", "6", "66", "68", "888", "+66", "0o660", "rw-rw----", "00660"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn groups_are_found_by_name_or_number() {
        let groups = "root:x:0:\n# no group\nstaff:x:50:me,you\nbroken:x:\n";
        assert_eq!(group_in(groups, "root"), Some(0));
        assert_eq!(group_in(groups, "staff"), Some(50));
        for name in ["sta", "broken", "", "# no group"] {
            assert_eq!(group_in(groups, name), None, "{name}");
        }
        assert_eq!(group("1234"), Ok(1234));
        assert!(group("no-such-group-anywhere").is_err());
    }
}
