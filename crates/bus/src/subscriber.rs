//! The queue of a subscription under its lock, with the tasks that wait for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use crate::balance::Load;
use crate::event::{Delivery, End};
use crate::group::Group;
use crate::lock::lock;
use crate::queue::{self, Overflow, Pushed, Queue, QueueLimits, Weighed};
use crate::subject::{Pattern, Subject};

/// A subscription as its bus sees it.
pub(crate) struct Subscriber {
    pub(crate) id: u64,
    /// The client that subscribed.
    pub(crate) client: u64,
    pub(crate) pattern: Pattern,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) load: Load,
    pub(crate) overflow: Overflow,
    lost: AtomicU64,
    has_warned: AtomicBool,
    has_ended: AtomicBool,
    state: Mutex<State>,
}

struct State {
    queue: Queue<Delivery, Cancelled>,
    end: Option<End>,
    reader: Option<Waker>,
    /// The publishers that wait for room, in order, by ticket.
    blocked: VecDeque<(u64, Waker)>,
    tickets: u64,
}

/// The inbox of a request that the subscription has taken, and that was cancelled.
pub(crate) type Cancelled = Subject;

/// What a reader has taken from its queue.
pub(crate) type Taken = queue::Taken<Delivery, Cancelled>;

/// What has become of a message.
#[derive(Debug)]
pub(crate) enum Fate {
    Queued,
    /// These messages were dropped, possibly including the new one.
    Lost(Vec<Delivery>),
    /// The message was dropped, and the subscription ends.
    TooSlow,
    /// The subscription has ended before.
    Ended,
}

/// What a request finds at a subscription that has it.
pub(crate) enum Found {
    /// A message of this size.
    InQueue(usize),
    Taken,
}

impl Subscriber {
    pub(crate) fn new(
        (id, client): (u64, u64),
        pattern: Pattern,
        group: Option<Arc<Group>>,
        (limits, overflow): (QueueLimits, Overflow),
    ) -> Self {
        let state = State {
            queue: Queue::new(limits),
            end: None,
            reader: None,
            blocked: VecDeque::new(),
            tickets: 0,
        };
        Self {
            id,
            client,
            pattern,
            group,
            load: Load::default(),
            overflow,
            lost: AtomicU64::new(0),
            has_warned: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Returns whether a message of this size fits and no publisher waits, except one with this ticket.
    pub(crate) fn has_room(&self, size: usize, ticket: Option<u64>) -> bool {
        lock(&self.state).has_room(size, ticket)
    }

    /// Waits for room: sets the ticket's waker, or creates a ticket. Returns `None` if there is room now.
    pub(crate) fn wait(&self, size: usize, ticket: Option<u64>, cx: &Context<'_>) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.has_room(size, ticket) {
            return None;
        }
        let known = state.blocked.iter_mut().find(|(known, _)| Some(*known) == ticket);
        if let Some((known, waker)) = known {
            waker.clone_from(cx.waker());
            return Some(*known);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.blocked.push_back((ticket, cx.waker().clone()));
        Some(ticket)
    }

    /// Gives up waiting for room.
    pub(crate) fn leave(&self, ticket: u64) {
        let mut state = lock(&self.state);
        state.blocked.retain(|(known, _)| *known != ticket);
        let next = state.next_publisher();
        drop(state);
        next.into_iter().for_each(Waker::wake);
    }

    /// Delivers a message to the queue.
    pub(crate) fn push(&self, delivery: Delivery) -> Fate {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return Fate::Ended;
        }
        let is_too_slow =
            self.overflow == Overflow::Disconnect && !state.queue.has_room(delivery.size());
        let fate = match state.queue.push(delivery, self.overflow == Overflow::DropOldest) {
            Pushed::Queued => Fate::Queued,
            Pushed::Dropped(_) if is_too_slow => {
                state.end = Some(End::TooSlow);
                Fate::TooSlow
            }
            Pushed::Dropped(delivery) => Fate::Lost(vec![delivery]),
            Pushed::Replaced(deliveries) => Fate::Lost(deliveries),
        };
        if self.group.is_some() {
            self.load.set_full(!state.queue.has_room(0));
        }
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        fate
    }

    /// Counts lost messages, and warns once. Returns their number.
    pub(crate) fn count_lost(&self, lost: u64) -> u64 {
        let total = self.lost.fetch_add(lost, Ordering::Relaxed) + lost;
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                pattern = %self.pattern,
                lost = total,
                "the queue of a subscription is full, so messages are dropped; this is logged once"
            );
        }
        lost
    }

    /// Finds a request that was delivered and removes it from the queue, or tells the reader that it was
    /// cancelled.
    pub(crate) fn cancel(&self, request: u64) -> Found {
        let mut state = lock(&self.state);
        if let Some(found) = state.queue.remove(|it| it.request() == Some(request)) {
            self.has_gained_room(state);
            return Found::InQueue(found.size());
        }
        if state.end.is_none() {
            state.queue.notify(Subject::inbox(request));
        }
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Found::Taken
    }

    /// Adds a gap for messages that were lost elsewhere.
    pub(crate) fn mark_gap(&self, lost: u64) {
        let mut state = lock(&self.state);
        state.queue.mark_gap(lost);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Returns true once: to the owner that ends the subscription.
    pub(crate) fn is_first_end(&self) -> bool {
        !self.has_ended.swap(true, Ordering::Relaxed)
    }

    /// Ends the subscription. What is in the queue is delivered first.
    pub(crate) fn end(&self, end: End) {
        let mut state = lock(&self.state);
        state.end.get_or_insert(end);
        let reader = state.reader.take();
        let publishers = state.blocked.iter().map(|(_, waker)| waker.clone());
        let woken: Vec<_> = publishers.chain(reader).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Discards the queue of a subscription that was dropped. Returns the requests in it.
    pub(crate) fn discard(&self) -> Vec<u64> {
        self.end(End::Closed);
        let deliveries = lock(&self.state).queue.clear();
        deliveries.iter().filter_map(|it| it.request()).collect()
    }

    /// Returns the requests in the queue.
    pub(crate) fn requests(&self) -> Vec<u64> {
        let state = lock(&self.state);
        state.queue.messages().filter_map(Delivery::request).collect()
    }

    /// Waits until the queue has something, and takes the first items. Returns the end if nothing is left.
    pub(crate) fn poll_take(&self, taken: &mut Taken, cx: &Context<'_>) -> Poll<Option<End>> {
        let mut state = lock(&self.state);
        state.queue.take(taken);
        if taken.is_empty() {
            if state.end.is_some() {
                return Poll::Ready(state.end.clone());
            }
            match &mut state.reader {
                Some(known) => known.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        self.has_gained_room(state);
        Poll::Ready(None)
    }

    /// Wakes publishers that wait for room.
    fn has_gained_room(&self, state: MutexGuard<'_, State>) {
        let next = state.next_publisher();
        if self.group.is_some() {
            self.load.set_full(!state.queue.has_room(0));
        }
        drop(state);
        if let Some(next) = next {
            next.wake();
        }
        if let Some(group) = &self.group {
            group.wake();
        }
    }
}

impl State {
    fn has_room(&self, size: usize, ticket: Option<u64>) -> bool {
        let is_next = self.blocked.front().is_none_or(|(first, _)| Some(*first) == ticket);
        self.end.is_some() || (self.queue.has_room(size) && is_next)
    }

    /// Returns the publisher to wake, if there may be room for it.
    fn next_publisher(&self) -> Option<Waker> {
        let (_, waker) = self.blocked.front()?;
        self.queue.has_room(0).then(|| waker.clone())
    }
}
