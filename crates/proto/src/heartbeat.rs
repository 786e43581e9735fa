//! Heartbeats, which use pings to detect a dead peer on an idle line.
//!
//! ```text
//!  last byte        ping        missed       ping         missed
//!      0 ── 10 s ──▶ 10 ── 5 s ─▶ 15 ── 5 s ─▶ 20 ── 5 s ─▶ 25: down
//! ```
//!
//! Any received byte shows that the peer is alive, including the bytes of an incomplete message. A line
//! whose outgoing bytes make progress is also alive: a ping that is queued after them cannot be missed
//! before it was sent ([`Heartbeat::sending`]). If a ping is queued after many bytes that make no
//! progress, a missing response proves nothing, because the peer may be busy with earlier messages
//! ([`Heartbeat::with_stall_limit`]). While a long message is being received, this side sends pings
//! ([`Heartbeat::receiving`]), so that the peer knows that its bytes arrive before the message is
//! complete. A suspended machine or a late timer costs at most one missed ping, because the heartbeat
//! has no clock.

use std::time::Duration;

/// The configuration of a [`Heartbeat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// How long a line may be idle before a ping is sent, and the interval between further pings; 10 s
    /// by default, at least 1 ms.
    pub idle: Duration,
    /// How long to wait for the response to a ping; 5 s by default, at least 1 ms.
    pub timeout: Duration,
    /// The number of consecutive missed responses after which the peer is down; 2 by default. 0 is
    /// treated as 1.
    pub misses: u32,
    /// The number of consecutive timely responses after which the peer is up again; 2 by default. 0 is
    /// treated as 1.
    pub passes: u32,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        let (idle, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { idle, timeout, misses: 2, passes: 2 }
    }
}

/// An action or a change that a [`Heartbeat`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeartbeatEvent {
    /// Send a ping now.
    Ping,
    /// The peer is down: by default at most 25 s after the last received byte.
    Down,
    /// The peer is up again.
    Up,
    /// The peer has restarted and lost its state.
    Restarted {
        /// The previous instance.
        from: u64,
        /// The current instance.
        to: u64,
    },
}

/// A heartbeat for one line.
///
/// Times are durations since any fixed moment and must not decrease. After each input, and at
/// [`next_wake`](Self::next_wake), call [`poll`](Self::poll) until it returns `None`.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    config: HeartbeatConfig,
    last_life: Duration,
    last_ping: Duration,
    /// The deadline for the response to the last ping.
    awaited: Option<Duration>,
    /// True if the next ping is to be sent at once.
    is_probing: bool,
    misses: u32,
    passes: u32,
    is_down: bool,
    /// The state that was last reported.
    is_told_down: bool,
    instance: Option<u64>,
    restarted: Option<(u64, u64)>,
    /// The last known number of sent bytes. The field below is the last known number of waiting bytes.
    left: u64,
    waiting: u64,
    /// The time at which bytes were last sent, or at which none were waiting.
    moved: Duration,
    /// How long pings cannot be missed while more than [`BLOCKED`] bytes wait without progress.
    stall_limit: Option<Duration>,
    /// The number of the byte after which the last ping is queued, until that byte has been sent.
    behind: Option<u64>,
    /// True while a message is partly received.
    is_receiving: bool,
}

/// The limit on the extra time for a response. Buffers in the network, which are not visible here, may
/// hold all the data that was sent before the ping, so the response may take as long as sending that
/// data took.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// The operating system of a busy peer buffers tens of KB. If fewer bytes than this are waiting without
/// progress, the peer's machine is unreachable. If more are waiting, the peer is not reading.
const BLOCKED: u64 = 64 * 1024;

/// The minimum for [`idle`](HeartbeatConfig::idle) and [`timeout`](HeartbeatConfig::timeout). If both
/// were zero, every call of [`Heartbeat::poll`] would return a ping.
const SHORTEST: Duration = Duration::from_millis(1);

impl Heartbeat {
    /// Creates the heartbeat of a line that was connected at `now`, which is its first sign of life.
    pub fn new(mut config: HeartbeatConfig, now: Duration) -> Self {
        config.idle = config.idle.max(SHORTEST);
        config.timeout = config.timeout.max(SHORTEST);
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
            moved: now,
            stall_limit: None,
            behind: None,
            is_receiving: false,
        }
    }

    /// Sets how long pings are not considered missed while more than 64 KiB wait to be sent without
    /// progress: a busy peer reads neither these bytes nor the ping after them. Pass the time limit for
    /// stalled writes.
    #[must_use]
    pub fn with_stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = Some(limit);
        self
    }

    /// Records that bytes were received at `now`.
    pub fn alive(&mut self, now: Duration) {
        self.last_life = self.last_life.max(now);
        let was_awaited = self.awaited.take().is_some();
        self.misses = 0;
        if !self.is_down {
            return;
        }
        self.passes += u32::from(was_awaited);
        self.is_down = self.passes < self.config.passes.max(1);
        // When bytes arrive again, the peer is pinged at once.
        self.is_probing = self.is_down;
    }

    /// Records that a total of `left` bytes have left this machine so far, and that `waiting` more are
    /// queued. Call this before [`poll`](Self::poll) if the numbers are known.
    pub fn sending(&mut self, now: Duration, left: u64, waiting: u64) {
        let has_moved = std::mem::replace(&mut self.left, left) != left;
        if has_moved || self.waiting == 0 {
            self.moved = now;
        }
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

    /// Records whether a message is partly received. While one is, a ping is sent twice per idle time,
    /// which shows the peer that its bytes arrive. Call this before [`poll`](Self::poll) if the state is
    /// known.
    pub fn receiving(&mut self, is_receiving: bool) {
        self.is_receiving = is_receiving;
    }

    /// Records the response to a ping. `instance` is a random number that the peer chose when it
    /// started.
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

    /// Makes the next [`poll`](Self::poll) return a ping, unless a response is awaited. Call this after
    /// a system suspend, which a [`SuspendDetector`](crate::SuspendDetector) detects.
    pub fn probe_now(&mut self) {
        self.is_probing = self.awaited.is_none();
    }

    /// Returns the next event, or `None` if there is none before [`next_wake`](Self::next_wake).
    pub fn poll(&mut self, now: Duration) -> Option<HeartbeatEvent> {
        if let Some((from, to)) = self.restarted.take() {
            return Some(HeartbeatEvent::Restarted { from, to });
        }
        if self.awaited.is_some_and(|deadline| deadline <= now) {
            self.missed(now);
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

    /// Returns when to poll next if there is no input before that.
    pub fn next_wake(&self) -> Duration {
        let is_news = self.restarted.is_some() || self.is_down != self.is_told_down;
        match self.awaited {
            _ if is_news => Duration::ZERO,
            Some(deadline) => deadline,
            None if self.is_probing => Duration::ZERO,
            None => self.next_ping(),
        }
    }

    /// Returns whether the peer is up, as far as it is known.
    pub fn is_up(&self) -> bool {
        !self.is_down
    }

    /// Returns the peer's instance, if it has ever responded to a ping.
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

    fn missed(&mut self, now: Duration) {
        self.awaited = None;
        let still = now.saturating_sub(self.moved);
        if self.waiting > BLOCKED && self.stall_limit.is_some_and(|limit| still < limit) {
            return;
        }
        self.passes = 0;
        self.misses = self.misses.saturating_add(1);
        self.is_down |= self.misses >= self.config.misses.max(1);
    }
}

#[cfg(test)]
mod tests;
