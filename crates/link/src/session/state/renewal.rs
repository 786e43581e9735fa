//! The replacement of a lost session by a new one, and the messages that were lost with it.

use tieline_transport::CloseReason;

#[derive(Default)]
pub(super) struct Renewal {
    /// The number of the session, which increases when a lost session is replaced.
    generation: u64,
    /// The generation that the consumer knows of. It is behind until the consumer has received the
    /// reset.
    given_generation: u64,
    /// How many messages were lost with the session, and why it was lost. The consumer receives both in
    /// a reset once there is a new session.
    reset: Option<(u64, CloseReason)>,
    /// Lost messages of an earlier session that the sender has not reported yet.
    unreported: u64,
}

impl Renewal {
    /// Returns whether the consumer still has to receive a reset.
    pub(super) fn is_pending(&self) -> bool {
        self.generation != self.given_generation
    }

    /// Replaces the session, which has lost this many messages.
    pub(super) fn begin(&mut self, lost: u64, cause: CloseReason) {
        self.generation += 1;
        self.unreported += lost;
        let before = self.reset.take().map_or(0, |(lost, _)| lost);
        self.reset = Some((before + lost, cause));
    }

    /// Counts a message that was meant for the lost session as lost.
    pub(super) fn lose_one(&mut self) {
        self.unreported += 1;
        if let Some((lost, _)) = &mut self.reset {
            *lost += 1;
        }
    }

    /// Returns why the session was lost, unless it has already been replaced.
    pub(super) fn cause(&self) -> Option<&CloseReason> {
        self.reset.as_ref().map(|(_, cause)| cause)
    }

    /// Returns the reset for the consumer, now that there is a new session.
    pub(super) fn take_reset(&mut self) -> Option<(u64, CloseReason)> {
        self.reset.take()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Records that the consumer has received the reset to this generation.
    pub(super) fn given(&mut self, generation: u64) {
        self.given_generation = generation;
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.unreported > 0
    }

    /// Returns how many messages were lost since the last call.
    pub(super) fn take_unreported(&mut self) -> u64 {
        std::mem::take(&mut self.unreported)
    }
}
