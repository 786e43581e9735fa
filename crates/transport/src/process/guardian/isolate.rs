//! A PID namespace for a child and its descendants.
//!
//! ```text
//!   us ── socket pair ─────────────┐
//!    │                             ▼
//!    └▶ guardian, outside ──▶ guardian, inside: the namespace's init ──▶ child …
//! ```
//!
//! When the init process of a namespace ends, for any reason, the kernel kills all other processes in
//! it. The kernel also kills the init process when the guardian outside ends. Therefore, no descendant
//! survives if either of them is killed. The process inside is an ordinary guardian; the one outside is
//! its [keeper](super::keeper).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::exit;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, getegid, geteuid, set_parent_process_death_signal};

use super::exec::{self, Namespaces};
use crate::anonymous_pipe::anonymous_pipe;

/// The side on which this process continues.
pub(super) enum Side {
    /// This process is outside; the value is the ID of the init process inside.
    Outside(Pid),
    Inside(Inside),
}

pub(super) struct Inside {
    /// True if `/proc` shows the namespace.
    pub(super) has_proc: bool,
    /// The `/proc` of the outer namespace.
    outside: Option<File>,
}

/// Creates the namespaces and an init process in them. Without the privilege to create them directly, they
/// are created in a user namespace that maps only the current user and group.
///
/// # Errors
/// The kernel does not allow it. The error can be returned on either side.
pub(super) fn enter() -> io::Result<Side> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let (alive, keep) = anonymous_pipe()?;
    let (forked, is_mapped) = match exec::fork(Namespaces::Plain, None) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
            (exec::fork(Namespaces::InUserNamespace, None)?, true)
        }
        forked => (forked?, false),
    };
    if let Some(first) = forked {
        // The process inside watches the pipe, whose end here is closed when this process ends.
        std::mem::forget(keep);
        return Ok(Side::Outside(first));
    }
    drop(keep);
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if is_alone(&alive)? {
        // The process outside ended before the kernel registered the request.
        exit(1);
    }
    if is_mapped {
        // A process may not map a group as long as it could drop groups that restrict its access.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    let outside = File::open("/proc").ok();
    // Later mounts outside also appear here, but mounts made here do not appear outside.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let has_proc = mount("proc", "/proc", "proc", flags, None).is_ok();
    Ok(Side::Inside(Inside { has_proc, outside }))
}

impl Inside {
    /// Returns the process ID that our only child has in the outer namespace, if the kernel reports it.
    pub(super) fn child_outside(self) -> Option<Pid> {
        let outside = self.outside?;
        let children = format!("/proc/self/fd/{}/thread-self/children", outside.as_raw_fd());
        let children = fs::read_to_string(children).ok()?;
        children.split_ascii_whitespace().next()?.parse().ok().and_then(Pid::from_raw)
    }
}

/// Returns true if no process has the other end of the pipe open. Nothing is ever written to the pipe.
fn is_alone(alive: &OwnedFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(alive, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut polled, Some(&now))? > 0)
}
