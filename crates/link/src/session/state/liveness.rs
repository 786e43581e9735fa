//! Checks whether the other end of the current connection is still alive.

use std::time::Duration;

use tieline_proto::{Heartbeat, HeartbeatConfig, HeartbeatEvent, SuspendDetector};
use tieline_transport::{ConnectionInfo, Outgoing};

pub(super) struct Liveness {
    /// The heartbeat of the current connection.
    heartbeat: Heartbeat,
    last_check: Check,
    suspend: SuspendDetector,
}

/// The state of the current connection when a ping was last due or missed.
#[derive(Clone, Copy, Default)]
struct Check {
    at: Duration,
    bytes_in: u64,
    /// Whether a complete frame has been received since then.
    has_frames: bool,
}

impl Liveness {
    pub(super) fn new(config: HeartbeatConfig) -> Self {
        Self {
            heartbeat: Heartbeat::new(config, Duration::ZERO),
            last_check: Check::default(),
            suspend: SuspendDetector::default(),
        }
    }

    /// Starts over for a new connection.
    pub(super) fn begin(&mut self, config: HeartbeatConfig, now: Duration) {
        self.heartbeat = Heartbeat::new(config, now);
        self.last_check = Check { at: now, ..Check::default() };
    }

    /// Records that frames were received.
    pub(super) fn received(&mut self, now: Duration) {
        self.heartbeat.alive(now);
        self.last_check.has_frames = true;
    }

    /// Makes a ping due at once if the machine was suspended since the last call.
    pub(super) fn check_for_suspend(&mut self, now: Duration, wall: Duration) {
        if self.suspend.look(now, wall) {
            self.heartbeat.probe_now();
        }
    }

    /// Updates the heartbeat with the byte counts of the current connection in both directions, because
    /// a single frame may take long.
    pub(super) fn check_line(&mut self, now: Duration, info: &ConnectionInfo, outgoing: Outgoing) {
        self.heartbeat.sending(now, outgoing.left, outgoing.waiting);
        let next = Check { at: now, bytes_in: info.bytes_in, has_frames: false };
        let last = std::mem::replace(&mut self.last_check, next);
        let has_new_bytes = info.bytes_in != last.bytes_in;
        self.heartbeat.receiving(has_new_bytes && !last.has_frames);
        if has_new_bytes {
            // A line that does not know when bytes arrived overstates how long ago that was.
            let received_at = now.saturating_sub(info.last_received.elapsed()).max(last.at);
            self.heartbeat.alive(received_at);
        }
    }

    pub(super) fn next_wake(&self) -> Duration {
        self.heartbeat.next_wake()
    }

    pub(super) fn poll(&mut self, now: Duration) -> Option<HeartbeatEvent> {
        self.heartbeat.poll(now)
    }
}
