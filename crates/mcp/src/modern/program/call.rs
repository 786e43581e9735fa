//! A request, and the messages that wait for its connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::jsonrpc::{Id, MAX_ID, locate};

use super::ModernAnswer;
use super::listening::Listening;
use crate::modern::capabilities::{Capabilities, Level};
use crate::modern::request::ModernRequest;

/// The cost of each message in addition to its bytes.
const EACH: usize = 64;

/// A request of a client.
#[derive(Debug)]
pub(super) struct Call {
    id: Id,
    pub(super) method: String,
    /// The request, until it is passed to the program.
    request: Option<ModernRequest>,
    /// The progress token that the client has chosen.
    pub(super) token: Option<Id>,
    pub(super) level: Option<Level>,
    pub(super) can: Capabilities,
    pub(super) may_need_input: bool,
    /// Whether the request asks for the first page of a list.
    pub(super) is_first_page: bool,
    /// The capability that the client has not declared, if a request from a program of an earlier
    /// version was refused because of it.
    pub(super) denied: Option<&'static [u8]>,
    /// The notifications that the request listens to, if the program is of an earlier version.
    listening: Option<Listening>,
    /// Whether the request has to be posted again, to another program.
    pub(super) is_elsewhere: bool,
    events: VecDeque<Bytes>,
    /// The status of the response, once there is one, or 0 if there will be none.
    status: Option<u16>,
    /// Whether the response is an event stream.
    is_stream: bool,
    json_until: Duration,
    held: usize,
}

impl Call {
    pub(super) fn new(request: ModernRequest, json_until: Duration) -> Self {
        let token = locate(request.params(), &["_meta", "progressToken"]).ok().flatten();
        Self {
            id: request.id().into(),
            method: request.method.clone(),
            token: token.filter(|token| token.len() <= MAX_ID).map(Id::from),
            level: request.level,
            can: request.can,
            may_need_input: request.may_need_input(),
            is_first_page: locate(request.params(), &["cursor"]) == Ok(None),
            denied: None,
            listening: None,
            is_elsewhere: false,
            events: VecDeque::new(),
            status: None,
            is_stream: false,
            json_until,
            held: request.length() + EACH,
            request: Some(request),
        }
    }

    pub(super) fn id(&self) -> &[u8] {
        &self.id
    }

    /// Takes the request, to pass it to the program.
    pub(super) fn take_request(&mut self) -> Option<ModernRequest> {
        let request = self.request.take()?;
        self.held -= request.length() + EACH;
        Some(request)
    }

    pub(super) fn request(&self) -> Option<&ModernRequest> {
        self.request.as_ref()
    }

    pub(super) fn listening(&self) -> Option<&Listening> {
        self.listening.as_ref()
    }

    pub(super) fn listen(&mut self, listening: Listening) {
        self.held += listening.held();
        self.listening = Some(listening);
    }

    pub(super) fn take_listening(&mut self) -> Option<Listening> {
        let listening = self.listening.take()?;
        self.held -= listening.held();
        Some(listening)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.request.is_none() && self.is_open()
    }

    /// Returns whether it waits for its response here.
    pub(super) fn is_open(&self) -> bool {
        !self.is_done() && !self.is_elsewhere
    }

    pub(super) fn is_done(&self) -> bool {
        self.status.is_some()
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Returns how many messages wait for the connection.
    pub(super) fn waiting(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.held += message.len() + EACH;
        self.events.push_back(message);
        self.is_stream = true;
    }

    pub(super) fn respond(&mut self, status: u16, message: Bytes) {
        self.held += message.len() + EACH;
        self.events.push_back(message);
        self.status = Some(status);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.held -= event.len() + EACH;
        Some(event)
    }

    pub(super) fn give_up(&mut self) {
        self.events.clear();
        self.request = None;
        self.held = 0;
        (self.status, self.is_stream) = (Some(0), true);
    }

    pub(super) fn answer(&mut self, now: Duration) -> ModernAnswer {
        if self.is_elsewhere {
            return ModernAnswer::Elsewhere;
        }
        self.is_stream |= now >= self.json_until;
        match self.status {
            _ if self.is_stream => ModernAnswer::Events,
            Some(status) => match self.pop() {
                Some(body) => ModernAnswer::Json(status, body),
                None => ModernAnswer::Events,
            },
            None => ModernAnswer::Wait(self.json_until),
        }
    }
}
