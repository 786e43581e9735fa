//! Delivers a message to all subscriptions that match its subject, or waits and delivers to none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::Shared;
use super::table::Route;
use crate::error::Error;
use crate::event::Delivery;
use crate::group::GroupPlace;
use crate::lock::{lock, read, write};
use crate::message::Message;
use crate::queue::Overflow;
use crate::subject::Subject;
use crate::subscriber::{Fate, Subscriber};

/// Where a publisher waits.
#[derive(Default)]
pub(super) struct Places {
    queue: Option<Place>,
    group: Option<GroupPlace>,
}

/// A place among the publishers that wait for room in a queue.
struct Place {
    subscriber: Arc<Subscriber>,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.subscriber.leave(self.ticket);
    }
}

impl Shared {
    /// Returns the subscriptions that match the subject.
    pub(super) fn route(&self, subject: &Subject) -> Result<Arc<Route>, Error> {
        let table = read(&self.table);
        if table.is_closed() {
            return Err(Error::Closed);
        }
        if let Some(route) = table.known_route(subject) {
            return Ok(route.clone());
        }
        drop(table);
        let mut table = write(&self.table);
        if table.is_closed() { Err(Error::Closed) } else { Ok(table.route(subject)) }
    }

    /// Delivers a message to subscriptions that never wait.
    pub(super) fn deliver_to_all(
        &self,
        plain: &[Arc<Subscriber>],
        subject: &Subject,
        (message, size): (Message, usize),
    ) -> usize {
        let Some((last, others)) = plain.split_last() else { return 0 };
        let delivery = Delivery::new(subject.clone(), (message, size), None);
        let mut matched = 0;
        for subscriber in others {
            matched += usize::from(self.push(subscriber, delivery.clone()));
        }
        matched + usize::from(self.push(last, delivery))
    }

    /// Takes the message and delivers it. While a queue that must not lose it is full, waits in `places`
    /// and delivers it to no subscription. Returns how many subscriptions it was delivered to.
    pub(super) fn poll_deliver(
        &self,
        (subject, message): (&Subject, &mut Message),
        request: Option<u64>,
        places: &mut Places,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        let size = message.size();
        let mut route = self.route(subject)?;
        let mut targets = targets_of(&route, request.is_some());
        let mut has_chosen_again = false;
        while let Err(must_choose) = ready_all(&targets, (size, request.is_some()), places, cx) {
            if request.is_some() {
                // The choice was not carried out.
                targets.iter().filter(|it| it.group.is_some()).for_each(|it| it.load.settle());
            }
            if !must_choose || has_chosen_again {
                return Poll::Pending;
            }
            has_chosen_again = true;
            drop(targets);
            route = self.route(subject)?;
            targets = targets_of(&route, request.is_some());
        }
        if let Some(request) = request {
            // Before any responder can answer.
            lock(&self.requests).assign(request, &targets);
        }
        let (mut matched, has_targets) = (0, !targets.is_empty());
        let delivery = Delivery::new(subject.clone(), (std::mem::take(message), size), request);
        for subscriber in targets {
            if self.push(subscriber, delivery.clone()) {
                matched += 1;
            } else if let Some(request) = request {
                drop(lock(&self.requests).dropped(request, subscriber));
            }
        }
        *places = Places::default();
        if matched == 0 && request.is_some() && has_targets {
            // All of them have ended since the route was computed.
            let subject = subject.shared();
            return Poll::Ready(Err(Error::ResponderLost { subject, taken: false }));
        }
        Poll::Ready(Ok(matched))
    }

    /// Puts a message into a queue. Returns whether the subscription had not ended.
    fn push(&self, subscriber: &Arc<Subscriber>, delivery: Delivery) -> bool {
        match subscriber.push(delivery) {
            Fate::Queued => {}
            Fate::Ended => return false,
            Fate::Lost(dropped) => {
                let lost = subscriber.count_lost(dropped.len() as u64);
                self.lost.fetch_add(lost, Ordering::Relaxed);
                for request in dropped.iter().filter_map(|it| it.request()) {
                    subscriber.load.settle();
                    let failed = lock(&self.requests).dropped(request, subscriber);
                    failed.into_iter().for_each(|it| it.fail_as_lost());
                }
            }
            Fate::TooSlow => {
                let lost = subscriber.count_lost(1);
                self.lost.fetch_add(lost, Ordering::Relaxed);
                self.unsubscribe(subscriber, &subscriber.requests());
            }
        }
        true
    }
}

/// Returns all subscriptions without a group, and one of each group.
fn targets_of(route: &Route, is_request: bool) -> Vec<&Arc<Subscriber>> {
    let chosen = route.groups.iter().filter_map(|(group, members)| {
        let loads = members.iter().map(|it| &it.load);
        members.get(lock(&group.balance).choose(loads, is_request)?)
    });
    let mut targets: Vec<_> = route.plain.iter().chain(chosen).collect();
    targets.sort_unstable_by_key(|it| it.id);
    targets
}

/// Checks that no queue that must not lose the message is full, or waits for the first one, and for any other
/// member of its group. Returns an error if the publisher waits: whether it must choose again, because room
/// in another member may have gone unnoticed.
///
/// A publisher waits for at most one queue at a time, so that publishers cannot wait for each other.
fn ready_all(
    targets: &[&Arc<Subscriber>],
    (size, is_request): (usize, bool),
    places: &mut Places,
    cx: &Context<'_>,
) -> Result<(), bool> {
    let place = &mut places.queue;
    let ticket_of = |subscriber: &Arc<Subscriber>, place: &Option<Place>| {
        let is_it = |it: &&Place| Arc::ptr_eq(&it.subscriber, subscriber);
        place.as_ref().filter(is_it).map(|it| it.ticket)
    };
    let has_room =
        |it: &Arc<Subscriber>, place: &Option<Place>| it.has_room(size, ticket_of(it, place));
    loop {
        let blocking = |it: &&&Arc<Subscriber>| it.overflow == Overflow::Block;
        let mut full = targets.iter().filter(blocking).find(|it| !has_room(it, place));
        if full.is_none() && is_request && !targets.iter().any(|it| has_room(it, place)) {
            full = targets.first();
        }
        let Some(full) = full else { return Ok(()) };
        let before = ticket_of(full, place);
        // There may be room by now.
        let Some(ticket) = full.wait(size, before, cx) else { continue };
        if before.is_none() {
            *place = Some(Place { subscriber: Arc::clone(full), ticket });
        }
        let group = full.group.as_ref();
        return Err(group.is_some_and(|it| GroupPlace::wait(&mut places.group, it, cx.waker())));
    }
}

/// Delivers a message, and waits for room if necessary.
pub(super) async fn deliver(
    shared: &Shared,
    subject: &Subject,
    mut message: Message,
    request: Option<u64>,
) -> Result<usize, Error> {
    let mut places = Places::default();
    std::future::poll_fn(|cx| {
        shared.poll_deliver((subject, &mut message), request, &mut places, cx)
    })
    .await
}
