//! What a pool counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::core::Usage;

/// A snapshot of a [`Pool`](super::Pool): how it is used, and what has happened since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Lines that wait to be used.
    pub idle: usize,
    /// Lines in use, and those that are being connected or closed.
    pub in_use: usize,
    /// Callers that wait for a line.
    pub waiting: usize,
    /// How often a line was given out.
    pub taken: u64,
    /// Lines that were connected.
    pub connected: u64,
    /// Attempts to connect that have failed.
    pub connect_failures: u64,
    /// How often no line was to be had within the time.
    pub timeouts: u64,
    /// Calls that were refused because too much had failed.
    pub rejected: u64,
    /// Lines that were not given back, or with something of their last use left in them.
    pub dirty: u64,
    /// Idle lines that were found ended, or had something to say that nobody had asked for.
    pub broken: u64,
    /// Lines that were idle, or had lived, for as long as they may.
    pub expired: u64,
    /// Lines that were held for long enough to be warned of.
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
