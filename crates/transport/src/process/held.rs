//! The ways to hold a child: as the leader of its own process group, or by a guardian.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal};

use super::end::End;
use super::ended;
#[cfg(target_os = "linux")]
use super::guardian::handle::GuardianHandle;
use super::reaper::{self, Reaped};
use crate::control::BoxFuture;

/// A child that has not been reaped. Signals are sent only while this value exists: afterwards the
/// system may reuse the process ID.
pub(super) enum Held {
    /// Our own child, which leads its process group.
    Group(Child),
    /// The child of a guardian.
    #[cfg(target_os = "linux")]
    Guarded(GuardianHandle),
}

/// The name, for messages, of the signal that makes a child end.
pub(super) const TERMINATION: &str = "SIGTERM";

/// Returns the name of a signal that stops processes.
#[cfg(target_os = "linux")]
fn signal_name(signal: i32) -> String {
    let names = [
        (Signal::STOP, "SIGSTOP"),
        (Signal::TSTP, "SIGTSTP"),
        (Signal::TTIN, "SIGTTIN"),
        (Signal::TTOU, "SIGTTOU"),
    ];
    let known = names.iter().find(|(it, _)| it.as_raw() == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// Returns the exit status of a killed process.
pub(super) fn killed() -> ExitStatus {
    ExitStatus::from_raw(Signal::KILL.as_raw())
}

impl Held {
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Group(child) => Some(child.id()),
            #[cfg(target_os = "linux")]
            Self::Guarded(handle) => Some(handle.pid.as_raw_nonzero().get().unsigned_abs()),
        }
    }

    /// Waits until the child has ended, without reaping it. Must be called within a runtime.
    ///
    /// Until then, `stopped` is called with the signal when one stops the child, and with `None` when
    /// the child continues. Only children with a guardian report this.
    pub(super) fn ended(
        &self,
        stopped: impl Fn(Option<String>) + Send + 'static,
    ) -> io::Result<BoxFuture<'static, End>> {
        match self {
            Self::Group(child) => {
                drop(stopped);
                let pid = pid_of(child).ok_or(io::ErrorKind::InvalidData)?;
                let watch = ended::Watch::new(pid)?;
                Ok(Box::pin(async move {
                    watch.wait().await;
                    End::Status(ended::peek(pid))
                }))
            }
            #[cfg(target_os = "linux")]
            Self::Guarded(handle) => {
                let ended = handle.ended(move |signal| stopped(signal.map(signal_name)));
                Ok(Box::pin(async move {
                    ended.await.map_or(End::GuardianLost, |status| End::Status(Some(status)))
                }))
            }
        }
    }

    /// Returns true if the child can be made to end without being killed. This is always possible on
    /// Unix, with SIGTERM.
    pub(super) fn can_be_told(&self) -> bool {
        true
    }

    /// Sends SIGTERM and SIGCONT to the child's process group or, with a guardian, to all its
    /// descendants. A stopped process handles no signal but SIGKILL until it continues.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL to the same processes. Afterwards, callers can still wait for the child's end.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        match self {
            Self::Group(child) => {
                if let Some(pid) = pid_of(child) {
                    reaper::signal_group(pid, signal);
                    if signal == Signal::TERM {
                        reaper::signal_group(pid, Signal::CONT);
                    }
                }
            }
            #[cfg(target_os = "linux")]
            Self::Guarded(handle) if signal == Signal::KILL => handle.kill(),
            #[cfg(target_os = "linux")]
            Self::Guarded(handle) => handle.terminate(),
        }
    }

    /// Kills all its processes at once and passes the child to the reaper. Never blocks. `then` is
    /// called when the child is reaped. Returns the exit status if it is our own child and had already
    /// ended.
    pub(super) fn end(self, then: Option<Reaped>) -> Option<ExitStatus> {
        match self {
            Self::Group(mut child) => {
                reaper::kill_group(&child);
                let status = child.try_wait().ok().flatten();
                reaper::reap(child, then);
                status
            }
            #[cfg(target_os = "linux")]
            Self::Guarded(handle) => {
                handle.release(then);
                None
            }
        }
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}
