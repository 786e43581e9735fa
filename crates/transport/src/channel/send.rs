//! The outgoing half over a byte stream: encode into one queue, write it out in batches, and
//! notice when the far side has stopped reading.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_proto::{Framing, WriteBuf};
use tokio::time::Sleep;

use super::{Refused, SendError, Sender};
use crate::{ChannelConfig, CloseReason, Control, WriteEnd};

/// How many pieces one write takes at most.
const MAX_SLICES: usize = 64;

/// The outgoing half of a [`FramedChannel`](super::FramedChannel).
pub struct FramedSender<W, F> {
    write: W,
    framing: F,
    queue: WriteBuf,
    /// How many bytes the writing end has taken.
    written: u64,
    config: ChannelConfig,
    control: Control,
    /// Set while a write makes no progress.
    blocked: Option<Blocked>,
    state: State,
}

struct Blocked {
    since: Instant,
    bytes: usize,
    /// How many bytes had left the writing end when the deadline was set.
    left: u64,
    deadline: Pin<Box<Sleep>>,
}

enum State {
    Open,
    /// Nothing more is taken; the queue and the end of input are on their way.
    Closing,
    Closed(CloseReason),
}

impl<W: WriteEnd, F: Framing> FramedSender<W, F> {
    pub(crate) fn new(write: W, framing: F, config: ChannelConfig, control: Control) -> Self {
        let queue = WriteBuf::new();
        let (blocked, state) = (None, State::Open);
        Self { write, framing, queue, written: 0, config, control, blocked, state }
    }

    /// Writes until at most `allowed` bytes wait.
    fn poll_drain(&mut self, cx: &mut Context<'_>, allowed: usize) -> Poll<Result<(), SendError>> {
        while self.queue.len() > allowed {
            match self.poll_write_once(cx) {
                Poll::Ready(Ok(0)) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Poll::Ready(Err(self.end(error.into())));
                }
                Poll::Ready(Ok(written)) => {
                    self.queue.advance(written);
                    self.written += written as u64;
                    self.progressed();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.end(error.into()))),
                Poll::Pending => return self.poll_stalled(cx).map(Err),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Passes on the outcome of a flush or a shutdown, unless nothing has moved for too long.
    fn poll_finished(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<()>>,
    ) -> Poll<Result<io::Result<()>, SendError>> {
        match polled {
            Poll::Ready(outcome) => {
                self.progressed();
                Poll::Ready(Ok(outcome))
            }
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }

    fn progressed(&mut self) {
        if let Some(blocked) = self.blocked.take() {
            self.control.note_write(blocked.bytes, blocked.since.elapsed());
        }
    }

    fn poll_write_once(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.write);
        if self.queue.is_one_chunk() {
            return write.poll_write(cx, self.queue.first_chunk());
        }
        let mut slices = [io::IoSlice::new(&[]); MAX_SLICES];
        let filled = self.queue.chunks(&mut slices);
        write.poll_write_vectored(cx, slices.get(..filled).unwrap_or_default())
    }

    /// Ready, with the line ended, when nothing has moved for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        let limit = self.config.stall_timeout;
        let unflushed = self.write.unflushed();
        let waiting = self.queue.len() + unflushed;
        let left = self.written.saturating_sub(unflushed as u64);
        let blocked = self.blocked.get_or_insert_with(|| Blocked::new(waiting, left, limit));
        if left > blocked.left {
            blocked.left = left;
            blocked.deadline.as_mut().reset(tokio::time::Instant::now() + limit);
        }
        ready!(blocked.deadline.as_mut().poll(cx));
        Poll::Ready(self.end(CloseReason::Stalled))
    }

    /// Ends this direction; what waits is lost.
    fn end(&mut self, reason: CloseReason) -> SendError {
        let known = match reason {
            CloseReason::Stalled => Some(self.control.stalled()),
            // A failed write says that the far side is gone; why, the receiver finds out.
            _ => self.control.close_reason(),
        };
        let reason = match known {
            // All that the receiver found was the end of the input, which is no end of ours.
            None
            | Some(CloseReason::ByPeer | CloseReason::Unterminated | CloseReason::StdoutClosed) => {
                self.refined(reason)
            }
            Some(known) => known,
        };
        if !self.queue.is_empty() {
            let (endpoint, bytes) = (self.control.endpoint(), self.queue.len());
            tracing::debug!(%endpoint, bytes, %reason, "queued bytes were not sent");
            self.queue = WriteBuf::new();
        }
        self.blocked = None;
        self.state = State::Closed(reason.clone());
        SendError::Closed(Box::new(reason))
    }

    /// A child whose pipe is broken has said something by it.
    fn refined(&self, reason: CloseReason) -> CloseReason {
        match reason {
            CloseReason::Io(error)
                if error.kind() == io::ErrorKind::BrokenPipe && self.control.is_child() =>
            {
                CloseReason::StdinClosed
            }
            reason => reason,
        }
    }

    #[inline]
    fn check_open(&self) -> Result<(), SendError> {
        if let State::Open = self.state { Ok(()) } else { Err(self.not_open()) }
    }

    #[cold]
    fn not_open(&self) -> SendError {
        let reason = match &self.state {
            State::Closed(reason) => reason.clone(),
            State::Open | State::Closing => CloseReason::ByUs,
        };
        SendError::Closed(Box::new(reason))
    }
}

impl Blocked {
    fn new(bytes: usize, left: u64, limit: Duration) -> Self {
        let deadline = Box::pin(tokio::time::sleep(limit));
        Self { since: Instant::now(), bytes, left, deadline }
    }
}

impl<W: WriteEnd, F: Framing> Sender for FramedSender<W, F> {
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.check_open()?;
        let bound = self.config.write_queue.bytes();
        if self.queue.len() < bound {
            Poll::Ready(Ok(()))
        } else {
            self.poll_drain(cx, bound.saturating_sub(1))
        }
    }

    #[inline]
    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.check_open()?;
        if let Err(error) = self.framing.encode(&message, &mut self.queue) {
            self.control.meter().fault();
            return Err(SendError::Message(Box::new(Refused { message, error })));
        }
        self.control.meter().messages_out.add(1);
        Ok(())
    }

    #[inline]
    fn start_send_behind(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        self.check_open()?;
        if let Err(error) = self.framing.encode_behind(head, message, &mut self.queue) {
            self.control.meter().fault();
            let message = [head, message].concat().into();
            return Err(SendError::Message(Box::new(Refused { message, error })));
        }
        self.control.meter().messages_out.add(1);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let State::Closed(reason) = &self.state {
            return Poll::Ready(Err(SendError::Closed(Box::new(reason.clone()))));
        }
        ready!(self.poll_drain(cx, 0))?;
        self.queue.shrink();
        let flushed = Pin::new(&mut self.write).poll_flush(cx);
        let flushed = ready!(self.poll_finished(cx, flushed))?;
        Poll::Ready(flushed.map_err(|error| self.end(error.into())))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        match &self.state {
            State::Closed(CloseReason::ByUs) => return Poll::Ready(Ok(())),
            State::Closed(reason) => {
                return Poll::Ready(Err(SendError::Closed(Box::new(reason.clone()))));
            }
            State::Open | State::Closing => {}
        }
        self.state = State::Closing;
        self.control.closing();
        ready!(self.poll_drain(cx, 0))?;
        let shut = Pin::new(&mut self.write).poll_shutdown(cx);
        match ready!(self.poll_finished(cx, shut))? {
            // The far side closed first; there is no one left to tell.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                Poll::Ready(Err(self.end(error.into())))
            }
            _ => {
                // Only this direction has ended: why the line ends is still to be seen.
                self.state = State::Closed(CloseReason::ByUs);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.write.poll_gone(cx)
    }
}
