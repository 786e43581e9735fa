//! The task of a session, which reads unless the consumer does, acknowledges, and answers pings while the
//! consumer is busy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use tieline_transport::{CloseReason, LostBy};
use tokio::time::Sleep;

use super::intake::Intake;
use super::shared::Shared;

/// How many batches are processed before other tasks run.
const BATCHES: usize = 16;

/// How long an acknowledgement waits at most for a message to carry it.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often to check for a system suspend, if the other end may be on another machine.
const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    shared: Arc<Shared>,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires.
    armed: Option<Duration>,
    is_remote: bool,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(shared.begun()));
        let is_remote = shared.is_remote();
        Self { shared, timer, armed: None, is_remote }
    }

    /// Processes received frames and writes waiting ones. Fails with the reason if the session is over.
    fn work(&mut self, intake: &mut Intake) -> Result<(), CloseReason> {
        let Self { shared, is_remote, .. } = self;
        let wall = is_remote.then(|| SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        let mut core = shared.core();
        if std::mem::take(&mut core.ends_soon) {
            core.machine.end();
        }
        let received = shared.receive_all(&mut core, intake);
        shared.listen_for_life(&mut core, wall);
        let receiver = if core.inbound.is_empty() { None } else { core.receiver.take() };
        let written = shared.pump(&mut core);
        let sender = core.free_sender(written.is_ready());
        let is_over = core.is_over() && (written.is_ready() || !core.has_line());
        let by_us = core.is_closing;
        let lingers = core.lingers_until;
        let has_lingered = lingers.is_some() && core.machine.is_settled() && written.is_ready();
        let expired = lingers.filter(|until| *until <= core.now && !has_lingered);
        let expired = expired.map(|_| core.lost(LostBy::Expired(shared.options.grace)));
        core.count_memory();
        let doom = core.doom.take().or(expired);
        drop(core);
        sender.into_iter().chain(receiver).for_each(Waker::wake);
        received?;
        if let Some(doom) = doom {
            return Err(doom);
        }
        match is_over || has_lingered {
            true if by_us => Err(CloseReason::ByUs),
            true => Err(CloseReason::ByPeer),
            false => Ok(()),
        }
    }

    /// Sets the timer for the next acknowledgement, heartbeat or other deadline. Returns whether it has
    /// fired.
    fn watch_the_clock(&mut self, cx: &mut Context<'_>) -> bool {
        {
            let mut core = self.shared.core();
            // Messages that wait for the consumer will have to be acknowledged.
            let waits = (!core.inbound.is_empty()).then(|| core.now.saturating_add(PATIENCE));
            let has_line = core.has_line();
            let due = core.machine.wake_at().or(waits).filter(|_| has_line);
            let beat = has_line.then(|| core.heartbeat.next_wake());
            // Timers may stop during a suspend and continue with the remaining time, so poll for suspends.
            let look = (has_line && self.is_remote).then(|| core.now.saturating_add(LOOK));
            let next =
                [due, beat, look, core.lingers_until, core.lent_until].into_iter().flatten().min();
            let Some(next) = next else {
                core.is_timed = false;
                self.armed = None;
                return false;
            };
            if self.armed.is_none_or(|armed| next < armed) {
                self.armed = Some(next);
                self.timer.as_mut().reset(self.shared.begun() + next);
            }
            core.is_timed = due.is_some();
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            self.armed = None;
            return true;
        }
        false
    }

    /// Returns whether the sender was closed. Then there may be no caller left that learns of lost messages.
    fn was_closed(&self) -> bool {
        self.shared.core().is_closed
    }

    /// Ends the session. Sends a farewell with the reason after a violation, and an empty one after a
    /// normal end, in case the last acknowledgement was lost.
    fn over(&self, reason: CloseReason) {
        let words = match &reason {
            CloseReason::SessionLost(lost) => match &lost.cause {
                LostBy::Expired(grace) => {
                    // There may be no caller left to report this to.
                    if let Some(endpoint) = self.shared.endpoint() {
                        tracing::warn!(%endpoint, ?grace, "a session has expired: {lost}");
                    }
                    None
                }
                LostBy::Farewell(text) if !text.is_empty() && self.was_closed() => {
                    if let Some(endpoint) = self.shared.endpoint() {
                        tracing::warn!(%endpoint, "a session ended with undelivered messages: {lost}");
                    }
                    None
                }
                LostBy::Violation(violation) => Some(violation.to_string()),
                LostBy::Undeliverable { bytes, tries, .. } => Some(format!(
                    "a message of {bytes} bytes was not delivered in {tries} attempts"
                )),
                LostBy::Line(line @ CloseReason::Protocol(_)) => Some(line.to_string()),
                _ => None,
            },
            CloseReason::ByUs | CloseReason::ByPeer => Some(String::new()),
            _ => None,
        };
        if let Some(words) = words {
            self.shared.say_farewell(&words);
        }
        self.shared.finish(reason);
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let shared = this.shared.clone();
        let mut intake = shared.intake();
        intake.begin_turn();
        for _ in 0..BATCHES {
            let (reads, room) = {
                let mut core = shared.core();
                shared.register_task(&mut core, cx.waker());
                if core.end.is_some() {
                    return Poll::Ready(());
                }
                core.is_held_up = core.is_full();
                (shared.takes_reading(&mut core), !core.is_held_up)
            };
            let ended = if reads { intake.gather(&shared, cx, room) } else { None };
            let ended = ended.map(|reason| shared.core().ended(reason));
            let is_full = intake.is_full();
            if let Some(reason) = this.work(&mut intake).err().or(ended) {
                this.over(reason);
                return Poll::Ready(());
            }
            if !is_full && !this.watch_the_clock(cx) {
                return Poll::Pending;
            }
            if intake.has_had_its_turn() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let receiver = self.shared.intake().close();
        drop(receiver);
    }
}
