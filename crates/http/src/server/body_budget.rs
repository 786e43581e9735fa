//! A limit on the bytes that request bodies hold at once, shared by all connections of a listener.

use std::sync::Arc;
use std::time::Duration;

use tieline_transport::{Account, Holding, MemoryBudget};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The number of bytes of each body that are not counted, so that short bodies are accepted even while
/// many long ones are being read. Like the heads of requests, these bytes are bounded by the number of
/// connections.
pub(super) const SHORT: usize = 16 * 1024;

/// The budget that bodies share. Waiters are served in order of arrival.
pub(super) struct BodyBudget {
    free: Arc<Semaphore>,
    all: usize,
}

/// The part of the budget that one body holds. Dropping it releases the part.
pub(super) struct Held {
    permit: Option<OwnedSemaphorePermit>,
    /// The body's part of the memory budget that all lines share.
    pub(super) account: Account,
}

impl Held {
    pub(super) fn new(memory: Option<&MemoryBudget>) -> Self {
        Self { permit: None, account: Account::of(memory, Holding::Message) }
    }
}

impl BodyBudget {
    /// Creates a budget of `bytes` plus one body of the length `longest`, so that one body always fits.
    pub(super) fn new(bytes: usize, longest: usize) -> Self {
        let all = bytes.saturating_add(longest).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    /// Returns how many bytes are held now.
    pub(super) fn held(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }

    /// Adds `bytes` to `held`, and waits for them up to `patience`. Returns false if they do not become
    /// free in time. Cancel-safe: adds all or nothing.
    pub(super) async fn add(&self, held: &mut Held, bytes: u32, patience: Duration) -> bool {
        let adding = self.free.clone().acquire_many_owned(bytes);
        let Ok(Ok(more)) = timeout(patience, adding).await else { return false };
        match &mut held.permit {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn held_bytes_are_bounded_and_released() {
        let (budget, patience) = (BodyBudget::new(10, 20), Duration::from_secs(10));
        let (mut one, mut other) = (Held::new(None), Held::new(None));
        assert!(budget.add(&mut one, 15, patience).await);
        assert!(budget.add(&mut one, 5, patience).await);
        assert!(budget.add(&mut other, 10, patience).await);
        assert_eq!(budget.held(), 30);
        assert!(!budget.add(&mut other, 1, patience).await, "the budget is used up");
        assert_eq!(budget.held(), 30);
        let (is_added, ()) = tokio::join!(budget.add(&mut other, 20, patience), async {
            drop(one);
        });
        assert!(is_added, "added once the other body was dropped");
        assert_eq!(budget.held(), 30);
        drop(other);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn huge_limits_do_not_panic() {
        let budget = BodyBudget::new(usize::MAX, usize::MAX);
        let mut held = Held::new(None);
        assert!(budget.add(&mut held, u32::MAX, Duration::ZERO).await);
        assert_eq!(budget.held(), u32::MAX as usize);
    }
}
