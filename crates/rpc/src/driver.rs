//! The future that drives a line: it reads, dispatches, writes and closes.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::thread;

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    Answers, CallId, INVALID_REQUEST, Invalid, InvalidProblem, Message, Notification, Outline,
    PARSE_ERROR, Response, answers_in_text, classify, write_error,
};
use tieline_proto::{Fault, jsonrpc};
use tieline_transport::{
    BoxFuture, Channel, CloseReason, Control, Incoming, Receiver, Refused, Reset, SendError, Sender,
};
use tokio::time::Sleep;

use crate::allowance::Allowance;
use crate::batch::Batch;
use crate::error::{CallError, ErrorObject};
use crate::handler::Handler;
use crate::inbound::{Inbound, contain};
use crate::instead::instead_of;
use crate::peer::Peer;
use crate::shared::Shared;

/// Drives a peer's line. Everything on the line happens while this future is polled: spawn it, or
/// await it next to the calls. It completes when the line has ended, with the reason.
///
/// Dropping it ends the line and stops what is on the other end of it (such as a child process) at
/// once. Pending calls fail as not sent or unknown, and running handlers are dropped.
#[must_use = "nothing happens on the line unless its driver is polled"]
pub struct Driver<C: Channel, H: Handler> {
    sender: C::Sender,
    receiver: C::Receiver,
    control: Control,
    inbound: Inbound<H>,
    shared: Arc<Shared>,
    stage: Stage,
    /// A message that the sender had no room for.
    unsent: Option<crate::shared::Outgoing>,
    /// The deadline while reading is stopped because too much is queued.
    overfull: Option<Pin<Box<Sleep>>>,
    /// Whether this side serves requests.
    serves: bool,
    /// Whether unreadable messages are taken to come from a client, and answered. Once this side has
    /// made a call they may be responses or stray output instead. Does not change within a batch.
    answers_unreadable: bool,
    /// Limits the errors without an id.
    allowance: Allowance,
    /// Whether an invalid message has been logged.
    has_told_invalid: bool,
}

enum Stage {
    Open,
    /// Accepts nothing new. Work in progress may finish until the timer fires.
    Closing(Pin<Box<Sleep>>),
    /// The other side has ended its direction. Its requests are still answered.
    Answering(CloseReason, Option<Pin<Box<Sleep>>>),
    /// Closing this direction and stopping what is on the other end.
    Stopping(Stopping),
    Ended(CloseReason),
}

struct Stopping {
    reason: CloseReason,
    stopped: BoxFuture<'static, CloseReason>,
    ends: Ends,
    /// How long to wait for the condition in `ends`.
    grace: Option<Pin<Box<Sleep>>>,
}

/// What to wait for before stopping what is on the other end of the line.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// Nothing.
    AtOnce,
    /// All data is written, including the end of this direction.
    Flushed,
    /// The other side has ended its direction.
    ByTheirEnd,
}

/// No field is structurally pinned.
impl<C: Channel, H: Handler> Unpin for Driver<C, H> {}

/// How many bytes of an invalid message are logged or shown in an error.
const BEGIN: usize = 200;

/// How many messages are read before their responses are written.
///
/// On several cores, writing early lets the other side start on the first responses while the rest are
/// produced. On a single core, each extra write only adds a context switch. (64 calls in flight between
/// two cores: 205 k/s without a limit, 540 k/s at 16; on one core 420 k/s without a limit, 310 k/s at 32.)
static MAX_AT_ONCE: LazyLock<usize> = LazyLock::new(|| match thread::available_parallelism() {
    Ok(cores) if cores.get() > 1 => 16,
    _ => 1024,
});

impl<C: Channel, H: Handler> Driver<C, H> {
    pub(crate) fn new(channel: C, handler: H, peer: Peer, shared: Arc<Shared>) -> Self {
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        let serves = handler.serves();
        let inbound = Inbound::new(handler, peer, shared.clone());
        Self {
            sender,
            receiver,
            control,
            inbound,
            shared,
            stage: Stage::Open,
            unsent: None,
            overfull: None,
            serves,
            answers_unreadable: serves,
            allowance: Allowance::default(),
            has_told_invalid: false,
        }
    }

    /// Reads and dispatches incoming messages. Returns true if there may be more.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..*MAX_AT_ONCE {
            if !matches!(self.stage, Stage::Open | Stage::Closing(_)) || self.is_overfull(cx) {
                return false;
            }
            match self.receiver.poll_recv(cx) {
                Poll::Ready(Incoming::Message(message)) => self.message(message, cx),
                Poll::Ready(Incoming::Fault(fault)) => self.fault(&fault),
                Poll::Ready(Incoming::Reset(reset)) => self.reset(*reset, cx),
                Poll::Ready(Incoming::End(reason)) => self.no_more(reason),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    self.shared.note_unfinished(self.receiver.unfinished());
                    return false;
                }
            }
        }
        true
    }

    /// Checks whether reading has to stop because too many notifications are queued or the other side does
    /// not read the errors sent to it. If this lasts longer than the grace period, the line ends.
    ///
    /// Responses to requests that were carried out do not count. Two sides that each wait for the other to
    /// read would deadlock; instead, no further requests are started until those responses are sent.
    fn is_overfull(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.inbound.is_full() && !self.shared.is_flooded() {
            self.overfull = None;
            return false;
        }
        let patience = self.shared.options.grace;
        let deadline = self.overfull.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if deadline.as_mut().poll(cx).is_ready() {
            let reading =
                if self.inbound.is_full() { CloseReason::Overrun } else { CloseReason::Stalled };
            self.stop(reading);
        }
        true
    }

    fn message(&mut self, message: Bytes, cx: &mut Context<'_>) {
        self.answers_unreadable = self.serves && !self.shared.has_called();
        let options = &self.shared.options;
        match classify(message, &options.dialect, options.limits) {
            Message::Batch(elements) => {
                let wants_answer = |it: &Message| match it {
                    Message::Request(_) => true,
                    Message::Invalid(invalid) => self.is_answerable(invalid),
                    _ => false,
                };
                let batch = Batch::new(elements.iter().filter(|it| wants_answer(it)).count());
                for element in elements {
                    self.one(element, Some(&batch), cx);
                }
            }
            one => self.one(one, None, cx),
        }
    }

    fn one(&mut self, message: Message, batch: Option<&Arc<Batch>>, cx: &mut Context<'_>) {
        match message {
            Message::Request(request) if self.shared.is_closing() => {
                let closing = "the line is closing";
                let dialect = &self.shared.options.dialect;
                let id = request.id();
                let answer = write_error(dialect, id, jsonrpc::OVERLOADED, closing, None);
                self.reply(answer, batch);
            }
            Message::Request(request) => self.inbound.request(request, batch.cloned()),
            Message::Notification(notification) => self.notification(notification),
            Message::Response(response) => self.response(response),
            Message::Invalid(invalid) => self.invalid(&invalid, batch),
            // Batches do not nest.
            Message::Batch(_) => {}
        }
        // Dispatch immediately, so that requests read together do not wait for one another.
        self.inbound.poll(cx);
    }

    fn notification(&mut self, notification: Notification) {
        let cancel = self.shared.options.dialect.cancel;
        if let Some(cancel) = cancel.filter(|cancel| cancel.method == notification.method()) {
            let params = notification.params().unwrap_or_default();
            if let Some(id) = jsonrpc::member(params, cancel.id) {
                self.inbound.cancel(id);
            }
            return;
        }
        let progress = self.shared.options.dialect.progress;
        if let Some(progress) = progress.filter(|it| it.method == notification.method()) {
            let params = notification.params().unwrap_or_default();
            let token = jsonrpc::member(params, progress.token);
            if token.is_some_and(|token| self.shared.progress(token, params)) {
                return;
            }
        }
        self.inbound.notification(notification);
    }

    fn response(&mut self, response: Response) {
        let call = CallId::parse(response.id()).or_else(|| self.shared.find(response.answers()));
        let answer = match response.outcome().map_err(ErrorObject::parse) {
            Ok(_) => Ok(response),
            Err(Ok(error)) => Err(CallError::Remote(error)),
            Err(Err(_)) => {
                Err(invalid_response(InvalidProblem::Wrong("error"), response.message()))
            }
        };
        self.shared.answer(call, answer);
    }

    fn invalid(&mut self, invalid: &Invalid, batch: Option<&Arc<Batch>>) {
        let error = || invalid_response(invalid.response_problem(), invalid.message());
        if self.shared.has_called() && self.settle(&invalid.answers(), error) {
            return;
        }
        if invalid.is_response() {
            self.shared.answer(CallId::parse(invalid.id()), Err(error()));
            return;
        }
        let is_answerable = self.is_answerable(invalid);
        let is_first = !is_answerable && self.shared.unreadable();
        if is_first || (is_answerable && !std::mem::replace(&mut self.has_told_invalid, true)) {
            let begin = String::from_utf8_lossy(beginning(invalid.message()));
            let problem = invalid.problem();
            tracing::warn!("dropped a message that is not JSON-RPC: {problem}: {begin:?}");
        }
        if is_answerable {
            self.reply_error(invalid.id(), invalid.code(), &invalid.problem().to_string(), batch);
        }
    }

    /// Handles a message that was discarded. If it was a response, its call fails; if it may have been
    /// a request, the other side gets an error.
    fn fault(&mut self, fault: &Fault) {
        self.answers_unreadable = self.serves && !self.shared.has_called();
        let is_cut = match fault {
            Fault::NotJson(it) => it.length > it.head.len(),
            _ => true,
        };
        let answers = answers_in_text(fault.head(), is_cut);
        if !self.settle(&answers, || CallError::AnswerLost(Box::new(fault.clone()))) {
            let code = match fault {
                Fault::NotJson(it) if !it.error.is_limit() => PARSE_ERROR,
                _ => INVALID_REQUEST,
            };
            let outline = Outline::of(fault.head());
            // When the text is not JSON, its id counts as unknown (JSON-RPC 2.0 Specification, section
            // 5).
            let id = outline.id().filter(|_| outline.is_call() && code == INVALID_REQUEST);
            if id.is_some() || self.answers_unreadable {
                self.reply_error(id.unwrap_or(b"null"), code, &fault.to_string(), None);
            } else {
                self.shared.unreadable();
            }
        }
        // A panic of the fault handler has no other effect.
        let _ = contain(|| self.inbound.handler().fault(fault));
    }

    /// Fails the calls that an invalid response belongs to. Returns false if there is none.
    fn settle(&self, answers: &[Answers<'_>], error: impl Fn() -> CallError) -> bool {
        let mut has_settled = false;
        for call in answers.iter().filter_map(|answers| self.shared.find(*answers)) {
            has_settled |= self.shared.answer(Some(call), Err(error()));
        }
        has_settled
    }

    fn is_answerable(&self, invalid: &Invalid) -> bool {
        let may_be_response = invalid.may_be_response() && !self.answers_unreadable;
        !invalid.is_response() && !may_be_response
    }

    /// Sends an error for a message that is not carried out. Errors without an id are rate-limited.
    fn reply_error(&mut self, id: &[u8], code: i64, text: &str, batch: Option<&Arc<Batch>>) {
        if batch.is_none() && id == b"null" && !self.allowance.take() {
            if self.shared.unreadable() {
                tracing::warn!("too many unreadable messages: no longer answering them");
            }
            return;
        }
        self.reply(write_error(&self.shared.options.dialect, id, code, text, None), batch);
    }

    fn reply(&self, answer: Vec<u8>, batch: Option<&Arc<Batch>>) {
        match batch {
            Some(batch) => batch.refused(answer, &self.shared),
            None => {
                let length = answer.len();
                self.shared.push_answer(answer.into(), length);
            }
        }
    }

    /// Writes queued messages. Returns true once all of them were handed to the operating system.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let next = match self.unsent.take() {
                Some(unsent) => unsent,
                None => match self.shared.next_outgoing() {
                    Some(next) => next,
                    None => break,
                },
            };
            match self.sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return self.cannot_send(error),
                Poll::Pending => {
                    self.unsent = Some(next);
                    return false;
                }
            }
            match self.sender.start_send(next.message) {
                Ok(()) => {}
                Err(SendError::Message(refused)) => match next.call {
                    Some(call) => self.shared.refused(call, refused.error),
                    None => self.refused(&refused),
                },
                Err(error) => return self.cannot_send(error),
            }
        }
        match self.sender.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => self.cannot_send(error),
            Poll::Pending => false,
        }
    }

    /// Replaces a response that the line cannot carry with an error.
    fn refused(&mut self, refused: &Refused) {
        let Refused { message, error } = refused;
        tracing::warn!("message not sent: {error}");
        for answer in instead_of(message, error, &self.shared.options.dialect) {
            if self.sender.start_send(answer.into()).is_ok() {
                return;
            }
        }
    }

    /// Handles the end of the write direction: the other side no longer reads. What it sends from here
    /// on may say why.
    fn cannot_send(&mut self, error: SendError) -> bool {
        let SendError::Closed(reason) = error else { return true };
        self.stop(*reason);
        true
    }

    /// Switches to the line that replaces one that was lost.
    fn reset(&mut self, reset: Reset, cx: &mut Context<'_>) {
        if let Some(unsent) = self.unsent.take() {
            self.shared.put_down(&unsent);
        }
        self.shared.reset(reset.epoch, &reset.cause);
        self.inbound.reset(reset);
        self.inbound.poll(cx);
    }

    /// Handles the end of input: no pending call can be answered any more.
    fn no_more(&mut self, reason: CloseReason) {
        if reason.is_clean() {
            // First, or a call made in the meantime would wait forever.
            self.shared.take_no_calls();
        }
        self.shared.end_calls(&reason);
        if reason.is_clean() {
            self.stage = Stage::Answering(reason, None);
        } else {
            self.stop(reason);
        }
    }

    fn stop(&mut self, reason: CloseReason) {
        self.stop_when(reason, Ends::AtOnce, None);
    }

    fn stop_when(&mut self, reason: CloseReason, ends: Ends, grace: Option<Pin<Box<Sleep>>>) {
        if matches!(self.stage, Stage::Stopping(_) | Stage::Ended(_)) {
            return;
        }
        let control = self.control.clone();
        let stopped = Box::pin(async move { control.stop().await });
        self.stage = Stage::Stopping(Stopping { reason, stopped, ends, grace });
    }

    /// Whether all requests and calls in both directions are finished.
    fn is_idle(&self) -> bool {
        self.unsent.is_none() && self.inbound.is_idle() && self.shared.is_idle()
    }

    /// Advances to the next stage of closing if its condition is met. Returns true if it did.
    fn poll_stage(&mut self, cx: &mut Context<'_>, is_flushed: bool) -> bool {
        match &mut self.stage {
            Stage::Open if self.shared.is_closing() => {
                let grace = tokio::time::sleep(self.shared.options.grace);
                self.stage = Stage::Closing(Box::pin(grace));
                true
            }
            Stage::Closing(grace) => {
                if grace.as_mut().poll(cx).is_ready() {
                    self.stop(CloseReason::ByUs);
                    return true;
                }
                if !is_flushed || !self.is_idle() {
                    return false;
                }
                let ends = match self.control.child() {
                    // Stopping a child starts with the end of its input anyway.
                    Some(_) => Ends::AtOnce,
                    // The other side may still be processing the last message.
                    None if self.shared.may_be_unread() => Ends::ByTheirEnd,
                    None => Ends::Flushed,
                };
                if let Stage::Closing(grace) = std::mem::replace(&mut self.stage, Stage::Open) {
                    self.stop_when(CloseReason::ByUs, ends, Some(grace));
                }
                true
            }
            Stage::Answering(reason, grace) => {
                let reason = reason.clone();
                // Handlers may send notifications while they run. After the last response nothing new
                // is accepted; otherwise an endless stream of notifications would hold the line open.
                if self.inbound.is_idle() && !self.shared.is_closing() {
                    self.shared.begin_close();
                }
                // Handlers may run as long as the other side waits, unless this side asked to close.
                if self.shared.is_close_requested() && grace.is_none() {
                    *grace = Some(Box::pin(tokio::time::sleep(self.shared.options.grace)));
                }
                let is_over =
                    grace.as_mut().is_some_and(|grace| grace.as_mut().poll(cx).is_ready());
                let is_gone = is_over || self.sender.poll_gone(cx).is_ready();
                if is_gone || (is_flushed && self.is_idle()) {
                    self.stop(reason);
                    return true;
                }
                false
            }
            Stage::Stopping(Stopping { reason, stopped, ends, grace }) => {
                let reason = reason.clone();
                // A child is stopped even if it does not read the end of its input.
                let is_closed = self.sender.poll_close(cx).is_ready();
                // Read and discard, so that the other side cannot block on writing.
                let has_ended = loop {
                    match self.receiver.poll_recv(cx) {
                        Poll::Ready(Incoming::End(_)) => break true,
                        Poll::Ready(_) => {}
                        Poll::Pending => break false,
                    }
                };
                let mut is_late =
                    || grace.as_mut().is_none_or(|it| it.as_mut().poll(cx).is_ready());
                let is_due = match ends {
                    Ends::AtOnce => true,
                    Ends::Flushed => is_closed || has_ended || is_late(),
                    Ends::ByTheirEnd => has_ended || is_late(),
                };
                if !is_due {
                    return false;
                }
                if stopped.as_mut().poll(cx).is_pending() {
                    return false;
                }
                let reason = match (&reason, self.control.close_reason()) {
                    (CloseReason::Io(_) | CloseReason::StdinClosed, Some(known)) => known,
                    _ => reason,
                };
                self.stage = Stage::Ended(reason.clone());
                self.shared.end(reason);
                true
            }
            _ => false,
        }
    }
}

impl<C: Channel, H: Handler> Future for Driver<C, H> {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = &mut *self;
        loop {
            if let Stage::Ended(reason) = &this.stage {
                return Poll::Ready(reason.clone());
            }
            let mut goes_on = this.poll_incoming(cx);
            this.inbound.poll(cx);
            let is_flushed = this.poll_outgoing(cx);
            goes_on |= this.inbound.can_resume();
            goes_on |= this.poll_stage(cx, is_flushed);
            // Resume reading if there is room again.
            goes_on |= this.overfull.is_some() && !this.is_overfull(cx);
            // A change made while the driver was awake did not wake it: check before sleeping.
            if !goes_on && this.shared.sleep(cx.waker()).is_ok() {
                return Poll::Pending;
            }
            ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
        }
    }
}

impl<C: Channel, H: Handler> Drop for Driver<C, H> {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Ended(_)) {
            self.shared.end(CloseReason::ByUs);
        }
    }
}

fn invalid_response(problem: InvalidProblem, message: &[u8]) -> CallError {
    CallError::InvalidResponse { problem, received: beginning(message).into() }
}

fn beginning(message: &[u8]) -> &[u8] {
    message.get(..BEGIN).unwrap_or(message)
}
