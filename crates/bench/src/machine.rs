//! A description of the machine that is measured, without details that would identify it.

use std::fs;
use std::process::Command;

/// Returns the description as one line for the text above the table.
pub(crate) fn facts() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let facts = [
        Some(format!("{cores} cores")),
        processor(),
        fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|it| format!("kernel {it}")),
        rustc(),
        fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|it| Some(format!("load at the start {}", it.split(' ').next()?))),
    ];
    facts.into_iter().flatten().map(|fact| fact.trim().to_owned()).collect::<Vec<_>>().join(", ")
}

fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(model.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn rustc() -> Option<String> {
    let output = Command::new("rustc").arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Returns the resident memory of a process in bytes, or `None` if the system does not report it.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Returns the number of descriptors that this process may open.
pub(crate) fn descriptor_limit() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
