//! What stands behind a guardian, where that is needed: outside a PID namespace, and where children of other
//! processes come to the process that we are for.
//!
//! ```text
//!   we ── socket pair ──────────┐
//!    │                          ▼
//!    └▶ keeper ─────────▶ guardian ─────▶ child …
//! ```
//!
//! If the guardian is killed, what it held comes to its keeper, and to nobody who could take it for
//! something else. If the keeper is killed, the guardian ends everything.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, getppid, kill_process, pidfd_open,
    set_dumpable_behavior, wait, waitpid,
};

use super::tree;
use super::wire::Report;
use crate::Hold;

/// A guardian that is told to end and has stopped is made to go on, and looked at so often.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// From here on only a process with CAP_SYS_PTRACE can trace this one, or read its memory.
pub(super) fn refuse_tracers() {
    let refuse = |behavior| _ = set_dumpable_behavior(behavior);
    refuse(DumpableBehavior::NotDumpable);
    if std::fs::read("/proc/self/fdinfo/0").is_err() {
        // Before Linux 5.14 it keeps a process from files of its own that a guardian needs.
        refuse(DumpableBehavior::Dumpable);
    }
}

/// The process that has started this one.
pub(super) struct Parent(OwnedFd);

impl Parent {
    /// `None` if the kernel does not tell; then there is only the end of the line.
    pub(super) fn open() -> Option<Self> {
        let parent = getppid()?;
        let pidfd = pidfd_open(parent, PidfdFlags::empty()).ok()?;
        // Now it is no other process of the same number. One that has ended meanwhile reads as ended.
        (getppid() == Some(parent)).then_some(Self(pidfd))
    }

    /// Waits until there is something to read on the line, or the line or the parent has ended; false for
    /// the parent.
    pub(super) fn lets_read(&self, line: &UnixStream) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(line, PollFlags::IN)];
        loop {
            match poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                // What it still ordered comes first.
                _ => return polled[0].revents().is_empty() || !polled[1].revents().is_empty(),
            }
        }
    }
}

/// Waits until the guardian ends, and kills what is left if it did not end well. When the line or the
/// parent has ended, a guardian that does not go is killed.
pub(super) fn keep(guardian: Pid, line: UnixStream, parent: Option<Parent>, hold: Hold) -> ! {
    refuse_tracers();
    let is_namespace = hold == Hold::Isolated;
    let Ok(pidfd) = pidfd_open(guardian, PidfdFlags::empty()) else { wait_blindly(guardian) };
    let mut silence: Option<Silence> = None;
    loop {
        let mut polled = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if silence.is_none() {
            polled.push(PollFd::new(&line, PollFlags::RDHUP));
            polled.extend(parent.as_ref().map(|it| PollFd::new(&it.0, PollFlags::IN)));
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: LOOK_AGAIN.subsec_nanos().into() };
        match poll(&mut polled, silence.is_some().then_some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => wait_blindly(guardian),
        }
        if let Ok(Some((_, status))) = waitpid(Some(guardian), WaitOptions::NOHANG) {
            if status.exit_status() == Some(0) {
                exit(0);
            }
            // The kernel has killed what was in its namespace.
            if !is_namespace {
                let killed = end_rest();
                // One that gave up by itself had a reason not to say so.
                if status.signaled() {
                    Report::Gone(killed).send(&line);
                }
            }
            exit(1);
        }
        let has_ended = |at: usize| polled.get(at).is_some_and(|it| !it.revents().is_empty());
        if has_ended(1) {
            silence.get_or_insert_default();
        } else if has_ended(2) {
            // Another process holds the line, and the guardian does not see its end.
            let _ = kill_process(guardian, Signal::KILL);
        }
        if silence.as_mut().is_some_and(|silence| silence.is_too_long(guardian)) {
            let _ = kill_process(guardian, Signal::KILL);
        }
    }
}

/// How long a guardian that was told to end has not been able to.
pub(in super::super) struct Silence {
    since: Instant,
    stopped_since: Option<Instant>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { since: Instant::now(), stopped_since: None }
    }
}

impl Silence {
    /// Most have ended by then, and none has to be looked at.
    const SHORTEST: Duration = Duration::from_millis(100);

    /// A guardian that is traced does not go on by SIGCONT. One that is on its way at all is never seen
    /// stopped for so long.
    const STOPPED: Duration = Duration::from_millis(500);

    /// Nothing keeps one that can run from saying something for so long.
    const LONGEST: Duration = Duration::from_secs(10);

    /// It has said something.
    pub(in super::super) fn is_broken(&mut self) {
        *self = Self::default();
    }

    /// Makes the guardian go on if it has stopped; whether it has not for so long that it never will. It
    /// must be a child that is not reaped.
    pub(in super::super) fn is_too_long(&mut self, guardian: Pid) -> bool {
        let _ = kill_process(guardian, Signal::CONT);
        if self.since.elapsed() < Self::SHORTEST {
            return false;
        }
        if tree::is_stopped(guardian) {
            let since = *self.stopped_since.get_or_insert_with(Instant::now);
            return since.elapsed() >= Self::STOPPED;
        }
        self.stopped_since = None;
        self.since.elapsed() >= Self::LONGEST
    }
}

/// Kills and reaps until there is no child left; how many were killed.
fn end_rest() -> i32 {
    let mut killed = 0;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((_, status))) => {
                killed += i32::from(status.terminating_signal() == Some(Signal::KILL.as_raw()));
            }
            Ok(None) => {
                for child in tree::children() {
                    let _ = kill_process(child, Signal::KILL);
                }
                std::thread::sleep(LOOK_AGAIN / 10);
            }
            Err(Errno::INTR) => {}
            Err(_) => return killed,
        }
    }
}

/// Where the kernel has no descriptors of processes.
fn wait_blindly(guardian: Pid) -> ! {
    loop {
        match waitpid(Some(guardian), WaitOptions::UNTRACED) {
            Ok(Some((_, status))) if status.stopped() => {
                let _ = kill_process(guardian, Signal::CONT);
            }
            Ok(Some((_, status))) => exit(i32::from(status.exit_status() != Some(0))),
            Ok(None) | Err(Errno::INTR) => {}
            Err(_) => exit(1),
        }
    }
}
