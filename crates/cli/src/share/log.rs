//! The log of a background server.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The maximum size of a log. At this size, the older half is removed.
const MAX_SIZE: u64 = 1024 * 1024;

/// Creates an empty log that only this user can read, in place of an older one.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)
}

/// Removes the log that is this process's stderr, unless another server has created its own since.
pub(super) fn remove(path: &Path) {
    let ours = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    if let (Ok(ours), Ok(found)) = (ours.and_then(|it| it.metadata()), path.symlink_metadata()) {
        if same(ours, found) {
            let _ = fs::remove_file(path);
        }
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
        let (path, other) = (directory.path().join("log"), directory.path().join("other"));
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        create(&path).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
