//! What becomes of what comes in, whoever has read it.

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
    /// Whether the task is to read now. If it was the consumer that did, it is so no more.
    pub(super) fn takes_reading(&self, core: &mut Core) -> bool {
        let is_broken = self.link().is_some_and(|link| link.is_broken.load(Ordering::Acquire));
        if core.lent_until.is_some_and(|until| core.now < until) && !core.is_fenced && !is_broken {
            return false;
        }
        core.lent_until = None;
        true
    }

    /// The consumer has read by himself. What is more than messages and what answers them is for the task,
    /// and so is the reading if the connection does not just go on. Whom to wake.
    pub(super) fn was_read(
        &self,
        core: &mut Core,
        intake: &mut Intake,
        live: Live,
    ) -> [Option<Waker>; 2] {
        if let Err(reason) = self.receive_all(core, intake) {
            core.doom.get_or_insert(reason);
        }
        // Where something was read, more will be taken over at once.
        let owes = core.inbound.is_empty() && core.machine.owes(core.now);
        if owes || core.machine.is_asked() {
            let _ = self.pump(core);
        }
        let sender = core.free_sender(false);
        let goes_on = live != Live::Else && core.doom.is_none() && !core.has_peer_ended;
        let task = if goes_on { None } else { core.take_back_reading() };
        [task, sender]
    }

    /// Takes frames that have come over the connection of the moment. Why the session is over, if it is.
    pub(super) fn receive_all(
        &self,
        core: &mut Core,
        intake: &mut Intake,
    ) -> Result<(), CloseReason> {
        if core.lines != intake.lines {
            // Another connection was granted since: as behind a reset.
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
            // It has had all that there was.
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

    /// If either side has come on since the last look, the next wait for a connection is a first one
    /// again.
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
