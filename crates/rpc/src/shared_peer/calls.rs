//! The pending calls of a peer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::jsonrpc::{Answers, CallId, InvalidProblem, Response, write_request};
use tieline_transport::CloseReason;

use super::gate::Bound;
use super::{Outgoing, PeerState, SharedPeer};
use crate::error::{CallError, NotSent};

/// With more pending calls than this, a response is matched only by its exact id, because any other
/// match requires a comparison with every pending call.
const MAX_COMPARED: usize = 1024;

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

/// A pending call.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) sent: bool,
    /// Its number among all calls and notifications.
    number: u64,
    pub(super) answer: Option<Result<Response, CallError>>,
    waker: Option<Waker>,
    wants_progress: bool,
    /// Progress not yet reported to the caller; only the latest is kept.
    progress: Option<Bytes>,
}

/// An event of a pending call.
pub(crate) enum News {
    /// Progress: the parameters of the notification.
    Progress(Bytes),
    /// The end of the call: a response with a result, or an error.
    Answer(Result<Response, CallError>),
}

impl SharedPeer {
    /// Queues a request, whose events wake the task that polls this future. Cancel-safe: it is queued or
    /// it is not.
    pub(crate) async fn begin_call(
        &self,
        method: &str,
        params: Option<&[u8]>,
        wants_progress: bool,
        bound: Option<Bound>,
    ) -> Result<CallId, NotSent> {
        let length = method.len() + params.map_or(0, <[u8]>::len);
        let mut admit = pin!(self.admit(length, bound, true));
        let admitted = poll_fn(|cx| {
            admit.as_mut().poll(cx).map_ok(|(weight, state)| (weight, state, cx.waker().clone()))
        });
        let (weight, mut state, waker) = admitted.await?;
        state.queued += 1;
        let (number, waker) = (state.queued, Some(waker));
        let id = state.calls.begin(Pending { wants_progress, number, waker, ..Pending::default() });
        if !self.has_called() {
            self.has_called.store(true, Relaxed);
        }
        let mut digits = [0; 20];
        let (dialect, digits) = (&self.options.dialect, id.digits(&mut digits));
        let token = if wants_progress { dialect.with_progress(digits, params) } else { None };
        let message = write_request(dialect, digits, method, token.as_deref().or(params));
        state.push(Outgoing { message: message.into(), call: Some(id), weight, refusal: 0 });
        state.wake_driver();
        Ok(id)
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
        if !pending.sent {
            let queued = state.outgoing.iter().position(|out| out.call == Some(id));
            if let Some(out) = queued.and_then(|at| state.outgoing.remove(at)) {
                state.outgoing_bytes -= out.message.len();
                self.room.add_permits(out.weight);
            }
        } else if pending.answer.is_none() {
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
        let answered = self.lock().answer(call, answer);
        match answered {
            Ok(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                true
            }
            Err(unclaimed) => {
                unclaimed.log();
                false
            }
        }
    }

    /// Delivers responses in their order, and wakes their callers after the last one.
    pub(crate) fn deliver(&self, responses: &mut Responses) {
        if responses.read.is_empty() {
            return;
        }
        let mut state = self.lock();
        for (call, answer) in responses.read.drain(..) {
            match state.answer(call, answer) {
                Ok(waker) => responses.wakers.extend(waker),
                Err(unclaimed) => {
                    responses.unclaimed = responses.unclaimed.take().or(Some(unclaimed))
                }
            }
        }
        drop(state);
        responses.wakers.drain(..).for_each(Waker::wake);
        if let Some(unclaimed) = responses.unclaimed.take() {
            unclaimed.log();
        }
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

    /// Fails a call whose request the line cannot carry. The line continues.
    pub(crate) fn refused(&self, call: CallId, error: EncodeError) {
        self.answer(Some(call), Err(NotSent::Message(error).into()));
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

    pub(crate) fn unclaimed(&self) -> UnclaimedAnswers {
        UnclaimedAnswers { unreadable: self.unreadable.load(Relaxed), ..self.lock().unclaimed }
    }
}

/// Responses on their way to the callers.
#[derive(Default)]
pub(crate) struct Responses {
    read: Vec<(Option<CallId>, Result<Response, CallError>)>,
    /// Empty unless responses are being delivered. The space is reused, as above.
    wakers: Vec<Waker>,
    unclaimed: Option<Unclaimed>,
}

impl Responses {
    pub(crate) fn push(&mut self, call: Option<CallId>, answer: Result<Response, CallError>) {
        self.read.push((call, answer));
    }

    pub(crate) fn len(&self) -> usize {
        self.read.len()
    }
}

/// A response that no call was waiting for.
struct Unclaimed {
    error: Option<CallError>,
    is_first: bool,
}

impl Unclaimed {
    /// Logs the first response with an unknown id.
    fn log(self) {
        if self.is_first {
            // The text is limited to one line of reasonable length.
            let detail = self.error.map_or_else(String::new, |error| format!(": {error}"));
            let detail: String = detail.chars().take(200).flat_map(char::escape_debug).collect();
            tracing::warn!("dropped a response with an unknown id{detail}");
        }
    }
}

impl PeerState {
    /// Delivers a response. Returns the waker of its caller, which must be woken without the lock.
    fn answer(
        &mut self,
        call: Option<CallId>,
        answer: Result<Response, CallError>,
    ) -> Result<Option<Waker>, Unclaimed> {
        let pending = call.and_then(|id| self.calls.get_mut(id));
        let Some(pending) = pending.filter(|pending| pending.answer.is_none()) else {
            // A late response to an abandoned call is not an error.
            let is_late = call.is_some_and(|id| self.calls.was_made(id));
            let UnclaimedAnswers { late, unasked, .. } = &mut self.unclaimed;
            *(if is_late { late } else { unasked }) += 1;
            let is_first = !is_late && self.unclaimed.unasked == 1;
            return Err(Unclaimed { error: answer.err(), is_first });
        };
        pending.answer = Some(answer);
        // The other side reads messages in order, so it has read everything that was sent before the
        // call.
        let number = pending.number;
        self.unread = self.unread.filter(|unread| *unread > number);
        Ok(pending.waker.take())
    }

    /// Fails all pending calls. Returns the wakers to wake.
    pub(super) fn fail_calls(
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
}
