//! stderr by a thread of its own: that nobody reads it holds up nothing but what is said there.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// So many pieces wait to be written; those beyond are dropped, and counted.
const QUEUE: usize = 1024;

enum Job {
    Write(Vec<u8>),
    Flush(SyncSender<()>),
}

static THREAD: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Writes `text`, now or when there is room; never waits.
pub(crate) fn say(text: &[u8]) {
    match thread() {
        Some(thread) => {
            if thread.try_send(Job::Write(text.to_vec())).is_err() {
                DROPPED.fetch_add(1, Relaxed);
            }
        }
        // Without a thread to be had there is this one.
        None => drop(std::io::stderr().write_all(text)),
    }
}

/// Waits until all that was said is written, and no longer than `limit`.
pub(crate) fn flush(limit: Duration) {
    let Some(thread) = thread() else { return };
    let deadline = Instant::now() + limit;
    let (written, wait) = sync_channel(1);
    while thread.try_send(Job::Flush(written.clone())).is_err() {
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// What log lines are written to.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        say(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn thread() -> Option<&'static SyncSender<Job>> {
    let started = THREAD.get_or_init(|| {
        let (sender, jobs) = sync_channel(QUEUE);
        let builder = std::thread::Builder::new().name("tieline-stderr".into());
        builder.spawn(move || run(&jobs)).ok().map(|_| sender)
    });
    started.as_ref()
}

fn run(jobs: &Receiver<Job>) {
    let mut stderr = std::io::stderr();
    for job in jobs {
        let dropped = DROPPED.swap(0, Relaxed);
        if dropped > 0 {
            let _ = writeln!(stderr, "tieline: {dropped} log lines were dropped; nobody read them");
        }
        match job {
            // Who closed stderr wants to read nothing.
            Job::Write(text) => drop(stderr.write_all(&text)),
            Job::Flush(written) => drop(written.try_send(())),
        }
    }
}
