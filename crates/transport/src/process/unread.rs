//! The number of input bytes that a child did not read. The kernel keeps the bytes in the pipe until
//! both ends are closed.

#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::sync::{Mutex, MutexGuard};

/// A descriptor of the pipe to a child's stdin that outlives our end of it.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// A duplicate of the write end until our write end is closed, and a read end afterwards. A read end
    /// does not keep the child from seeing the end of its input.
    #[cfg(target_os = "linux")]
    pipe: Mutex<Option<OwnedFd>>,
}

#[cfg(target_os = "linux")]
impl Unread {
    /// Starts to observe the pipe that has this write end.
    pub(super) fn ask(&self, stdin: impl AsFd) {
        *self.lock() = stdin.as_fd().try_clone_to_owned().ok();
    }

    /// Replaces the write end with a read end. Call this when our write end is closed.
    pub(super) fn end_input(&self) {
        use rustix::fs::{Mode, OFlags, open};

        let mut pipe = self.lock();
        // Opening the path returns a read end of the same pipe. Without /proc, the count is unknown from
        // here on.
        *pipe = pipe.take().and_then(|writing| {
            let path = format!("/proc/self/fd/{}", writing.as_raw_fd());
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            open(path, flags, Mode::empty()).ok()
        });
    }

    /// Returns how many bytes are in the pipe, or `None` if the number is unknown.
    pub(super) fn bytes(&self) -> Option<u64> {
        rustix::io::ioctl_fionread(self.lock().as_ref()?).ok()
    }

    /// Closes the descriptor.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.pipe.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// On other systems, the count is unknown.
#[cfg(not(target_os = "linux"))]
impl Unread {
    pub(super) fn ask<T>(&self, _: &T) {}

    pub(super) fn end_input(&self) {}

    pub(super) fn bytes(&self) -> Option<u64> {
        None
    }

    pub(super) fn close(&self) {}
}
