//! The incoming half over a byte stream: reads, decodes, and determines how the line ended.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tieline_proto::{ByteSize, Ending, Frame, Framing, Truncated};

use super::read_buffer::ReadBuffer;
use super::{Incoming, Receiver};
use crate::budget::{MemoryBudget, MemoryRefused};
use crate::close::{ChildExit, CloseReason};
use crate::connection::ReadEnd;
use crate::control::{BoxFuture, Control};

/// The incoming half of a [`FramedChannel`](super::FramedChannel).
pub struct FramedReceiver<R, F> {
    read: R,
    framing: F,
    buffer: ReadBuffer,
    /// The waker that is registered for a stall of the sender.
    waker: Option<Waker>,
    control: Control,
    /// True once the framing has examined the first bytes.
    has_met: bool,
    stage: Stage,
}

enum Stage {
    Reading,
    /// The stream has ended. Whether an unterminated last line is a message depends on how the other
    /// side ended.
    Ending {
        ending: Ending,
        ended: BoxFuture<'static, Option<ChildExit>>,
    },
    /// The last line was delivered.
    Ended(CloseReason),
}

impl<R: ReadEnd, F: Framing> FramedReceiver<R, F> {
    pub(crate) fn new(read: R, framing: F, control: Control) -> Self {
        Self {
            read,
            framing,
            buffer: ReadBuffer::new(BytesMut::new()),
            waker: None,
            control,
            has_met: false,
            stage: Stage::Reading,
        }
    }

    pub(crate) fn within(mut self, budget: Option<&MemoryBudget>) -> Self {
        self.buffer = self.buffer.within(budget);
        self
    }

    /// Reads once; returns `None` while the stream continues.
    #[inline(never)]
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        loop {
            let read = ready!(self.poll_read(cx));
            if read.is_some() || self.has_met {
                return Poll::Ready(read);
            }
            match self.framing.meet(&self.buffer) {
                Ok(has_met) => self.has_met = has_met,
                Err(error) => {
                    self.control.refuse(error);
                    return Poll::Ready(Some(self.end(CloseReason::Protocol(error))));
                }
            }
            if self.has_met {
                return Poll::Ready(None);
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let missing = self.framing.missing(&self.buffer);
        let end = match self.buffer.poll_fill(&mut self.read, missing, cx) {
            Poll::Ready(Ok(0)) => {
                let ending = self.framing.finish(&mut self.buffer);
                let ended = self.control.ended();
                self.stage = Stage::Ending { ending, ended };
                ready!(self.poll_end(cx))
            }
            Poll::Ready(Ok(_)) => return Poll::Ready(None),
            Poll::Ready(Err(error)) => match MemoryRefused::in_error(&error) {
                Some(refused) => self.end(refused.into()),
                None => self.cut_off(error),
            },
            Poll::Pending => {
                let reason = ready!(self.control.poll_stalled(cx, &mut self.waker));
                self.end(reason)
            }
        };
        Poll::Ready(Some(end))
    }

    /// Returns the last line if it is a message, and the end in all later calls. This is called after
    /// the end of the stream.
    #[cold]
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

    /// Ends the line after a read error. A partial message is not delivered.
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
        self.buffer.release();
        self.stage = Stage::Ended(reason.clone());
        Incoming::End(reason)
    }
}

impl<R: ReadEnd, F: Framing> Receiver for FramedReceiver<R, F> {
    #[inline(always)]
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        while let Stage::Reading = self.stage {
            match self.framing.decode(&mut self.buffer) {
                Ok(Some(Frame::Message(message))) => {
                    self.buffer.took(message.len());
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

    fn unfinished(&self) -> usize {
        self.buffer.len()
    }

    fn unread(&self) -> u64 {
        match self.stage {
            Stage::Reading => (self.framing.unread(&self.buffer) as u64)
                .saturating_add(self.read.unread().unwrap_or_default()),
            // The close reason contains the number of bytes.
            Stage::Ending { .. } | Stage::Ended(_) => 0,
        }
    }
}

/// Decides whether the last line was a message and why the line ended. An unterminated last line is
/// delivered unless the other side failed.
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
