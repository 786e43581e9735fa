//! The lock file beside a socket. Only its holder may decide that the socket is dead.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::{ErrorKind, Operation, TransportError};

/// The lock that a listener holds as long as it exists. The file is never removed, because otherwise two
/// processes could each lock a different file with that name, and both would believe that they hold the
/// lock.
#[derive(Debug)]
pub(super) struct SocketLock(File);

impl SocketLock {
    /// Takes the lock of the socket at `path`, without waiting.
    pub(super) fn take(path: &Path) -> Result<Self, TransportError> {
        let lock = lock_path(path);
        let fail = |kind| TransportError::new(kind, Operation::Listen);
        // The standard library opens files with O_CLOEXEC, which is necessary because a lock that a
        // child inherited would outlive this process.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(&lock);
        let file = opened.map_err(|error| explain(error, path, &lock))?;
        let metadata = file.metadata().map_err(|error| fail(ErrorKind::Io).because(error))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(fail(ErrorKind::ForeignLock(lock)));
        }
        if !metadata.is_file() {
            return Err(fail(ErrorKind::Io)
                .with_hint(format!("the lock file {} is not a regular file", lock.display())));
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(Errno::WOULDBLOCK) => Err(fail(ErrorKind::AddressInUse)),
            Err(error) => Err(fail(ErrorKind::Io).because(error.into())),
        }
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started holds a copy of the descriptor between fork
        // and exec, and with it the lock.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

fn explain(error: io::Error, path: &Path, lock: &Path) -> TransportError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::DirectoryMissing(super::directory(path).to_owned()),
        io::ErrorKind::PermissionDenied if is_foreign(lock) => {
            ErrorKind::ForeignLock(lock.to_owned())
        }
        _ => crate::error::common_kind(&error),
    };
    let failed = TransportError::new(kind, Operation::Listen).because(error);
    match failed.kind() {
        ErrorKind::Io => failed.with_hint(format!("check the lock file {}", lock.display())),
        _ => failed,
    }
}

fn is_foreign(lock: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(lock).is_ok_and(|metadata| metadata.uid() != ours)
}
