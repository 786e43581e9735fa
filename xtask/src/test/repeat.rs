//! `cargo xtask test --repeat N --under-load`: finds tests that fail occasionally.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::record::Event;
use crate::processes::end_tree;
use crate::workspace::Workspace;
use crate::{Failure, failed};

/// The number of failures of each test.
#[derive(Default)]
pub(super) struct Table {
    rounds: usize,
    /// The number of failures by name, and the number of those after which the test also failed alone.
    failed: BTreeMap<String, (usize, usize)>,
}

impl Table {
    pub(super) fn round(&mut self, events: &[Event], others: &[String]) {
        self.rounds += 1;
        for event in events {
            let (failed, twice) = self.failed.entry(event.name.clone()).or_default();
            *failed += 1;
            *twice += usize::from(!event.is_flaky);
        }
        for other in others {
            let (failed, twice) = self.failed.entry(other.clone()).or_default();
            (*failed, *twice) = (*failed + 1, *twice + 1);
        }
    }

    pub(super) fn text(&self) -> String {
        if self.failed.is_empty() {
            let plural = if self.rounds == 1 { "" } else { "s" };
            return format!("Nothing failed in {} round{plural}.\n", self.rounds);
        }
        let mut text = format!("failed in {} rounds\n    of these, also alone\n", self.rounds);
        let mut rows: Vec<_> = self.failed.iter().collect();
        rows.sort_by_key(|(_, (failed, _))| std::cmp::Reverse(*failed));
        for (name, (failed, twice)) in rows {
            let _ = writeln!(text, "{failed:>4} {twice:>4}  {name}");
        }
        text
    }

    pub(super) fn judge(&self) -> Result<(), Failure> {
        let names: Vec<_> = self.failed.keys().map(String::as_str).collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(failed(format!("failed at least once: {}", names.join(", ")))),
        }
    }
}

/// Builds the workspace repeatedly in a separate folder until it is dropped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(workspace: &Workspace, target: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let folder = target.join("under-load");
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--workspace", "--all-targets", "--locked", "--quiet"]);
        cargo.env("CARGO_TARGET_DIR", &folder).stdout(Stdio::null());
        let thread = thread::spawn({
            let stop = stop.clone();
            move || build(&mut cargo, &folder, &stop)
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn build(cargo: &mut Command, folder: &PathBuf, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let _ = fs::remove_dir_all(folder);
        let is_built = cargo.spawn().is_ok_and(|mut child| until(&mut child, stop));
        if !is_built && !stop.load(Ordering::Relaxed) {
            eprintln!("xtask: the build that creates load failed; continuing without load");
            break;
        }
    }
    if let Err(error) = fs::remove_dir_all(folder)
        && folder.exists()
    {
        eprintln!("xtask: {}: {error}", folder.display());
    }
}

/// Waits for the build to end, or kills it. Returns true if it succeeded.
fn until(child: &mut Child, stop: &AtomicBool) -> bool {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if !stop.load(Ordering::Relaxed) => thread::sleep(LOOK),
            Ok(None) | Err(_) => {
                end_tree(child);
                return false;
            }
        }
    }
}

const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::until_gone;

    #[test]
    fn table_counts_failures_over_rounds() {
        let event = |name: &str, is_flaky| Event { name: name.into(), why: "so".into(), is_flaky };
        let mut table = Table::default();
        table.round(&[event("cli::serve::a", true)], &[]);
        table.round(&[event("http::sse::a", false), event("cli::serve::a", true)], &[]);
        table.round(&[], &["cargo test".into()]);
        assert_eq!(
            table.text(),
            "failed in 3 rounds\n    of these, also alone\n   2    0  cli::serve::a\n   1    1  \
             cargo test\n   1    1  http::sse::a\n"
        );
        let Err(Failure::Failed(why)) = table.judge() else { panic!("expected a failure") };
        assert_eq!(why, "failed at least once: cargo test, cli::serve::a, http::sse::a");

        let mut table = Table::default();
        table.round(&[], &[]);
        assert_eq!(table.text(), "Nothing failed in 1 round.\n");
        assert!(table.judge().is_ok());
    }

    #[test]
    fn load_ends_with_its_folder_and_processes() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("under-load");
        let stop = AtomicBool::new(false);
        let mut script = Command::new("sh");
        script.args(["-c", "mkdir -p \"$1\"; sleep 1000 & echo $! >\"$1/pid\"; wait", "sh"]);
        script.arg(&scratch);
        let pid = thread::scope(|scope| {
            scope.spawn(|| build(&mut script, &scratch, &stop));
            let pid = loop {
                let pid = fs::read_to_string(scratch.join("pid")).unwrap_or_default();
                if pid.ends_with('\n') {
                    break pid;
                }
                thread::yield_now();
            };
            stop.store(true, Ordering::Relaxed);
            pid
        });
        assert!(!scratch.exists());
        until_gone(&pid);
    }
}
