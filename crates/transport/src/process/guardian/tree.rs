//! Our own children and theirs, as the kernel lists them, and how they are signalled: nobody who
//! may be a stranger is.
//!
//! A child's number is its own until it is reaped, so all of this is for who alone reaps, and does
//! not do so meanwhile.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal,
};

/// Our children, those that have ended included.
pub(in super::super) fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    match lists.collect::<Result<String, _>>() {
        Ok(list) => {
            let numbered = Numbering::of_proc();
            let listed = list.split_ascii_whitespace().filter_map(pid);
            listed.filter_map(|listed| numbered.number(listed)).collect()
        }
        // Not every kernel has these lists.
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

/// How `/proc` numbers processes. In a process namespace without a `/proc` of its own there is that of
/// another, in which each has another number.
enum Numbering {
    Ours,
    /// A process is listed with a number for each namespace; ours is the one at this place.
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

    /// The number by which the process is signalled.
    fn number(&self, listed: Pid) -> Option<Pid> {
        match self {
            Self::Ours => Some(listed),
            Self::Foreign(place) => {
                numbers(&listed.as_raw_nonzero().to_string()).get(*place).copied()
            }
        }
    }
}

/// The numbers of a process, from the namespace of `/proc` down to its own.
fn numbers(name: &str) -> Vec<Pid> {
    let status = fs::read_to_string(format!("/proc/{name}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    numbers.split_ascii_whitespace().filter_map(pid).collect()
}

/// What asks a process to end, one behind the other.
pub(super) const ENDING: [Signal; 2] = [Signal::TERM, Signal::CONT];

/// Sends SIGTERM and SIGCONT to all descendants, each once: one that is stopped takes SIGTERM when it goes
/// on. One whose parent ends meanwhile may be left out; it becomes a child of ours, and is found when it comes
/// to SIGKILL.
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
        // Only now is it certain that it was the parent, and no stranger of the same number.
        if found.get(next).is_some_and(|(pid, pidfd)| is_held(*pid, pidfd)) {
            found.extend(below);
        }
        next += 1;
    }
    for signal in ENDING {
        for (_, pidfd) in &found {
            // It may have ended.
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
}

/// The process, if it is a child of that parent.
fn descendant(pid: Pid, parent: Pid) -> Option<(Pid, OwnedFd)> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let is_child = parent_of(pid) == Some(parent) && is_held(pid, &pidfd);
    is_child.then_some((pid, pidfd))
}

/// Whether the descriptor's process still has its number: it has not been reaped.
fn is_held(pid: Pid, pidfd: &OwnedFd) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let info = info.unwrap_or_default();
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    number.and_then(|number| self::pid(number.trim())) == Some(pid)
}

/// Every process that we may see, with its parent.
fn every_parent() -> Vec<(Pid, Pid)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| pid(entry.file_name().to_str()?));
    pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
}

/// Whether some thread of the process was stopped, by a signal or by a tracer.
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
    // The name in parentheses may hold anything, closing parentheses too.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    self::pid(fields.split_ascii_whitespace().nth(1)?)
}

/// The kernel writes -1 for who is gone and 0 for who is elsewhere.
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
        assert!(descendant(pid, pid).is_none(), "it is not its own child");
        drop(child.stdin.take());
        let exited =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), exited).unwrap();
        // It has ended, and has its number until somebody asks for its end.
        assert!(children().contains(&pid) && is_held(pid, &pidfd));
        child.wait().unwrap();
        assert!(!children().contains(&pid) && !is_held(pid, &pidfd));
    }

    #[test]
    fn a_name_that_looks_like_the_end_of_it_does_not_confuse() {
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
