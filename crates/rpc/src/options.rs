//! Options of a peer.

use std::time::Duration;

use tieline_proto::ByteSize;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::Dialect;

/// Options of a peer. The defaults are safe.
#[derive(Clone, Copy, Debug)]
pub struct PeerOptions {
    /// The dialect of the other side; strict JSON-RPC 2.0 by default.
    pub dialect: Dialect,
    /// Limits on the structure of a message: 128 levels of nesting and 100,000 object members by
    /// default. A message beyond them is answered with −32600. The length of a message is limited by
    /// the channel.
    pub limits: Limits,
    /// How many requests from the other side run at once; 256 by default. With 0, none runs.
    pub max_in_flight: usize,
    /// How many more requests wait; 256 by default. Further ones are answered with `overloaded`.
    pub max_waiting: usize,
    /// How many bytes each of three queues may hold, 16 MiB by default: calls and notifications to be
    /// sent, notifications to be handled, and requests that wait or run. A message to be sent counts as
    /// at least 64 KiB and a notification to be handled as at least 4 KiB, which limits their number to
    /// 256 and 4,096.
    ///
    /// While twice as many bytes or 4,096 messages are waiting to be sent, no further requests are started.
    /// While twice as many bytes of refusals alone are waiting to be sent, nothing is read, and after
    /// [`grace`](Self::grace) the line ends.
    pub queue: ByteSize,
    /// How long a call waits for room in the queue and for its response, unless [set per
    /// call](crate::Invocation::timeout); forever by default.
    ///
    /// There is no default limit because a call may legitimately take hours: an agent's turn, a build, a
    /// question to a person. A call does not outlive its line, so it fails when the other side exits or
    /// the connection is lost. Set a limit if the other side can be alive and never answer.
    pub call_timeout: Option<Duration>,
    /// How long [`Peer::close`](crate::Peer::close) waits for work in progress, and how long reading
    /// may be paused because of full queues; 10 s by default.
    pub grace: Duration,
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            dialect: Dialect::STRICT,
            limits: Limits::default(),
            max_in_flight: 256,
            max_waiting: 256,
            queue: ByteSize::mib(16),
            call_timeout: None,
            grace: Duration::from_secs(10),
        }
    }
}

impl PeerOptions {
    /// Returns the defaults, with another dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, ..Self::default() }
    }
}

/// The minimum weight of a message in a queue.
const LEAST_WEIGHT: usize = 64 * 1024;

/// Returns the weight of a message: its length, but at least 64 KiB, so that a queue of 16 MiB holds at
/// most 256 messages. A message larger than the queue takes all of it.
pub(crate) fn weight(length: usize, queue: ByteSize) -> usize {
    length.max(LEAST_WEIGHT).min(queue.bytes().max(1))
}
