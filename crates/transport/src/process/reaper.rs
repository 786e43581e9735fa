//! The library's one permanent thread: it starts children, and waits for those whose line is gone.
//!
//! Starting a program stops the calling thread until the program runs, which takes milliseconds
//! that a thread of the runtime does not have. And a child whose line was dropped must be waited
//! for without a runtime, or it stays a zombie.

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
use super::guardian::{handle::LastWords, keeper::Silence};

/// What is to be done once somebody is reaped. It is told how many others a guardian had to kill, if
/// it has said that none is left.
pub(super) type Reaped = Box<dyn FnOnce(Option<u32>) + Send>;

enum Job {
    Spawn(Command, oneshot::Sender<io::Result<Unclaimed>>),
    Reap(Dying),
    Tell(Sender<()>),
    /// Children of other processes may have come to us and ended.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    ReapOrphans,
    /// Groups are to be removed that were left by others who were killed.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    Sweep,
}

/// Somebody who was killed, or told to end.
struct Dying {
    child: Child,
    #[cfg(target_os = "linux")]
    guardian: Option<DyingGuardian>,
    then: Option<Reaped>,
}

/// A guardian that was told to end.
#[cfg(target_os = "linux")]
struct DyingGuardian {
    line: Arc<UnixStream>,
    words: LastWords,
    silence: Silence,
}

/// Starts `command`. Cancel-safe: a child that nobody waits for any more is ended at once.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let (answer, started) = oneshot::channel();
    thread()?.send(Job::Spawn(command, answer)).map_err(|_| io::ErrorKind::BrokenPipe)?;
    let started = started.await.map_err(|_| io::ErrorKind::BrokenPipe)??;
    started.claim().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
}

/// A child that was started, until somebody takes it: who asked for it may be gone when it is handed
/// over, or in the moment behind that.
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

/// Waits for a child that was killed. Never blocks.
pub(super) fn reap(child: Child, then: Option<Reaped>) {
    hand_over(Dying {
        child,
        #[cfg(target_os = "linux")]
        guardian: None,
        then,
    });
}

/// Waits for a guardian that was told to end. Never blocks.
#[cfg(target_os = "linux")]
pub(super) fn reap_guardian(
    guardian: Child,
    line: Arc<UnixStream>,
    words: LastWords,
    then: Option<Reaped>,
) {
    let dying = DyingGuardian { line, words, silence: Silence::default() };
    hand_over(Dying { child: guardian, guardian: Some(dying), then });
}

/// Before the first group is made: what others have left in the same place is removed.
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

/// Waits until everything that was started and whose line has ended is gone, at most so long; false
/// when something is not. Blocks; for the end of a program.
///
/// What ends later than this program is still ended: by its guardian, where it has one.
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
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const LOOK_AT_LEAST: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Reaper {
    /// Everybody whom this thread has started and who is not reaped.
    started: BTreeSet<u32>,
    dying: Vec<Dying>,
    /// A guardian was lost, and its orphans may have come to us.
    has_orphans: bool,
    /// How often more somebody's group is looked for that was left.
    sweeps: u32,
    waiting: Vec<Sender<()>>,
}

/// Who was killed in a group is gone within milliseconds; one that is not is left to the next.
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
                    // Where nobody waits for it any more, it is dropped, and comes back to be reaped.
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
                    then(dying.last_words());
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
                // It may have waited long enough.
                let _ = waiting.send(());
            }
        }
    }
}

impl Dying {
    /// Reaps it, if it has ended: did it end well?
    fn is_over(&mut self) -> Option<bool> {
        let ended = self.child.try_wait();
        #[cfg(target_os = "linux")]
        if let Some(guardian) = &mut self.guardian {
            // Also what it said before it ended.
            if guardian.words.hear(&guardian.line) {
                guardian.silence.is_broken();
            }
            let is_there = matches!(ended, Ok(None));
            if is_there && guardian.silence.is_too_long(Pid::from_child(&self.child)) {
                // A tracer keeps it. What it held comes to us, or to its keeper.
                tracing::warn!(pid = self.child.id(), "a guardian does not answer and is killed");
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

    fn last_words(&self) -> Option<u32> {
        #[cfg(target_os = "linux")]
        return self.guardian.as_ref()?.words.killed;
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

/// The orphans of a guardian that somebody killed.
#[cfg(target_os = "linux")]
mod orphans {
    use super::*;
    use crate::process::guardian::tree;
    use rustix::process::{WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    /// Whether the children of other processes come to us, too: they would be taken for orphans of a
    /// guardian. Set when orphans are adopted.
    static IS_SHARED: OnceLock<bool> = OnceLock::new();

    /// Whether the thread is asked to reap orphans already: once is enough.
    static IS_ASKED: AtomicBool = AtomicBool::new(false);

    /// Makes the orphans of a guardian that was killed come to this process, which kills them. Without
    /// this they come to the init process, which does not.
    ///
    /// From here on this process MUST start no child processes but those of its lines: when a guardian
    /// was killed, every child of this process that belongs to no line is an orphan and is killed.
    ///
    /// Where the children of other processes come to this one, too, none of them is killed: the orphans of a
    /// guardian come to a second process behind it instead. This is so for the first process of a container
    /// (PID 1), and where this process has children when this is called first, because a shell
    /// started some and then became this program. Then call [`reap_orphans`] after each SIGCHLD.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn adopt_orphans() -> io::Result<()> {
        // Before any orphan can come.
        IS_SHARED.get_or_init(|| getpid() == Pid::INIT || !tree::children().is_empty());
        Ok(set_child_subreaper(Some(getpid()))?)
    }

    /// Reaps all children that have ended and belong to no line. Returns at once; false if no other
    /// process's children come to this one (see [`adopt_orphans`]), and then it need not be called again.
    ///
    /// For programs that wait for no children themselves. Call it once at the start, and after each SIGCHLD.
    pub fn reap_orphans() -> bool {
        if is_shared()
            && !IS_ASKED.swap(true, Relaxed)
            && let Ok(thread) = thread()
        {
            let _ = thread.send(Job::ReapOrphans);
        }
        is_shared()
    }

    /// Whether an orphan that comes to us may be a stranger.
    pub(in super::super) fn is_shared() -> bool {
        IS_SHARED.get().is_some_and(|is_shared| *is_shared)
    }

    /// The children of ours that this thread has not started.
    fn others(started: &BTreeSet<u32>) -> Vec<Pid> {
        let mut others = tree::children();
        others.retain(|pid| !started.contains(&number(*pid)));
        others
    }

    /// Reaps those that have ended.
    pub(super) fn reap(started: &BTreeSet<u32>) {
        IS_ASKED.store(false, Relaxed);
        for other in others(started) {
            let _ = waitpid(Some(other), WaitOptions::NOHANG);
        }
    }

    /// Kills and reaps the orphans of a guardian that was killed; whether there were any.
    pub(super) fn kill(started: &BTreeSet<u32>) -> bool {
        if IS_SHARED.get() != Some(&false) {
            return false;
        }
        let orphans = others(started);
        for orphan in &orphans {
            // Only this thread reaps it, so the number is its own.
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
    fn a_child_that_was_started_and_never_taken_is_ended() {
        let (said, write) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$; exec sleep 10000"]).process_group(0);
        command.stdin(Stdio::null()).stdout(write);
        let (answer, started) = oneshot::channel();
        thread().unwrap().send(Job::Spawn(command, answer)).ok().unwrap();
        let mut pid = String::new();
        BufReader::new(said).read_line(&mut pid).unwrap();
        // Whatever was asked before this is done: it is on its way to who asked.
        assert!(until_children_are_gone(tieline_testkit::wait::LIMIT));
        drop(started);
        tieline_testkit::wait::until_ended(pid.trim().parse().unwrap());
        assert!(until_children_are_gone(tieline_testkit::wait::LIMIT));
    }
}
