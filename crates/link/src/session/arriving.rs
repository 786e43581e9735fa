//! Processing of received frames, whether the session's task or the consumer has read them.

use std::sync::atomic::Ordering;
use std::task::Waker;

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_proto::session::{Received, Sequence};
use tieline_transport::{CloseReason, LostBy};

use super::core::{Core, Item, Role};
use super::intake::Intake;
use super::shared::Shared;
use crate::receiver::Live;

impl Shared {
    /// Returns whether the task is to read now. If so, the consumer no longer reads.
    pub(super) fn takes_reading(&self, core: &mut Core) -> bool {
        let is_broken = self.link().is_some_and(|link| link.is_broken.load(Ordering::Acquire));
        if core.lent_until.is_some_and(|until| core.now < until) && !core.is_fenced && !is_broken {
            return false;
        }
        core.lent_until = None;
        true
    }

    /// Processes what the consumer has read itself. Anything beyond messages and their acknowledgements is
    /// left to the task, and so is reading after any other event on the connection. Returns the tasks to
    /// wake.
    pub(super) fn was_read(
        &self,
        core: &mut Core,
        intake: &mut Intake,
        live: Live,
    ) -> [Option<Waker>; 2] {
        if let Err(reason) = self.receive_all(core, intake) {
            core.doom.get_or_insert(reason);
        }
        // If something was read, the consumer will consume it at once and owe a newer acknowledgement.
        let owes = core.inbound.is_empty() && core.machine.owes(core.now);
        if owes || core.machine.is_asked() {
            let _ = self.pump(core);
        }
        let sender = core.free_sender(false);
        let goes_on = live != Live::Else && core.doom.is_none() && !core.has_peer_ended;
        let task = if goes_on { None } else { core.take_back_reading() };
        [task, sender]
    }

    /// Processes frames received over the current connection. Fails with the reason if the session is over.
    pub(super) fn receive_all(
        &self,
        core: &mut Core,
        intake: &mut Intake,
    ) -> Result<(), CloseReason> {
        if core.lines != intake.lines {
            // Another connection was granted in the meantime, on which these frames are sent again.
            intake.batch.clear();
        }
        if intake.batch.is_empty() {
            return Ok(());
        }
        core.heartbeat.alive(core.now);
        core.looked.has_frames = true;
        if let Role::Server(server) = &mut core.role {
            server.seen();
        }
        let mut frames = intake.batch.drain(..);
        let received = frames.try_for_each(|frame| self.receive(core, frame));
        self.note_progress(core);
        received
    }

    fn receive(&self, core: &mut Core, frame: Bytes) -> Result<(), CloseReason> {
        match core.machine.receive_encoded(core.now, frame) {
            Ok(None | Some(Received::Pong(_))) => {}
            Ok(Some(Received::Message { sequence, message })) => {
                self.message(core, sequence, message);
            }
            Ok(Some(Received::End)) => {
                core.has_peer_ended = true;
                let by_us = core.is_closing;
                let reason = if by_us { CloseReason::ByUs } else { CloseReason::ByPeer };
                core.push(Item::End(reason));
            }
            // The other end has received everything.
            Ok(Some(Received::Bye(farewell)))
                if farewell.text.is_empty()
                    && farewell.received >= core.machine.delivered().sent =>
            {
                return Err(CloseReason::ByPeer);
            }
            Ok(Some(Received::Bye(farewell))) => {
                return Err(core.lost(LostBy::Farewell(farewell.text)));
            }
            Err(violation) => return Err(core.lost(LostBy::Violation(violation))),
        }
        Ok(())
    }

    /// If there was progress in either direction since the last call, the waits for a connection start over.
    pub(super) fn note_progress(&self, core: &mut Core) {
        let position = (core.machine.delivered().acknowledged, core.machine.position().received);
        if position != core.progress {
            core.progress = position;
            if let Some((_, sent)) = core.timed.take_if(|(sequence, _)| *sequence <= position.0) {
                core.latency.record(self.now().saturating_sub(sent));
            }
            if let Some(link) = self.link() {
                link.is_well.store(true, Ordering::Relaxed);
            }
        }
    }

    fn message(&self, core: &mut Core, sequence: Sequence, message: Bytes) {
        let limits = self.line.json;
        if let Some(fault) = limits.and_then(|limits| Fault::unless_json(&message, limits)) {
            core.counted.faults += 1;
            core.push(Item::Fault(sequence, fault));
            return;
        }
        core.push(Item::Message(sequence, message));
    }
}
