//! How we hold a child: as the leader of a group of its own, or by a guardian.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal};

use super::ended;
#[cfg(target_os = "linux")]
use super::guardian::handle::GuardianHandle;
use super::lifecycle::End;
use super::reaper::{self, Reaped};
use crate::BoxFuture;

/// A child that is not reaped. Signals are sent only while this is held: afterwards its number may
/// be a stranger's.
pub(super) enum Held {
    /// It is our own, and leads its group.
    Group(Child),
    /// It is its guardian's.
    #[cfg(target_os = "linux")]
    Guarded(GuardianHandle),
}

/// How a child is asked to end.
pub(super) const TERMINATION: &str = "SIGTERM";

/// What a signal that stops processes is called.
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

/// The status of one that was killed.
pub(super) fn killed() -> ExitStatus {
    ExitStatus::from_raw(Signal::KILL.as_raw())
}

impl Held {
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Group(child) => Some(child.id()),
            #[cfg(target_os = "linux")]
            Self::Guarded(handle) => Some(handle.pid.as_raw_nonzero().get().cast_unsigned()),
        }
    }

    /// Completes when it has ended; nothing is reaped by that. Must be called in a runtime.
    ///
    /// Until then `stopped` is told the signal that stops the child, and `None` when it goes on. Only a
    /// guardian knows that.
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

    /// Whether it can be told to end: by SIGTERM, always.
    pub(super) fn can_be_told(&self) -> bool {
        true
    }

    /// SIGTERM, for its whole group or all that came of it, and SIGCONT: a process that is stopped takes no
    /// signal but SIGKILL until it goes on.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL, likewise. It can still be asked for its end.
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

    /// Ends all of it at once and gives it up. Never blocks. `then` is called when it is reaped; the
    /// status is that of a child of our own which had ended.
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
