//! Reads a session's connection, in the session's task, or in the receiver while it is polled.

use std::task::Context;

use bytes::Bytes;
use tieline_transport::{CloseReason, Incoming};

use crate::receiver::{Gathered, LinkReceiver, Live};

/// How many frames are read before they are processed.
pub(super) const BATCH: usize = 64;
/// How many bytes are read before other tasks run: so few that they are still in the processor's cache
/// when the consumer receives them.
const TURN_BYTES: usize = 512 * 1024;

/// The reading side, under its own lock, which is taken before all others.
pub(super) struct Intake {
    receiver: Option<LinkReceiver>,
    /// Frames that were read and are not processed yet. Empty while the lock is free.
    pub(super) batch: Vec<Bytes>,
    /// The number of the connection that the batch was read from.
    pub(super) connection: u64,
    /// How many bytes were read in this turn.
    taken: usize,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self { receiver: None, batch: Vec::with_capacity(BATCH), connection: 1, taken: 0 }
    }

    /// Sets the Link to read from.
    pub(super) fn set_receiver(&mut self, receiver: LinkReceiver) {
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

    /// Reads frames from this connection. Any event other than a frame is left to the task.
    pub(super) fn read(&mut self, connection: u64, cx: &mut Context<'_>) -> Live {
        self.begin_turn();
        self.connection = connection;
        let Self { receiver, batch, taken, .. } = self;
        let Some(receiver) = receiver else { return Live::Else };
        let take = |frame: Bytes| {
            *taken += frame.len();
            batch.push(frame);
            *taken < TURN_BYTES
        };
        receiver.poll_live(cx, BATCH, take)
    }

    /// Reads frames from this connection, and keeps them only if `takes` is set. Lets the Link
    /// reconnect.
    pub(super) fn gather(
        &mut self,
        connection: u64,
        takes: bool,
        cx: &mut Context<'_>,
    ) -> Gathered {
        self.connection = connection;
        let Self { receiver, batch, taken, .. } = self;
        let Some(receiver) = receiver else {
            return Gathered::Other(Incoming::End(CloseReason::ByUs));
        };
        let most = BATCH - batch.len();
        let take = |frame: Bytes| {
            *taken += frame.len();
            batch.extend(takes.then_some(frame));
            *taken < TURN_BYTES
        };
        receiver.poll_many(cx, most, take)
    }
}
