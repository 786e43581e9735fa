//! The paths of Unix sockets.

use std::io;
use std::path::{Component, Path, PathBuf};

/// The longest path that fits in a socket address, excluding its terminating NUL.
pub(crate) const MAX_PATH: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// Returns the absolute form of a path. If it contains `..`, symbolic links are resolved, so that the
/// result does not depend on directories that may be removed.
pub(crate) fn from_root(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let comes_back = path.components().any(|part| part == Component::ParentDir);
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) if comes_back => Ok(directory.canonicalize()?.join(name)),
        _ => Ok(path),
    }
}
