//! The life of one child: its end is noticed, and what came of it is ended with it, by its job.

use std::io;
use std::os::windows::io::{BorrowedHandle, OwnedHandle};
use std::os::windows::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::job::{self, Job, KILLED};
use super::pipes::Output;
use crate::control::Backing;
use crate::process::Stderr;
use crate::{BoxFuture, ChildExit, Health, StopTimeouts};

/// How far a child's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It runs, as far as anybody has noticed.
    Running,
    /// It has ended; others may still hold its pipes.
    Exited,
    /// All that came of it was killed.
    Over,
}

/// One child and all that belongs to it.
pub(super) struct Lifecycle(Arc<Life>);

struct Life {
    held: Mutex<Option<Held>>,
    phase: watch::Sender<Phase>,
    status: Mutex<Option<ExitStatus>>,
    stderr: Stderr,
    stop: StopTimeouts,
    /// Taken by the task that waits for it.
    child: Mutex<Option<Child>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    pid: u32,
}

struct Held {
    job: Job,
    shares_console: bool,
    /// As long as it is open, the process number is nobody else's.
    _process: OwnedHandle,
}

impl Lifecycle {
    pub(super) fn new(
        child: Child,
        job: Job,
        shares_console: bool,
        stop: StopTimeouts,
    ) -> io::Result<Self> {
        let process = process_of(&child)?;
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self(Arc::new(Life {
            held: Mutex::new(Some(Held { job, shares_console, _process: process })),
            phase: watch::Sender::new(Phase::Running),
            status: Mutex::new(None),
            stderr: Stderr::default(),
            stop,
            child: Mutex::new(Some(child)),
            tasks: Mutex::new(Vec::new()),
            pid,
        })))
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Starts to read stderr and to wait for the end. Must be called in a runtime.
    pub(super) fn watch(&self, stderr: Output, name: String) {
        let Some(mut child) = lock(&self.0.child).take() else { return };
        let drain = self.0.stderr.drain(stderr, name, self.0.pid);
        let life = self.0.clone();
        let wait = tokio::spawn(async move {
            life.exited(child.wait().await.ok());
            tokio::time::sleep(life.stop.drain).await;
            life.end();
        });
        lock(&self.0.tasks).extend([tokio::spawn(drain), wait]);
    }
}

#[allow(unsafe_code)]
fn process_of(child: &Child) -> io::Result<OwnedHandle> {
    let handle = child.raw_handle().ok_or(io::ErrorKind::NotFound)?;
    // SAFETY: the child holds it open for longer than it is borrowed.
    unsafe { BorrowedHandle::borrow_raw(handle) }.try_clone_to_owned()
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

    fn child(&self) -> Option<u32> {
        (*self.0.phase.borrow() == Phase::Running).then_some(self.0.pid)
    }

    fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let life = self.0.clone();
        Box::pin(async move {
            // A child that closed its stdout is usually about to end; one that goes on without it
            // is a line that ended without an exit.
            match timeout(life.stop.drain, life.reach(Phase::Exited)).await {
                Ok(()) => life.exit().await,
                Err(_) => None,
            }
        })
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let life = self.0.clone();
        Box::pin(async move {
            let mut has_ended = life.ends_within(life.stop.end_of_input).await;
            if !has_ended && life.interrupt() {
                has_ended = life.ends_within(life.stop.terminate).await;
            }
            if !has_ended {
                life.kill_job();
                life.ends_within(life.stop.drain).await;
            }
            let exit = life.exit().await;
            life.end_and_see(life.stop.drain).await;
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

    async fn ends_within(&self, patience: Duration) -> bool {
        timeout(patience, self.reach(Phase::Exited)).await.is_ok()
    }

    fn exited(&self, status: Option<ExitStatus>) {
        *lock(&self.status) = status;
        self.advance(Phase::Exited);
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
            guardian_lost: false,
        })
    }

    /// CTRL_BREAK, which only those hear who share our console. False where nobody can.
    fn interrupt(&self) -> bool {
        let held = lock(&self.held);
        held.as_ref().is_some_and(|held| held.shares_console && job::interrupt(self.pid).is_ok())
    }

    fn kill_job(&self) {
        if let Some(held) = &*lock(&self.held) {
            held.job.kill();
        }
    }

    /// Kills what is left of it, and gives it up.
    fn end(&self) -> Option<Held> {
        let held = lock(&self.held).take();
        if let Some(held) = &held {
            held.job.kill();
        }
        lock(&self.status).get_or_insert_with(|| ExitStatus::from_raw(KILLED));
        self.advance(Phase::Over);
        held
    }

    /// The same, and waits until nobody is left: the system has no event for it that needs no thread.
    async fn end_and_see(&self, patience: Duration) {
        let Some(held) = self.end() else { return };
        let gone = async {
            while !held.job.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = timeout(patience, gone).await;
    }

    /// Ends everything at once, without a runtime and without waiting.
    fn kill(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.end();
    }

    /// Moves forward only.
    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let further = *phase < to;
            *phase = to.max(*phase);
            further
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
