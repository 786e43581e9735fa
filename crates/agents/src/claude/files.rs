//! Passes values to the program in files, because an argument holds at most 128 KiB on Linux and is
//! visible to every user of the machine.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The prefix of folder names in the system's temporary directory.
const PREFIX: &str = "tieline-claude-";

/// A file locked by the process that owns the folder, so that abandoned folders can be removed.
const LOCK: &str = "lock";

const ATTEMPTS: usize = 8;

/// A folder accessible to its owner only. It is removed on drop; the folder of a killed process is
/// removed when the next folder is created.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    lock: Option<File>,
    count: usize,
}

impl Files {
    pub(super) fn new() -> io::Result<Self> {
        Self::below(&std::path::absolute(std::env::temp_dir())?)
    }

    fn below(place: &Path) -> io::Result<Self> {
        let mut failed = io::ErrorKind::AlreadyExists.into();
        for _ in 0..ATTEMPTS {
            let folder = place.join(format!("{PREFIX}{:016x}", RandomState::new().hash_one(0)));
            match create(&folder) {
                Ok(lock) => {
                    sweep(place, &folder);
                    return Ok(Self { folder, lock: Some(lock), count: 0 });
                }
                // The name is taken, or another process considered the folder abandoned.
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Creates a file with this text.
    pub(super) fn add(&mut self, text: &str) -> io::Result<PathBuf> {
        self.count += 1;
        let path = self.folder.join(self.count.to_string());
        private(OpenOptions::new().write(true)).open(&path)?.write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Windows cannot remove an open file.
        drop(self.lock.take());
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.folder.display());
            }
            _ => {}
        }
    }
}

fn create(folder: &Path) -> io::Result<File> {
    #[cfg_attr(not(unix), allow(unused_mut, reason = "only Unix has modes"))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    let lock = private(OpenOptions::new().write(true)).open(folder.join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.create_new(true)
}

/// Removes the folders of killed processes of this user.
fn sweep(place: &Path, ours: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let folder = entry.path();
        if !is_named || folder == ours || !has_owner_of(ours, &folder) {
            continue;
        }
        match File::open(folder.join(LOCK)) {
            Ok(lock) if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() => {
                _ = fs::remove_dir_all(&folder);
            }
            Ok(_) => {}
            // Another process may be creating the folder, so it is removed only if it is empty.
            Err(_) => _ = fs::remove_dir(&folder),
        }
    }
}

#[cfg(unix)]
fn has_owner_of(ours: &Path, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (ours, found) = (fs::symlink_metadata(ours), fs::symlink_metadata(folder));
    matches!((ours, found), (Ok(ours), Ok(found)) if found.is_dir() && found.uid() == ours.uid())
}

#[cfg(not(unix))]
fn has_owner_of(_: &Path, folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_and_removed_on_drop() {
        let place = tempfile::tempdir().unwrap();
        let mut files = Files::below(place.path()).unwrap();
        let (one, two) = (files.add("one").unwrap(), files.add("two").unwrap());
        assert_eq!(fs::read_to_string(&one).unwrap(), "one");
        assert_eq!(fs::read_to_string(&two).unwrap(), "two");
        #[cfg(unix)]
        for (path, mode) in [(one.parent().unwrap(), 0o700), (&one, 0o600)] {
            let found = std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap());
            assert_eq!(found & 0o777, mode);
        }
        // Another process does not remove a locked folder.
        drop(Files::below(place.path()).unwrap());
        assert!(one.exists());
        drop(files);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_of_killed_processes_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let left = |name: &str| place.path().join(format!("{PREFIX}{name}"));
        for name in ["empty", "full"] {
            fs::create_dir(left(name)).unwrap();
        }
        fs::write(left("full").join(LOCK), "").unwrap();
        fs::write(left("full").join("1"), "secret").unwrap();
        fs::write(left("file"), "not a folder").unwrap();
        fs::create_dir(place.path().join("other")).unwrap();
        drop(Files::below(place.path()).unwrap());
        let mut names: Vec<_> =
            fs::read_dir(place.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["other".into(), left("file").file_name().unwrap().to_owned()]);
    }
}
