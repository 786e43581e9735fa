//! A record of every message, as NDJSON, for people who want to see what was said.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tieline_proto::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// How much may wait to be written before the lines wait: 16 MiB and 4,096 messages.
const QUEUE_BYTES: usize = 16 << 20;
const QUEUE_MESSAGES: usize = 4096;

/// Records messages in a file. Cheap to clone.
///
/// Each line is `{"time":…,"line":1,"from":"client"|"server","message":…}`; what is not JSON stands
/// under `text`, and what is not text either under `hex`. The file is made for its owner alone, and
/// appended to.
///
/// When the disk is slow the lines wait for it. When it fails, that is logged once, recording ends,
/// and the lines go on.
#[derive(Clone, Debug)]
pub struct Tap {
    records: mpsc::Sender<Record>,
    room: Arc<Semaphore>,
}

/// Completes when everything was written, once every [`Tap`] of the file is gone.
#[derive(Debug)]
pub struct TapEnd(oneshot::Receiver<()>);

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
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<(Self, TapEnd)> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let refused =
            |e: io::Error| io::Error::new(e.kind(), format!("tap {}: {e}", path.display()));
        #[cfg(unix)]
        if std::fs::metadata(path)
            .is_ok_and(|it| std::os::unix::fs::FileTypeExt::is_fifo(&it.file_type()))
        {
            // Whoever reads it could hold up every line, or this very call.
            return Err(io::Error::other(format!(
                "tap {}: a pipe; a tap is a file",
                path.display()
            )));
        }
        let file = options.open(path).map_err(refused)?;
        let (records, queue) = mpsc::channel(QUEUE_MESSAGES);
        let (ended, end) = oneshot::channel();
        // A file may block for as long as its disk likes, which a thread of the runtime must not.
        let thread = std::thread::Builder::new().name("tieline-tap".into());
        thread.spawn(move || {
            if let Err(error) = write_all(file, queue) {
                tracing::error!("the tap has ended: {error}");
            }
            let _ = ended.send(());
        })?;
        Ok((Self { records, room: Arc::new(Semaphore::new(QUEUE_BYTES)) }, TapEnd(end)))
    }

    /// Records in the file at `path`, if one is named.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open_if_any(path: Option<&Path>) -> io::Result<(Option<Self>, Option<TapEnd>)> {
        Ok(path.map(Self::open).transpose()?.unzip())
    }

    /// Queues one message. Cancel-safe: it is queued or not.
    pub(crate) async fn record(&self, line: u64, from: &'static str, message: &Bytes) {
        let size = u32::try_from(message.len().clamp(1, QUEUE_BYTES)).unwrap_or(u32::MAX);
        // Neither is ever closed from this side; a tap that failed takes nothing more.
        let Ok(room) = self.room.clone().acquire_many_owned(size).await else { return };
        let (time, message) = (SystemTime::now(), message.clone());
        let _ = self.records.send(Record { time, line, from, message, _room: room }).await;
    }
}

impl TapEnd {
    /// Waits until everything was written.
    pub async fn written(self) {
        let _ = self.0.await;
    }
}

fn write_all(file: File, mut queue: mpsc::Receiver<Record>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    while let Some(record) = queue.blocking_recv() {
        write_record(&mut file, &record)?;
        if queue.is_empty() {
            file.flush()?;
        }
    }
    file.flush()
}

fn write_record(file: &mut impl Write, record: &Record) -> io::Result<()> {
    let Record { time, line, from, message, .. } = record;
    let time = humantime::format_rfc3339_micros(*time);
    write!(file, r#"{{"time":"{time}","line":{line},"from":"{from}","#)?;
    match (json::to_one_line(message, json::Limits::default()), std::str::from_utf8(message)) {
        (Ok(json), _) => {
            file.write_all(br#""message":"#)?;
            file.write_all(&json)?;
        }
        (_, Ok(text)) => write!(file, r#""text":{}"#, serde_json::to_string(text)?)?,
        (_, Err(_)) => {
            file.write_all(br#""hex":""#)?;
            message.iter().try_for_each(|byte| write!(file, "{byte:02x}"))?;
            file.write_all(b"\"")?;
        }
    }
    file.write_all(b"}\n")
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
        end.written().await;
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
            end.written().await;
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_ends_the_tap_and_nothing_else() {
        let (tap, end) = Tap::open(Path::new("/dev/full")).unwrap();
        tap.record(1, "client", &Bytes::from_static(b"1")).await;
        end.written().await;
        for _ in 0..10_000 {
            tap.record(1, "client", &Bytes::from(vec![b'1'; 10_000])).await;
        }
    }
}
