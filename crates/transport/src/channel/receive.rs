//! The incoming half over a byte stream: read, decode, and find out how it ended.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tieline_proto::{Ending, Frame, Framing, Truncated};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Incoming, Receiver};
use crate::{BoxFuture, ChildExit, CloseReason, Control};

/// A read asks for this much at first, and for twice as much whenever it got all it asked for.
const SMALLEST_READ: usize = 4 * 1024;
const LARGEST_READ: usize = 256 * 1024;

/// An idle line gives back a buffer larger than this.
const KEEP_CAPACITY: usize = 16 * 1024;

/// The incoming half of a [`FramedChannel`](super::FramedChannel).
pub struct FramedReceiver<R, F> {
    read: R,
    framing: F,
    buffer: BytesMut,
    next_read: usize,
    control: Control,
    stage: Stage,
}

enum Stage {
    Reading,
    /// The stream is at its end; how the far side ended decides what a last line was.
    Ending {
        ending: Ending,
        ended: BoxFuture<'static, Option<ChildExit>>,
    },
    /// The last line was delivered.
    Ended(CloseReason),
}

impl<R: AsyncRead + Send + Unpin + 'static, F: Framing> FramedReceiver<R, F> {
    pub(crate) fn new(read: R, framing: F, control: Control) -> Self {
        Self {
            read,
            framing,
            buffer: BytesMut::new(),
            next_read: SMALLEST_READ,
            control,
            stage: Stage::Reading,
        }
    }

    /// The next frame that is in the buffer already.
    fn decode(&mut self) -> Result<Option<Incoming>, CloseReason> {
        let meter = self.control.meter();
        match self.framing.decode(&mut self.buffer) {
            Ok(Some(Frame::Message(message))) => {
                meter.messages_in.fetch_add(1, Relaxed);
                Ok(Some(Incoming::Message(message)))
            }
            Ok(Some(Frame::Fault(fault))) => {
                meter.faults.fetch_add(1, Relaxed);
                Ok(Some(Incoming::Fault(fault)))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(CloseReason::Protocol(error)),
        }
    }

    /// One read into the buffer; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What the peer announced is believed only as far as it has already sent: the buffer at
        // most doubles.
        let announced = self.framing.missing(&self.buffer).min(self.buffer.len());
        self.buffer.reserve(self.next_read.max(announced));
        let space = self.buffer.capacity() - self.buffer.len();
        // A `read_buf` future holds no state between polls, so a new one each time is the same.
        let polled = pin!(self.read.read_buf(&mut self.buffer)).poll(cx);
        match polled {
            Poll::Ready(Ok(read)) if read == space => {
                self.next_read = (self.next_read * 2).min(LARGEST_READ);
            }
            Poll::Pending if self.buffer.is_empty() && self.buffer.capacity() > KEEP_CAPACITY => {
                self.buffer = BytesMut::new();
                self.next_read = SMALLEST_READ;
            }
            _ => {}
        }
        polled
    }

    /// The end of a stream that did not end cleanly: what had come of a message is none.
    fn cut_off(&mut self, error: io::Error) -> Incoming {
        let truncated = match self.framing.finish(&mut self.buffer) {
            Ending::Clean => return self.end(error.into()),
            Ending::Unterminated(line) => Truncated { received: line.len(), expected: None },
            Ending::Truncated(truncated) => truncated,
        };
        self.end(CloseReason::Truncated(truncated))
    }

    fn end(&mut self, reason: CloseReason) -> Incoming {
        let reason = self.control.end(reason);
        self.buffer = BytesMut::new();
        self.stage = Stage::Ended(reason.clone());
        Incoming::End(reason)
    }
}

impl<R: AsyncRead + Send + Unpin + 'static, F: Framing> Receiver for FramedReceiver<R, F> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            match &mut self.stage {
                Stage::Reading => match self.decode() {
                    Ok(Some(incoming)) => return Poll::Ready(incoming),
                    Ok(None) => match self.poll_fill(cx) {
                        Poll::Ready(Ok(0)) => {
                            let ending = self.framing.finish(&mut self.buffer);
                            let ended = self.control.ended();
                            self.stage = Stage::Ending { ending, ended };
                        }
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(self.cut_off(error)),
                        Poll::Pending => {
                            let reason = ready!(self.control.poll_stalled(cx));
                            return Poll::Ready(self.end(reason));
                        }
                    },
                    Err(reason) => return Poll::Ready(self.end(reason)),
                },
                Stage::Ending { ending, ended } => {
                    let exit = ready!(Pin::new(ended).poll(cx));
                    let (last_line, reason) = judge(ending, exit, &self.control);
                    let end = self.end(reason);
                    let Some(line) = last_line else { return Poll::Ready(end) };
                    self.control.meter().messages_in.fetch_add(1, Relaxed);
                    return Poll::Ready(Incoming::Message(line));
                }
                Stage::Ended(reason) => return Poll::Ready(Incoming::End(reason.clone())),
            }
        }
    }
}

/// Was the last line a message, and why did the line end? A last line without a newline counts
/// only if nothing speaks for its being cut off.
fn judge(
    ending: &Ending,
    exit: Option<ChildExit>,
    control: &Control,
) -> (Option<Bytes>, CloseReason) {
    let failed = exit.as_ref().is_some_and(|exit| !exit.status.success());
    let (line, truncated) = match ending {
        Ending::Clean => (None, None),
        Ending::Unterminated(line) if failed => {
            let received = line.len();
            (None, Some(Truncated { received, expected: None }))
        }
        Ending::Unterminated(line) => (Some(line.clone()), None),
        Ending::Truncated(truncated) => (None, Some(*truncated)),
    };
    let reason = match (exit, truncated) {
        (Some(exit), truncated) => {
            let unterminated = line.is_some();
            CloseReason::ChildExited(ChildExit { unterminated, truncated, ..exit })
        }
        (None, Some(truncated)) => CloseReason::Truncated(truncated),
        (None, None) if line.is_some() => CloseReason::Unterminated,
        (None, None) => control.clean_end(),
    };
    (line, reason)
}
