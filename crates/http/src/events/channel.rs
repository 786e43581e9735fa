//! A channel over an event stream and POSTs.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::{ByteSize, EncodeError};
use tieline_transport::{
    Capabilities, Channel, ChannelConfig, CloseReason, Control, ControlBuilder, Endpoint, Incoming,
    MemoryBudget, Outgoing, PeerIdentity, PerformanceProfile, Principal, Receiver, Refused,
    SendError, Sender, TransportKind,
};

use super::backend::ChannelBackend;
use super::queues::{Counts, QueuesState, SharedQueues, length_of, register, wake};
use crate::websocket::close_for;

/// The parameters of a new channel.
pub(crate) struct ChannelParams {
    pub(crate) kind: TransportKind,
    pub(crate) endpoint: Endpoint,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) principal: Option<Principal>,
    pub(crate) unauthenticated: bool,
    pub(crate) config: ChannelConfig,
    pub(crate) memory: Option<MemoryBudget>,
    /// Whether the messages are frames of a session, which may be empty.
    pub(crate) is_carrier: bool,
    /// Whether this side can end its input and still receive, as negotiated.
    pub(crate) half_close: bool,
    /// Whether the other end is an EventSource, on whose behalf events are acknowledged late.
    pub(crate) acknowledges_late: bool,
}

/// The expected performance of the channel.
const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(10),
    round_trip: Duration::from_micros(500),
    throughput: ByteSize::new(100_000_000),
};

/// Creates a channel and the other end of its queues. Dropping either ends the line.
pub(crate) fn pair(params: ChannelParams) -> (EventChannel, ChannelBackend) {
    let counts = Arc::new(Counts::of(params.principal));
    let control = ControlBuilder {
        kind: params.kind,
        endpoint: params.endpoint,
        peer: params.peer,
        capabilities: Capabilities {
            peer_identity: params.peer.is_some(),
            unauthenticated: params.unauthenticated,
            notices_hangup: true,
            half_close: params.half_close,
            acknowledges_late: params.acknowledges_late,
            ..Capabilities::default()
        },
        profile: PROFILE,
        backing: counts.clone(),
    };
    let control = control.build();
    let (is_carrier, half_close) = (params.is_carrier, params.half_close);
    let pair = SharedQueues::new(&params.config, params.memory.as_ref(), control, counts)
        .carrying(is_carrier, half_close);
    let pair = Arc::new(pair);
    let lifeline = Arc::new(Lifeline(pair.clone()));
    let sender = EventSender { pair: pair.clone(), _lifeline: lifeline.clone() };
    let receiver = EventReceiver { pair: pair.clone(), _lifeline: lifeline };
    (EventChannel { receiver, sender, control: pair.control.clone() }, ChannelBackend::new(pair))
}

/// A [`Channel`] over server-sent events in one direction and POSTs in the other.
///
/// [`close`](tieline_transport::SenderExt::close) ends the line. Between two tieline endpoints a
/// client's `close` ends only its input, and it still receives, if [`Capabilities::half_close`] is set.
/// The last event carries the reason set with [`Control::report_at_close`], with a WebSocket close code.
/// Dropping both halves ends the line at once.
///
/// On a server, [`flush`](tieline_transport::SenderExt::flush) waits until the message is written to the
/// connection; on a client, until the server has answered the POST with the message.
pub struct EventChannel {
    /// Dropped first, so that dropping the whole channel does not end one direction before the other.
    receiver: EventReceiver,
    sender: EventSender,
    control: Control,
}

impl Channel for EventChannel {
    type Sender = EventSender;
    type Receiver = EventReceiver;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (EventSender, EventReceiver) {
        (self.sender, self.receiver)
    }
}

/// Ends the line when it is dropped, after both halves, which share it.
struct Lifeline(Arc<SharedQueues>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        let close = close_for(self.0.control.reason_to_report().as_ref());
        self.0.control.end(CloseReason::ByUs);
        let mut state = self.0.state();
        state.outward_end.get_or_insert(close);
        state.is_left = true;
        state.inward.clear();
        state.wake_all();
    }
}

/// The outgoing half of an [`EventChannel`].
pub struct EventSender {
    pair: Arc<SharedQueues>,
    _lifeline: Arc<Lifeline>,
}

impl EventSender {
    /// Completes when the backend has delivered everything that was sent.
    fn poll_handed_on(
        &self,
        mut state: MutexGuard<'_, QueuesState>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        if state.is_handed_on() {
            return Poll::Ready(Ok(()));
        }
        if state.is_cut {
            return Poll::Ready(Err(self.pair.closed()));
        }
        register(&mut state.flushing, cx);
        if let Err(refused) = state.outward.check(cx) {
            self.pair.cut(state, refused.into());
            return Poll::Ready(Err(self.pair.closed()));
        }
        Poll::Pending
    }
}

impl Sender for EventSender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut state = self.pair.state();
        if state.is_cut || state.outward_end.is_some() {
            return Poll::Ready(Err(self.pair.closed()));
        }
        if state.outward.has_room() {
            return Poll::Ready(Ok(()));
        }
        register(&mut state.outward.writer, cx);
        if let Err(refused) = state.outward.check(cx) {
            self.pair.cut(state, refused.into());
            return Poll::Ready(Err(self.pair.closed()));
        }
        Poll::Pending
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        let limit = self.pair.max;
        let error = match message.len() {
            0 if !self.pair.is_carrier => Some(EncodeError::Empty),
            length if length > limit.bytes() => Some(EncodeError::Oversize { length, limit }),
            _ => None,
        };
        if let Some(error) = error {
            self.pair.counts.faults.fetch_add(1, Relaxed);
            return Err(SendError::Message(Box::new(Refused { message, error })));
        }
        let mut state = self.pair.state();
        if state.is_cut || state.outward_end.is_some() {
            return Err(self.pair.closed());
        }
        self.pair.counts.sent(message.len());
        let length = message.len();
        if let Err(refused) = state.outward.push(message, length) {
            self.pair.cut(state, refused.into());
            return Err(self.pair.closed());
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_handed_on(self.pair.state(), cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut state = self.pair.state();
        if state.outward_end.is_none() && !state.is_cut {
            let close = close_for(self.pair.control.reason_to_report().as_ref());
            state.outward_end = Some(close);
            state.is_ending_input = self.pair.half_close;
            wake(&mut state.outward.reader);
        }
        self.poll_handed_on(state, cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.pair.state();
        if state.is_cut {
            return Poll::Ready(());
        }
        register(&mut state.watching, cx);
        Poll::Pending
    }

    fn outgoing(&self) -> Outgoing {
        let Some(progress) = self.pair.progress.get() else { return Outgoing::default() };
        let is_waiting = progress.is_under_way() || !self.pair.state().is_handed_on();
        Outgoing::new(progress.moves(), u64::from(is_waiting))
    }
}

/// The incoming half of an [`EventChannel`].
pub struct EventReceiver {
    pair: Arc<SharedQueues>,
    _lifeline: Arc<Lifeline>,
}

impl Receiver for EventReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let mut state = self.pair.state();
        if let Some(incoming) = state.inward.pop(length_of) {
            return Poll::Ready(incoming);
        }
        if let Some(reason) = state.inward_end.clone() {
            if state.is_half_closed && !state.is_cut {
                return Poll::Ready(Incoming::End(reason));
            }
            drop(state);
            return Poll::Ready(Incoming::End(self.pair.control.end(reason)));
        }
        register(&mut state.inward.reader, cx);
        Poll::Pending
    }

    fn limit_to(&mut self, max: ByteSize) -> Option<ByteSize> {
        Some(std::mem::replace(&mut self.pair.state().limit, max))
    }

    fn holds_part(&self) -> bool {
        !self.pair.state().inward.queue.is_empty()
    }

    fn unread(&self) -> u64 {
        self.pair.state().inward.queue.iter().map(|incoming| length_of(incoming) as u64).sum()
    }
}
