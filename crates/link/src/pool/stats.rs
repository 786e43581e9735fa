//! The counters of a pool.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::slots::Usage;

/// A snapshot of a [`Pool`](super::Pool): its current usage, and counters since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Idle lines.
    pub idle: usize,
    /// Lines in use, and those that are being connected or closed.
    pub in_use: usize,
    /// Callers that wait for a line.
    pub waiting: usize,
    /// How often a line was lent.
    pub taken: u64,
    /// Lines that were connected.
    pub connected: u64,
    /// Failed attempts to connect.
    pub connect_failures: u64,
    /// How often no line was available in time.
    pub timeouts: u64,
    /// Attempts to connect that the circuit breaker rejected.
    pub rejected: u64,
    /// Lines that were not given back, or that were given back with anything unsent or unread.
    pub dirty: u64,
    /// Idle lines that had ended, or had received something unexpected.
    pub broken: u64,
    /// Lines that were closed because of their idle time or their age.
    pub expired: u64,
    /// Lines for which a warning was logged because they were held for too long.
    pub overdue: u64,
}

#[derive(Default)]
pub(super) struct Totals {
    pub(super) taken: Total,
    pub(super) connected: Total,
    pub(super) connect_failures: Total,
    pub(super) timeouts: Total,
    pub(super) rejected: Total,
    pub(super) dirty: Total,
    pub(super) broken: Total,
}

#[derive(Default)]
pub(super) struct Total(AtomicU64);

impl Total {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Totals {
    pub(super) fn with(&self, usage: Usage) -> PoolStats {
        PoolStats {
            idle: usage.idle,
            in_use: usage.held,
            waiting: usage.waiting,
            taken: self.taken.get(),
            connected: self.connected.get(),
            connect_failures: self.connect_failures.get(),
            timeouts: self.timeouts.get(),
            rejected: self.rejected.get(),
            dirty: self.dirty.get(),
            broken: self.broken.get(),
            expired: usage.expired,
            overdue: usage.overdue,
        }
    }
}
