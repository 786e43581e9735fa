//! The other end of a channel's queues, used by the code that converts between messages and events or POSTs.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use tieline_proto::FrameError;
use tieline_proto::websocket::Close;
use tieline_transport::{ChildExit, CloseReason, Incoming};

use super::queues::{SharedQueues, length_of, register};
use super::stream::Progress;

/// The other end of a channel's queues. Dropping it ends the line as closed by the peer, unless another
/// reason is known.
pub(crate) struct ChannelBackend(Arc<SharedQueues>);

/// An outgoing item.
#[derive(Debug)]
pub(crate) enum Outward {
    Message(Bytes),
    /// Nothing follows; the line ends for this reason.
    End(Close),
}

impl ChannelBackend {
    pub(super) fn new(pair: Arc<SharedQueues>) -> Self {
        Self(pair)
    }

    /// Takes the next outgoing item. Messages that were taken are counted as undelivered until
    /// [`handed_on`](Self::handed_on) is called.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Outward> {
        let mut state = self.0.state();
        if let Some(message) = state.outward.pop(Bytes::len) {
            state.in_hand = true;
            return Poll::Ready(Outward::Message(message));
        }
        if let Some(close) = state.outward_end.clone() {
            return Poll::Ready(Outward::End(close));
        }
        register(&mut state.outward.reader, cx);
        if let Err(refused) = state.inward.check(cx) {
            self.0.cut(state, refused.into());
            return self.poll_take(cx);
        }
        Poll::Pending
    }

    /// Like [`poll_take`](Self::poll_take). Cancel-safe.
    pub(crate) async fn take(&self) -> Outward {
        poll_fn(|cx| self.poll_take(cx)).await
    }

    /// Takes the next message if one is queued.
    pub(crate) fn try_take(&self) -> Option<Bytes> {
        let mut state = self.0.state();
        let message = state.outward.pop(Bytes::len)?;
        state.in_hand = true;
        Some(message)
    }

    /// Records that all messages taken so far are delivered, which completes a flush.
    pub(crate) fn handed_on(&self) {
        self.0.state().handed_on();
    }

    /// Waits until another message may be pushed, or no message will be taken any more. Only one task
    /// may wait.
    pub(crate) async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.0.state();
            if state.inward.has_room() || state.inward_end.is_some() || state.is_left {
                return Poll::Ready(());
            }
            register(&mut state.inward.writer, cx);
            Poll::Pending
        })
        .await;
    }

    /// Counts bytes of an incomplete message, which show that the line is alive.
    pub(crate) fn received_part(&self, bytes: usize) {
        self.0.counts.received_part(bytes);
    }

    /// Returns how many bytes were received so far, including those of incomplete messages.
    pub(crate) fn bytes_received(&self) -> u64 {
        self.0.counts.bytes_in()
    }

    /// Sets the progress counters of the connection that carries the outgoing bytes.
    pub(crate) fn goes_over(&self, progress: Arc<Progress>) {
        let _ = self.0.progress.set(progress);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.0.state().inward.has_room()
    }

    /// Queues a received message or fault. Returns false if it will not be taken.
    pub(crate) fn push(&self, incoming: Incoming) -> bool {
        let mut state = self.0.state();
        if state.inward_end.is_some() || state.is_left {
            return false;
        }
        let length = length_of(&incoming);
        match incoming {
            Incoming::Message(_) if length > state.limit.bytes() => {
                let (limit, length) = (state.limit, length as u64);
                let reason = CloseReason::Protocol(FrameError::Oversize { length, limit });
                drop(state);
                self.end(reason);
                return false;
            }
            Incoming::Message(_) => self.0.counts.received(length),
            _ => _ = self.0.counts.faults.fetch_add(1, Relaxed),
        }
        if let Err(refused) = state.inward.push(incoming, length) {
            self.0.cut(state, refused.into());
            return false;
        }
        true
    }

    /// Records that the other side has ended its input. It still receives.
    pub(crate) fn half_close(&self) {
        let mut state = self.0.state();
        if state.inward_end.is_none() {
            state.inward_end = Some(CloseReason::ByPeer);
            state.is_half_closed = true;
            state.wake_all();
        }
    }

    /// Returns whether the other side has ended its input, so that no message may follow.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.0.state().is_half_closed
    }

    /// Returns whether only the end of the input is to be sent, not the end of the line.
    pub(crate) fn ends_input(&self) -> bool {
        self.0.state().is_ending_input
    }

    /// Records that the end of the input was sent. Returns false if messages are still queued before it.
    pub(crate) fn ended_input(&self) -> bool {
        self.0.state().ended_input()
    }

    /// Completes when both halves of the channel are dropped, or the line has ended.
    pub(crate) async fn over(&self) {
        poll_fn(|cx| {
            let mut state = self.0.state();
            if state.is_left || state.is_cut {
                return Poll::Ready(());
            }
            register(&mut state.outward.reader, cx);
            if let Err(refused) = state.inward.check(cx) {
                self.0.cut(state, refused.into());
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Ends the incoming direction: the receiver gets `reason` after the queued messages. Sending
    /// continues.
    pub(crate) fn end_inward(&self, reason: CloseReason) {
        let mut state = self.0.state();
        state.inward_end.get_or_insert(reason);
        state.wake_all();
    }

    /// Ends the line. Queued messages are still received, and nothing more is sent.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.0.cut(self.0.state(), reason);
    }

    /// Returns how the program ended, if the other end has reported it.
    pub(crate) fn child_exit(&self) -> Option<ChildExit> {
        self.0.control.reason_to_report()?.child_exit().cloned()
    }

    /// Returns whether both halves of the channel are dropped or the line has ended.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.0.state();
        state.is_left || state.is_cut
    }
}

impl Drop for ChannelBackend {
    fn drop(&mut self) {
        self.end(CloseReason::ByPeer);
    }
}
