//! A program that misbehaves on command, and functions that find its surviving processes.
//!
//! The program is written in Perl, which has `fork`. It executes its arguments in order:
//!
//! | argument | |
//! |---|---|
//! | `ignore` | ignores SIGTERM, SIGHUP, SIGINT and SIGPIPE from then on, as do its descendants |
//! | `daemon` | starts a process that forks twice and calls `setsid` |
//! | `holder` | does the same as `daemon`, but the process keeps stdout open |
//! | `child` | starts a process in its group |
//! | `relay` | starts a process that forks and exits repeatedly, each time in a new session |
//! | `setsid` | continues in a new session, while the original process waits for it |
//! | `polite` | prints `bye` and exits on SIGTERM |
//! | `say=X`, `half=X`, `pid` | prints a line, an incomplete line, its process ID |
//! | `read`, `echo` | reads a line; echoes everything until the end of input |
//! | `close` | closes its stdout |
//! | `guardian=SIGNAL`, `group=SIGNAL` | sends the signal to its parent, to its group |
//! | `exit=N`, `stay` | exits; sleeps forever |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PROGRAM: &str = include_str!("program.pl");

/// Returns a mark that appears in the arguments of no other process on this machine.
pub fn new_mark() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("tieline-test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

/// Returns the command line of a program that executes these commands.
pub fn command(mark: &str, to_do: &[&str]) -> Vec<String> {
    let line = [&["perl", "-e", PROGRAM, "--", mark], to_do].concat();
    line.into_iter().map(str::to_owned).collect()
}

/// Returns the process IDs of the program with this mark and of its descendants. Zombies are not
/// included, because they have no arguments.
pub fn survivors(mark: &str) -> Vec<u32> {
    let is_marked = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Other programs whose arguments contain the command, such as a shell, are excluded.
        let mut line = line.split(|byte| *byte == 0);
        line.next() == Some(b"perl") && line.any(|argument| argument == mark.as_bytes())
    };
    pids().filter(is_marked).collect()
}

/// Returns the children of a process, including zombies.
pub fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        fields.split(' ').nth(1) == Some(&parent.to_string())
    };
    pids().filter(is_child).collect()
}

/// Returns the directory of this process's cgroup (v2), in which root can create other groups.
pub fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

/// Returns the names of the groups that these guardians created in this process's own group.
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
