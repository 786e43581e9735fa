//! How fast a pool starts programs while they keep failing.

use std::time::Duration;

use tieline_proto::{Backoff, BackoffConfig};
use tokio::time::Instant;

/// How long a program must have run to be considered working.
pub(super) const WORKS_AFTER: Duration = Duration::from_secs(10);

/// The pauses between starts. There are none until a program fails. Then each start waits, longer after each
/// failure, until a program has run for [`WORKS_AFTER`].
pub(super) struct Pace {
    backoff: Backoff,
    /// The pause before each start, while programs fail.
    pause: Option<Duration>,
    until: Instant,
    /// A program has failed since the last start.
    has_failed: bool,
}

impl Default for Pace {
    fn default() -> Self {
        let backoff = Backoff::new(BackoffConfig::LOCAL);
        Self { backoff, pause: None, until: Instant::now(), has_failed: false }
    }
}

impl Pace {
    /// Returns until when no program is started.
    pub(super) fn wait(&self) -> Option<Instant> {
        Some(self.until).filter(|until| self.pause.is_some() && *until > Instant::now())
    }

    pub(super) fn started(&mut self) {
        self.has_failed = false;
        if let Some(pause) = self.pause {
            self.until = Instant::now() + pause;
        }
    }

    /// Records that a program could not be started, or ended soon after its start. Several failures between two
    /// starts count once.
    pub(super) fn failed(&mut self) {
        if !std::mem::replace(&mut self.has_failed, true) {
            let pause = self.backoff.next(0.5);
            self.pause = Some(pause);
            self.until = Instant::now() + pause;
        }
    }

    pub(super) fn worked(&mut self) {
        self.backoff.reset();
        self.pause = None;
    }

    /// Records that a program has ended.
    pub(super) fn ended(&mut self, has_worked: bool) {
        if has_worked { self.worked() } else { self.failed() }
    }
}
