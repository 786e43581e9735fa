//! Things that clients open and close, such as subscriptions: the program opens each once, for the first client,
//! and closes it after the last.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tieline_proto::json::unescape;
use tieline_proto::jsonrpc::{
    INTERNAL_ERROR, INVALID_REQUEST, Request, Response, Thing, locate, write_request,
};

use super::client::{Client, Use};
use super::name::Name;
use super::{ClientId, Hub, Kind, ReplyTo};

/// An object without members: the result of closing a thing that other clients still have open.
const EMPTY: &[u8] = b"{}";

/// The longest name of a thing that is kept, in bytes.
const MAX_NAME: usize = 16 * 1024;
/// How many things one client may have open.
const MAX_OPEN: usize = 1024;
/// The maximum size of their names in total.
const MAX_NAMES: usize = 1024 * 1024;
/// How many things all clients together may have open.
const MAX_OPEN_BY_ALL: usize = 16 * 1024;
/// The maximum size of the names and results of all things.
const MAX_BYTES_BY_ALL: usize = 16 * 1024 * 1024;
/// The longest result that is kept for further clients.
const MAX_RESULT: usize = 64 * 1024;
/// The number of bytes that are counted for each thing in addition to its names and result.
const EACH: usize = 256;

#[derive(Default)]
pub(super) struct Things {
    open: HashMap<Name, Opened>,
    bytes: usize,
}

impl Things {
    /// Returns the size of all names and results.
    pub(super) fn held(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, name: Name, opened: Opened) {
        self.bytes += opened.cost(&name);
        self.open.insert(name, opened);
    }

    fn remove(&mut self, name: &Name) -> Option<Opened> {
        let opened = self.open.remove(name)?;
        self.bytes -= opened.cost(name);
        Some(opened)
    }
}

struct Opened {
    /// The name as the first client wrote it.
    raw_name: Bytes,
    clients: BTreeSet<ClientId>,
    /// The program's result; `None` until it has answered.
    result: Option<Bytes>,
    /// Requests about the thing that wait for the result.
    waiting: VecDeque<(ReplyTo, Request)>,
}

impl Opened {
    fn cost(&self, name: &Name) -> usize {
        name.len() + self.raw_name.len() + self.result.as_ref().map_or(0, Bytes::len) + EACH
    }
}

impl Client {
    /// Returns whether this thing would be one too many.
    fn is_full(&self, name: &Name) -> bool {
        self.things.len() >= MAX_OPEN || self.name_bytes + name.len() > MAX_NAMES
    }
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
        if self.things.open.get(&name).is_some_and(|it| it.result.is_none()) {
            return self.wait_for_thing(reply, request, &name);
        }
        match (self.things.open.get_mut(&name), self.clients.get_mut(&client)) {
            (Some(opened), Some(its)) if closes => {
                opened.clients.remove(&client);
                its.remove_thing(&name);
                if opened.clients.is_empty() {
                    self.things.remove(&name);
                    self.forward(reply, &request, Kind::Plain);
                } else {
                    self.reply_result(&reply, EMPTY);
                }
            }
            (None, _) if closes => drop(self.forward(reply, &request, Kind::Plain)),
            (None, Some(_)) => self.open_thing(reply, &request, name, raw),
            (Some(_), Some(its)) if !its.things.contains_key(&name) && its.is_full(&name) => {
                self.refuse_thing(&reply);
            }
            (Some(opened), Some(its)) => {
                let result = opened.result.clone().unwrap_or_default();
                opened.clients.insert(client);
                its.add_thing(&name, Use::Open);
                self.reply_result(&reply, &result);
            }
            (_, None) => {}
        }
    }

    /// Lets a request wait for the result of a thing that the program is opening.
    fn wait_for_thing(&mut self, reply: ReplyTo, request: Request, name: &Name) {
        if !self.begin_wait(&reply, &request) {
            return;
        }
        if let Some(client) = self.clients.get_mut(&reply.client) {
            client.begin_wait(name);
        }
        if let Some(opened) = self.things.open.get_mut(name) {
            opened.waiting.push_back((reply, request));
        }
    }

    /// Refuses to open a thing for a client that has too many.
    fn refuse_thing(&mut self, reply: &ReplyTo) {
        let why = format!(
            "too many subscriptions: the limit of {MAX_OPEN}, or of {MAX_NAMES} bytes of names, is reached"
        );
        self.refuse(reply, self.dialect.gone, &why);
    }

    fn open_thing(&mut self, reply: ReplyTo, request: &Request, name: Name, raw: &[u8]) {
        if raw.len() > MAX_NAME {
            let why = format!("the name is longer than {MAX_NAME} bytes");
            return self.refuse(&reply, INVALID_REQUEST, &why);
        }
        let client = reply.client;
        if self.clients.get(&client).is_some_and(|its| its.is_full(&name)) {
            return self.refuse_thing(&reply);
        }
        if self.things.open.len() >= MAX_OPEN_BY_ALL || self.things.bytes >= MAX_BYTES_BY_ALL {
            let why = format!(
                "all clients together have too many subscriptions: the limit of {MAX_OPEN_BY_ALL}, or of \
                 {MAX_BYTES_BY_ALL} bytes, is reached"
            );
            return self.refuse(&reply, self.dialect.gone, &why);
        }
        if self.forward(reply, request, Kind::Subscribing(name.clone())) {
            if let Some(client) = self.clients.get_mut(&client) {
                client.add_thing(&name, Use::Opening);
            }
            let opened = Opened {
                raw_name: Bytes::copy_from_slice(raw),
                clients: BTreeSet::new(),
                result: None,
                waiting: VecDeque::new(),
            };
            self.things.insert(name, opened);
        }
    }

    /// Handles the program's response to a request to open a thing.
    pub(super) fn thing_answered(
        &mut self,
        name: &Name,
        reply: Option<ReplyTo>,
        response: &Response,
    ) {
        let Some(mut opened) = self.things.remove(name) else { return };
        let waiting = std::mem::take(&mut opened.waiting);
        let client = reply.as_ref().map(|reply| reply.client);
        let outcome = response.outcome();
        let is_kept = outcome.is_ok_and(|result| result.len() <= MAX_RESULT);
        if let Some(its) = client.and_then(|client| self.clients.get_mut(&client)) {
            match is_kept {
                true => its.add_thing(name, Use::Open),
                false => its.remove_thing(name),
            }
        }
        if let Ok(result) = outcome {
            opened.result = Some(Bytes::copy_from_slice(if is_kept { result } else { EMPTY }));
            opened.clients.extend(client.filter(|_| is_kept));
            self.things.insert(name.clone(), opened);
        }
        let is_too_long = outcome.is_ok() && !is_kept;
        if let Some(reply) = reply {
            if is_too_long {
                let why = format!(
                    "the program's result is longer than {MAX_RESULT} bytes, which is too long to keep for other \
                     clients"
                );
                self.refuse(&reply, INTERNAL_ERROR, &why);
            } else {
                let response = response.rewritten(&self.dialect, &reply.id, None);
                self.reply(&reply, response);
            }
        }
        if is_too_long {
            // A waiting request can open it again.
            self.close_unused(name);
        }
        for (reply, request) in waiting {
            if let Some(client) = self.clients.get_mut(&reply.client) {
                client.end_wait(name);
            }
            if self.end_wait(&reply, &request) {
                self.about_thing(reply, request);
            }
        }
        self.close_unused(name);
    }

    /// Closes a thing that no client has open.
    fn close_unused(&mut self, name: &Name) {
        let is_unused = |it: &Opened| it.result.is_some() && it.clients.is_empty();
        if !self.things.open.get(name).is_some_and(is_unused) {
            return;
        }
        let Some(Opened { raw_name, .. }) = self.things.remove(name) else { return };
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
    pub(super) fn forget_things(
        &mut self,
        client: ClientId,
        things: HashMap<Name, Use>,
        waits: HashMap<Name, usize>,
    ) {
        for name in waits.keys() {
            if let Some(opened) = self.things.open.get_mut(name) {
                opened.waiting.retain(|(reply, _)| reply.client != client);
            }
        }
        let mut left: Vec<Name> = things.into_keys().collect();
        left.sort_by(|one, other| one.text.cmp(&other.text));
        for name in &left {
            if let Some(opened) = self.things.open.get_mut(name) {
                opened.clients.remove(&client);
            }
            self.close_unused(name);
        }
    }

    /// Removes a request that waits in the hub, because its client has cancelled it. An opening request cannot
    /// be cancelled.
    pub(super) fn cancel_waiting(&mut self, client: ClientId, named: &[u8]) {
        let is_it = |(reply, _): &(ReplyTo, Request)| reply.client == client && *reply.id == *named;
        let Some(its) = self.clients.get_mut(&client) else { return };
        let things = &mut self.things.open;
        let found = its.waits.keys().find_map(|name| {
            let opened = things.get_mut(name)?;
            let place = opened.waiting.iter().position(is_it)?;
            Some((name.clone(), opened.waiting.remove(place)?))
        });
        if let Some((name, (reply, request))) = found {
            its.end_wait(&name);
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
            self.things.open.get(&name).filter(|it| it.result.is_some())
        });
        Some(match exact {
            Some(opened) => opened.clients.clone(),
            None => {
                let clients = self.clients.iter().filter(|(_, it)| it.open > 0);
                clients.map(|(client, _)| *client).collect()
            }
        })
    }
}
