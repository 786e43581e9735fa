//! The queue of messages for a slow client, and the policies for when it is full.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, INTERNAL_ERROR, Message, Outline, classify, write_error};
use tieline_transport::{
    Account, CloseReason, Holding, MemoryBudget, Outgoing, Refused, SendError, Sender, WarnThrottle,
};

/// The policy for a client that does not read its messages fast enough, once the channel's own queue is
/// full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The far side waits, and nothing is lost. The transport closes the line of a client that reads nothing
    /// for its channel's [stall timeout](tieline_transport::ChannelConfig::stall_timeout), with
    /// [`Stalled`](CloseReason::Stalled).
    #[default]
    Wait,
    /// Up to 256 messages or 16 MiB are queued for the client; then the oldest message is dropped.
    DropOldest,
    /// Up to 256 messages or 16 MiB are queued for the client; then new messages are dropped.
    DropNewest,
    /// Up to 256 messages or 16 MiB are queued for the client; then its line ends with
    /// [`Overrun`](CloseReason::Overrun).
    Disconnect,
}

impl Overflow {
    /// All policies, the default first.
    pub const ALL: [Self; 4] = [Self::Wait, Self::DropOldest, Self::DropNewest, Self::Disconnect];

    /// Returns the stall timeout to configure for the acceptor's channels, given the `usual` one. It is at
    /// least an hour if messages are dropped for a slow client, because such a client blocks nothing.
    pub fn stall_timeout(self, usual: Duration) -> Duration {
        match self {
            Self::DropOldest | Self::DropNewest => usual.max(AN_HOUR),
            Self::Wait | Self::Disconnect => usual,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Disconnect => "disconnect",
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error for a name other than wait, drop-oldest, drop-newest and disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOverflow;

impl fmt::Display for UnknownOverflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected wait, drop-oldest, drop-newest or disconnect")
    }
}

impl std::error::Error for UnknownOverflow {}

impl FromStr for Overflow {
    type Err = UnknownOverflow;

    fn from_str(name: &str) -> Result<Self, UnknownOverflow> {
        Self::ALL.into_iter().find(|it| it.name() == name).ok_or(UnknownOverflow)
    }
}

const AN_HOUR: Duration = Duration::from_secs(60 * 60);

const MESSAGES: usize = 256;
const BYTES: usize = 16 * 1024 * 1024;

/// A bounded queue in front of the sender to a client.
///
/// If the [dialect](crate::Bridge::dialect) is known, only notifications are dropped. A request or response
/// is queued even if the queue is full, and then the far side waits.
pub(crate) struct Outbox {
    client: Box<dyn Sender>,
    overflow: Overflow,
    dialect: Option<Dialect>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    account: Account,
    /// A message was queued beyond the bound.
    is_beyond: bool,
    dropped: u64,
    warnings: WarnThrottle,
}

struct Waiting {
    message: Bytes,
    may_be_dropped: bool,
}

impl Outbox {
    pub(crate) fn new(
        client: Box<dyn Sender>,
        overflow: Overflow,
        dialect: Option<Dialect>,
    ) -> Self {
        Self {
            client,
            overflow,
            dialect,
            waiting: VecDeque::new(),
            bytes: 0,
            account: Account::unbounded(),
            is_beyond: false,
            dropped: 0,
            warnings: WarnThrottle::new(|count| {
                tracing::warn!(count, "more messages for the client were dropped");
            }),
        }
    }

    /// Counts queued messages beyond 64 KiB in `memory`.
    pub(crate) fn within(mut self, memory: Option<&MemoryBudget>) -> Self {
        self.account = Account::of(memory, Holding::Queue);
        self
    }

    /// Returns how many accepted messages did not reach the client's sender.
    pub(crate) fn lost(&self) -> u64 {
        self.dropped + self.waiting.len() as u64
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= MESSAGES || self.bytes >= BYTES
    }

    /// Counts the queued bytes and `more`. If the memory budget is exceeded, drops all messages that may be
    /// dropped.
    fn hold(&mut self, more: usize) -> Result<(), SendError> {
        if self.account.set(self.bytes + more).is_ok() {
            return Ok(());
        }
        let mut kept = VecDeque::new();
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting.may_be_dropped {
                true => {
                    self.bytes -= waiting.message.len();
                    self.drop_one(&FULL);
                }
                false => kept.push_back(waiting),
            }
        }
        self.waiting = kept;
        self.is_beyond &= self.is_full();
        // The account may have been asked to release everything. That is done now.
        let _ = self.account.set(0);
        let counted = self.account.set(self.bytes + more);
        counted.map_err(|refused| SendError::Closed(Box::new(refused.into())))
    }

    /// Passes on queued messages while the client has room. Returns `Ready` when the queue is empty.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.account.check(cx.waker()).is_err() {
            self.hold(0)?;
        }
        while !self.waiting.is_empty() {
            ready!(self.client.poll_ready(cx))?;
            let Some(Waiting { message, .. }) = self.take(0) else { continue };
            match self.client.pass_on(message) {
                Ok(()) => {}
                Err(SendError::Message(refused)) => {
                    self.drop_one(&refused.error);
                    let answer = lost_answer(self.dialect.as_ref(), &refused);
                    let _ = answer.map(|answer| self.client.start_send(answer));
                }
                Err(error) => {
                    self.dropped += 1;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, place: usize) -> Option<Waiting> {
        let waiting = self.waiting.remove(place)?;
        self.bytes -= waiting.message.len();
        self.is_beyond &= self.is_full();
        // Counting less can fail only if the account was revoked, which `poll_hand_over` checks.
        let _ = self.account.set(self.bytes);
        Some(waiting)
    }

    fn put(&mut self, message: Bytes, may_be_dropped: bool) {
        self.is_beyond = self.is_full();
        self.bytes += message.len();
        self.waiting.push_back(Waiting { message, may_be_dropped });
    }

    /// Counts a dropped message, and warns at most once per minute.
    fn drop_one(&mut self, why: &dyn fmt::Display) {
        self.dropped += 1;
        if let Some(unreported) = self.warnings.admit(Instant::now()) {
            tracing::warn!(unreported, "a message for the client was dropped: {why}");
        }
    }

    fn may_be_dropped(&self, message: &Bytes) -> bool {
        let Some(dialect) = &self.dialect else { return true };
        let message = classify(message.clone(), dialect, Limits::default());
        matches!(message, Message::Notification(_))
    }
}

/// Returns an error response in place of a response that cannot be sent.
fn lost_answer(dialect: Option<&Dialect>, refused: &Refused) -> Option<Bytes> {
    let dialect = dialect.filter(|dialect| dialect.adds_messages)?;
    let outline = Outline::of(&refused.message);
    let id = outline.id().filter(|_| outline.may_be_answer())?;
    let text = format!("the response was lost: {}", refused.error);
    Some(write_error(dialect, id, INTERNAL_ERROR, &text, None).into())
}

const SLOW: &str = "the client reads too slowly, and its queue is full";
const FULL: &str =
    "the client reads too slowly, and all lines together have reached their memory limit";

impl Sender for Outbox {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.overflow == Overflow::Wait {
            return self.client.poll_ready(cx);
        }
        match self.poll_hand_over(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.is_beyond => Poll::Pending,
            // A message that the client has no room for is queued here.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.pass_on(message)
    }

    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        if self.overflow == Overflow::Wait {
            return self.client.pass_on(message);
        }
        let may_be_dropped = self.may_be_dropped(&message);
        if self.is_full() {
            match self.overflow {
                Overflow::Disconnect => {
                    return Err(SendError::Closed(Box::new(CloseReason::Overrun)));
                }
                Overflow::DropOldest => {
                    // One removal may not be enough, because the bound is also in bytes.
                    while self.is_full() {
                        let place = self.waiting.iter().position(|it| it.may_be_dropped);
                        let Some(place) = place else { break };
                        drop(self.take(place));
                        self.drop_one(&SLOW);
                    }
                }
                _ => {}
            }
            if self.is_full() && may_be_dropped {
                self.drop_one(&SLOW);
                return Ok(());
            }
        }
        match self.hold(message.len()) {
            Ok(()) => self.put(message, may_be_dropped),
            Err(_) if may_be_dropped => self.drop_one(&FULL),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.poll_hand_over(cx))?;
        self.client.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.poll_hand_over(cx))?;
        self.client.poll_close(cx)
    }

    fn unwritten(&self) -> usize {
        self.client.unwritten()
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll_acknowledged(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll_gone(cx)
    }

    fn outgoing(&self) -> Outgoing {
        self.client.outgoing()
    }
}
