//! The incoming half of a session: it takes what the task has read, or reads by itself.

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
    /// Taken out of the session's queue at once, to be given one by one.
    taken: VecDeque<Item>,
    /// More has come than was taken.
    has_more: bool,
    /// The last that was given.
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

    /// The number of the last message, or fault in place of a message, that was given; 0 before the
    /// first. Numbers begin anew behind a [`Reset`](Incoming::Reset).
    pub fn sequence(&self) -> Sequence {
        self.given
    }

    /// To say what was taken over, where the session [commits](super::SessionConfig::commits).
    pub fn commits(&self) -> Commits {
        Commits { shared: Arc::downgrade(&self.shared) }
    }

    /// What was given is acknowledged, and what waits is taken. Whom to wake.
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

    /// The same, where nothing more is waited for.
    fn commit(&mut self) {
        let Self { shared, taken, given, .. } = self;
        let nudged = Self::take_over(shared, &mut shared.core(), *given, taken, false);
        nudged.into_iter().for_each(Waker::wake);
    }

    /// Ready when something was taken.
    ///
    /// Who waits for what comes in reads it by himself, without the task between: that would be woken
    /// first, and would then wake him. The task takes over again after a moment, when anything else
    /// happens to the connection, and when somebody else waits for what comes in.
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
                            // It is to look at the clock.
                            woken = [core.task.clone(), None];
                        }
                        lent = Some((intake, core.lines));
                    }
                }
                // The task is at it; what has woken us may be for it to read.
                None => woken = [core.take_back_reading().or(woken[0].take()), None],
            }
        }
        if lent.is_none() && std::mem::take(has_more) && core.machine.owes(core.now) {
            // What more there is, the task brings when it does.
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
                // Nobody will say that there is more.
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
}

impl Drop for SessionReceiver {
    fn drop(&mut self) {
        self.commit();
        self.taken.clear();
        self.shared.receiver_gone();
    }
}

/// Says what the consumer has taken over, where that is for it to say: then a message is acknowledged,
/// and the other side forgets it. Cheap to clone, and keeps nothing alive.
#[derive(Clone)]
pub struct Commits {
    shared: Weak<Shared>,
}

impl Commits {
    /// All messages up to this [number](SessionReceiver::sequence) were taken over. One that was not
    /// received yet counts as the last that was. Of a session that was lost nothing can be committed any
    /// more: until the receiver has given the [`Reset`](Incoming::Reset), this does nothing.
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
