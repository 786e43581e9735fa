//! How much of its input a child has left unread. The kernel keeps that in the pipe until both of its ends
//! are closed.

#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::sync::{Mutex, MutexGuard};

/// A descriptor of the pipe to a child's stdin that outlives our end of it.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// While we may write, a duplicate of the writing end. Afterwards a reading end: it does not keep the
    /// child from seeing the end of its input.
    #[cfg(target_os = "linux")]
    pipe: Mutex<Option<OwnedFd>>,
}

#[cfg(target_os = "linux")]
impl Unread {
    /// Asks the pipe of which this is the writing end from now on.
    pub(super) fn ask(&self, stdin: impl AsFd) {
        *self.lock() = stdin.as_fd().try_clone_to_owned().ok();
    }

    /// Input ends here: our writing end is closed.
    pub(super) fn end_input(&self) {
        use rustix::fs::{Mode, OFlags, open};

        let mut pipe = self.lock();
        // The same pipe by another end. Without /proc nothing can be asked any more.
        *pipe = pipe.take().and_then(|writing| {
            let path = format!("/proc/self/fd/{}", writing.as_raw_fd());
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            open(path, flags, Mode::empty()).ok()
        });
    }

    /// How many bytes are in the pipe; `None` where that cannot be known.
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

/// Elsewhere a pipe is not asked.
#[cfg(not(target_os = "linux"))]
impl Unread {
    pub(super) fn ask<T>(&self, _: &T) {}

    pub(super) fn end_input(&self) {}

    pub(super) fn bytes(&self) -> Option<u64> {
        None
    }

    pub(super) fn close(&self) {}
}
