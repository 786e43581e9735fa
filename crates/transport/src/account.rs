//! Counts of child processes and of how they ended.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

/// Counters for the child processes that are started with this account in
/// [`Options::account`](crate::Options::account). Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct ProcessAccount(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<ProcessCounts>,
    /// Incremented with each change, so that `settled` can wait for one.
    changed: watch::Sender<u64>,
}

/// The counts of an account. Each process that has ended is counted under exactly one of `by_itself`, `asked`,
/// `terminated` and `killed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessCounts {
    /// Processes that were started.
    pub started: u64,
    /// Processes that ended by themselves, successfully or not.
    pub by_itself: u64,
    /// Processes that ended after the end of their input.
    pub asked: u64,
    /// Processes that ended after SIGTERM or CTRL_BREAK.
    pub terminated: u64,
    /// Processes that were killed by SIGKILL or with their job, because they took too long or the line
    /// was dropped.
    pub killed: u64,
    /// Descendants that outlived the process that started them and had to be killed.
    pub others_killed: u64,
    /// Processes that ended and verifiably left no descendants. The kernel confirmed this to their
    /// guardian (ECHILD), or Windows confirmed it for their job.
    pub gone: u64,
    /// Processes that ended without such a check, because they had no guardian or it was killed, or
    /// because their job could not be queried on Windows.
    pub unchecked: u64,
}

impl ProcessCounts {
    /// Returns true if it was verified that none of the started processes or their descendants is left.
    pub fn none_left(&self) -> bool {
        self.gone == self.started
    }

    /// Returns how many processes are still running or being stopped.
    pub fn under_way(&self) -> u64 {
        self.started.saturating_sub(self.gone + self.unchecked)
    }
}

impl ProcessAccount {
    /// Returns the current counts.
    pub fn counts(&self) -> ProcessCounts {
        *self.lock()
    }

    /// Waits for at most `limit` until no process is [under way](ProcessCounts::under_way), and returns
    /// the counts at that time. Cancel-safe.
    pub async fn settled(&self, limit: Duration) -> ProcessCounts {
        let mut changed = self.0.changed.subscribe();
        let is_over = changed.wait_for(|_| self.counts().under_way() == 0);
        // After a timeout the counts are returned as they are.
        let _ = tokio::time::timeout(limit, is_over).await;
        self.counts()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut ProcessCounts)) {
        change(&mut self.lock());
        self.0.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, ProcessCounts> {
        self.0.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn settled_waits_until_no_process_is_under_way() {
        let account = ProcessAccount::default();
        assert!(account.settled(Duration::ZERO).await.none_left());
        account.note(|counts| counts.started += 2);
        account.note(|counts| counts.gone += 1);
        let counts = account.settled(Duration::from_secs(1)).await;
        assert_eq!((counts.under_way(), counts.none_left()), (1, false));
        let other = account.clone();
        let settled = tokio::spawn(async move { other.settled(Duration::MAX).await });
        tokio::task::yield_now().await;
        account.note(|counts| counts.unchecked += 1);
        let counts = settled.await.unwrap();
        assert_eq!((counts.under_way(), counts.none_left()), (0, false));
    }
}
