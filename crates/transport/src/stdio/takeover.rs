//! Moves the real stdin and stdout out of everybody else's reach.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::stdio;

/// The real ones.
pub(super) struct Taken {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
}

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes both, once in the life of the process; [`io::ErrorKind::AlreadyExists`] afterwards.
pub(super) fn take() -> io::Result<Taken> {
    if IS_TAKEN.swap(true, Ordering::AcqRel) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let taken = move_aside();
    if taken.is_err() {
        IS_TAKEN.store(false, Ordering::Release);
    }
    taken
}

fn move_aside() -> io::Result<Taken> {
    // Everything that can fail comes before the first change. The duplicates are close-on-exec: a
    // child that held one would keep the line open.
    let stdin = duplicate(stdio::stdin())?;
    let stdout = duplicate(stdio::stdout())?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    stdio::dup2_stdin(&null)?;
    // A program may have been started without a stderr.
    match stdio::dup2_stdout(stdio::stderr()) {
        Ok(()) => {}
        Err(_) => stdio::dup2_stdout(&null)?,
    }
    Ok(Taken { stdin, stdout })
}

/// Above the three standard numbers, which would be the next to be overwritten.
fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}
