//! Unix sockets: the users that are admitted, the files that are never removed, and the error for each
//! failure.
//!
//! Tests about other users run a process as another user, which requires root. Without root, these tests
//! fail with a message.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod connecting;
mod listening;
mod other_users;
mod peers;
mod permissions;
mod scarcity;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tieline_testkit::wait::block_on;
use tieline_transport::{
    Endpoint, ErrorKind, Transport, TransportError, Unix, UnixConfig, UnixConnection, UnixListener,
};

/// A user that owns no files.
const NOBODY: u32 = 65_534;

/// The variable that contains the path that a test passes to its helper process.
const PATH: &str = "TIELINE_TEST_PATH";

fn needs_root(what: &str) {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root, "this test needs root because {what}; run the tests as root, as CI does");
}

/// Returns a directory that every user may search, and a path in it where no file exists.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    let path = directory.path().join("socket");
    (directory, path)
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Returns the inode, which distinguishes files at the same path.
fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).unwrap().ino()
}

fn lock_file(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

async fn listen(path: &Path) -> Result<UnixListener, TransportError> {
    Unix.listen(&UnixConfig::new(path)).await
}

async fn connect(path: &Path) -> Result<UnixConnection, TransportError> {
    Unix.connect(&UnixConfig::new(path)).await
}

/// Makes a helper process run as `NOBODY`, with `path` in its environment.
fn as_other_user<'a>(helper: &'a mut Command, path: &Path) -> &'a mut Command {
    use std::os::unix::process::CommandExt;
    helper.uid(NOBODY).gid(NOBODY).env(PATH, path).current_dir("/");
    helper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

fn path_of_helper() -> PathBuf {
    std::env::var_os(PATH).unwrap().into()
}

#[track_caller]
fn error_of<T>(result: Result<T, TransportError>) -> TransportError {
    match result {
        Ok(_) => panic!("succeeded unexpectedly"),
        Err(error) => error,
    }
}

/// Asserts the kind of an error, its endpoint, and a part of its hint.
#[track_caller]
fn assert_error(error: &TransportError, path: &Path, kind: fn(&ErrorKind) -> bool, hint: &str) {
    assert!(kind(error.kind()), "{}: {:?}", path.display(), error.kind());
    assert_eq!(error.endpoint(), Some(&Endpoint::unix(path)));
    let given = error.hint().unwrap_or_default();
    assert!(given.contains(hint), "{}: {error}; {given}", path.display());
}
