//! The permissions of a listener's socket: its mode and group, and the directories above it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode};
use rustix::io::Errno;

use super::path::from_root;
use super::{UnixConfig, directory};
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError, common_kind};

const OWNER_ALONE: u32 = 0o600;

/// Sets the group and mode of a new socket. Until then, it is accessible only to its owner. The mode is
/// not set at creation, because the umask can remove permissions.
pub(super) fn grant(
    path: &Path,
    identity: (u64, u64),
    config: &UnixConfig,
) -> Result<(), TransportError> {
    let mode = config.socket_mode();
    if cfg!(target_os = "linux") && mode == OWNER_ALONE && config.group.is_none() {
        return Ok(());
    }
    let fail = |errno: Errno| {
        let error = std::io::Error::from(errno);
        TransportError::new(common_kind(&error), Operation::Listen).because(error)
    };
    let group = config.group.map(Gid::from_raw);
    set(path, identity, Mode::from_raw_mode(mode as _), group).map_err(|errno| {
        let failed = fail(errno);
        match failed.kind() {
            ErrorKind::PermissionDenied if group.is_some() => {
                failed.with_hint("only root and members of the group can assign a socket to it")
            }
            _ => failed,
        }
    })
}

/// Sets the mode and group through a descriptor of the file, because another user with write access to
/// the directory may have replaced the file.
#[cfg(target_os = "linux")]
fn set(
    path: &Path,
    identity: (u64, u64),
    mode: Mode,
    group: Option<Gid>,
) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{OFlags, chmodat, chownat, fstat, open};
    let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&file)?;
    if (found.st_dev, found.st_ino) != identity {
        return Err(Errno::STALE);
    }
    if group.is_some() {
        chownat(&file, "", None, group, AtFlags::EMPTY_PATH)?;
    }
    chmodat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), mode, AtFlags::empty())
}

#[cfg(not(target_os = "linux"))]
fn set(path: &Path, _: (u64, u64), mode: Mode, group: Option<Gid>) -> rustix::io::Result<()> {
    if group.is_some() {
        rustix::fs::chownat(CWD, path, None, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rustix::fs::chmod(path, mode)
}

/// Logs a warning if an allowed user cannot connect because of the socket's mode or a directory above
/// it.
pub(super) fn warn_if_unreachable(path: &Path, config: &UnixConfig, endpoint: &Endpoint) {
    if let Some(uid) = kept_out(config) {
        let mode = config.socket_mode();
        tracing::warn!(
            "user {uid} is allowed but cannot connect to {endpoint}: the socket's mode is {mode:o}. Omit \
             --socket-mode, or use mode 666"
        );
    }
    if let Some((directory, mode)) = closed_directory(path, config) {
        let directory = directory.display();
        tracing::warn!(
            "other users cannot connect to {endpoint}: they cannot enter {directory} (mode {mode:o}). Listen in \
             another directory, or run chmod o+x {directory}"
        );
    }
}

/// Returns the first allowed user that the socket's mode excludes.
fn kept_out(config: &UnixConfig) -> Option<u32> {
    let is_private = config.socket_mode() & 0o022 == 0;
    let ours = rustix::process::geteuid().as_raw();
    let allowed = config.allow_uids.iter().filter(|_| is_private);
    allowed.copied().find(|uid| *uid != ours && *uid != 0)
}

/// Returns the first directory above the socket, and its mode, that excludes users that the socket
/// admits.
fn closed_directory(path: &Path, config: &UnixConfig) -> Option<(PathBuf, u32)> {
    if config.socket_mode() & 0o077 == 0 {
        return None;
    }
    let above = directory(&from_root(path).ok()?).canonicalize().ok()?;
    above.ancestors().find_map(|directory| {
        let found = std::fs::metadata(directory).ok()?;
        let mode = found.mode() & 0o777;
        let all = mode & 0o001 != 0;
        // The groups of a user are unknown here, so any group permission is assumed to be sufficient.
        let some_group = mode & 0o010 != 0 && config.group.is_none_or(|it| it == found.gid());
        let owner = !config.allow_uids.is_empty()
            && mode & 0o100 != 0
            && config.allow_uids.iter().all(|uid| *uid == found.uid());
        (!all && !some_group && !owner).then(|| (directory.to_owned(), mode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TransportConfig;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn mode_follows_from_group_and_allowed_users() {
        let config = |mode, group, allow_uids: &[u32]| UnixConfig {
            mode,
            group,
            allow_uids: allow_uids.into(),
            ..UnixConfig::new("a")
        };
        for (config, expected) in [
            (config(None, None, &[]), 0o600),
            (config(None, None, &[1000]), 0o666),
            (config(None, Some(5), &[]), 0o660),
            (config(None, Some(5), &[1000]), 0o660),
            (config(Some(0o606), None, &[1000]), 0o606),
        ] {
            assert_eq!(config.socket_mode(), expected, "{config:?}");
            assert!(config.validate().is_ok());
        }
        // These modes would exclude the owner, or have bits that are invalid or useless.
        for mode in [0, 0o060, 0o400, 0o644, 0o640, 0o1666, 600] {
            let error = config(Some(mode), None, &[]).validate().unwrap_err();
            assert_eq!(error.field, "socket_mode", "{mode:o}");
        }
    }

    #[test]
    fn allowed_user_excluded_by_the_mode_is_found() {
        let ours = rustix::process::geteuid().as_raw();
        let other = ours + 1;
        let kept_out = |mode, allow_uids: &[u32]| {
            let allow_uids = allow_uids.into();
            super::kept_out(&UnixConfig { mode, allow_uids, ..UnixConfig::new("a") })
        };
        assert_eq!(kept_out(Some(0o600), &[0, ours, other]), Some(other));
        assert_eq!(kept_out(Some(0o600), &[0, ours]), None, "they can connect in any mode");
        assert_eq!(kept_out(Some(0o660), &[other]), None, "that user may be in the group");
        assert_eq!((kept_out(Some(0o666), &[other]), kept_out(None, &[other])), (None, None));
    }

    #[test]
    fn directory_that_excludes_others_is_found() {
        let base = tempfile::tempdir().unwrap();
        let private = base.path().join("private");
        let inner = private.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let owner = std::fs::metadata(&private).unwrap();
        let with = |allow_uids: &[u32], group| UnixConfig {
            allow_uids: allow_uids.into(),
            group,
            ..UnixConfig::new("")
        };
        let other = owner.uid() + 1;
        set(base.path(), 0o755);
        set(&inner, 0o755);
        let closed = |config: &UnixConfig| closed_directory(&inner.join("s"), config);
        let found = Some((private.canonicalize().unwrap(), 0o700));
        set(&private, 0o700);
        assert_eq!(closed(&with(&[], None)), None, "no other user is allowed");
        assert_eq!(closed(&with(&[other], None)), found);
        assert_eq!(closed(&with(&[], Some(owner.gid()))), found);
        assert_eq!(closed(&with(&[owner.uid()], None)), None);
        set(&private, 0o710);
        assert_eq!(closed(&with(&[other], None)), None, "that user may be in the group");
        assert_eq!(closed(&with(&[], Some(owner.gid()))), None);
        assert!(closed(&with(&[], Some(owner.gid() + 1))).is_some());
        set(&private, 0o711);
        assert_eq!(closed(&with(&[other], None)), None);
    }
}
