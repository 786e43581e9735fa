//! Records the messages to a program that have to be replayed after a restart.

use bytes::Bytes;
use tieline_proto::jsonrpc::{Handshake, Message, Notification, Request, Thing, member};

/// The maximum number of messages that are recorded per line. With more, the state cannot be restored.
const MAX_MESSAGES: usize = 4096;
/// The maximum size of a record, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// The maximum number of recorded requests from each side that wait for a response.
const MAX_ASKED: usize = 256;

/// The state of a program, as far as the client's messages have built it up.
pub(crate) struct Record {
    rules: &'static Handshake,
    /// The opening request of the handshake, and its result.
    open: Option<(Request, Bytes)>,
    /// An opening request without a response yet.
    opening: Option<Request>,
    confirmation: Option<Bytes>,
    /// The messages to replay, in this order.
    kept: Vec<Kept>,
    asked: Vec<Asked>,
    registrations: Vec<Registration>,
    /// The size of `kept`, `asked` and `registrations`.
    bytes: usize,
    /// Why the state can no longer be restored.
    lost: Option<&'static str>,
}

/// A message that is part of the state.
#[derive(Clone, PartialEq, Eq)]
struct Kept {
    /// The method that created this part of the state.
    method: &'static str,
    /// The name of the thing that the message is about, as raw JSON; `None` if only the method matters.
    name: Option<Bytes>,
    replayed: Replayed,
    is_changed: bool,
}

/// A message that is replayed to the new program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Replayed {
    Notification(Bytes),
    Request { method: &'static str, params: Option<Bytes> },
}

/// A request that adds to the state, or removes from it, if its response is a result.
struct Asked {
    id: Bytes,
    change: Change,
}

enum Change {
    Keep(Kept),
    Forget(&'static str, Option<Bytes>),
}

/// A request from the program that has changed the state of the client.
struct Registration {
    id: Bytes,
    params: Bytes,
    /// The client's response.
    outcome: Option<Result<Bytes, Bytes>>,
}

impl Kept {
    fn length(&self) -> usize {
        self.replayed.length() + self.name.as_ref().map_or(0, Bytes::len)
    }
}

impl Asked {
    fn length(&self) -> usize {
        let change = match &self.change {
            Change::Keep(kept) => kept.length(),
            Change::Forget(_, name) => name.as_ref().map_or(0, Bytes::len),
        };
        self.id.len() + change
    }
}

impl Registration {
    fn length(&self) -> usize {
        let outcome = self.outcome.as_ref().map_or(0, |outcome| match outcome {
            Ok(outcome) | Err(outcome) => outcome.len(),
        });
        self.id.len() + self.params.len() + outcome
    }
}

/// How to restore the state for a restarted program.
#[derive(Debug)]
pub(crate) enum Plan {
    /// There is nothing to restore, because there was no handshake yet.
    Nothing,
    /// Replay `request`, and after its response all of `then`.
    Replay {
        request: Request,
        result: Bytes,
        then: Vec<Replayed>,
        /// The parameters of registrations, and how the client responded to each.
        registrations: Vec<(Bytes, Result<Bytes, Bytes>)>,
    },
    /// The state cannot be restored, for this reason.
    Impossible(String),
}

impl Replayed {
    fn length(&self) -> usize {
        match self {
            Self::Notification(message) => message.len(),
            Self::Request { params, .. } => params.as_ref().map_or(0, Bytes::len),
        }
    }
}

impl Record {
    pub(crate) fn new(rules: &'static Handshake) -> Self {
        Self {
            rules,
            open: None,
            opening: None,
            confirmation: None,
            kept: Vec::new(),
            asked: Vec::new(),
            registrations: Vec::new(),
            bytes: 0,
            lost: None,
        }
    }

    /// Returns how many bytes the record holds.
    pub(crate) fn bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |(it, result)| it.message().len() + result.len());
        let opening = self.opening.as_ref().map_or(0, |it| it.message().len());
        let confirmation = self.confirmation.as_ref().map_or(0, Bytes::len);
        self.bytes + open + opening + confirmation
    }

    /// Returns whether messages with this method change the state. Examines only the method, because few
    /// messages change the state.
    pub(crate) fn concerns(rules: &Handshake, method: &str) -> bool {
        method == rules.request
            || rules.confirmation == Some(method)
            || [rules.ends, rules.latest, rules.every].iter().any(|it| it.contains(&method))
            || rules
                .things
                .iter()
                .any(|it| method == it.open || method == it.close || it.change == Some(method))
            || rules.registration.is_some_and(|it| it.contains(&method))
    }

    /// Returns whether a response of either side may change the record.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.opening.is_some()
            || !self.asked.is_empty()
            || self.registrations.iter().any(|it| it.outcome.is_none())
    }

    /// Records a message from the client to the program.
    pub(crate) fn record_client(&mut self, message: &Message) {
        match message {
            Message::Request(request) => self.client_request(request),
            Message::Notification(notification) => self.client_notification(notification),
            Message::Response(response) => self.registered(response.id(), response.outcome()),
            Message::Batch(messages) => messages.iter().for_each(|it| self.record_client(it)),
            Message::Invalid(_) => {}
        }
    }

    /// Records the client's response if it belongs to a registration.
    fn registered(&mut self, id: &[u8], outcome: Result<&[u8], &[u8]>) {
        let is_it = |it: &Registration| it.outcome.is_none() && *it.id == *id;
        let Some(place) = self.registrations.iter().position(is_it) else { return };
        let mut registration = self.registrations.remove(place);
        self.bytes -= registration.length();
        let copied = Bytes::copy_from_slice;
        registration.outcome = Some(outcome.map(copied).map_err(copied));
        self.register(registration);
    }

    /// Records a registration if there is room. Otherwise the client receives the registration again after a
    /// restart.
    fn register(&mut self, registration: Registration) {
        let length = registration.length();
        if self.registrations.len() < MAX_ASKED && self.bytes + length <= MAX_BYTES {
            self.bytes += length;
            self.registrations.push(registration);
        }
    }

    fn client_request(&mut self, request: &Request) {
        let method = &*request.method();
        if method == self.rules.request {
            if self.open.is_none() {
                // Messages recorded so far belong to an earlier handshake, which was refused.
                self.close();
            }
            self.opening = Some(request.clone());
            return;
        }
        if self.rules.ends.contains(&method) {
            return self.close();
        }
        let Some((method, name, is_end)) = self.subject(method, request.params()) else { return };
        let change = match is_end {
            true => Change::Forget(method, name),
            false => {
                let params = request.params().map(Bytes::copy_from_slice);
                let replayed = Replayed::Request { method, params };
                Change::Keep(Kept { method, name, replayed, is_changed: false })
            }
        };
        let asked = Asked { id: Bytes::copy_from_slice(request.id()), change };
        let length = asked.length();
        if self.asked.len() >= MAX_ASKED || self.bytes + length > MAX_BYTES {
            self.lost = Some("too many requests that change its state were in flight");
            return;
        }
        self.bytes += length;
        self.asked.push(asked);
    }

    fn client_notification(&mut self, notification: &Notification) {
        let method = &*notification.method();
        if self.rules.ends.contains(&method) {
            return self.close();
        }
        // Some clients do not wait for the response to their handshake.
        if self.open.is_none() && self.opening.is_none() {
            return;
        }
        let message = || Bytes::copy_from_slice(notification.message());
        if self.rules.confirmation == Some(method) {
            self.confirmation = Some(message());
            return;
        }
        if let Some(method) = self.rules.every.iter().find(|it| **it == method) {
            let replayed = Replayed::Notification(message());
            self.keep(Kept { method, name: None, replayed, is_changed: false }, true);
            return;
        }
        if let Some(thing) = self.rules.things.iter().find(|it| it.change == Some(method)) {
            let name = name(thing, notification.params());
            let is_it = |it: &&mut Kept| it.method == thing.open && it.name == name;
            let Some(kept) = self.kept.iter_mut().find(is_it) else { return };
            if !std::mem::replace(&mut kept.is_changed, true) {
                self.bytes -= kept.replayed.length();
                kept.replayed = Replayed::Notification(Bytes::new());
            }
            return;
        }
        match self.subject(method, notification.params()) {
            Some((method, name, true)) => self.forget(method, name.as_ref()),
            Some((method, name, false)) => {
                let replayed = Replayed::Notification(message());
                self.keep(Kept { method, name, replayed, is_changed: false }, false);
            }
            None => {}
        }
    }

    /// Returns the thing that a message with this method is about: the method that opens the thing, its
    /// name, and whether the message closes it.
    fn subject(
        &self,
        method: &str,
        params: Option<&[u8]>,
    ) -> Option<(&'static str, Option<Bytes>, bool)> {
        if let Some(method) = self.rules.latest.iter().find(|it| **it == method) {
            return Some((method, None, false));
        }
        let thing = self.rules.things.iter().find(|it| method == it.open || method == it.close)?;
        Some((thing.open, name(thing, params), method == thing.close))
    }

    /// Keeps a message. It replaces an earlier one about the same thing, unless `each_counts` is set.
    fn keep(&mut self, kept: Kept, each_counts: bool) {
        if !each_counts {
            self.forget(kept.method, kept.name.as_ref());
        }
        let length = kept.length();
        if self.kept.len() >= MAX_MESSAGES || self.bytes + length > MAX_BYTES {
            self.lost = Some("its state was too large to be recorded");
            return;
        }
        self.bytes += length;
        self.kept.push(kept);
    }

    fn forget(&mut self, method: &str, name: Option<&Bytes>) {
        let place = self.kept.iter().position(|it| it.method == method && it.name.as_ref() == name);
        if let Some(place) = place {
            let kept = self.kept.remove(place);
            self.bytes -= kept.length();
        }
    }

    /// Clears the record.
    fn close(&mut self) {
        *self = Self::new(self.rules);
    }

    /// Records a message from the program to the client.
    pub(crate) fn record_program(&mut self, message: &Message) {
        match message {
            Message::Response(response) => {
                self.program_answered(response.id(), response.outcome().ok());
            }
            Message::Request(request) => {
                let Some([register, unregister]) = self.rules.registration else { return };
                let method = &*request.method();
                if method == unregister {
                    // Forget all registrations, not only the one that was removed. After a restart, the
                    // client then receives the others again.
                    self.forget_registrations(|_| true);
                } else if method == register {
                    let id = Bytes::copy_from_slice(request.id());
                    let params = Bytes::copy_from_slice(request.params().unwrap_or_default());
                    self.register(Registration { id, params, outcome: None });
                }
            }
            Message::Batch(messages) => messages.iter().for_each(|it| self.record_program(it)),
            Message::Notification(_) | Message::Invalid(_) => {}
        }
    }

    fn forget_registrations(&mut self, is_over: impl Fn(&Registration) -> bool) {
        let (over, left) = std::mem::take(&mut self.registrations).into_iter().partition(is_over);
        let over: Vec<Registration> = over;
        self.bytes -= over.iter().map(Registration::length).sum::<usize>();
        self.registrations = left;
    }

    /// Records the program's response to a request: its result, or `None` for an error.
    fn program_answered(&mut self, id: &[u8], result: Option<&[u8]>) {
        if let Some(request) = self.opening.take_if(|it| it.id() == id) {
            // A refused handshake on an open line changes nothing.
            if let Some(result) = result {
                if self.open.is_some() {
                    self.close();
                }
                self.open = Some((request, Bytes::copy_from_slice(result)));
            }
            return;
        }
        let Some(place) = self.asked.iter().position(|it| *it.id == *id) else { return };
        let asked = self.asked.remove(place);
        self.bytes -= asked.length();
        match (asked.change, result) {
            (Change::Keep(kept), Some(_)) => self.keep(kept, false),
            (Change::Forget(method, name), Some(_)) => self.forget(method, name.as_ref()),
            (_, None) => {}
        }
    }

    /// Returns the plan for a restarted program. Requests in flight have changed nothing: the gateway answers
    /// them with an error.
    pub(crate) fn restarted(&mut self) -> Plan {
        self.bytes -= self.asked.drain(..).map(|asked| asked.length()).sum::<usize>();
        self.forget_registrations(|it| it.outcome.is_none());
        self.opening = None;
        let Some((request, result)) = &self.open else { return Plan::Nothing };
        if let Some(lost) = self.lost {
            return Plan::Impossible(lost.into());
        }
        if let Some(changed) = self.kept.iter().find(|it| it.is_changed) {
            let name = changed.name.as_deref().unwrap_or_default();
            let name = String::from_utf8_lossy(name.get(..200).unwrap_or(name)).into_owned();
            return Plan::Impossible(format!("{name} was changed after it was opened"));
        }
        let confirmation = self.confirmation.clone().map(Replayed::Notification);
        let kept = self.kept.iter().map(|kept| kept.replayed.clone());
        let registrations = self
            .registrations
            .iter()
            .filter_map(|it| Some((it.params.clone(), it.outcome.clone()?)));
        Plan::Replay {
            request: request.clone(),
            result: result.clone(),
            then: confirmation.into_iter().chain(kept).collect(),
            registrations: registrations.collect(),
        }
    }
}

/// Returns the name of a thing from the parameters of a message about it, as raw JSON.
fn name(thing: &Thing, params: Option<&[u8]>) -> Option<Bytes> {
    let found = thing.name.iter().try_fold(params?, |value, name| member(value, name));
    found.map(Bytes::copy_from_slice)
}

#[cfg(test)]
mod tests;
