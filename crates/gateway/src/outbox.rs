//! What waits for a client that does not take it, and what becomes of what has no place there.

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

/// What is done when a client does not take what the far side says, and the channel's own queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The far side waits. Nothing is lost; a client that takes nothing at all for its channel's
    /// [stall timeout](tieline_transport::ChannelConfig::stall_timeout) is
    /// [`Stalled`](CloseReason::Stalled), which is the transport's to see to.
    #[default]
    Wait,
    /// 256 messages or 16 MiB wait for the client; then the oldest of them makes room for the newest.
    DropOldest,
    /// 256 messages or 16 MiB wait for the client; then what the far side says is dropped.
    DropNewest,
    /// 256 messages or 16 MiB wait for the client; then its line ends as an
    /// [`Overrun`](CloseReason::Overrun).
    Disconnect,
}

impl Overflow {
    /// All of them, the default first.
    pub const ALL: [Self; 4] = [Self::Wait, Self::DropOldest, Self::DropNewest, Self::Disconnect];

    /// Returns how long a client's channel should wait for a client that takes nothing, where `usual` is what
    /// the channel would wait otherwise: an hour at least where messages are dropped for the client, because
    /// it holds up nothing then. It is for whoever configures the acceptor.
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

/// The word is none of wait, drop-oldest, drop-newest and disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOverflow;

impl fmt::Display for UnknownOverflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there are wait, drop-oldest, drop-newest and disconnect")
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

/// In front of the sender to a client.
///
/// Where the [dialect](crate::Bridge::dialect) is known, only notifications are dropped: a request or an
/// answer that finds no room takes a place beyond the bound, and then the far side waits.
pub(crate) struct Outbox {
    client: Box<dyn Sender>,
    overflow: Overflow,
    dialect: Option<Dialect>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    account: Account,
    /// Something has a place beyond the bound.
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

    /// The same, and what waits beyond 64 KiB is counted by `memory`.
    pub(crate) fn within(mut self, memory: Option<&MemoryBudget>) -> Self {
        self.account = Account::of(memory, Holding::Queue);
        self
    }

    /// How many of the messages that were taken did not reach the client's sender.
    pub(crate) fn lost(&self) -> u64 {
        self.dropped + self.waiting.len() as u64
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= MESSAGES || self.bytes >= BYTES
    }

    /// Counts what waits, and `more`. Where that is too much, all that may be dropped is.
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
        // What it was told to let go of, it has.
        let _ = self.account.set(0);
        let counted = self.account.set(self.bytes + more);
        counted.map_err(|refused| SendError::Closed(Box::new(refused.into())))
    }

    /// Hands over what the client takes. Ready when nothing waits any more.
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
        // Less is granted, unless it was told to let go, which is found elsewhere.
        let _ = self.account.set(self.bytes);
        Some(waiting)
    }

    fn put(&mut self, message: Bytes, may_be_dropped: bool) {
        self.is_beyond = self.is_full();
        self.bytes += message.len();
        self.waiting.push_back(Waiting { message, may_be_dropped });
    }

    /// Warns once a minute at most.
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

/// What a client is told in place of an answer that it cannot be sent.
fn lost_answer(dialect: Option<&Dialect>, refused: &Refused) -> Option<Bytes> {
    let dialect = dialect.filter(|dialect| dialect.adds_messages)?;
    let outline = Outline::of(&refused.message);
    let id = outline.id().filter(|_| outline.may_be_answer())?;
    let text = format!("the answer was lost: {}", refused.error);
    Some(write_error(dialect, id, INTERNAL_ERROR, &text, None).into())
}

const SLOW: &str = "it does not take what waits for it";
const FULL: &str =
    "it does not take what waits for it, and all lines together hold too much memory";

impl Sender for Outbox {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.overflow == Overflow::Wait {
            return self.client.poll_ready(cx);
        }
        match self.poll_hand_over(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.is_beyond => Poll::Pending,
            // What the client has no room for waits here.
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
                    // Large ones may have to go for one that is larger.
                    while self.is_full()
                        && let Some(place) = self.waiting.iter().position(|it| it.may_be_dropped)
                    {
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

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll_gone(cx)
    }

    fn outgoing(&self) -> Outgoing {
        self.client.outgoing()
    }
}
