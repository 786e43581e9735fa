//! Handles what the other side sends: ordering, concurrency limits, and responses.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};

use tieline_proto::jsonrpc::{
    Dialect, Id, Notification, OVERLOADED, Request, write_error, write_result,
};
use tieline_transport::{BoxFuture, Reset};
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tracing::{Instrument, Span, debug_span, field};

use crate::batch::Batch;
use crate::error::ErrorObject;
use crate::handler::{Answer, Handler, Outcome};
use crate::peer::Peer;
use crate::shared_peer::SharedPeer;

/// Runs notifications one at a time in the order of arrival, and requests concurrently. A request
/// starts only after the notifications that arrived before it.
pub(crate) struct Inbound<H> {
    handler: Arc<H>,
    peer: Peer,
    shared: Arc<SharedPeer>,
    /// How many messages have arrived.
    arrived: u64,
    notifications: VecDeque<(u64, Ordered)>,
    notifications_weight: usize,
    /// The notification being handled.
    handling: Option<(u64, BoxFuture<'static, ()>)>,
    /// The reset handler, while it runs.
    beginning: Option<BoxFuture<'static, ()>>,
    requests: VecDeque<Waiting>,
    /// Whether a request was not started because too much is waiting to be sent.
    held_back: bool,
    /// The total size of waiting and running requests in bytes.
    taken_bytes: usize,
    running: JoinSet<Outcome>,
    /// The running requests, by task.
    replies: HashMap<task::Id, Reply>,
}

/// The minimum weight of a notification: 16 MiB hold at most 4,096 of them.
const LEAST_NOTIFICATION: usize = 4096;

/// An item that is handled strictly in the order of arrival.
enum Ordered {
    Notification(Notification),
    Reset(Reset),
}

struct Waiting {
    arrival: u64,
    request: Request,
    batch: Option<Arc<Batch>>,
}

/// The destination of a response.
struct Reply {
    id: Id,
    batch: Option<Arc<Batch>>,
    task: Option<AbortHandle>,
    /// The length of the request in bytes.
    size: usize,
}

impl<H: Handler> Inbound<H> {
    pub(crate) fn new(handler: H, peer: Peer, shared: Arc<SharedPeer>) -> Self {
        Self {
            handler: Arc::new(handler),
            peer,
            shared,
            arrived: 0,
            notifications: VecDeque::new(),
            notifications_weight: 0,
            handling: None,
            beginning: None,
            requests: VecDeque::new(),
            held_back: false,
            taken_bytes: 0,
            running: JoinSet::new(),
            replies: HashMap::new(),
        }
    }

    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// Queues a request, or refuses it if too many are waiting.
    pub(crate) fn request(&mut self, request: Request, batch: Option<Arc<Batch>>) {
        let limit = self.shared.options.max_in_flight;
        let taken = self.requests.len() + self.running.len();
        let size = request.message().len();
        let is_large = taken > 0 && self.taken_bytes + size > self.shared.options.queue.bytes();
        if is_large || taken >= limit.saturating_add(self.shared.options.max_waiting) {
            let id = Id::from(request.id());
            let reply = Reply { id, batch, task: None, size: 0 };
            let overloaded = "overloaded: too many requests in progress; try again later";
            return self.refuse(reply, overloaded);
        }
        self.taken_bytes += size;
        self.arrived += 1;
        self.requests.push_back(Waiting { arrival: self.arrived, request, batch });
    }

    /// Queues a notification.
    pub(crate) fn notification(&mut self, notification: Notification) {
        self.arrived += 1;
        self.notifications_weight += self.weight_of(&notification);
        self.notifications.push_back((self.arrived, Ordered::Notification(notification)));
    }

    /// Switches to a new line. Requests from the old one are dropped: the other side no longer waits for
    /// the responses, and may reuse their ids.
    pub(crate) fn reset(&mut self, mut reset: Reset) {
        self.running.abort_all();
        self.replies.clear();
        self.requests.clear();
        self.taken_bytes = 0;
        self.beginning = None;
        // A reset that was not handled yet is obsolete, except for its count of lost messages.
        self.notifications.retain(|(_, item)| match item {
            Ordered::Notification(_) => true,
            Ordered::Reset(earlier) => {
                reset.lost += earlier.lost;
                false
            }
        });
        self.arrived += 1;
        self.notifications.push_back((self.arrived, Ordered::Reset(reset)));
    }

    fn weight_of(&self, notification: &Notification) -> usize {
        notification.message().len().max(LEAST_NOTIFICATION)
    }

    /// Returns whether more notifications are waiting than allowed.
    pub(crate) fn is_full(&self) -> bool {
        self.notifications_weight >= self.shared.options.queue.bytes()
    }

    /// Returns whether a request that was held back can start now.
    pub(crate) fn can_resume(&self) -> bool {
        self.held_back && !self.shared.is_clogged()
    }

    /// Returns whether everything was handled and answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.notifications.is_empty()
            && self.handling.is_none()
            && self.beginning.is_none()
            && self.requests.is_empty()
            && self.running.is_empty()
    }

    /// Makes as much progress as possible, until everything left is pending.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        while self.poll_running(cx)
            | self.poll_beginning(cx)
            | self.poll_notification(cx)
            | self.start_request(cx)
        {}
    }

    fn poll_beginning(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(beginning) = &mut self.beginning else { return false };
        if contain(|| beginning.as_mut().poll(cx)).is_ok_and(|polled| polled.is_pending()) {
            return false;
        }
        self.beginning = None;
        self.shared.begun();
        true
    }

    /// Starts the reset handler. Its calls are sent before any others. Messages from the new line are
    /// handled in the meantime.
    fn begin(&mut self, reset: Reset) {
        let peer = self.peer.first_on(reset.epoch);
        self.shared.begin();
        match contain(|| self.handler.reset(reset, &peer)) {
            Ok(Answer::Later(beginning)) => self.beginning = Some(beginning),
            Ok(Answer::Now(())) | Err(_) => self.shared.begun(),
        }
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let Poll::Ready(Some(ended)) = self.running.poll_join_next_with_id(cx) else {
            return false;
        };
        self.ended(ended);
        true
    }

    fn poll_notification(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some((_, handling)) = &mut self.handling {
            let polled = contain(|| handling.as_mut().poll(cx));
            if polled.is_ok_and(|polled| polled.is_pending()) {
                return false;
            }
            self.handling = None;
            return true;
        }
        let (arrival, notification) = match self.notifications.pop_front() {
            Some((arrival, Ordered::Notification(notification))) => (arrival, notification),
            Some((_, Ordered::Reset(reset))) => {
                self.begin(reset);
                return true;
            }
            None => return false,
        };
        let weight = self.weight_of(&notification);
        self.notifications_weight = self.notifications_weight.saturating_sub(weight);
        let (handler, peer) = (&self.handler, &self.peer);
        if let Ok(Answer::Later(handling)) = contain(|| handler.notification(notification, peer)) {
            self.handling = Some((arrival, handling));
        }
        true
    }

    /// Starts the oldest waiting request, unless a notification that arrived before it is unfinished.
    fn start_request(&mut self, cx: &mut Context<'_>) -> bool {
        let unhandled = self.handling.as_ref().map(|(arrival, _)| *arrival);
        let unhandled = unhandled.or_else(|| self.notifications.front().map(|(at, _)| *at));
        let is_due = |waiting: &Waiting| unhandled.is_none_or(|at| waiting.arrival < at);
        let has_room = self.running.len() < self.shared.options.max_in_flight;
        let can_start = has_room && self.requests.front().is_some_and(is_due);
        // This is computed again each time, because the request that was held back may have been
        // cancelled.
        self.held_back = can_start && self.shared.is_clogged();
        if !can_start || self.held_back {
            return false;
        }
        let Some(Waiting { request, batch, .. }) = self.requests.pop_front() else { return false };
        let id = Id::from(request.id());
        let size = request.message().len();
        let mut reply = Reply { id, batch, task: None, size };
        let (handler, peer) = (&self.handler, &self.peer);
        let span = span(&self.shared.options.dialect, &request);
        let entered = span.enter();
        let outcome = match contain(|| handler.request(request, peer)) {
            Ok(Answer::Now(outcome)) => outcome,
            Ok(Answer::Later(mut answer)) => match contain(|| answer.as_mut().poll(cx)) {
                Ok(Poll::Ready(outcome)) => outcome,
                Ok(Poll::Pending) => {
                    drop(entered);
                    let task = self.running.spawn(answer.instrument(span));
                    let id = task.id();
                    reply.task = Some(task);
                    self.replies.insert(id, reply);
                    return true;
                }
                Err(panicked) => Err(panicked),
            },
            Err(panicked) => Err(panicked),
        };
        drop(entered);
        self.answer(reply, outcome);
        true
    }

    fn ended(&mut self, ended: Result<(task::Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) if error.is_cancelled() => (error.id(), Err(cancelled(&self.dialect()))),
            Err(error) => (error.id(), Err(panicked())),
        };
        if let Some(reply) = self.replies.remove(&id) {
            self.answer(reply, outcome);
        }
    }

    /// Cancels a request: a waiting one is not carried out, a running one is dropped.
    pub(crate) fn cancel(&mut self, id: &[u8]) {
        let is_it = |waiting: &Waiting| waiting.request.id() == id;
        if let Some(at) = self.requests.iter().position(is_it) {
            if let Some(Waiting { batch, request, .. }) = self.requests.remove(at) {
                let size = request.message().len();
                let reply = Reply { id: Id::from(id), batch, task: None, size };
                let cancelled = cancelled(&self.dialect());
                self.answer(reply, Err(cancelled));
            }
            return;
        }
        // A request that was already answered or never existed is ignored.
        let running = self.replies.values().find(|reply| *reply.id == *id);
        if let Some(task) = running.and_then(|reply| reply.task.as_ref()) {
            task.abort();
        }
    }

    /// Sends a response, alone or with the rest of its batch.
    fn answer(&mut self, reply: Reply, outcome: Outcome) {
        let dialect = self.dialect();
        let Reply { id, batch, size, .. } = reply;
        self.taken_bytes = self.taken_bytes.saturating_sub(size);
        let message = match outcome {
            // Some dialects send no response to a cancelled request.
            Err(error) if is_unanswered(&error) => None,
            Ok(result) => Some(write_result(&dialect, &id, &result)),
            Err(ErrorObject { code, message, data }) => {
                let data = data.as_ref().map(|data| data.get().as_bytes());
                Some(write_error(&dialect, &id, code, &message, data))
            }
        };
        match batch {
            Some(batch) => batch.answered(message, &self.shared),
            None => {
                if let Some(message) = message {
                    self.shared.push_answer(message.into(), 0);
                }
            }
        }
    }

    /// Refuses a request without carrying it out.
    fn refuse(&self, reply: Reply, why: &str) {
        let message = write_error(&self.dialect(), &reply.id, OVERLOADED, why, None);
        match reply.batch {
            Some(batch) => batch.refused(message, &self.shared),
            None => {
                let length = message.len();
                self.shared.push_answer(message.into(), length);
            }
        }
    }

    fn dialect(&self) -> Dialect {
        self.shared.options.dialect
    }
}

/// Returns the span for everything logged while a request is handled, with the trace it carries.
fn span(dialect: &Dialect, request: &Request) -> Span {
    let span =
        debug_span!("request", method = field::Empty, id = field::Empty, trace = field::Empty);
    if !span.is_disabled() {
        // `debug` escapes these values, which come from the other side.
        span.record("method", field::debug(request.method()));
        span.record("id", field::debug(String::from_utf8_lossy(request.id())));
        if let Some(trace) = request.params().and_then(|params| dialect.trace_of(params)) {
            span.record("trace", field::display(trace));
        }
    }
    span
}

/// Runs part of a handler and turns a panic into an error response to the request.
pub(crate) fn contain<T>(piece: impl FnOnce() -> T) -> Result<T, ErrorObject> {
    catch_unwind(AssertUnwindSafe(piece)).map_err(|_| panicked())
}

fn panicked() -> ErrorObject {
    ErrorObject::internal("the handler panicked")
}

/// A code that no dialect uses, for a cancelled request that gets no response.
const UNANSWERED: i64 = i64::MIN;

fn cancelled(dialect: &Dialect) -> ErrorObject {
    let code = dialect.cancel.and_then(|cancel| cancel.code);
    ErrorObject::new(code.unwrap_or(UNANSWERED), "cancelled")
}

fn is_unanswered(error: &ErrorObject) -> bool {
    error.code == UNANSWERED
}
