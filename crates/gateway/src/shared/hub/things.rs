//! Things that clients open and close, such as subscriptions: the program opens each once, for the first client,
//! and closes it after the last.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tieline_proto::json::unescape;
use tieline_proto::jsonrpc::{INVALID_REQUEST, Request, Response, Thing, locate, write_request};

use super::{ClientId, Hub, Kind, ReplyTo};

/// An object without members: the result of closing a thing that other clients still have open.
const EMPTY: &[u8] = b"{}";

/// The longest name of a thing that is kept, in bytes.
const MAX_NAME: usize = 16 * 1024;
/// How many things one client may have open.
const MAX_OPEN: usize = 1024;
/// How many things all clients together may have open.
const MAX_OPEN_BY_ALL: usize = 16 * 1024;

/// The name of a thing: its place in the dialect's list, and the text of its name without escapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    place: usize,
    text: Bytes,
}

#[derive(Default)]
pub(super) struct Things(HashMap<Name, Opened>);

struct Opened {
    /// The name as the first client wrote it.
    raw_name: Bytes,
    clients: BTreeSet<ClientId>,
    /// The program's result; `None` until it has answered.
    result: Option<Bytes>,
    /// Requests about the thing that wait for the result.
    waiting: VecDeque<(ReplyTo, Request)>,
}

impl Hub {
    /// Returns the thing that a method opens or closes, its place, and whether the method closes it.
    pub(super) fn thing(&self, method: &str) -> Option<(&'static Thing, usize, bool)> {
        let things = self.handshake()?.things.iter().enumerate();
        let mut found = things.filter(|(_, it)| method == it.open || method == it.close);
        found.next().map(|(place, it)| (it, place, method == it.close))
    }

    /// Returns the name of a thing in the parameters of a message, both without escapes and as it was
    /// written.
    fn name<'a>(thing: &Thing, place: usize, params: &'a [u8]) -> Option<(Name, &'a [u8])> {
        let raw = locate(params, thing.name).ok().flatten()?;
        let text = std::str::from_utf8(raw).ok()?.strip_prefix('"')?.strip_suffix('"')?;
        let text = Bytes::copy_from_slice(unescape(text).as_bytes());
        Some((Name { place, text }, raw))
    }

    /// Handles a client's request to open or close a thing.
    pub(super) fn about_thing(&mut self, reply: ReplyTo, request: Request) {
        let Some((thing, place, closes)) = self.thing(&request.method()) else { return };
        let params = request.params().unwrap_or_default();
        let Some((name, raw)) = Self::name(thing, place, params) else {
            // The program reports what is wrong with the request, unless it may read a different name
            // than the hub.
            return match locate(params, thing.name) {
                Ok(_) => drop(self.forward(reply, &request, Kind::Plain)),
                Err(doubled) => self.refuse(&reply, INVALID_REQUEST, &doubled.to_string()),
            };
        };
        let client = reply.client;
        match self.things.0.get_mut(&name) {
            Some(opened) if opened.result.is_none() => {
                if self.begin_wait(&reply, &request) {
                    if let Some(opened) = self.things.0.get_mut(&name) {
                        opened.waiting.push_back((reply, request));
                    }
                }
            }
            Some(opened) if closes => {
                opened.clients.remove(&client);
                if opened.clients.is_empty() {
                    self.things.0.remove(&name);
                    self.forward(reply, &request, Kind::Plain);
                } else {
                    self.reply_result(&reply, EMPTY);
                }
            }
            Some(opened) => {
                let result = opened.result.clone().unwrap_or_default();
                opened.clients.insert(client);
                self.reply_result(&reply, &result);
            }
            None if closes => drop(self.forward(reply, &request, Kind::Plain)),
            None => self.open_thing(reply, &request, name, raw),
        }
    }

    fn open_thing(&mut self, reply: ReplyTo, request: &Request, name: Name, raw: &[u8]) {
        let its = self.things.0.values().filter(|it| it.clients.contains(&reply.client)).count();
        if its >= MAX_OPEN || self.things.0.len() >= MAX_OPEN_BY_ALL {
            let limit = if its >= MAX_OPEN { MAX_OPEN } else { MAX_OPEN_BY_ALL };
            let why = format!("too many subscriptions: the limit of {limit} is reached");
            return self.refuse(&reply, self.dialect.gone, &why);
        }
        if raw.len() > MAX_NAME {
            let why = format!("the name is longer than {MAX_NAME} bytes");
            return self.refuse(&reply, INVALID_REQUEST, &why);
        }
        if self.forward(reply, request, Kind::Subscribing(name.clone())) {
            let opened = Opened {
                raw_name: Bytes::copy_from_slice(raw),
                clients: BTreeSet::new(),
                result: None,
                waiting: VecDeque::new(),
            };
            self.things.0.insert(name, opened);
        }
    }

    /// Handles the program's response to a request to open a thing.
    pub(super) fn thing_answered(
        &mut self,
        name: &Name,
        reply: Option<ReplyTo>,
        response: &Response,
    ) {
        let Some(opened) = self.things.0.get_mut(name) else { return };
        let waiting = std::mem::take(&mut opened.waiting);
        match response.outcome() {
            Ok(result) => {
                opened.result = Some(Bytes::copy_from_slice(result));
                opened.clients.extend(reply.as_ref().map(|reply| reply.client));
            }
            Err(_) => {
                self.things.0.remove(name);
            }
        }
        if let Some(reply) = reply {
            let response = response.rewritten(&self.dialect, &reply.id, None);
            self.reply(&reply, response);
        }
        for (reply, request) in waiting {
            if self.end_wait(&reply, &request) {
                self.about_thing(reply, request);
            }
        }
        self.close_unused(name);
    }

    /// Closes a thing that no client has open.
    fn close_unused(&mut self, name: &Name) {
        let is_unused = |it: &Opened| it.result.is_some() && it.clients.is_empty();
        if !self.things.0.get(name).is_some_and(is_unused) {
            return;
        }
        let Some(Opened { raw_name, .. }) = self.things.0.remove(name) else { return };
        let Some(thing) = self.handshake().and_then(|rules| rules.things.get(name.place)) else {
            return;
        };
        let mut params = raw_name.to_vec();
        for member in thing.name.iter().rev() {
            params = [b"{\"", member.as_bytes(), b"\":", &params[..], b"}"].concat();
        }
        self.ask(Kind::Plain, |dialect, id| write_request(dialect, id, thing.close, Some(&params)));
    }

    /// Closes the things that only this client, which has left, had open.
    pub(super) fn forget_things(&mut self, client: ClientId) {
        let mut left = Vec::new();
        for (name, opened) in &mut self.things.0 {
            opened.waiting.retain(|(reply, _)| reply.client != client);
            if opened.clients.remove(&client) {
                left.push(name.clone());
            }
        }
        left.sort_by(|one, other| one.text.cmp(&other.text));
        left.iter().for_each(|name| self.close_unused(name));
    }

    /// Removes a request that waits in the hub, because its client has cancelled it. An opening request cannot
    /// be cancelled.
    pub(super) fn cancel_waiting(&mut self, client: ClientId, named: &[u8]) {
        let is_it = |(reply, _): &(ReplyTo, Request)| reply.client == client && *reply.id == *named;
        let found = self.things.0.values_mut().find_map(|opened| {
            let place = opened.waiting.iter().position(is_it)?;
            opened.waiting.remove(place)
        });
        if let Some((reply, request)) = found {
            if self.end_wait(&reply, &request) {
                self.no_reply(&reply);
            }
        }
    }

    /// Returns the clients that a notification about a thing concerns, or `None` if it is not about a
    /// thing.
    ///
    /// The notification may name a part of a thing. If no client has opened exactly the named thing, the
    /// notification goes to all clients that have opened any.
    pub(super) fn concerned(&self, method: &str, params: &[u8]) -> Option<BTreeSet<ClientId>> {
        if self.rules.updated != Some(method) {
            return None;
        }
        let mut things = self.handshake()?.things.iter().enumerate();
        let exact = things.find_map(|(place, thing)| {
            let (name, _) = Self::name(thing, place, params)?;
            self.things.0.get(&name).filter(|it| it.result.is_some())
        });
        Some(match exact {
            Some(opened) => opened.clients.clone(),
            None => self.things.0.values().flat_map(|it| it.clients.iter().copied()).collect(),
        })
    }
}
