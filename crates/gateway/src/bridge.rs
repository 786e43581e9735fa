//! One line from a near channel to a far one, and every way in which it can end.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tieline_link::{Link, LinkOptions, Recovery};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, DynConnector, MemoryBudget, TransportError,
};

use crate::line::Line;
use crate::outbox::Outbox;
use crate::{Overflow, Tap};

/// How two channels are joined.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Names the line in logs and in the tap.
    pub line: u64,
    /// Where every message is recorded.
    pub tap: Option<Tap>,
    /// How long what is under way may still be handed over when the line is stopped; 10 s by
    /// default. So long is an answer waited for, too, where the near side's input has ended, nobody can
    /// tell what an answer is, and the far side's line has no half-close.
    pub grace: Duration,
    /// What is spoken, where that is JSON-RPC: when the far side ends, each request that it has not
    /// answered is answered −32000 in its place, with how it ended. Without one, and for
    /// a dialect that does not [add messages](Dialect::adds_messages), nothing is added to the stream.
    pub dialect: Option<Dialect>,
    /// The far side's program is in a PID namespace of its own. Then, and where a side is not a local one,
    /// a client's process ID in its handshake is replaced by `null` where the dialect has one (LSP): the
    /// program would watch another process, or none, and end.
    pub isolated: bool,
    /// What becomes of what the far side says while the near side does not take it; by default the far
    /// side waits.
    pub overflow: Overflow,
    /// Counts what the gateway itself holds of the line beyond 64 KiB: a message in hand, what waits for a slow
    /// client ([`overflow`](Self::overflow)), its own messages, ids and records. If that is too much the line ends
    /// with [`NoMemory`](CloseReason::NoMemory), except that what may be dropped is dropped first.
    pub memory: Option<MemoryBudget>,
}

impl Default for Bridge {
    fn default() -> Self {
        let grace = Duration::from_secs(10);
        Self {
            line: 1,
            tap: None,
            grace,
            dialect: None,
            isolated: false,
            overflow: Overflow::Wait,
            memory: None,
        }
    }
}

/// What went over a line, and why it ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BridgeReport {
    /// Messages from near to far.
    pub to_far: u64,
    /// Messages from far to near.
    pub to_near: u64,
    /// Messages that were not passed on: not deliverable, not sendable in the other framing, or dropped
    /// because the near side did not [take](Overflow) them.
    pub lost: u64,
    /// How many bytes from the near side the far side did not read before it ended, as far as the operating
    /// system says: those in the pipe to a program, those that waited to be written, and those that had arrived
    /// from the near side and were not passed on. The last are not counted if the near side ended the line.
    pub unread: u64,
    /// How often the far side was started again.
    pub restarted: u64,
    /// The near side had ended its input, or was gone, before the line ended.
    pub near_was_done: bool,
    /// Why the line ended.
    pub end: BridgeEnd,
}

/// Which side ended the line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BridgeEnd {
    /// The far side ended, by itself or after the end of its input.
    Far(CloseReason),
    /// The near side is gone, stopped reading, or broke its framing. The far side was stopped.
    Near {
        /// What became of the near side.
        near: CloseReason,
        /// How the far side ended when it was stopped.
        far: CloseReason,
    },
    /// It was asked to end, and the far side was stopped.
    Stopped(CloseReason),
}

impl BridgeEnd {
    /// Whether everything went as it should.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Far(reason) => reason.is_clean(),
            Self::Near { near, .. } => near.is_clean(),
            Self::Stopped(_) => true,
        }
    }

    /// Returns what to do about it, as a sentence for people.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Far(reason) => reason.hint(),
            Self::Near { near, .. } => near.hint(),
            Self::Stopped(_) => None,
        }
    }
}

impl fmt::Display for BridgeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Far(reason) => reason.fmt(f),
            Self::Near { near, .. } => write!(f, "the client's side has ended: {near}"),
            Self::Stopped(reason) => write!(f, "stopped; {reason}"),
        }
    }
}

/// Passes messages both ways until the line ends, and leaves nothing of it behind.
///
/// - The end of the near side's input is passed on; what the far side still has to say arrives. Where
///   the far side's line has no half-close, that end is the end of the line, and comes when every
///   JSON-RPC request has its answer; where something else was said, when the far side has said as many
///   messages as there were of that and is silent for a second, or after [`grace`](Bridge::grace).
/// - The end of the far side is the end of the line, as soon as all it said was handed over. One that
///   comes back (a [`Link`]) goes on; what it left unanswered is answered where the dialect is known.
/// - When the near side is gone, or `stop` completes, the far side is stopped in stages.
/// - One message that cannot be passed on is counted and logged, and the line goes on.
///
/// Dropping the future ends both sides at once.
pub async fn bridge(
    near: BoxChannel,
    far: BoxChannel,
    options: Bridge,
    stop: impl Future<Output = ()>,
) -> BridgeReport {
    let line = Line::new(&options, near.control(), far.control());
    let control = near.control().clone();
    let (sender, mut receiver) = near.split();
    // What a client had sent before a fault of its own is answered.
    receiver.keep_sender_open();
    let outbox = Outbox::new(sender, options.overflow, options.dialect);
    let mut sender = line.near(outbox.within(options.memory.as_ref()));
    let joined = line.join((&mut sender, &mut receiver), &control, far, pin!(stop)).await;
    line.end((sender, receiver), &control, joined).await
}

/// As [`bridge`], with a far side from `target` that is connected again after it has ended, as
/// `policy` says, for as long as the near side has more to say. What the near side says meanwhile
/// waits; what was on its way to the one that ended is lost with it. The near side hears nothing of a
/// restart unless the [dialect](Bridge::dialect) is known: then what was under way is answered.
///
/// # Errors
/// The first far side could not be connected to.
pub async fn bridge_supervised(
    near: BoxChannel,
    target: Arc<dyn DynConnector>,
    policy: RestartPolicy,
    options: Bridge,
    stop: impl Future<Output = ()>,
) -> Result<BridgeReport, TransportError> {
    let recovery = LinkOptions::recovering(Recovery::Restart(policy));
    let far = Link::connect(target, recovery).await?.boxed();
    Ok(bridge(near, far, options, stop).await)
}
