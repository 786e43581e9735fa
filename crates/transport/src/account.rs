//! What became of every child process that was started: an account to be asked at the end.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

/// Counts child processes, for whoever gives it to them by
/// [`Options::account`](crate::Options::account). Clones are the same account.
#[derive(Clone, Debug, Default)]
pub struct ProcessAccount(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<ProcessCounts>,
    /// Counts the changes, so that somebody can wait for one.
    changed: watch::Sender<u64>,
}

/// What became of the child processes of an account. Each that has ended is counted under one of
/// `by_itself`, `asked`, `terminated` and `killed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessCounts {
    /// They were started.
    pub started: u64,
    /// They ended, well or not, before anybody asked them to.
    pub by_itself: u64,
    /// They ended after the end of their input.
    pub asked: u64,
    /// They ended after SIGTERM, or CTRL_BREAK.
    pub terminated: u64,
    /// They ended by SIGKILL, or with their job: they had taken too long, or the line was given up.
    pub killed: u64,
    /// Processes besides them, which they had left behind and which had to be killed.
    pub others_killed: u64,
    /// Those of which nothing is left: the kernel said so to their guardian (ECHILD), and Windows of
    /// their job.
    pub gone: u64,
    /// Those of which nobody can say that: they had no guardian, or somebody killed it; on Windows,
    /// their job could not be asked.
    pub unchecked: u64,
}

impl ProcessCounts {
    /// Whether nothing is left of any that was started, as a checked fact.
    pub fn none_left(&self) -> bool {
        self.gone == self.started
    }

    /// Those that have not ended yet, or that are being ended.
    pub fn under_way(&self) -> u64 {
        self.started.saturating_sub(self.gone + self.unchecked)
    }
}

impl ProcessAccount {
    /// What it says now.
    pub fn counts(&self) -> ProcessCounts {
        *self.lock()
    }

    /// Waits until none is [under way](ProcessCounts::under_way), at most so long, and gives what the
    /// account says then. Cancel-safe.
    pub async fn settled(&self, limit: Duration) -> ProcessCounts {
        let mut changed = self.0.changed.subscribe();
        let is_over = changed.wait_for(|_| self.counts().under_way() == 0);
        // Afterwards it is as it is.
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
    async fn an_account_is_settled_when_nobody_is_under_way() {
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
