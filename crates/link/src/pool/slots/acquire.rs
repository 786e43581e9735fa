//! Leases of the pool's slots, and the wait for a slot.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::{Grant, Place, Refused, Rested, Slots, Waiting};

/// A held slot, with a line or vacant. Dropping it ends the line and frees the slot.
pub(crate) struct Lease<T> {
    slots: Arc<Slots<T>>,
    slot: usize,
    line: Option<T>,
    /// When the line is to be closed because of its age; never if `None`.
    pub(crate) retire_at: Option<Instant>,
    taken: Instant,
    /// When the line was last used.
    since: Instant,
    /// Whether dropping the lease returns the line to the pool instead of ending it.
    is_kept: bool,
}

impl<T> Lease<T> {
    pub(super) fn new(slots: Arc<Slots<T>>, grant: Grant<T>, now: Instant) -> Self {
        let Grant { slot, rested } = grant;
        let Some(Rested { line, since, retire_at }) = rested else {
            let (line, retire_at) = (None, None);
            return Self { slots, slot, line, retire_at, taken: now, since: now, is_kept: false };
        };
        Self { slots, slot, line: Some(line), retire_at, taken: now, since, is_kept: false }
    }

    /// Returns how long the line was idle.
    pub(crate) fn idle_for(&self) -> Duration {
        self.taken.saturating_duration_since(self.since)
    }

    /// Returns the line for a check. If the lease is dropped during the check, the line remains idle.
    pub(crate) fn line_to_check(&mut self) -> Option<&mut T> {
        self.is_kept = true;
        self.line.as_mut()
    }

    /// Takes the line out of the slot, which stays held.
    pub(crate) fn take_line(&mut self) -> Option<T> {
        self.line.take()
    }

    /// Returns whether the line had reached its maximum age when it was taken.
    pub(crate) fn is_old(&self) -> bool {
        self.retire_at.is_some_and(|at| at <= self.taken)
    }

    /// Frees the slot, and returns `line` to the pool, or ends the line if it has reached its maximum
    /// age.
    pub(crate) fn give_back(mut self, line: T) {
        self.line = Some(line);
        self.since = Instant::now();
        self.is_kept = self.retire_at.is_none_or(|at| at > self.since);
        if !self.is_kept {
            self.slots.count_expired();
        }
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        if !self.is_kept {
            drop(self.line.take());
        }
        let (since, retire_at) = (self.since, self.retire_at);
        let rested = self.line.take().map(|line| Rested { line, since, retire_at });
        self.slots.let_go(Grant { slot: self.slot, rested }, Instant::now());
    }
}

/// The wait for a slot. If it is dropped after a slot was granted to it, the slot passes to the next
/// waiter.
pub(crate) struct Acquire<'a, T> {
    slots: &'a Arc<Slots<T>>,
    at: Place,
    /// The number of the caller in the queue, while it waits.
    number: Option<u64>,
}

impl<'a, T> Acquire<'a, T> {
    pub(crate) fn new(slots: &'a Arc<Slots<T>>, at: Place) -> Self {
        Self { slots, at, number: None }
    }

    fn poll_waiting(&mut self, number: u64, cx: &Context<'_>) -> Poll<Result<Lease<T>, Refused>> {
        let (slots, now) = (self.slots, Instant::now());
        let mut state = slots.state();
        if let Some(place) = state.granted.iter().position(|(other, _)| *other == number) {
            let (_, grant) = state.granted.swap_remove(place);
            self.number = None;
            return Poll::Ready(Ok(slots.lease(grant, now)));
        }
        let place = state.waiting.binary_search_by_key(&number, |waiting| waiting.number);
        let waiting = place.ok().and_then(|place| state.waiting.get_mut(place));
        let Some(waiting) = waiting else {
            self.number = None;
            return Poll::Ready(Err(Refused::Closed));
        };
        if !waiting.waker.will_wake(cx.waker()) {
            let before = std::mem::replace(&mut waiting.waker, cx.waker().clone());
            drop(state);
            drop(before);
        }
        Poll::Pending
    }
}

impl<T> Future for Acquire<'_, T> {
    type Output = Result<Lease<T>, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(number) = self.number {
            return self.poll_waiting(number, cx);
        }
        let (slots, now) = (self.slots, Instant::now());
        let mut state = slots.state();
        if state.is_closed {
            return Poll::Ready(Err(Refused::Closed));
        }
        if let Some(grant) = state.take(now, self.at) {
            return Poll::Ready(Ok(slots.lease(grant, now)));
        }
        if state.waiting.len() >= slots.limits.max_waiting {
            return Poll::Ready(Err(Refused::Full));
        }
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.push_back(Waiting { number, waker: cx.waker().clone(), at: self.at });
        drop(state);
        self.number = Some(number);
        Poll::Pending
    }
}

impl<T> Drop for Acquire<'_, T> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let (granted, waiting) = {
            let mut state = self.slots.state();
            let place = state.granted.iter().position(|(other, _)| *other == number);
            let granted = place.map(|place| state.granted.swap_remove(place).1);
            let place = state.waiting.binary_search_by_key(&number, |waiting| waiting.number);
            (granted, place.ok().and_then(|place| state.waiting.remove(place)))
        };
        drop(waiting);
        if let Some(grant) = granted {
            self.slots.let_go(grant, Instant::now());
        }
    }
}
