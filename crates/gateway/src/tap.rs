//! Records every message in a file, as NDJSON, for debugging.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use tieline_proto::Count;
use tieline_proto::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::timestamp::printable;

/// The bounds of the queue: 16 MiB and 4,096 messages. When it is full, the lines wait for the disk.
const QUEUE_BYTES: usize = 16 << 20;
const QUEUE_MESSAGES: usize = 4096;

/// How many bytes of records are collected before they are written.
const BATCH: usize = 64 << 10;

/// A recorder that writes messages to a file. Cheap to clone.
///
/// Each record is one line: `{"time":…,"line":1,"from":"client"|"server","message":…}`. A message that is
/// not JSON has `text` in place of `message`, and one that is not UTF-8 has `hex`. The file is created
/// with mode 0600 and appended to. Symbolic links and files of other users are refused.
///
/// If the disk is slow, the lines wait for it. If a write fails, the error is logged once, recording stops
/// after the last complete record, and the lines continue; [`TapEnd::written`] then returns an error with
/// the number of missing messages.
#[derive(Clone, Debug)]
pub struct Tap {
    records: mpsc::Sender<Record>,
    room: Arc<Semaphore>,
    missing: Arc<AtomicU64>,
}

/// The end of recording. It is reached after all clones of the [`Tap`] were dropped.
#[derive(Debug)]
pub struct TapEnd {
    end: oneshot::Receiver<io::Result<()>>,
    missing: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Record {
    time: SystemTime,
    line: u64,
    from: &'static str,
    message: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Tap {
    /// Opens the file at `path` for recording.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, is a symbolic link, a pipe or a terminal, or belongs to another
    /// user.
    pub fn open(path: &Path) -> io::Result<(Self, TapEnd)> {
        let refused = |error: io::Error| {
            let shown = path.display();
            let folder = path.parent().filter(|it| !it.as_os_str().is_empty() && !it.is_dir());
            let why = match (error.kind(), folder) {
                (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, Some(folder)) => {
                    format!("the directory {} does not exist; create it first", folder.display())
                }
                (io::ErrorKind::IsADirectory, _) => {
                    "it is a directory; name a file in it".to_owned()
                }
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("cannot record to {shown}: {why}"))
        };
        let mut file = open(path).map_err(refused)?;
        let begins_anew = ends_in_a_line(&mut file).map_err(refused)?;
        let (records, queue) = mpsc::channel(QUEUE_MESSAGES);
        let (ended, end) = oneshot::channel();
        let missing = Arc::new(AtomicU64::new(0));
        // Writing to a file may block for any length of time, so it gets its own thread.
        let thread = std::thread::Builder::new().name("tieline-tap".into());
        let lost = missing.clone();
        thread.spawn(move || {
            let written = write_all(&mut file, begins_anew, queue, &lost);
            if let Err(error) = &written {
                tracing::error!("recording messages stopped: {error}");
            }
            drop(file);
            let _ = ended.send(written);
        })?;
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        Ok((Self { records, room, missing: missing.clone() }, TapEnd { end, missing }))
    }

    /// Opens the file at `path` for recording, if a path is given.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, is a symbolic link, a pipe or a terminal, or belongs to another
    /// user.
    pub fn open_if_any(path: Option<&Path>) -> io::Result<(Option<Self>, Option<TapEnd>)> {
        Ok(path.map(Self::open).transpose()?.unzip())
    }

    /// Queues one message. Cancel-safe: a cancelled call has queued nothing.
    pub(crate) async fn record(&self, line: u64, from: &'static str, message: &Bytes) {
        let size = u32::try_from(message.len().clamp(1, QUEUE_BYTES)).unwrap_or(u32::MAX);
        // The semaphore is never closed. The queue is closed only after a write has failed.
        let Ok(room) = self.room.clone().acquire_many_owned(size).await else { return };
        let (time, message) = (SystemTime::now(), message.clone());
        if self.records.send(Record { time, line, from, message, _room: room }).await.is_err() {
            self.missing.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl TapEnd {
    /// Waits until all records are written.
    ///
    /// # Errors
    /// Fails if a write failed. The error says how many messages are missing from the file.
    pub async fn written(self) -> io::Result<()> {
        let written = self.end.await.unwrap_or(Ok(()));
        written.map_err(|error| {
            let missing = self.missing.load(Ordering::Relaxed);
            io::Error::new(
                error.kind(),
                format!("{} could not be written: {error}", Count(missing, "message")),
            )
        })
    }
}

/// Opens or creates the file for appending, and for reading its last byte.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Opening a pipe without a reader would block.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits() as i32);
    }
    let file = options.open(path).map_err(|error| explain(error, path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        // A slow reader of a pipe or terminal could block every line.
        if !kind.is_file() && !kind.is_char_device() || std::io::IsTerminal::is_terminal(&file) {
            return Err(io::Error::other("it is a pipe or a device; name a regular file"));
        }
        let ours = rustix::process::geteuid().as_raw();
        if kind.is_file() && metadata.uid() != ours {
            let why = "it belongs to another user, who could read every message; name another file";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    tieline_transport::warn_if_exposed(&file, path);
    Ok(file)
}

fn explain(error: io::Error, path: &Path) -> io::Error {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_symlink());
    match is_link {
        true => io::Error::new(error.kind(), "it is a symbolic link; name the file itself"),
        false => error,
    }
}

/// Returns false if the last record in the file is incomplete, for example after a crash.
fn ends_in_a_line(file: &mut File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Writes records until all taps are dropped. Counts the records that could not be written.
fn write_all(
    file: &mut File,
    begins_anew: bool,
    mut queue: mpsc::Receiver<Record>,
    missing: &AtomicU64,
) -> io::Result<()> {
    let mut batch = Batch::default();
    if !begins_anew {
        batch.bytes.push(b'\n');
    }
    while let Some(record) = queue.blocking_recv() {
        batch.push(&record);
        drop(record);
        if batch.bytes.len() < BATCH && !queue.is_empty() {
            continue;
        }
        if let Err(error) = batch.write(file) {
            queue.close();
            let waiting = std::iter::from_fn(|| queue.blocking_recv()).count();
            missing.fetch_add((batch.ends.len() + waiting) as u64, Ordering::Relaxed);
            return Err(error);
        }
    }
    Ok(())
}

/// Complete records that are written together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The offset at which each record ends.
    ends: Vec<usize>,
}

impl Batch {
    fn push(&mut self, record: &Record) {
        encode(&mut self.bytes, record);
        self.ends.push(self.bytes.len());
    }

    /// Writes all records. On failure, a partly written record is removed from the file, and the records
    /// that are not in the file remain in the batch.
    fn write(&mut self, file: &mut File) -> io::Result<()> {
        let mut written = 0;
        while let Some(rest) = self.bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match file.write(rest) {
                Ok(count @ 1..) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    let whole = self.ends.iter().rev().find(|end| **end <= written);
                    let torn = written - whole.copied().unwrap_or(0);
                    self.ends.retain(|end| *end > written);
                    cut(file, torn);
                    return Err(failed.err().unwrap_or(io::ErrorKind::WriteZero.into()));
                }
            }
        }
        self.bytes.clear();
        self.ends.clear();
        Ok(())
    }
}

/// Removes the last `torn` bytes of the file, unless another process has appended to it since.
fn cut(file: &mut File, torn: usize) {
    let (Ok(metadata), Ok(end)) = (file.metadata(), file.stream_position()) else { return };
    if torn > 0 && metadata.is_file() && metadata.len() == end {
        let whole = end.saturating_sub(torn as u64);
        if let Err(error) = file.set_len(whole) {
            tracing::warn!("the last recorded message is incomplete: {error}");
        }
    }
}

fn encode(to: &mut Vec<u8>, record: &Record) {
    let Record { time, line, from, message, .. } = record;
    let time = humantime::format_rfc3339_micros(printable(*time));
    let head = format!(r#"{{"time":"{time}","line":{line},"from":"{from}","#);
    to.extend_from_slice(head.as_bytes());
    match json::to_one_line(message, json::Limits::default()) {
        Ok(json) => {
            to.extend_from_slice(br#""message":"#);
            to.extend_from_slice(&json);
        }
        Err(_) => match std::str::from_utf8(message) {
            Ok(text) => {
                let text = serde_json::Value::from(text);
                to.extend_from_slice(format!(r#""text":{text}"#).as_bytes());
            }
            Err(_) => {
                to.extend_from_slice(br#""hex":""#);
                for byte in message {
                    // Writing to a `Vec` cannot fail.
                    let _ = write!(to, "{byte:02x}");
                }
                to.push(b'"');
            }
        },
    }
    to.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_of_message_is_recorded_as_one_line_of_json() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tap");
        let (tap, end) = Tap::open(&path).unwrap();
        tap.record(1, "client", &Bytes::from_static(b"{\"a\":\n1}")).await;
        tap.record(1, "server", &Bytes::from_static(b"plain \"text\"")).await;
        tap.record(2, "server", &Bytes::from_static(b"\xff\x00")).await;
        drop(tap);
        end.written().await.unwrap();
        let recorded = std::fs::read_to_string(&path).unwrap();
        let records: Vec<serde_json::Value> =
            recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 3);
        assert_eq!(records[0]["message"]["a"], 1);
        assert_eq!(records[0]["from"], "client");
        assert!(records[0]["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(records[1]["text"], "plain \"text\"");
        assert_eq!((&records[2]["hex"], &records[2]["line"]), (&"ff00".into(), &2.into()));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn file_is_readable_by_its_owner_only_and_is_appended_to() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tap");
        for _ in 0..2 {
            let (tap, end) = Tap::open(&path).unwrap();
            tap.record(1, "client", &Bytes::from_static(b"1")).await;
            drop(tap);
            end.written().await.unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    async fn recorded(path: &Path, messages: &[&'static str]) -> io::Result<()> {
        let (tap, end) = Tap::open(path)?;
        for message in messages {
            tap.record(1, "client", &Bytes::from_static(message.as_bytes())).await;
        }
        drop(tap);
        end.written().await
    }

    #[tokio::test]
    async fn only_the_torn_record_of_an_earlier_run_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tap");
        recorded(&path, &["1", "2"]).await.unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 5).unwrap();
        recorded(&path, &["3"]).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let whole: Vec<bool> =
            text.lines().map(|it| serde_json::from_str::<serde_json::Value>(it).is_ok()).collect();
        assert_eq!(whole, [true, false, true], "{text}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn link_pipe_and_file_of_another_user_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tap");
        let refused = async |path: &Path| recorded(path, &["1"]).await.unwrap_err().to_string();

        let target = directory.path().join("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(refused(&path).await.ends_with("it is a symbolic link; name the file itself"));
        assert!(!target.exists());

        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = refused(&pipe).await;
        assert!(error.ends_with("it is a pipe or a device; name a regular file"), "{error}");

        if rustix::process::geteuid().is_root() {
            std::fs::write(&target, "").unwrap();
            std::os::unix::fs::chown(&target, Some(65_534), None).unwrap();
            let error = refused(&target).await;
            assert!(error.contains("belongs to another user"), "{error}");
            assert_eq!(std::fs::read_to_string(&target).unwrap(), "");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn full_disk_ends_the_tap_with_an_error_that_counts_missing_messages() {
        let (tap, end) = Tap::open(Path::new("/dev/full")).unwrap();
        for _ in 0..1_000 {
            tap.record(1, "client", &Bytes::from(vec![b'1'; 100_000])).await;
        }
        drop(tap);
        let error = end.written().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("1000 messages could not be written: "), "{error}");
    }

    #[tokio::test]
    async fn time_before_1970_is_recorded_as_1970() {
        let room = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let time = SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(1);
        let message = Bytes::from_static(b"1");
        let mut text = Vec::new();
        encode(&mut text, &Record { time, line: 1, from: "client", message, _room: room });
        assert!(text.starts_with(br#"{"time":"1970-01-01T00:00:00.000000Z","#));
    }
}
