//! The progress of a session: which messages both ends have received, how long that takes, and how many
//! connections were lost without progress.

use std::time::Duration;

use tieline_proto::Histogram;
use tieline_proto::session::Sequence;

/// The minimum time for which a message is tried, no matter how many connections are lost.
const TRIED_FOR: Duration = Duration::from_secs(60);

/// The interval between timed messages: every sixteenth message is timed.
const TIMED_OF: Sequence = 16;

/// The numbers of the last messages that the other end and this end have received.
pub(super) type Positions = (Sequence, Sequence);

pub(super) struct Progress {
    /// Consecutive connections that were lost without progress.
    tries: Tries,
    /// The positions at the last check.
    last: Positions,
    /// The message whose acknowledgement is timed, and when it was sent.
    timed: Option<(Sequence, Duration)>,
    /// The measured latencies.
    latency: Histogram,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { tries: Tries::default(), last: (0, 0), timed: None, latency: Histogram::new() }
    }

    pub(super) fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// Records that a message was sent, and begins to time some of the messages.
    pub(super) fn sent(&mut self, sequence: Sequence, now: impl FnOnce() -> Duration) {
        if sequence % TIMED_OF == 1 {
            self.timed.get_or_insert_with(|| (sequence, now()));
        }
    }

    /// Stops timing a message that will not be acknowledged.
    pub(super) fn forget(&mut self) {
        self.timed = None;
    }

    /// Returns whether there was progress in either direction since the last call.
    pub(super) fn note(&mut self, positions: Positions, now: impl FnOnce() -> Duration) -> bool {
        if positions == self.last {
            return false;
        }
        self.last = positions;
        if let Some((_, sent)) = self.timed.take_if(|(sequence, _)| *sequence <= positions.0) {
            self.latency.record(now().saturating_sub(sent));
        }
        true
    }

    /// Records a new connection, with the positions of both ends. Returns the number of consecutive
    /// connections without progress once the lack of progress has lasted too long.
    pub(super) fn try_again(
        &mut self,
        positions: Positions,
        is_sending: bool,
        now: Duration,
    ) -> Option<u32> {
        self.tries.again(positions, is_sending, now)
    }
}

/// Counts consecutive connections that were lost without progress.
#[derive(Default)]
struct Tries {
    /// The positions when the last of these connections began.
    positions: Option<Positions>,
    count: u32,
    /// When the first of these connections was lost.
    since: Duration,
}

impl Tries {
    fn again(&mut self, positions: Positions, is_sending: bool, now: Duration) -> Option<u32> {
        let is_repeated = self.positions.replace(positions) == Some(positions) && is_sending;
        if !is_repeated {
            self.count = 0;
            return None;
        }
        if self.count == 0 {
            self.since = now;
        }
        self.count += 1;
        (now.saturating_sub(self.since) >= TRIED_FOR).then_some(self.count)
    }
}
