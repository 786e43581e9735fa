//! The channel: two bounded queues, and the state that both ends share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::websocket::Close;
use tieline_proto::{ByteSize, EncodeError};
use tieline_transport::{
    Account, Backing, Capabilities, Channel, ChannelConfig, CloseReason, ConnectionInfo, Control,
    ControlBuilder, Endpoint, Holding, Incoming, MemoryBudget, MemoryRefused, Outgoing,
    PeerIdentity, PerformanceProfile, Principal, Receiver, Refused, SendError, Sender,
    TransportKind,
};

use super::backend::ChannelBackend;
use super::stream::Progress;
use crate::channel::{close_for, lock};

/// What each message costs in addition to its bytes, so that empty messages are bounded, too.
const EACH: usize = 64;

/// The parameters of a new channel.
pub(crate) struct ChannelParams {
    pub(crate) kind: TransportKind,
    pub(crate) endpoint: Endpoint,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) principal: Option<Principal>,
    pub(crate) unauthenticated: bool,
    pub(crate) config: ChannelConfig,
    /// The memory budget.
    pub(crate) memory: Option<MemoryBudget>,
    /// Empty messages are allowed, as they are frames of a session.
    pub(crate) is_carrier: bool,
    /// This side can end its input and still receive, as negotiated.
    pub(crate) half_close: bool,
}

/// The expected performance of the channel.
const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(10),
    round_trip: Duration::from_micros(500),
    throughput: ByteSize::new(100_000_000),
};

/// Creates a channel and the other end of its queues. Dropping either ends the line.
pub(crate) fn pair(params: ChannelParams) -> (EventChannel, ChannelBackend) {
    let counts = Arc::new(Counts { principal: params.principal, ..Counts::default() });
    let control = ControlBuilder {
        kind: params.kind,
        endpoint: params.endpoint,
        peer: params.peer,
        capabilities: Capabilities {
            peer_identity: params.peer.is_some(),
            unauthenticated: params.unauthenticated,
            notices_hangup: true,
            half_close: params.half_close,
            ..Capabilities::default()
        },
        profile: PROFILE,
        backing: counts.clone(),
    };
    let control = control.build();
    let state = State {
        inward: Lane::new(params.config.write_queue.bytes(), params.memory.as_ref()),
        outward: Lane::new(params.config.write_queue.bytes(), params.memory.as_ref()),
        inward_end: None,
        is_half_closed: false,
        outward_end: None,
        is_ending_input: false,
        in_hand: false,
        is_left: false,
        is_cut: false,
        is_lost: false,
        limit: params.config.max_message,
        flushing: None,
        watching: None,
    };
    let max = params.config.max_message;
    let pair = Pair {
        state: Mutex::new(state),
        control,
        counts,
        max,
        is_carrier: params.is_carrier,
        half_close: params.half_close,
        progress: OnceLock::new(),
    };
    let pair = Arc::new(pair);
    let lifeline = Arc::new(Lifeline(pair.clone()));
    let sender = EventSender { pair: pair.clone(), _lifeline: lifeline.clone() };
    let receiver = EventReceiver { pair: pair.clone(), _lifeline: lifeline };
    (EventChannel { receiver, sender, control: pair.control.clone() }, ChannelBackend::new(pair))
}

/// The state that both ends share.
pub(super) struct Pair {
    state: Mutex<State>,
    pub(super) control: Control,
    pub(super) counts: Arc<Counts>,
    /// The largest message that is sent.
    max: ByteSize,
    is_carrier: bool,
    /// This side can end its input and still receive.
    pub(super) half_close: bool,
    /// The progress of the outgoing bytes, if it is known.
    pub(super) progress: OnceLock<Arc<Progress>>,
}

pub(super) struct State {
    /// Received messages that wait for the receiver.
    pub(super) inward: Lane<Incoming>,
    /// Why nothing follows after them.
    pub(super) inward_end: Option<CloseReason>,
    /// Only the other side's input has ended, not the line.
    pub(super) is_half_closed: bool,
    /// Sent messages that wait for the backend.
    pub(super) outward: Lane<Bytes>,
    /// The close reason to send after them; nothing else follows.
    pub(super) outward_end: Option<Close>,
    /// Only the input ends, and that was not sent yet.
    pub(super) is_ending_input: bool,
    /// The backend has taken messages and not delivered them yet.
    pub(super) in_hand: bool,
    /// Both halves of the channel are dropped.
    pub(super) is_left: bool,
    /// The backend takes nothing any more.
    pub(super) is_cut: bool,
    /// Messages were sent that will not be delivered.
    pub(super) is_lost: bool,
    /// The largest message that may be received.
    pub(super) limit: ByteSize,
    /// A flush that waits for delivery.
    flushing: Option<Waker>,
    /// The sender waits for the end of the line.
    watching: Option<Waker>,
}

/// The queue of one direction.
pub(super) struct Lane<T> {
    queue: VecDeque<T>,
    cost: usize,
    bound: usize,
    /// Waits for room.
    pub(super) writer: Option<Waker>,
    /// Waits for an item.
    pub(super) reader: Option<Waker>,
    account: Account,
}

impl<T> Lane<T> {
    fn new(bound: usize, memory: Option<&MemoryBudget>) -> Self {
        let account = Account::of(memory, Holding::Queue);
        Self { queue: VecDeque::new(), cost: 0, bound, writer: None, reader: None, account }
    }

    /// Checks that the queue may hold what it holds, and registers `cx` for the next check.
    pub(super) fn check(&self, cx: &Context<'_>) -> Result<(), MemoryRefused> {
        self.account.check(cx.waker())
    }

    pub(super) fn has_room(&self) -> bool {
        self.cost < self.bound
    }

    /// # Errors
    /// The memory budget is used up: the line has to end.
    pub(super) fn push(&mut self, item: T, length: usize) -> Result<(), MemoryRefused> {
        self.account.set(self.cost + length + EACH)?;
        self.cost += length + EACH;
        self.queue.push_back(item);
        wake(&mut self.reader);
        Ok(())
    }

    pub(super) fn pop(&mut self, length: impl FnOnce(&T) -> usize) -> Option<T> {
        let item = self.queue.pop_front()?;
        self.cost -= length(&item) + EACH;
        // Lowering cannot fail, except if the line has to end anyway, which `check` reports.
        let _ = self.account.set(self.cost);
        if self.queue.is_empty() {
            self.queue.shrink_to(64);
        }
        if self.has_room() {
            wake(&mut self.writer);
        }
        Some(item)
    }

    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.cost = 0;
        let _ = self.account.set(0);
        wake(&mut self.writer);
        wake(&mut self.reader);
    }
}

pub(super) fn length_of(incoming: &Incoming) -> usize {
    match incoming {
        Incoming::Message(message) => message.len(),
        _ => 0,
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

pub(super) fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    if place.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

impl Pair {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Ends the line: nothing is received after what is queued, and nothing is sent.
    pub(super) fn cut(&self, mut state: MutexGuard<'_, State>, reason: CloseReason) {
        if state.is_cut {
            return;
        }
        // Senders get the reason at once, the receiver after the messages that are queued.
        let reason = self.control.end(reason);
        if matches!(reason, CloseReason::NoMemory(_)) {
            state.inward.clear();
        }
        state.inward_end.get_or_insert(reason);
        state.is_cut = true;
        state.is_lost = !state.is_handed_on();
        if state.outward_end.is_none() {
            state.outward_end = Some(close_for(self.control.close_reason().as_ref()));
        }
        state.outward.clear();
        state.wake_all();
    }

    fn closed(&self) -> SendError {
        let reason = self.control.close_reason().unwrap_or(CloseReason::ByUs);
        SendError::Closed(Box::new(reason))
    }
}

impl State {
    /// Wakes everything that waits.
    pub(super) fn wake_all(&mut self) {
        wake(&mut self.inward.writer);
        wake(&mut self.inward.reader);
        wake(&mut self.outward.writer);
        wake(&mut self.outward.reader);
        wake(&mut self.flushing);
        wake(&mut self.watching);
    }

    pub(super) fn handed_on(&mut self) {
        self.in_hand = false;
        if self.outward.queue.is_empty() {
            wake(&mut self.flushing);
        }
    }

    /// Records that the end of the input was sent. Returns false if messages are still queued before it.
    pub(super) fn ended_input(&mut self) -> bool {
        let is_last = self.is_ending_input && self.outward.queue.is_empty() && !self.in_hand;
        if is_last {
            self.is_ending_input = false;
            wake(&mut self.flushing);
        }
        is_last
    }

    pub(super) fn is_handed_on(&self) -> bool {
        self.outward.queue.is_empty() && !self.in_hand && !self.is_ending_input && !self.is_lost
    }
}

/// A [`Channel`] over server-sent events in one direction and POSTs in the other.
///
/// [`close`](tieline_transport::SenderExt::close) ends the line. Between two tieline endpoints a client's
/// `close` ends only its input, and it still receives, if [`Capabilities::half_close`] is set. The last event
/// states the noted reason ([`Control::report_at_close`]), with the codes of a WebSocket. Dropping both halves
/// ends the line at once.
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

/// Owned by both halves.
struct Lifeline(Arc<Pair>);

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
    pair: Arc<Pair>,
    _lifeline: Arc<Lifeline>,
}

impl EventSender {
    /// Ready when the backend has delivered everything that was sent.
    fn poll_handed_on(
        &self,
        mut state: MutexGuard<'_, State>,
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
    pair: Arc<Pair>,
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

/// The channel's counters; there is no byte stream that counts for it.
#[derive(Default)]
pub(super) struct Counts {
    /// The principal that was authenticated.
    principal: Option<Principal>,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    bytes_in: AtomicU64,
    /// The part of `bytes_in` that belongs to incomplete messages.
    in_part: AtomicU64,
    bytes_out: AtomicU64,
    pub(super) faults: AtomicU64,
}

impl Counts {
    pub(super) fn received(&self, length: usize) {
        self.messages_in.fetch_add(1, Relaxed);
        let before = self.in_part.swap(0, Relaxed);
        self.bytes_in.fetch_add((length as u64).saturating_sub(before), Relaxed);
    }

    /// Counts bytes of a message that is not complete yet.
    pub(super) fn received_part(&self, bytes: usize) {
        self.in_part.fetch_add(bytes as u64, Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    fn sent(&self, length: usize) {
        self.messages_out.fetch_add(1, Relaxed);
        self.bytes_out.fetch_add(length as u64, Relaxed);
    }
}

impl Backing for Counts {
    fn count(&self, info: &mut ConnectionInfo) {
        info.messages_in += self.messages_in.load(Relaxed);
        info.messages_out += self.messages_out.load(Relaxed);
        info.bytes_in += self.bytes_in.load(Relaxed);
        info.bytes_out += self.bytes_out.load(Relaxed);
        info.faults += self.faults.load(Relaxed);
    }

    fn principal(&self) -> Option<Principal> {
        self.principal
    }
}
