//! The executable that becomes a child's guardian.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The first argument of a process that is started as a guardian.
pub(crate) const ASKED: &str = "tieline-guard";

/// The executable that becomes the guardian of each child: a small process between this process and the
/// child that adopts every orphan among the child's descendants. When the line or this process ends, for
/// whatever reason, the guardian kills all remaining descendants, including those that called `setsid` or
/// lost their parent.
///
/// Guardians exist only on Linux. On other systems this option is ignored, except that
/// [`Hold::Isolated`] is refused. Without a guardian, only the child's process group is killed:
/// descendants that left the group escape, and all descendants escape if this process is killed.
///
/// ```no_run
/// use tieline_transport::{Guardian, Options};
///
/// fn main() {
///     // This must come first in `main`, because the guardians are this program, started again.
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

/// How a guardian contains the descendants of its child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// Contains descendants like [`Cgroup`](Self::Cgroup) if possible, and otherwise like
    /// [`Descent`](Self::Descent). For ordinary users, cgroups are often unavailable; a debug log line
    /// names the method in use.
    #[default]
    Auto,
    /// Contains descendants by descent: the guardian adopts those that lose their parent, and kills
    /// processes until it has no children left.
    Descent,
    /// Contains descendants by descent and in a cgroup (v2), which the kernel kills in one step. If no
    /// cgroup can be used, the child is not started: [`LaunchFailed`](crate::ErrorKind::LaunchFailed).
    Cgroup,
    /// Contains descendants in a PID namespace, which is inside a user namespace if the process lacks
    /// the privilege to create one directly. No descendant survives even if this process and the
    /// guardian are killed at the same instant. If namespaces are not allowed, the child is not started:
    /// [`IsolationRefused`](crate::ErrorKind::IsolationRefused).
    ///
    /// The child keeps its user, and files keep their owners. Its mounts are not visible to other
    /// processes. `/proc` shows the namespace; if the kernel does not allow mounting it (in a container
    /// that hides parts of its own `/proc`), the child sees the outer `/proc`, in which it has a
    /// different process ID. In a user namespace, no program gains another user's rights when it starts,
    /// so `sudo` does not work.
    Isolated,
}

impl Guardian {
    /// Returns a guardian that is another program, whose `main` begins with
    /// [`of_this_program`](Self::of_this_program).
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), hold: Hold::Auto }
    }

    /// Appends arguments after the argument that makes the program a guardian.
    #[must_use]
    pub fn with_args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets how the guardian contains the child's descendants.
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
