//! Helpers for state under a lock: locking it, and storing the wakers of tasks that wait for a change.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stores the waker of a waiting task, replacing an earlier one.
pub(crate) fn remember(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        none => *none = Some(waker.clone()),
    }
}
