//! stderr, written by a separate thread so that a reader that stalls does not block the program.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tieline_proto::Count;

/// The maximum number of texts that wait to be written. Further texts are dropped and counted.
const QUEUE: usize = 1024;

enum Job {
    Write(Vec<u8>),
    Flush(SyncSender<()>),
}

static THREAD: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static WRITER: Mutex<Option<Box<dyn Write + Send>>> = Mutex::new(None);

/// Makes the thread write to `writer` instead of stderr. This has no effect after the first text.
#[cfg(unix)]
pub(crate) fn write_to(writer: Box<dyn Write + Send>) {
    *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
}

/// Queues `text` for writing. Never waits.
pub(crate) fn say(text: &[u8]) {
    match thread() {
        Some(thread) => {
            if thread.try_send(Job::Write(text.to_vec())).is_err() {
                let lines = text.iter().filter(|byte| **byte == b'\n').count();
                DROPPED.fetch_add(lines.max(1) as u64, Relaxed);
            }
        }
        // The thread could not be started, so write here.
        None => drop(std::io::stderr().write_all(text)),
    }
}

/// Waits until all queued text is written, for at most `limit`.
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

/// The writer of log lines.
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
    let writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut stderr = writer.unwrap_or_else(|| Box::new(std::io::stderr()));
    for job in jobs {
        let dropped = DROPPED.swap(0, Relaxed);
        if dropped > 0 {
            let _ = writeln!(
                stderr,
                "tieline: dropped {}: stderr was not read",
                Count(dropped, "line")
            );
        }
        match job {
            // An error means that stderr is closed, so it cannot be reported.
            Job::Write(text) => drop(stderr.write_all(&text)),
            Job::Flush(written) => drop(written.try_send(())),
        }
    }
}
