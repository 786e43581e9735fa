//! The receiving state of a link: the current line, or the attempt to connect the next one.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, Control, Incoming, Receiver, Reset, Sender,
    SenderExt, TransportError,
};
use tokio::time::{Instant, Sleep};

use super::SharedLink;
use crate::recovery::{Decider, Next, WELL_AFTER};
use crate::state::LineState;

/// The target of log lines about child processes that ended and are restarted.
pub const RESTARTS: &str = "tieline_link::restarts";

/// The incoming half of the current line, or the attempt to connect the next one.
pub(crate) struct Receiving {
    stage: Stage,
    epoch: u64,
    decider: Decider,
    is_carrier: bool,
}

enum Stage {
    Live(LiveLine),
    Away(Away),
    Ended,
}

struct LiveLine {
    receiver: Box<dyn Receiver>,
    control: Control,
    since: Instant,
    /// Whether the line has carried a message.
    carried: bool,
    /// The future that stops the peer after the sender has failed. The peer's last messages are still
    /// received.
    stopping: Option<BoxFuture<'static, CloseReason>>,
    /// The result of stopping.
    stopped: Option<CloseReason>,
}

struct Away {
    /// Why the line was lost.
    cause: CloseReason,
    /// The future that ends the remainder of the line.
    ending: Option<BoxFuture<'static, ()>>,
    /// `None` if the attempt is to be made at once: even a zero timer may take 1 ms.
    wait: Option<Pin<Box<Sleep>>>,
    attempt: Option<BoxFuture<'static, Result<BoxChannel, TransportError>>>,
    number: u32,
}

impl Receiving {
    pub(crate) fn new(receiver: Box<dyn Receiver>, control: Control, decider: Decider) -> Self {
        let stage = Stage::Live(LiveLine::new(receiver, control));
        Self { stage, epoch: 1, decider, is_carrier: false }
    }

    /// Sets whether the link carries a session. A framing error would repeat on the next line of a session.
    pub(crate) fn carrying(self, is_carrier: bool) -> Self {
        Self { is_carrier, ..self }
    }

    /// Stops receiving and reconnecting. Dropping the returned value ends the line or the attempt.
    pub(crate) fn cut(&mut self) -> impl Sized + use<> {
        std::mem::replace(&mut self.stage, Stage::Ended)
    }

    /// Returns the incoming half of the current line.
    pub(crate) fn receiver(&self) -> Option<&dyn Receiver> {
        match &self.stage {
            Stage::Live(live) => Some(&*live.receiver),
            Stage::Away(_) | Stage::Ended => None,
        }
    }

    /// Returns the incoming half of the current line, and the flag to set when it has carried a message.
    pub(crate) fn live(&mut self) -> Option<(&mut dyn Receiver, &mut bool)> {
        match &mut self.stage {
            Stage::Live(live) => Some((&mut *live.receiver, &mut live.carried)),
            Stage::Away(_) | Stage::Ended => None,
        }
    }

    /// Stops reconnecting. Returns why the last line was lost, if there is no line at present.
    pub(crate) fn cut_if_away(&mut self) -> Option<CloseReason> {
        let Stage::Away(away) = &self.stage else { return None };
        let cause = away.cause.clone();
        self.stage = Stage::Ended;
        Some(cause)
    }

    pub(crate) fn poll(
        &mut self,
        shared: &Arc<SharedLink>,
        cx: &mut Context<'_>,
    ) -> Poll<Incoming> {
        loop {
            match &mut self.stage {
                Stage::Live(live) => {
                    live.poll_broken(shared, cx);
                    match live.receiver.poll_recv(cx) {
                        Poll::Ready(Incoming::End(reason)) => self.lost(shared, reason),
                        Poll::Pending if shared.is_hung_up.load(Ordering::Acquire) => {
                            self.stage = Stage::Ended;
                        }
                        // Without a child to stop, the line may never end by itself.
                        Poll::Pending if live.has_no_end() => self.lost(shared, CloseReason::ByUs),
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(incoming) => {
                            live.carried |= matches!(incoming, Incoming::Message(_));
                            return Poll::Ready(incoming);
                        }
                    }
                }
                Stage::Away(away) => match ready!(away.poll(shared, cx)) {
                    Ok(channel) => {
                        if let Some(reset) = self.back(shared, channel) {
                            return Poll::Ready(Incoming::Reset(Box::new(reset)));
                        }
                    }
                    Err(error) => self.failed(shared, error),
                },
                Stage::Ended => {
                    // The end is set before this stage is entered.
                    let reason = shared.end().unwrap_or(CloseReason::ByUs);
                    return Poll::Ready(Incoming::End(reason));
                }
            }
        }
    }

    /// Handles the end of the line, after all its messages were received.
    fn lost(&mut self, shared: &SharedLink, reason: CloseReason) {
        let Stage::Live(live) = std::mem::replace(&mut self.stage, Stage::Ended) else { return };
        let cause = shared.cause(reason);
        let restarts = self.epoch - 1;
        let (lived, carried) = match shared.is_well.swap(false, Ordering::AcqRel) {
            true => (WELL_AFTER, true),
            false => (live.since.elapsed(), live.carried),
        };
        let is_hopeless = self.is_carrier && matches!(cause, CloseReason::Protocol(_));
        let next = match shared.is_leaving() || is_hopeless {
            true => Next::End(cause.clone()),
            false => self.decider.lost(&cause, restarts, lived, carried),
        };
        match next {
            Next::End(reason) => shared.finish(reason),
            Next::TryAfter(after) => {
                let endpoint = live.control.endpoint();
                let is_child = cause.child_exit().is_some();
                let what = if is_child { "restarting" } else { "reconnecting" };
                match self.is_carrier {
                    // The session survives this.
                    true => {
                        let endpoint = endpoint.clone().resumable();
                        tracing::info!(%endpoint, "a session has lost its connection: {cause}");
                    }
                    false => {
                        let after = after.as_millis();
                        match is_child {
                            true => {
                                tracing::warn!(target: RESTARTS, %endpoint, "{what} in {after} ms: {cause}");
                            }
                            false => tracing::warn!(%endpoint, "{what} in {after} ms: {cause}"),
                        }
                    }
                }
                // If lines end as soon as they are connected, the timer lets other tasks run in between.
                let is_due = after.is_zero() && carried;
                let ending = end_line(shared.uninstall(), live.control);
                let until = Instant::now() + after;
                shared.publish(LineState::Backoff { until, cause: cause.clone() });
                self.stage = Stage::Away(Away {
                    cause,
                    ending: Some(Box::pin(ending)),
                    wait: (!is_due).then(|| Box::pin(tokio::time::sleep_until(until))),
                    attempt: None,
                    number: 0,
                });
            }
        }
    }

    /// Handles a failed attempt.
    fn failed(&mut self, shared: &SharedLink, error: TransportError) {
        let Stage::Away(away) = &mut self.stage else { return };
        let (cause, next) = self.decider.failed(error, self.epoch - 1);
        match next {
            Next::End(reason) => {
                self.stage = Stage::Ended;
                shared.finish(reason);
            }
            Next::TryAfter(after) => {
                tracing::warn!("cannot connect; retrying in {} ms: {cause}", after.as_millis());
                let until = Instant::now() + after;
                away.wait = Some(Box::pin(tokio::time::sleep_until(until)));
                shared.publish(LineState::Backoff { until, cause });
            }
        }
    }

    /// Installs the next line. Returns `None` if the link is ending.
    fn back(&mut self, shared: &SharedLink, channel: BoxChannel) -> Option<Reset> {
        let Stage::Away(away) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return None;
        };
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        let Some(lost) = shared.install(sender, control.clone()) else {
            shared.finish(CloseReason::ByUs);
            return None;
        };
        self.epoch += 1;
        self.stage = Stage::Live(LiveLine::new(receiver, control));
        shared.publish(LineState::Connected { epoch: self.epoch });
        Some(Reset { epoch: self.epoch, lost, cause: away.cause })
    }
}

impl LiveLine {
    fn new(receiver: Box<dyn Receiver>, control: Control) -> Self {
        Self {
            receiver,
            control,
            since: Instant::now(),
            carried: false,
            stopping: None,
            stopped: None,
        }
    }

    /// Returns whether the line was stopped and has no child whose exit is still to be reported.
    fn has_no_end(&self) -> bool {
        self.stopped.as_ref().is_some_and(|reason| reason.child_exit().is_none())
    }

    /// Stops a line in stages after its sender has failed. The receiver then returns the end.
    fn poll_broken(&mut self, shared: &SharedLink, cx: &mut Context<'_>) {
        if !shared.is_broken.load(Ordering::Acquire) {
            return;
        }
        if self.stopped.is_some() {
            return;
        }
        let control = &self.control;
        let stopping = self.stopping.get_or_insert_with(|| {
            let control = control.clone();
            Box::pin(async move { control.stop().await })
        });
        if let Poll::Ready(reason) = stopping.as_mut().poll(cx) {
            self.stopped = Some(reason);
        }
    }
}

impl Away {
    /// Returns the outcome of an attempt when it is ready.
    fn poll(
        &mut self,
        shared: &SharedLink,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BoxChannel, TransportError>> {
        // End the old line first: two running instances of a program might conflict over shared
        // resources.
        if let Some(ending) = &mut self.ending {
            ready!(ending.as_mut().poll(cx));
            self.ending = None;
        }
        if self.attempt.is_none() {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            self.number += 1;
            shared.publish(LineState::Connecting { attempt: self.number });
        }
        let attempt = self.attempt.get_or_insert_with(|| {
            let connector = shared.connector.clone();
            Box::pin(async move { connector.connect().await })
        });
        let connected = ready!(attempt.as_mut().poll(cx));
        self.attempt = None;
        Poll::Ready(connected)
    }
}

/// Closes the input of a lost line, and then stops the line in stages. If closing the input does not
/// complete, the line is stopped anyway.
async fn end_line(mut sender: Option<Box<dyn Sender>>, control: Control) {
    let mut stop = pin!(control.stop());
    // The sender is kept until the end: dropping the last half would end the line at once.
    if let Some(sender) = &mut sender {
        tokio::select! {
            biased;
            _ = sender.close() => {}
            _ = &mut stop => return,
        }
    }
    stop.await;
}
