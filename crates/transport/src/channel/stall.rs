//! Tells a write that is blocked for too long from one that moves slowly.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::from_now;

/// So often within its limit a write that is blocked is looked at.
const LOOKS: u32 = 4;

/// Watches the writes of one stream: one that makes no progress for the limit has stalled.
///
/// Progress is a byte that the stream takes, or that leaves a buffer below it. The kernel's buffer is asked only
/// now and then while a write is blocked.
pub struct StallClock {
    limit: Duration,
    /// The limit until the other side has read its first byte.
    start: Duration,
    blocked: Option<Blocked>,
}

struct Blocked {
    since: Instant,
    /// How many bytes had left when it was last looked.
    left: u64,
    /// How many of those the kernel did not hold any more.
    gone: u64,
    /// When any of that last grew.
    moved: Instant,
    /// When the kernel is asked next.
    look: Pin<Box<Sleep>>,
}

impl StallClock {
    /// A write may be without progress for `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, start: limit, blocked: None }
    }

    /// The limit until the other side has read its first byte, if that is longer.
    pub(super) fn starting_within(mut self, start: Duration) -> Self {
        self.start = start.max(self.limit);
        self
    }

    /// A write went on. Returns how long it had waited, if it had.
    #[inline]
    pub fn went_on(&mut self) -> Option<Duration> {
        self.blocked.take().map(|blocked| blocked.since.elapsed())
    }

    /// How many bytes had gone when a blocked write was last looked at.
    pub fn gone(&self) -> Option<u64> {
        self.blocked.as_ref().map(|blocked| blocked.gone)
    }

    /// A write is blocked: ready when it has been without progress for the limit. `left` bytes in all were
    /// handed to the kernel, which still holds as many of them as `held` says.
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
