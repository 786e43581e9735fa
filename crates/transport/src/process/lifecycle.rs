//! The lifecycle of one child. Its end is noticed before it is reaped, its descendants end with it, and
//! no signal is ever sent to an unrelated process.

use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::config::ProcessConfig;
use super::end::End;
use super::held::{self, Held};
use super::stderr::Stderr;
use super::unread::Unread;
use crate::account::ProcessAccount;
use crate::child_stderr::ChildStderr;
use crate::close::ChildExit;
use crate::control::{Backing, BoxFuture};
use crate::info::Health;
use crate::options::StopTimeouts;
use crate::throttle::WarnThrottle;

/// The phases of a child's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The child is running, as far as this process knows.
    Running,
    /// The child has ended but has not been reaped. Other processes may still hold its pipes.
    Exited,
    /// All its remaining descendants are being killed. This process no longer waits for output that is
    /// not yet in the child's pipes.
    Over,
    /// The child was reaped, and no descendant is left.
    Gone,
}

/// How far the stopping of a child has advanced. Each stage is stronger than the one before.
#[derive(Debug, Default)]
pub(crate) struct StopStage(AtomicU8);

impl StopStage {
    /// Its input was ended.
    pub(crate) const ASKED: u8 = 1;
    const TERMINATED: u8 = 2;
    const KILLED: u8 = 3;

    pub(crate) fn raise(&self, to: u8) {
        self.0.fetch_max(to, Ordering::Relaxed);
    }

    fn words(&self) -> String {
        match self.0.load(Ordering::Relaxed) {
            0 => "by itself".into(),
            Self::ASKED => "after the end of its input".into(),
            Self::TERMINATED => format!("after {}", held::TERMINATION),
            _ => "after it was killed".into(),
        }
    }
}

/// The state of a child: its processes, the stage of stopping it, and its end.
pub(crate) struct Lifecycle(Arc<Life>);

struct Life {
    pid: u32,
    name: String,
    account: Option<ProcessAccount>,
    stage: Arc<StopStage>,
    unread: Arc<Unread>,
    /// The number of unread bytes when the child ended.
    left_unread: Mutex<Option<u64>>,
    is_counted: AtomicBool,
    /// `None` once it was passed to the reaper.
    held: Mutex<Option<Held>>,
    phase: watch::Sender<Phase>,
    status: Mutex<Option<ExitStatus>>,
    guardian_lost: AtomicBool,
    is_stopped: AtomicBool,
    stops: WarnThrottle,
    stderr: Stderr,
    stderr_mode: ChildStderr,
    stop: StopTimeouts,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Lifecycle {
    pub(super) fn new(held: Held, config: &ProcessConfig) -> io::Result<Self> {
        let Some(pid) = held.pid() else {
            held.end(None);
            return Err(io::ErrorKind::InvalidData.into());
        };
        if let Some(account) = &config.account {
            account.note(|counts| counts.started += 1);
        }
        Ok(Self(Arc::new(Life {
            pid,
            name: config.name(),
            account: config.account.clone(),
            stage: Arc::default(),
            unread: Arc::default(),
            left_unread: Mutex::default(),
            is_counted: AtomicBool::new(false),
            held: Mutex::new(Some(held)),
            phase: watch::Sender::new(Phase::Running),
            status: Mutex::new(None),
            guardian_lost: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            stops: WarnThrottle::new(move |count| {
                tracing::warn!(pid, count, "the program was stopped more times by signals");
            }),
            stderr: Stderr::default(),
            stderr_mode: config.stderr.clone(),
            stop: config.stop,
            tasks: Mutex::new(Vec::new()),
        })))
    }

    /// Waits until the child has reached [`Phase::Over`].
    pub(crate) fn over(&self) -> BoxFuture<'static, ()> {
        let mut phase = self.0.phase.subscribe();
        Box::pin(async move {
            let _ = phase.wait_for(|phase| *phase >= Phase::Over).await;
        })
    }

    /// Returns how long reading the remaining output from its pipes may take.
    #[cfg_attr(unix, allow(dead_code))]
    pub(crate) fn drain(&self) -> Duration {
        self.0.stop.drain
    }

    pub(crate) fn stage(&self) -> Arc<StopStage> {
        self.0.stage.clone()
    }

    /// Returns the counter of unread input.
    pub(super) fn unread(&self) -> Arc<Unread> {
        self.0.unread.clone()
    }

    /// Starts to read stderr and to wait for the child's end. Must be called within a runtime.
    pub(crate) fn watch(&self, stderr: impl AsyncRead + Send + Unpin + 'static) -> io::Result<()> {
        let ended = match &*lock(&self.0.held) {
            Some(held) => {
                let life = self.0.clone();
                held.ended(move |by| life.stopped(by))?
            }
            None => return Ok(()),
        };
        let mode = self.0.stderr_mode.clone();
        let drain = self.0.stderr.drain(stderr, mode, self.0.name.clone(), self.0.pid);
        let life = self.0.clone();
        let wait = tokio::spawn(async move {
            if life.exited(ended.await) {
                tokio::time::sleep(life.stop.drain).await;
            }
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

    fn child(&self) -> Option<u32> {
        (*self.0.phase.borrow() == Phase::Running).then_some(self.0.pid)
    }

    fn is_stopped(&self) -> bool {
        self.child().is_some() && self.0.is_stopped.load(Ordering::Relaxed)
    }

    fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let life = self.0.clone();
        Box::pin(async move {
            // A child that closed its stdout is usually about to exit. If it continues to run, the line
            // ends without an exit status.
            let ended = timeout(life.stop.drain, life.reach(Phase::Exited)).await;
            match ended {
                Ok(()) => life.exit().await,
                Err(_) => None,
            }
        })
    }

    fn exited(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let life = self.0.clone();
        Box::pin(async move {
            life.reach(Phase::Exited).await;
            life.exit().await
        })
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let life = self.0.clone();
        Box::pin(async move {
            life.stage.raise(StopStage::ASKED);
            let mut has_ended = life.ends_within(life.stop.end_of_input).await;
            if !has_ended && life.can_be_told() {
                life.press(StopStage::TERMINATED, Held::terminate);
                has_ended = life.ends_within(life.stop.terminate).await;
            }
            if !has_ended {
                life.press(StopStage::KILLED, Held::kill);
                life.ends_within(life.stop.drain).await;
            }
            let exit = life.exit().await;
            life.finish();
            // If processes take longer to end, the reaper waits for them.
            let _ = timeout(life.stop.drain, life.reach(Phase::Gone)).await;
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
        // This cannot fail: `self` owns the sender.
        let _ = phase.wait_for(|phase| *phase >= wanted).await;
    }

    async fn ends_within(&self, patience: Duration) -> bool {
        timeout(patience, self.reach(Phase::Exited)).await.is_ok()
    }

    /// Returns true if the child can be made to end without being killed.
    fn can_be_told(&self) -> bool {
        lock(&self.held).as_ref().is_none_or(Held::can_be_told)
    }

    /// Advances to `stage`, and applies it with `how`. The stage is recorded first, because the child
    /// may end before the call returns.
    fn press(&self, stage: u8, how: fn(&Held)) {
        self.stage.raise(stage);
        if let Some(held) = &*lock(&self.held) {
            how(held);
        }
    }

    /// Records that a signal has stopped the child, or that the child continues.
    fn stopped(&self, signal: Option<String>) {
        self.is_stopped.store(signal.is_some(), Ordering::Relaxed);
        let (pid, name) = (self.pid, &self.name);
        match signal.map(|signal| (signal, self.stops.admit(Instant::now()))) {
            Some((signal, Some(_))) => tracing::warn!(
                pid,
                "{name} was stopped by {signal}: it does nothing until it receives SIGCONT"
            ),
            Some((signal, None)) => tracing::debug!(pid, "{name} was stopped by {signal}"),
            None => tracing::info!(pid, "{name} continues: it received SIGCONT"),
        }
    }

    /// Records how the child ended. Returns true if other processes may still write to its pipes.
    fn exited(&self, end: End) -> bool {
        let (status, is_heard) = match end {
            End::Status(status) => (status, true),
            End::GuardianLost => {
                self.stage.raise(StopStage::KILLED);
                self.guardian_lost.store(true, Ordering::Relaxed);
                (Some(held::killed()), false)
            }
        };
        *lock(&self.left_unread) = self.unread.bytes();
        *lock(&self.status) = status;
        self.count(status);
        self.phase.send_if_modified(|phase| advance(phase, Phase::Exited));
        is_heard
    }

    /// Returns how the child ended. Its stderr is included as far as it arrives within the drain time.
    async fn exit(&self) -> Option<ChildExit> {
        let status = (*lock(&self.status))?;
        let _ = timeout(self.stop.drain, self.stderr.finished()).await;
        Some(ChildExit {
            status,
            stderr_tail: self.stderr.tail(),
            unterminated: false,
            truncated: None,
            unread: *lock(&self.left_unread),
            guardian_lost: self.guardian_lost.load(Ordering::Relaxed),
        })
    }

    /// Kills all remaining processes of the child.
    fn finish(&self) {
        let status = self.end();
        let status = || status.unwrap_or_else(held::killed);
        lock(&self.status).get_or_insert_with(status);
        self.phase.send_if_modified(|phase| advance(phase, Phase::Over));
    }

    /// Kills all processes at once, without a runtime and without waiting.
    fn kill(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.end();
        self.phase.send_if_modified(|phase| advance(phase, Phase::Over));
    }

    /// Records in the account how the child itself ended.
    fn count(&self, status: Option<ExitStatus>) {
        if self.is_counted.swap(true, Ordering::Relaxed) {
            return;
        }
        let (pid, name, how) = (self.pid, &self.name, self.stage.words());
        let status = status.map_or_else(String::new, |status| format!(", {status}"));
        tracing::debug!(pid, "{name} ended {how}{status}");
        let Some(account) = &self.account else { return };
        account.note(|counts| match self.stage.0.load(Ordering::Relaxed) {
            0 => counts.by_itself += 1,
            StopStage::ASKED => counts.asked += 1,
            StopStage::TERMINATED => counts.terminated += 1,
            _ => counts.killed += 1,
        });
    }

    fn end(&self) -> Option<ExitStatus> {
        let held = lock(&self.held).take()?;
        self.unread.close();
        if *self.phase.borrow() < Phase::Exited {
            self.stage.raise(StopStage::KILLED);
        }
        self.count(None);
        let (phase, account) = (self.phase.clone(), self.account.clone());
        let (pid, name) = (self.pid, self.name.clone());
        held.end(Some(Box::new(move |left| {
            match left {
                Some(0) => tracing::debug!(pid, "{name} left no processes"),
                Some(left) => {
                    tracing::debug!(
                        pid,
                        others_killed = left,
                        "{name} left processes, which were killed"
                    );
                }
                None => {
                    tracing::debug!(pid, "{name} is gone; whether it left processes is unknown")
                }
            }
            if let Some(account) = account {
                account.note(|counts| match left {
                    Some(left) => {
                        counts.gone += 1;
                        counts.others_killed += u64::from(left);
                    }
                    None => counts.unchecked += 1,
                });
            }
            phase.send_if_modified(|phase| advance(phase, Phase::Gone));
        })))
    }
}

/// Advances the phase, which never goes back. Returns true if it changed.
fn advance(phase: &mut Phase, to: Phase) -> bool {
    let further = *phase < to;
    *phase = to.max(*phase);
    further
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
