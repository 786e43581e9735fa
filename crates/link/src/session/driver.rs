//! The task of a session: it reads, acknowledges and answers, whatever the consumer does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tieline_transport::{CloseReason, Incoming, LostBy};
use tokio::time::Sleep;

use super::shared::Shared;
use crate::LinkReceiver;
use crate::receiver::Gathered;

/// So many frames are taken before they are looked at.
const BATCH: usize = 64;
/// So many batches before others have their turn.
const BATCHES: usize = 16;

/// How long an acknowledgement waits at most for something to ride on.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) struct Driver {
    shared: Arc<Shared>,
    receiver: LinkReceiver,
    batch: Vec<Bytes>,
    /// Which connection of all it came over.
    lines: u64,
    timer: Pin<Box<Sleep>>,
    /// When it rings.
    armed: Option<Duration>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, receiver: LinkReceiver) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(shared.begun()));
        Self { shared, receiver, batch: Vec::with_capacity(BATCH), lines: 1, timer, armed: None }
    }

    /// Takes frames from the connection. Why the Link has ended, if it has.
    fn gather(&mut self, cx: &mut Context<'_>, room: bool) -> Option<CloseReason> {
        let Self { shared, receiver, batch, lines, .. } = self;
        loop {
            let is_fenced = {
                let core = shared.core();
                *lines = core.lines;
                core.is_fenced
            };
            if let (true, Some(link)) = (is_fenced, shared.link()) {
                // It was overtaken before it was there to be given up.
                link.give_up_line(CloseReason::ByPeer);
            }
            let is_broken =
                shared.link().is_some_and(|link| link.is_broken.load(Ordering::Acquire));
            if !room && !is_fenced && !is_broken {
                return None;
            }
            // What is left out here will come again over the next connection.
            let takes = room && !is_fenced;
            let most = BATCH - batch.len();
            match receiver.poll_many(cx, most, |frame| batch.extend(takes.then_some(frame))) {
                Gathered::All => return None,
                Gathered::Many if takes => return None,
                Gathered::Other(Incoming::End(reason)) => return Some(reason),
                // Another connection: what the one before has brought comes again, and shows nothing
                // of the other side's having seen this one's welcome.
                Gathered::Other(Incoming::Reset(_)) => batch.clear(),
                Gathered::Many | Gathered::Other(_) => {}
            }
        }
    }

    /// What has come is taken, what waits is written. Why the session is over, if it is.
    fn work(&mut self) -> Result<(), CloseReason> {
        let Self { shared, batch, lines, .. } = self;
        let mut core = shared.core();
        if core.lines != *lines {
            // Another connection was granted since: as behind a reset.
            batch.clear();
        }
        let received = batch.drain(..).try_for_each(|frame| shared.receive(&mut core, frame));
        let receiver = if core.inbound.is_empty() { None } else { core.receiver.take() };
        let written = shared.pump(&mut core);
        // Who waits for room is woken for more than one message.
        let is_free = match core.waits_for_room {
            true => core.machine.is_half_free(),
            false => written.is_ready() || core.machine.is_settled(),
        };
        let sender = if is_free { core.sender.take() } else { None };
        let is_over = core.is_over() && (written.is_ready() || !core.has_line());
        let by_us = core.is_closing;
        drop(core);
        sender.into_iter().chain(receiver).for_each(Waker::wake);
        received?;
        match is_over {
            true if by_us => Err(CloseReason::ByUs),
            true => Err(CloseReason::ByPeer),
            false => Ok(()),
        }
    }

    /// The timer rings when an acknowledgement would be late.
    fn watch_the_clock(&mut self, cx: &mut Context<'_>) -> bool {
        {
            let mut core = self.shared.core();
            // What waits for the consumer will have to be acknowledged.
            let waits = (!core.inbound.is_empty()).then(|| core.now.saturating_add(PATIENCE));
            let due = core.machine.wake_at().or(waits).filter(|_| core.has_line());
            if let (None, Some(due)) = (self.armed, due) {
                self.armed = Some(due);
                self.timer.as_mut().reset(self.shared.begun() + due);
            }
            core.is_timed = self.armed.is_some();
            if self.armed.is_none() {
                return false;
            }
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            self.armed = None;
            return true;
        }
        false
    }

    /// The session is over. Whoever broke a rule is told which.
    fn over(&self, reason: CloseReason) {
        if let CloseReason::SessionLost(lost) = &reason {
            match &lost.cause {
                LostBy::Violation(violation) => self.shared.say_farewell(&violation.to_string()),
                LostBy::Line(line @ CloseReason::Protocol(_)) => {
                    self.shared.say_farewell(&line.to_string());
                }
                _ => {}
            }
        }
        self.shared.finish(reason);
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..BATCHES {
            let (doom, room) = {
                let shared = self.shared.clone();
                let mut core = shared.core();
                shared.register_task(&mut core, cx.waker());
                if core.end.is_some() {
                    return Poll::Ready(());
                }
                let room = !core.is_full();
                core.is_held_up = !room;
                (core.doom.take(), room)
            };
            let end = match doom {
                Some(doom) => Some(doom),
                None => {
                    let ended = self.gather(cx, room);
                    ended.map(|reason| self.shared.core().ended(reason))
                }
            };
            let is_full = self.batch.len() >= BATCH;
            let worked = self.work();
            let doom = self.shared.core().doom.take();
            if let Some(reason) = worked.err().or(end).or(doom) {
                self.over(reason);
                return Poll::Ready(());
            }
            if !is_full && !self.watch_the_clock(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
