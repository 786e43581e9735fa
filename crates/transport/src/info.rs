//! What can be known about a connection while it lives.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::Endpoint;

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

/// Who is on the other end, as the operating system vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The process, where it is known. It may have ended since.
    pub pid: Option<u32>,
    /// The effective user when the connection was made.
    pub uid: u32,
    /// The effective group when the connection was made.
    pub gid: u32,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pid) = self.pid {
            write!(f, "pid {pid}, ")?;
        }
        write!(f, "uid {}", self.uid)
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
}

/// Counts what moves. Relaxed: a snapshot need not be of one instant.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) since: Instant,
    last_activity_us: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) faults: AtomicU64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            last_activity_us: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        }
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
        self.touch();
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
        self.touch();
    }

    fn touch(&self) {
        self.last_activity_us.store(self.since.elapsed().as_micros() as u64, Relaxed);
    }

    pub(crate) fn last_activity(&self) -> Instant {
        self.since + Duration::from_micros(self.last_activity_us.load(Relaxed))
    }
}
