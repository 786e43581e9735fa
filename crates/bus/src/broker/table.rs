//! The subscriptions of a broker, and the routes of the subjects that were published to recently.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::group::Group;
use crate::queue::Overflow;
use crate::subject::Subject;
use crate::subscriber::Subscriber;
use crate::trie::Trie;

/// The maximum number of routes that are kept. When there are more, all are computed again.
const MAX_ROUTES: usize = 1024;

#[derive(Default)]
pub(super) struct Table {
    trie: Trie<Arc<Subscriber>>,
    subscribers: HashMap<u64, Arc<Subscriber>>,
    /// The groups, and the number of their members.
    groups: HashMap<Arc<str>, (Arc<Group>, usize)>,
    routes: HashMap<Subject, Arc<Route>>,
    last: u64,
    /// The number of changes.
    version: Arc<AtomicU64>,
    is_closed: bool,
}

/// The subscriptions that match a subject.
#[derive(Default)]
pub(super) struct Route {
    /// Those without a group.
    pub(super) plain: Vec<Arc<Subscriber>>,
    pub(super) groups: Vec<(Arc<Group>, Vec<Arc<Subscriber>>)>,
    /// Whether delivery never has to wait or to choose.
    pub(super) is_simple: bool,
    /// The version of the table for which this is the route.
    version: u64,
    current: Arc<AtomicU64>,
}

impl Route {
    /// Returns whether the table has not changed.
    pub(super) fn is_current(&self) -> bool {
        self.version == self.current.load(Ordering::Acquire)
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.subscribers.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Returns the number and the group of a new subscription.
    pub(super) fn prepare(&mut self, group: Option<&str>) -> (u64, Option<Arc<Group>>) {
        self.last += 1;
        let group = group.map(|name| match self.groups.get_mut(name) {
            Some((group, members)) => {
                *members += 1;
                group.clone()
            }
            None => {
                let name: Arc<str> = name.into();
                let group = Arc::new(Group::new(name.clone()));
                self.groups.insert(name, (group.clone(), 1));
                group
            }
        });
        (self.last, group)
    }

    pub(super) fn insert(&mut self, subscriber: Arc<Subscriber>) {
        self.changed();
        self.trie.insert(&subscriber.pattern, subscriber.clone());
        self.subscribers.insert(subscriber.id, subscriber);
    }

    /// Returns whether the subscription was in the table.
    pub(super) fn remove(&mut self, subscriber: &Subscriber) -> bool {
        if self.subscribers.remove(&subscriber.id).is_none() {
            return false;
        }
        self.changed();
        self.trie.remove(&subscriber.pattern, |it| it.id == subscriber.id);
        if let Some(group) = &subscriber.group {
            if let Some((_, members)) = self.groups.get_mut(&group.name) {
                *members -= 1;
                if *members == 0 {
                    self.groups.remove(&group.name);
                }
            }
        }
        true
    }

    /// Closes the table, and returns the subscriptions.
    pub(super) fn close(&mut self) -> Vec<Arc<Subscriber>> {
        self.changed();
        self.is_closed = true;
        self.trie = Trie::default();
        self.groups.clear();
        std::mem::take(&mut self.subscribers).into_values().collect()
    }

    /// Discards all routes.
    fn changed(&mut self) {
        self.version.fetch_add(1, Ordering::Release);
        self.routes.clear();
    }

    /// Returns the route of a subject if it is known.
    pub(super) fn known_route(&self, subject: &Subject) -> Option<&Arc<Route>> {
        self.routes.get(subject)
    }

    /// Computes the route of a subject, and keeps it.
    pub(super) fn route(&mut self, subject: &Subject) -> Arc<Route> {
        let version = self.version.load(Ordering::Acquire);
        let mut route = Route { version, current: self.version.clone(), ..Route::default() };
        let mut found: Vec<&Arc<Subscriber>> = Vec::new();
        self.trie.visit(subject, &mut |it| found.push(it));
        // The order in which they subscribed, in which publishers also wait for them.
        found.sort_unstable_by_key(|it| it.id);
        for subscriber in found {
            match &subscriber.group {
                None => route.plain.push(subscriber.clone()),
                Some(group) => match route.groups.iter_mut().find(|(it, _)| Arc::ptr_eq(it, group))
                {
                    Some((_, members)) => members.push(subscriber.clone()),
                    None => route.groups.push((group.clone(), vec![subscriber.clone()])),
                },
            }
        }
        let blocks = route.plain.iter().any(|it| it.overflow == Overflow::Block);
        route.is_simple = route.groups.is_empty() && !blocks;
        let route = Arc::new(route);
        if self.routes.len() >= MAX_ROUTES {
            self.routes.clear();
        }
        self.routes.insert(subject.clone(), route.clone());
        route
    }
}
