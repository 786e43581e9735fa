//! The incoming half of a session, which takes what the task has read, or reads the connection itself.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use tieline_proto::session::Sequence;
use tieline_transport::{CloseReason, Incoming, Receiver};

use super::assemble::Lifeline;
use super::core::{Core, Item};
use super::shared::Shared;
use crate::receiver::Live;
use crate::shared::remember;

/// The incoming half of a [`Session`](super::Session).
pub struct SessionReceiver {
    shared: Arc<Shared>,
    _lifeline: Arc<Lifeline>,
    /// Items taken from the session's queue in one go, to be returned one by one.
    taken: VecDeque<Item>,
    /// More may be available on the connection.
    has_more: bool,
    /// The number of the last returned message.
    given: Sequence,
    last: Option<CloseReason>,
}

impl SessionReceiver {
    pub(super) fn new(shared: Arc<Shared>, lifeline: Arc<Lifeline>) -> Self {
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

    /// Returns a handle to commit messages, for sessions that [commit](super::SessionConfig::commits).
    pub fn commits(&self) -> Commits {
        Commits { shared: Arc::downgrade(&self.shared) }
    }

    /// Acknowledges the returned messages, and takes those that wait. Returns the task to wake.
    fn take_over(
        shared: &Shared,
        core: &mut Core,
        given: Sequence,
        taken: &mut VecDeque<Item>,
        has_more: bool,
    ) -> Option<Waker> {
        let is_present = core.generation == core.given_generation;
        if !shared.options.session.commits && is_present {
            let now = core.now;
            core.machine.commit(now, given);
        }
        let owes = if has_more { core.machine.owes_much() } else { core.machine.owes(core.now) };
        if owes {
            let _ = shared.pump(core);
        }
        core.take_inbound(taken);
        let nudges = core.is_held_up
            || core.is_over()
            || (!core.is_timed && core.machine.wake_at().is_some());
        if nudges { core.task.clone() } else { None }
    }

    /// Acknowledges the returned messages without waiting for more.
    fn commit(&mut self) {
        let Self { shared, taken, given, .. } = self;
        let nudged = Self::take_over(shared, &mut shared.core(), *given, taken, false);
        nudged.into_iter().for_each(Waker::wake);
    }

    /// Ready when an item is available.
    ///
    /// A waiting consumer reads the connection itself. Otherwise the session's task would be woken first
    /// and would then wake the consumer. The task reads again after a while, after any other event on the
    /// connection, and when a sender waits for something to be received.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { shared, taken, has_more, given, .. } = self;
        let intake = shared.try_intake();
        let mut core = shared.core();
        let mut woken = [Self::take_over(shared, &mut core, *given, taken, *has_more), None];
        let mut lent = None;
        if taken.is_empty() {
            remember(&mut core.receiver, cx.waker());
            match intake {
                Some(intake) => {
                    if let Some(is_new) = core.lend_reading(|| shared.now()) {
                        if is_new {
                            // The task must set its timer.
                            woken = [core.task.clone(), None];
                        }
                        lent = Some((intake, core.lines));
                    }
                }
                // The task is reading. What woke us may be for it to read.
                None => woken = [core.take_back_reading().or(woken[0].take()), None],
            }
        }
        if lent.is_none() && std::mem::take(has_more) && core.machine.owes(core.now) {
            // The task reads the rest, so this is the time to acknowledge.
            let _ = shared.pump(&mut core);
        }
        drop(core);
        if let Some((mut intake, lines)) = lent {
            let live = intake.read(lines, cx);
            let had_more = std::mem::replace(has_more, live == Live::Many);
            if live == Live::All && intake.batch.is_empty() && !had_more && woken[0].is_none() {
                return Poll::Pending;
            }
            let mut core = shared.core();
            let [task, sender] = shared.was_read(&mut core, &mut intake, live);
            core.take_inbound(taken);
            woken = [task.or(woken[0].take()), sender];
            if matches!(live, Live::Many | Live::One) && taken.is_empty() {
                // No other event will wake us for what is left to read.
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
                Some(Item::Reset(reset)) => {
                    self.given = 0;
                    let sender = {
                        let mut core = self.shared.core();
                        core.given_generation += 1;
                        core.sender.take()
                    };
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
        !self.taken.is_empty() || !self.shared.core().inbound.is_empty()
    }

    /// The bytes of messages that were not returned, and so not acknowledged.
    fn unread(&self) -> u64 {
        let core = self.shared.core();
        self.taken.iter().chain(&core.inbound).map(Item::length).sum()
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
/// end no longer keeps it. It is cheap to clone, and does not keep the session alive.
#[derive(Clone)]
pub struct Commits {
    shared: Weak<Shared>,
}

impl Commits {
    /// Commits all messages up to this [number](SessionReceiver::sequence). A number above the last
    /// received one counts as the last one. Messages of a lost session cannot be committed: until the
    /// receiver has returned the [`Reset`](Incoming::Reset), this does nothing.
    pub fn commit(&self, sequence: Sequence) {
        let Some(shared) = self.shared.upgrade() else { return };
        let task = {
            let mut core = shared.core();
            if core.given_generation != core.generation {
                return;
            }
            let now = shared.now();
            core.now = now;
            core.machine.commit(now, sequence);
            if core.machine.owes(now) {
                let _ = shared.pump(&mut core);
            }
            if core.is_timed { None } else { core.task.clone() }
        };
        task.into_iter().for_each(Waker::wake);
    }
}
