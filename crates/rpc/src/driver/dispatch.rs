//! The dispatch of received messages.

use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    Answers, CallId, INVALID_REQUEST, Invalid, InvalidProblem, Message, Notification, Outline,
    PARSE_ERROR, Response, answers_in_text, classify, write_error,
};
use tieline_proto::{Fault, jsonrpc};
use tieline_transport::Channel;

use super::Driver;
use crate::batch::Batch;
use crate::error::{CallError, ErrorObject};
use crate::handler::Handler;
use crate::inbound::contain;

/// How many bytes of an invalid message are logged or shown in an error.
const BEGIN: usize = 200;

impl<C: Channel, H: Handler> Driver<C, H> {
    pub(super) fn message(&mut self, message: Bytes, cx: &mut Context<'_>) {
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
        let message = match message {
            Message::Response(response) => return self.response(response),
            other => other,
        };
        // Everything else may depend on the responses before it.
        self.shared.deliver(&mut self.responses);
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
            Message::Invalid(invalid) => self.invalid(&invalid, batch),
            // Responses are handled above, and batches do not nest.
            Message::Response(_) | Message::Batch(_) => {}
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
        let call = CallId::parse(response.id()).or_else(|| {
            self.shared.deliver(&mut self.responses);
            self.shared.find(response.answers())
        });
        let answer = match response.outcome().map_err(ErrorObject::parse) {
            Ok(_) => Ok(response),
            Err(Ok(error)) => Err(CallError::Remote(error)),
            Err(Err(_)) => {
                Err(invalid_response(InvalidProblem::Wrong("error"), response.message()))
            }
        };
        self.responses.push(call, answer);
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
        if is_first || (is_answerable && !std::mem::replace(&mut self.has_logged_invalid, true)) {
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
    pub(super) fn fault(&mut self, fault: &Fault) {
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
            // If the text is not JSON, its id is unknown (JSON-RPC 2.0 Specification, section 5).
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

    /// Fails the calls that an invalid response belongs to. Returns false if there are none.
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

    /// Sends an error for a message that was not carried out. Errors without an id are rate-limited.
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
}

fn invalid_response(problem: InvalidProblem, message: &[u8]) -> CallError {
    CallError::InvalidResponse { problem, received: beginning(message).into() }
}

fn beginning(message: &[u8]) -> &[u8] {
    message.get(..BEGIN).unwrap_or(message)
}
