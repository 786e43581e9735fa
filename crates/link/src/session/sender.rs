//! The outgoing half of a session, which keeps messages and writes them at once.

use std::future::poll_fn;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::session::Sequence;
use tieline_transport::{CloseReason, Outgoing, Refused, SendError, Sender, SenderExt};

use super::assemble::Lifeline;
use super::core::{Core, LARGE, Waits};
use super::shared::Shared;
use crate::shared::remember;

/// The outgoing half of a [`Session`](super::Session).
pub struct SessionSender {
    shared: Arc<Shared>,
    lifeline: Arc<Lifeline>,
}

/// One message out of this many is timed.
const TIMED_OF: Sequence = 16;

impl SessionSender {
    pub(super) fn new(shared: Arc<Shared>, lifeline: Arc<Lifeline>) -> Self {
        Self { shared, lifeline }
    }

    /// [Closes](SenderExt::close) this direction, and waits until the other end has acknowledged all
    /// messages. Cancel-safe: the direction stays closed.
    ///
    /// # Errors
    /// - [`SendError::Closed`]: the session has ended before that; the reason may say what was delivered.
    /// - [`SendError::Lost`]: an earlier session was lost with this many messages.
    pub async fn settle(&mut self) -> Result<(), SendError> {
        self.close().await?;
        poll_fn(|cx| {
            let mut core = self.shared.core();
            if core.machine.is_settled() {
                return Poll::Ready(Ok(()));
            }
            if let Some(closed) = core.closed() {
                return Poll::Ready(Err(closed));
            }
            let task = core.wait_to_send(cx.waker(), Waits::Settled);
            drop(core);
            task.into_iter().for_each(Waker::wake);
            Poll::Pending
        })
        .await
    }

    fn poll_written(
        &self,
        mut core: MutexGuard<'_, Core>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        if let Some(closed) = core.closed() {
            return Poll::Ready(Err(closed));
        }
        let written = self.shared.pump(&mut core);
        match std::mem::take(&mut core.untold) {
            0 => {}
            lost => return Poll::Ready(Err(SendError::Lost(lost))),
        }
        if written.is_pending() && core.has_line() {
            let task = core.wait_to_send(cx.waker(), Waits::Written);
            drop(core);
            task.into_iter().for_each(Waker::wake);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl Sender for SessionSender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut core = self.shared.core();
        if let Some(closed) = core.closed() {
            return Poll::Ready(Err(closed));
        }
        if core.is_closing {
            return Poll::Ready(Err(SendError::Closed(Box::new(CloseReason::ByUs))));
        }
        if core.machine.has_room() && !core.is_reset_pending() {
            return Poll::Ready(Ok(()));
        }
        let task = core.wait_to_send(cx.waker(), Waits::Room);
        let _ = self.shared.pump(&mut core);
        core.count_memory();
        drop(core);
        task.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        let limit = self.shared.line.max_message;
        if message.len() > limit.bytes() {
            let error = EncodeError::Oversize { length: message.len(), limit };
            return Err(SendError::Message(Box::new(Refused { message, error })));
        }
        let mut core = self.shared.core();
        if let Some(closed) = core.closed() {
            return Err(closed);
        }
        if core.is_reset_pending() {
            // The session that had room for the message is gone. The next one may need a handshake first.
            core.untold += 1;
            if let Some((lost, _)) = &mut core.reset {
                *lost += 1;
            }
            return Ok(());
        }
        let is_large = message.len() >= LARGE;
        match core.machine.send(message) {
            Some(sequence) => {
                if is_large {
                    core.count_memory();
                }
                if sequence % TIMED_OF == 1 {
                    core.timed.get_or_insert_with(|| (sequence, self.shared.now()));
                }
                Ok(())
            }
            None => Err(SendError::Closed(Box::new(CloseReason::ByUs))),
        }
    }

    /// Ready when everything was handed to the operating system, or is kept for the next connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_written(self.shared.core(), cx)
    }

    /// Ready when everything, including the end of this direction, was handed to the operating system or is
    /// kept for the next connection. [`settle`](SessionSender::settle) also waits for the acknowledgements.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut core = self.shared.core();
        core.is_closing = true;
        core.is_closed = true;
        core.machine.end();
        if core.machine.is_settled() && core.untold == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_written(core, cx)
    }

    /// As for any channel, but up to 100 ms late if the receiver was polled and is not polled again,
    /// because it is responsible for reading the connection that long.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.shared.core();
        if core.end.is_some() {
            return Poll::Ready(());
        }
        remember(&mut core.gone, cx.waker());
        Poll::Pending
    }

    /// The bytes of messages that the other end has not acknowledged, also after the session has ended.
    fn unwritten(&self) -> usize {
        self.shared.core().machine.kept().1
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.shared.core();
        if core.machine.kept().0 == 0 || core.end.is_some() {
            return Poll::Ready(());
        }
        let task = core.wait_to_send(cx.waker(), Waits::Acknowledged);
        drop(core);
        task.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    /// Acknowledgements from the other end count as progress, too.
    fn outgoing(&self) -> Outgoing {
        let core = self.shared.core();
        let line = core.line.as_ref().map_or_else(Outgoing::default, |line| line.outgoing());
        let (_, kept) = core.machine.kept();
        let left = line.left.wrapping_add(core.machine.delivered().acknowledged);
        Outgoing::new(left, line.waiting.max(kept as u64))
    }
}

impl Drop for SessionSender {
    fn drop(&mut self) {
        let waker = {
            let mut core = self.shared.core();
            core.is_closing = true;
            core.ends_soon = true;
            core.task.clone()
        };
        // If this is the last half, the session ends at once; otherwise sent messages are still written.
        if Arc::strong_count(&self.lifeline) > 1
            && let Some(waker) = waker
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
