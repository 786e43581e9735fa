//! The incoming half of a session. It takes the messages that the task has read, or reads the connection
//! itself.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use tieline_proto::session::Sequence;
use tieline_transport::{CloseReason, Incoming, Receiver};

use super::lifeline::Lifeline;
use super::shared_session::SharedSession;
use super::state::{Item, SessionState};
use crate::receiver::Live;

/// The incoming half of a [`Session`](super::Session).
pub struct SessionReceiver {
    shared: Arc<SharedSession>,
    _lifeline: Arc<Lifeline>,
    /// Items taken from the session's queue in one go, to be returned one by one.
    taken: VecDeque<Item>,
    /// Whether more may be available on the connection.
    has_more: bool,
    /// The number of the last returned message.
    given: Sequence,
    last: Option<CloseReason>,
}

impl SessionReceiver {
    pub(super) fn new(shared: Arc<SharedSession>, lifeline: Arc<Lifeline>) -> Self {
        Self {
            shared,
            _lifeline: lifeline,
            taken: VecDeque::new(),
            has_more: false,
            given: 0,
            last: None,
        }
    }

    /// Returns the number of the last received message, or of a fault in its place; 0 before the first. The
    /// numbers start over after a [`Reset`](Incoming::Reset).
    pub fn sequence(&self) -> Sequence {
        self.given
    }

    /// Returns a handle to commit messages, for sessions that [commit](tieline_proto::session::SessionConfig::commits).
    pub fn commits(&self) -> Commits {
        Commits { shared: Arc::downgrade(&self.shared) }
    }

    /// Acknowledges the returned messages, and takes the waiting ones. Returns the task to wake.
    fn take_over(
        shared: &SharedSession,
        state: &mut SessionState,
        given: Sequence,
        taken: &mut VecDeque<Item>,
        has_more: bool,
    ) -> Option<Waker> {
        let given = (!shared.options.session.commits).then_some(given);
        state.give(given, has_more, taken)
    }

    /// Acknowledges the returned messages without waiting for more.
    fn commit(&mut self) {
        let Self { shared, taken, given, .. } = self;
        let nudged = Self::take_over(shared, &mut shared.state(), *given, taken, false);
        nudged.into_iter().for_each(Waker::wake);
    }

    /// Waits until an item is available.
    ///
    /// A waiting consumer reads the connection itself. Otherwise each message would wake the session's
    /// task, which would then wake the consumer. The task reads again after a while, after any event
    /// other than a message, and while a sender waits for the other end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { shared, taken, has_more, given, .. } = self;
        let intake = shared.try_intake();
        let mut state = shared.state();
        let mut woken = [Self::take_over(shared, &mut state, *given, taken, *has_more), None];
        let mut lent = None;
        if taken.is_empty() {
            state.register_receiver(cx.waker());
            match intake {
                Some(intake) => {
                    if let Some(is_new) = state.lend_reading(|| shared.now()) {
                        if is_new {
                            // The task must set its timer.
                            woken = [state.task(), None];
                        }
                        lent = Some((intake, state.connection().0));
                    }
                }
                // The task is reading. It must read the data that may have woken the consumer.
                None => woken = [state.take_back_reading().or(woken[0].take()), None],
            }
        }
        if lent.is_none() && std::mem::take(has_more) {
            // The task reads the rest, so acknowledge now.
            state.acknowledge();
        }
        drop(state);
        if let Some((mut intake, connection)) = lent {
            let live = intake.read(connection, cx);
            let had_more = std::mem::replace(has_more, live == Live::Many);
            if live == Live::All && intake.batch.is_empty() && !had_more && woken[0].is_none() {
                return Poll::Pending;
            }
            let mut state = shared.state();
            let [task, sender] = shared.was_read(&mut state, &mut intake, live);
            state.take_inbound(taken);
            woken = [task.or(woken[0].take()), sender];
            if matches!(live, Live::Many | Live::One) && taken.is_empty() {
                // No other event will wake the consumer for the data that is left to read.
                cx.waker().wake_by_ref();
            }
        }
        woken.into_iter().flatten().for_each(Waker::wake);
        if taken.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Receiver for SessionReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            match self.taken.pop_front() {
                Some(Item::Message(sequence, message)) => {
                    self.given = sequence;
                    return Poll::Ready(Incoming::Message(message));
                }
                Some(Item::Fault(sequence, fault)) => {
                    self.given = sequence;
                    return Poll::Ready(Incoming::Fault(fault));
                }
                Some(Item::Reset(generation, reset)) => {
                    self.given = 0;
                    let sender = self.shared.state().reset_given(generation);
                    sender.into_iter().for_each(Waker::wake);
                    return Poll::Ready(Incoming::Reset(reset));
                }
                Some(Item::End(reason)) => {
                    self.last = Some(reason);
                    self.commit();
                }
                None => {}
            }
            if let Some(reason) = &self.last {
                return Poll::Ready(Incoming::End(reason.clone()));
            }
            ready!(self.poll_more(cx));
        }
    }

    fn holds_part(&self) -> bool {
        !self.taken.is_empty() || self.shared.state().has_inbound()
    }

    /// Returns how many bytes of messages were not returned to the consumer, and so not acknowledged.
    fn unread(&self) -> u64 {
        let state = self.shared.state();
        self.taken.iter().map(Item::length).sum::<u64>() + state.unread()
    }
}

impl Drop for SessionReceiver {
    fn drop(&mut self) {
        self.commit();
        self.taken.clear();
        self.shared.receiver_gone();
    }
}

/// A handle with which the consumer commits messages. A committed message is acknowledged, and the other
/// end no longer keeps it. The handle is cheap to clone, and does not keep the session alive.
#[derive(Clone)]
pub struct Commits {
    shared: Weak<SharedSession>,
}

impl Commits {
    /// Commits all messages up to this [number](SessionReceiver::sequence). A number above the last
    /// received one is treated as the last one. Messages of a lost session cannot be committed: until
    /// the receiver has returned the [`Reset`](Incoming::Reset), this does nothing.
    pub fn commit(&self, sequence: Sequence) {
        let Some(shared) = self.shared.upgrade() else { return };
        let task = shared.state().commit(shared.now(), sequence);
        task.into_iter().for_each(Waker::wake);
    }
}
