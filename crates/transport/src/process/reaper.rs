//! The library's one permanent thread: it starts children, and waits for those whose line is gone.
//!
//! Starting a program stops the calling thread until the program runs, which takes milliseconds
//! that a thread of the runtime does not have. And a child whose line was dropped must be waited
//! for without a runtime, or it stays a zombie.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// What is to be done once somebody is reaped. It is told how many others a guardian had to kill, if
/// it has said that none is left.
pub(super) type Reaped = Box<dyn FnOnce(Option<u32>) + Send>;

enum Job {
    Spawn(Command, oneshot::Sender<io::Result<Child>>),
    Reap(Dying),
    Tell(Sender<()>),
    /// Groups are to be removed that were left by others who were killed.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    Sweep,
}

/// Somebody who was killed, or told to end.
struct Dying {
    child: Child,
    /// A guardian's.
    line: Option<Arc<UnixStream>>,
    then: Option<Reaped>,
}

/// Starts `command`. Cancel-safe: a child that nobody waits for any more is ended at once.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let (answer, started) = oneshot::channel();
    thread()?.send(Job::Spawn(command, answer)).map_err(|_| io::ErrorKind::BrokenPipe)?;
    started.await.map_err(|_| io::ErrorKind::BrokenPipe)?
}

/// Waits for a child that was killed. Never blocks.
pub(super) fn reap(child: Child, then: Option<Reaped>) {
    hand_over(Dying { child, line: None, then });
}

/// Waits for a guardian that was told to end. Never blocks.
#[cfg(target_os = "linux")]
pub(super) fn reap_guardian(guardian: Child, line: Arc<UnixStream>, then: Option<Reaped>) {
    hand_over(Dying { child: guardian, line: Some(line), then });
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
const MOST_SWEEPS: u32 = 100;

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
                    if let Err(Ok(unwanted)) = answer.send(spawned) {
                        kill_group(&unwanted);
                        self.dying.push(Dying { child: unwanted, line: None, then: None });
                    }
                }
                Ok(Job::Reap(dying)) => self.dying.push(dying),
                Ok(Job::Tell(waiting)) => self.waiting.push(waiting),
                Ok(Job::Sweep) => self.sweeps = MOST_SWEEPS,
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
                let lost = dying.line.is_some() && !went_well;
                *has_orphans |= lost;
                *sweeps = if lost { MOST_SWEEPS } else { *sweeps };
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
        match self.child.try_wait() {
            Ok(None) => {
                #[cfg(target_os = "linux")]
                if self.line.is_some() {
                    super::guardian::leash::wake(&self.child);
                }
                None
            }
            Ok(Some(status)) => Some(status.success()),
            Err(_) => Some(false),
        }
    }

    fn last_words(&self) -> Option<u32> {
        #[cfg(target_os = "linux")]
        return super::guardian::leash::last_words(self.line.as_deref()?);
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
pub use orphans::adopt_orphans;

/// The orphans of a guardian that somebody killed.
#[cfg(target_os = "linux")]
mod orphans {
    use super::*;
    use crate::process::guardian::tree;
    use rustix::process::{WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
    use std::sync::atomic::{AtomicBool, Ordering};

    static ADOPTED: AtomicBool = AtomicBool::new(false);

    /// Lets the orphans of a guardian that somebody kills come to this process, which ends them.
    /// Without this they are init's, and nobody's.
    ///
    /// This process MUST have no child processes but those of its lines: when a guardian was
    /// killed, whoever is a child of this process and of no line is an orphan, and is killed.
    ///
    /// # Errors
    /// The kernel does not let it be.
    pub fn adopt_orphans() -> io::Result<()> {
        set_child_subreaper(Some(getpid()))?;
        ADOPTED.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Kills and reaps all who are children of ours and were not started by us; whether there was
    /// anybody.
    pub(super) fn kill(started: &BTreeSet<u32>) -> bool {
        if !ADOPTED.load(Ordering::Relaxed) {
            return false;
        }
        let is_ours = |pid: &Pid| started.contains(&pid.as_raw_nonzero().get().unsigned_abs());
        let mut orphans = tree::children();
        orphans.retain(|pid| !is_ours(pid));
        for orphan in &orphans {
            // Only this thread reaps it, so the number is its own.
            let _ = kill_process(*orphan, Signal::KILL);
            let _ = waitpid(Some(*orphan), WaitOptions::NOHANG);
        }
        !orphans.is_empty()
    }
}

#[cfg(not(target_os = "linux"))]
mod orphans {
    pub(super) fn kill(_: &std::collections::BTreeSet<u32>) -> bool {
        false
    }
}
