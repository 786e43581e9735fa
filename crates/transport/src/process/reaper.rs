//! The library's one permanent thread: it starts children, and waits for those whose line is gone.
//!
//! Starting a program stops the calling thread until the program runs, which takes milliseconds
//! that a thread of the runtime does not have. And a child whose line was dropped must be waited
//! for without a runtime, or it stays a zombie.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;

enum Job {
    Spawn(Command, oneshot::Sender<io::Result<Child>>),
    Reap(Child),
}

/// Starts `command`. Cancel-safe: a child that nobody waits for any more is ended at once.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let (answer, started) = oneshot::channel();
    thread()?.send(Job::Spawn(command, answer)).map_err(|_| io::ErrorKind::BrokenPipe)?;
    started.await.map_err(|_| io::ErrorKind::BrokenPipe)?
}

/// Waits for a child that was killed. Never blocks.
pub(super) fn reap(mut child: Child) {
    if let Ok(Some(_)) = child.try_wait() {
        return;
    }
    if let Ok(thread) = thread() {
        // The thread ends only with the process.
        let _ = thread.send(Job::Reap(child));
    }
}

fn thread() -> io::Result<Sender<Job>> {
    static THREAD: OnceLock<Result<Sender<Job>, io::ErrorKind>> = OnceLock::new();
    let started = THREAD.get_or_init(|| {
        let (sender, jobs) = channel();
        let builder = std::thread::Builder::new().name("tieline-process".into());
        let spawned = builder.spawn(move || run(&jobs));
        spawned.map(|_| sender).map_err(|error| error.kind())
    });
    started.clone().map_err(io::Error::from)
}

/// Kills `child` and the group that it was started to lead.
pub(super) fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        signal_group(pid, Signal::KILL);
    }
}

/// Signals the group, and the child itself where it has left the group. Its number is its own, and
/// so is the group's, for as long as it is not reaped.
pub(super) fn signal_group(child: Pid, signal: Signal) {
    // There may be nobody left in it, or nothing but a zombie.
    let _ = rustix::process::kill_process_group(child, signal);
    if rustix::process::getpgid(Some(child)) != Ok(child) {
        let _ = rustix::process::kill_process(child, signal);
    }
}

/// A killed child is gone within milliseconds, unless the kernel holds it: so look again and again,
/// and let none hold up the others.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn run(jobs: &Receiver<Job>) {
    let mut dying: Vec<Child> = Vec::new();
    loop {
        let job = if dying.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(LOOK_AGAIN)
        };
        match job {
            Ok(Job::Spawn(mut command, answer)) => {
                if let Err(Ok(unwanted)) = answer.send(command.spawn()) {
                    kill_group(&unwanted);
                    dying.push(unwanted);
                }
            }
            Ok(Job::Reap(child)) => dying.push(child),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        dying.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}
