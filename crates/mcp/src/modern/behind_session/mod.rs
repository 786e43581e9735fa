//! A program of version 2026-07-28 behind a session of an earlier version.
//!
//! Messages pass unchanged until the program refuses `initialize`. If it then answers `server/discover`, its messages
//! and those of the client are translated from there on:
//!
//! ```text
//!   Session ──▶ from_client ──▶ the program        Session ◀── from_program ◀── the program
//! ```

mod asking;
mod opening;

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Dialect, INVALID_PARAMS, Id, METHOD_NOT_FOUND, Message, Notification, Request, Response,
    classify, locate, member, members, write_error, write_notification, write_request,
    write_response, write_result,
};

use self::asking::{Asked, Round};
use super::capabilities::Level;
use super::json::{object, quoted, string};
use super::meta;

/// How many resources a session may subscribe to.
const MAX_RESOURCES: usize = 1024;
/// The longest URI of such a resource.
const MAX_URI: usize = 4096;

/// Translates between a session of an earlier version and a program that may only speak 2026-07-28.
#[derive(Debug, Default)]
pub struct SessionTranslator {
    state: State,
    out: Translated,
}

/// What a message becomes: messages for each side, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// Messages for the program.
    pub to_program: Vec<Bytes>,
    /// Messages for the session, as if the program had sent them.
    pub to_client: Vec<Bytes>,
}

#[derive(Debug, Default)]
enum State {
    /// The client has not sent `initialize`.
    #[default]
    New,
    /// The program has `initialize`.
    Opening(Request),
    /// The program has refused `initialize` with this message, and has `server/discover`.
    Asking { initialize: Request, refusal: Bytes, held: VecDeque<Bytes> },
    /// The program speaks the version of the session.
    Same,
    /// The program speaks 2026-07-28.
    Modern(Box<Modern>),
}

/// The state of a session whose program speaks 2026-07-28.
#[derive(Debug)]
struct Modern {
    /// The members of `_meta` that each request gets: raw JSON.
    envelope: Vec<(&'static str, Vec<u8>)>,
    level: Option<Level>,
    /// What the client is told of by itself: the names of the filter.
    changes: Vec<&'static str>,
    resources: BTreeSet<String>,
    /// The request `subscriptions/listen` that is open.
    listening: Option<Id>,
    /// Requests that may need the input of the client, by their ids at the client.
    rounds: HashMap<Id, Round>,
    /// The ids of requests that were repeated with input, and those at the client.
    repeated: HashMap<Id, Id>,
    /// What the client is being asked, by the ids of our requests.
    asked: HashMap<Id, Asked>,
    next: u64,
}

impl SessionTranslator {
    /// Returns whether messages pass unchanged, so that they need not be translated.
    pub fn is_transparent(&self) -> bool {
        matches!(self.state, State::Same)
    }

    /// Takes a message of the client.
    pub fn from_client(&mut self, message: Bytes) -> Translated {
        match &mut self.state {
            State::New => {
                self.state = match classify(message.clone(), &Dialect::MCP, Limits::default()) {
                    Message::Request(request) if request.method() == "initialize" => {
                        State::Opening(request)
                    }
                    _ => State::Same,
                };
                self.out.to_program.push(message);
            }
            State::Opening(_) | State::Same => self.out.to_program.push(message),
            // The client waits for the response to `initialize`, so that there is nothing but pings.
            State::Asking { held, .. } if held.len() < opening::MAX_HELD => held.push_back(message),
            State::Asking { .. } => {
                if let Message::Request(request) =
                    classify(message, &Dialect::MCP, Limits::default())
                {
                    let text = "too many requests before the response to `initialize`";
                    let error = write_error(&Dialect::MCP, request.id(), TOO_MANY, text, None);
                    self.out.to_client.push(error.into());
                }
            }
            State::Modern(modern) => modern.take_from_client(message, &mut self.out),
        }
        std::mem::take(&mut self.out)
    }

    /// Takes a message of the program.
    pub fn from_program(&mut self, message: Bytes) -> Translated {
        match &mut self.state {
            State::New | State::Same => self.out.to_client.push(message),
            State::Opening(_) => self.opened(message),
            State::Asking { .. } => self.discovered(message),
            State::Modern(modern) => modern.take_from_program(message, &mut self.out),
        }
        std::mem::take(&mut self.out)
    }

    /// Returns the bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Opening(request) => request.message().len(),
            State::Asking { initialize, refusal, held } => {
                let held: usize = held.iter().map(Bytes::len).sum();
                initialize.message().len() + refusal.len() + held
            }
            State::Modern(modern) => {
                let resources: usize = modern.resources.iter().map(String::len).sum();
                let envelope: usize = modern.envelope.iter().map(|(_, value)| value.len()).sum();
                envelope + resources + modern.rounds.values().map(Round::held).sum::<usize>()
            }
            State::New | State::Same => 0,
        }
    }
}

impl Modern {
    fn take_from_client(&mut self, message: Bytes, out: &mut Translated) {
        match classify(message, &Dialect::MCP, Limits::default()) {
            Message::Request(request) => self.request(&request, out),
            Message::Notification(notification) => self.notification(&notification, out),
            Message::Response(response) => self.input(&response, out),
            Message::Batch(_) | Message::Invalid(_) => {}
        }
    }

    fn request(&mut self, request: &Request, out: &mut Translated) {
        let (id, method) = (request.id(), request.method());
        let params = request.params().unwrap_or(b"{}");
        let done = write_result(&Dialect::MCP, id, b"{}");
        let refuse = |code, text: &str| write_error(&Dialect::MCP, id, code, text, None);
        let reply = match &*method {
            "ping" => done,
            "logging/setLevel" => match member(params, "level").and_then(Level::of) {
                Some(level) => {
                    self.level = Some(level);
                    done
                }
                None => refuse(INVALID_PARAMS, "params.level is not a level"),
            },
            "resources/subscribe" | "resources/unsubscribe" => {
                let uri = member(params, "uri").and_then(string);
                let Some(uri) = uri.filter(|uri| uri.len() <= MAX_URI) else {
                    let text = "params.uri must be a string of at most 4096 bytes";
                    out.to_client.push(refuse(INVALID_PARAMS, text).into());
                    return;
                };
                let is_new = method == "resources/subscribe";
                if is_new && self.resources.len() >= MAX_RESOURCES {
                    let text = "this session is subscribed to too many resources";
                    out.to_client.push(refuse(TOO_MANY, text).into());
                    return;
                }
                let is_changed = match is_new {
                    true => self.resources.insert(uri.into_owned()),
                    false => self.resources.remove(&*uri),
                };
                if is_changed {
                    self.listen(out);
                }
                done
            }
            // Those of 2026-07-28 are different.
            _ if method.starts_with("tasks/") => {
                refuse(METHOD_NOT_FOUND, "the program has no tasks of this protocol version")
            }
            _ => {
                if matches!(&*method, "tools/call" | "prompts/get" | "resources/read") {
                    self.rounds.insert(id.into(), Round::new(&method, params));
                }
                let params = self.with_envelope(params, &[]);
                let message = write_request(&Dialect::MCP, id, &method, Some(&params));
                return out.to_program.push(message.into());
            }
        };
        out.to_client.push(reply.into());
    }

    fn notification(&mut self, notification: &Notification, out: &mut Translated) {
        match &*notification.method() {
            "notifications/initialized" => self.listen(out),
            "notifications/cancelled" => {
                let params = notification.params().unwrap_or_default();
                let Some(id) = member(params, "requestId").map(Id::from) else { return };
                let repeated = self.repeated.iter().find(|(_, client)| **client == id);
                let passed = repeated.map_or_else(|| id.clone(), |(repeated, _)| repeated.clone());
                self.repeated.remove(&passed);
                let is_being_asked = self.asked.values().any(|asked| asked.call == id);
                self.forget(&id);
                if !is_being_asked {
                    self.cancel(&passed, out);
                }
            }
            // 2026-07-28 has no notifications of clients besides.
            _ => {}
        }
    }

    fn take_from_program(&mut self, message: Bytes, out: &mut Translated) {
        match classify(message.clone(), &Dialect::MCP, Limits::default()) {
            Message::Response(response) => self.response(&response, out),
            Message::Notification(notification) => {
                if let Some(message) = self.told(&notification) {
                    out.to_client.push(message);
                }
            }
            // This version has no requests of servers. They get no response: a program that sends many and does
            // not read would fill the memory with them.
            Message::Request(_) => {}
            // The session answers the request that a bad response belongs to.
            Message::Batch(_) | Message::Invalid(_) => out.to_client.push(message),
        }
    }

    fn response(&mut self, response: &Response, out: &mut Translated) {
        let id = Id::from(response.id());
        if self.listening.as_ref() == Some(&id) {
            self.listening = None;
            return;
        }
        let client = self.repeated.remove(&id).unwrap_or(id);
        let outcome = response.outcome();
        if let (Ok(result), true) = (outcome, self.rounds.contains_key(&client)) {
            if member(result, "resultType").and_then(string).as_deref() == Some("input_required") {
                return self.ask(client, result, out);
            }
        }
        self.rounds.remove(&client);
        out.to_client.push(write_response(&Dialect::MCP, &client, outcome).into());
    }

    /// Returns what the client is told of a notification of the program.
    fn told(&mut self, notification: &Notification) -> Option<Bytes> {
        let params = notification.params().unwrap_or_default();
        let method = notification.method();
        match &*method {
            "notifications/subscriptions/acknowledged" => None,
            "notifications/cancelled" => {
                let id = member(params, "requestId").map(Id::from);
                if id.is_some() && id == self.listening {
                    self.listening = None;
                }
                None
            }
            _ => {
                let tag = locate(params, &["_meta", meta::SUBSCRIPTION]).ok().flatten();
                if tag.is_none() {
                    return Some(notification.message().clone());
                }
                let others = members(params)?;
                let others = others.iter().filter(|(name, _)| name != "_meta");
                let params = object(others.map(|(name, value)| (&**name, *value)));
                Some(write_notification(&Dialect::MCP, &method, Some(&params)).into())
            }
        }
    }

    /// Has the program tell of what the session is told of, and of no more.
    fn listen(&mut self, out: &mut Translated) {
        if let Some(listening) = self.listening.take() {
            self.cancel(&listening, out);
        }
        if self.changes.is_empty() && self.resources.is_empty() {
            return;
        }
        let uris: Vec<_> = self.resources.iter().map(|uri| quoted(uri)).collect();
        let uris = format!("[{}]", uris.join(","));
        let mut filter: Vec<(&str, &[u8])> =
            self.changes.iter().map(|name| (*name, &b"true"[..])).collect();
        if !self.resources.is_empty() {
            filter.push(("resourceSubscriptions", uris.as_bytes()));
        }
        let filter = object(filter);
        let params = self.with_envelope(b"{}", &[("notifications", &filter)]);
        let id = self.id();
        let message = write_request(&Dialect::MCP, &id, "subscriptions/listen", Some(&params));
        out.to_program.push(message.into());
        self.listening = Some(id);
    }

    fn cancel(&self, id: &[u8], out: &mut Translated) {
        let params = self.with_envelope(&object([("requestId", id)]), &[]);
        let method = "notifications/cancelled";
        out.to_program.push(write_notification(&Dialect::MCP, method, Some(&params)).into());
    }

    /// Writes parameters with what each request of 2026-07-28 says about its client, and with these members.
    fn with_envelope(&self, params: &[u8], more: &[(&str, &[u8])]) -> Vec<u8> {
        let params = members(params).unwrap_or_default();
        let own = params.iter().find(|(name, _)| name == "_meta");
        let own = own.and_then(|(_, value)| members(value)).unwrap_or_default();
        let own = own.iter().filter(|(name, _)| !name.starts_with(meta::PREFIX));
        let own = own.map(|(name, value)| (&**name, *value));
        let envelope = self.envelope.iter().map(|(name, value)| (*name, &value[..]));
        let level = self.level.map(|level| quoted(level.name()));
        let level = level.iter().map(|level| (meta::LOG_LEVEL, level.as_bytes()));
        let of_meta = object(envelope.chain(level).chain(own));
        let others = params.iter().filter(|(name, _)| name != "_meta");
        let others = others.map(|(name, value)| (&**name, *value));
        object([("_meta", &of_meta[..])].into_iter().chain(others).chain(more.iter().copied()))
    }

    /// Returns an id for a request of our own.
    fn id(&mut self) -> Id {
        self.next += 1;
        Id::from(format!("\"tieline-{}\"", self.next).as_bytes())
    }
}

/// The code of the error for a session that has too many subscriptions, or requests too early.
const TOO_MANY: i64 = -31503;

#[cfg(test)]
mod tests;
