//! How a line does: whether the other side is there, whether it may be used, and how long it takes.
//!
//! Of slow writes and slow connecting the transport warns by itself; here they are not looked at.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tieline_proto::{Heartbeat, HeartbeatConfig, HeartbeatEvent, Histogram};
use tieline_transport::{Control, Health, Outgoing};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Watches one line. Clones watch it together.
///
/// It has no task: what it counts it is told, and a line that can ping is asked for signs of life by
/// whoever awaits [`next_beat`](Self::next_beat). It keeps nothing alive of the line.
#[derive(Clone)]
pub struct HealthMonitor(Arc<Shared>);

struct Shared {
    control: Control,
    begun: Instant,
    state: Mutex<State>,
    /// The heartbeat was told something.
    news: Notify,
}

#[derive(Default)]
struct State {
    heartbeat: Option<Heartbeat>,
    /// How many bytes had come in when it was last looked, and when that was.
    seen: u64,
    looked: Duration,
    is_ready: bool,
    is_draining: bool,
    pings: u64,
    restarts: u64,
    failures: u64,
    failures_in_a_row: u64,
    latency: Histogram,
}

/// How a line does at one moment, and what has happened on it so far.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HealthReport {
    /// The other side is there, as far as is known: its process runs, its socket is open, and where it
    /// is pinged it has not missed two answers.
    pub live: bool,
    /// It is live, was said to be [ready](HealthMonitor::set_ready), and is not draining.
    pub ready: bool,
    /// Nothing new is begun on it; what is under way ends.
    pub draining: bool,
    /// How many pings were asked for.
    pub pings: u64,
    /// How often another instance answered than before.
    pub restarts: u64,
    /// The instance that answered last.
    pub instance: Option<u64>,
    /// Operations that failed.
    pub failures: u64,
    /// Those of them since the last that did not.
    pub failures_in_a_row: u64,
    /// How long those took that did not fail.
    pub latency: Histogram,
}

impl HealthMonitor {
    /// Watches a line whose other side knows no ping: the state of its process and of its socket speak
    /// for it.
    pub fn new(control: Control) -> Self {
        Self::with(control, None)
    }

    /// Watches a line whose other side answers pings, as long as somebody awaits
    /// [`next_beat`](Self::next_beat).
    pub fn pinging(control: Control, config: HeartbeatConfig) -> Self {
        Self::with(control, Some(Heartbeat::new(config, Duration::ZERO)))
    }

    fn with(control: Control, heartbeat: Option<Heartbeat>) -> Self {
        let state = State { heartbeat, seen: control.info().bytes_in, ..State::default() };
        let (begun, state, news) = (Instant::now(), Mutex::new(state), Notify::new());
        Self(Arc::new(Shared { control, begun, state, news }))
    }

    /// The line may be used from now on, or may not. At first it may not: who connects still has to
    /// agree on a session.
    pub fn set_ready(&self, is_ready: bool) {
        self.state().is_ready = is_ready;
    }

    /// Nothing new is to be begun on the line. There is no way back.
    pub fn drain(&self) {
        self.state().is_draining = true;
    }

    /// An operation has come to its end after so long: the other side has answered.
    pub fn passed(&self, took: Duration) {
        let mut state = self.state();
        state.failures_in_a_row = 0;
        state.latency.record(took);
    }

    /// An operation has failed. What the [breaker](crate::SharedBreaker) would not call a failure, such
    /// as an error that the application answers with, is none here.
    pub fn failed(&self) {
        let mut state = self.state();
        state.failures += 1;
        state.failures_in_a_row += 1;
    }

    /// A ping was answered by this instance: a number that the other side drew when it started.
    pub fn pong(&self, instance: u64) {
        let now = self.0.begun.elapsed();
        self.tell(|heartbeat| heartbeat.pong(now, instance));
    }

    /// Asks for a ping at once: for when the machine has slept.
    pub fn probe_now(&self) {
        self.tell(Heartbeat::probe_now);
    }

    /// Takes note of how far the line's outgoing bytes have come ([`Sender::outgoing`]), so that a slow line
    /// is not taken for a dead one. Say it before a beat is awaited, and now and then while bytes wait.
    ///
    /// [`Sender::outgoing`]: tieline_transport::Sender::outgoing
    pub fn sending(&self, outgoing: Outgoing) {
        let now = self.0.begun.elapsed();
        self.tell(|heartbeat| heartbeat.sending(now, outgoing.left, outgoing.waiting));
    }

    fn tell(&self, told: impl FnOnce(&mut Heartbeat)) {
        if let Some(heartbeat) = &mut self.state().heartbeat {
            told(heartbeat);
        }
        self.0.news.notify_one();
    }

    /// The next thing that is to be done or known: [`HeartbeatEvent::Ping`] when a ping is to be sent, and whether
    /// the other side has gone, come back, or started anew. Any byte that comes in is a sign of life;
    /// bytes are looked at when a ping is due or its answer late. A line that is not pinged has no beat.
    ///
    /// To be awaited by one at a time. Cancel-safe. Needs a tokio runtime with its timer.
    pub async fn next_beat(&self) -> HeartbeatEvent {
        loop {
            // What is told from here on is not missed.
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

    /// The beat there is, or when there may be one.
    fn poll(&self) -> Result<HeartbeatEvent, Option<Duration>> {
        let (now, info) = (self.0.begun.elapsed(), self.0.control.info());
        let mut state = self.state();
        state.look(now, info.bytes_in, info.last_received.elapsed());
        let State { heartbeat, pings, restarts, .. } = &mut *state;
        let Some(heartbeat) = heartbeat else { return Err(None) };
        let beat = heartbeat.poll(now).ok_or(Some(heartbeat.next_wake()))?;
        *pings += u64::from(beat == HeartbeatEvent::Ping);
        *restarts += u64::from(matches!(beat, HeartbeatEvent::Restarted { .. }));
        Ok(beat)
    }

    /// How the line does.
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
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// So many bytes have come in so far, and the line says that the last did so long `ago`. One that
    /// does not know that says too much. What came since the last look came behind it at least, and is
    /// not held to be younger: so nobody counts as alive for longer than he was.
    fn look(&mut self, now: Duration, bytes_in: u64, ago: Duration) {
        let looked = std::mem::replace(&mut self.looked, now);
        let is_news = std::mem::replace(&mut self.seen, bytes_in) != bytes_in;
        if let (true, Some(heartbeat)) = (is_news, &mut self.heartbeat) {
            heartbeat.alive(now.saturating_sub(ago).max(looked));
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
    fn bytes_count_from_when_they_came_and_not_from_before_the_last_look() {
        let s = Duration::from_secs;
        let heartbeat = Heartbeat::new(HeartbeatConfig::default(), Duration::ZERO);
        let mut state = State { heartbeat: Some(heartbeat), ..State::default() };
        for (now, bytes_in, ago, next_ping) in [
            (4, 0, 4, 10),
            (5, 1, 0, 15),
            (8, 1, 3, 15),
            (9, 2, 1, 18),
            // It does not know when.
            (12, 3, 12, 19),
            (14, 3, 14, 19),
            (16, 4, 16, 24),
        ] {
            state.look(s(now), bytes_in, s(ago));
            let next = state.heartbeat.as_ref().map(Heartbeat::next_wake);
            assert_eq!(next, Some(s(next_ping)), "at {now}");
        }
    }
}
