//! The lock file beside a socket. Only its holder may decide that the socket is dead.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::{ErrorKind, Operation, TransportError};

/// How often a lock is tried whose file its previous holder removes meanwhile.
const MAX_TRIES: u32 = 64;

/// The lock that a listener holds as long as it exists. Its file is removed by the holder only. A process that
/// locks a file that was removed meanwhile does not have the lock: another process may have created and locked
/// a new one.
#[derive(Debug)]
pub(super) struct SocketLock {
    file: File,
    path: PathBuf,
}

impl SocketLock {
    /// Takes the lock of the socket at `path`, without waiting.
    pub(super) fn take(path: &Path) -> Result<Self, TransportError> {
        for _ in 0..MAX_TRIES {
            let lock = Self::try_take(path)?;
            if lock.is_at_its_path() {
                return Ok(lock);
            }
        }
        Err(TransportError::new(ErrorKind::AddressInUse, Operation::Listen))
    }

    fn try_take(path: &Path) -> Result<Self, TransportError> {
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
            // A relative path would not be found after a change of the current directory.
            Ok(()) => Ok(Self { file, path: std::path::absolute(&lock).unwrap_or(lock) }),
            Err(Errno::WOULDBLOCK) => Err(fail(ErrorKind::AddressInUse)),
            Err(error) => Err(fail(ErrorKind::Io).because(error.into())),
        }
    }

    fn is_at_its_path(&self) -> bool {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (self.file.metadata(), std::fs::symlink_metadata(&self.path)) {
            (Ok(locked), Ok(found)) => same(&locked, &found),
            _ => false,
        }
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        if self.is_at_its_path() {
            let _ = std::fs::remove_file(&self.path);
        }
        // Closing is not enough: a child that is being started holds a copy of the descriptor between fork
        // and exec, and with it the lock.
        let _ = flock(&self.file, FlockOperation::Unlock);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn lock_has_one_holder_although_its_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 300 {
                        match SocketLock::take(&socket) {
                            Ok(lock) => {
                                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                                taken.fetch_add(1, Ordering::SeqCst);
                                std::thread::yield_now();
                                assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
                                drop(lock);
                            }
                            Err(error) => {
                                assert!(matches!(error.kind(), ErrorKind::AddressInUse), "{error}");
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn lock_file_of_another_holder_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let first = SocketLock::take(&socket).unwrap();
        std::fs::remove_file(lock_path(&socket)).unwrap();
        let second = SocketLock::take(&socket).unwrap();
        drop(first);
        assert!(lock_path(&socket).exists());
        drop(second);
        assert!(!lock_path(&socket).exists());
    }
}
