//! A child's stderr. It is always read, so that the child never blocks on it. The end of the output is
//! kept for the close reason, and the lines are logged at a limited rate, passed on, or discarded.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::{ByteSize, Ending, Frame, Framing, Lines, printable};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::child_stderr::{ChildStderr, StderrLines, StderrSink};

/// How many bytes at the end of the output are kept.
const TAIL: usize = 64 * 1024;

/// Longer lines of stderr are not logged.
const LONGEST_LINE: ByteSize = ByteSize::kib(8);

/// Longer lines are split when they are passed on.
const LONGEST_PASSED: usize = 64 * 1024;

/// The maximum number of lines logged per second.
const LINES_A_SECOND: u32 = 100;

const A_SECOND: Duration = Duration::from_secs(1);

/// The state of a child's stderr: its last bytes, and whether it has ended.
#[derive(Clone, Debug)]
pub(crate) struct Stderr {
    tail: Arc<Mutex<VecDeque<u8>>>,
    finished: watch::Sender<bool>,
}

impl Default for Stderr {
    fn default() -> Self {
        Self { tail: Arc::default(), finished: watch::Sender::new(false) }
    }
}

impl Stderr {
    /// Returns the last bytes.
    pub(crate) fn tail(&self) -> Bytes {
        let tail = self.tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        tail.iter().copied().collect()
    }

    /// Waits until stderr has ended.
    pub(crate) async fn finished(&self) {
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    /// Reads stderr until its end.
    pub(crate) fn drain<R: AsyncRead + Send + Unpin>(
        &self,
        mut pipe: R,
        mode: ChildStderr,
        name: String,
        pid: u32,
    ) -> impl Future<Output = ()> + Send + use<R> {
        let this = self.clone();
        async move {
            let buffer = BytesMut::with_capacity(8 * 1024);
            let mut reading = Reading { output: Output::of(mode, name, pid), buffer };
            loop {
                let Reading { output, buffer } = &mut reading;
                let kept = buffer.len();
                let read = pipe.read_buf(buffer);
                let read = match output.announces_at() {
                    None => read.await,
                    Some(at) => match timeout_at(at, read).await {
                        Ok(read) => read,
                        Err(_) => {
                            output.announce();
                            continue;
                        }
                    },
                };
                match read {
                    Ok(1..) => this.keep(buffer.get(kept..).unwrap_or_default()),
                    Ok(0) | Err(_) => break,
                }
                output.take(buffer, kept);
            }
            drop(reading);
            this.finished.send_replace(true);
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fresh = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or_default();
        let excess = (tail.len() + fresh.len()).saturating_sub(TAIL);
        let dropped = excess.min(tail.len());
        tail.drain(..dropped);
        tail.extend(fresh);
    }
}

/// The output, and what was read of an unterminated line.
struct Reading {
    output: Output,
    buffer: BytesMut,
}

/// The reading task may be aborted before stderr ends: a surviving process can hold it open.
impl Drop for Reading {
    fn drop(&mut self) {
        self.output.finish(&mut self.buffer);
    }
}

/// The destination of the output.
enum Output {
    Log(LineLog, Lines),
    Discard,
    PassOn { sink: StderrSink, program: String, pid: u32 },
}

impl Output {
    fn of(mode: ChildStderr, program: String, pid: u32) -> Self {
        match mode {
            ChildStderr::Log => Self::Log(LineLog::new(program, pid), Lines::new(LONGEST_LINE)),
            ChildStderr::Discard => Self::Discard,
            ChildStderr::PassOn(sink) => Self::PassOn { sink, program, pid },
        }
    }

    /// Takes the whole lines from the buffer. The first `kept` bytes were already in the buffer, and
    /// contain no line end.
    fn take(&mut self, buffer: &mut BytesMut, kept: usize) {
        match self {
            Self::Log(log, lines) => {
                while let Ok(Some(frame)) = lines.decode(buffer) {
                    log.frame(&frame);
                }
            }
            Self::Discard => buffer.clear(),
            Self::PassOn { .. } => {
                let fresh = buffer.get(kept..).unwrap_or_default();
                if let Some(last) = fresh.iter().rposition(|byte| *byte == b'\n') {
                    let text = buffer.split_to(kept + last + 1);
                    self.pass_on(&text);
                }
                if buffer.len() >= LONGEST_PASSED {
                    self.finish(buffer);
                }
            }
        }
    }

    /// Takes the rest of the buffer, which is a line without a newline.
    fn finish(&mut self, buffer: &mut BytesMut) {
        match self {
            Self::Log(log, lines) => {
                if let Ending::Unterminated(line) = lines.finish(buffer) {
                    log.frame(&Frame::Message(line));
                }
            }
            Self::PassOn { .. } if !buffer.is_empty() => {
                buffer.extend_from_slice(b"\n");
                let text = buffer.split();
                self.pass_on(&text);
            }
            Self::Discard | Self::PassOn { .. } => buffer.clear(),
        }
    }

    fn pass_on(&self, text: &[u8]) {
        if let Self::PassOn { sink, program, pid } = self {
            sink.write(StderrLines { program, pid: *pid, text });
        }
    }

    /// Returns when [`announce`](Self::announce) must be called, if it must.
    fn announces_at(&self) -> Option<Instant> {
        match self {
            Self::Log(log, _) => log.announces_at(),
            _ => None,
        }
    }

    fn announce(&mut self) {
        if let Self::Log(log, _) = self {
            log.say_suppressed();
        }
    }
}

/// A log of lines at a limited rate. Suppressed lines are counted, and their number is logged with the
/// next line, at the end of the second, or at the end of the output.
struct LineLog {
    name: String,
    pid: u32,
    allowance: u32,
    refilled: Instant,
    suppressed: u64,
}

impl LineLog {
    fn new(name: String, pid: u32) -> Self {
        Self { name, pid, allowance: LINES_A_SECOND, refilled: Instant::now(), suppressed: 0 }
    }

    fn frame(&mut self, frame: &Frame) {
        if !self.admit(Instant::now()) {
            return;
        }
        self.say_suppressed();
        let Self { name, pid, .. } = self;
        match frame {
            Frame::Message(line) => {
                let line = printable(line);
                tracing::info!(target: "tieline::child", child = %name, pid, "{line}");
            }
            Frame::Fault(fault) => {
                tracing::info!(target: "tieline::child", child = %name, pid, "{fault}");
            }
        }
    }

    fn admit(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.refilled) >= A_SECOND {
            self.refilled = now;
            self.allowance = LINES_A_SECOND;
        }
        if self.allowance == 0 {
            self.suppressed += 1;
            return false;
        }
        self.allowance -= 1;
        true
    }

    /// Returns when the number of suppressed lines will be logged, if there are any.
    fn announces_at(&self) -> Option<Instant> {
        (self.suppressed > 0).then(|| self.refilled + A_SECOND)
    }

    fn say_suppressed(&mut self) {
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0 {
            let Self { name, pid, .. } = self;
            tracing::warn!(target: "tieline::child", child = %name, pid, suppressed, "too many lines on stderr");
        }
    }
}

impl Drop for LineLog {
    fn drop(&mut self) {
        self.say_suppressed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_last_64_kib() {
        let stderr = Stderr::default();
        stderr.keep(b"early");
        assert_eq!(stderr.tail(), &b"early"[..]);
        stderr.keep(&[b'x'; TAIL - 2]);
        stderr.keep(b"z");
        let tail = stderr.tail();
        assert_eq!(tail.len(), TAIL);
        assert!(tail.starts_with(b"yx"), "{:?}", &tail[..3]);
        assert!(tail.ends_with(b"xz"));
        stderr.keep(&[b'w'; 3 * TAIL]);
        assert_eq!(stderr.tail(), vec![b'w'; TAIL]);
    }

    /// Writes these parts to a pipe one after the other, and returns the texts that were passed on.
    async fn passed_on(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let passed: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let sink = passed.clone();
        let sink = StderrSink::new(move |lines| {
            assert_eq!((lines.program, lines.pid), ("child", 7));
            sink.lock().unwrap().push(lines.text.to_vec());
        });
        let (mut writer, reader) = tokio::io::duplex(256 * 1024);
        let stderr = Stderr::default();
        let draining =
            tokio::spawn(stderr.drain(reader, ChildStderr::PassOn(sink), "child".into(), 7));
        for part in parts {
            tokio::io::AsyncWriteExt::write_all(&mut writer, part).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(writer);
        draining.await.unwrap();
        assert!(parts.concat().ends_with(&stderr.tail()));
        passed.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn output_is_passed_on_in_whole_lines_as_it_arrives() {
        let parts: &[&[u8]] = &[b"one\r\ntw", b"o\n\n\x1b[1mthr", b"", b"ee\xff"];
        let passed = passed_on(parts).await;
        assert_eq!(passed.concat(), b"one\r\ntwo\n\n\x1b[1mthree\xff\n");
        assert!(passed.iter().all(|text| text.ends_with(b"\n")), "{passed:?}");
        assert!(passed_on(&[]).await.is_empty());
    }

    /// A process that outlives the program may hold stderr open.
    #[tokio::test]
    async fn unterminated_last_line_is_passed_on_if_reading_is_aborted() {
        let passed: Arc<Mutex<Vec<u8>>> = Arc::default();
        let into = passed.clone();
        let sink = StderrSink::new(move |lines| into.lock().unwrap().extend(lines.text));
        let (mut writer, reader) = tokio::io::duplex(1024);
        let stderr = Stderr::default();
        let draining =
            tokio::spawn(stderr.drain(reader, ChildStderr::PassOn(sink), "child".into(), 7));
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"one\ntwo").await.unwrap();
        while stderr.tail() != b"one\ntwo"[..] {
            tokio::task::yield_now().await;
        }
        draining.abort();
        assert!(draining.await.unwrap_err().is_cancelled());
        assert_eq!(*passed.lock().unwrap(), b"one\ntwo\n");
    }

    #[tokio::test]
    async fn long_lines_are_split_without_loss() {
        let line = vec![b'x'; 3 * LONGEST_PASSED + 1];
        let passed = passed_on(&[&line, b"\nend"]).await.concat();
        assert!(passed.ends_with(b"\nend\n"));
        assert_eq!(passed.iter().filter(|byte| **byte == b'x').count(), line.len());
        let longest = passed.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
        assert!(longest <= Some(2 * LONGEST_PASSED), "{longest:?}");
    }

    #[test]
    fn excess_lines_are_counted_and_not_logged() {
        let mut log = LineLog::new("child".into(), 1);
        let start = log.refilled;
        let admitted = (0..1000).filter(|_| log.admit(start)).count();
        assert_eq!(admitted, LINES_A_SECOND as usize);
        assert_eq!(log.suppressed, 1000 - u64::from(LINES_A_SECOND));
        assert!(log.admit(start + A_SECOND));
    }
}
