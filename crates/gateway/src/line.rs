//! A line under way: a near side that stays, and far sides that come and go.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Control, Incoming, Receiver, ReceiverExt, Sender, SenderExt,
};
use tokio::task::coop;

use crate::pump::{Direction, PumpEnd, Side};
use crate::unanswered::Unanswered;
use crate::{Bridge, BridgeEnd, BridgeReport};

/// What is counted and remembered of a line, whatever becomes of its far side.
pub(crate) struct Line<'a> {
    options: &'a Bridge,
    to_far: Direction<'a>,
    to_near: Direction<'a>,
    unanswered: Option<Unanswered>,
    pub(crate) restarted: AtomicU64,
}

/// A far side's time on a line.
pub(crate) struct Joined {
    pub(crate) end: BridgeEnd,
    /// The near side will say no more.
    pub(crate) near_has_ended: bool,
    /// The near side did not take in time what was left.
    out_of_grace: bool,
}

impl<'a> Line<'a> {
    pub(crate) fn new(options: &'a Bridge) -> Self {
        let dialect = options.dialect.filter(|dialect| *dialect != Dialect::XI);
        Self {
            options,
            to_far: Direction::new(options, Side::Client),
            to_near: Direction::new(options, Side::Server),
            unanswered: dialect.map(Unanswered::new),
            restarted: AtomicU64::new(0),
        }
    }

    /// Passes messages until one side has ended, and ends the far one.
    pub(crate) async fn join(
        &self,
        (near_sender, near_receiver): (&mut Box<dyn Sender>, &mut Box<dyn Receiver>),
        far: BoxChannel,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Joined {
        let (to_far, to_near, unanswered) = (&self.to_far, &self.to_near, self.unanswered.as_ref());
        let far_control = far.control().clone();
        let (mut far_sender, mut far_receiver) = far.split();
        // Once the near side said its last word, its going away is noticed without a write.
        let last_word = AtomicBool::new(false);
        let mut near_has_ended = false;

        let mut down =
            Box::pin(to_near.pump(&mut far_receiver, near_sender, unanswered, Some(&last_word)));
        let mut up = Box::pin(async {
            let end = to_far.pump(near_receiver, &mut far_sender, unanswered, None).await;
            // A far side that stopped reading needs no end of input.
            let _ = far_sender.close().await;
            end
        });
        let outcome = loop {
            tokio::select! {
                end = &mut up, if !last_word.load(Relaxed) => match end {
                    PumpEnd::Source(reason) if is_failure(&reason) => break Outcome::Broken(reason),
                    end => {
                        near_has_ended = matches!(end, PumpEnd::Source(_));
                        last_word.store(true, Relaxed);
                    }
                },
                end = &mut down => break match end {
                    PumpEnd::Source(reason) => Outcome::Far(reason),
                    PumpEnd::Sink(reason) => Outcome::Deaf(reason),
                },
                () = &mut stop => break Outcome::Stop,
            }
        };
        let grace = self.options.grace;
        let mut out_of_grace = false;
        let end = match outcome {
            Outcome::Far(reason) => {
                drop((up, down));
                stop_far(&mut far_sender, &far_control, grace).await;
                BridgeEnd::Far(reason)
            }
            Outcome::Broken(ref near) | Outcome::Deaf(ref near) => {
                let near = near.clone();
                let has_more_to_say =
                    matches!(outcome, Outcome::Deaf(_)) && !last_word.load(Relaxed);
                drop(down);
                if has_more_to_say {
                    // It hears no more, but what it said before it went still counts.
                    let said = coop::unconstrained(poll_fn(|cx| {
                        let is_over =
                            up.as_mut().poll(cx).is_ready() || to_far.is_idle.load(Relaxed);
                        if is_over { Poll::Ready(()) } else { Poll::Pending }
                    }));
                    tokio::select! {
                        _ = tokio::time::timeout(grace, said) => {}
                        never = discard(&mut far_receiver) => match never {},
                    }
                }
                drop(up);
                let far = tokio::select! {
                    far = stop_far(&mut far_sender, &far_control, grace) => far,
                    never = discard(&mut far_receiver) => match never {},
                };
                BridgeEnd::Near { near, far }
            }
            Outcome::Stop => {
                drop(up);
                // What it still says while it is being stopped arrives.
                let stopped = stop_far(&mut far_sender, &far_control, grace);
                let last_words = tokio::time::timeout(grace, &mut down);
                let (far, delivered) = tokio::join!(stopped, last_words);
                out_of_grace = delivered.is_err();
                drop(down);
                BridgeEnd::Stopped(far)
            }
        };
        Joined { end, near_has_ended, out_of_grace }
    }

    /// Answers what the far side has left behind. False when the near side does not take it.
    pub(crate) async fn answer(&self, reason: &CloseReason, near: &mut impl Sender) -> bool {
        let answers = self.unanswered.iter().flat_map(|unanswered| unanswered.answers(reason));
        let answered = async {
            for answer in answers {
                self.to_near.pass(answer.into(), near, None).await?;
            }
            near.flush().await
        };
        tokio::time::timeout(self.options.grace, answered).await.is_ok_and(|sent| sent.is_ok())
    }

    /// The near side is told of the end. It may be gone already, and one that does not read must not
    /// hold up the end.
    pub(crate) async fn end(self, mut near: Box<dyn Sender>, joined: Joined) -> BridgeReport {
        let Joined { end, out_of_grace, .. } = joined;
        let is_heard = match &end {
            _ if out_of_grace => false,
            BridgeEnd::Far(reason) | BridgeEnd::Stopped(reason) => {
                self.answer(reason, &mut near).await
            }
            BridgeEnd::Near { .. } => true,
        };
        let patience = if is_heard { self.options.grace } else { Duration::ZERO };
        let _ = tokio::time::timeout(patience, near.close()).await;
        BridgeReport {
            to_far: self.to_far.passed.load(Relaxed),
            to_near: self.to_near.passed.load(Relaxed),
            lost: self.to_far.lost.load(Relaxed) + self.to_near.lost.load(Relaxed),
            restarted: self.restarted.load(Relaxed),
            end,
        }
    }
}

enum Outcome {
    /// The far side has ended.
    Far(CloseReason),
    /// The near side's input has failed.
    Broken(CloseReason),
    /// The near side takes no more.
    Deaf(CloseReason),
    Stop,
}

/// Ends the far side's input, and then what is behind it. The end of input goes out first, but a
/// child that does not read must not hold up its own end; where nothing is behind the far side to be
/// ended, its input still has to end.
async fn stop_far(far: &mut impl Sender, control: &Control, grace: Duration) -> CloseReason {
    let mut end_input = pin!(tokio::time::timeout(grace, far.close()));
    let mut stop = pin!(control.stop());
    tokio::select! {
        biased;
        _ = &mut end_input => stop.await,
        reason = &mut stop => {
            if !matches!(reason, CloseReason::ChildExited(_)) {
                let _ = end_input.await;
            }
            reason
        }
    }
}

/// The near side did not merely come to the end of its input.
fn is_failure(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Io(_) | CloseReason::Protocol(_) | CloseReason::Stalled)
}

/// Reads on, so that a far side that is being stopped does not block on its own output.
async fn discard(receiver: &mut impl Receiver) -> Infallible {
    loop {
        if let Incoming::End(_) = receiver.recv().await {
            std::future::pending::<()>().await;
        }
    }
}
