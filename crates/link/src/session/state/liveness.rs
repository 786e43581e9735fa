//! Whether the other end of the current connection is still there.

use std::time::Duration;

use tieline_proto::{Heartbeat, HeartbeatConfig, HeartbeatEvent, SuspendDetector};
use tieline_transport::{ConnectionInfo, Outgoing};

pub(super) struct Liveness {
    /// The heartbeat of the current connection.
    heartbeat: Heartbeat,
    looked: Looked,
    suspend: SuspendDetector,
}

/// The state of the current connection when a ping was last due or missed.
#[derive(Clone, Copy, Default)]
struct Looked {
    at: Duration,
    bytes_in: u64,
    /// A complete frame was received since.
    has_frames: bool,
}

impl Liveness {
    pub(super) fn new(config: HeartbeatConfig) -> Self {
        Self {
            heartbeat: Heartbeat::new(config, Duration::ZERO),
            looked: Looked::default(),
            suspend: SuspendDetector::default(),
        }
    }

    /// Starts over for a new connection.
    pub(super) fn begin(&mut self, config: HeartbeatConfig, now: Duration) {
        self.heartbeat = Heartbeat::new(config, now);
        self.looked = Looked { at: now, ..Looked::default() };
    }

    /// Records that frames were received.
    pub(super) fn received(&mut self, now: Duration) {
        self.heartbeat.alive(now);
        self.looked.has_frames = true;
    }

    /// Lets a ping be due at once if the machine was suspended since the last call.
    pub(super) fn look_for_suspend(&mut self, now: Duration, wall: Duration) {
        if self.suspend.look(now, wall) {
            self.heartbeat.probe_now();
        }
    }

    /// Updates the heartbeat with the byte counts of the current connection in both directions, as a single
    /// frame may take long.
    pub(super) fn look_at_line(
        &mut self,
        now: Duration,
        info: &ConnectionInfo,
        outgoing: Outgoing,
    ) {
        self.heartbeat.sending(now, outgoing.left, outgoing.waiting);
        let next = Looked { at: now, bytes_in: info.bytes_in, has_frames: false };
        let looked = std::mem::replace(&mut self.looked, next);
        let has_come = info.bytes_in != looked.bytes_in;
        self.heartbeat.receiving(has_come && !looked.has_frames);
        if has_come {
            // A line that does not know when bytes arrived overstates the time since.
            let came = now.saturating_sub(info.last_received.elapsed()).max(looked.at);
            self.heartbeat.alive(came);
        }
    }

    pub(super) fn next_wake(&self) -> Duration {
        self.heartbeat.next_wake()
    }

    pub(super) fn poll(&mut self, now: Duration) -> Option<HeartbeatEvent> {
        self.heartbeat.poll(now)
    }
}
