//! The streams by name, including recently ended ones, so that late requests can be answered precisely.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::*;
use tieline_proto::session::Sequence;
use tieline_transport::Owner;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;

use super::session::Session;
use crate::events::ChannelBackend;
use crate::lock::lock;
use crate::token::random_bits;

/// How many ended streams are remembered.
const MAX_ENDED: usize = 1024;

/// The length of a stream's name in base64 without padding.
const NAME: usize = 22;

pub(in crate::server) struct Table {
    live: Mutex<HashMap<String, Arc<Stream>>>,
    /// The ended streams, oldest first.
    over: Mutex<VecDeque<EndedStream>>,
    max: usize,
}

/// A stream that accepts POSTs.
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) owner: Owner,
    /// The number of the last POST that was taken. Only the task that holds this lock takes messages.
    pub(super) posts: AsyncMutex<u64>,
    pub(super) line: Line,
    /// Notified when the client sends `DELETE`.
    pub(super) leaves: Notify,
}

/// The line that a stream carries.
pub(super) enum Line {
    /// A line that ends with its connection. It carries plain messages, or the frames of a session.
    Plain { backend: ChannelBackend, is_carrier: bool },
    /// A session that outlives its connections.
    Session(Box<Session>),
}

/// A stream that has ended.
struct EndedStream {
    name: String,
    owner: Owner,
    last: Option<Sequence>,
    until: Instant,
}

/// The result of looking up a name.
pub(super) enum Found {
    Live(Arc<Stream>),
    /// The stream has ended. The value is the number of its last event, or `None` if this is unknown or
    /// events were lost.
    Over(Option<Sequence>),
    /// The name is unknown, or its stream belongs to another owner.
    Nothing,
}

impl Table {
    pub(in crate::server) fn new(max: usize) -> Self {
        Self { live: Mutex::default(), over: Mutex::default(), max }
    }

    /// Adds a new stream with a random name. Returns `None` if there are too many streams, or the system
    /// provides no random bytes.
    pub(super) fn add(&self, owner: Owner, line: Line) -> Option<Arc<Stream>> {
        let name = BASE64_URL_SAFE_NO_PAD.encode(random_bits::<16>().ok()?);
        let (posts, leaves) = (AsyncMutex::new(0), Notify::new());
        let stream = Arc::new(Stream { name: name.clone(), owner, posts, line, leaves });
        let mut live = lock(&self.live);
        if live.len() >= self.max {
            return None;
        }
        live.insert(name, stream.clone());
        Some(stream)
    }

    pub(super) fn find(&self, name: &str, owner: Owner) -> Found {
        let live = lock(&self.live).get(name).cloned();
        if let Some(stream) = live {
            return if stream.owner == owner { Found::Live(stream) } else { Found::Nothing };
        }
        let over = lock(&self.over);
        let now = Instant::now();
        let known = over.iter().rev().find(|it| it.name == name && it.owner == owner);
        match known.filter(|it| it.until >= now) {
            Some(ended) => Found::Over(ended.last),
            None => Found::Nothing,
        }
    }

    pub(super) fn remove(&self, stream: &Stream) {
        lock(&self.live).remove(&stream.name);
    }

    /// Removes a stream that has ended, and remembers the number of its last event, if known, for
    /// `grace`.
    pub(super) fn bury(&self, stream: &Stream, last: Option<Sequence>, grace: Duration) {
        if lock(&self.live).remove(&stream.name).is_none() {
            return;
        }
        let mut over = lock(&self.over);
        let now = Instant::now();
        while over.len() >= MAX_ENDED || over.front().is_some_and(|oldest| oldest.until < now) {
            over.pop_front();
        }
        let (name, owner) = (stream.name.clone(), stream.owner);
        over.push_back(EndedStream { name, owner, last, until: now + grace });
    }
}

/// Splits an event id into the name of its stream and the event's number.
pub(super) fn read_id(id: &str) -> Option<(&str, Sequence)> {
    let (name, number) = id.split_once('.')?;
    let is_number = !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit());
    let is_name = name.len() == NAME;
    (is_name && is_number).then_some((name, number.parse().ok()?))
}
