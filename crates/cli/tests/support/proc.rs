//! Process information from `/proc`.

use std::fs;

/// The environment variable that marks a server's programs and their descendants.
pub(crate) const MARK: &str = "TIELINE_TEST_MARK";

/// Returns the processes with this mark in their environment. Zombies have no environment.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let variable = format!("{MARK}={mark}");
    let has_mark = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    };
    pids().filter(has_mark).collect()
}

/// Returns the children of a process, including zombies.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| stat(*pid).is_some_and(|stat| stat[1] == parent.to_string());
    pids().filter(is_child).collect()
}

/// Returns whether a process exists and is not a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat[0].as_str(), "Z" | "X"))
}

/// Resource usage of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// CPU time in kernel clock ticks, of which there are 100 per second.
    pub(crate) ticks: u64,
    /// Peak resident memory.
    pub(crate) peak_kib: u64,
}

pub(crate) fn usage(pid: u32) -> Usage {
    let stat = stat(pid).expect("the process exists");
    let ticks = |field: usize| stat[field].parse::<u64>().expect("a number");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process exists");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak_kib = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    // utime and stime are the 14th and 15th field of the file.
    Usage { ticks: ticks(11) + ticks(12), peak_kib }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is readable").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns the fields of `/proc/PID/stat` after the program's name, which is skipped because it may
/// contain any characters.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}
