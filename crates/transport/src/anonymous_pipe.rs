//! Anonymous pipes. (`std::io::pipe` needs Rust 1.87.)

use std::io;
use std::os::fd::OwnedFd;

/// Creates a pipe whose ends are closed on exec. Returns the read end and the write end.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn anonymous_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Creates a pipe as on other systems, but a child that another thread starts at the same moment can
/// inherit both ends: the system call has no flag for close-on-exec.
#[cfg(target_vendor = "apple")]
pub(crate) fn anonymous_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (from, to) = rustix::pipe::pipe()?;
    rustix::io::fcntl_setfd(&from, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::fcntl_setfd(&to, rustix::io::FdFlags::CLOEXEC)?;
    Ok((from, to))
}
