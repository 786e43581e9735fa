//! Which executable becomes the guardian of a child, and how a program is one itself.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The first argument of a process that is started to be a guardian.
pub(crate) const ASKED: &str = "tieline-guard";

/// The executable that becomes the guardian of each child: a small process between us and the
/// child, to which every orphan of the child's processes comes back. When the line ends, or this
/// process does, however it goes, the guardian kills what is left of them, also what has called
/// `setsid` or lost its parent.
///
/// Linux only; elsewhere it is ignored, but for [`Hold::Isolated`], which is refused there. Without one, a child's process group is ended with it: what
/// has left the group escapes, and all of it does when this process is killed.
///
/// ```no_run
/// use tieline_transport::{Guardian, Options};
///
/// fn main() {
///     // Before anything else: the guardians are this program, started again.
///     let guardian = Guardian::of_this_program();
///     let options = Options { guardian: Some(guardian), ..Options::default() };
///     // …
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guardian {
    program: PathBuf,
    args: Vec<OsString>,
    hold: Hold,
}

/// How a guardian holds what comes of its child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// As [`Cgroup`](Self::Cgroup) where that is possible, and as [`Descent`](Self::Descent) where it
    /// is not, which for an ordinary user it often is not. Nothing is said about it but a log line at
    /// debug level.
    #[default]
    Auto,
    /// By descent alone: the guardian is the parent of whoever loses theirs. It kills until it has no
    /// children.
    Descent,
    /// By descent and in a cgroup (v2) of their own, which the kernel kills in one step. A child that
    /// cannot be in one is not started: [`LaunchFailed`](crate::ErrorKind::LaunchFailed).
    Cgroup,
    /// In a PID namespace, with a user namespace around it for who is not allowed to make one
    /// otherwise: then nothing is left even if somebody kills this process and the guardian at the
    /// same instant. Where namespaces are not allowed the child is not started:
    /// [`IsolationRefused`](crate::ErrorKind::IsolationRefused).
    ///
    /// The child is the user it was, and files are whose they are. What it mounts, nobody else sees.
    /// `/proc` shows the namespace; where the kernel does not let it be mounted (in a container that
    /// hides parts of its own), the child sees the `/proc` from outside, in which its number is
    /// another. In a user namespace no program takes another user's rights when it starts, so
    /// `sudo` does not work.
    Isolated,
}

impl Guardian {
    /// This program. MUST be called first in `main`, before there is another thread (and so not below
    /// `#[tokio::main]`): where the process was started to be a guardian, this does not return, and
    /// with other threads about it refuses to be one, which it says on stderr.
    pub fn of_this_program() -> Self {
        let is_asked = std::env::args_os().nth(1).is_some_and(|asked| asked == ASKED);
        if is_asked {
            become_guardian();
        }
        // Also after the file was replaced, what runs here is what is started.
        Self::new("/proc/self/exe")
    }

    /// Another program, whose `main` begins with [`of_this_program`](Self::of_this_program).
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), hold: Hold::Auto }
    }

    /// The same with these arguments behind the one that makes it a guardian.
    #[must_use]
    pub fn with_args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The same, holding what comes of a child in this way.
    #[must_use]
    pub fn with_hold(mut self, hold: Hold) -> Self {
        self.hold = hold;
        self
    }

    pub(crate) fn hold(&self) -> Hold {
        self.hold
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn args(&self) -> &[OsString] {
        &self.args
    }
}

#[cfg(target_os = "linux")]
fn become_guardian() -> ! {
    crate::process::guard()
}

#[cfg(not(target_os = "linux"))]
fn become_guardian() -> ! {
    std::process::exit(2)
}
