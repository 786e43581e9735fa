//! Reading of a session's connection, by its task or by the receiver while that is being polled.

use std::sync::atomic::Ordering;
use std::task::Context;

use bytes::Bytes;
use tieline_transport::{CloseReason, Incoming};

use super::shared::Shared;
use crate::receiver::{Gathered, LinkReceiver, Live};

/// How many frames are read before they are processed.
pub(super) const BATCH: usize = 64;
/// How many bytes are read before other tasks run. They are then still in the processor's cache when the
/// consumer receives them.
const TURN_BYTES: usize = 512 * 1024;

/// The reading side, under its own lock, which is taken before all others.
pub(super) struct Intake {
    receiver: Option<LinkReceiver>,
    /// Frames that were read and are not processed yet. Empty while the lock is free.
    pub(super) batch: Vec<Bytes>,
    /// The number of the connection that they were read from.
    pub(super) lines: u64,
    /// How many bytes were read in this turn.
    taken: usize,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self { receiver: None, batch: Vec::with_capacity(BATCH), lines: 1, taken: 0 }
    }

    /// Sets the Link to read from.
    pub(super) fn carried(&mut self, receiver: LinkReceiver) {
        self.receiver = Some(receiver);
    }

    /// Stops reading. The caller drops the returned receiver after releasing the lock.
    pub(super) fn close(&mut self) -> Option<LinkReceiver> {
        self.receiver.take()
    }

    pub(super) fn begin_turn(&mut self) {
        self.taken = 0;
    }

    /// Returns whether other tasks should run now.
    pub(super) fn has_had_its_turn(&self) -> bool {
        self.taken >= TURN_BYTES
    }

    /// Returns whether the batch is full, so that there may be more frames to read.
    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= BATCH || self.has_had_its_turn()
    }

    /// Reads frames from the connection `lines`. Any event other than a frame is left to the task.
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

    /// Reads frames from the current connection, and lets the Link reconnect. Returns why the Link has
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
                // The connection was fenced before the Link had installed it, so it is given up only now.
                link.give_up_line(CloseReason::ByPeer);
            }
            let is_broken =
                shared.link().is_some_and(|link| link.is_broken.load(Ordering::Acquire));
            if !room && !is_fenced && !is_broken {
                return None;
            }
            // Frames that are skipped here are sent again over the next connection.
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
                // A new connection. Frames of the previous one are sent again, and do not prove that the
                // other end has seen the new welcome.
                Gathered::Other(Incoming::Reset(_)) => batch.clear(),
                Gathered::Many | Gathered::Other(_) => {}
            }
        }
    }
}
