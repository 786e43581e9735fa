//! The incoming half of a link: it notices the loss, and seeks another line while it is asked for
//! messages.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, Control, Incoming, Receiver, Reset, Sender,
    SenderExt, TransportError,
};
use tokio::time::{Instant, Sleep};

use crate::State;
use crate::recovery::{Decider, Next, WELL_AFTER};
use crate::shared::{Shared, lock};

/// The incoming half of a [`Link`](crate::Link).
///
/// Whoever receives does the link's work: it is here that a loss is noticed and another line sought.
/// Once it is dropped, the link comes back no more; what is sent still leaves for as long as the line
/// lives.
pub struct LinkReceiver(pub(crate) Arc<Shared>);

impl Receiver for LinkReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let mut receiving = lock(&self.0.receiving);
        loop {
            if let Poll::Ready(incoming) = receiving.poll(&self.0, cx) {
                return Poll::Ready(incoming);
            }
            if self.0.register_receiver(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    fn holds_part(&self) -> bool {
        match &lock(&self.0.receiving).stage {
            Stage::Live(live) => live.receiver.holds_part(),
            Stage::Away(_) | Stage::Ended => false,
        }
    }

    fn unfinished(&self) -> usize {
        match &lock(&self.0.receiving).stage {
            Stage::Live(live) => live.receiver.unfinished(),
            Stage::Away(_) | Stage::Ended => 0,
        }
    }
}

/// What [`LinkReceiver::poll_many`] has come to.
pub(crate) enum Gathered {
    /// As many as were wanted.
    Many,
    /// Nothing more is there.
    All,
    /// Something that is no message.
    Other(Incoming),
}

/// What [`LinkReceiver::poll_live`] has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    /// As many as were wanted. There may be more.
    Many,
    /// One that came alone. There may be more since.
    One,
    /// Nothing more is there.
    All,
    /// There is something else to be done than to take messages.
    Else,
}

impl LinkReceiver {
    /// Takes messages that have come over the line there is, at most so many, for as long as `take` wants
    /// another. It does nothing else of what [`poll_many`](Self::poll_many) does, which is to be asked when
    /// the answer is `Else`.
    pub(crate) fn poll_live(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        mut take: impl FnMut(Bytes) -> bool,
    ) -> Live {
        let mut receiving = lock(&self.0.receiving);
        if self.0.is_broken.load(Ordering::Acquire) || self.0.is_hung_up.load(Ordering::Acquire) {
            return Live::Else;
        }
        let Stage::Live(line) = &mut receiving.stage else { return Live::Else };
        for number in 0..most {
            match line.receiver.poll_recv(cx) {
                Poll::Ready(Incoming::Message(message)) => {
                    line.carried = true;
                    // Mostly one comes alone. Whether there is more is then to be asked only by whoever has
                    // done with it.
                    let is_alone = number == 0 && !line.receiver.holds_part();
                    match take(message) {
                        false => return Live::Many,
                        true if is_alone => return Live::One,
                        true => {}
                    }
                }
                // An end is said again.
                Poll::Ready(_) => return Live::Else,
                Poll::Pending if self.0.register_receiver(cx.waker()) => return Live::All,
                Poll::Pending => return Live::Else,
            }
        }
        Live::Many
    }

    /// Takes messages that are there, at most so many, for as long as `take` wants another.
    pub(crate) fn poll_many(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        mut take: impl FnMut(Bytes) -> bool,
    ) -> Gathered {
        let mut receiving = lock(&self.0.receiving);
        let mut taken = 0;
        while taken < most {
            match receiving.poll(&self.0, cx) {
                Poll::Ready(Incoming::Message(message)) => {
                    taken += 1;
                    if !take(message) {
                        break;
                    }
                }
                Poll::Ready(other) => return Gathered::Other(other),
                Poll::Pending if self.0.register_receiver(cx.waker()) => return Gathered::All,
                Poll::Pending => {}
            }
        }
        Gathered::Many
    }
}

impl Drop for LinkReceiver {
    fn drop(&mut self) {
        self.0.receiver_gone();
    }
}

/// The incoming half of the line of the moment, or the way to another.
pub(crate) struct Receiving {
    stage: Stage,
    epoch: u64,
    decider: Decider,
    is_carrier: bool,
}

enum Stage {
    Live(Line),
    Away(Away),
    Ended,
}

struct Line {
    receiver: Box<dyn Receiver>,
    control: Control,
    since: Instant,
    /// It has carried a message.
    carried: bool,
    /// Set when the sender cannot go on: what is behind the line is stopped, and may have its say.
    stopping: Option<BoxFuture<'static, CloseReason>>,
    /// What it came to.
    stopped: Option<CloseReason>,
}

struct Away {
    /// Why the line was lost.
    cause: CloseReason,
    /// The end of what is left of it.
    ending: Option<BoxFuture<'static, ()>>,
    /// None before an attempt that is to be at once: a timer's first tick may be 1 ms away.
    wait: Option<Pin<Box<Sleep>>>,
    attempt: Option<BoxFuture<'static, Result<BoxChannel, TransportError>>>,
    number: u32,
}

impl Receiving {
    pub(crate) fn new(receiver: Box<dyn Receiver>, control: Control, decider: Decider) -> Self {
        let stage = Stage::Live(Line::new(receiver, control));
        Self { stage, epoch: 1, decider, is_carrier: false }
    }

    /// Whether it carries a session, which no other line would help once the framing is broken.
    pub(crate) fn carrying(self, is_carrier: bool) -> Self {
        Self { is_carrier, ..self }
    }

    /// Seeks and receives no more. What is given was still there, and ends when it is dropped.
    pub(crate) fn cut(&mut self) -> impl Sized + use<> {
        std::mem::replace(&mut self.stage, Stage::Ended)
    }

    /// Seeks no more. Gives why it did, if it did.
    pub(crate) fn cut_if_away(&mut self) -> Option<CloseReason> {
        let Stage::Away(away) = &self.stage else { return None };
        let cause = away.cause.clone();
        self.stage = Stage::Ended;
        Some(cause)
    }

    fn poll(&mut self, shared: &Arc<Shared>, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            match &mut self.stage {
                Stage::Live(live) => {
                    live.poll_broken(shared, cx);
                    match live.receiver.poll_recv(cx) {
                        Poll::Ready(Incoming::End(reason)) => self.lost(shared, reason),
                        Poll::Pending if shared.is_hung_up.load(Ordering::Acquire) => {
                            self.stage = Stage::Ended;
                        }
                        // Where nothing could be stopped, nobody may ever end it.
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
                    // Every way into this stage leads through an end.
                    let reason = shared.end().unwrap_or(CloseReason::ByUs);
                    return Poll::Ready(Incoming::End(reason));
                }
            }
        }
    }

    /// The line has ended, and all that came over it was taken.
    fn lost(&mut self, shared: &Shared, reason: CloseReason) {
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
                let what = if is_child { "starting it again" } else { "connecting again" };
                match self.is_carrier {
                    // Nothing is lost by it.
                    true => {
                        let endpoint = endpoint.clone().resumable();
                        tracing::info!(%endpoint, "a session has lost its connection: {cause}");
                    }
                    false => {
                        tracing::warn!(%endpoint, "{what} in {} ms: {cause}", after.as_millis());
                    }
                }
                // Lines that end as soon as they are there, one behind the other, leave others their turn.
                let is_due = after.is_zero() && carried;
                let ending = end_line(shared.uninstall(), live.control);
                let until = Instant::now() + after;
                shared.publish(State::Backoff { until, cause: cause.clone() });
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

    /// An attempt has failed.
    fn failed(&mut self, shared: &Shared, error: TransportError) {
        let Stage::Away(away) = &mut self.stage else { return };
        let (cause, next) = self.decider.failed(error, self.epoch - 1);
        match next {
            Next::End(reason) => {
                self.stage = Stage::Ended;
                shared.finish(reason);
            }
            Next::TryAfter(after) => {
                tracing::warn!(?after, "no line yet: {cause}");
                let until = Instant::now() + after;
                away.wait = Some(Box::pin(tokio::time::sleep_until(until)));
                shared.publish(State::Backoff { until, cause });
            }
        }
    }

    /// There is a line again. `None`: it is not wanted any more.
    fn back(&mut self, shared: &Shared, channel: BoxChannel) -> Option<Reset> {
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
        self.stage = Stage::Live(Line::new(receiver, control));
        shared.publish(State::Connected { epoch: self.epoch });
        Some(Reset { epoch: self.epoch, lost, cause: away.cause })
    }
}

impl Line {
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

    /// It takes no more, and behind it is no child whose end is still to be told.
    fn has_no_end(&self) -> bool {
        self.stopped.as_ref().is_some_and(|reason| reason.child_exit().is_none())
    }

    /// A line that takes no more is stopped in stages, and its end comes in.
    fn poll_broken(&mut self, shared: &Shared, cx: &mut Context<'_>) {
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
    /// Ready with the outcome of an attempt.
    fn poll(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BoxChannel, TransportError>> {
        // Two of a kind at once might fight over what they share.
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
            shared.publish(State::Connecting { attempt: self.number });
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

/// Ends the input of what is left of a line, and then that itself. What does not take the end of its
/// input must not hold up its own.
async fn end_line(mut sender: Option<Box<dyn Sender>>, control: Control) {
    let mut stop = pin!(control.stop());
    // It is kept until all is over: the last half that is dropped ends the line at once.
    if let Some(sender) = &mut sender {
        tokio::select! {
            biased;
            _ = sender.close() => {}
            _ = &mut stop => return,
        }
    }
    stop.await;
}
