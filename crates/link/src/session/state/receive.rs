//! The processing of received frames, whether the session's task or the consumer has read them, and the
//! consumer's operations.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_proto::session::{Received, Sequence};
use tieline_transport::{CloseReason, LostBy};

use super::{Item, LARGE, SessionState};

impl SessionState {
    /// Returns the number of the current connection, and whether its frames are to be ignored.
    pub(in crate::session) fn connection(&self) -> (u64, bool) {
        (self.connection, self.reading.is_fenced())
    }

    /// Processes frames received over the current connection. Fails with the reason if the session is over.
    pub(in crate::session) fn receive_all(
        &mut self,
        mut frames: impl Iterator<Item = Bytes>,
    ) -> Result<(), CloseReason> {
        self.liveness.received(self.now);
        self.role.seen();
        frames.try_for_each(|frame| self.receive(frame))
    }

    fn receive(&mut self, frame: Bytes) -> Result<(), CloseReason> {
        match self.machine.receive_encoded(self.now, frame) {
            Ok(None | Some(Received::Pong(_))) => {}
            Ok(Some(Received::Message { sequence, message })) => self.message(sequence, message),
            Ok(Some(Received::End)) => {
                let reason = self.ending.peer_ended();
                self.inbound.push(Item::End(reason));
            }
            // The other end has received everything.
            Ok(Some(Received::Bye(farewell)))
                if farewell.text.is_empty()
                    && farewell.received >= self.machine.delivered().sent =>
            {
                return Err(CloseReason::ByPeer);
            }
            Ok(Some(Received::Bye(farewell))) => {
                return Err(self.lost(LostBy::Farewell(farewell.text)));
            }
            Err(violation) => return Err(self.lost(LostBy::Violation(violation))),
        }
        Ok(())
    }

    fn message(&mut self, sequence: Sequence, message: Bytes) {
        if let Some(fault) = self.json.and_then(|limits| Fault::unless_json(&message, limits)) {
            self.counted.faults += 1;
            self.inbound.push(Item::Fault(sequence, fault));
            return;
        }
        self.inbound.push(Item::Message(sequence, message));
    }

    /// Returns whether there was progress in either direction since the last call.
    pub(in crate::session) fn note_progress(&mut self, now: impl FnOnce() -> Duration) -> bool {
        let positions = (self.machine.delivered().acknowledged, self.machine.position().received);
        self.progress.note(positions, now)
    }

    /// Completes a read by the consumer. `received` is the outcome of processing the frames; `is_plain`
    /// means that no other event has occurred on the connection. The consumer handles only messages and
    /// their acknowledgements; after anything else the task reads again. Returns the tasks to wake.
    pub(in crate::session) fn was_read(
        &mut self,
        received: Result<(), CloseReason>,
        is_plain: bool,
    ) -> [Option<Waker>; 2] {
        if let Err(reason) = received {
            self.ending.doom(reason);
        }
        // If something was read, the consumer will take it at once, and a newer acknowledgement will be
        // due.
        let owes = self.inbound.is_empty() && self.machine.owes(self.now);
        if owes || self.machine.is_asked() {
            let _ = self.pump();
        }
        let sender = self.free_sender(false);
        let goes_on = is_plain && !self.ending.is_doomed() && !self.ending.has_peer_ended();
        let task = if goes_on { None } else { self.take_back_reading() };
        [task, sender]
    }

    /// Lets the consumer read the connection itself, if no other task waits for received frames and only
    /// messages are expected. Returns whether the consumer was not reading before, or `None` if it may
    /// not read.
    pub(in crate::session) fn lend_reading(
        &mut self,
        now: impl FnOnce() -> Duration,
    ) -> Option<bool> {
        // After the end of input the consumer does not poll again.
        if self.reading.is_fenced() || self.wakers.has_sender() || self.ending.has_peer_ended() {
            return None;
        }
        if self.ending.is_doomed() || self.ending.is_over() || self.ending.has_failed() {
            return None;
        }
        let is_new = !self.reading.is_lent();
        if is_new {
            self.now = now();
            self.reading.lend(self.now);
        }
        Some(is_new)
    }

    /// Lets the task read again. Returns its waker, if the consumer was reading.
    #[must_use = "the task is to read"]
    pub(in crate::session) fn take_back_reading(&mut self) -> Option<Waker> {
        if self.reading.take_back() { self.wakers.task().cloned() } else { None }
    }

    #[cfg(test)]
    pub(in crate::session) fn is_lent(&self) -> bool {
        self.reading.is_lent()
    }

    /// Begins a turn of the task. Returns whether it is to read now, in which case the consumer no longer
    /// does, and whether there is room for messages.
    pub(in crate::session) fn begin_turn(&mut self, is_broken: bool) -> (bool, bool) {
        let is_full = self.inbound.is_full();
        self.reading.hold_up(is_full);
        (self.reading.is_due(self.now, is_broken), !is_full)
    }

    /// Returns the waker of the waiting consumer, if there is an item for it.
    pub(in crate::session) fn free_receiver(&mut self) -> Option<Waker> {
        if self.inbound.is_empty() { None } else { self.wakers.take_receiver() }
    }

    pub(in crate::session) fn register_receiver(&mut self, waker: &Waker) {
        self.wakers.register_receiver(waker);
    }

    /// Moves all waiting items to the receiver, which has returned everything that it took before.
    pub(in crate::session) fn take_inbound(&mut self, into: &mut VecDeque<Item>) {
        if self.inbound.take(into) >= LARGE {
            self.count_memory();
        }
    }

    /// Acknowledges the messages up to `given`, which the consumer has received, unless the consumer
    /// commits messages itself. If there is more to read, the acknowledgement may wait. Returns the
    /// session's task if it must be woken.
    pub(in crate::session) fn give(
        &mut self,
        given: Option<Sequence>,
        has_more: bool,
        taken: &mut VecDeque<Item>,
    ) -> Option<Waker> {
        if let Some(given) = given.filter(|_| !self.renewal.is_pending()) {
            self.machine.commit(self.now, given);
        }
        let owes = if has_more { self.machine.owes_much() } else { self.machine.owes(self.now) };
        if owes {
            let _ = self.pump();
        }
        self.take_inbound(taken);
        let nudges = self.reading.is_held_up()
            || self.machine.is_over()
            || (!self.wakers.is_task_timed() && self.machine.wake_at().is_some());
        if nudges { self.task() } else { None }
    }

    /// Writes an acknowledgement that is due.
    pub(in crate::session) fn acknowledge(&mut self) {
        if self.machine.owes(self.now) {
            let _ = self.pump();
        }
    }

    /// Commits messages for the consumer. Returns the task to wake.
    pub(in crate::session) fn commit(
        &mut self,
        now: Duration,
        sequence: Sequence,
    ) -> Option<Waker> {
        if self.renewal.is_pending() {
            return None;
        }
        self.now = now;
        self.machine.commit(now, sequence);
        self.acknowledge();
        if self.wakers.is_task_timed() { None } else { self.task() }
    }

    pub(in crate::session) fn task(&self) -> Option<Waker> {
        self.wakers.task().cloned()
    }

    /// Records that the consumer has received the reset to this generation. Returns the sender, which may go on.
    pub(in crate::session) fn reset_given(&mut self, generation: u64) -> Option<Waker> {
        self.renewal.given(generation);
        self.wakers.take_sender()
    }

    /// Returns whether the session was replaced by a new one, and the consumer has not received the reset
    /// yet.
    pub(super) fn is_reset_pending(&self) -> bool {
        self.renewal.is_pending() && !self.inbound.is_receiver_gone()
    }

    pub(in crate::session) fn has_inbound(&self) -> bool {
        !self.inbound.is_empty()
    }

    /// Returns the bytes of messages that wait for the consumer.
    pub(in crate::session) fn unread(&self) -> u64 {
        self.inbound.unread()
    }

    /// Handles the drop of the receiver. Returns the session's task, which reads from now on.
    pub(in crate::session) fn receiver_gone(&mut self) -> Option<Waker> {
        self.inbound.close();
        let _ = self.reading.take_back();
        self.task()
    }
}
