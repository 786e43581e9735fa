//! The state that the handles and the driver of a peer share: the send queue and the pending calls.
//! There is one lock, which is only held briefly.

mod calls;
mod gate;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;
use tieline_proto::ByteSize;
use tieline_proto::jsonrpc::{CallId, Calls, write_notification};
use tieline_transport::CloseReason;
use tokio::sync::{Notify, Semaphore, watch};

use self::calls::Pending;
use self::gate::EpochGate;
use crate::error::{Meanwhile, NotSent};
use crate::options::{PeerOptions, weight};

pub use self::calls::UnclaimedAnswers;
pub(crate) use self::calls::{News, Responses};
pub(crate) use self::gate::Bound;

/// How many messages the driver takes from the queue under one lock.
const MAX_TAKEN: usize = 64;

/// With this many messages waiting to be sent, no further requests are started.
const MAX_UNSENT: usize = 4096;

pub(crate) struct SharedPeer {
    pub(crate) options: PeerOptions,
    /// Room in the queue for calls and notifications, by weight. Responses and cancellations need none:
    /// they are bounded by the requests that they answer and the calls that they cancel.
    room: Semaphore,
    state: Mutex<PeerState>,
    /// How many of the bytes waiting to be sent belong to refusals.
    refusal_bytes: AtomicUsize,
    /// Set once nothing new is accepted. Never cleared.
    closing: AtomicBool,
    /// Set once a call has been made, so that incoming messages may be its response. Never cleared.
    has_called: AtomicBool,
    /// How many bytes of an incomplete message the receiver holds.
    unfinished: AtomicUsize,
    /// How many messages were dropped because they were unreadable or invalid.
    unreadable: AtomicU64,
    /// Wakes the tasks that wait for the gate to open.
    gate_moved: Notify,
    /// Set once the line has ended.
    pub(crate) ended: watch::Sender<Option<CloseReason>>,
}

struct PeerState {
    outgoing: VecDeque<Outgoing>,
    calls: Calls<Pending>,
    phase: Phase,
    gate: EpochGate,
    close_requested: bool,
    /// The total length in bytes of the messages waiting to be sent.
    outgoing_bytes: usize,
    /// How many calls and notifications have been queued, which is the number of the last one.
    queued: u64,
    /// The number of the last notification that the other side may not have read yet, or 0 for a
    /// response.
    unread: Option<u64>,
    driver: Option<Waker>,
    /// The driver is waiting to be woken.
    asleep: bool,
    /// Something has changed since the driver last looked.
    changed: bool,
    unclaimed: UnclaimedAnswers,
}

pub(crate) enum Phase {
    Open,
    /// The other side has ended its direction: it still receives notifications, but answers no calls.
    Answering,
    /// Nothing new is accepted.
    Closing,
    Closed(CloseReason),
}

pub(crate) struct Outgoing {
    pub(crate) message: Bytes,
    pub(crate) call: Option<CallId>,
    pub(crate) weight: usize,
    /// How many of the message's bytes belong to refusals.
    refusal: usize,
}

impl SharedPeer {
    pub(crate) fn new(options: PeerOptions) -> Self {
        let room = options.queue.bytes().clamp(1, Semaphore::MAX_PERMITS);
        Self {
            options: PeerOptions { queue: ByteSize::new(room), ..options },
            room: Semaphore::new(room),
            refusal_bytes: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            has_called: AtomicBool::new(false),
            unfinished: AtomicUsize::new(0),
            unreadable: AtomicU64::new(0),
            state: Mutex::new(PeerState {
                outgoing: VecDeque::new(),
                outgoing_bytes: 0,
                queued: 0,
                unread: None,
                calls: Calls::default(),
                phase: Phase::Open,
                gate: EpochGate::default(),
                close_requested: false,
                driver: None,
                asleep: false,
                changed: false,
                unclaimed: UnclaimedAnswers::default(),
            }),
            gate_moved: Notify::new(),
            ended: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for room for a message of `length` bytes, in order. The caller has to return the permits.
    async fn reserve(&self, length: usize) -> Result<usize, NotSent> {
        let weight = weight(length, self.options.queue);
        let permits = u32::try_from(weight).unwrap_or(u32::MAX);
        match self.room.acquire_many(permits).await {
            Ok(room) => {
                room.forget();
                Ok(permits as usize)
            }
            Err(_) => self.lock().check_open(false).and(Err(NotSent::Closing)),
        }
    }

    /// Queues a notification. Cancel-safe: it is queued or it is not.
    pub(crate) async fn notify(
        &self,
        method: &str,
        params: Option<&[u8]>,
        bound: Option<Bound>,
    ) -> Result<(), NotSent> {
        let length = method.len() + params.map_or(0, <[u8]>::len);
        let (weight, mut state) = self.admit(length, bound, false).await?;
        let message = write_notification(&self.options.dialect, method, params);
        state.queued += 1;
        state.unread = Some(state.queued);
        state.push(Outgoing { message: message.into(), call: None, weight, refusal: 0 });
        state.wake_driver();
        Ok(())
    }

    /// Queues a response, which needs no room. `refusal` is the number of its bytes that refuse
    /// requests. Only the driver calls this, and it looks at the queue before it sleeps.
    pub(crate) fn push_answer(&self, message: Bytes, refusal: usize) {
        self.refusal_bytes.fetch_add(refusal, Relaxed);
        let mut state = self.lock();
        state.unread.get_or_insert(0);
        state.push(Outgoing { message, call: None, weight: 0, refusal });
    }

    /// Counts a dropped message that may have been a response but was unreadable. Returns true for the
    /// first one.
    pub(crate) fn unreadable(&self) -> bool {
        self.unreadable.fetch_add(1, Relaxed) == 0
    }

    pub(crate) fn has_called(&self) -> bool {
        self.has_called.load(Relaxed)
    }

    /// Records the length of the incomplete message, while there is nothing else to read.
    pub(crate) fn note_unfinished(&self, bytes: usize) {
        self.unfinished.store(bytes, Relaxed);
    }

    /// Returns how much has arrived so far that may have been a response.
    pub(crate) fn meanwhile(&self) -> Meanwhile {
        let (unfinished, unreadable) = (&self.unfinished, &self.unreadable);
        Meanwhile { unfinished: unfinished.load(Relaxed), unreadable: unreadable.load(Relaxed) }
    }

    /// Returns whether the other side may still be processing a notification or response that it was
    /// sent.
    pub(crate) fn may_be_unread(&self) -> bool {
        self.lock().unread.is_some()
    }

    /// Moves the next messages to send to `taken`, which is empty. Their calls are treated as sent from
    /// now on. Returns false if there are none.
    ///
    /// In that case, the driver has seen all changes so far, provided that it looks at everything else
    /// afterwards.
    pub(crate) fn take_outgoing(&self, taken: &mut VecDeque<Outgoing>) -> bool {
        let mut state = self.lock();
        let PeerState { outgoing, outgoing_bytes, calls, changed, .. } = &mut *state;
        if outgoing.is_empty() {
            *changed = false;
            return false;
        }
        let count = outgoing.len().min(MAX_TAKEN);
        taken.extend(outgoing.drain(..count));
        let mut refusals = 0;
        for next in &*taken {
            *outgoing_bytes -= next.message.len();
            refusals += next.refusal;
            if let Some(pending) = next.call.and_then(|id| calls.get_mut(id)) {
                pending.sent = true;
            }
        }
        drop(state);
        if refusals > 0 {
            self.refusal_bytes.fetch_sub(refusals, Relaxed);
        }
        true
    }

    /// Puts messages that could not be sent back to the front of the queue.
    pub(crate) fn put_back(&self, taken: &mut VecDeque<Outgoing>) {
        let mut state = self.lock();
        while let Some(unsent) = taken.pop_back() {
            if let Some(pending) = unsent.call.and_then(|id| state.calls.get_mut(id)) {
                pending.sent = false;
            }
            self.refusal_bytes.fetch_add(unsent.refusal, Relaxed);
            state.outgoing_bytes += unsent.message.len();
            state.outgoing.push_front(unsent);
        }
    }

    /// Frees the room of messages that were sent, which is the sum of their weights.
    pub(crate) fn free(&self, weight: usize) {
        if weight > 0 {
            self.room.add_permits(weight);
        }
    }

    /// Registers the driver to be woken by the next change. Fails if something has changed since the
    /// driver last looked, so that it has to look again.
    pub(crate) fn sleep(&self, waker: &Waker) -> Result<(), ()> {
        let mut state = self.lock();
        if std::mem::take(&mut state.changed) {
            return Err(());
        }
        match &mut state.driver {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        state.asleep = true;
        Ok(())
    }

    /// Returns whether nothing is waiting to be sent and no call is pending.
    pub(crate) fn is_idle(&self) -> bool {
        let mut state = self.lock();
        state.outgoing.is_empty() && !state.calls.iter_mut().any(|(_, it)| it.answer.is_none())
    }

    /// Returns whether so much is waiting to be sent that no further requests should be started. Reading
    /// continues, because the other side may be waiting for this side to read as well.
    pub(crate) fn is_clogged(&self) -> bool {
        let state = self.lock();
        state.outgoing.len() >= MAX_UNSENT
            || state.outgoing_bytes >= self.options.queue.bytes().saturating_mul(2)
    }

    /// Returns whether so many refusals are waiting to be sent that reading should stop.
    pub(crate) fn is_flooded(&self) -> bool {
        self.refusal_bytes.load(Relaxed) >= self.options.queue.bytes().saturating_mul(2)
    }

    /// Accepts no more calls, because they could not be answered.
    pub(crate) fn take_no_calls(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Answering;
        }
        self.gate_moved.notify_waiters();
    }

    /// Accepts nothing new.
    pub(crate) fn begin_close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open | Phase::Answering) {
            state.phase = Phase::Closing;
        }
        self.closing.store(true, Relaxed);
        self.room.close();
        self.gate_moved.notify_waiters();
        state.wake_driver();
    }

    /// Works like [`begin_close`](Self::begin_close), but limits the time for work in progress.
    pub(crate) fn request_close(&self) {
        self.lock().close_requested = true;
        self.begin_close();
    }

    pub(crate) fn is_close_requested(&self) -> bool {
        self.lock().close_requested
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Ends the line and wakes all tasks that wait for it.
    pub(crate) fn end(&self, reason: CloseReason) {
        {
            let mut state = self.lock();
            state.phase = Phase::Closed(reason.clone());
            state.driver = None;
        }
        self.closing.store(true, Relaxed);
        self.room.close();
        self.gate_moved.notify_waiters();
        self.end_calls(&reason);
        let mut state = self.lock();
        state.outgoing.clear();
        state.outgoing_bytes = 0;
        self.refusal_bytes.store(0, Relaxed);
        drop(state);
        self.ended.send_replace(Some(reason));
    }
}

impl PeerState {
    fn check_open(&self, is_call: bool) -> Result<(), NotSent> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::Answering if !is_call => Ok(()),
            Phase::Answering | Phase::Closing => Err(NotSent::Closing),
            Phase::Closed(reason) => Err(NotSent::Closed(reason.clone())),
        }
    }

    fn push(&mut self, outgoing: Outgoing) {
        self.outgoing_bytes += outgoing.message.len();
        self.outgoing.push_back(outgoing);
    }

    /// Wakes the driver if it sleeps; otherwise the driver checks for changes before it sleeps.
    fn wake_driver(&mut self) {
        self.changed = true;
        if std::mem::take(&mut self.asleep) {
            if let Some(driver) = &self.driver {
                driver.wake_by_ref();
            }
        }
    }
}
