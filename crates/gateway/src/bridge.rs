//! Joins a near and a far channel into one line.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tieline_link::{Link, LinkOptions, Recovery};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, ChildExit, CloseReason, DynConnector, MemoryBudget, TransportError,
};

use crate::bridged_line::BridgedLine;
use crate::outbox::Outbox;
use crate::{Overflow, Tap};

/// Options for joining two channels.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// The number of the line in logs and in the tap.
    pub line: u64,
    /// The recorder of every message, if any.
    pub tap: Option<Tap>,
    /// How long messages in flight may take to be delivered when the line is stopped; 10 s by default.
    ///
    /// If the far side's line has no half-close, the end of input is only passed on after the answers.
    /// An answer to text that is not JSON-RPC cannot be recognized, so the wait for it is limited to six
    /// grace periods (60 s by default), or to one over HTTP, where answers can still arrive after the
    /// end of input. If neither side has sent anything, the bridge waits for the far side's first
    /// message for one grace period. These times restart while bytes move.
    ///
    /// If the near side breaks its framing, the bridge waits for the responses to its earlier requests
    /// for one grace period.
    pub grace: Duration,
    /// The JSON-RPC dialect of the messages, if any. When the far side ends, each request that it has not
    /// answered gets an error response with code −32000 that says how it ended. Nothing is added to the
    /// stream without a dialect, or with one that does not [add messages](Dialect::adds_messages).
    pub dialect: Option<Dialect>,
    /// Whether the far side's program runs in its own PID namespace. If so, or if a side is not local, the
    /// client's process ID in the handshake is replaced by `null` if the dialect has one (LSP). Otherwise the
    /// program would watch the wrong process, or none, and exit.
    pub isolated: bool,
    /// The policy for a near side that does not read its messages fast enough; by default the far side
    /// waits.
    pub overflow: Overflow,
    /// The budget for the memory beyond 64 KiB that the gateway itself uses for the line: a message that
    /// waits for room, the queue for a slow client ([`overflow`](Self::overflow)), the gateway's own
    /// messages, request ids, and the record of the handshake. If the budget is exceeded, messages that
    /// may be dropped are dropped first; then the line ends with [`NoMemory`](CloseReason::NoMemory).
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

/// The totals of a line, and why it ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BridgeReport {
    /// Messages from near to far.
    pub to_far: u64,
    /// Messages from far to near.
    pub to_near: u64,
    /// Messages that were not passed on: they could not be received, could not be sent in the other framing,
    /// or were dropped because the near side was [too slow](Overflow).
    pub lost: u64,
    /// Bytes from the near side that the far side did not read before it ended, as far as the operating
    /// system reports them: bytes in the pipe to a program, bytes that waited to be written, and bytes
    /// that had arrived from the near side and were not passed on. Bytes of the last kind are not
    /// counted if the near side ended the line.
    pub unread: u64,
    /// Bytes that were written to the near side. Of a session, the number of messages that it has acknowledged.
    pub written: u64,
    /// Bytes of messages to the near side that were not written before it ended. Of a session, those that it has not
    /// acknowledged.
    pub unwritten: u64,
    /// How often the far side was restarted.
    pub restarted: u64,
    /// Whether the near side had ended its input, or had disconnected, before the line ended.
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
    /// The near side disconnected, stopped reading, or broke its framing. The far side was stopped.
    Near {
        /// Why the near side ended.
        near: CloseReason,
        /// How the far side ended when it was stopped.
        far: CloseReason,
    },
    /// The line was stopped on request, and the far side was stopped.
    Stopped(CloseReason),
}

impl BridgeEnd {
    /// Returns whether the line ended without an error.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Far(reason) => reason.is_clean(),
            Self::Near { near, .. } => near.is_clean(),
            Self::Stopped(_) => true,
        }
    }

    /// Returns how the program on the side that ended the line has ended, if there is a program.
    pub fn child_exit(&self) -> Option<&ChildExit> {
        match self {
            Self::Far(reason) | Self::Near { near: reason, .. } | Self::Stopped(reason) => {
                reason.child_exit()
            }
        }
    }

    /// Returns what the user can do about the problem, if anything.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Far(reason) => reason.hint(),
            Self::Near { near, .. } => near.hint(),
            Self::Stopped(_) => None,
        }
    }
}

/// The alternate form (`{:#}`) leaves out a program's stderr output.
impl fmt::Display for BridgeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Far(reason) => reason.fmt(f),
            Self::Near { near, .. } => {
                f.write_str("the client's side has ended: ")?;
                near.fmt(f)
            }
            Self::Stopped(reason) => {
                f.write_str("stopped; ")?;
                reason.fmt(f)
            }
        }
    }
}

/// Passes messages in both directions until the line ends, and then stops the far side.
///
/// - When the near side ends its input, the end is passed on, and the far side's remaining messages are
///   delivered. If the far side's line has no half-close, passing on the end closes that line. It is
///   passed on only once every JSON-RPC request is answered. If the near side has also sent other text,
///   the far side must first send as many other messages, within the time that [`grace`](Bridge::grace)
///   allows, and then be silent for a second.
/// - When the far side ends, the line ends as soon as the far side's messages are delivered. A far side that
///   reconnects (a [`Link`]) does not end the line; requests that it left unanswered get an error response if
///   the dialect is known.
/// - When the near side disconnects, or `stop` completes, the far side is stopped in stages.
/// - A single message that cannot be passed on is counted and logged, and the line continues. If it came
///   from a session, which has already acknowledged it, the line ends unless the dialect allows an error
///   response.
///
/// Dropping the future closes both sides at once.
pub async fn bridge(
    near: BoxChannel,
    far: BoxChannel,
    options: Bridge,
    stop: impl Future<Output = ()>,
) -> BridgeReport {
    let line = BridgedLine::new(&options, near.control(), far.control());
    let control = near.control().clone();
    let (sender, mut receiver) = near.split();
    // Requests that the client sent before a fault must still be answered.
    receiver.keep_sender_open();
    let outbox = Outbox::new(sender, options.overflow, options.dialect);
    let mut sender = line.near(outbox.within(options.memory.as_ref()));
    let joined = line.join((&mut sender, &mut receiver), &control, far, pin!(stop)).await;
    line.end((sender, receiver), &control, joined).await
}

/// Works like [`bridge`], but connects to the far side through `target`. When the far side ends,
/// reconnects it according to `policy`, as long as the near side has not ended its input.
///
/// Messages from the near side wait during a restart. Messages in flight to the far side that ended are
/// lost. The near side does not notice a restart unless the [dialect](Bridge::dialect) is known: then its
/// requests in flight get an error response.
///
/// # Errors
/// Fails if the first connection to the far side fails.
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
