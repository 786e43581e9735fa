//! Pings while the receiver is not reading.
//!
//! The receiver drives the heartbeat, but it is not polled while its consumer is busy with earlier
//! messages or has canceled a receive. The other side's pings then wait unread after its data, and the
//! other side would consider this side lost. Therefore, the sender pings while the receiver does not
//! read. The sender cannot read the answers, so it judges the other side only by whether sent bytes
//! leave this machine.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::Duration;

use tieline_transport::{CloseReason, Outgoing, SendError, from_now};
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep};

use super::WebSocketConfig;
use super::shared_socket::SharedSocket;

/// The minimum interval: with zero, the timer would never be pending.
const SHORTEST: Duration = Duration::from_millis(1);

/// The part of a sender that pings while the receiver does not read.
pub(super) struct Keepalive {
    interval: Duration,
    /// How long bytes may wait in this machine without any of them leaving.
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The task that the timer wakes.
    waker: Option<Waker>,
    /// The number of bytes that had left at the last ping, and when it last grew.
    still: Option<(u64, Instant)>,
}

impl Keepalive {
    /// Creates a keepalive, or returns `None` for a line without a heartbeat.
    pub(super) fn of(config: &WebSocketConfig) -> Option<Self> {
        let interval = config.heartbeat?.idle.max(SHORTEST);
        let limit = config.channel.stall_timeout.saturating_mul(2);
        Some(Self { interval, limit, timer: None, waker: None, still: None })
    }

    /// Queues a ping if one is due, and registers `cx` for the next one. Returns whether a ping was queued.
    ///
    /// # Errors
    /// The line has stalled: bytes that were sent earlier do not leave this machine.
    #[inline]
    pub(super) fn poll(
        &mut self,
        shared: &SharedSocket,
        cx: &mut Context<'_>,
    ) -> Result<bool, SendError> {
        let is_armed = self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed())
            && self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker()));
        if is_armed { Ok(false) } else { self.poll_timer(shared, cx) }
    }

    #[cold]
    fn poll_timer(
        &mut self,
        shared: &SharedSocket,
        cx: &mut Context<'_>,
    ) -> Result<bool, SendError> {
        let interval = self.interval;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(interval)));
        self.waker = Some(cx.waker().clone());
        let mut is_due = false;
        // Without `unconstrained`, a timer that is out of budget would not register the waker.
        while pin!(coop::unconstrained(timer.as_mut())).poll(cx).is_ready() {
            is_due = true;
            timer.as_mut().reset(from_now(interval));
        }
        if is_due { self.ping(shared) } else { Ok(false) }
    }

    fn ping(&mut self, shared: &SharedSocket) -> Result<bool, SendError> {
        let mut out = shared.out();
        if shared.drives_heartbeat(self.interval / 10) || out.has_ended() {
            self.still = None;
            return Ok(false);
        }
        let Outgoing { left, waiting, .. } = out.outgoing();
        match self.still {
            Some((before, since)) if waiting > 0 && before == left => {
                if since.elapsed() >= self.limit {
                    return Err(shared.broken(&mut out, CloseReason::Stalled));
                }
            }
            _ => self.still = Some((left, Instant::now())),
        }
        out.ping();
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
