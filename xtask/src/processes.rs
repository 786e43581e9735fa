//! Kills processes that xtask started, and their descendants.

use std::process::Child;

/// Kills a child and its descendants, and reaps the child. Descendants that were orphaned earlier are
/// not found.
#[cfg(target_os = "linux")]
pub(crate) fn end_tree(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process};

    let signal = |id: &i32, signal| Pid::from_raw(*id).map(|id| kill_process(id, signal));
    let root = i32::try_from(child.id()).unwrap_or_default();
    // A stopped process cannot fork, so the list is complete once no other process is found.
    let mut tree = vec![root];
    signal(&root, Signal::STOP);
    for _ in 0..MAX_LOOKS {
        let found: Vec<i32> =
            descendants(&tree).into_iter().filter(|id| !tree.contains(id)).collect();
        if found.is_empty() {
            break;
        }
        for id in &found {
            signal(id, Signal::STOP);
        }
        tree.extend(found);
    }
    // The youngest process is killed first, so that no process ID is reused after the parent has reaped
    // its child.
    for id in tree.iter().rev() {
        signal(id, Signal::KILL);
    }
    let _ = child.wait();
}

/// The maximum number of searches, which is reached only if a process forks endlessly.
#[cfg(target_os = "linux")]
const MAX_LOOKS: usize = 1_000;

/// Returns the descendants of these processes.
#[cfg(target_os = "linux")]
fn descendants(of: &[i32]) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(i32, i32)> = processes
        .filter_map(|process| {
            let id = process.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
            // The name in parentheses may contain any characters. The state and the parent follow it.
            let (_, fields) = stat.rsplit_once(") ")?;
            Some((id, fields.split(' ').nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found = Vec::new();
    let mut next = of.to_vec();
    while let Some(parent) = next.pop() {
        for (id, _) in parents.iter().filter(|(_, of)| *of == parent) {
            if !found.contains(id) {
                found.push(*id);
                next.push(*id);
            }
        }
    }
    found
}

/// Kills a child and reaps it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn end_tree(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits until a process no longer exists or is a zombie.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn until_gone(id: &str) {
    let is_there = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    while is_there() {
        std::thread::yield_now();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn descendants_are_killed_with_their_ancestor_and_other_children_are_not() {
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let script = "setsid sh -c 'sleep 1000 & echo $!; wait' & wait";
        let mut child = Command::new("sh");
        let mut child = child.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut grandchild = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut grandchild).unwrap();
        end_tree(&mut child);
        until_gone(&grandchild);
        assert_eq!(other.try_wait().unwrap(), None);
        drop(other.stdin.take());
        other.wait().unwrap();
    }
}
