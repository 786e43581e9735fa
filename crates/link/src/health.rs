//! Health checks: whether the peer is alive, whether the line may be used, and how long operations take.
//!
//! Slow writes and slow connects are not checked here, because the transport logs warnings about them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tieline_proto::{Heartbeat, HeartbeatConfig, HeartbeatEvent, Histogram};
use tieline_transport::{Control, Health, Outgoing};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::lock::lock;

/// A monitor of one line. Clones refer to the same monitor.
///
/// It has no task: the user of the line reports operations to it, and sends the pings that
/// [`next_beat`](Self::next_beat) asks for. It does not keep the line alive.
#[derive(Clone)]
pub struct HealthMonitor(Arc<Shared>);

struct Shared {
    control: Control,
    begun: Instant,
    state: Mutex<State>,
    /// Notified when the heartbeat has new input.
    news: Notify,
}

#[derive(Default)]
struct State {
    heartbeat: Option<Heartbeat>,
    /// The number of bytes received before the last check.
    seen: u64,
    /// The time of the last check.
    checked_at: Duration,
    is_ready: bool,
    is_draining: bool,
    pings: u64,
    restarts: u64,
    failures: u64,
    failures_in_a_row: u64,
    latency: Histogram,
}

/// The health of a line at one moment, with counters since the monitor was created.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HealthReport {
    /// The peer is alive, as far as is known: its process is running, its socket is open, and, if it is
    /// pinged, it has not missed two responses.
    pub live: bool,
    /// The line is live, was marked as [ready](HealthMonitor::set_ready), and is not draining.
    pub ready: bool,
    /// No new operations are to be started on the line; those in flight are completed.
    pub draining: bool,
    /// The number of pings requested.
    pub pings: u64,
    /// The number of times that a new instance of the peer responded for the first time.
    pub restarts: u64,
    /// The instance that responded last.
    pub instance: Option<u64>,
    /// The number of failed operations.
    pub failures: u64,
    /// The number of failed operations since the last successful one.
    pub failures_in_a_row: u64,
    /// The durations of successful operations.
    pub latency: Histogram,
}

impl HealthMonitor {
    /// Monitors a line without pings, based on the state of its process and its socket.
    pub fn new(control: Control) -> Self {
        Self::with(control, None)
    }

    /// Monitors a line whose peer responds to pings, as long as [`next_beat`](Self::next_beat) is awaited.
    pub fn pinging(control: Control, config: HeartbeatConfig) -> Self {
        Self::with(control, Some(Heartbeat::new(config, Duration::ZERO)))
    }

    fn with(control: Control, heartbeat: Option<Heartbeat>) -> Self {
        let state = State { heartbeat, seen: control.info().bytes_in, ..State::default() };
        let (begun, state, news) = (Instant::now(), Mutex::new(state), Notify::new());
        Self(Arc::new(Shared { control, begun, state, news }))
    }

    /// Sets whether the line may be used. Initially it may not, because most protocols begin with a
    /// handshake.
    pub fn set_ready(&self, is_ready: bool) {
        self.state().is_ready = is_ready;
    }

    /// Marks the line as draining: no new operations are to be started on it. This cannot be undone.
    pub fn drain(&self) {
        self.state().is_draining = true;
    }

    /// Records a successful operation and its duration: the peer has responded.
    pub fn passed(&self, took: Duration) {
        let mut state = self.state();
        state.failures_in_a_row = 0;
        state.latency.record(took);
    }

    /// Records a failed operation. As with the [breaker](crate::SharedBreaker), an error response of the
    /// application is not a failure.
    pub fn failed(&self) {
        let mut state = self.state();
        state.failures += 1;
        state.failures_in_a_row += 1;
    }

    /// Records the response to a ping from `instance`, a random number that the peer chose when it
    /// started.
    pub fn pong(&self, instance: u64) {
        let now = self.0.begun.elapsed();
        self.update(|heartbeat| heartbeat.pong(now, instance));
    }

    /// Requests a ping at once, for use after a system suspend.
    pub fn probe_now(&self) {
        self.update(Heartbeat::probe_now);
    }

    /// Records the progress of the line's outgoing bytes ([`Sender::outgoing`]), so that a slow line is not
    /// considered dead. Call this before awaiting a beat, and regularly while bytes are waiting.
    ///
    /// [`Sender::outgoing`]: tieline_transport::Sender::outgoing
    pub fn sending(&self, outgoing: Outgoing) {
        let now = self.0.begun.elapsed();
        self.update(|heartbeat| heartbeat.sending(now, outgoing.left, outgoing.waiting));
    }

    fn update(&self, change: impl FnOnce(&mut Heartbeat)) {
        if let Some(heartbeat) = &mut self.state().heartbeat {
            change(heartbeat);
        }
        self.0.news.notify_one();
    }

    /// Returns the next event: [`HeartbeatEvent::Ping`] when a ping is to be sent, and an event when the
    /// peer goes down, comes up again, or has restarted. Any received byte shows that the peer is alive;
    /// the byte count is checked when a ping is due or its response is late. Without pings this never
    /// returns.
    ///
    /// Only one task may await this at a time. Cancel-safe. Requires a tokio runtime with its timer.
    pub async fn next_beat(&self) -> HeartbeatEvent {
        loop {
            // The wait is registered before polling, so that no input is missed.
            let news = self.0.news.notified();
            let wake = match self.poll() {
                Ok(beat) => return beat,
                Err(wake) => wake.and_then(|wake| self.0.begun.checked_add(wake)),
            };
            tokio::select! {
                () = news => {}
                () = sleep_until(wake.unwrap_or(self.0.begun)), if wake.is_some() => {}
            }
        }
    }

    /// Returns the next event, or else when to check again.
    fn poll(&self) -> Result<HeartbeatEvent, Option<Duration>> {
        let (now, info) = (self.0.begun.elapsed(), self.0.control.info());
        let mut state = self.state();
        state.record_bytes(now, info.bytes_in, info.last_received.elapsed());
        let State { heartbeat, pings, restarts, .. } = &mut *state;
        let Some(heartbeat) = heartbeat else { return Err(None) };
        let beat = heartbeat.poll(now).ok_or(Some(heartbeat.next_wake()))?;
        *pings += u64::from(beat == HeartbeatEvent::Ping);
        *restarts += u64::from(matches!(beat, HeartbeatEvent::Restarted { .. }));
        Ok(beat)
    }

    /// Returns the health of the line.
    pub fn report(&self) -> HealthReport {
        let is_open = self.0.control.health() == Health::Up;
        let state = self.state();
        let live = is_open && state.heartbeat.as_ref().is_none_or(Heartbeat::is_up);
        HealthReport {
            live,
            ready: live && state.is_ready && !state.is_draining,
            draining: live && state.is_draining,
            pings: state.pings,
            restarts: state.restarts,
            instance: state.heartbeat.as_ref().and_then(Heartbeat::instance),
            failures: state.failures,
            failures_in_a_row: state.failures_in_a_row,
            latency: state.latency.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

impl State {
    /// Processes the number of bytes received so far, and how long `ago` the last one arrived. A line
    /// that does not know this time overstates it. New bytes arrived after the last check, so the later
    /// of the two times is used. It is never later than the true time.
    fn record_bytes(&mut self, now: Duration, bytes_in: u64, ago: Duration) {
        let checked_at = std::mem::replace(&mut self.checked_at, now);
        let is_news = std::mem::replace(&mut self.seen, bytes_in) != bytes_in;
        if let (true, Some(heartbeat)) = (is_news, &mut self.heartbeat) {
            heartbeat.alive(now.saturating_sub(ago).max(checked_at));
        }
    }
}

impl fmt::Debug for HealthMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HealthReport { live, ready, draining, .. } = self.report();
        let mut debug = f.debug_struct("HealthMonitor");
        debug.field("live", &live).field("ready", &ready).field("draining", &draining);
        debug.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_bytes_count_from_their_arrival_but_not_before_the_last_check() {
        let s = Duration::from_secs;
        let heartbeat = Heartbeat::new(HeartbeatConfig::default(), Duration::ZERO);
        let mut state = State { heartbeat: Some(heartbeat), ..State::default() };
        for (now, bytes_in, ago, next_ping) in [
            (4, 0, 4, 10),
            (5, 1, 0, 15),
            (8, 1, 3, 15),
            (9, 2, 1, 18),
            // The line does not know when the bytes arrived.
            (12, 3, 12, 19),
            (14, 3, 14, 19),
            (16, 4, 16, 24),
        ] {
            state.record_bytes(s(now), bytes_in, s(ago));
            let next = state.heartbeat.as_ref().map(Heartbeat::next_wake);
            assert_eq!(next, Some(s(next_ping)), "at {now}");
        }
    }
}
