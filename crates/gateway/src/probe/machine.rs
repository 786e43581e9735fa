//! Which pings are sent, and whether a program answers. It has no I/O and no clock.

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Dialect, Message, PingRules, Request, classify, elements, locate, write_request,
};

/// How many pings in a row a program may leave unanswered.
pub(super) const MISSES: u32 = 3;

/// The state of one program.
pub(super) struct Machine {
    dialect: Dialect,
    rules: &'static PingRules,
    /// The beginning of the ids of the pings.
    prefix: String,
    manner: Manner,
    /// The program has sent something since it got its first request.
    is_awake: bool,
    last: u64,
    /// The lengths of the pings that have no answer yet, with one more byte each for the framing.
    due: Vec<(u64, usize)>,
    has_sent: bool,
    misses: u32,
}

/// How the client and the program speak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The program has got no request yet, and may still be starting.
    Unknown,
    /// There was a request without a handshake. A handshake may follow.
    Untied,
    Handshake,
}

/// What to do when the time between two pings has passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tick {
    Nothing,
    Ping(Bytes),
    /// The program has not answered [`MISSES`] pings.
    Gone,
}

/// How many pings without an answer are remembered. Answers to older ones are passed on.
const MAX_DUE: usize = 1024;

impl Machine {
    /// Creates the state of a program that has got nothing yet. `prefix` must be different for each program, and not
    /// known to its clients.
    pub(super) fn new(dialect: Dialect, rules: &'static PingRules, prefix: String) -> Self {
        Self {
            dialect,
            rules,
            prefix,
            manner: Manner::Unknown,
            is_awake: false,
            last: 0,
            due: Vec::new(),
            has_sent: false,
            misses: 0,
        }
    }

    fn classify(&self, message: Bytes) -> Message {
        let mut dialect = self.dialect;
        (dialect.version, dialect.batches) = (false, true);
        classify(message, &dialect, Limits::default())
    }

    /// Takes note of a message for the program.
    pub(super) fn passed(&mut self, message: &Bytes) {
        if self.manner == Manner::Handshake {
            return;
        }
        match self.classify(message.clone()) {
            Message::Request(request) => self.requested(&request),
            Message::Batch(messages) => {
                for message in messages.iter() {
                    if let Message::Request(request) = message {
                        self.requested(request);
                    }
                }
            }
            _ => {}
        }
    }

    fn requested(&mut self, request: &Request) {
        let has_tag = || {
            let params = request.params().unwrap_or_default();
            locate(params, self.rules.tag).ok().flatten().is_some()
        };
        if request.method() == self.rules.opening {
            self.manner = Manner::Handshake;
        } else if self.manner == Manner::Unknown && has_tag() {
            self.manner = Manner::Untied;
        }
    }

    /// Takes a message from the program. Returns what is left of it for the client.
    pub(super) fn received(&mut self, message: Bytes) -> Option<Bytes> {
        self.alive();
        let prefix = self.prefix.as_bytes();
        let has_answer =
            !self.due.is_empty() && message.windows(prefix.len()).any(|part| part == prefix);
        if !has_answer {
            return Some(message);
        }
        match self.classify(message.clone()) {
            Message::Batch(_) => {
                let all = elements(&message).unwrap_or_default();
                let (before, mut left) = (all.len(), Vec::new());
                for element in all {
                    let seen = self.classify(element.clone());
                    if !self.is_answer(&seen) {
                        left.push(element);
                    }
                }
                match left.len() {
                    0 => None,
                    same if same == before => Some(message),
                    _ => Some([b"[".as_slice(), &left.join(&b","[..]), b"]"].concat().into()),
                }
            }
            one => (!self.is_answer(&one)).then_some(message),
        }
    }

    /// Records a sign of life.
    pub(super) fn alive(&mut self) {
        self.misses = 0;
        self.has_sent = true;
        self.is_awake = self.is_awake || self.manner != Manner::Unknown;
    }

    /// Returns whether this is the answer to a ping, and forgets the ping.
    fn is_answer(&mut self, message: &Message) -> bool {
        let id = match message {
            Message::Response(response) => response.id(),
            Message::Invalid(invalid) if invalid.is_response() => invalid.id(),
            _ => return false,
        };
        let number = id.strip_prefix(b"\"").and_then(|id| id.strip_prefix(self.prefix.as_bytes()));
        let number = number.and_then(|id| id.strip_suffix(b"\""));
        let number: Option<u64> = number.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        let Some(number) = number else {
            return false;
        };
        let before = self.due.len();
        self.due.retain(|(due, _)| *due != number);
        before > self.due.len()
    }

    /// Returns the next action. `moved` says whether bytes of an unfinished message have arrived since the last call.
    pub(super) fn tick(&mut self, moved: bool) -> Tick {
        if !self.is_awake {
            return Tick::Nothing;
        }
        if std::mem::take(&mut self.has_sent) || moved {
            self.misses = 0;
        } else {
            self.misses += 1;
        }
        if self.misses >= MISSES {
            return Tick::Gone;
        }
        self.last += 1;
        let (method, params) = match self.manner {
            Manner::Handshake => (self.rules.ping, None),
            _ => (self.rules.untied.0, Some(self.rules.untied.1.as_bytes())),
        };
        let id = format!("\"{}{}\"", self.prefix, self.last);
        Tick::Ping(write_request(&self.dialect, id.as_bytes(), method, params).into())
    }

    /// Records that the last ping was sent.
    pub(super) fn pinged(&mut self, length: usize) {
        if self.due.len() >= MAX_DUE {
            self.due.remove(0);
        }
        self.due.push((self.last, length + 1));
    }

    /// Returns how many bytes of pings the program may have left unread.
    pub(super) fn due_bytes(&self) -> usize {
        self.due.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests;
