//! How a peer behaves.

use std::time::Duration;

use tieline_proto::ByteSize;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::Dialect;

/// How a peer behaves. The defaults are safe.
#[derive(Clone, Copy, Debug)]
pub struct PeerOptions {
    /// What the other side speaks; strict JSON-RPC 2.0 by default.
    pub dialect: Dialect,
    /// How much structure a message may have: 128 levels and 100,000 object members by default. One
    /// that has more is answered −32600; how long it may be is the channel's to say.
    pub limits: Limits,
    /// How many requests of the other side are carried out at once; 256 by default. With 0, none is.
    pub max_in_flight: usize,
    /// How many more of them wait; 256 by default. Those beyond are answered `overloaded`.
    pub max_waiting: usize,
    /// How many bytes wait: of calls and notifications to be sent, of notifications to be handled, and
    /// of requests that wait and run; 16 MiB each by default. A message to be sent counts as 64 KiB at
    /// least and a notification to be handled as 4 KiB, so that there are no more than 256 and 4,096.
    ///
    /// With twice as many bytes unsent, or 4,096 messages, no more requests are started; with twice as
    /// many bytes of mere refusals unsent, nothing more is read, and after [`grace`](Self::grace) the
    /// line ends.
    pub queue: ByteSize,
    /// How long a call waits for room in the queue and for its answer, unless
    /// [it says otherwise](crate::Invocation::timeout); for ever by default.
    pub call_timeout: Option<Duration>,
    /// How long [`Peer::close`](crate::Peer::close) waits for what is under way, and how long reading
    /// may stand still for what is full; 10 s by default.
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
    /// The defaults, for another dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, ..Self::default() }
    }
}

/// The least that a message counts for in a queue.
const LEAST_WEIGHT: usize = 64 * 1024;

/// What a message counts for: its bytes, and at least as much as keeps 16 MiB below 256 messages.
/// One that is larger than the queue fills it.
pub(crate) fn weight(length: usize, queue: ByteSize) -> usize {
    length.max(LEAST_WEIGHT).min(queue.bytes().max(1))
}
