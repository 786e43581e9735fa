//! The default memory limit, and memory metrics.

use tieline_proto::{ByteSize, MetricsText};
use tieline_transport::MemoryBudget;

/// Lines may hold 1 / FRACTION of the available memory. The rest is for the programs, which are often in
/// the same cgroup, for memory that is not counted, and for copies that are made while a buffer grows.
const FRACTION: u64 = 4;

/// The limit if the available memory is unknown.
const UNKNOWN: ByteSize = ByteSize::mib(1024);

/// The minimum limit. With less memory, no message could be received.
const LEAST: ByteSize = ByteSize::mib(1);

/// Returns a quarter of the machine's memory, of the cgroup's limit or of the free space below RLIMIT_AS,
/// whichever is smallest.
pub(crate) fn default_limit() -> ByteSize {
    let known = [machine(), cgroup(), address_space()];
    match known.into_iter().flatten().min() {
        Some(bytes) => {
            let limit = usize::try_from(bytes / FRACTION).unwrap_or(usize::MAX);
            ByteSize::new(limit.max(LEAST.bytes()))
        }
        None => UNKNOWN,
    }
}

/// Formats the budget in the Prometheus text format.
pub(crate) fn prometheus(budget: &MemoryBudget) -> String {
    let mut text = MetricsText::default();
    text.add(
        "tieline_memory_bytes",
        "Bytes that unfinished messages, queues and records hold, beyond 64 KiB of each.",
        budget.used().bytes(),
    );
    text.add(
        "tieline_memory_limit_bytes",
        "Limit of tieline_memory_bytes.",
        budget.limit().bytes(),
    );
    text.add(
        "tieline_memory_refused_total",
        "Lines, requests and queues that had to give up memory at the limit.",
        budget.refused(),
    );
    text.into_string()
}

#[cfg(target_os = "linux")]
fn machine() -> Option<u64> {
    kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

#[cfg(not(target_os = "linux"))]
fn machine() -> Option<u64> {
    None
}

/// Returns the smallest memory limit of this process's cgroups (version 1 and 2) and their ancestors.
#[cfg(target_os = "linux")]
fn cgroup() -> Option<u64> {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).ok();
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    smallest_in(&groups, std::path::Path::new("/sys/fs/cgroup"), read)
}

#[cfg(not(target_os = "linux"))]
fn cgroup() -> Option<u64> {
    None
}

/// Returns the free space below RLIMIT_AS. Each thread's stack and heap reserves tens of megabytes of
/// addresses before any message arrives.
#[cfg(unix)]
fn address_space() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    let free = limit.saturating_sub(mapped().unwrap_or_default());
    // A starting thread briefly reserves more than it keeps, so at least a quarter is assumed to be
    // free.
    Some(free.max(limit / 4))
}

/// Returns the size of this process's mapped address space.
#[cfg(target_os = "linux")]
fn mapped() -> Option<u64> {
    kib_of(&std::fs::read_to_string("/proc/self/status").ok()?, "VmSize:")
}

#[cfg(all(unix, not(target_os = "linux")))]
fn mapped() -> Option<u64> {
    None
}

#[cfg(not(unix))]
fn address_space() -> Option<u64> {
    None
}

/// Returns the value in bytes of a field that a file in `/proc` states in KiB.
#[cfg(target_os = "linux")]
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the smallest limit of the groups listed in `/proc/self/cgroup`, looked up below `root`.
#[cfg(target_os = "linux")]
fn smallest_in(
    groups: &str,
    root: &std::path::Path,
    read: impl Fn(&std::path::Path) -> Option<String>,
) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (folder, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            it if it.split(',').any(|it| it == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container, the path may be the host's and may not exist; the container's limit is at the
        // root.
        let path = std::path::Path::new(path.trim_start_matches('/'));
        for part in path.ancestors() {
            let limit = read(&folder.join(part).join(file));
            // Without a limit, the file contains `max`.
            limits.extend(limit.and_then(|limit| limit.trim().parse::<u64>().ok()));
        }
    }
    limits.into_iter().min()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn default_limit_is_at_most_a_quarter_of_the_machine() {
        let meminfo = "MemFree: 1 kB\nMemTotal:   16316412 kB\n";
        assert_eq!(kib_of(meminfo, "MemTotal:"), Some(16_316_412 << 10));
        assert_eq!(kib_of("nonsense", "MemTotal:"), None);
        assert!(machine().unwrap() > 1 << 20);
        assert!(mapped().unwrap() > 1 << 20);
        let limit = default_limit().bytes() as u64;
        assert!(limit > 0 && limit <= machine().unwrap() / FRACTION);
    }

    #[test]
    fn mapped_address_space_is_not_counted_as_free() {
        use rustix::process::{Resource, Rlimit, setrlimit};
        use tieline_testkit::{helper, test_name};

        let mut helper = helper::plain(test_name!(), || {
            for (beside, at_most) in [(64_u64 << 20, 64 << 20), (4 << 30, 4 << 30)] {
                let limit = mapped().unwrap() + beside;
                let current = Some(limit);
                setrlimit(Resource::As, Rlimit { current, maximum: None }).unwrap();
                let most = at_most.max(limit / 4);
                assert!(address_space().unwrap() <= most, "{limit}: {:?}", address_space());
                assert!(default_limit().bytes() as u64 <= most / FRACTION);
            }
        });
        helper::succeeds(&mut helper);
    }

    #[test]
    fn smallest_cgroup_limit_applies() {
        let smallest = |groups: &str, files: &[(&str, &str)]| {
            let files: HashMap<_, _> = files.iter().copied().collect();
            let read = |path: &Path| files.get(path.to_str().unwrap()).map(|it| (*it).to_owned());
            smallest_in(groups, Path::new("/cg"), read)
        };
        let nested = [
            ("/cg/a/b/memory.max", "max\n"),
            ("/cg/a/memory.max", "300\n"),
            ("/cg/memory.max", "500\n"),
        ];
        assert_eq!(smallest("0::/a/b\n", &nested), Some(300));
        assert_eq!(smallest("0::/\n", &nested), Some(500));
        assert_eq!(smallest("0::/elsewhere/c\n", &nested), Some(500));
        assert_eq!(smallest("0::/x\n", &[]), None);
        let old = [
            ("/cg/memory/d/memory.limit_in_bytes", "700"),
            ("/cg/memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        assert_eq!(smallest("5:cpu,cpuacct:/d\n3:memory:/d\nnonsense\n", &old), Some(700));
    }
}
