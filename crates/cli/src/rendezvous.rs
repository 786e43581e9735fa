//! The default endpoint of a server: a socket in the user's runtime directory, named after the program.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use tieline_transport::{DynAcceptor, Endpoint, Options, Registry};

use crate::report::Failure;
use crate::sessions::{self, Served};

/// How many servers with the same name may use default sockets.
const MAX_NUMBER: u32 = 1000;

/// Listens on a socket named after `program`, with a number appended if that one is in use.
pub(crate) async fn listen(
    registry: &Registry,
    program: &OsStr,
    options: &Options,
    served: Served,
) -> Result<Box<dyn DynAcceptor>, Failure> {
    let elsewhere =
        |problem| Failure::other(format!("{problem}. Or choose an endpoint with --listen"));
    let directory = directory().map_err(elsewhere)?;
    let name = socket_name(program);
    let places = (1..=MAX_NUMBER).map(|number| match number {
        1 => Endpoint::unix(directory.join(format!("{name}.sock"))),
        _ => Endpoint::unix(directory.join(format!("{name}-{number}.sock"))),
    });
    let acceptor = sessions::listen_at_first_free(registry, places, options, served).await?;
    acceptor.ok_or_else(|| {
        let directory = directory.display();
        Failure::other(format!(
            "{MAX_NUMBER} sockets in {directory} are in use. Choose an endpoint with --listen"
        ))
    })
}

/// Returns the user's runtime directory ([`place`]). Creates it if necessary, and refuses it if it belongs
/// to or is open to another user.
pub(crate) fn directory() -> Result<PathBuf, String> {
    let directory = place();
    let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("cannot create {}: {error}", directory.display()))
        }
        _ => check(&directory, uid()).map(|()| directory),
    }
}

/// Like [`directory`], but does not create it.
pub(crate) fn existing() -> Result<Option<PathBuf>, String> {
    let directory = place();
    match std::fs::symlink_metadata(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => check(&directory, uid()).map(|()| Some(directory)),
    }
}

/// Returns `$XDG_RUNTIME_DIR/tieline` or, if that directory does not exist, `tieline-UID` in the system's
/// temporary directory.
pub(crate) fn place() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        Some(runtime) => runtime.join("tieline"),
        None => std::env::temp_dir().join(format!("tieline-{}", uid())),
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Checks owner and mode: in a directory that all users can write to, another user may have created it.
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

/// Returns the program's file name without its extension, in characters that need no quoting.
fn socket_name(program: &OsStr) -> String {
    let stem = Path::new(program).file_stem().unwrap_or(program).to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = stem.chars().map(|c| if plain(c) { c } else { '-' }).take(40).collect();
    if name.trim_matches(['.', '-']).is_empty() { "program".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn sockets_are_named_after_the_program() {
        for (program, name) in [
            ("cat", "cat"),
            ("/usr/bin/my agent.py", "my-agent"),
            ("./a/b.c.sh", "b.c"),
            ("..", "program"),
            ("é", "program"),
            (&"x".repeat(100), &"x".repeat(40)),
        ] {
            assert_eq!(socket_name(OsStr::new(program)), name, "{program}");
        }
    }

    #[test]
    fn directory_of_or_open_to_another_user_is_refused() {
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
