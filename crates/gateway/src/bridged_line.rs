//! A running line, and the stages of its end until the far side is stopped. `closing` has the rest.

mod closing;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Control, Receiver, Reset, Sender, SenderExt, TransportKind,
    from_now,
};
use tokio::task::coop;
use tokio::time::timeout_at;

use crate::dialogue::Dialogue;
use crate::ending::{end_far, is_failure, is_fault, keep_alive, stop_far};
use crate::gateway_messages::WithGatewayMessages;
use crate::line_memory::LineMemory;
use crate::outbox::Outbox;
use crate::patience::{self, Patience};
use crate::pump::{Direction, Passing, PumpEnd, Watch};
use crate::restored::Restored;
use crate::side::Side;
use crate::unanswered::Unanswered;
use crate::{Bridge, BridgeEnd};

/// The state of a line, which is kept when its far side is restarted.
pub(crate) struct BridgedLine<'a> {
    options: &'a Bridge,
    to_far: Direction<'a>,
    to_near: Direction<'a>,
    dialogue: Option<Arc<Dialogue>>,
    held: Option<Arc<LineMemory>>,
    restarted: AtomicU64,
    /// Bytes that were sent to far sides that ended without reading them.
    unread: AtomicU64,
    /// The near side has ended its input.
    near_was_done: AtomicBool,
}

/// How often to check whether bytes move while waiting for answers.
const PROGRESS_CHECK: Duration = Duration::from_secs(1);

/// The text that is logged if an answer may have been lost because a line without half-close had to be
/// closed.
const NO_ANSWER: &str = "no answer arrived in time after the end of input, and this line has no half-close; keep the \
                         input open until all answers have arrived, or use resume+ in front of the endpoint if \
                         tieline is on the other side";

/// How a line ended.
pub(crate) struct Joined {
    end: BridgeEnd,
    /// The near side did not read the remaining messages in time.
    out_of_grace: bool,
    /// How long the near side may take to read the last messages.
    patience: Patience,
}

impl<'a> BridgedLine<'a> {
    pub(crate) fn new(options: &'a Bridge, near: &Control, far: &Control) -> Self {
        let is_foreign = options.isolated || !sees_our_processes(near) || !sees_our_processes(far);
        let held = LineMemory::of(options.memory.as_ref());
        let dialogue = |dialect| Arc::new(Dialogue::new(dialect, is_foreign, held.as_ref()));
        Self {
            options,
            to_far: Direction::new(options, Side::Client),
            to_near: Direction::new(options, Side::Server),
            dialogue: options.dialect.map(dialogue),
            held,
            restarted: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            near_was_done: AtomicBool::new(false),
        }
    }

    /// Returns the sender to the near side, with the gateway's own messages for it.
    pub(crate) fn near(&self, outbox: Outbox) -> WithGatewayMessages<Outbox> {
        WithGatewayMessages::new(
            outbox,
            self.dialogue.as_ref().map(|dialogue| dialogue.to_near.clone()),
        )
    }

    fn unanswered(&self) -> Option<&Unanswered> {
        self.dialogue.as_ref()?.unanswered()
    }

    /// Passes messages on until one side ends, and stops the far side.
    pub(crate) async fn join(
        &self,
        (near_sender, near_receiver): (&mut WithGatewayMessages<Outbox>, &mut Box<dyn Receiver>),
        near_control: &Control,
        far: BoxChannel,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Joined {
        let (to_far, to_near) = (&self.to_far, &self.to_near);
        let far_control = &far.control().clone();
        // Without half-close, passing on the end of input closes the line, so wait for answers first.
        let half_close = far_control.capabilities().half_close;
        let dialogue = self.dialogue.as_deref();
        let awaited = (!half_close && dialogue.is_none())
            .then(|| Unanswered::new(Dialect::STRICT).within(self.held.as_ref()));
        let watch = |source, sink| {
            let passing = Passing::between(source, sink);
            Watch { dialogue, awaited: awaited.as_ref(), passing, held: self.held.as_ref() }
        };
        let watch_up = watch(near_control, far_control);
        let watch_down = watch(far_control, near_control);
        let unanswered = dialogue.map(Dialogue::requests).or(awaited.as_ref());
        let (far_sender, far_receiver) = far.split();
        let own = self.dialogue.as_ref().map(|dialogue| dialogue.to_far.clone());
        let mut far_sender = WithGatewayMessages::new(far_sender, own);
        let mut far_receiver = Restored::new(far_receiver, self.dialogue.clone());
        // Once the near side has ended its input, a disconnect is noticed without a write.
        let watches_near = &AtomicBool::new(false);

        let mut down = Box::pin(async {
            loop {
                let watch_sink = Some(watches_near);
                match to_near.pump(&mut far_receiver, near_sender, watch_down, watch_sink).await {
                    PumpEnd::Reset(reset) => {
                        if let Some(awaited) = &awaited {
                            drop(awaited.answers(&reset.cause));
                        }
                        if let Err(end) = self.go_on_after(*reset, near_sender).await {
                            break end;
                        }
                    }
                    end => break end,
                }
            }
        });
        let far_input = &mut far_sender;
        let mut up = Box::pin(async move {
            let end = match to_far.pump(near_receiver, far_input, watch_up, None).await {
                // The program at the far side belongs to the session that was lost.
                PumpEnd::Reset(reset) => PumpEnd::Broken(reset.cause),
                PumpEnd::Source(reason) if is_failure(&reason) => PumpEnd::Broken(reason),
                end => end,
            };
            self.near_was_done.store(matches!(end, PumpEnd::Source(_)), Relaxed);
            let is_answered = match &end {
                PumpEnd::Source(_) => true,
                PumpEnd::Broken(_) => to_far.fault().is_some(),
                _ => false,
            };
            if is_answered {
                watches_near.store(true, Relaxed);
                // Let the other direction start to watch the near side before this one waits for the far
                // side.
                tokio::task::yield_now().await;
            }
            if let (true, Some(unanswered), false) = (is_answered, unanswered, half_close) {
                self.wait_for_answers(unanswered, far_input, far_control).await;
            }
            // A far side that stopped reading needs no end of input.
            let _ = far_input.close().await;
            (end, far_input)
        });
        let mut answered = pin!(self.answered_before_fault(half_close));
        let mut out_of_memory = pin!(self.out_of_memory());
        let mut up_is_over = false;
        // This is the sender to the far side, once its input has ended.
        let mut closed = None;
        let outcome = loop {
            tokio::select! {
                reason = &mut out_of_memory => break LineOutcome::Broken(reason),
                (end, sender) = &mut up, if !up_is_over => match end {
                    PumpEnd::Broken(reason) if to_far.fault().is_none() => {
                        break LineOutcome::Broken(reason);
                    }
                    // The queue was discarded. A transport that ends its whole line because of this
                    // reports it itself.
                    PumpEnd::Sink(reason @ CloseReason::NoMemory(_))
                        if far_control.close_reason().is_none() =>
                    {
                        break LineOutcome::Broken(reason);
                    }
                    // With any other failed write, the far side's own end is the reason.
                    _ => {
                        up_is_over = true;
                        closed = Some(sender);
                        watches_near.store(true, Relaxed);
                    }
                },
                never = keep_alive(&mut closed) => match never {},
                fault = &mut answered => break LineOutcome::Broken(fault),
                end = &mut down => break self.outcome_of(end, near_control),
                () = &mut stop => break LineOutcome::Stop,
            }
        };
        let grace = self.options.grace;
        // There is one deadline for all steps of a stop, so that slow readers cannot delay it
        // repeatedly.
        let stopped_by = from_now(grace);
        let (mut out_of_grace, mut was_stopped) = (false, false);
        let end = match outcome {
            LineOutcome::Far(reason) => {
                drop((up, down));
                if let CloseReason::NotPassedOn(_) = reason {
                    far_control.report_at_close(reason.clone());
                }
                let far = end_far(reason, &mut far_sender, far_control, grace).await;
                match to_far.fault().cloned() {
                    Some(near) => BridgeEnd::Near { near, far },
                    None => BridgeEnd::Far(far),
                }
            }
            LineOutcome::Broken(ref near) | LineOutcome::NotReading(ref near) => {
                let near = to_far.fault().unwrap_or(near).clone();
                let has_undelivered = matches!(outcome, LineOutcome::NotReading(_)) && !up_is_over;
                drop(down);
                if has_undelivered {
                    // The near side no longer reads, but its earlier messages are still delivered.
                    let delivered = coop::unconstrained(poll_fn(|cx| {
                        let is_over =
                            up.as_mut().poll(cx).is_ready() || to_far.is_idle.load(Relaxed);
                        if is_over { Poll::Ready(()) } else { Poll::Pending }
                    }));
                    tokio::select! {
                        _ = tokio::time::timeout(grace, delivered) => {}
                        () = &mut stop => {}
                        never = discard(&mut far_receiver) => match never {},
                    }
                }
                drop(up);
                let far = tokio::select! {
                    far = stop_far(&mut far_sender, far_control, grace) => far,
                    never = discard(&mut far_receiver) => match never {},
                };
                BridgeEnd::Near { near, far }
            }
            LineOutcome::Stop => {
                drop(up);
                // Messages that the far side sends while it is being stopped are still delivered.
                let stopped = stop_far(&mut far_sender, far_control, grace);
                let delivery = timeout_at(stopped_by, &mut down);
                let (far, delivered) = tokio::join!(stopped, delivery);
                (out_of_grace, was_stopped) = (delivered.is_err(), true);
                drop(down);
                BridgeEnd::Stopped(far)
            }
        };
        // If this side has ended the session, the far side may not have had time to acknowledge
        // everything.
        let ended_here = !matches!(end, BridgeEnd::Far(_)) && far_control.capabilities().is_session;
        let unwritten = if ended_here { 0 } else { far_sender.unwritten() };
        match &end {
            BridgeEnd::Far(far) | BridgeEnd::Near { far, .. } | BridgeEnd::Stopped(far) => {
                self.note_unread(far, unwritten);
            }
        }
        let patience = match was_stopped {
            true => Patience::until(stopped_by),
            false => Patience::while_it_moves(grace),
        };
        Joined { end, out_of_grace, patience }
    }

    /// Handles the restart of the far side. Returns why the line ends, if it does.
    async fn go_on_after(&self, reset: Reset, near: &mut impl Sender) -> Result<(), PumpEnd> {
        self.restarted.fetch_add(1, Relaxed);
        self.to_far.lose_many(reset.lost, &reset.cause);
        self.note_unread(&reset.cause, 0);
        // Answer at once, because later requests are for the new far side.
        let patience = Patience::while_it_moves(self.options.grace);
        if !self.answer(&reset.cause, near, patience).await {
            return Err(PumpEnd::Sink(CloseReason::Stalled));
        }
        match reset.cause {
            // The new session leads to a new program, which lacks the state of the old one.
            CloseReason::SessionLost(_) if self.dialogue.is_none() => {
                Err(PumpEnd::Source(reset.cause))
            }
            _ => Ok(()),
        }
    }

    /// Waits until the far side has answered, before its line without half-close is closed.
    async fn wait_for_answers(
        &self,
        unanswered: &Unanswered,
        far: &mut impl Sender,
        control: &Control,
    ) {
        // The gateway's own messages to the far side are still sent.
        let moved = AtomicU64::new(0);
        let mut checks = tokio::time::interval(PROGRESS_CHECK);
        let flush = poll_fn(|cx| {
            while checks.poll_tick(cx).is_ready() {
                let (left, received) = (far.outgoing().left, control.info().bytes_in);
                moved.store(left.wrapping_add(received), Relaxed);
            }
            let _ = far.poll_flush(cx);
            Poll::<()>::Pending
        });
        // With HTTP, the end of input is a separate request, and answers still arrive after it.
        let kind = control.info().kind;
        let is_last = !matches!(kind.as_str(), "http" | "https" | "http-unix" | "http-pipe");
        tokio::select! {
            unanswered = unanswered.settled(self.options.grace, is_last, &moved) => {
                if is_last {
                    self.to_near.lose_many(unanswered, &NO_ANSWER);
                }
            }
            () = flush => {}
        }
    }

    /// Returns what the end of the direction to the near side means for the line.
    fn outcome_of(&self, down: PumpEnd, near: &Control) -> LineOutcome {
        match down {
            PumpEnd::Source(reason) => LineOutcome::Far(reason),
            PumpEnd::Sink(reason) if self.to_far.fault().is_some() => LineOutcome::Broken(reason),
            PumpEnd::Sink(reason) => {
                // A lost session, or a fault after the end of input, is more precise than the failed
                // send.
                let is_precise =
                    |it: &CloseReason| matches!(it, CloseReason::SessionLost(_)) || is_fault(it);
                let known = near.close_reason().filter(is_precise);
                LineOutcome::NotReading(known.unwrap_or(reason))
            }
            // Resets were handled, so these end the line.
            PumpEnd::Reset(reset) => LineOutcome::Broken(reset.cause),
            PumpEnd::Broken(reason) => LineOutcome::Broken(reason),
        }
    }

    /// Completes when the line has to end because it uses too much memory. Discards the gateway's own messages.
    async fn out_of_memory(&self) -> CloseReason {
        let Some(held) = &self.held else { return std::future::pending().await };
        let reason = held.refused().await;
        if let Some(dialogue) = &self.dialogue {
            self.to_near.lose_many(dialogue.to_near.clear() as u64, &reason);
            dialogue.to_far.clear();
        }
        reason
    }

    /// Waits until the near side's input has ended with a fault and its earlier requests are answered,
    /// for at most the grace period, and returns the fault. If the dialect is unknown or there is no
    /// half-close, this waits for the whole grace period; the end of the far side, which follows all
    /// answers, is noticed elsewhere.
    async fn answered_before_fault(&self, half_close: bool) -> CloseReason {
        let fault = self.to_far.faulted().await;
        let grace = self.options.grace;
        let all_answered = async {
            match &self.dialogue {
                // Without half-close, the other direction waits for answers before it passes on the end
                // of input.
                Some(dialogue) if half_close => {
                    dialogue.requests().settled(grace, false, &AtomicU64::new(0)).await;
                }
                _ => std::future::pending().await,
            }
        };
        if self.to_far.passed.load(Relaxed) > 0 {
            let _ = tokio::time::timeout(grace, all_answered).await;
        }
        fault
    }

    /// Counts the bytes that a far side did not read before it ended. `unwritten` is the number of bytes
    /// that had not been written to it yet.
    fn note_unread(&self, end: &CloseReason, unwritten: usize) {
        let in_pipe = end.child_exit().and_then(|exit| exit.unread).unwrap_or_default();
        self.unread.fetch_add(in_pipe.saturating_add(unwritten as u64), Relaxed);
    }
}

enum LineOutcome {
    /// The far side ended.
    Far(CloseReason),
    /// The near side's input failed.
    Broken(CloseReason),
    /// The near side no longer accepts messages.
    NotReading(CloseReason),
    Stop,
}

/// Returns whether process IDs have the same meaning on the other side of a line, as far as is known.
fn sees_our_processes(control: &Control) -> bool {
    match control.info().kind {
        TransportKind::STDIO
        | TransportKind::PROCESS
        | TransportKind::MEMORY
        | TransportKind::PIPE => true,
        // The pid of a peer in another PID namespace is not available.
        TransportKind::UNIX => control.peer().is_some_and(|peer| peer.pid.is_some()),
        _ => false,
    }
}

/// Reads and discards messages, so that a far side that is being stopped does not block on its output.
async fn discard(receiver: &mut impl Receiver) -> Infallible {
    patience::discard(receiver, &AtomicU64::new(0)).await;
    std::future::pending().await
}

#[cfg(test)]
mod tests;
