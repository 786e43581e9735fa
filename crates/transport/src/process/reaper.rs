//! The library's only permanent thread. It starts children, and reaps those whose line has ended.
//!
//! Starting a program blocks the calling thread for milliseconds until the program runs, which a runtime
//! thread cannot afford. Also, a child whose line was dropped must be reaped without a runtime, or it
//! remains a zombie.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command};
#[cfg(target_os = "linux")]
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal};
#[cfg(target_os = "linux")]
use tokio::net::UnixStream;
use tokio::sync::oneshot;

#[cfg(target_os = "linux")]
use super::guardian::{keeper::Silence, last_reports::LastReports};

/// A function that is called when a process is reaped. The argument is the number of other processes
/// that its guardian killed, if the guardian reported that none are left.
pub(super) type Reaped = Box<dyn FnOnce(Option<u32>) + Send>;

enum Job {
    Spawn(Command, oneshot::Sender<io::Result<Unclaimed>>),
    Reap(Dying),
    Tell(Sender<()>),
    /// Reap orphans that this process adopted from others, if they have ended.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    ReapOrphans,
    /// Remove cgroups of guardians that were killed.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    Sweep,
}

/// A process that was killed, or a guardian whose socket was shut down.
struct Dying {
    child: Child,
    #[cfg(target_os = "linux")]
    guardian: Option<DyingGuardian>,
    then: Option<Reaped>,
}

/// A guardian whose socket was shut down, which makes it end its processes and exit.
#[cfg(target_os = "linux")]
struct DyingGuardian {
    line: Arc<UnixStream>,
    reports: LastReports,
    silence: Silence,
}

/// Starts `command`. Cancel-safe: if the future is dropped, the child is killed at once.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let (answer, started) = oneshot::channel();
    thread()?.send(Job::Spawn(command, answer)).map_err(|_| io::ErrorKind::BrokenPipe)?;
    let started = started.await.map_err(|_| io::ErrorKind::BrokenPipe)??;
    started.claim().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
}

/// A child that was started but not claimed yet. The caller's future may be dropped before it receives
/// the child, or right after. An unclaimed child is killed on drop.
struct Unclaimed(Option<Child>);

impl Unclaimed {
    fn claim(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            kill_group(&child);
            reap(child, None);
        }
    }
}

/// Reaps a child that was killed. Never blocks.
pub(super) fn reap(child: Child, then: Option<Reaped>) {
    hand_over(Dying {
        child,
        #[cfg(target_os = "linux")]
        guardian: None,
        then,
    });
}

/// Reaps a guardian whose socket was shut down. Never blocks.
#[cfg(target_os = "linux")]
pub(super) fn reap_guardian(
    guardian: Child,
    line: Arc<UnixStream>,
    reports: LastReports,
    then: Option<Reaped>,
) {
    let dying = DyingGuardian { line, reports, silence: Silence::default() };
    hand_over(Dying { child: guardian, guardian: Some(dying), then });
}

/// Removes cgroups left by guardians that were killed. Called before the first cgroup is created.
#[cfg(target_os = "linux")]
pub(super) fn sweep_at_first() {
    static FIRST: std::sync::Once = std::sync::Once::new();
    FIRST.call_once(|| {
        if let Ok(thread) = thread() {
            let _ = thread.send(Job::Sweep);
        }
    });
}

fn hand_over(mut dying: Dying) {
    match thread() {
        // The thread ends only with the process.
        Ok(thread) => _ = thread.send(Job::Reap(dying)),
        Err(_) => _ = dying.is_over(),
    }
}

/// Waits until all processes whose line has ended have been reaped. Returns false if some have not been
/// reaped after `limit`. This blocks the thread; call it at the end of a program.
///
/// The remaining processes are still killed by their guardians, if they have one.
pub fn until_children_are_gone(limit: Duration) -> bool {
    let Some(Ok(thread)) = THREAD.get() else { return true };
    let (told, wait) = channel();
    thread.send(Job::Tell(told)).is_ok() && wait.recv_timeout(limit).is_ok()
}

static THREAD: OnceLock<Result<Sender<Job>, io::ErrorKind>> = OnceLock::new();

fn thread() -> io::Result<Sender<Job>> {
    let started = THREAD.get_or_init(|| {
        let (sender, jobs) = channel();
        let builder = std::thread::Builder::new().name("tieline-process".into());
        let spawned = builder.spawn(move || Reaper::default().run(&jobs));
        spawned.map(|_| sender).map_err(|error| error.kind())
    });
    started.clone().map_err(io::Error::from)
}

/// Kills `child` and its process group.
pub(super) fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        signal_group(pid, Signal::KILL);
    }
}

/// Signals the child's process group, and the child itself if it has left the group. The IDs of both
/// stay valid until the child is reaped.
pub(super) fn signal_group(child: Pid, signal: Signal) {
    // The group may be empty, or contain only a zombie.
    let _ = rustix::process::kill_process_group(child, signal);
    if rustix::process::getpgid(Some(child)) != Ok(child) {
        let _ = rustix::process::kill_process(child, signal);
    }
}

/// The first interval at which the thread checks the children. A killed child ends within milliseconds,
/// unless the kernel holds it. Because the thread polls, no child delays the others.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const LOOK_AT_LEAST: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Reaper {
    /// Processes that this thread has started but not reaped.
    started: BTreeSet<u32>,
    dying: Vec<Dying>,
    /// True if a guardian was lost, so that its orphans may have become our children.
    has_orphans: bool,
    /// The number of remaining searches for abandoned cgroups.
    sweeps: u32,
    waiting: Vec<Sender<()>>,
}

/// The maximum number of attempts to remove abandoned cgroups. Members of a killed cgroup end within
/// milliseconds. A cgroup that cannot be removed by then is left to a later sweep.
const MAX_SWEEPS: u32 = 100;

impl Reaper {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut pause = LOOK_AGAIN;
        loop {
            let job = if self.dying.is_empty() && !self.has_orphans && self.sweeps == 0 {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(pause)
            };
            pause = LOOK_AGAIN;
            match job {
                Ok(Job::Spawn(mut command, answer)) => {
                    let spawned = command.spawn();
                    self.started.extend(spawned.as_ref().ok().map(Child::id));
                    // If the caller's future was dropped, the child is dropped here, which queues it to
                    // be reaped.
                    let _ = answer.send(spawned.map(|child| Unclaimed(Some(child))));
                }
                Ok(Job::Reap(dying)) => self.dying.push(dying),
                Ok(Job::Tell(waiting)) => self.waiting.push(waiting),
                Ok(Job::Sweep) => self.sweeps = MAX_SWEEPS,
                Ok(Job::ReapOrphans) => orphans::reap(&self.started),
                Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(LOOK_AT_LEAST),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let Self { started, dying, has_orphans, sweeps, waiting } = self;
        dying.retain_mut(|dying| match dying.is_over() {
            None => true,
            Some(went_well) => {
                started.remove(&dying.child.id());
                let lost = dying.is_guardian() && !went_well;
                *has_orphans |= lost;
                *sweeps = if lost { MAX_SWEEPS } else { *sweeps };
                if let Some(then) = dying.then.take() {
                    then(dying.others_killed());
                }
                false
            }
        });
        *sweeps = if *sweeps > 0 && sweep() { *sweeps - 1 } else { 0 };
        if *has_orphans {
            *has_orphans = orphans::kill(started);
        }
        if dying.is_empty() && !*has_orphans && *sweeps == 0 {
            for waiting in waiting.drain(..) {
                // The receiver may have timed out.
                let _ = waiting.send(());
            }
        }
    }
}

impl Dying {
    /// Reaps the process if it has ended. Returns whether it ended successfully, or `None` if it is
    /// running.
    fn is_over(&mut self) -> Option<bool> {
        let ended = self.child.try_wait();
        #[cfg(target_os = "linux")]
        if let Some(guardian) = &mut self.guardian {
            // This also reads the reports that it sent before it ended.
            if guardian.reports.read(&guardian.line) {
                guardian.silence.is_broken();
            }
            let is_there = matches!(ended, Ok(None));
            if is_there && guardian.silence.is_too_long(Pid::from_child(&self.child)) {
                // A tracer holds the guardian. Its descendants become children of this process or of its
                // keeper.
                tracing::warn!(pid = self.child.id(), "a guardian does not respond and is killed");
                let _ = self.child.kill();
            }
        }
        match ended {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.success()),
            Err(_) => Some(false),
        }
    }

    fn is_guardian(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.guardian.is_some();
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Returns how many other processes the guardian killed, if it reported that none are left.
    fn others_killed(&self) -> Option<u32> {
        #[cfg(target_os = "linux")]
        return self.guardian.as_ref()?.reports.killed;
        #[cfg(not(target_os = "linux"))]
        None
    }
}

fn sweep() -> bool {
    #[cfg(target_os = "linux")]
    return super::guardian::group::sweep();
    #[cfg(not(target_os = "linux"))]
    false
}

#[cfg(target_os = "linux")]
pub(super) use orphans::is_shared;
#[cfg(target_os = "linux")]
pub use orphans::{adopt_orphans, reap_orphans};

/// The orphans of guardians that were killed.
#[cfg(target_os = "linux")]
mod orphans {
    use super::*;
    use crate::process::guardian::tree;
    use rustix::process::{WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    /// Whether this process also adopts the children of other processes, which cannot be distinguished
    /// from a guardian's orphans. Set when adoption is enabled.
    static IS_SHARED: OnceLock<bool> = OnceLock::new();

    /// Whether a request to reap orphans is already queued for the thread.
    static IS_ASKED: AtomicBool = AtomicBool::new(false);

    /// Makes this process adopt the orphans of guardians that were killed, and kill them. Without this,
    /// they are adopted by the init process, which does not kill them.
    ///
    /// From then on, this process MUST NOT start child processes except those of its lines. After a
    /// guardian was killed, every child of this process that belongs to no line is treated as an orphan
    /// and killed.
    ///
    /// If this process also adopts the children of other processes, none of them is killed. A guardian's
    /// orphans are then adopted by a second process, its keeper. This applies to the init process of a
    /// container (PID 1), and to a process that already has children at the first call, for example
    /// because a shell started them and then became this program by `exec`. Such a process should call
    /// [`reap_orphans`] after each SIGCHLD.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn adopt_orphans() -> io::Result<()> {
        // This is determined before any orphan can be adopted.
        IS_SHARED.get_or_init(|| getpid() == Pid::INIT || !tree::children().is_empty());
        Ok(set_child_subreaper(Some(getpid()))?)
    }

    /// Reaps all children that have ended and belong to no line, without waiting. Returns false if this
    /// process does not adopt the children of other processes (see [`adopt_orphans`]); in that case,
    /// this need not be called again.
    ///
    /// This is for programs that do not wait for children themselves. Call it once at the start and
    /// after each SIGCHLD.
    pub fn reap_orphans() -> bool {
        if is_shared() && !IS_ASKED.swap(true, Relaxed) {
            if let Ok(thread) = thread() {
                let _ = thread.send(Job::ReapOrphans);
            }
        }
        is_shared()
    }

    /// Returns true if an adopted orphan may be an unrelated process.
    pub(in super::super) fn is_shared() -> bool {
        IS_SHARED.get().is_some_and(|is_shared| *is_shared)
    }

    /// Returns the children of this process that this thread has not started.
    fn others(started: &BTreeSet<u32>) -> Vec<Pid> {
        let mut others = tree::children();
        others.retain(|pid| !started.contains(&number(*pid)));
        others
    }

    /// Reaps children that this thread has not started, if they have ended.
    pub(super) fn reap(started: &BTreeSet<u32>) {
        IS_ASKED.store(false, Relaxed);
        for other in others(started) {
            let _ = waitpid(Some(other), WaitOptions::NOHANG);
        }
    }

    /// Kills and reaps the orphans of a guardian that was killed. Returns true if there were any.
    pub(super) fn kill(started: &BTreeSet<u32>) -> bool {
        if IS_SHARED.get() != Some(&false) {
            return false;
        }
        let orphans = others(started);
        for orphan in &orphans {
            // Only this thread reaps it, so its process ID is still valid.
            let _ = kill_process(*orphan, Signal::KILL);
            let _ = waitpid(Some(*orphan), WaitOptions::NOHANG);
        }
        !orphans.is_empty()
    }

    fn number(pid: Pid) -> u32 {
        pid.as_raw_nonzero().get().unsigned_abs()
    }
}

#[cfg(not(target_os = "linux"))]
mod orphans {
    pub(super) fn kill(_: &std::collections::BTreeSet<u32>) -> bool {
        false
    }

    pub(super) fn reap(_: &std::collections::BTreeSet<u32>) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::Stdio;

    #[test]
    fn unclaimed_child_is_killed() {
        let (said, write) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$; exec sleep 10000"]).process_group(0);
        command.stdin(Stdio::null()).stdout(write);
        let (answer, started) = oneshot::channel();
        thread().unwrap().send(Job::Spawn(command, answer)).ok().unwrap();
        let mut pid = String::new();
        BufReader::new(said).read_line(&mut pid).unwrap();
        // When this returns, all earlier jobs are done, so the child has been sent to the caller.
        assert!(until_children_are_gone(tieline_testkit::wait::LIMIT));
        drop(started);
        tieline_testkit::wait::until_ended(pid.trim().parse().unwrap());
        assert!(until_children_are_gone(tieline_testkit::wait::LIMIT));
    }
}
