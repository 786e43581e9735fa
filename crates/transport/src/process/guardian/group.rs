//! A cgroup (v2) for a child and its descendants, below the cgroup of this process. The kernel can kill
//! all of them in one step.
//!
//! A guardian holds a lock on the directory of its cgroup as long as it runs. If a cgroup is not locked,
//! its guardian was killed; the next process that finds it kills its members and removes it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, DirEntry, FileType, FlockOperation, Mode, OFlags, chmodat, flock, fstat, fstatfs,
    mkdirat, openat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{geteuid, getpid};

/// The prefix of the names of guardians' cgroups. The guardian's process ID and a counter follow.
const PREFIX: &str = "tieline-guardian-";

/// The type of a cgroup2 file system according to `statfs`. It is checked because directories can also
/// be created in other file systems.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// The maximum number of cgroups below a program's own that are removed in one call. The next call
/// removes the rest.
const MAX_GROUPS: usize = 65_536;

/// A cgroup created by this process.
pub(super) struct Group {
    parent: OwnedFd,
    name: String,
    /// The locked directory.
    directory: OwnedFd,
    /// `cgroup.kill`: any write kills the members.
    kill: OwnedFd,
}

impl Group {
    /// Creates a cgroup below the cgroup of this process.
    ///
    /// # Errors
    /// There is no cgroup2 file system, permission is denied, or the kernel lacks `cgroup.kill` (before
    /// Linux 5.14).
    pub(super) fn make() -> io::Result<Self> {
        let parent = own()?;
        for attempt in 0..100 {
            let name = format!("{PREFIX}{}-{attempt}", getpid());
            match mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => continue,
                made => made?,
            }
            match take(parent.as_fd(), &name) {
                Ok((directory, kill)) => return Ok(Self { parent, name, directory, kill }),
                // Another process considered it abandoned and locked it first.
                Err(Errno::WOULDBLOCK | Errno::NODEV | Errno::NOENT) => continue,
                Err(error) => {
                    let _ = unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                    return Err(error.into());
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Returns the directory, in which a process can be started.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Sends SIGKILL to all members, including those that join during the call.
    pub(super) fn kill(&self) {
        // The cgroup may have been removed.
        let _ = rustix::io::write(&self.kill, b"1");
    }

    /// Kills the members, and removes the cgroup and those below it if no process is left in them.
    /// Returns true if the cgroup no longer exists.
    pub(super) fn remove(&self) -> bool {
        self.kill();
        remove(self.parent.as_fd(), self.name.as_ref()).is_ok()
    }
}

/// Checks whether guardians of this process can create a cgroup for their programs. Without a cgroup,
/// they search for the processes of a program, which takes longer.
///
/// # Errors
/// The error of the operating system: there is no cgroup v2 (before Linux 5.14, it has no `cgroup.kill`), or
/// the cgroup of this process is not delegated to its user.
pub fn check_cgroup() -> io::Result<()> {
    let group = Group::make()?;
    group.remove();
    Ok(())
}

/// Kills the members of cgroups whose guardians no longer run, and removes these cgroups. Returns true
/// if some could not be removed yet.
pub(in super::super) fn sweep() -> bool {
    let Ok(parent) = own() else { return false };
    let entries = Dir::read_from(&parent).into_iter().flatten().flatten();
    let mut is_left = false;
    for entry in entries {
        let name = entry.file_name().to_bytes();
        if !is_guardians(name) {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let Ok(group) = open(parent.as_fd(), name) else { continue };
        let is_ours = fstat(&group).is_ok_and(|it| it.st_uid == geteuid().as_raw());
        if is_ours && flock(&group, FlockOperation::NonBlockingLockExclusive).is_ok() {
            if let Ok(kill) = openat(&group, "cgroup.kill", TO_WRITE, Mode::empty()) {
                let _ = rustix::io::write(kill, b"1");
            }
            is_left |= remove(parent.as_fd(), name).is_err();
        }
    }
    is_left
}

fn is_guardians(name: &[u8]) -> bool {
    let Some(numbers) = name.strip_prefix(PREFIX.as_bytes()) else { return false };
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let numbers: Vec<_> = numbers.split(|byte| *byte == b'-').collect();
    numbers.len() == 2 && numbers.into_iter().all(is_number)
}

const TO_WRITE: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC);

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Locks the cgroup's directory. Returns it with its `cgroup.kill`.
fn take(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let directory = open(parent, name.as_ref())?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    // This fails if the cgroup was removed in the meantime.
    let kill = openat(&directory, "cgroup.kill", TO_WRITE, Mode::empty())?;
    Ok((directory, kill))
}

/// Removes a cgroup and those below it, at any depth, the deepest first.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match remove_one(parent, name) {
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        removed => return removed,
    }
    let mut here = open_to_empty(parent, name)?;
    let mut names = Vec::new();
    for _ in 0..MAX_GROUPS {
        if let Some(below) = first_below(&here)? {
            here = open_to_empty(here.as_fd(), &below)?;
            names.push(below);
        } else if let Some(name) = names.pop() {
            here = open(here.as_fd(), "..".as_ref())?;
            remove_one(here.as_fd(), &name)?;
        } else {
            break;
        }
    }
    remove_one(parent, name)
}

fn remove_one(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Opens a cgroup's directory, after restoring the permissions that its creator may have removed.
fn open_to_empty(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let _ = chmodat(parent, name, Mode::RWXU, AtFlags::empty());
    open(parent, name)
}

/// Returns one of the cgroups directly below this one, if there are any.
fn first_below(group: &OwnedFd) -> rustix::io::Result<Option<OsString>> {
    let is_below = |entry: &DirEntry| {
        let name = entry.file_name().to_bytes();
        entry.file_type() == FileType::Directory && name != b"." && name != b".."
    };
    let found = Dir::read_from(group)?.flatten().find(is_below);
    Ok(found.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned()))
}

/// Opens the directory of the cgroup of this process.
fn own() -> io::Result<OwnedFd> {
    let [mounts, groups] = [fs::read("/proc/self/mountinfo")?, fs::read("/proc/self/cgroup")?];
    let [mounts, groups] = [&mounts, &groups].map(|it| String::from_utf8_lossy(it));
    let place = place(&mounts, &groups).ok_or(io::ErrorKind::NotFound)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(place, flags, Mode::empty())?;
    match fstatfs(&directory)?.f_type as u64 {
        CGROUP2_SUPER_MAGIC => Ok(directory),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Returns the path of the cgroup of this process, if it is visible.
fn place(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = Path::new(own);
    if own.components().any(|part| part == std::path::Component::ParentDir) {
        // The cgroup is outside of this process's cgroup namespace.
        return None;
    }
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (unescape(mount.next()?), unescape(mount.next()?));
        let below = own.strip_prefix(root).ok()?;
        Some(Path::new(&point).join(below))
    })
}

/// Decodes spaces and other characters that the kernel writes as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => plain.extend(["\\", part]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw";
    const HYBRID: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const BOUND: &str = "55 50 0:26 /user.slice /mnt/my\\040groups rw - cgroup2 none rw";

    #[test]
    fn own_cgroup_is_found_in_the_mount_and_cgroup_lists() {
        for (mounts, groups, expected) in [
            (UNIFIED, "0::/a.slice/b.scope\n", Some("/sys/fs/cgroup/a.slice/b.scope")),
            (UNIFIED, "0::/\n", Some("/sys/fs/cgroup/")),
            (HYBRID, "4:memory:/x\n1:cpu:/\n0::/y\n", Some("/sys/fs/cgroup/unified/y")),
            (BOUND, "0::/user.slice/x", Some("/mnt/my groups/x")),
            (BOUND, "0::/system.slice/x", None),
            (UNIFIED, "0::/../elsewhere", None),
            (UNIFIED, "1:cpu:/\n", None),
            ("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw", "0::/", None),
            ("nonsense", "0::/", None),
            ("", "", None),
        ] {
            assert_eq!(place(mounts, groups).as_deref(), expected.map(Path::new), "{groups}");
        }
        for (name, expected) in [
            ("tieline-guardian-12-0", true),
            ("tieline-guardian-12", false),
            ("tieline-guardian-12-", false),
            ("tieline-guardian-12-0-1", false),
            ("tieline-guardian-x-0", false),
            ("tieline-12-0", false),
        ] {
            assert_eq!(is_guardians(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(unescape("a\\040b\\134\\"), "a b\\\\");
    }
    #[test]
    fn cgroup_can_be_created_during_a_sweep() {
        match Group::make() {
            Ok(group) => assert!(group.remove()),
            Err(error) => return eprintln!("skipped because no cgroup can be created: {error}"),
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    sweep();
                }
            });
            let made = (0..1000).map(|_| Group::make().map(|group| group.remove()));
            let failed: Vec<_> = made.filter(|made| !matches!(made, Ok(true))).collect();
            is_over.store(true, Relaxed);
            assert!(failed.is_empty(), "{failed:?}");
        });
    }
}
