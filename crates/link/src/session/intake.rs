//! What reads a session's connection: its task, or whoever receives, for as long as it comes by.

use std::sync::atomic::Ordering;
use std::task::Context;

use bytes::Bytes;
use tieline_transport::{CloseReason, Incoming};

use super::shared::Shared;
use crate::LinkReceiver;
use crate::receiver::{Gathered, Live};

/// So many frames are taken before they are looked at,
pub(super) const BATCH: usize = 64;
/// or so many bytes before others have their turn: the consumer finds them in the processor's cache.
const TURN_BYTES: usize = 512 * 1024;

/// Under a lock of its own, which is taken before all others.
pub(super) struct Intake {
    receiver: Option<LinkReceiver>,
    /// What has come and was not looked at yet; nothing where the lock is free.
    pub(super) batch: Vec<Bytes>,
    /// Which connection of all it came over.
    pub(super) lines: u64,
    /// Bytes taken in this turn.
    taken: usize,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self { receiver: None, batch: Vec::with_capacity(BATCH), lines: 1, taken: 0 }
    }

    /// There is something to be read from.
    pub(super) fn carried(&mut self, receiver: LinkReceiver) {
        self.receiver = Some(receiver);
    }

    /// Nothing is read any more. What is given is to be dropped.
    pub(super) fn close(&mut self) -> Option<LinkReceiver> {
        self.receiver.take()
    }

    pub(super) fn begin_turn(&mut self) {
        self.taken = 0;
    }

    /// It is for others to go on.
    pub(super) fn has_had_its_turn(&self) -> bool {
        self.taken >= TURN_BYTES
    }

    /// There may be more.
    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= BATCH || self.has_had_its_turn()
    }

    /// Takes frames from the connection `lines`, as long as it just goes on: whatever else happens to it is
    /// for the task to see.
    pub(super) fn read(&mut self, lines: u64, cx: &mut Context<'_>) -> Live {
        self.begin_turn();
        self.lines = lines;
        let Self { receiver, batch, taken, .. } = self;
        let Some(receiver) = receiver else { return Live::Else };
        let take = |frame: Bytes| {
            *taken += frame.len();
            batch.push(frame);
            *taken < TURN_BYTES
        };
        receiver.poll_live(cx, BATCH, take)
    }

    /// Takes frames from whatever connection there is, and sees to it that there is one. Why the Link has
    /// ended, if it has.
    pub(super) fn gather(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        room: bool,
    ) -> Option<CloseReason> {
        let Self { receiver, batch, lines, taken } = self;
        let Some(receiver) = receiver else { return Some(CloseReason::ByUs) };
        loop {
            let is_fenced = {
                let core = shared.core();
                *lines = core.lines;
                core.is_fenced
            };
            if let (true, Some(link)) = (is_fenced, shared.link()) {
                // It was overtaken before it was there to be given up.
                link.give_up_line(CloseReason::ByPeer);
            }
            let is_broken =
                shared.link().is_some_and(|link| link.is_broken.load(Ordering::Acquire));
            if !room && !is_fenced && !is_broken {
                return None;
            }
            // What is left out here will come again over the next connection.
            let takes = room && !is_fenced;
            let most = BATCH - batch.len();
            let take = |frame: Bytes| {
                *taken += frame.len();
                batch.extend(takes.then_some(frame));
                *taken < TURN_BYTES
            };
            match receiver.poll_many(cx, most, take) {
                Gathered::All => return None,
                Gathered::Many if takes => return None,
                Gathered::Other(Incoming::End(reason)) => return Some(reason),
                // Another connection: what the one before has brought comes again, and shows nothing
                // of the other side's having seen this one's welcome.
                Gathered::Other(Incoming::Reset(_)) => batch.clear(),
                Gathered::Many | Gathered::Other(_) => {}
            }
        }
    }
}
