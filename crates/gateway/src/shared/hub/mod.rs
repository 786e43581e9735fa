//! The state machine of a program that several clients share. It has no I/O.
//!
//! ```text
//!   client 1: id "a" ──▶ id 1 ──▶ ┌─────────┐     requests get ids of the hub's own, and the responses the
//!   client 2: id "a" ──▶ id 2 ──▶ │ program │     ids of the clients, byte for byte
//!   client 2 ◀── id "a" ◀── id 2  └─────────┘
//! ```
//!
//! Ids in cancellations and progress tokens are replaced as well. The handshake happens once
//! ([`opening`]), a subscription once for all its clients ([`things`]), and the program's log level is
//! the most verbose that a client wants ([`level`]). The program's messages are routed by
//! [`from_program`].

mod asked;
mod batches;
mod client;
mod from_program;
mod level;
mod name;
mod opening;
#[cfg(test)]
mod tests;
mod things;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Answers, CallId, Calls, Dialect, DialectState, DoubledMember, Handshake, INTERNAL_ERROR,
    INVALID_REQUEST, Id, MAX_ID, Message, Notification, Request, Response, SharingRules, classify,
    elements, locate, write_error, write_result,
};
use tieline_transport::WarnThrottle;

use asked::{Asked, AskedTable};
use batches::{BatchId, Batches};
use client::Client;
use name::Name;
use opening::{Opening, Stage};
use things::Things;

/// How many requests from one client may be in flight. Further ones are answered with an error.
pub(super) const MAX_CALLS: usize = 1024;
/// How many bytes the ids and tokens of these requests may have in total.
const MAX_ID_BYTES: usize = 256 * 1024;
/// How many bytes of a client's requests may wait in the hub for the response to another client's
/// request.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// How many requests from the program may wait for clients.
const MAX_ASKED: usize = 1024;
/// With more calls in flight than this, a response is not matched to a call if its id is spelled
/// differently.
const MAX_COMPARED: usize = 1024;
/// How many of the hub's own requests may wait for the program. Beyond that the oldest one is forgotten.
const MAX_OWN: usize = 1024;

/// The number of a client of this hub. It is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientId(u64);

/// An action that the hub requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Send this to the program.
    Program(Bytes),
    /// Send this error response to the program, unless too many of them wait already.
    Refusal(Bytes),
    /// Send this to the client.
    Client(ClientId, Bytes),
    /// The client has ended its input, and nothing is left to be sent to it.
    Done(ClientId),
    /// The hub holds this number of bytes for the client. Sent when it has changed by 64 KiB or more.
    Held(ClientId, usize),
}

/// The state machine of a shared program.
pub(super) struct Hub {
    dialect: Dialect,
    rules: &'static SharingRules,
    clients: BTreeMap<ClientId, Client>,
    last: u64,
    calls: Calls<Call>,
    asked: AskedTable,
    /// The hub's own requests, which no client waits for, the oldest first. Some have a response already.
    own: VecDeque<CallId>,
    opening: Opening,
    things: Things,
    /// The level that was last requested from the program, as an index.
    level: Option<usize>,
    batches: Batches,
    out: VecDeque<Output>,
    not_json: WarnThrottle,
}

/// The destination of the response to a request.
#[derive(Clone, Debug)]
struct ReplyTo {
    client: ClientId,
    id: Id,
    batch: Option<BatchId>,
}

/// A request that was sent to the program.
struct Call {
    /// `None` if the hub has made the request, or if its client has left.
    reply: Option<ReplyTo>,
    token: Option<Id>,
    kind: Kind,
}

/// The effect of a response.
enum Kind {
    Plain,
    /// The result is tagged with the id.
    Listening,
    Opening,
    Subscribing(Name),
    Level,
}

impl Hub {
    /// Creates the hub of a new program. `rules` are those of `dialect`.
    pub(super) fn new(dialect: Dialect, rules: &'static SharingRules) -> Self {
        Self {
            dialect,
            rules,
            clients: BTreeMap::new(),
            last: 0,
            calls: Calls::default(),
            asked: AskedTable::default(),
            own: VecDeque::new(),
            opening: Opening::default(),
            things: Things::default(),
            level: None,
            batches: Batches::default(),
            out: VecDeque::new(),
            not_json: WarnThrottle::new(|count| {
                tracing::warn!(count, "the program wrote more output that is not JSON");
            }),
        }
    }

    /// Returns the next action.
    pub(super) fn output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Returns the number of bytes that the hub holds for all clients together: the result of the handshake, what
    /// they have open, and the program's requests.
    pub(super) fn held(&self) -> usize {
        self.opening.held() + self.things.held() + self.asked.held()
    }

    /// Adds a client.
    pub(super) fn join(&mut self) -> ClientId {
        self.last += 1;
        let client = ClientId(self.last);
        let mut new = Client::default();
        if self.handshake().is_none() {
            new.stage = Stage::Opened { is_confirmed: true };
        }
        self.clients.insert(client, new);
        client
    }

    /// Removes a client. Its calls are cancelled, and the program's requests to it are answered with an error.
    pub(super) fn leave(&mut self, client: ClientId) {
        let Some(left) = self.clients.remove(&client) else { return };
        for id in left.calls {
            self.abandon(id);
        }
        self.batches.forget(client);
        self.opening.forget(client);
        self.forget_things(client, left.things, left.waits);
        let asked: Vec<Bytes> = self.asked.of(client).cloned().collect();
        for id in asked {
            self.asked.remove(&id);
            let why = "the client has disconnected";
            let error = write_error(&self.dialect, &id, INTERNAL_ERROR, why, None);
            self.out.push_back(Output::Program(error.into()));
        }
        self.follow_level();
    }

    /// Records that the client has ended its input. [`Output::Done`] follows when its requests are
    /// answered.
    pub(super) fn input_ended(&mut self, client: ClientId) {
        if let Some(it) = self.clients.get_mut(&client) {
            it.has_ended_input = true;
        }
        self.check_done(client);
    }

    fn check_done(&mut self, client: ClientId) {
        let Some(it) = self.clients.get_mut(&client) else { return };
        if it.has_ended_input && it.calls.is_empty() && it.waiting == 0 {
            it.has_ended_input = false;
            self.out.push_back(Output::Done(client));
        }
    }

    /// Handles a message from a client.
    pub(super) fn client_message(&mut self, client: ClientId, message: Bytes) {
        if !self.clients.contains_key(&client) {
            // The client was disconnected while its last messages waited.
            return;
        }
        match self.classify(message.clone(), self.dialect.batches) {
            Message::Batch(messages) => {
                let requests = messages.iter().filter(|it| matches!(it, Message::Request(_)));
                let batch = self.batches.begin(client, requests.count());
                for element in elements(&message).unwrap_or_default() {
                    let element = self.classify(element, false);
                    self.one_client_message(client, element, batch);
                }
            }
            one => self.one_client_message(client, one, None),
        }
    }

    fn one_client_message(&mut self, client: ClientId, message: Message, batch: Option<BatchId>) {
        match message {
            Message::Request(request) => {
                let reply = ReplyTo { client, id: request.id().into(), batch };
                self.request(reply, request);
            }
            Message::Notification(notification) => self.notification(client, &notification),
            Message::Response(response) => self.outcome(client, &response),
            Message::Invalid(invalid) if invalid.is_response() => {
                let why = format!("the client's response is invalid: {}", invalid.problem());
                self.refuse_outcome(client, invalid.id(), &why);
            }
            // The program would not know which client to answer, so the hub answers.
            Message::Invalid(invalid) => {
                let why = invalid.problem().to_string();
                let error = write_error(&self.dialect, invalid.id(), invalid.code(), &why, None);
                self.out.push_back(Output::Client(client, error.into()));
            }
            Message::Batch(_) => {}
        }
    }

    /// Classifies a message leniently, because the other side may do so, too.
    fn classify(&self, message: Bytes, batches: bool) -> Message {
        let mut dialect = self.dialect;
        (dialect.version, dialect.batches) = (false, batches);
        classify(message, &dialect, Limits::default())
    }

    fn handshake(&self) -> Option<&'static Handshake> {
        match self.dialect.state {
            DialectState::Handshake(rules) => Some(rules),
            _ => None,
        }
    }

    fn request(&mut self, reply: ReplyTo, request: Request) {
        let Some(client) = self.clients.get(&reply.client) else { return };
        if request.id() == b"null" {
            return self.refuse(&reply, INVALID_REQUEST, "the id of a request must not be null");
        }
        if client.id_bytes >= MAX_ID_BYTES {
            let why = format!(
                "the ids and progress tokens of the requests in flight are too long: the limit of {MAX_ID_BYTES} \
                 bytes is reached"
            );
            return self.refuse(&reply, self.dialect.gone, &why);
        }
        if client.calls.len() + client.waiting >= MAX_CALLS {
            let why = format!("too many requests in flight: the limit of {MAX_CALLS} is reached");
            return self.refuse(&reply, self.dialect.gone, &why);
        }
        let method = request.method().into_owned();
        if self.handshake().is_some_and(|rules| rules.request == method) {
            self.open(reply, request);
        } else if self.thing(&method).is_some() {
            self.about_thing(reply, request);
        } else if self.rules.level.is_some_and(|rules| rules.request == method) {
            self.set_level(reply, &request);
        } else if self.rules.listening.is_some_and(|rules| rules.request == method) {
            self.forward(reply, &request, Kind::Listening);
        } else {
            self.forward(reply, &request, Kind::Plain);
        }
    }

    /// Sends a client's request to the program, with an id of the hub's own. Returns false if it is refused.
    fn forward(&mut self, reply: ReplyTo, request: &Request, kind: Kind) -> bool {
        let Ok(token) = self.token(request) else {
            self.refuse(&reply, INVALID_REQUEST, "the progress token appears twice");
            return false;
        };
        if token.is_some_and(|token| token.len() > MAX_ID) {
            let why = format!("the progress token is longer than {MAX_ID} bytes");
            self.refuse(&reply, INVALID_REQUEST, &why);
            return false;
        }
        let number = reply.client;
        let Some(client) = self.clients.get_mut(&number) else { return false };
        client.id_bytes += reply.id.len() + token.map_or(0, <[u8]>::len);
        let id = self.calls.begin(Call { reply: Some(reply), token: token.map(Id::from), kind });
        client.calls.insert(id);
        self.out.extend(client.changed().map(|held| Output::Held(number, held)));
        let mut buffer = [0; 20];
        let id = id.digits(&mut buffer);
        let message = request.rewritten(id, token.map(|token| (token, id)));
        self.out.push_back(Output::Program(message));
        true
    }

    /// Sends a request of the hub itself. No client waits for the response.
    fn ask(&mut self, kind: Kind, write: impl FnOnce(&Dialect, &[u8]) -> Vec<u8>) {
        let id = self.calls.begin(Call { reply: None, token: None, kind });
        self.own.push_back(id);
        if self.own.len() > MAX_OWN {
            let oldest = self.own.pop_front();
            oldest.into_iter().for_each(|id| drop(self.calls.end(id)));
        }
        let message = write(&self.dialect, id.digits(&mut [0; 20]));
        self.out.push_back(Output::Program(message.into()));
    }

    /// Returns the progress token of a request, if it has one that a program can send back.
    fn token<'a>(&self, request: &'a Request) -> Result<Option<&'a [u8]>, DoubledMember> {
        let (Some(style), Some(params)) = (self.dialect.progress, request.params()) else {
            return Ok(None);
        };
        let token = locate(params, &[style.meta, style.token])?;
        Ok(token.filter(|it| matches!(it.first(), Some(b'"' | b'-' | b'0'..=b'9'))))
    }

    /// Counts a request that waits in the hub. Returns false if it is refused.
    fn begin_wait(&mut self, reply: &ReplyTo, request: &Request) -> bool {
        let Some(client) = self.clients.get_mut(&reply.client) else { return false };
        let bytes = client.waiting_bytes + request.message().len();
        // The first request may have any length.
        if client.waiting > 0 && bytes > MAX_WAITING_BYTES {
            let why = format!(
                "too many requests wait for other clients: the limit of {MAX_WAITING_BYTES} bytes is reached"
            );
            self.refuse(reply, self.dialect.gone, &why);
            return false;
        }
        client.waiting += 1;
        client.waiting_bytes = bytes;
        self.out.extend(client.changed().map(|held| Output::Held(reply.client, held)));
        true
    }

    /// Counts a request that waits no longer. Returns false if its client has left.
    fn end_wait(&mut self, reply: &ReplyTo, request: &Request) -> bool {
        let Some(client) = self.clients.get_mut(&reply.client) else { return false };
        client.waiting -= 1;
        client.waiting_bytes -= request.message().len();
        self.out.extend(client.changed().map(|held| Output::Held(reply.client, held)));
        true
    }

    /// Removes a call from those in flight.
    fn end(&mut self, id: CallId) -> Option<Call> {
        let call = self.calls.end(id)?;
        if let Some(reply) = &call.reply {
            self.release(id, reply, call.token.as_deref());
        }
        Some(call)
    }

    /// Removes a call from those of its client.
    fn release(&mut self, id: CallId, reply: &ReplyTo, token: Option<&[u8]>) {
        if let Some(client) = self.clients.get_mut(&reply.client) {
            client.calls.remove(&id);
            client.id_bytes -= reply.id.len() + token.map_or(0, <[u8]>::len);
            self.out.extend(client.changed().map(|held| Output::Held(reply.client, held)));
        }
    }

    /// Cancels the call of a client that has left. A call that changes the state that all clients share
    /// continues.
    fn abandon(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(id) else { return };
        (call.reply, call.token) = (None, None);
        if matches!(call.kind, Kind::Opening | Kind::Subscribing(_)) {
            return;
        }
        if let Some(cancellation) = self.dialect.cancellation(id.digits(&mut [0; 20])) {
            self.out.push_back(Output::Program(cancellation.into()));
        }
        // A late response is dropped.
        self.calls.end(id);
    }

    fn refuse(&mut self, reply: &ReplyTo, code: i64, why: &str) {
        let error = write_error(&self.dialect, &reply.id, code, why, None);
        self.reply(reply, error.into());
    }

    fn reply_result(&mut self, reply: &ReplyTo, result: &[u8]) {
        let response = write_result(&self.dialect, &reply.id, result);
        self.reply(reply, response.into());
    }

    /// Sends a response to a client, at once or with the others of its batch.
    fn reply(&mut self, reply: &ReplyTo, response: Bytes) {
        let client = reply.client;
        let Some(its) = self.clients.get_mut(&client) else { return };
        let whole = match reply.batch {
            Some(batch) => {
                let whole = self.batches.answered(batch, response);
                its.batch_bytes = self.batches.bytes(client);
                self.out.extend(its.changed().map(|held| Output::Held(client, held)));
                whole
            }
            None => Some(response),
        };
        self.out.extend(whole.map(|message| Output::Client(client, message)));
        self.check_done(client);
    }

    /// Settles a request that gets no response.
    fn no_reply(&mut self, reply: &ReplyTo) {
        let whole = reply.batch.and_then(|batch| self.batches.unanswered(batch));
        self.out.extend(whole.map(|message| Output::Client(reply.client, message)));
        self.check_done(reply.client);
    }

    fn notification(&mut self, client: ClientId, notification: &Notification) {
        let method = notification.method();
        let params = notification.params().unwrap_or_default();
        if self.handshake().and_then(|rules| rules.confirmation) == Some(&*method) {
            return self.confirm(client, notification);
        }
        if self.dialect.cancel.is_some_and(|cancel| cancel.method == method) {
            return self.cancel(client, notification, params);
        }
        if let Some(style) = self.dialect.progress.filter(|style| style.method == method) {
            let token = locate(params, &[style.token]).ok().flatten();
            if !token.is_some_and(|token| self.asked.has_token(client, token)) {
                return;
            }
        }
        self.out.push_back(Output::Program(notification.message().clone()));
    }

    /// Cancels one of the client's own requests. Other ids are ignored, as the dialects require.
    fn cancel(&mut self, client: ClientId, notification: &Notification, params: &[u8]) {
        let Some(cancel) = self.dialect.cancel else { return };
        let Ok(Some(named)) = locate(params, &[cancel.id]) else { return };
        let Some(id) = self.find_call(client, named) else {
            return self.cancel_waiting(client, named);
        };
        let Some(call) = self.calls.get_mut(id) else { return };
        match (&call.kind, cancel.code) {
            // The handshake must not be cancelled: the other clients wait for it, too.
            (Kind::Opening, _) => return,
            (Kind::Subscribing(name), None) => {
                let name = name.clone();
                let (reply, token) = (call.reply.take(), call.token.take());
                let Some(reply) = reply else { return };
                if let Some(client) = self.clients.get_mut(&client) {
                    client.remove_thing(&name);
                }
                self.release(id, &reply, token.as_deref());
                return self.no_reply(&reply);
            }
            (Kind::Subscribing(_), Some(_)) => return,
            _ => {}
        }
        let message = notification.rewritten(named, id.digits(&mut [0; 20]));
        self.out.push_back(Output::Program(message));
        if cancel.code.is_none() {
            let reply = self.end(id).and_then(|call| call.reply);
            reply.into_iter().for_each(|reply| self.no_reply(&reply));
        }
    }

    /// Returns the call of a client with this id. If the client has used the id twice, returns the later
    /// call.
    fn find_call(&self, client: ClientId, named: &[u8]) -> Option<CallId> {
        let calls = &self.clients.get(&client)?.calls;
        let ids = calls
            .iter()
            .rev()
            .filter_map(|id| Some((*id, &*self.calls.get(*id)?.reply.as_ref()?.id)));
        Answers::Call(named).find(ids)
    }

    /// Handles a client's response to a request from the program.
    fn outcome(&mut self, client: ClientId, response: &Response) {
        let is_its = self.asked.get(response.id()).is_some_and(|asked| asked.client == client);
        let id = match is_its {
            true => Bytes::copy_from_slice(response.id()),
            false => match self.asked.find(client, response.answers()) {
                Some(id) => id,
                None => {
                    tracing::debug!("dropped a client's response: the program has not asked it");
                    return;
                }
            },
        };
        self.asked.remove(&id);
        self.out.push_back(Output::Program(response.rewritten(&self.dialect, &id, None)));
    }

    /// Answers a request from the program with an error in place of a client's invalid response.
    fn refuse_outcome(&mut self, client: ClientId, id: &[u8], why: &str) {
        if self.asked.get(id).is_some_and(|asked| asked.client == client) {
            self.asked.remove(id);
            let error = write_error(&self.dialect, id, INTERNAL_ERROR, why, None);
            self.out.push_back(Output::Program(error.into()));
        }
    }
}
