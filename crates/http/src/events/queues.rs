//! The two bounded queues of a channel, and the state that both of their ends share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Waker};

use bytes::Bytes;
use tieline_proto::ByteSize;
use tieline_proto::websocket::Close;
use tieline_transport::{
    Account, Backing, ChannelConfig, CloseReason, ConnectionInfo, Control, Holding, Incoming,
    MemoryBudget, MemoryRefused, Principal, SendError,
};

use super::stream::Progress;
use crate::lock::lock;
use crate::websocket::close_for;

/// The cost of each message in addition to its bytes, so that empty messages are bounded, too.
const EACH: usize = 64;

/// The state that both ends share.
pub(super) struct SharedQueues {
    state: Mutex<QueuesState>,
    pub(super) control: Control,
    pub(super) counts: Arc<Counts>,
    /// The maximum size of a message to send.
    pub(super) max: ByteSize,
    pub(super) is_carrier: bool,
    /// Whether this side can end its input and still receive.
    pub(super) half_close: bool,
    /// The progress of the outgoing bytes, if it is known.
    pub(super) progress: OnceLock<Arc<Progress>>,
}

pub(super) struct QueuesState {
    /// Received messages that wait for the receiver.
    pub(super) inward: Lane<Incoming>,
    /// The reason why no message follows these.
    pub(super) inward_end: Option<CloseReason>,
    /// Whether only the other side's input has ended, not the line.
    pub(super) is_half_closed: bool,
    /// Sent messages that wait for the backend.
    pub(super) outward: Lane<Bytes>,
    /// The close reason to send after these messages.
    pub(super) outward_end: Option<Close>,
    /// Whether only the input is ending, and its end has not been sent yet.
    pub(super) is_ending_input: bool,
    /// Whether the backend has taken messages that it has not delivered yet.
    pub(super) in_hand: bool,
    /// Whether both halves of the channel are dropped.
    pub(super) is_left: bool,
    /// Whether the backend has stopped taking messages.
    pub(super) is_cut: bool,
    /// Whether sent messages will not be delivered.
    pub(super) is_lost: bool,
    /// The maximum size of a received message.
    pub(super) limit: ByteSize,
    /// The waker of a flush that waits for delivery.
    pub(super) flushing: Option<Waker>,
    /// The waker of a sender that waits for the end of the line.
    pub(super) watching: Option<Waker>,
}

/// The queue of one direction.
pub(super) struct Lane<T> {
    pub(super) queue: VecDeque<T>,
    cost: usize,
    bound: usize,
    /// The waker of the task that waits for room.
    pub(super) writer: Option<Waker>,
    /// The waker of the task that waits for an item.
    pub(super) reader: Option<Waker>,
    account: Account,
}

impl<T> Lane<T> {
    fn new(bound: usize, memory: Option<&MemoryBudget>) -> Self {
        let account = Account::of(memory, Holding::Queue);
        Self { queue: VecDeque::new(), cost: 0, bound, writer: None, reader: None, account }
    }

    /// Checks that the memory budget still permits the queue's content, and registers `cx` for the next
    /// check.
    pub(super) fn check(&self, cx: &Context<'_>) -> Result<(), MemoryRefused> {
        self.account.check(cx.waker())
    }

    pub(super) fn has_room(&self) -> bool {
        self.cost < self.bound
    }

    /// Appends an item and wakes the reader.
    ///
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
        // Lowering the amount fails only if the line has to end anyway, which `check` reports.
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

impl SharedQueues {
    /// Creates empty queues with the bounds of `config`.
    pub(super) fn new(
        config: &ChannelConfig,
        memory: Option<&MemoryBudget>,
        control: Control,
        counts: Arc<Counts>,
    ) -> Self {
        let state = QueuesState {
            inward: Lane::new(config.write_queue.bytes(), memory),
            outward: Lane::new(config.write_queue.bytes(), memory),
            inward_end: None,
            is_half_closed: false,
            outward_end: None,
            is_ending_input: false,
            in_hand: false,
            is_left: false,
            is_cut: false,
            is_lost: false,
            limit: config.max_message,
            flushing: None,
            watching: None,
        };
        Self {
            state: Mutex::new(state),
            control,
            counts,
            max: config.max_message,
            is_carrier: false,
            half_close: false,
            progress: OnceLock::new(),
        }
    }

    /// Sets whether the messages are frames of a session, and whether this side can end its input and still
    /// receive.
    pub(super) fn carrying(self, is_carrier: bool, half_close: bool) -> Self {
        Self { is_carrier, half_close, ..self }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, QueuesState> {
        lock(&self.state)
    }

    /// Ends the line. Queued messages are still received, and nothing more is sent.
    pub(super) fn cut(&self, mut state: MutexGuard<'_, QueuesState>, reason: CloseReason) {
        if state.is_cut {
            return;
        }
        // Senders get the reason at once; the receiver gets it after the queued messages.
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

    pub(super) fn closed(&self) -> SendError {
        let reason = self.control.close_reason().unwrap_or(CloseReason::ByUs);
        SendError::Closed(Box::new(reason))
    }
}

impl QueuesState {
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

/// The channel's counters. The channel has its own because it has no byte stream.
#[derive(Default)]
pub(super) struct Counts {
    /// The authenticated principal.
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
    pub(super) fn of(principal: Option<Principal>) -> Self {
        Self { principal, ..Self::default() }
    }

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

    pub(super) fn sent(&self, length: usize) {
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
