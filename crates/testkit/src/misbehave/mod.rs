//! A program that misbehaves on command, and who of it is left.
//!
//! It is Perl, as that is where `fork` can be said. Its arguments are done one after the other:
//!
//! | argument | |
//! |---|---|
//! | `ignore` | SIGTERM, SIGHUP and SIGINT are ignored from here on, by its descendants too |
//! | `daemon` | leaves a process that forked twice and called `setsid` |
//! | `holder` | the same, and it keeps stdout open |
//! | `child` | leaves a process in its group |
//! | `relay` | leaves one that forks and ends again and again, each in a session of its own |
//! | `setsid` | goes on in a new session, with its first process waiting for it |
//! | `polite` | says `bye` and ends when it gets SIGTERM |
//! | `say=X`, `half=X`, `pid` | prints a line, less than a line, its process id |
//! | `read`, `echo` | takes a line; gives back all that comes, to the end |
//! | `close` | closes its stdout |
//! | `guardian=SIGNAL`, `group=SIGNAL` | signals its parent, its group |
//! | `exit=N`, `stay` | ends; does nothing for ever |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PROGRAM: &str = include_str!("program.pl");

/// A mark that no other process on this machine has among its arguments.
pub fn new_mark() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("tieline-test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

/// The command line of a program that does all this.
pub fn command(mark: &str, to_do: &[&str]) -> Vec<String> {
    let line = [&["perl", "-e", PROGRAM, "--", mark], to_do].concat();
    line.into_iter().map(str::to_owned).collect()
}

/// Such a program with this mark, and everybody that it has started. Not zombies, which have no
/// arguments any more.
pub fn survivors(mark: &str) -> Vec<u32> {
    let is_marked = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Not who was told to start one.
        let mut line = line.split(|byte| *byte == 0);
        line.next() == Some(b"perl") && line.any(|argument| argument == mark.as_bytes())
    };
    pids().filter(is_marked).collect()
}

/// The children of a process, zombies included.
pub fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        fields.split(' ').nth(1) == Some(&parent.to_string())
    };
    pids().filter(is_child).collect()
}

/// The directory of the cgroup (v2) that this process is in, where it can make others: root can.
pub fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

/// The groups beside us that were made by these guardians.
pub fn groups_of(guardians: &[u32]) -> Vec<String> {
    let Some(own) = own_group() else { return Vec::new() };
    let names = fs::read_dir(own).unwrap().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let is_theirs = |name: &String| {
        guardians.iter().any(|pid| name.starts_with(&format!("tieline-guardian-{pid}-")))
    };
    names.filter(is_theirs).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
