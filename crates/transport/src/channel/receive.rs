//! The incoming half over a byte stream: read, decode, and find out how it ended.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tieline_proto::{ByteSize, Ending, Frame, Framing, Truncated};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Incoming, Receiver};
use crate::{BoxFuture, ChildExit, CloseReason, Control};

/// A read asks for this much at first, and for twice as much whenever it got all it asked for.
const SMALLEST_READ: usize = 4 * 1024;
const LARGEST_READ: usize = 256 * 1024;

/// A message from this length on is a large one.
const LARGE: usize = 64 * 1024;

/// An idle line gives back a buffer larger than this.
const KEEP_CAPACITY: usize = 16 * 1024;

/// The incoming half of a [`FramedChannel`](super::FramedChannel).
pub struct FramedReceiver<R, F> {
    read: R,
    framing: F,
    buffer: BytesMut,
    next_read: usize,
    /// The length of the last message.
    last_length: usize,
    /// Whom a stall wakes.
    waker: Option<Waker>,
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
            last_length: 0,
            waker: None,
            control,
            stage: Stage::Reading,
        }
    }

    /// One read into the buffer; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let missing = self.framing.missing(&self.buffer);
        self.buffer.reserve(self.room(missing));
        // Not beyond the end of a large message: the start of the next one would have to be moved.
        let free = self.buffer.capacity() - self.buffer.len();
        let wanted = free.min(missing.max(self.next_read));
        let mut limited = (&mut self.buffer).limit(wanted);
        // A `read_buf` future holds no state between polls, so a new one each time is the same.
        let polled = pin!(self.read.read_buf(&mut limited)).poll(cx);
        match polled {
            Poll::Ready(Ok(read)) if read == wanted => {
                self.next_read = (self.next_read * 2).min(LARGEST_READ);
            }
            Poll::Pending if self.buffer.is_empty() && self.buffer.capacity() > KEEP_CAPACITY => {
                self.buffer = BytesMut::new();
                self.next_read = SMALLEST_READ;
                self.last_length = 0;
            }
            _ => {}
        }
        polled
    }

    /// How much room to make for what comes next.
    fn room(&self, missing: usize) -> usize {
        let here = self.buffer.len();
        // What the peer announced is believed only as far as it has already sent: the buffer at
        // most doubles.
        let announced = missing.min(here);
        // Behind a large message another one is likely. Room for all of it is made while little of
        // it is here, as that has to be moved.
        let likely = match self.last_length.checked_sub(here) {
            Some(rest) if self.last_length >= LARGE => rest + self.next_read,
            _ => 0,
        };
        self.next_read.max(announced).max(likely)
    }

    /// Reads once; nothing to say as long as the stream goes on.
    #[inline(never)]
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let end = match self.poll_fill(cx) {
            Poll::Ready(Ok(0)) => {
                let ending = self.framing.finish(&mut self.buffer);
                let ended = self.control.ended();
                self.stage = Stage::Ending { ending, ended };
                ready!(self.poll_end(cx))
            }
            Poll::Ready(Ok(_)) => return Poll::Ready(None),
            Poll::Ready(Err(error)) => self.cut_off(error),
            Poll::Pending => {
                let reason = ready!(self.control.poll_stalled(cx, &mut self.waker));
                self.end(reason)
            }
        };
        Poll::Ready(Some(end))
    }

    /// Behind the end of the stream: a last line, if it was one, and the end, again and again.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let (ending, ended) = match &mut self.stage {
            Stage::Ended(reason) => return Poll::Ready(Incoming::End(reason.clone())),
            Stage::Ending { ending, ended } => (ending, ended),
            Stage::Reading => return Poll::Pending,
        };
        let exit = ready!(Pin::new(ended).poll(cx));
        let (last_line, reason) = judge(ending, exit, &self.control);
        let end = self.end(reason);
        let Some(line) = last_line else { return Poll::Ready(end) };
        self.control.meter().messages_in.add(1);
        Poll::Ready(Incoming::Message(line))
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
    #[inline(always)]
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        while let Stage::Reading = self.stage {
            match self.framing.decode(&mut self.buffer) {
                Ok(Some(Frame::Message(message))) => {
                    self.last_length = message.len();
                    self.control.meter().messages_in.add(1);
                    return Poll::Ready(Incoming::Message(message));
                }
                Ok(Some(Frame::Fault(fault))) => {
                    self.control.meter().fault();
                    return Poll::Ready(Incoming::Fault(fault));
                }
                Ok(None) => {
                    if let Some(incoming) = ready!(self.poll_more(cx)) {
                        return Poll::Ready(incoming);
                    }
                }
                Err(error) => return Poll::Ready(self.end(CloseReason::Protocol(error))),
            }
        }
        self.poll_end(cx)
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        self.framing.limit_to(most)
    }

    fn holds_part(&self) -> bool {
        self.framing.holds_part(&self.buffer)
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
            CloseReason::ChildExited(Arc::new(ChildExit { unterminated, truncated, ..exit }))
        }
        (None, Some(truncated)) => CloseReason::Truncated(truncated),
        (None, None) if line.is_some() => CloseReason::Unterminated,
        (None, None) => control.clean_end(),
    };
    (line, reason)
}
