//! A group of subscriptions, and the publishers that wait until one of its members has room.

use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::balance::Balance;
use crate::lock::lock;

/// A group of subscriptions.
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) balance: Mutex<Balance>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    publishers: Vec<(u64, Waker)>,
    tickets: u64,
}

/// A publisher that waits, until this is dropped.
pub(crate) struct GroupPlace {
    group: Arc<Group>,
    ticket: u64,
}

impl Group {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self { name, balance: Mutex::default(), waiting: Mutex::default() }
    }

    /// Wakes all publishers that wait, because a member has room or has joined.
    ///
    /// The lock orders this with [`wait`](GroupPlace::wait): either the publisher is woken, or it sees the
    /// change when it chooses a member afterwards.
    pub(crate) fn wake(&self) {
        let waiting = lock(&self.waiting).publishers.clone();
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl GroupPlace {
    /// Starts waiting, or sets the waker. Returns whether the publisher must choose again, because it did
    /// not wait for this group before.
    pub(crate) fn wait(place: &mut Option<Self>, group: &Arc<Group>, waker: &Waker) -> bool {
        let known = place.as_ref().filter(|it| Arc::ptr_eq(&it.group, group)).map(|it| it.ticket);
        let mut waiting = lock(&group.waiting);
        let entry = waiting.publishers.iter_mut().find(|(ticket, _)| Some(*ticket) == known);
        if let Some((_, old)) = entry {
            old.clone_from(waker);
            return false;
        }
        waiting.tickets += 1;
        let ticket = waiting.tickets;
        waiting.publishers.push((ticket, waker.clone()));
        drop(waiting);
        *place = Some(Self { group: group.clone(), ticket });
        true
    }
}

impl Drop for GroupPlace {
    fn drop(&mut self) {
        lock(&self.group.waiting).publishers.retain(|(ticket, _)| *ticket != self.ticket);
    }
}
