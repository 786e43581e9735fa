//! The outgoing half of a session. It writes each message at once, and keeps it until it is
//! acknowledged.

use std::future::poll_fn;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_transport::{Outgoing, Refused, SendError, Sender, SenderExt};

use super::lifeline::Lifeline;
use super::shared_session::SharedSession;
use super::state::{SessionState, Waits};

/// The outgoing half of a [`Session`](super::Session).
pub struct SessionSender {
    shared: Arc<SharedSession>,
    lifeline: Arc<Lifeline>,
}

impl SessionSender {
    pub(super) fn new(shared: Arc<SharedSession>, lifeline: Arc<Lifeline>) -> Self {
        Self { shared, lifeline }
    }

    /// [Closes](SenderExt::close) this direction, and waits until the other end has acknowledged all
    /// messages. Cancel-safe: the direction stays closed.
    ///
    /// # Errors
    /// - [`SendError::Closed`]: the session ended first; the reason may say what was delivered.
    /// - [`SendError::Lost`]: an earlier session was lost, and this many messages with it.
    pub async fn settle(&mut self) -> Result<(), SendError> {
        self.close().await?;
        poll_fn(|cx| {
            let mut state = self.shared.state();
            if state.is_settled() {
                return Poll::Ready(Ok(()));
            }
            if let Some(closed) = state.closed() {
                return Poll::Ready(Err(closed));
            }
            let task = state.wait_to_send(cx.waker(), Waits::Settled);
            drop(state);
            task.into_iter().for_each(Waker::wake);
            Poll::Pending
        })
        .await
    }

    fn poll_written(
        &self,
        mut state: MutexGuard<'_, SessionState>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        if let Some(closed) = state.closed() {
            return Poll::Ready(Err(closed));
        }
        let written = state.pump();
        match state.take_unreported() {
            0 => {}
            lost => return Poll::Ready(Err(SendError::Lost(lost))),
        }
        if written.is_pending() && state.has_line() {
            let task = state.wait_to_send(cx.waker(), Waits::Written);
            drop(state);
            task.into_iter().for_each(Waker::wake);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl Sender for SessionSender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut state = self.shared.state();
        if state.has_room()? {
            return Poll::Ready(Ok(()));
        }
        let task = state.wait_to_send(cx.waker(), Waits::Room);
        let _ = state.pump();
        state.count_memory();
        drop(state);
        task.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        let limit = self.shared.line.max_message;
        if message.len() > limit.bytes() {
            let error = EncodeError::Oversize { length: message.len(), limit };
            return Err(SendError::Message(Box::new(Refused { message, error })));
        }
        self.shared.state().send(message, || self.shared.now())
    }

    /// Waits until everything has been handed to the operating system or is kept for the next
    /// connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_written(self.shared.state(), cx)
    }

    /// Waits until everything, including the end of this direction, has been handed to the operating
    /// system or is kept for the next connection. [`settle`](SessionSender::settle) also waits for the
    /// acknowledgements.
    ///
    /// If a failure is to be [reported](tieline_transport::Control::report_at_close), this ends the whole
    /// session: as soon as the other end has acknowledged all messages, it receives a farewell that says why.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let fails = self.shared.reports_failure();
        let mut state = self.shared.state();
        if state.close(fails) {
            return Poll::Ready(Ok(()));
        }
        self.poll_written(state, cx)
    }

    /// Works as for any channel, but may be up to 100 ms late if the receiver was polled and is not
    /// polled again, because the receiver is responsible for reading the connection for that long.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.state().poll_gone(cx.waker())
    }

    /// Returns how many bytes of messages the other end has not acknowledged, even after the session has
    /// ended.
    fn unwritten(&self) -> usize {
        self.shared.state().unacknowledged()
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state();
        if state.is_acknowledged() {
            return Poll::Ready(());
        }
        let task = state.wait_to_send(cx.waker(), Waits::Acknowledged);
        drop(state);
        task.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    /// Returns the progress of outgoing bytes. Acknowledgements from the other end count as progress,
    /// too.
    fn outgoing(&self) -> Outgoing {
        self.shared.state().outgoing()
    }
}

impl Drop for SessionSender {
    fn drop(&mut self) {
        let waker = self.shared.state().sender_gone();
        // If this is the last half, the session ends at once; otherwise sent messages are still written.
        if let Some(waker) = waker.filter(|_| Arc::strong_count(&self.lifeline) > 1) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
