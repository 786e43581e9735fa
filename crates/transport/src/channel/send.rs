//! The outgoing half over a byte stream: encodes into a queue, writes it in batches, and notices when the
//! other side has stopped reading.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::json::{self, Limits};
use tieline_proto::{EncodeError, Framing};

use super::write_queue::WriteQueue;
use super::{Outgoing, Refused, SendError, Sender};
use crate::budget::MemoryBudget;
use crate::close::CloseReason;
use crate::connection::WriteEnd;
use crate::control::Control;
use crate::options::ChannelConfig;

/// How long a program may take to read its first byte.
const START: Duration = Duration::from_secs(600);

/// The outgoing half of a [`FramedChannel`](super::FramedChannel).
pub struct FramedSender<W, F> {
    framing: F,
    queue: WriteQueue<W>,
    /// The queue has room for another message while it contains fewer bytes than this.
    bound: usize,
    control: Control,
    state: State,
    /// How many queued bytes were discarded when this half ended.
    given_up: usize,
}

enum State {
    Open,
    /// No more messages are accepted; the queue and the end of input are being written.
    Closing,
    Closed(CloseReason),
}

impl<W: WriteEnd, F: Framing> FramedSender<W, F> {
    pub(crate) fn new(write: W, framing: F, config: ChannelConfig, control: Control) -> Self {
        let queue = match control.is_child() {
            true => WriteQueue::new(write, config.program_stall_timeout).starting_within(START),
            false => WriteQueue::new(write, config.stall_timeout),
        };
        // An empty queue always has room for a message.
        let bound = config.write_queue.bytes().max(1);
        Self { framing, queue, bound, control, state: State::Open, given_up: 0 }
    }

    pub(crate) fn within(mut self, budget: Option<&MemoryBudget>) -> Self {
        self.queue = self.queue.within(budget);
        self
    }

    /// Writes until there is room for another message.
    #[inline(never)]
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        while self.queue.len() >= self.bound {
            let written = ready!(self.queue.poll_write(cx));
            self.settle(written)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let flushed = ready!(self.queue.poll_flush(cx));
        Poll::Ready(self.settle(flushed))
    }

    /// Handles the result of a write: records how long a blocked write took, and ends the line on an
    /// error.
    fn settle<T>(&mut self, outcome: Result<T, CloseReason>) -> Result<T, SendError> {
        if let Some((bytes, waited)) = self.queue.take_delay() {
            self.control.note_write(bytes, waited);
        }
        outcome.map_err(|reason| self.end(reason))
    }

    /// Ends this direction; queued bytes are discarded.
    fn end(&mut self, reason: CloseReason) -> SendError {
        let known = match reason {
            CloseReason::Stalled => Some(self.control.stalled()),
            // A failed write shows that the other side is gone. The receiver determines the reason.
            _ => self.control.close_reason(),
        };
        let reason = match known {
            // The receiver has only seen the end of the input, which does not end this direction.
            None
            | Some(CloseReason::ByPeer | CloseReason::Unterminated | CloseReason::StdoutClosed) => {
                self.refined(reason)
            }
            Some(known) => known,
        };
        if !self.queue.is_empty() {
            let (endpoint, bytes) = (self.control.endpoint(), self.queue.len());
            tracing::debug!(%endpoint, bytes, %reason, "queued bytes were discarded");
        }
        self.given_up += self.queue.len();
        self.queue.clear();
        self.state = State::Closed(reason.clone());
        SendError::Closed(Box::new(reason))
    }

    /// Returns a more specific reason if there is one. For example, a broken pipe to a child means that
    /// the child closed its stdin.
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

    #[inline(always)]
    fn check_open(&self) -> Result<(), SendError> {
        if let State::Open = self.state { Ok(()) } else { Err(self.not_open()) }
    }

    /// Queues JSON with raw line breaks as a single line.
    #[cold]
    fn pass_on_one_line(&mut self, message: Bytes) -> Result<(), SendError> {
        let line = match json::to_one_line(&message, Limits::default()) {
            Ok(line) => line,
            Err(error) => return Err(self.refused(message, EncodeError::NotJson(error))),
        };
        match self.framing.encode(&line, &mut self.queue) {
            Ok(()) => {
                self.control.meter().messages_out.add(1);
                Ok(())
            }
            Err(error) => Err(self.refused(message, error)),
        }
    }

    #[cold]
    fn refused(&self, message: Bytes, error: EncodeError) -> SendError {
        self.control.meter().fault();
        SendError::Message(Box::new(Refused { message, error }))
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

impl<W: WriteEnd, F: Framing> Sender for FramedSender<W, F> {
    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.check_open()?;
        if self.queue.len() < self.bound { Poll::Ready(Ok(())) } else { self.poll_room(cx) }
    }

    #[inline(always)]
    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.check_open()?;
        if let Err(error) = self.framing.encode(&message, &mut self.queue) {
            return Err(self.refused(message, error));
        }
        self.control.meter().messages_out.add(1);
        Ok(())
    }

    #[inline]
    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        self.check_open()?;
        match self.framing.encode(&message, &mut self.queue) {
            Ok(()) => {
                self.control.meter().messages_out.add(1);
                Ok(())
            }
            Err(EncodeError::RawNewline) => self.pass_on_one_line(message),
            Err(error) => Err(self.refused(message, error)),
        }
    }

    #[inline]
    fn start_send_with_head(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        self.check_open()?;
        if let Err(error) = self.framing.encode_with_head(head, message, &mut self.queue) {
            return Err(self.refused([head, message].concat().into(), error));
        }
        self.control.meter().messages_out.add(1);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let State::Closed(reason) = &self.state {
            return Poll::Ready(Err(SendError::Closed(Box::new(reason.clone()))));
        }
        self.poll_all(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        match &self.state {
            State::Closed(CloseReason::ByUs) => return Poll::Ready(Ok(())),
            State::Closed(reason) => {
                return Poll::Ready(Err(SendError::Closed(Box::new(reason.clone()))));
            }
            State::Open | State::Closing => {}
        }
        if let (State::Open, Some(refusal)) = (&self.state, self.control.refusal()) {
            self.queue.put_frame(b"", refusal, b"");
        }
        self.state = State::Closing;
        self.control.closing();
        ready!(self.poll_all(cx))?;
        let shut = ready!(self.queue.poll_shutdown(cx));
        match self.settle(shut)? {
            // `NotConnected`: the other side closed first and needs no end of input.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                Poll::Ready(Err(self.end(error.into())))
            }
            _ => {
                // Only this direction has ended; the reason for the end of the line is not known yet.
                self.state = State::Closed(CloseReason::ByUs);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.poll_gone(cx)
    }

    fn outgoing(&self) -> Outgoing {
        self.queue.outgoing()
    }

    fn unwritten(&self) -> usize {
        self.given_up + self.queue.unwritten()
    }
}
