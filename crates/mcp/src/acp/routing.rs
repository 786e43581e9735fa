//! Which message goes to which stream.

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Answers, Dialect, Id, Message, Notification, classify, member, write_error, write_response,
};

use super::calls::{Call, Effect};
use super::connection::Initialize;
use super::streams::GENERAL;
use super::{AcpConnection, AcpHead};
use crate::Refusal;
use crate::text::string;

/// The methods of requests and notifications that belong to a session.
const OF_SESSION: [&str; 10] = [
    "session/cancel",
    "session/close",
    "session/delete",
    "session/fork",
    "session/load",
    "session/prompt",
    "session/resume",
    "session/set_config_option",
    "session/set_mode",
    "session/set_model",
];

/// The prefix of the methods of the protocol itself, which belong to no session.
const OF_PROTOCOL: &str = "$/";

const CANCEL: &str = "$/cancel_request";

/// The dialect of messages from agents, which may omit the version and may send batches.
const LENIENT: Dialect = {
    let mut lenient = Dialect::ACP;
    (lenient.version, lenient.batches) = (false, true);
    lenient
};

/// The code of the error for an invalid response of the agent.
const INVALID_RESPONSE: i64 = -31001;

/// Returns the session of a request or notification of the client.
///
/// # Errors
/// 400: the header with the session is missing, or names another session than the parameters.
pub(super) fn session_of(
    head: &AcpHead,
    method: &str,
    params: Option<&[u8]>,
) -> Result<Option<Box<str>>, Refusal> {
    if method.starts_with(OF_PROTOCOL) {
        return Ok(None);
    }
    let named = params.and_then(|params| string(member(params, "sessionId")?));
    match (head.session(), named) {
        (Some(header), Some(named)) if *header != *named => {
            let text = "the header Acp-Session-Id names another session than the message";
            Err(Refusal::invalid(text))
        }
        (Some(header), _) => Ok(Some(header.into())),
        (None, None) if !OF_SESSION.contains(&method) => Ok(None),
        (None, _) => {
            let text = "the header Acp-Session-Id is missing; the message belongs to a session";
            Err(Refusal::invalid(text))
        }
    }
}

impl AcpConnection {
    /// Routes a message of the agent. Returns the streams that it went to.
    ///
    /// Each message goes to one stream:
    /// - A response goes to the stream of its request's session, if that has one. The responses to `session/new`
    ///   and `session/load` go to the stream of the connection.
    /// - A request or notification goes to the stream of the session that it names, or that of the request that it
    ///   names.
    /// - Any other message goes to the stream of the connection.
    pub fn from_program(&mut self, message: Bytes) -> Vec<u64> {
        let mut touched = Vec::with_capacity(1);
        match classify(message, &LENIENT, Limits::default()) {
            Message::Batch(messages) => {
                messages.iter().for_each(|it| self.route(it, true, &mut touched));
            }
            message => self.route(&message, false, &mut touched),
        }
        touched
    }

    fn route(&mut self, message: &Message, is_in_batch: bool, touched: &mut Vec<u64>) {
        let number = match message {
            Message::Response(response) => {
                let outcome = response.outcome();
                let text = |id: &Id| match !is_in_batch && **id == *response.id() {
                    true => message.alone(&Dialect::ACP, false, Limits::default()),
                    false => write_response(&Dialect::ACP, id, outcome).into(),
                };
                touched.extend(self.answered(response.answers(), outcome.ok(), text));
                return;
            }
            Message::Invalid(invalid) => {
                let error = |id: &Id| {
                    let text = invalid.instead_of_response();
                    write_error(&Dialect::ACP, id, INVALID_RESPONSE, &text, None).into()
                };
                for answers in invalid.answers() {
                    touched.extend(self.answered(answers, None, error));
                }
                return;
            }
            Message::Request(request) => {
                let number = self.related(request.params());
                self.calls.ask(request.id(), number, &self.limits);
                number
            }
            Message::Notification(notification) => self.of_notification(notification),
            Message::Batch(_) => return,
        };
        let text = message.alone(&Dialect::ACP, is_in_batch, Limits::default());
        self.streams.push(number, text, &self.limits);
        touched.push(number);
    }

    /// Handles a response, whose text depends on the id as the client wrote it. Returns the stream that it went
    /// to.
    fn answered(
        &mut self,
        answers: Answers<'_>,
        result: Option<&[u8]>,
        text: impl Fn(&Id) -> Bytes,
    ) -> Option<u64> {
        if let Initialize::Waiting { id, .. } = &self.initialize {
            if answers.find([((), &**id)]).is_some() {
                let (response, is_success) = (text(id), result.is_some());
                self.initialize = Initialize::Answered { response, is_success };
                return None;
            }
        }
        let (id, call) = self.calls.settle(answers)?;
        let session = self.apply(&call, result);
        let is_closed = call.effect == Effect::Closes && result.is_some();
        // The stream of a session that is closed may be removed, unless a client reads it.
        let is_usable = |number: &u64| !is_closed || self.streams.is_connected(*number);
        let number = session.filter(is_usable).filter(|_| call.effect != Effect::Loads);
        let number = number.unwrap_or(GENERAL);
        self.streams.push(number, text(&id), &self.limits);
        if let (Some(session), true) = (session, is_closed) {
            self.streams.forget_session(session);
        }
        Some(number)
    }

    /// Records what a response means for the sessions. Returns the stream of the request's session.
    fn apply(&mut self, call: &Call, result: Option<&[u8]>) -> Option<u64> {
        match (call.effect, &call.session, result) {
            (Effect::Opens, _, Some(result)) => {
                if let Some(new) = member(result, "sessionId").and_then(string) {
                    self.streams.confirm(&new, &self.limits);
                }
            }
            (Effect::Loads | Effect::Resumes, Some(session), Some(_)) => {
                self.streams.confirm(session, &self.limits);
            }
            _ => {}
        }
        self.streams.of_session(call.session.as_deref()?)
    }

    /// Returns the stream for a notification of the agent.
    fn of_notification(&mut self, notification: &Notification) -> u64 {
        let (method, params) = (notification.method(), notification.params());
        if !method.starts_with(OF_PROTOCOL) {
            return self.related(params);
        }
        // A cancellation must not overtake the request.
        let canceled = params.filter(|_| method == CANCEL);
        let canceled = canceled.and_then(|params| member(params, "requestId"));
        let number = canceled.and_then(|id| self.calls.asked(id));
        number.filter(|it| self.streams.contains(*it)).unwrap_or(GENERAL)
    }

    /// Returns the stream for a message with these parameters.
    fn related(&mut self, params: Option<&[u8]>) -> u64 {
        let Some(params) = params else { return GENERAL };
        if let Some(session) = member(params, "sessionId").and_then(string) {
            return self.streams.confirm(&session, &self.limits);
        }
        let call = member(params, "requestId").and_then(|id| self.calls.get(id));
        let session = call.and_then(|call| call.session.as_deref());
        session.and_then(|it| self.streams.of_session(it)).unwrap_or(GENERAL)
    }
}
