//! Distinguishes a stalled write from one that makes slow progress.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::deadline::from_now;

/// How many times per limit a blocked write is checked.
const LOOKS: u32 = 4;

/// A detector of stalled writes on one stream: writes that make no progress for the limit.
///
/// A write makes progress when the stream accepts a byte or a byte leaves a buffer below it. The fill
/// level of the kernel's buffer is queried only occasionally while a write is blocked.
pub struct StallClock {
    limit: Duration,
    /// The limit until the other side has read its first byte.
    start: Duration,
    blocked: Option<Blocked>,
}

struct Blocked {
    since: Instant,
    /// How many bytes had been handed to the kernel at the last check.
    left: u64,
    /// The number of those bytes that had left the kernel.
    gone: u64,
    /// The time at which one of these numbers last grew.
    moved: Instant,
    /// The timer of the next check.
    look: Pin<Box<Sleep>>,
}

impl StallClock {
    /// Creates a clock for writes that may make no progress for up to `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, start: limit, blocked: None }
    }

    /// Sets the limit that applies until the other side has read its first byte, if it is longer than
    /// the usual limit.
    pub(super) fn starting_within(mut self, start: Duration) -> Self {
        self.start = start.max(self.limit);
        self
    }

    /// Records that a write continued. Returns how long it was blocked, if it was.
    #[inline]
    pub fn went_on(&mut self) -> Option<Duration> {
        self.blocked.take().map(|blocked| blocked.since.elapsed())
    }

    /// Returns how many bytes had left the kernel when a blocked write was last checked.
    pub fn gone(&self) -> Option<u64> {
        self.blocked.as_ref().map(|blocked| blocked.gone)
    }

    /// Polls until a blocked write has made no progress for the limit. Call this only while a write is
    /// blocked. `left` is the total number of bytes handed to the kernel, and `held` returns how many of
    /// them it still holds.
    pub fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
        left: u64,
        held: impl Fn() -> Option<usize>,
    ) -> Poll<()> {
        let interval = self.limit / LOOKS;
        let gone = || left.saturating_sub(held().unwrap_or_default() as u64);
        let blocked = self.blocked.get_or_insert_with(|| Blocked::new(left, gone(), interval));
        if left > blocked.left {
            (blocked.left, blocked.gone) = (left, gone());
            blocked.moved = Instant::now();
            blocked.look.as_mut().reset(from_now(interval));
        }
        while blocked.look.as_mut().poll(cx).is_ready() {
            let gone = gone();
            if gone > blocked.gone {
                blocked.gone = gone;
                blocked.moved = Instant::now();
            }
            let limit = if gone == 0 { self.start } else { self.limit };
            let still = blocked.moved.elapsed();
            if still >= limit {
                return Poll::Ready(());
            }
            blocked.look.as_mut().reset(from_now((limit - still).min(interval)));
        }
        Poll::Pending
    }
}

impl Blocked {
    fn new(left: u64, gone: u64, interval: Duration) -> Self {
        let (now, look) = (Instant::now(), Box::pin(tokio::time::sleep(interval)));
        Self { since: now, left, gone, moved: now, look }
    }
}
