//! State shared by the handles and the driver of a peer: the send queue and the pending calls. There is
//! one lock, held briefly.

mod gate;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::task::{Poll, Waker};

use bytes::Bytes;
use tieline_proto::ByteSize;
use tieline_proto::jsonrpc::{
    Answers, CallId, Calls, InvalidProblem, Response, write_notification, write_request,
};
use tieline_transport::CloseReason;
use tokio::sync::{Notify, Semaphore, watch};

use self::gate::EpochGate;
use crate::error::{CallError, Meanwhile, NotSent};
use crate::options::{PeerOptions, weight};
use crate::peer::Bound;

/// With this many messages waiting to be sent, no further requests are started.
const MAX_UNSENT: usize = 4096;

/// With more pending calls than this, a response is matched by its exact id only, because matching it
/// otherwise compares it with every pending call.
const MAX_COMPARED: usize = 1024;

pub(crate) struct Shared {
    pub(crate) options: PeerOptions,
    /// Room in the queue for calls and notifications, by weight. Responses and cancellations need none:
    /// they are bounded by what they answer or cancel.
    room: Semaphore,
    state: Mutex<State>,
    /// How many of the bytes waiting to be sent answer requests that were refused.
    refusal_bytes: AtomicUsize,
    /// Nothing new is accepted. Never reset.
    closing: AtomicBool,
    /// A call was made, so incoming messages may be its response. Never reset.
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

struct State {
    outgoing: VecDeque<Outgoing>,
    calls: Calls<Pending>,
    phase: Phase,
    gate: EpochGate,
    close_requested: bool,
    /// The total length in bytes of the messages waiting to be sent.
    outgoing_bytes: usize,
    /// How many calls and notifications have been queued, which is the number of the last one.
    queued: u64,
    /// The number of the last notification (0: a response) that the other side may not have read yet.
    unread: Option<u64>,
    driver: Option<Waker>,
    /// The driver is waiting to be woken.
    asleep: bool,
    /// Something has changed since the driver last looked.
    changed: bool,
    unclaimed: UnclaimedAnswers,
}

/// Counts of responses that no call was waiting for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnclaimedAnswers {
    /// Responses to calls that were abandoned or already answered.
    pub late: u64,
    /// Responses with an id that no call ever had.
    pub unasked: u64,
    /// Messages that were not JSON or not JSON-RPC but may have been responses, such as log lines or a
    /// banner. They were dropped without an answer.
    pub unreadable: u64,
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
    weight: usize,
    /// How many of its bytes answer requests that were refused.
    refusal: usize,
}

/// A pending call.
#[derive(Default)]
struct Pending {
    sent: bool,
    /// Its number among all calls and notifications.
    number: u64,
    answer: Option<Result<Response, CallError>>,
    waker: Option<Waker>,
    wants_progress: bool,
    /// Progress not yet reported to the caller; only the latest is kept.
    progress: Option<Bytes>,
}

/// An event of a pending call.
pub(crate) enum News {
    /// Progress: the parameters of the notification.
    Progress(Bytes),
    /// The end of the call; a response has a result.
    Answer(Result<Response, CallError>),
}

impl Shared {
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
            state: Mutex::new(State {
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

    fn lock(&self) -> MutexGuard<'_, State> {
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

    /// Queues a request. Cancel-safe: it is queued or it is not.
    pub(crate) async fn begin_call(
        &self,
        method: &str,
        params: Option<&[u8]>,
        wants_progress: bool,
        bound: Option<Bound>,
    ) -> Result<CallId, NotSent> {
        let length = method.len() + params.map_or(0, <[u8]>::len);
        let (weight, mut state) = self.admit(length, bound, true).await?;
        state.queued += 1;
        let number = state.queued;
        let id = state.calls.begin(Pending { wants_progress, number, ..Pending::default() });
        self.has_called.store(true, Relaxed);
        let mut digits = [0; 20];
        let (dialect, digits) = (&self.options.dialect, id.digits(&mut digits));
        let token = if wants_progress { dialect.with_progress(digits, params) } else { None };
        let message = write_request(dialect, digits, method, token.as_deref().or(params));
        state.push(Outgoing { message: message.into(), call: Some(id), weight, refusal: 0 });
        state.wake_driver();
        Ok(id)
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

    /// Queues a response, which needs no room. `refusal` of its bytes answer what was not carried out.
    /// Only the driver calls this, and it looks at the queue before it sleeps.
    pub(crate) fn push_answer(&self, message: Bytes, refusal: usize) {
        self.refusal_bytes.fetch_add(refusal, Relaxed);
        let mut state = self.lock();
        state.unread.get_or_insert(0);
        state.push(Outgoing { message, call: None, weight: 0, refusal });
    }

    /// Polls for events of a call. Taking the answer ends the call.
    pub(crate) fn poll_call(&self, id: CallId, waker: &Waker) -> Poll<News> {
        let mut state = self.lock();
        let Some(pending) = state.calls.get_mut(id) else {
            let (problem, received) = (InvalidProblem::Wrong("id"), Box::default());
            return Poll::Ready(News::Answer(Err(CallError::InvalidResponse {
                problem,
                received,
            })));
        };
        if let Some(progress) = pending.progress.take() {
            return Poll::Ready(News::Progress(progress));
        }
        if let Some(answer) = pending.answer.take() {
            state.calls.end(id);
            return Poll::Ready(News::Answer(answer));
        }
        match &mut pending.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Abandons a call. A request that is still queued is not sent; one that was sent is cancelled if
    /// the dialect supports it.
    pub(crate) fn abandon(&self, id: CallId) {
        let mut state = self.lock();
        let Some(pending) = state.calls.end(id) else { return };
        if !pending.sent
            && let Some(at) = state.outgoing.iter().position(|out| out.call == Some(id))
        {
            if let Some(out) = state.outgoing.remove(at) {
                state.outgoing_bytes -= out.message.len();
                self.room.add_permits(out.weight);
            }
        } else if pending.sent && pending.answer.is_none() {
            let mut digits = [0; 20];
            if let Some(message) = self.options.dialect.cancellation(id.digits(&mut digits)) {
                let message = message.into();
                state.push(Outgoing { message, call: None, weight: 0, refusal: 0 });
            }
        }
        // Closing may have been waiting for this call.
        state.wake_driver();
    }

    /// Finds the call that a message answers, even if the id is written differently. Only calls that
    /// were sent can be answered.
    pub(crate) fn find(&self, answers: Answers<'_>) -> Option<CallId> {
        let mut state = self.lock();
        let exact = match answers {
            Answers::Call(id) => CallId::parse(id),
            Answers::OnlyCall => None,
        };
        let waits = |it: &mut Pending| it.sent && it.answer.is_none();
        if exact.and_then(|id| state.calls.get_mut(id)).is_some_and(waits) {
            return exact;
        }
        if state.calls.len() > MAX_COMPARED {
            return None;
        }
        let pending = state.calls.iter_mut().filter(|(_, it)| it.sent && it.answer.is_none());
        answers.find(pending.map(|(id, _)| (id, id.to_string())))
    }

    /// Delivers a response. Returns false if no call is waiting for it.
    pub(crate) fn answer(&self, call: Option<CallId>, answer: Result<Response, CallError>) -> bool {
        let mut state = self.lock();
        let pending = call.and_then(|id| state.calls.get_mut(id));
        let Some(pending) = pending.filter(|pending| pending.answer.is_none()) else {
            // A late response to an abandoned call is not an error.
            if call.is_some_and(|id| state.calls.was_made(id)) {
                state.unclaimed.late += 1;
                return false;
            }
            state.unclaimed.unasked += 1;
            let is_first = state.unclaimed.unasked == 1;
            drop(state);
            if is_first {
                // Limited to one line of reasonable length.
                let said = answer.err().map_or_else(String::new, |error| format!(": {error}"));
                let said: String = said.chars().take(200).flat_map(char::escape_debug).collect();
                tracing::warn!("dropped a response with an unknown id{said}");
            }
            return false;
        };
        pending.answer = Some(answer);
        let (waker, number) = (pending.waker.take(), pending.number);
        // Messages are read in order: everything sent before the call was read before its response.
        state.unread = state.unread.filter(|unread| *unread > number);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    pub(crate) fn unclaimed(&self) -> UnclaimedAnswers {
        UnclaimedAnswers { unreadable: self.unreadable.load(Relaxed), ..self.lock().unclaimed }
    }

    /// Counts a dropped message that may have been a response but was unreadable. Returns true for the
    /// first.
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

    /// What has arrived so far and may have been a response.
    pub(crate) fn meanwhile(&self) -> Meanwhile {
        let (unfinished, unreadable) = (&self.unfinished, &self.unreadable);
        Meanwhile { unfinished: unfinished.load(Relaxed), unreadable: unreadable.load(Relaxed) }
    }

    /// Whether the other side may still be processing a notification or response that it was sent.
    pub(crate) fn may_be_unread(&self) -> bool {
        self.lock().unread.is_some()
    }

    /// Delivers progress to a call. Returns false if the token belongs to no call that requested
    /// progress.
    pub(crate) fn progress(&self, token: &[u8], params: &[u8]) -> bool {
        let mut state = self.lock();
        let pending = CallId::parse(token).and_then(|id| state.calls.get_mut(id));
        let Some(pending) = pending.filter(|pending| pending.wants_progress) else { return false };
        pending.progress = Some(Bytes::copy_from_slice(params));
        let waker = pending.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Takes the next message to send. Its call counts as sent from now on.
    ///
    /// When none is left, the driver has seen all changes so far, provided that it looks at everything else
    /// afterwards.
    pub(crate) fn next_outgoing(&self) -> Option<Outgoing> {
        let mut state = self.lock();
        let Some(next) = state.outgoing.pop_front() else {
            state.changed = false;
            return None;
        };
        state.outgoing_bytes -= next.message.len();
        self.refusal_bytes.fetch_sub(next.refusal, Relaxed);
        if let Some(pending) = next.call.and_then(|id| state.calls.get_mut(id)) {
            pending.sent = true;
        }
        drop(state);
        if next.weight > 0 {
            self.room.add_permits(next.weight);
        }
        Some(next)
    }

    /// Fails a call whose request the line cannot carry. The line continues.
    pub(crate) fn refused(&self, call: CallId, error: tieline_proto::EncodeError) {
        self.answer(Some(call), Err(NotSent::Message(error).into()));
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

    /// Whether nothing is waiting to be sent and no call is pending.
    pub(crate) fn is_idle(&self) -> bool {
        let mut state = self.lock();
        state.outgoing.is_empty() && !state.calls.iter_mut().any(|(_, it)| it.answer.is_none())
    }

    /// Whether so much is waiting to be sent that no further requests should be started. Reading
    /// continues, because the other side may be waiting for this side to read as well.
    pub(crate) fn is_clogged(&self) -> bool {
        let state = self.lock();
        state.outgoing.len() >= MAX_UNSENT
            || state.outgoing_bytes >= self.options.queue.bytes().saturating_mul(2)
    }

    /// Whether so many refusals are waiting to be sent that reading should stop.
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

    /// Like [`begin_close`](Self::begin_close), but limits the time for work in progress.
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

    /// Fails all pending calls as not sent or unknown: no response can arrive any more.
    pub(crate) fn end_calls(&self, reason: &CloseReason) {
        let mut state = self.lock();
        let mut room = 0;
        state.outgoing.retain(|out| {
            room += if out.call.is_some() { out.weight } else { 0 };
            out.call.is_none()
        });
        state.outgoing_bytes = state.outgoing.iter().map(|out| out.message.len()).sum();
        let wakers = state.fail_calls(reason, NotSent::Closed);
        drop(state);
        self.room.add_permits(room);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the line and wakes everything that waits for it.
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

impl State {
    fn check_open(&self, is_call: bool) -> Result<(), NotSent> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::Answering if !is_call => Ok(()),
            Phase::Answering | Phase::Closing => Err(NotSent::Closing),
            Phase::Closed(reason) => Err(NotSent::Closed(reason.clone())),
        }
    }

    /// Fails all pending calls. Returns the wakers to wake.
    fn fail_calls(
        &mut self,
        reason: &CloseReason,
        not_sent: fn(CloseReason) -> NotSent,
    ) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (_, pending) in self.calls.iter_mut().filter(|(_, it)| it.answer.is_none()) {
            pending.answer = Some(Err(match pending.sent {
                true => CallError::Unknown(reason.clone()),
                false => not_sent(reason.clone()).into(),
            }));
            wakers.extend(pending.waker.take());
        }
        wakers
    }

    fn push(&mut self, outgoing: Outgoing) {
        self.outgoing_bytes += outgoing.message.len();
        self.outgoing.push_back(outgoing);
    }

    /// Wakes the driver if it sleeps; otherwise it looks again before it does.
    fn wake_driver(&mut self) {
        self.changed = true;
        if std::mem::take(&mut self.asleep)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }
}
