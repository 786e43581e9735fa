//! The task of a session. It reads unless the consumer does, acknowledges messages, and answers pings
//! while the consumer is busy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use tieline_proto::Count;
use tieline_transport::{CloseReason, Incoming, LostBy};
use tokio::time::Sleep;

use super::intake::Intake;
use super::shared_session::SharedSession;
use crate::receiver::Gathered;

/// How many batches are processed before other tasks run.
const BATCHES: usize = 16;

pub(super) struct Driver {
    shared: Arc<SharedSession>,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires.
    armed: Option<Duration>,
    is_remote: bool,
}

impl Driver {
    pub(super) fn new(shared: Arc<SharedSession>) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(shared.begun()));
        let is_remote = shared.is_remote();
        Self { shared, timer, armed: None, is_remote }
    }

    /// Reads frames from the current connection, and lets the Link reconnect. Returns why the Link has
    /// ended, if it has.
    fn gather(&self, intake: &mut Intake, cx: &mut Context<'_>, room: bool) -> Option<CloseReason> {
        let shared = &self.shared;
        loop {
            let (connection, is_fenced) = shared.state().connection();
            if let (true, Some(link)) = (is_fenced, shared.link()) {
                // The connection was fenced before the Link had installed it, so it is given up only now.
                link.give_up_line(CloseReason::ByPeer);
            }
            if !room && !is_fenced && !shared.is_broken() {
                return None;
            }
            // Frames that are skipped here are sent again over the next connection.
            let takes = room && !is_fenced;
            match intake.gather(connection, takes, cx) {
                Gathered::All => return None,
                Gathered::Many if takes => return None,
                Gathered::Other(Incoming::End(reason)) => return Some(reason),
                // This is a new connection. Frames of the previous one will be sent again, and do not
                // prove that the other end has received the new welcome.
                Gathered::Other(Incoming::Reset(_)) => intake.batch.clear(),
                Gathered::Many | Gathered::Other(_) => {}
            }
        }
    }

    /// Processes received frames and writes waiting ones. Fails with the reason if the session is over.
    fn work(&mut self, intake: &mut Intake) -> Result<(), CloseReason> {
        let Self { shared, is_remote, .. } = self;
        let wall = is_remote.then(|| SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        let mut state = shared.state();
        state.end_if_dropped();
        let received = shared.receive_all(&mut state, intake);
        shared.check_liveness(&mut state, wall);
        let receiver = state.free_receiver();
        let written = state.pump();
        let sender = state.free_sender(written.is_ready());
        state.count_memory();
        let verdict = state.verdict(written.is_ready(), shared.options.grace);
        drop(state);
        sender.into_iter().chain(receiver).for_each(Waker::wake);
        received?;
        verdict.map_or(Ok(()), Err)
    }

    /// Sets the timer for the next acknowledgement, heartbeat or other deadline. Returns whether it has
    /// fired.
    fn watch_the_clock(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(next) = self.shared.state().next_wake(self.is_remote) else {
            self.armed = None;
            return false;
        };
        if self.armed.is_none_or(|armed| next < armed) {
            self.armed = Some(next);
            self.timer.as_mut().reset(self.shared.begun() + next);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            self.armed = None;
            return true;
        }
        false
    }

    /// Ends the session. Sends a farewell with the reason after a violation or a failure, and an empty one
    /// after a normal end, in case the last acknowledgement was lost.
    fn over(&self, reason: CloseReason) {
        let text = match &reason {
            CloseReason::SessionLost(lost) => match &lost.cause {
                LostBy::Expired(grace) => {
                    // There may be no caller left to report this to.
                    if let Some(endpoint) = self.shared.endpoint() {
                        tracing::warn!(%endpoint, ?grace, "a session has expired: {lost}");
                    }
                    None
                }
                LostBy::Farewell(words)
                    if !words.is_empty()
                        && lost.delivered.acknowledged < lost.delivered.sent
                        && self.shared.state().was_closed() =>
                {
                    if let Some(endpoint) = self.shared.endpoint() {
                        tracing::warn!(%endpoint, "a session ended with undelivered messages: {lost}");
                    }
                    None
                }
                LostBy::Violation(violation) => Some(violation.to_string()),
                LostBy::Undeliverable { bytes, tries, .. } => Some(format!(
                    "a message of {} was not delivered in {}",
                    Count(*bytes, "byte"),
                    Count(*tries, "attempt")
                )),
                LostBy::Line(line @ CloseReason::Protocol(_)) => Some(line.to_string()),
                _ => None,
            },
            CloseReason::ByUs | CloseReason::ByPeer => {
                let fails = self.shared.state().has_closed_with_failure();
                let failure = self.shared.failure().filter(|_| fails);
                Some(failure.map_or_else(String::new, |it| it.public_text().into_owned()))
            }
            _ => None,
        };
        if let Some(text) = text {
            self.shared.state().send_farewell(&text);
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
                let mut state = shared.state();
                state.register_task(shared.now(), cx.waker());
                if state.is_finished() {
                    return Poll::Ready(());
                }
                state.begin_turn(shared.is_broken())
            };
            let ended = if reads { this.gather(&mut intake, cx, room) } else { None };
            let ended = ended.map(|reason| shared.state().ended(reason));
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
