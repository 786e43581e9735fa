//! Information about a live connection.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tieline_proto::Histogram;

use crate::PeerIdentity;
use crate::endpoint::Endpoint;

/// The kind of a transport, named by its scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransportKind(&'static str);

impl TransportKind {
    /// Unix sockets.
    pub const UNIX: Self = Self("unix");
    /// A child process connected by pipes.
    pub const PROCESS: Self = Self("exec");
    /// The stdin and stdout of this process.
    pub const STDIO: Self = Self("stdio");
    /// Windows named pipes.
    pub const PIPE: Self = Self("pipe");
    /// TCP.
    pub const TCP: Self = Self("tcp");
    /// A line inside this process.
    pub const MEMORY: Self = Self("mem");

    /// Returns the kind of a custom transport.
    pub const fn custom(scheme: &'static str) -> Self {
        Self(scheme)
    }

    /// Returns the scheme.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The abilities of a connection beyond carrying bytes in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether one direction can end while the other continues.
    pub half_close: bool,
    /// Whether the operating system identifies the peer.
    pub peer_identity: bool,
    /// Whether it is noticed without writing that the other side is gone.
    pub notices_hangup: bool,
    /// Whether any program, including a web page, may have opened this connection. Do not trust such a
    /// connection before it has sent a whole message of the right kind.
    pub unauthenticated: bool,
    /// Whether the line is a session. Received messages are acknowledged as delivered, so a message that
    /// cannot be passed on must end the session.
    pub is_session: bool,
    /// Whether the other side acknowledges the last messages of a session only after the session has ended. The
    /// end of such a session cannot wait for that.
    pub acknowledges_late: bool,
}

/// The health of the other side of a connection, as far as it is known without communicating with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// There is no sign that the other side has ended.
    Up,
    /// The other side has ended.
    Down,
}

/// A snapshot of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The transport.
    pub kind: TransportKind,
    /// The endpoint that it connected to, or the listener's endpoint.
    pub endpoint: Endpoint,
    /// The peer's identity.
    pub peer: Option<PeerIdentity>,
    /// The time at which the connection was made.
    pub since: Instant,
    /// The time at which bytes last moved in either direction.
    pub last_activity: Instant,
    /// The time at which bytes were last received, or at which the connection was made if none were
    /// received. On lines on top of others, such as a Link, this may not be known.
    pub last_received: Instant,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Whole messages received.
    pub messages_in: u64,
    /// Whole messages queued for sending.
    pub messages_out: u64,
    /// Messages that were not delivered. Each was reported as a fault or refused.
    pub faults: u64,
    /// The session's state, if this is a session that has not ended.
    pub session: Option<Box<SessionInfo>>,
}

/// The state of a session.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The number of the current or last connection; the first is 1.
    pub epoch: u64,
    /// Whether it has a connection.
    pub is_connected: bool,
    /// Messages kept until the other side acknowledges them, including those not written yet.
    pub kept_messages: usize,
    /// The size of the kept messages in bytes.
    pub kept_bytes: usize,
    /// Received messages that this side has not consumed yet.
    pub waiting_messages: usize,
    /// The time until a message was acknowledged, including outages. It is measured for the first
    /// message and every sixteenth one after it, one at a time.
    pub latency: Histogram,
}

/// Counters summed over several connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Whole messages received.
    pub messages_in: u64,
    /// Whole messages queued for sending.
    pub messages_out: u64,
    /// Messages that were not delivered.
    pub faults: u64,
}

impl Traffic {
    /// Adds the counters of one more connection.
    pub fn add(&mut self, info: &ConnectionInfo) {
        self.bytes_in += info.bytes_in;
        self.bytes_out += info.bytes_out;
        self.messages_in += info.messages_in;
        self.messages_out += info.messages_out;
        self.faults += info.faults;
    }

    /// Adds these counters to `info`, for a connection on top of others.
    pub fn add_to(&self, info: &mut ConnectionInfo) {
        info.bytes_in += self.bytes_in;
        info.bytes_out += self.bytes_out;
        info.messages_in += self.messages_in;
        info.messages_out += self.messages_out;
        info.faults += self.faults;
    }
}

/// A counter that only one half of a line increments. It therefore needs no atomic read-modify-write
/// instruction.
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

/// The counters of a line. A snapshot of them may mix values from different instants.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) since: Instant,
    last_activity_us: AtomicU64,
    last_received_us: AtomicU64,
    pub(crate) bytes_in: Count,
    pub(crate) bytes_out: Count,
    pub(crate) messages_in: Count,
    pub(crate) messages_out: Count,
    /// Incremented by both halves.
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
