//! The future that owns the line: reads, hands over, writes, and ends.

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
use crate::inbound::{Inbound, contain};
use crate::instead::instead_of;
use crate::shared::Shared;
use crate::{CallError, ErrorObject, Handler, Peer};

/// Everything that a peer's line does happens while this is awaited: spawn it, or await it beside
/// the calls. It ends when the line has ended, and says why.
///
/// Dropping it ends the line and what stands behind it at once; calls that wait end as not sent or
/// unknown, and handlers that run are dropped.
#[must_use = "nothing moves on the line unless its driver is awaited"]
pub struct Driver<C: Channel, H: Handler> {
    sender: C::Sender,
    receiver: C::Receiver,
    control: Control,
    inbound: Inbound<H>,
    shared: Arc<Shared>,
    stage: Stage,
    /// A message that the sender had no room for yet.
    unsent: Option<crate::shared::Outgoing>,
    /// Runs while the other side's notifications are too many to be taken.
    overfull: Option<Pin<Box<Sleep>>>,
    /// Whether this side carries out requests.
    serves: bool,
    /// Whether a message that cannot be read is a client's, and answered: a side that has called gets
    /// answers, and whatever else a program prints. The same for all of a batch.
    answers_unreadable: bool,
    /// How many errors without an id may be sent.
    allowance: Allowance,
    /// Something came that is no message, and it was logged.
    has_told_invalid: bool,
}

enum Stage {
    Open,
    /// Nothing new is taken; what is under way may end until the time is over.
    Closing(Pin<Box<Sleep>>),
    /// The other side will say no more; what it asked for is still answered.
    Answering(CloseReason, Option<Pin<Box<Sleep>>>),
    /// This direction is being ended, and what stands behind the line.
    Stopping(Stopping),
    Ended(CloseReason),
}

struct Stopping {
    reason: CloseReason,
    stopped: BoxFuture<'static, CloseReason>,
    ends: Ends,
    /// How long it is waited for.
    grace: Option<Pin<Box<Sleep>>>,
}

/// What is waited for before what stands behind the line is stopped.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// Nothing.
    AtOnce,
    /// That all was written, the end of this direction included.
    Flushed,
    /// That the other side ends its direction.
    ByTheirEnd,
}

/// Nothing in it is pinned in place.
impl<C: Channel, H: Handler> Unpin for Driver<C, H> {}

/// So many bytes of what is no message are logged, or shown in an error.
const BEGIN: usize = 200;

/// After so many messages, what they caused is written before more are read.
///
/// The other side can begin on the first answers while the rest are made, if there is a core for it.
/// Where there is none, a write more is only a switch more. (64 calls in flight between two cores:
/// 205 k/s in one go, 540 k/s by sixteens; on one core 420 k/s in one go, 310 k/s by 32.)
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

    /// Takes what has come in. True if there may be more.
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

    /// More notifications wait than may, or the other side reads none of its refusals: reading
    /// stops, for as long as a write may make no progress, and then the line ends.
    ///
    /// The answers to what was carried out do not count. Two sides that wait for each other to read
    /// them would wait for ever; instead no more is started until they have left.
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
                let closing = "the line is being closed";
                let dialect = &self.shared.options.dialect;
                let id = request.id();
                let answer = write_error(dialect, id, jsonrpc::OVERLOADED, closing, None);
                self.reply(answer, batch);
            }
            Message::Request(request) => self.inbound.request(request, batch.cloned()),
            Message::Notification(notification) => self.notification(notification),
            Message::Response(response) => self.response(response),
            Message::Invalid(invalid) => self.invalid(&invalid, batch),
            // There is no batch in a batch.
            Message::Batch(_) => {}
        }
        // At once, so that what many requests of one read wait for is not each other.
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
            tracing::warn!("a message that is not JSON-RPC was dropped: {problem}: {begin:?}");
        }
        if is_answerable {
            self.reply_error(invalid.id(), invalid.code(), &invalid.problem().to_string(), batch);
        }
    }

    /// A message was discarded. If it was an answer its call fails; if it may have been a request the other
    /// side is told.
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
            // The id of what is not JSON counts as unknown (JSON-RPC 2.0 Specification, section 5).
            let id = outline.id().filter(|_| outline.is_call() && code == INVALID_REQUEST);
            if id.is_some() || self.answers_unreadable {
                self.reply_error(id.unwrap_or(b"null"), code, &fault.to_string(), None);
            } else {
                self.shared.unreadable();
            }
        }
        // Its panic costs what it was told, and nothing else.
        let _ = contain(|| self.inbound.handler().fault(fault));
    }

    /// Fails the calls that a message answers which is no valid response. False if there is none.
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

    /// Answers what is not carried out; no more often than is allowed where no request is known that
    /// waits for it.
    fn reply_error(&mut self, id: &[u8], code: i64, text: &str, batch: Option<&Arc<Batch>>) {
        if batch.is_none() && id == b"null" && !self.allowance.take() {
            if self.shared.unreadable() {
                tracing::warn!(
                    "too many messages that cannot be read: they are no longer answered"
                );
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

    /// Writes what is queued. True when all of it was handed to the operating system.
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

    /// An answer that the line does not carry is replaced by one that says so.
    fn refused(&mut self, refused: &Refused) {
        let Refused { message, error } = refused;
        tracing::warn!("a message was not sent: {error}");
        for answer in instead_of(message, error, &self.shared.options.dialect) {
            if self.sender.start_send(answer.into()).is_ok() {
                return;
            }
        }
    }

    /// The other side reads no more. What it still says may tell why the line ended.
    fn cannot_send(&mut self, error: SendError) -> bool {
        let SendError::Closed(reason) = error else { return true };
        self.stop(*reason);
        true
    }

    /// Another line has come in place of the one that was lost.
    fn reset(&mut self, reset: Reset, cx: &mut Context<'_>) {
        if let Some(unsent) = self.unsent.take() {
            self.shared.put_down(&unsent);
        }
        self.shared.reset(reset.epoch, &reset.cause);
        self.inbound.reset(reset);
        self.inbound.poll(cx);
    }

    /// The other side says no more. No call of ours can be answered any more.
    fn no_more(&mut self, reason: CloseReason) {
        if reason.is_clean() {
            // First, or a call that is made meanwhile would wait for ever.
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

    /// Whether nothing is left to be done on either side.
    fn is_idle(&self) -> bool {
        self.unsent.is_none() && self.inbound.is_idle() && self.shared.is_idle()
    }

    /// Moves on to the next stage of the end, if it is time. True if it was.
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
                    // Its stages begin with the end of its input.
                    Some(_) => Ends::AtOnce,
                    // It may be busy with what it was told last.
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
                // What is told while requests are carried out belongs to them. With the last one
                // answered nothing new is taken, or who tells much would keep the line.
                if self.inbound.is_idle() && !self.shared.is_closing() {
                    self.shared.begin_close();
                }
                // Handlers have all the time that the other side waits, unless this side wants an end.
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
                // What stands behind is stopped also when it does not take the end of its input.
                let is_closed = self.sender.poll_close(cx).is_ready();
                // And it must not block on what nobody reads.
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
            // Reading that was held up goes on, now that there is room.
            goes_on |= this.overfull.is_some() && !this.is_overfull(cx);
            // What a handle changed meanwhile did not wake us: we were not asleep.
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
