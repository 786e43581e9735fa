//! The other end of a channel's queues: whoever turns events and POSTs into messages, and back.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use tieline_proto::FrameError;
use tieline_proto::websocket::Close;
use tieline_transport::{CloseReason, Incoming};

use super::channel::{Pair, length_of, register};
use super::stream::Progress;

/// The far end. Dropping it ends the line, for the other side's being gone unless another reason is known.
pub(crate) struct ChannelBackend(Arc<Pair>);

/// What goes out.
#[derive(Debug)]
pub(crate) enum Outward {
    Message(Bytes),
    /// Nothing follows, for this reason.
    End(Close),
}

impl ChannelBackend {
    pub(super) fn new(pair: Arc<Pair>) -> Self {
        Self(pair)
    }

    /// The next thing that goes out. What was taken before counts as in hand until
    /// [`handed_on`](Self::handed_on).
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

    /// As [`poll_take`](Self::poll_take). Cancel-safe.
    pub(crate) async fn take(&self) -> Outward {
        poll_fn(|cx| self.poll_take(cx)).await
    }

    /// What is there to be taken, if something is.
    pub(crate) fn try_take(&self) -> Option<Bytes> {
        let mut state = self.0.state();
        let message = state.outward.pop(Bytes::len)?;
        state.in_hand = true;
        Some(message)
    }

    /// All that was taken is where a flush wants it.
    pub(crate) fn handed_on(&self) {
        self.0.state().handed_on();
    }

    /// Ready when another message may come in, or none will ever be taken. Only one task may wait for it.
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

    /// Bytes have come of a message that is not whole yet: the line is not dead.
    pub(crate) fn hear(&self, bytes: usize) {
        self.0.counts.came_in_part(bytes);
    }

    /// How many bytes have come so far, those of messages that are not whole yet included.
    pub(crate) fn heard(&self) -> u64 {
        self.0.counts.bytes_in()
    }

    /// What goes out goes over the connections of this one, whose progress is the line's from here on.
    pub(crate) fn goes_over(&self, progress: Arc<Progress>) {
        let _ = self.0.progress.set(progress);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.0.state().inward.has_room()
    }

    /// Something has come in. False if nobody will take it.
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
            Incoming::Message(_) => self.0.counts.came(length),
            _ => _ = self.0.counts.faults.fetch_add(1, Relaxed),
        }
        if let Err(refused) = state.inward.push(incoming, length) {
            self.0.cut(state, refused.into());
            return false;
        }
        true
    }

    /// Ends the input of the other side, which still receives.
    pub(crate) fn half_close(&self) {
        let mut state = self.0.state();
        if state.inward_end.is_none() {
            state.inward_end = Some(CloseReason::ByPeer);
            state.is_half_closed = true;
            state.wake_all();
        }
    }

    /// Whether the other side has ended its input, so that no message may follow.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.0.state().is_half_closed
    }

    /// Whether the end to be sent is only that of the input.
    pub(crate) fn ends_input(&self) -> bool {
        self.0.state().is_ending_input
    }

    /// Records that the end of the input was sent. Returns false if messages still wait in front of it.
    pub(crate) fn ended_input(&self) -> bool {
        let mut state = self.0.state();
        state.ended_input()
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

    /// Nothing comes in behind what has: the receiver finds this reason there. What goes out goes on.
    pub(crate) fn end_inward(&self, reason: CloseReason) {
        let mut state = self.0.state();
        state.inward_end.get_or_insert(reason);
        state.wake_all();
    }

    /// The line is over: nothing comes in behind what has, and nothing goes out.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.0.cut(self.0.state(), reason);
    }

    /// Nobody is at the other end any more, or will be told anything.
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
