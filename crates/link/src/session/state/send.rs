//! The operations of a session's sender, and the writing of frames.

use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::SessionMachine;
use tieline_transport::{CloseReason, Outgoing, SendError, Sender};

use super::{LARGE, SessionState, Waits};

impl SessionState {
    /// Returns whether another message may be sent now. Fails if no message may be sent any more.
    pub(in crate::session) fn has_room(&self) -> Result<bool, SendError> {
        if let Some(closed) = self.closed() {
            return Err(closed);
        }
        if self.ending.is_closing() {
            return Err(SendError::Closed(Box::new(CloseReason::ByUs)));
        }
        Ok(self.machine.has_room() && !self.is_reset_pending())
    }

    /// Keeps a message until the other end has acknowledged it.
    pub(in crate::session) fn send(
        &mut self,
        message: Bytes,
        now: impl FnOnce() -> Duration,
    ) -> Result<(), SendError> {
        if let Some(closed) = self.closed() {
            return Err(closed);
        }
        if self.is_reset_pending() {
            // The session that had room for the message is lost. The message is not sent in the next
            // one, which may need a handshake first.
            self.renewal.lose_one();
            return Ok(());
        }
        let is_large = message.len() >= LARGE;
        let Some(sequence) = self.machine.send(message) else {
            return Err(SendError::Closed(Box::new(CloseReason::ByUs)));
        };
        if is_large {
            self.count_memory();
        }
        self.progress.sent(sequence, now);
        Ok(())
    }

    /// Ends this direction. Returns whether everything has been written, acknowledged and reported. If it
    /// `fails`, no end is sent: the session's task ends the session with a farewell once everything is
    /// acknowledged.
    pub(in crate::session) fn close(&mut self, fails: bool) -> bool {
        self.ending.close(fails);
        if !self.ending.has_failed() {
            self.machine.end();
            return self.machine.is_settled() && !self.renewal.has_unreported();
        }
        let _ = self.reading.take_back();
        self.wakers.wake_task();
        false
    }

    /// Handles the drop of the sender. Returns the session's task, which sends the end.
    pub(in crate::session) fn sender_gone(&mut self) -> Option<Waker> {
        self.ending.sender_gone();
        self.wakers.task().cloned()
    }

    /// Ends this direction if the sender was dropped.
    pub(in crate::session) fn end_if_dropped(&mut self) {
        if self.ending.take_end() {
            self.machine.end();
        }
    }

    /// Takes the number of messages of an earlier session that were lost and not reported yet.
    pub(in crate::session) fn take_unreported(&mut self) -> u64 {
        self.renewal.take_unreported()
    }

    /// Registers a sender that waits for the other end. The task then reads, because the consumer may
    /// not poll. Returns the task to wake.
    #[must_use = "the task is to read"]
    pub(in crate::session) fn wait_to_send(
        &mut self,
        waker: &Waker,
        waits: Waits,
    ) -> Option<Waker> {
        self.wakers.register_sender(waker, waits);
        self.take_back_reading()
    }

    /// Returns the sender's waker if it need not wait any longer. It is not woken for any other reason:
    /// a woken sender gives reading back to the session's task, and a receiver in the sender's own task
    /// would take it again, in an endless loop.
    pub(in crate::session) fn free_sender(&mut self, is_written: bool) -> Option<Waker> {
        let is_free = match self.wakers.sender_waits() {
            Waits::Room => self.machine.has_room(),
            Waits::Written => is_written || self.machine.has_room() || !self.has_line(),
            Waits::Acknowledged => self.machine.kept().0 == 0,
            Waits::Settled => self.machine.is_settled(),
        };
        if is_free { self.wakers.take_sender() } else { None }
    }

    /// Waits until the session is over.
    pub(in crate::session) fn poll_gone(&mut self, waker: &Waker) -> Poll<()> {
        if self.is_finished() {
            return Poll::Ready(());
        }
        self.wakers.register_gone(waker);
        Poll::Pending
    }

    /// Returns whether no message waits for an acknowledgement, or the session is over.
    pub(in crate::session) fn is_acknowledged(&self) -> bool {
        self.machine.kept().0 == 0 || self.is_finished()
    }

    /// Returns the bytes of messages that the other end has not acknowledged.
    pub(in crate::session) fn unacknowledged(&self) -> usize {
        self.machine.kept().1
    }

    /// Returns how many bytes have left and how many wait. Acknowledgements from the other end count as
    /// progress, too.
    pub(in crate::session) fn outgoing(&self) -> Outgoing {
        let line = self.line_outgoing();
        let (_, kept) = self.machine.kept();
        let left = line.left.wrapping_add(self.machine.delivered().acknowledged);
        Outgoing::new(left, line.waiting.max(kept as u64))
    }

    pub(super) fn line_outgoing(&self) -> Outgoing {
        self.line.as_ref().map_or_else(Outgoing::default, |line| line.outgoing())
    }

    /// Writes waiting frames to the current connection. Returns `Ready` when nothing is left to write.
    /// The session's task is woken to continue, because the sender may be dropped.
    pub(in crate::session) fn pump(&mut self) -> Poll<()> {
        if self.ending.is_undeliverable() {
            return Poll::Ready(());
        }
        let Self { machine, line, wakers, now, .. } = self;
        let (Some(line), Some(task)) = (line, wakers.task()) else { return Poll::Pending };
        let mut cx = Context::from_waker(task);
        let mut is_lost = false;
        let polled = line.poll_line(&mut cx, |line, cx| {
            let written = write(line, machine, *now, cx);
            is_lost = matches!(written, Poll::Ready(Err(_)));
            written
        });
        if is_lost {
            machine.frame_not_written();
        }
        polled
    }
}

/// Writes waiting frames to this connection.
fn write(
    line: &mut dyn Sender,
    machine: &mut SessionMachine,
    now: Duration,
    cx: &mut Context<'_>,
) -> Poll<Result<(), SendError>> {
    loop {
        ready!(line.poll_ready(cx))?;
        let Some((head, message)) = machine.next_encoded(now) else { break };
        line.start_send_with_head(&head, message)?;
    }
    line.poll_flush(cx)
}
