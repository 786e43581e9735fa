//! Listing the children and descendants of this process, and signaling them without ever signaling an
//! unrelated process.
//!
//! A child keeps its process ID until it is reaped. Therefore, only the caller may reap children, and
//! not during these calls.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal,
};

/// Returns our children, including those that have ended but are not reaped.
pub(in super::super) fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    match lists.collect::<Result<String, _>>() {
        Ok(list) => {
            let numbered = Numbering::of_proc();
            let listed = list.split_ascii_whitespace().filter_map(pid);
            listed.filter_map(|listed| numbered.number(listed)).collect()
        }
        // Not every kernel provides these lists.
        Err(_) => {
            let us = getpid();
            every_parent()
                .into_iter()
                .filter(|(_, parent)| *parent == us)
                .map(|(it, _)| it)
                .collect()
        }
    }
}

/// The numbering of processes in `/proc`. In a PID namespace without its own `/proc`, the `/proc` of an
/// outer namespace is visible, in which every process has a different ID.
enum Numbering {
    Ours,
    /// Each process has an ID in each namespace. This is the position of its ID in our namespace.
    Foreign(usize),
}

impl Numbering {
    fn of_proc() -> Self {
        let this = fs::read_link("/proc/self").ok();
        let this = this.as_deref().and_then(|this| this.to_str()).and_then(pid);
        match numbers("self").len().checked_sub(1) {
            Some(place) if this != Some(getpid()) => Self::Foreign(place),
            _ => Self::Ours,
        }
    }

    /// Returns the ID with which the process that is listed as `listed` can be signaled.
    fn number(&self, listed: Pid) -> Option<Pid> {
        match self {
            Self::Ours => Some(listed),
            Self::Foreign(place) => {
                numbers(&listed.as_raw_nonzero().to_string()).get(*place).copied()
            }
        }
    }
}

/// Returns the IDs of a process, from the namespace of `/proc` down to its own.
fn numbers(name: &str) -> Vec<Pid> {
    let status = fs::read_to_string(format!("/proc/{name}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    numbers.split_ascii_whitespace().filter_map(pid).collect()
}

/// The signals that make a process end gracefully, in this order.
pub(super) const ENDING: [Signal; 2] = [Signal::TERM, Signal::CONT];

/// Sends SIGTERM and SIGCONT once to each descendant. A stopped process handles SIGTERM when it
/// continues. A process whose parent ends during the search may be missed; it becomes our child, and is
/// found when SIGKILL is sent.
pub(super) fn terminate() {
    let mut found: Vec<(Pid, OwnedFd)> = Vec::new();
    let parents = every_parent();
    for child in children() {
        match pidfd_open(child, PidfdFlags::empty()) {
            Ok(pidfd) => found.push((child, pidfd)),
            Err(_) => ENDING.into_iter().for_each(|signal| _ = kill_process(child, signal)),
        }
    }
    let mut next = 0;
    while let Some((parent, _)) = found.get(next) {
        let parent = *parent;
        let of_parent = parents.iter().filter(|(_, its_parent)| *its_parent == parent);
        let below = of_parent.filter_map(|(pid, _)| descendant(*pid, parent)).collect::<Vec<_>>();
        // Only now is it certain that this is the parent, and not another process that reuses its ID.
        if found.get(next).is_some_and(|(pid, pidfd)| is_held(*pid, pidfd)) {
            found.extend(below);
        }
        next += 1;
    }
    for signal in ENDING {
        for (_, pidfd) in &found {
            // The process may have ended.
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
}

/// Opens the process `pid` if it is a child of `parent`.
fn descendant(pid: Pid, parent: Pid) -> Option<(Pid, OwnedFd)> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let is_child = parent_of(pid) == Some(parent) && is_held(pid, &pidfd);
    is_child.then_some((pid, pidfd))
}

/// Returns true if the descriptor's process still has this ID because it has not been reaped.
fn is_held(pid: Pid, pidfd: &OwnedFd) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let info = info.unwrap_or_default();
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    number.and_then(|number| self::pid(number.trim())) == Some(pid)
}

/// Returns every visible process with its parent.
fn every_parent() -> Vec<(Pid, Pid)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| pid(entry.file_name().to_str()?));
    pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
}

/// Returns true if a thread of the process was stopped by a signal or a tracer.
pub(in super::super) fn is_stopped(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let stats = threads.into_iter().flatten().flatten().map(|it| fs::read(it.path().join("stat")));
    stats.flatten().any(|stat| {
        let name_end = stat.iter().rposition(|byte| *byte == b')');
        let state = name_end.and_then(|end| stat.get(end + 2));
        matches!(state, Some(b't' | b'T'))
    })
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in parentheses can contain any characters, including closing parentheses.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    self::pid(fields.split_ascii_whitespace().nth(1)?)
}

/// Parses a process ID. The kernel writes -1 for processes that no longer exist, and 0 for those in
/// other namespaces.
fn pid(text: &str) -> Option<Pid> {
    text.parse().ok().filter(|number| *number > 0).and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn children_are_listed_until_they_are_reaped() {
        let mut command = Command::new("cat");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(children().contains(&pid));
        assert!(descendant(pid, getpid()).is_some());
        assert!(descendant(pid, pid).is_none(), "a process is not its own child");
        drop(child.stdin.take());
        let exited =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), exited).unwrap();
        // The child has ended but keeps its ID until it is reaped.
        assert!(children().contains(&pid) && is_held(pid, &pidfd));
        child.wait().unwrap();
        assert!(!children().contains(&pid) && !is_held(pid, &pidfd));
    }

    #[test]
    fn parentheses_in_a_process_name_are_parsed() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("x) 1 1 1");
        std::fs::write(&program, "#!/bin/sh\nread -r _\n").unwrap();
        let mode: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let mut child = Command::new(&program).stdin(Stdio::piped()).spawn().unwrap();
        assert_eq!(parent_of(Pid::from_child(&child)), Some(getpid()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
