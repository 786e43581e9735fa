//! The bookkeeping of a pool: which slots are held, and which callers wait. It does not depend on what a
//! line is or how it is connected.
//!
//! There is one slot for each possible line. A slot is vacant, idle with its line, or held by a [`Lease`]
//! with or without a line. A freed slot is granted to the longest waiter under the same lock, so that
//! waiters are never overtaken, and no slot is idle or vacant while a caller waits.
//!
//! Lines are dropped, and wakers are woken and dropped, outside the lock.

mod acquire;

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use acquire::{Acquire, Lease};

use crate::sync::{Mutex, MutexGuard};

type Place = &'static Location<'static>;

#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max: usize,
    pub(crate) max_waiting: usize,
    pub(crate) min_idle: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) held_warning: Duration,
}

pub(crate) struct Slots<T> {
    limits: Limits,
    state: Mutex<SlotsState<T>>,
}

struct SlotsState<T> {
    /// The most recently used line is at the back and is taken first, so that surplus lines expire.
    idle: VecDeque<Idle<T>>,
    vacant: Vec<usize>,
    /// The record of each held slot.
    held: Vec<Option<Held>>,
    /// The waiting callers, in the order of arrival, which is also the order of their numbers.
    waiting: VecDeque<Waiting>,
    /// Slots that were granted to waiters but have not been picked up yet, with the waiters' numbers.
    granted: Vec<(u64, Grant<T>)>,
    next_number: u64,
    is_closed: bool,
    expired: u64,
    overdue: u64,
}

struct Idle<T> {
    slot: usize,
    rested: Rested<T>,
}

/// An idle line, and when it was last used.
struct Rested<T> {
    line: T,
    since: Instant,
    retire_at: Option<Instant>,
}

struct Held {
    since: Instant,
    at: Place,
    is_reported: bool,
}

struct Waiting {
    number: u64,
    waker: Waker,
    at: Place,
}

struct Grant<T> {
    slot: usize,
    rested: Option<Rested<T>>,
}

/// Why a caller may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Closed,
    /// The limit on waiting callers is reached.
    Full,
}

/// How the slots are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) idle: usize,
    pub(crate) held: usize,
    pub(crate) waiting: usize,
    pub(crate) expired: u64,
    pub(crate) overdue: u64,
}

impl<T> Slots<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = SlotsState {
            idle: VecDeque::new(),
            // Slots are taken from the back, so that the first one is used first.
            vacant: (0..limits.max).rev().collect(),
            held: (0..limits.max).map(|_| None).collect(),
            waiting: VecDeque::new(),
            granted: Vec::new(),
            next_number: 0,
            is_closed: false,
            expired: 0,
            overdue: 0,
        };
        Self { limits, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, SlotsState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot, with an idle line if there is one; `None` if the caller has to wait.
    pub(crate) fn try_acquire(self: &Arc<Self>, at: Place) -> Option<Lease<T>> {
        let now = Instant::now();
        let (lease, expired) = {
            let mut state = self.state();
            let expired = state.expire(&self.limits, now, false);
            (state.take(now, at).map(|grant| self.lease(grant, now)), expired)
        };
        self.end(expired, now);
        lease
    }

    /// Takes a vacant slot if fewer than `min_idle` lines are idle.
    pub(crate) fn try_vacant(self: &Arc<Self>, at: Place) -> Option<Lease<T>> {
        let now = Instant::now();
        let mut state = self.state();
        let is_needed = state.idle.len() < self.limits.min_idle && !state.is_closed;
        let slot = if is_needed { state.vacant.pop() } else { None }?;
        state.hold(slot, now, at);
        Some(self.lease(Grant { slot, rested: None }, now))
    }

    /// Takes the lines that have been idle for too long or have reached their maximum age.
    pub(crate) fn take_expired(self: &Arc<Self>) -> Vec<Lease<T>> {
        let now = Instant::now();
        let expired = self.state().expire(&self.limits, now, true);
        expired.into_iter().map(|grant| self.lease(grant, now)).collect()
    }

    fn end(self: &Arc<Self>, expired: Vec<Grant<T>>, now: Instant) {
        expired.into_iter().for_each(|grant| drop(self.lease(grant, now)));
    }

    fn lease(self: &Arc<Self>, grant: Grant<T>, now: Instant) -> Lease<T> {
        Lease::new(self.clone(), grant, now)
    }

    /// Closes the pool: wakes the waiting callers, which then fail, and returns the idle lines.
    pub(crate) fn close(self: &Arc<Self>) -> Vec<Lease<T>> {
        let now = Instant::now();
        let (waiting, idle) = {
            let mut state = self.state();
            state.is_closed = true;
            let idle: Vec<Grant<T>> = state.idle.drain(..).map(Grant::from).collect();
            (std::mem::take(&mut state.waiting), idle)
        };
        waiting.into_iter().for_each(|waiting| waiting.waker.wake());
        idle.into_iter().map(|grant| self.lease(grant, now)).collect()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    pub(crate) fn count_expired(&self) {
        self.state().expired += 1;
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.state();
        Usage {
            idle: state.idle.len(),
            held: self.limits.max - state.idle.len() - state.vacant.len(),
            waiting: state.waiting.len(),
            expired: state.expired,
            overdue: state.overdue,
        }
    }

    /// Warns once of each lease that has been held for too long.
    pub(crate) fn warn_of_overdue(&self) {
        let now = Instant::now();
        let mut overdue = Vec::new();
        {
            let mut state = self.state();
            for held in state.held.iter_mut().flatten() {
                overdue.extend(held.overdue(now, self.limits.held_warning));
            }
            state.overdue += overdue.len() as u64;
        }
        overdue.into_iter().for_each(warn);
    }

    /// Returns for how long the oldest lease has been held, and where in the code it was taken.
    pub(crate) fn longest_held(&self) -> Option<(Duration, Place)> {
        let state = self.state();
        let oldest = state.held.iter().flatten().min_by_key(|held| held.since)?;
        Some((oldest.since.elapsed(), oldest.at))
    }

    /// Frees a slot, with or without a line: grants it to the longest waiter, or keeps it.
    fn let_go(&self, grant: Grant<T>, now: Instant) {
        let (overdue, waker, line) = {
            let mut state = self.state();
            let held = state.held.get_mut(grant.slot).and_then(Option::take);
            let overdue = held.and_then(|mut held| held.overdue(now, self.limits.held_warning));
            state.overdue += u64::from(overdue.is_some());
            let (waker, line) = state.offer(grant, now);
            (overdue, waker, line)
        };
        drop(line);
        waker.into_iter().for_each(Waker::wake);
        overdue.into_iter().for_each(warn);
    }
}

impl<T> SlotsState<T> {
    fn take(&mut self, now: Instant, at: Place) -> Option<Grant<T>> {
        if self.is_closed {
            return None;
        }
        let grant = match self.idle.pop_back() {
            Some(idle) => Grant::from(idle),
            None => Grant { slot: self.vacant.pop()?, rested: None },
        };
        self.hold(grant.slot, now, at);
        Some(grant)
    }

    fn hold(&mut self, slot: usize, now: Instant, at: Place) {
        if let Some(held) = self.held.get_mut(slot) {
            *held = Some(Held { since: now, at, is_reported: false });
        }
    }

    /// Grants a slot to the longest waiter, or keeps it. Returns the waker to wake, and the line to
    /// drop, if any.
    fn offer(&mut self, grant: Grant<T>, now: Instant) -> (Option<Waker>, Option<T>) {
        if let Some(Waiting { number, waker, at }) = self.waiting.pop_front() {
            self.hold(grant.slot, now, at);
            self.granted.push((number, grant));
            return (Some(waker), None);
        }
        let Grant { slot, rested } = grant;
        match rested {
            Some(rested) if !self.is_closed => {
                self.idle.push_back(Idle { slot, rested });
                (None, None)
            }
            rested => {
                self.vacant.push(slot);
                (None, rested.map(|rested| rested.line))
            }
        }
    }

    /// Removes the lines that have been idle for too long, and with `all` also those that have reached
    /// their maximum age. Their slots are not freed yet.
    fn expire(&mut self, limits: &Limits, now: Instant, all: bool) -> Vec<Grant<T>> {
        let mut expired = Vec::new();
        let is_expired = |idle: &Idle<T>| {
            now.saturating_duration_since(idle.rested.since) >= limits.idle_timeout
        };
        while self.idle.len() > limits.min_idle && self.idle.front().is_some_and(is_expired) {
            expired.extend(self.idle.pop_front().map(Grant::from));
        }
        if all {
            let (old, rest) = std::mem::take(&mut self.idle)
                .into_iter()
                .partition(|idle| idle.rested.is_old(now));
            self.idle = rest;
            let old: VecDeque<Idle<T>> = old;
            expired.extend(old.into_iter().map(Grant::from));
        }
        self.expired += expired.len() as u64;
        expired
    }
}

impl<T> Rested<T> {
    fn is_old(&self, now: Instant) -> bool {
        self.retire_at.is_some_and(|at| at <= now)
    }
}

impl<T> From<Idle<T>> for Grant<T> {
    fn from(idle: Idle<T>) -> Self {
        Self { slot: idle.slot, rested: Some(idle.rested) }
    }
}

impl Held {
    fn overdue(&mut self, now: Instant, limit: Duration) -> Option<(Duration, Place)> {
        let held_for = now.saturating_duration_since(self.since);
        let is_new =
            held_for > limit && !std::mem::replace(&mut self.is_reported, held_for > limit);
        is_new.then_some((held_for, self.at))
    }
}

fn warn((held_for, at): (Duration, Place)) {
    tracing::warn!(?held_for, taken_at = %at, "a line of the pool has been held for a long time");
}
