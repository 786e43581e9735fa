//! Messages for the server: what they are, when they are sent, and in which requests.

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Dialect, INVALID_REQUEST, Id, Message, Request, classify, locate, member, write_error,
    write_request,
};
use tieline_proto::{ExchangeMethod, ExchangeRequest, ExchangeStep};

use super::failure::Failure;
use super::headers;
use super::stream::{NOTIFICATION, Stream, Task};
use super::{Owed, Remote};
use crate::modern::meta;

/// A message for the server.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) message: Bytes,
    /// The ids of its requests. Only a batch has several.
    pub(super) ids: Vec<Id>,
    pub(super) sort: Sort,
    pub(super) is_modern: bool,
    /// Whether it is sent once more, because the server no longer had its session.
    pub(super) is_repeated: bool,
}

/// What a message is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// The host's `initialize`.
    Initialize,
    /// Our own `initialize`, for a session that the server has lost.
    Reopen,
    /// A request of our own that restores what the lost session had.
    Restore,
    /// `tools/list`, and whether it asks for the first page.
    Tools { is_first: bool },
    /// `logging/setLevel`.
    Level,
    /// `resources/subscribe` and `resources/unsubscribe`.
    Subscribe { is_end: bool },
    /// `subscriptions/listen`.
    Listen,
    /// Any other request, and a batch with requests.
    Request,
    /// `notifications/initialized`.
    Initialized,
    /// Other notifications.
    Notification,
    /// A response.
    Response,
}

impl Sort {
    fn of(request: &Request) -> Self {
        let params = request.params().unwrap_or_default();
        match &*request.method() {
            "initialize" => Self::Initialize,
            "tools/list" => Self::Tools { is_first: member(params, "cursor").is_none() },
            "logging/setLevel" => Self::Level,
            "resources/subscribe" => Self::Subscribe { is_end: false },
            "resources/unsubscribe" => Self::Subscribe { is_end: true },
            "subscriptions/listen" => Self::Listen,
            _ => Self::Request,
        }
    }

    /// Returns whether the messages after this one have to wait until the server has it.
    fn is_first_to_arrive(self) -> bool {
        matches!(self, Self::Initialized | Self::Notification)
    }
}

/// Returns whether parameters name a protocol version, as all of version 2026-07-28 do.
fn is_modern(params: Option<&[u8]>) -> bool {
    let version = locate(params.unwrap_or_default(), &["_meta", meta::PROTOCOL_VERSION]);
    version != Ok(None)
}

impl Outgoing {
    pub(super) fn new(message: Bytes, ids: Vec<Id>, sort: Sort) -> Self {
        Self { message, ids, sort, is_modern: false, is_repeated: false }
    }

    /// Returns the request to send.
    fn request(&self, remote: &Remote) -> ExchangeRequest {
        let mut headers = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("accept".to_owned(), "application/json, text/event-stream".to_owned()),
        ];
        match self.is_modern {
            true => headers.extend(headers::of(&self.message, &remote.tools)),
            false if matches!(self.sort, Sort::Initialize | Sort::Reopen) => {}
            false => headers.extend(remote.session.headers()),
        }
        ExchangeRequest { method: ExchangeMethod::Post, headers, body: self.message.clone() }
    }
}

impl Remote {
    /// Takes a message for the server.
    pub(super) fn queue(&mut self, message: Bytes) {
        let (mut ids, mut sort, mut modern) = (Vec::new(), Sort::Response, false);
        let read = classify(message.clone(), &Dialect::MCP_2025_03_26, Limits::default());
        match &read {
            Message::Request(request) => {
                ids.push(Id::from(request.id()));
                (sort, modern) = (Sort::of(request), is_modern(request.params()));
            }
            Message::Notification(notification) => {
                modern = is_modern(notification.params());
                sort = match &*notification.method() {
                    "notifications/initialized" => Sort::Initialized,
                    "notifications/cancelled" if !self.cancel(notification) => return,
                    _ => Sort::Notification,
                };
            }
            Message::Response(response) => {
                self.asked.remove(&Id::from(response.id()));
            }
            Message::Batch(messages) => {
                let requests = messages.iter().filter_map(|message| match message {
                    Message::Request(request) => Some(Id::from(request.id())),
                    _ => None,
                });
                ids.extend(requests);
                if !ids.is_empty() {
                    sort = Sort::Request;
                }
            }
            Message::Invalid(invalid) if invalid.is_response() => {
                return self.warn(format!(
                    "an invalid response of the client was not sent: {}",
                    invalid.problem()
                ));
            }
            Message::Invalid(invalid) => {
                let text = invalid.problem().to_string();
                let error = write_error(&Dialect::MCP, invalid.id(), invalid.code(), &text, None);
                return self.steps.push_back(ExchangeStep::Deliver(error.into()));
            }
        }
        if let Some(failure) = self.unacceptable(&ids, sort) {
            for id in &ids {
                self.fail(id, &failure);
            }
            return;
        }
        if sort == Sort::Initialized {
            self.session.initialized = Some(message.clone());
        }
        if self.session.is_lost && !modern && sort != Sort::Initialize {
            self.reopen();
        }
        self.outgoing
            .push_back(Outgoing { is_modern: modern, ..Outgoing::new(message, ids, sort) });
    }

    fn unacceptable(&self, ids: &[Id], sort: Sort) -> Option<Failure> {
        let is_used = |id: &Id| {
            self.owed.contains_key(id) || self.outgoing.iter().any(|it| it.ids.contains(id))
        };
        if ids.iter().any(is_used) {
            let text = "another request with this id has no response yet";
            return Some(Failure::new(INVALID_REQUEST, text));
        }
        let has_begun =
            self.session.has_begun() || self.outgoing.iter().any(|it| it.sort == Sort::Initialize);
        if sort == Sort::Initialize && has_begun {
            return Some(Failure::new(INVALID_REQUEST, "the session is already initialized"));
        }
        let limit = self.limits.requests;
        let waiting: usize = self.outgoing.iter().map(|it| it.ids.len()).sum();
        (self.owed.len() + waiting + ids.len() > limit).then(|| {
            let text = format!("too many requests have no response yet (the limit is {limit})");
            Failure::new(-31503, text)
        })
    }

    /// Starts the requests whose turn it is.
    pub(super) fn start_outgoing(&mut self) {
        while let Some(outgoing) = self.next_outgoing() {
            let number = self.number();
            for id in &outgoing.ids {
                let owed = Owed {
                    stream: number,
                    sort: outgoing.sort,
                    is_modern: outgoing.is_modern,
                    is_cancelled: false,
                };
                self.owed.insert(id.clone(), owed);
            }
            if outgoing.sort == Sort::Initialize {
                self.begin(&outgoing.message);
            }
            let request = outgoing.request(self);
            let session = self.session.id.clone();
            let mut stream = Stream::new(Task::Post(outgoing), session);
            stream.give_up_at = stream.is_post().then(|| self.now + NOTIFICATION);
            self.streams.insert(number, stream);
            self.steps.push_back(ExchangeStep::Start(number, request));
        }
    }

    fn next_outgoing(&mut self) -> Option<Outgoing> {
        let is_busy = self.streams.values().any(|stream| match stream.task() {
            Task::Post(outgoing) => outgoing.sort.is_first_to_arrive() && stream.is_unanswered(),
            _ => false,
        });
        let is_opening = self.session.is_opening();
        let may_start = |it: &Outgoing| match it.sort {
            Sort::Reopen => true,
            Sort::Initialize | Sort::Response => !is_opening,
            _ if it.is_modern => true,
            _ => !is_busy && !is_opening,
        };
        // A response need not wait for messages before it: the server may be waiting for it.
        let at = self.outgoing.iter().enumerate().find_map(|(at, it)| {
            (may_start(it) && (at == 0 || it.sort == Sort::Response)).then_some(at)
        })?;
        self.outgoing.remove(at)
    }

    /// Sends a POST again.
    pub(super) fn post_again(&mut self, number: u64, outgoing: &Outgoing) {
        let request = outgoing.request(self);
        self.steps.push_back(ExchangeStep::Start(number, request));
    }

    /// Answers a request of the server that the host cannot answer.
    pub(super) fn refuse(&mut self, id: &[u8]) {
        let text = "the client has ended its input and cannot answer";
        let error = write_error(&Dialect::MCP, id, -31000, text, None);
        self.outgoing.push_back(Outgoing::new(error.into(), Vec::new(), Sort::Response));
    }

    /// Returns the message of a request of our own.
    pub(super) fn own_request(&mut self, params: &[u8], method: &str, sort: Sort) -> Outgoing {
        let id = format!("\"tieline-own-{}\"", self.number());
        let request = write_request(&Dialect::MCP, id.as_bytes(), method, Some(params));
        Outgoing::new(request.into(), vec![Id::from(id.as_bytes())], sort)
    }
}
