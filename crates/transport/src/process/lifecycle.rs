//! The life of one child: its end is noticed before anybody reaps it, its group is ended with it,
//! and nothing is ever signalled that may be somebody else's.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::{Pid, Signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::stderr::Stderr;
use super::{StopTimeouts, reaper};
use crate::control::Backing;
use crate::{BoxFuture, ChildExit, Health};

/// How far a child's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It runs, as far as anybody has noticed.
    Running,
    /// It has ended and is not reaped; others may still hold its pipes.
    Exited,
    /// Its group was ended and it was reaped: what has not come out of its pipes by now is not
    /// waited for.
    Over,
}

/// One child and all that belongs to it.
pub(super) struct Lifecycle(Arc<Life>);

struct Life {
    pid: Pid,
    /// `None` once it is reaped, or left to the reaper: after that the number may be a stranger's,
    /// so signals are sent only while this is held.
    child: Mutex<Option<Child>>,
    phase: watch::Sender<Phase>,
    status: Mutex<Option<ExitStatus>>,
    stderr: Stderr,
    stop: StopTimeouts,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Lifecycle {
    pub(super) fn new(child: Child, stop: StopTimeouts) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            reaper::reap(child);
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(Self(Arc::new(Life {
            pid,
            child: Mutex::new(Some(child)),
            phase: watch::Sender::new(Phase::Running),
            status: Mutex::new(None),
            stderr: Stderr::default(),
            stop,
            tasks: Mutex::new(Vec::new()),
        })))
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Starts to read stderr and to wait for the end. Must be called in a runtime.
    pub(super) fn watch(&self, stderr: std::process::ChildStderr, name: String) -> io::Result<()> {
        let ended = ended::Watch::new(self.0.pid)?;
        let drain = self.0.stderr.drain(stderr, name, self.0.pid.as_raw_nonzero().get())?;
        let life = self.0.clone();
        let wait = tokio::spawn(async move {
            ended.wait().await;
            life.exited();
            tokio::time::sleep(life.stop.drain).await;
            life.finish();
        });
        lock(&self.0.tasks).extend([tokio::spawn(drain), wait]);
        Ok(())
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        self.0.kill();
    }
}

impl Backing for Lifecycle {
    fn health(&self) -> Health {
        if *self.0.phase.borrow() == Phase::Running { Health::Up } else { Health::Down }
    }

    fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let life = self.0.clone();
        Box::pin(async move {
            // A child that closed its stdout is usually about to end; one that goes on without it
            // is a line that ended without an exit.
            let ended = timeout(life.stop.drain, life.reach(Phase::Exited)).await;
            match ended {
                Ok(()) => life.exit().await,
                Err(_) => None,
            }
        })
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let life = self.0.clone();
        Box::pin(async move {
            let stages = [
                (life.stop.end_of_input, Some(Signal::TERM)),
                (life.stop.terminate, Some(Signal::KILL)),
                (life.stop.drain, None),
            ];
            for (patience, then) in stages {
                if timeout(patience, life.reach(Phase::Exited)).await.is_ok() {
                    break;
                }
                if let Some(signal) = then {
                    life.signal_group(signal);
                }
            }
            let exit = life.exit().await;
            life.finish();
            exit
        })
    }

    fn abort(&self) {
        self.0.kill();
    }
}

impl Life {
    async fn reach(&self, wanted: Phase) {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`.
        let _ = phase.wait_for(|phase| *phase >= wanted).await;
    }

    /// Notes the status without reaping: until the group is ended its number must stay taken.
    fn exited(&self) {
        *lock(&self.status) = ended::peek(self.pid);
        self.phase.send_if_modified(|phase| advance(phase, Phase::Exited));
    }

    /// What the end was, with all of stderr that can be had without waiting for a stranger.
    async fn exit(&self) -> Option<ChildExit> {
        let status = (*lock(&self.status))?;
        let _ = timeout(self.stop.drain, self.stderr.finished()).await;
        Some(ChildExit {
            status,
            stderr_tail: self.stderr.tail(),
            unterminated: false,
            truncated: None,
        })
    }

    /// Ends what is left of the group and reaps the child.
    fn finish(&self) {
        let child = self.end_group();
        if let Some(mut child) = child {
            let status = child.try_wait().ok().flatten();
            lock(&self.status).get_or_insert_with(|| status.unwrap_or_default());
            reaper::reap(child);
        }
        self.phase.send_if_modified(|phase| advance(phase, Phase::Over));
    }

    /// Ends everything at once, without a runtime and without waiting.
    fn kill(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        if let Some(child) = self.end_group() {
            reaper::reap(child);
        }
        self.phase.send_if_modified(|phase| advance(phase, Phase::Over));
    }

    /// Kills the group and gives up the child. The leader is not reaped yet, so the number is ours.
    fn end_group(&self) -> Option<Child> {
        let child = lock(&self.child).take()?;
        reaper::kill_group(&child);
        Some(child)
    }

    fn signal_group(&self, signal: Signal) {
        let child = lock(&self.child);
        if child.is_some() {
            reaper::signal_group(self.pid, signal);
        }
    }
}

/// Moves forward only.
fn advance(phase: &mut Phase, to: Phase) -> bool {
    let further = *phase < to;
    *phase = to.max(*phase);
    further
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How the end of a child is noticed before it is reaped.
mod ended {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
    use std::os::unix::process::ExitStatusExt;

    #[cfg(target_os = "linux")]
    pub(super) struct Watch(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>);

    #[cfg(target_os = "linux")]
    impl Watch {
        pub(super) fn new(pid: Pid) -> io::Result<Self> {
            use rustix::process::{PidfdFlags, pidfd_open};
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            let interest = tokio::io::Interest::READABLE;
            crate::readiness::register(pidfd, interest).map(Self)
        }

        pub(super) async fn wait(self) {
            // Fails only when the runtime goes, and this task with it.
            let _ = self.0.readable().await;
        }
    }

    /// Elsewhere a thread waits, for as long as the child lives.
    #[cfg(not(target_os = "linux"))]
    pub(super) struct Watch(tokio::sync::oneshot::Receiver<()>);

    #[cfg(not(target_os = "linux"))]
    impl Watch {
        pub(super) fn new(pid: Pid) -> io::Result<Self> {
            let (ended, wait) = tokio::sync::oneshot::channel();
            let builder = std::thread::Builder::new().name("tieline-wait".into());
            builder.spawn(move || {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
                let _ = ended.send(());
            })?;
            Ok(Self(wait))
        }

        pub(super) async fn wait(self) {
            let _ = self.0.await;
        }
    }

    /// The status of a child that has ended, which stays to be reaped.
    pub(super) fn peek(pid: Pid) -> Option<ExitStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        waitid(WaitId::Pid(pid), options).ok().flatten().map(|status| wait_status(&status))
    }

    /// As `wait` would have put it: the exit code in the second byte, or the signal in the first.
    fn wait_status(status: &WaitIdStatus) -> ExitStatus {
        let signal = status.terminating_signal().unwrap_or_default();
        let core = if status.dumped() { 0x80 } else { 0 };
        let code = status.exit_status().unwrap_or_default();
        ExitStatus::from_raw((code & 0xff) << 8 | signal | core)
    }
}
