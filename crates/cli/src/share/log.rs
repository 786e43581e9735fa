//! The log of a background server.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The maximum size of a log. At this size, the older half is removed.
const MAX_SIZE: u64 = 1024 * 1024;

/// Creates an empty log that only this user can read, in place of an older one. It does not replace the log of a
/// running server until [`publish`].
pub(super) fn create(log: &Path) -> io::Result<File> {
    let path = unpublished(log);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)
}

/// Returns the path of the log of a server that does not listen yet.
pub(super) fn unpublished(log: &Path) -> PathBuf {
    log.with_extension("log-new")
}

/// Removes the log of a server that has ended before it listened.
pub(super) fn discard(log: &Path) {
    let _ = fs::remove_file(unpublished(log));
}

/// Gives the log that is this process's stderr its lasting name.
pub(super) fn publish(log: &Path) {
    let created = unpublished(log);
    if is_stderr(&created) {
        let _ = fs::rename(created, log);
    }
}

/// Removes the log that is this process's stderr, but not that of another server.
pub(super) fn remove(log: &Path) {
    for path in [log.to_owned(), unpublished(log)] {
        if is_stderr(&path) {
            let _ = fs::remove_file(path);
        }
    }
}

fn is_stderr(path: &Path) -> bool {
    let ours = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let is_same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (ours.and_then(|it| it.metadata()), path.symlink_metadata()) {
        (Ok(ours), Ok(found)) => is_same(&ours, &found),
        _ => false,
    }
}

/// A writer that keeps a file below a size by removing the older half of its lines.
pub(super) struct Bounded {
    file: File,
    size: u64,
    most: u64,
}

impl Bounded {
    /// Returns a writer to the log that is this process's stderr.
    pub(super) fn of_stderr() -> io::Result<Self> {
        Self::new(io::stderr().as_fd().try_clone_to_owned()?.into(), MAX_SIZE)
    }

    fn new(file: File, most: u64) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, most })
    }

    fn remove_older_half(&mut self) -> io::Result<()> {
        let mut kept = Vec::new();
        self.file.seek(SeekFrom::Start(self.size.saturating_sub(self.most / 2)))?;
        (&mut self.file).take(self.most / 2).read_to_end(&mut kept)?;
        let first_line =
            kept.iter().position(|byte| *byte == b'\n').map_or(kept.len(), |at| at + 1);
        self.file.set_len(0)?;
        self.size = 0;
        let whole_lines = kept.get(first_line..).unwrap_or_default();
        self.file.write_all(whole_lines)?;
        self.size = whole_lines.len() as u64;
        Ok(())
    }
}

impl Write for Bounded {
    /// Writes a text, of which only the beginning is kept if it is longer than half of the limit.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.most / 2).unwrap_or(usize::MAX);
        let kept = text.get(..most).unwrap_or(text);
        if self.size.saturating_add(kept.len() as u64) > self.most {
            self.remove_older_half()?;
        }
        self.file.write_all(kept)?;
        self.size += kept.len() as u64;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_stays_below_its_limit_and_keeps_the_newest_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Bounded::new(create(&path).unwrap(), 1000).unwrap();
        let path = unpublished(&path);
        for number in 0..500 {
            log.write_all(format!("line {number}\n").as_bytes()).unwrap();
            assert!(path.metadata().unwrap().len() <= 1000);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line ") && text.ends_with("\nline 499\n"), "{text}");
        assert!(text.len() >= 490, "{text}");
        log.write_all(&[b'x'; 5000]).unwrap();
        assert!(path.metadata().unwrap().len() <= 1000);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn new_log_replaces_an_older_one_and_does_not_follow_links() {
        let directory = tempfile::tempdir().unwrap();
        let (log, other) = (directory.path().join("log"), directory.path().join("other"));
        let path = unpublished(&log);
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        create(&log).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
