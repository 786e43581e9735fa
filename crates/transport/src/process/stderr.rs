//! A child's stderr. It is always read, so that the child never blocks on it. Its end is kept for the
//! close reason, and its lines are logged at a limited rate.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::{ByteSize, Ending, Frame, Framing, Lines, printable};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How many bytes of the end are kept.
const TAIL: usize = 64 * 1024;

/// Longer lines of stderr are not logged.
const LONGEST_LINE: ByteSize = ByteSize::kib(8);

/// The maximum number of lines logged per second.
const LINES_A_SECOND: u32 = 100;

const A_SECOND: Duration = Duration::from_secs(1);

/// What a child wrote to stderr.
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

    /// Completes when stderr has ended.
    pub(crate) async fn finished(&self) {
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    /// Reads until the end. The future ends with the stream, or when it is dropped.
    pub(crate) fn drain<R: AsyncRead + Send + Unpin>(
        &self,
        mut pipe: R,
        name: String,
        pid: u32,
    ) -> impl Future<Output = ()> + Send + use<R> {
        let this = self.clone();
        async move {
            let mut log = LineLog::new(name, pid);
            let mut lines = Lines::new(LONGEST_LINE);
            let mut buffer = BytesMut::with_capacity(8 * 1024);
            loop {
                let kept = buffer.len();
                let read = pipe.read_buf(&mut buffer);
                let read = match log.announces_at() {
                    None => read.await,
                    Some(at) => match timeout_at(at, read).await {
                        Ok(read) => read,
                        Err(_) => {
                            log.say_suppressed();
                            continue;
                        }
                    },
                };
                match read {
                    Ok(1..) => this.keep(buffer.get(kept..).unwrap_or_default()),
                    Ok(0) | Err(_) => break,
                }
                while let Ok(Some(frame)) = lines.decode(&mut buffer) {
                    log.frame(&frame);
                }
            }
            if let Ending::Unterminated(line) = lines.finish(&mut buffer) {
                log.frame(&Frame::Message(line));
            }
            drop(log);
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

/// Logs lines at a limited rate. Suppressed lines are counted, and their number is logged with the next
/// line, after the second, or at the end.
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

/// The reading task may be aborted before stderr ends: a surviving process can hold it open.
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
