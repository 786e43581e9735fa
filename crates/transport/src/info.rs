//! What can be known about a connection while it lives.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tieline_proto::Histogram;

use crate::{Endpoint, PeerIdentity};

/// The kind of a transport, as its scheme names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransportKind(&'static str);

impl TransportKind {
    /// Unix sockets.
    pub const UNIX: Self = Self("unix");
    /// A child process on pipes.
    pub const PROCESS: Self = Self("exec");
    /// Own stdin and stdout.
    pub const STDIO: Self = Self("stdio");
    /// Windows named pipes.
    pub const PIPE: Self = Self("pipe");
    /// TCP.
    pub const TCP: Self = Self("tcp");
    /// Inside this process.
    pub const MEMORY: Self = Self("mem");

    /// The kind of a transport of one's own.
    pub const fn custom(scheme: &'static str) -> Self {
        Self(scheme)
    }

    /// The scheme.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a connection can do beyond carrying bytes both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// One direction can end while the other goes on.
    pub half_close: bool,
    /// The operating system says who the peer is.
    pub peer_identity: bool,
    /// The far side's disappearance is noticed without writing to it.
    pub notices_hangup: bool,
    /// Anybody may have made this connection, a web page included: believe nothing before it has
    /// sent a whole message of the right kind.
    pub unauthenticated: bool,
    /// The line is a session: a message that was received counts as delivered, so one that cannot be
    /// passed on has to end the session.
    pub is_session: bool,
}

/// Whether what stands behind a connection is alive, as far as can be told without asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Nothing speaks against it.
    Up,
    /// It has ended.
    Down,
}

/// A snapshot of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The transport.
    pub kind: TransportKind,
    /// Where it leads, or on which listener it came in.
    pub endpoint: Endpoint,
    /// Who is on the other end.
    pub peer: Option<PeerIdentity>,
    /// When it was made.
    pub since: Instant,
    /// When bytes last moved in either direction.
    pub last_activity: Instant,
    /// When bytes last came in; when it was made, if none did. A line that stands on others, as a Link
    /// does, need not know.
    pub last_received: Instant,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// Whole messages that came in.
    pub messages_in: u64,
    /// Whole messages that were queued to go out.
    pub messages_out: u64,
    /// Messages that were not delivered, each reported as a fault or refused.
    pub faults: u64,
    /// How it stands, if it is a session that survives its connections and has not ended.
    pub session: Option<Box<SessionInfo>>,
}

/// How a session stands.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Which connection of all it has, or had last; the first is 1.
    pub epoch: u64,
    /// It has a connection.
    pub is_connected: bool,
    /// Messages that are kept until the other side has acknowledged them, those that wait to be written
    /// among them.
    pub kept_messages: usize,
    /// How many bytes they have.
    pub kept_bytes: usize,
    /// Messages that have come and wait for this side's consumer.
    pub waiting_messages: usize,
    /// How long it took until a message was acknowledged, which an outage makes longer: of the first and
    /// every sixteenth behind it, one at a time.
    pub latency: Histogram,
}

/// What moved over several connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// Whole messages that came in.
    pub messages_in: u64,
    /// Whole messages that were queued to go out.
    pub messages_out: u64,
    /// Messages that were not delivered.
    pub faults: u64,
}

impl Traffic {
    /// With what moved over one more.
    pub fn add(&mut self, info: &ConnectionInfo) {
        self.bytes_in += info.bytes_in;
        self.bytes_out += info.bytes_out;
        self.messages_in += info.messages_in;
        self.messages_out += info.messages_out;
        self.faults += info.faults;
    }

    /// The other way round: it is a part of what moved over a connection that stands on others.
    pub fn add_to(&self, info: &mut ConnectionInfo) {
        info.bytes_in += self.bytes_in;
        info.bytes_out += self.bytes_out;
        info.messages_in += self.messages_in;
        info.messages_out += self.messages_out;
        info.faults += self.faults;
    }
}

/// A count to which only one half of a line adds, so that adding needs no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.get() + more, Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts what moves. A snapshot need not be of one instant.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) since: Instant,
    last_activity_us: AtomicU64,
    last_received_us: AtomicU64,
    pub(crate) bytes_in: Count,
    pub(crate) bytes_out: Count,
    pub(crate) messages_in: Count,
    pub(crate) messages_out: Count,
    /// Of both halves.
    faults: AtomicU64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            last_activity_us: AtomicU64::new(0),
            last_received_us: AtomicU64::new(0),
            bytes_in: Count::default(),
            bytes_out: Count::default(),
            messages_in: Count::default(),
            messages_out: Count::default(),
            faults: AtomicU64::new(0),
        }
    }

    pub(crate) fn fault(&self) {
        self.faults.fetch_add(1, Relaxed);
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Relaxed)
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes_in.add(bytes as u64);
        self.last_received_us.store(self.touch(), Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes_out.add(bytes as u64);
        self.touch();
    }

    fn touch(&self) -> u64 {
        let now = self.since.elapsed().as_micros() as u64;
        self.last_activity_us.store(now, Relaxed);
        now
    }

    pub(crate) fn last_activity(&self) -> Instant {
        self.since + Duration::from_micros(self.last_activity_us.load(Relaxed))
    }

    pub(crate) fn last_received(&self) -> Instant {
        self.since + Duration::from_micros(self.last_received_us.load(Relaxed))
    }
}
