//! What only Unix lets a line be told.

use std::time::Duration;

use clap::Args as Group;
use tieline_transport::{Hold, Options};

use super::values::up_to_a_day;
use crate::report::Failure;
use crate::signals::parent::Watched;

#[derive(Group)]
pub(super) struct System {
    /// Accept processes of this user on the other end, besides our own and root's; may be given several
    /// times. A socket that is listened on gets the mode 666, so that they can connect; others are refused
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

/// Who may connect to sockets that are listened on.
#[derive(Group)]
pub(crate) struct Sockets {
    /// Create Unix sockets with these permission bits, like 660. Without --allow-uid, every user that
    /// they let connect is accepted [default: 660 with --socket-group, 666 with --allow-uid, otherwise 600]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
    /// Give Unix sockets to this group, by name or number, and let its members connect
    #[arg(long, value_name = "GROUP", value_parser = group)]
    socket_group: Option<u32>,
}

impl Sockets {
    /// Refuses the options where there is no Unix socket: there they would protect nothing.
    pub(crate) fn set(&self, options: &mut Options, has_socket: bool) -> Result<(), Failure> {
        let given = match (self.socket_mode, self.socket_group) {
            (Some(_), _) => "--socket-mode",
            (None, Some(_)) => "--socket-group",
            (None, None) => return Ok(()),
        };
        if !has_socket {
            let why = format!(
                "{given} is for unix: and http-unix: endpoints, and there is none to listen on"
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
        _ => Err("write permission bits as chmod takes them, like 660".into()),
    }
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    group_in(&groups, text).ok_or_else(|| {
        "there is no such group in /etc/group; if it is elsewhere, give its number".into()
    })
}

/// The number of a group in a file of lines like `name:password:number:members`.
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
        _ => Err("there are auto, descent and cgroup".into()),
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
