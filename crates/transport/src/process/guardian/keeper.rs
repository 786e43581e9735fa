//! The parent of a guardian. One is needed outside a PID namespace, and if this process also adopts the
//! children of other processes.
//!
//! ```text
//!   us ── socket pair ──────────┐
//!    │                          ▼
//!    └▶ keeper ─────────▶ guardian ─────▶ child …
//! ```
//!
//! If the guardian is killed, its descendants become children of the keeper, which kills them. They
//! cannot be confused with other processes, because the keeper has no other children. If the keeper is
//! killed, the guardian kills all processes.

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
use crate::guardian::Hold;

/// How often a guardian whose socket was shut down is checked, and continued if it was stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Prevents processes without CAP_SYS_PTRACE from tracing this one or reading its memory.
pub(super) fn refuse_tracers() {
    let refuse = |behavior| _ = set_dumpable_behavior(behavior);
    refuse(DumpableBehavior::NotDumpable);
    if std::fs::read("/proc/self/fdinfo/0").is_err() {
        // Before Linux 5.14, this would deny access to files in /proc that a guardian needs.
        refuse(DumpableBehavior::Dumpable);
    }
}

/// The process that started this one.
pub(super) struct Parent(OwnedFd);

impl Parent {
    /// Opens the parent. Returns `None` if the kernel does not support this. In that case, only the end
    /// of the line is noticed.
    pub(super) fn open() -> Option<Self> {
        let parent = getppid()?;
        let pidfd = pidfd_open(parent, PidfdFlags::empty()).ok()?;
        // The parent has not changed, so the descriptor does not refer to another process that reuses
        // its ID.
        (getppid() == Some(parent)).then_some(Self(pidfd))
    }

    /// Waits until the line is readable or has ended, or the parent has ended. Returns false if only the
    /// parent has ended.
    pub(super) fn lets_read(&self, line: &UnixStream) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(line, PollFlags::IN)];
        loop {
            match poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                // Orders that the parent sent before its end are read first.
                _ => return polled[0].revents().is_empty() || !polled[1].revents().is_empty(),
            }
        }
    }
}

/// Waits until the guardian ends, and kills the remaining processes if it failed. If the line or the
/// parent has ended but the guardian does not, the guardian is killed.
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
            // If there was a namespace, the kernel has killed all processes in it.
            if !is_namespace {
                let killed = end_rest();
                // A guardian that exited by itself has already decided what to report.
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
            // Another process holds the line open, so the guardian does not see its end.
            let _ = kill_process(guardian, Signal::KILL);
        }
        if silence.as_mut().is_some_and(|silence| silence.is_too_long(guardian)) {
            let _ = kill_process(guardian, Signal::KILL);
        }
    }
}

/// A measurement of how long a guardian has made no progress since its socket was shut down.
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
    /// The time before the first check. Most guardians end within it.
    const SHORTEST: Duration = Duration::from_millis(100);

    /// How long a guardian may be stopped. A traced guardian ignores SIGCONT, but one that makes any
    /// progress is never stopped for this long.
    const STOPPED: Duration = Duration::from_millis(500);

    /// How long a guardian may be silent. A guardian that can run sends a report within this time.
    const LONGEST: Duration = Duration::from_secs(10);

    /// Restarts the measurement, because the guardian has sent a report.
    pub(in super::super) fn is_broken(&mut self) {
        *self = Self::default();
    }

    /// Continues the guardian if it is stopped. Returns true if it has made no progress for so long that
    /// it never will. The guardian must be a child that has not been reaped.
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

/// Kills and reaps children until none are left. Returns how many were killed.
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

/// Waits for the guardian on kernels without process descriptors.
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
