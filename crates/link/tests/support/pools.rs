//! Pools of in-memory lines whose far ends the test controls.

#![allow(dead_code, clippy::unwrap_used)]

use std::time::Duration;

use tieline_link::{Pool, PoolConfig, PoolStats, Pooled};

use crate::support::{FarEnds, Step, World, within};

pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a pool of at most `max` in-memory lines.
pub(crate) fn pool(max: usize, script: impl IntoIterator<Item = Step>) -> (Pool, FarEnds) {
    let config = PoolConfig { max, ..PoolConfig::default() };
    let (world, far_ends) = World::new(script);
    (Pool::new(world, config).unwrap(), far_ends)
}

pub(crate) async fn get(pool: &Pool) -> Pooled {
    within("a line", pool.get()).await.unwrap()
}

/// Returns whether no lines are held or waited for, and how many are idle.
pub(crate) fn rests(pool: &Pool) -> (bool, usize) {
    let PoolStats { in_use, waiting, idle, .. } = pool.stats();
    (in_use + waiting == 0, idle)
}
