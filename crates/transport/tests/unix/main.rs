//! Unix sockets: who gets in, what is never removed, and what each failure is called.
//!
//! What another user may and may not do is tried as another user, which takes root; without it
//! those tests fail and say so.
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

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// Where a helper process finds the path that its test is about.
const PATH: &str = "TIELINE_TEST_PATH";

fn needs_root(what: &str) {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root, "needs root: {what}; run the tests as root, as CI does");
}

/// A directory that everybody may search, and a path in it where there is nothing.
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

/// What tells one file from another at the same path.
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

/// A helper process, about `path`, of a user that owns nothing.
fn as_nobody<'a>(helper: &'a mut Command, path: &Path) -> &'a mut Command {
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
        Ok(_) => panic!("it succeeded"),
        Err(error) => error,
    }
}

/// Of this kind, at the place, and with a hint in which these words stand.
#[track_caller]
fn assert_error(error: &TransportError, path: &Path, kind: fn(&ErrorKind) -> bool, hint: &str) {
    assert!(kind(error.kind()), "{}: {:?}", path.display(), error.kind());
    assert_eq!(error.endpoint(), Some(&Endpoint::unix(path)));
    let given = error.hint().unwrap_or_default();
    assert!(given.contains(hint), "{}: {error}; {given}", path.display());
}
