//! A PID namespace for all that comes of one child.
//!
//! ```text
//!   we ── socket pair ─────────────┐
//!    │                             ▼
//!    └▶ guardian, outside ──▶ guardian, inside: the namespace's first process ──▶ child …
//! ```
//!
//! When a namespace's first process ends, however it does, the kernel kills all others in it; and it
//! kills the first process when the one outside ends. So there is nobody who could be killed in such
//! a way that something is left. The one inside is what a guardian is otherwise; the one outside
//! is its [keeper](super::keeper).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::process::exit;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, getegid, geteuid, set_parent_process_death_signal};

use super::exec::{self, Namespaces};

/// Which of the two this process is from now on.
pub(super) enum Side {
    /// And the number of the first process inside.
    Outside(Pid),
    Inside(Inside),
}

pub(super) struct Inside {
    /// What `/proc` shows is the namespace.
    pub(super) has_proc: bool,
    /// The `/proc` from outside.
    outside: Option<File>,
}

/// Makes the namespaces and a first process in them. Whoever may make them as they are does; for
/// everybody else there is a user namespace around them, in which they are who they were.
///
/// # Errors
/// The kernel does not allow it. Inside, too.
pub(super) fn enter() -> io::Result<Side> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let (mut alive, keep) = io::pipe()?;
    let (forked, is_mapped) = match exec::fork(Namespaces::Plain, None) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
            (exec::fork(Namespaces::InUserNamespace, None)?, true)
        }
        forked => (forked?, false),
    };
    if let Some(first) = forked {
        // Until this process ends, the one inside knows by it that it is there.
        std::mem::forget(keep);
        return Ok(Side::Outside(first));
    }
    drop(keep);
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if is_alone(&mut alive)? {
        // The one outside went before the kernel knew.
        exit(1);
    }
    if is_mapped {
        // Whoever maps a group may not drop groups that keep them out of something.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    let outside = File::open("/proc").ok();
    // What is mounted outside later appears here, too, and nothing from here there.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let has_proc = mount("proc", "/proc", "proc", flags, None).is_ok();
    Ok(Side::Inside(Inside { has_proc, outside }))
}

impl Inside {
    /// The number that our only child has outside, where the kernel tells.
    pub(super) fn child_outside(self) -> Option<Pid> {
        let outside = self.outside?;
        let children = format!("/proc/self/fd/{}/thread-self/children", outside.as_raw_fd());
        let children = fs::read_to_string(children).ok()?;
        children.split_ascii_whitespace().next()?.parse().ok().and_then(Pid::from_raw)
    }
}

/// Whether nobody has the other end any more. Nothing is ever written to it.
fn is_alone(alive: &mut io::PipeReader) -> io::Result<bool> {
    let mut polled = [PollFd::new(alive, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut polled, Some(&now))? > 0)
}
