//! How many bytes the bodies of requests hold at once, those of all connections of a listener together.

use std::sync::Arc;
use std::time::Duration;

use tieline_transport::{Account, Holding, MemoryBudget};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// So much of each body is not counted, so that what is short is taken however many are long: it is
/// bounded by how many connections there are, as the head of a request is.
pub(super) const SHORT: usize = 16 * 1024;

/// The budget that bodies share. Whoever waits for some has it in the order in which they came.
pub(super) struct BodyBudget {
    free: Arc<Semaphore>,
    all: usize,
}

/// What one body has of it, until this is dropped.
pub(super) struct Held {
    permit: Option<OwnedSemaphorePermit>,
    /// What it has of what all lines may hold.
    pub(super) account: Account,
}

impl Held {
    pub(super) fn new(memory: Option<&MemoryBudget>) -> Self {
        Self { permit: None, account: Account::of(memory, Holding::Message) }
    }
}

impl BodyBudget {
    /// Room for `bytes` beyond one body of `longest`, which therefore always fits.
    pub(super) fn new(bytes: usize, longest: usize) -> Self {
        let all = bytes.saturating_add(longest).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    /// What is held now.
    pub(super) fn held(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }

    /// Gives `held` so much more, once it is there; false if it is not within `patience`. Cancel-safe:
    /// it has all or none of it.
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
    async fn what_is_held_is_bounded_and_given_back() {
        let (budget, patience) = (BodyBudget::new(10, 20), Duration::from_secs(10));
        let (mut one, mut other) = (Held::new(None), Held::new(None));
        assert!(budget.add(&mut one, 15, patience).await);
        assert!(budget.add(&mut one, 5, patience).await);
        assert!(budget.add(&mut other, 10, patience).await);
        assert_eq!(budget.held(), 30);
        assert!(!budget.add(&mut other, 1, patience).await, "there is none left");
        assert_eq!(budget.held(), 30);
        let (is_added, ()) = tokio::join!(budget.add(&mut other, 20, patience), async {
            drop(one);
        });
        assert!(is_added, "it was waited for");
        assert_eq!(budget.held(), 30);
        drop(other);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn bounds_beyond_all_memory_are_no_panic() {
        let budget = BodyBudget::new(usize::MAX, usize::MAX);
        let mut held = Held::new(None);
        assert!(budget.add(&mut held, u32::MAX, Duration::ZERO).await);
        assert_eq!(budget.held(), u32::MAX as usize);
    }
}
