//! Files that hold or receive secrets: keys, tokens, recorded messages.

use std::fs::File;
use std::io;
use std::path::Path;

/// Opens a file that holds a secret, and warns if another user can read or change it.
///
/// On Windows, this is not checked, because the folder's access control list applies there.
///
/// # Errors
/// The file cannot be opened.
pub fn open_secret(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    warn_if_exposed(&file, path);
    Ok(file)
}

/// Logs a warning if users other than the file's owner can read or change it, or if it belongs to another
/// user.
///
/// Read permission for the group is not reported: services often get their keys that way.
pub fn warn_if_exposed(file: &File, path: &Path) {
    if let Some(problem) = file.metadata().ok().and_then(|metadata| exposure(&metadata)) {
        tracing::warn!("{} {problem}", path.display());
    }
}

#[cfg(unix)]
fn exposure(metadata: &std::fs::Metadata) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    let ours = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        return None;
    }
    if owner != ours && owner != 0 {
        return Some(format!("belongs to another user (uid {owner}), who can read and change it"));
    }
    let problem = match mode {
        _ if mode & 0o022 != 0 => "can be changed by other users",
        _ if mode & 0o004 != 0 => "can be read by every user of this machine",
        _ => return None,
    };
    Some(format!("{problem} (mode {mode:o}); run chmod 600 on it"))
}

#[cfg(not(unix))]
fn exposure(_: &std::fs::Metadata) -> Option<String> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn file_that_others_can_read_or_change_is_exposed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [
            (0o600, None),
            (0o400, None),
            (0o640, None),
            (
                0o644,
                Some("can be read by every user of this machine (mode 644); run chmod 600 on it"),
            ),
            (0o660, Some("can be changed by other users (mode 660); run chmod 600 on it")),
            (0o602, Some("can be changed by other users (mode 602); run chmod 600 on it")),
        ] {
            std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            let exposed = exposure(&file.as_file().metadata().unwrap());
            assert_eq!(exposed.as_deref(), expected, "{mode:o}");
        }
        // Devices are not checked.
        assert_eq!(exposure(&std::fs::metadata("/dev/null").unwrap()), None);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(file.path(), Some(65_534), None).unwrap();
            let exposed = exposure(&file.as_file().metadata().unwrap()).unwrap();
            assert!(exposed.starts_with("belongs to another user (uid 65534)"), "{exposed}");
        }
    }
}
