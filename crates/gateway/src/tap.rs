//! A record of every message, as NDJSON, for people who want to see what was said.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use tieline_proto::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::timestamp::printable;

/// How much may wait to be written before the lines wait: 16 MiB and 4,096 messages.
const QUEUE_BYTES: usize = 16 << 20;
const QUEUE_MESSAGES: usize = 4096;

/// How many bytes of records are collected for one write.
const BATCH: usize = 64 << 10;

/// Records messages in a file. Cheap to clone.
///
/// Each line is `{"time":…,"line":1,"from":"client"|"server","message":…}`; what is not JSON stands
/// under `text`, and what is not text either under `hex`. The file is created for its owner alone, and
/// appended to. A file of another user, and a symbolic link, are refused.
///
/// When the disk is slow the lines wait for it. When it fails, that is logged once, recording ends with
/// the last whole record, and the lines go on; [`TapEnd::written`] says how many messages are missing.
#[derive(Clone, Debug)]
pub struct Tap {
    records: mpsc::Sender<Record>,
    room: Arc<Semaphore>,
    missing: Arc<AtomicU64>,
}

/// Completes when everything was written, once every [`Tap`] of the file is gone.
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
    /// Records in the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened, or is none to record in.
    pub fn open(path: &Path) -> io::Result<(Self, TapEnd)> {
        let refused =
            |e: io::Error| io::Error::new(e.kind(), format!("tap {}: {e}", path.display()));
        let mut file = open(path).map_err(refused)?;
        let begins_anew = ends_in_a_line(&mut file).map_err(refused)?;
        let (records, queue) = mpsc::channel(QUEUE_MESSAGES);
        let (ended, end) = oneshot::channel();
        let missing = Arc::new(AtomicU64::new(0));
        // A file may block for as long as its disk likes, which a thread of the runtime must not.
        let thread = std::thread::Builder::new().name("tieline-tap".into());
        let lost = missing.clone();
        thread.spawn(move || {
            let written = write_all(&mut file, begins_anew, queue, &lost);
            if let Err(error) = &written {
                tracing::error!("the tap has ended: {error}");
            }
            drop(file);
            let _ = ended.send(written);
        })?;
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        Ok((Self { records, room, missing: missing.clone() }, TapEnd { end, missing }))
    }

    /// Records in the file at `path`, if one is named.
    ///
    /// # Errors
    /// The file cannot be opened, or is none to record in.
    pub fn open_if_any(path: Option<&Path>) -> io::Result<(Option<Self>, Option<TapEnd>)> {
        Ok(path.map(Self::open).transpose()?.unzip())
    }

    /// Queues one message. Cancel-safe: it is queued or not.
    pub(crate) async fn record(&self, line: u64, from: &'static str, message: &Bytes) {
        let size = u32::try_from(message.len().clamp(1, QUEUE_BYTES)).unwrap_or(u32::MAX);
        // Neither is ever closed from this side; a tap that failed takes nothing more.
        let Ok(room) = self.room.clone().acquire_many_owned(size).await else { return };
        let (time, message) = (SystemTime::now(), message.clone());
        if self.records.send(Record { time, line, from, message, _room: room }).await.is_err() {
            self.missing.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl TapEnd {
    /// Waits until everything was written.
    ///
    /// # Errors
    /// The file could not be written to; the error says how many messages are missing in it.
    pub async fn written(self) -> io::Result<()> {
        let written = self.end.await.unwrap_or(Ok(()));
        written.map_err(|error| {
            let missing = self.missing.load(Ordering::Relaxed);
            io::Error::new(error.kind(), format!("{missing} messages are missing in it: {error}"))
        })
    }
}

/// Opens or creates the file. It is readable as well, to see how it ends.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe that nobody reads would hold up this very call.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path).map_err(|error| explain(error, path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        // Whoever reads a pipe or a terminal could hold up every line.
        if !kind.is_file() && !kind.is_char_device() || std::io::IsTerminal::is_terminal(&file) {
            return Err(io::Error::other("a pipe or a device; a tap is a file"));
        }
        let ours = rustix::process::geteuid().as_raw();
        if kind.is_file() && metadata.uid() != ours {
            let why = "belongs to another user, who could read every message; name another file";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    tieline_transport::warn_if_exposed(&file, path);
    Ok(file)
}

fn explain(error: io::Error, path: &Path) -> io::Error {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_symlink());
    match is_link {
        true => io::Error::new(error.kind(), "a symbolic link; name the file itself"),
        false => error,
    }
}

/// False for a file whose last record was torn, as by a crash.
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

/// Writes records until all taps are gone. Counts those that it could not write.
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

/// Whole records that are written together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Batch {
    fn push(&mut self, record: &Record) {
        encode(&mut self.bytes, record);
        self.ends.push(self.bytes.len());
    }

    /// Writes all of it. If that fails, a record of which a part was written is removed from the file, and
    /// those that are not in it remain here.
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

/// Removes the last bytes that were written, unless another process appended to the file since.
fn cut(file: &mut File, torn: usize) {
    let (Ok(metadata), Ok(end)) = (file.metadata(), file.stream_position()) else { return };
    if torn > 0 && metadata.is_file() && metadata.len() == end {
        let whole = end.saturating_sub(torn as u64);
        if let Err(error) = file.set_len(whole) {
            tracing::warn!("the last record of the tap is not whole: {error}");
        }
    }
}

fn encode(to: &mut Vec<u8>, record: &Record) {
    let Record { time, line, from, message, .. } = record;
    let time = humantime::format_rfc3339_micros(printable(*time));
    let head = format!(r#"{{"time":"{time}","line":{line},"from":"{from}","#);
    to.extend_from_slice(head.as_bytes());
    match (json::to_one_line(message, json::Limits::default()), std::str::from_utf8(message)) {
        (Ok(json), _) => {
            to.extend_from_slice(br#""message":"#);
            to.extend_from_slice(&json);
        }
        (_, Ok(text)) => {
            let text = serde_json::Value::from(text);
            to.extend_from_slice(format!(r#""text":{text}"#).as_bytes());
        }
        (_, Err(_)) => {
            to.extend_from_slice(br#""hex":""#);
            message.iter().for_each(|byte| to.extend_from_slice(format!("{byte:02x}").as_bytes()));
            to.push(b'"');
        }
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
    async fn the_file_is_for_its_owner_alone_and_is_appended_to() {
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
    async fn torn_record_of_an_earlier_run_costs_only_itself() {
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
    async fn file_of_another_user_or_behind_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tap");
        let refused = async |path: &Path| recorded(path, &["1"]).await.unwrap_err().to_string();

        let target = directory.path().join("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(refused(&path).await.ends_with("a symbolic link; name the file itself"));
        assert!(!target.exists());

        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let said = refused(&pipe).await;
        assert!(said.ends_with("a pipe or a device; a tap is a file"), "{said}");

        if rustix::process::geteuid().is_root() {
            std::fs::write(&target, "").unwrap();
            std::os::unix::fs::chown(&target, Some(65_534), None).unwrap();
            let said = refused(&target).await;
            assert!(said.contains("belongs to another user"), "{said}");
            assert_eq!(std::fs::read_to_string(&target).unwrap(), "");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn full_disk_ends_the_tap_and_is_an_error_that_counts_what_is_missing() {
        let (tap, end) = Tap::open(Path::new("/dev/full")).unwrap();
        for _ in 0..1_000 {
            tap.record(1, "client", &Bytes::from(vec![b'1'; 100_000])).await;
        }
        drop(tap);
        let error = end.written().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("1000 messages are missing in it: "), "{error}");
    }

    #[tokio::test]
    async fn clock_before_1970_is_recorded() {
        let room = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let time = SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(1);
        let message = Bytes::from_static(b"1");
        let mut text = Vec::new();
        encode(&mut text, &Record { time, line: 1, from: "client", message, _room: room });
        assert!(text.starts_with(br#"{"time":"1970-01-01T00:00:00.000000Z","#));
    }
}
