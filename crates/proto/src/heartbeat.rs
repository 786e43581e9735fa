//! Whether the other side of an idle line is still there: it is asked when nothing came for a while.
//!
//! ```text
//!  last byte        ping        missed       ping         missed
//!      0 ── 10 s ──▶ 10 ── 5 s ─▶ 15 ── 5 s ─▶ 20 ── 5 s ─▶ 25: down
//! ```
//!
//! Any byte that comes in is a sign of life, a ping's answer or not, and one of an unfinished message as
//! well. Nor is a line dead whose outgoing bytes move: a ping behind them is not missed before it has left
//! ([`Heartbeat::sending`]). While a long message comes in, this side pings by itself
//! ([`Heartbeat::receiving`]), so that the other side need not wait for the message's end to hear that it
//! arrives. It owns no clock: a machine that has slept, or a late timer, costs one missed ping at most.

use std::time::Duration;

/// When the other side is asked, and what becomes of it if it does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// After so long without a byte it is asked, and then every so often; 10 s by default.
    pub idle: Duration,
    /// How long its answer is waited for; 5 s by default.
    pub timeout: Duration,
    /// So many answers missed, one after the other, and it is down; 2 by default. 0 counts as 1.
    pub misses: u32,
    /// So many that came in time, one after the other, and it is up again; 2 by default. 0 counts as 1.
    pub passes: u32,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        let (idle, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { idle, timeout, misses: 2, passes: 2 }
    }
}

/// What a heartbeat wants done or known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeartbeatEvent {
    /// Send a ping now.
    Ping,
    /// Nobody is there any more: by default 25 s at most after the last sign of life.
    Down,
    /// Somebody is there again.
    Up,
    /// The other side is not the one it was: it has started anew and remembers nothing.
    Restarted {
        /// The instance that it was.
        from: u64,
        /// The one that it is.
        to: u64,
    },
}

/// Time is that since any fixed moment and does not go back. After each input, and at
/// [`next_wake`](Self::next_wake), [`poll`](Self::poll) until it has nothing more to say.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    config: HeartbeatConfig,
    last_life: Duration,
    last_ping: Duration,
    /// Until when the answer to a ping may come.
    awaited: Option<Duration>,
    /// The next ping does not wait for its time.
    is_probing: bool,
    misses: u32,
    passes: u32,
    is_down: bool,
    /// What was told last.
    is_told_down: bool,
    instance: Option<u64>,
    restarted: Option<(u64, u64)>,
    /// Outgoing bytes: how many had left when that was last said, and how many had not.
    left: u64,
    waiting: u64,
    /// The ping whose answer is awaited stands behind the byte with this number, which has not left.
    behind: Option<u64>,
    /// A message is coming in that is not whole yet.
    is_receiving: bool,
}

/// Buffers on the way, which nobody sees, may hold as much again of what went out before a ping. So its
/// answer may take as long as that took, up to this.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

impl Heartbeat {
    /// A line that was made at `now`: that was a sign of life.
    pub fn new(config: HeartbeatConfig, now: Duration) -> Self {
        Self {
            config,
            last_life: now,
            last_ping: now,
            awaited: None,
            is_probing: false,
            misses: 0,
            passes: 0,
            is_down: false,
            is_told_down: false,
            instance: None,
            restarted: None,
            left: 0,
            waiting: 0,
            behind: None,
            is_receiving: false,
        }
    }

    /// Bytes came in, last at `now`.
    pub fn alive(&mut self, now: Duration) {
        self.last_life = self.last_life.max(now);
        let was_awaited = self.awaited.take().is_some();
        self.misses = 0;
        if !self.is_down {
            return;
        }
        self.passes += u32::from(was_awaited);
        self.is_down = self.passes < self.config.passes.max(1);
        // Whoever is heard again is asked at once.
        self.is_probing = self.is_down;
    }

    /// Takes note that `left` bytes in all have left this machine by now, and that `waiting` have not. Call it
    /// before [`poll`](Self::poll), where that is known.
    pub fn sending(&mut self, now: Duration, left: u64, waiting: u64) {
        let has_moved = std::mem::replace(&mut self.left, left) != left;
        self.waiting = waiting;
        let (Some(behind), Some(awaited)) = (self.behind, &mut self.awaited) else { return };
        if left > behind {
            self.behind = None;
            let took = now.saturating_sub(self.last_ping).min(MAX_PATIENCE);
            *awaited = now.saturating_add(self.config.timeout.max(took));
        } else if has_moved {
            self.misses = 0;
            *awaited = now.saturating_add(self.config.timeout);
        }
    }

    /// Takes note whether a message is coming in that is not whole yet: then a ping goes out twice as often as
    /// the line may be idle, which tells the other side that its bytes arrive. Call it before
    /// [`poll`](Self::poll), where that is known.
    pub fn receiving(&mut self, is_receiving: bool) {
        self.is_receiving = is_receiving;
    }

    /// A ping was answered by `instance`: a number that the other side drew when it started.
    pub fn pong(&mut self, now: Duration, instance: u64) {
        self.alive(now);
        match self.instance.replace(instance) {
            Some(before) if before != instance => {
                let from = self.restarted.map_or(before, |(from, _)| from);
                self.restarted = Some((from, instance));
            }
            _ => {}
        }
    }

    /// Asks at once, unless an answer is awaited: for when the machine has slept, which shows in the
    /// wall clock's having gone further than the monotonic one.
    pub fn probe_now(&mut self) {
        self.is_probing = self.awaited.is_none();
    }

    /// What is to be done or known now; `None` until [`next_wake`](Self::next_wake).
    pub fn poll(&mut self, now: Duration) -> Option<HeartbeatEvent> {
        if let Some((from, to)) = self.restarted.take() {
            return Some(HeartbeatEvent::Restarted { from, to });
        }
        if self.awaited.is_some_and(|deadline| deadline <= now) {
            self.missed();
        }
        if self.is_down != self.is_told_down {
            self.is_told_down = self.is_down;
            return Some(if self.is_down { HeartbeatEvent::Down } else { HeartbeatEvent::Up });
        }
        if self.awaited.is_some() || !(self.is_probing || self.next_ping() <= now) {
            return None;
        }
        self.is_probing = false;
        self.last_ping = now;
        self.behind = (self.waiting > 0).then(|| self.left.saturating_add(self.waiting));
        self.awaited = Some(now.saturating_add(self.config.timeout));
        Some(HeartbeatEvent::Ping)
    }

    /// When to poll next, if nothing comes in before.
    pub fn next_wake(&self) -> Duration {
        let is_news = self.restarted.is_some() || self.is_down != self.is_told_down;
        match self.awaited {
            _ if is_news => Duration::ZERO,
            Some(deadline) => deadline,
            None if self.is_probing => Duration::ZERO,
            None => self.next_ping(),
        }
    }

    /// Whether somebody is there, as far as is known.
    pub fn is_up(&self) -> bool {
        !self.is_down
    }

    /// The other side's instance, if a ping was ever answered.
    pub fn instance(&self) -> Option<u64> {
        self.instance
    }

    fn next_ping(&self) -> Duration {
        let idle = self.config.idle;
        match self.is_receiving {
            true => self.last_ping.saturating_add(idle / 2),
            false => self.last_life.max(self.last_ping).saturating_add(idle),
        }
    }

    fn missed(&mut self) {
        self.awaited = None;
        self.passes = 0;
        self.misses = self.misses.saturating_add(1);
        self.is_down |= self.misses >= self.config.misses.max(1);
    }
}

#[cfg(test)]
mod tests;
