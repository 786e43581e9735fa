//! Names on Unix: sockets `NAME.sock` in the user's runtime directory.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use tieline_transport::{Address, Endpoint};

use super::Name;

/// The extension of sockets.
const EXTENSION: &str = ".sock";

pub(super) fn endpoint(name: &Name) -> Endpoint {
    Endpoint::unix(socket(name))
}

pub(super) fn name_at(endpoint: &Endpoint) -> Option<Name> {
    let Address::Unix(socket) = endpoint.address() else { return None };
    let socket = Path::new(socket);
    let name = socket.file_name()?.to_str()?.strip_suffix(EXTENSION)?;
    Name::new(name).filter(|_| socket.parent() == Some(&path()))
}

/// Creates the directory for the sockets if necessary.
pub(crate) fn prepare() -> Result<(), String> {
    directory().map(drop)
}

/// Checks that the directory of the sockets, if it exists, belongs to the user.
pub(crate) fn check_owner() -> Result<(), String> {
    existing().map(drop)
}

/// Returns true if there is a socket with this name. A process need not listen on it.
pub(crate) fn exists(name: &Name) -> bool {
    socket(name).symlink_metadata().is_ok()
}

/// Returns the PID and the program of the process that uses the name, according to the lock of its
/// socket. Processes in other PID namespaces are not found.
#[cfg(target_os = "linux")]
pub(crate) fn holder(name: &Name) -> Option<(u32, String)> {
    let lock = path().join(format!("{name}{EXTENSION}.lock")).symlink_metadata().ok()?;
    let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", lock.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`
    let pid = locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, locked, ..] = fields[..] else { return None };
        pid.parse().ok().filter(|pid| *pid != 0 && locked == file)
    })?;
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, program.trim_end().to_owned()))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn holder(_: &Name) -> Option<(u32, String)> {
    None
}

/// Returns the user's runtime directory ([`path`]). Creates it if necessary, and refuses it if it
/// belongs to another user or is accessible to others.
pub(crate) fn directory() -> Result<PathBuf, String> {
    let directory = path();
    let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("cannot create {}: {error}", directory.display()))
        }
        _ => check(&directory, uid()).map(|()| directory),
    }
}

/// Returns the same directory as [`directory`], or `None` if it does not exist.
pub(crate) fn existing() -> Result<Option<PathBuf>, String> {
    let directory = path();
    match std::fs::symlink_metadata(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => check(&directory, uid()).map(|()| Some(directory)),
    }
}

/// Returns `$XDG_RUNTIME_DIR/tieline` or, if that directory does not exist, `tieline-UID` in the system's
/// temporary directory.
pub(crate) fn path() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        Some(runtime) => runtime.join("tieline"),
        None => std::env::temp_dir().join(format!("tieline-{}", uid())),
    }
}

fn socket(name: &Name) -> PathBuf {
    path().join(format!("{name}{EXTENSION}"))
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Checks the owner and mode: if all users can write to the parent directory, another user may have
/// created this one.
fn check(directory: &Path, uid: u32) -> Result<(), String> {
    let shown = directory.display();
    let metadata =
        std::fs::symlink_metadata(directory).map_err(|error| format!("{shown}: {error}"))?;
    let problem = if !metadata.is_dir() {
        "is not a directory"
    } else if metadata.uid() != uid {
        "belongs to another user"
    } else if metadata.mode() & 0o077 != 0 {
        "is accessible to other users; run chmod 700 on it"
    } else {
        return Ok(());
    };
    Err(format!("{shown} {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn name_is_found_in_its_endpoint() {
        let name = Name::new("my-agent").unwrap();
        let endpoint = endpoint(&name);
        assert!(endpoint.to_string().ends_with("/my-agent.sock"), "{endpoint}");
        assert_eq!(name_at(&endpoint), Some(name.clone()));
        assert_eq!(name_at(&endpoint.resumable()), Some(name));
        for other in
            ["unix:/my-agent.sock", "unix:my-agent.sock", "tcp:127.0.0.1:7000", "unix:@my-agent"]
        {
            assert_eq!(name_at(&other.parse().unwrap()), None, "{other}");
        }
        for file in ["my-agent", "my agent.sock", "7.status"] {
            assert_eq!(name_at(&Endpoint::unix(path().join(file))), None, "{file}");
        }
    }

    #[test]
    fn directory_that_another_user_owns_or_can_access_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let said = |path: &Path, uid| check(path, uid).unwrap_err();
        let open = |mode| std::fs::set_permissions(base.path(), PermissionsExt::from_mode(mode));
        open(0o700).unwrap();
        assert!(check(base.path(), uid).is_ok());
        assert!(said(base.path(), uid + 1).contains("another user"));
        open(0o750).unwrap();
        assert!(said(base.path(), uid).contains("accessible to other users"));
        open(0o700).unwrap();
        let link = base.path().join("link");
        symlink(base.path(), &link).unwrap();
        assert!(said(&link, uid).contains("not a directory"));
    }
}
