//! One line from a near channel to a far one, and every way in which it can end.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Control, Incoming, Receiver, ReceiverExt, SendError, Sender,
    SenderExt,
};
use tokio::task::coop;

use crate::Tap;
use crate::unanswered::Unanswered;

/// How two channels are joined.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Names the line in logs and in the tap.
    pub line: u64,
    /// Where every message is recorded.
    pub tap: Option<Tap>,
    /// How long what is under way may still be handed over when the line is stopped; 10 s by
    /// default.
    pub grace: Duration,
    /// What is spoken, where that is JSON-RPC: when the far side ends, each request that it has not
    /// answered is answered −32000 in its place, with how it ended. Without one, and for
    /// [xi](Dialect::XI), nothing is put into the stream.
    pub dialect: Option<Dialect>,
}

impl Default for Bridge {
    fn default() -> Self {
        Self { line: 1, tap: None, grace: Duration::from_secs(10), dialect: None }
    }
}

/// What went over a line, and why it ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BridgeReport {
    /// Messages from near to far.
    pub to_far: u64,
    /// Messages from far to near.
    pub to_near: u64,
    /// Messages that were not passed on: not deliverable, or not sendable in the other framing.
    pub lost: u64,
    /// Why the line ended.
    pub end: BridgeEnd,
}

/// Which side ended the line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BridgeEnd {
    /// The far side ended, by itself or after the end of its input.
    Far(CloseReason),
    /// The near side is gone, stopped reading, or broke its framing. The far side was stopped.
    Near {
        /// What became of the near side.
        near: CloseReason,
        /// How the far side ended when it was stopped.
        far: CloseReason,
    },
    /// It was asked to end, and the far side was stopped.
    Stopped(CloseReason),
}

impl BridgeEnd {
    /// Whether everything went as it should.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Far(reason) => reason.is_clean(),
            Self::Near { near, .. } => near.is_clean(),
            Self::Stopped(_) => true,
        }
    }
}

impl fmt::Display for BridgeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Far(reason) => reason.fmt(f),
            Self::Near { near, .. } => write!(f, "the client's side has ended: {near}"),
            Self::Stopped(reason) => write!(f, "stopped; {reason}"),
        }
    }
}

/// Passes messages both ways until the line ends, and leaves nothing of it behind.
///
/// - The end of the near side's input is passed on; what the far side still has to say arrives.
/// - The end of the far side is the end of the line, as soon as all it said was handed over.
/// - When the near side is gone, or `stop` completes, the far side is stopped in stages.
/// - One message that cannot be passed on is counted and logged, and the line goes on.
///
/// Dropping the future ends both sides at once.
pub async fn bridge(
    near: BoxChannel,
    far: BoxChannel,
    options: Bridge,
    stop: impl Future<Output = ()>,
) -> BridgeReport {
    let far_control = far.control().clone();
    let (mut near_sender, mut near_receiver) = near.split();
    let (mut far_sender, mut far_receiver) = far.split();
    let dialect = options.dialect.filter(|dialect| *dialect != Dialect::XI);
    let unanswered = dialect.map(Unanswered::new);
    let to_far = Direction::new(&options, Side::Client, unanswered.as_ref());
    let to_near = Direction::new(&options, Side::Server, unanswered.as_ref());
    // Once the near side said its last word, its going away is noticed without a write.
    let last_word = AtomicBool::new(false);

    let mut down = Box::pin(to_near.pump(&mut far_receiver, &mut near_sender, Some(&last_word)));
    let mut up = Box::pin(async {
        let end = to_far.pump(&mut near_receiver, &mut far_sender, None).await;
        // A far side that stopped reading needs no end of input.
        let _ = far_sender.close().await;
        end
    });
    let outcome = {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                end = &mut up, if !last_word.load(Relaxed) => match end {
                    PumpEnd::Source(reason) if is_failure(&reason) => break Outcome::Broken(reason),
                    PumpEnd::Source(_) | PumpEnd::Sink(_) => last_word.store(true, Relaxed),
                },
                end = &mut down => break match end {
                    PumpEnd::Source(reason) => Outcome::Far(reason),
                    PumpEnd::Sink(reason) => Outcome::Deaf(reason),
                },
                () = &mut stop => break Outcome::Stop,
            }
        }
    };
    let grace = options.grace;
    let mut out_of_grace = false;
    let end = match outcome {
        Outcome::Far(reason) => {
            drop((up, down));
            stop_far(&mut far_sender, &far_control, grace).await;
            BridgeEnd::Far(reason)
        }
        Outcome::Broken(ref near) | Outcome::Deaf(ref near) => {
            let near = near.clone();
            let has_more_to_say = matches!(outcome, Outcome::Deaf(_)) && !last_word.load(Relaxed);
            drop(down);
            if has_more_to_say {
                // It hears no more, but what it said before it went still counts.
                let said = coop::unconstrained(poll_fn(|cx| {
                    let is_over = up.as_mut().poll(cx).is_ready() || to_far.is_idle.load(Relaxed);
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
    // It may be gone already, and one that does not read must not hold up the end.
    let patience = if out_of_grace { Duration::ZERO } else { options.grace };
    let _ = tokio::time::timeout(patience, async {
        if let BridgeEnd::Far(reason) | BridgeEnd::Stopped(reason) = &end {
            for answer in unanswered.iter().flat_map(|unanswered| unanswered.answers(reason)) {
                if to_near.pass(answer.into(), &mut near_sender).await.is_err() {
                    return;
                }
            }
        }
        let _ = near_sender.close().await;
    })
    .await;
    BridgeReport {
        to_far: to_far.passed.load(Relaxed),
        to_near: to_near.passed.load(Relaxed),
        lost: to_far.lost.load(Relaxed) + to_near.lost.load(Relaxed),
        end,
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

/// Who speaks.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// One of the two ways.
struct Direction<'a> {
    options: &'a Bridge,
    from: Side,
    unanswered: Option<&'a Unanswered>,
    passed: AtomicU64,
    lost: AtomicU64,
    /// All that was there to be taken is handed over.
    is_idle: AtomicBool,
}

enum PumpEnd {
    /// No more will come.
    Source(CloseReason),
    /// No more can be handed over.
    Sink(CloseReason),
}

impl<'a> Direction<'a> {
    fn new(options: &'a Bridge, from: Side, unanswered: Option<&'a Unanswered>) -> Self {
        Self {
            options,
            from,
            unanswered,
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
        }
    }

    /// Passes messages on until one end is reached; all that was taken was then handed over, or
    /// the sink has ended. The flush comes when nothing more is there to be taken, so that a batch
    /// leaves in one write.
    async fn pump(
        &self,
        source: &mut impl Receiver,
        sink: &mut impl Sender,
        watch_sink: Option<&AtomicBool>,
    ) -> PumpEnd {
        loop {
            let next = poll_fn(|cx| {
                if let Poll::Ready(incoming) = source.poll_recv(cx) {
                    return Poll::Ready(Ok(incoming));
                }
                let flushed = sink.poll_flush(cx);
                self.is_idle.store(flushed.is_ready(), Relaxed);
                if let Poll::Ready(Err(error)) = flushed {
                    return Poll::Ready(Err(error));
                }
                let watches = watch_sink.is_some_and(|watch| watch.load(Relaxed));
                if watches && sink.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(SendError::Closed(Box::new(CloseReason::ByPeer))));
                }
                Poll::Pending
            });
            let passed = match next.await {
                Ok(Incoming::Message(message)) => self.pass(message, sink).await,
                Ok(Incoming::End(reason)) => {
                    if let CloseReason::Truncated(truncated) = &reason {
                        self.lose(truncated);
                    }
                    return match sink.flush().await {
                        Ok(()) => PumpEnd::Source(reason),
                        Err(error) => PumpEnd::Sink(closed(error)),
                    };
                }
                Ok(Incoming::Fault(fault)) => {
                    self.lose(&fault);
                    continue;
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            if let Err(error) = passed {
                return PumpEnd::Sink(closed(error));
            }
        }
    }

    /// Passes one message on, or counts it as lost.
    async fn pass(&self, message: Bytes, sink: &mut impl Sender) -> Result<(), SendError> {
        if let Some(tap) = &self.options.tap {
            tap.record(self.options.line, self.from.name(), &message).await;
        }
        match (self.unanswered, self.from) {
            (Some(unanswered), Side::Client) => unanswered.asked(&message),
            (Some(unanswered), Side::Server) => unanswered.answered(&message),
            (None, _) => {}
        }
        match sink.feed(message).await {
            Ok(()) => drop(self.passed.fetch_add(1, Relaxed)),
            Err(SendError::Message(refused)) => self.lose(&refused.error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Counts a message that is not passed on; the first of a direction is worth a warning.
    fn lose(&self, why: &dyn fmt::Display) {
        let (line, from) = (self.options.line, self.from.name());
        if self.lost.fetch_add(1, Relaxed) == 0 {
            tracing::warn!(line, "a message from the {from} was lost: {why}");
        } else {
            tracing::debug!(line, "a message from the {from} was lost: {why}");
        }
    }
}

fn closed(error: SendError) -> CloseReason {
    match error {
        SendError::Closed(reason) => *reason,
        // Flushing and closing refuse no single message.
        _ => CloseReason::ByUs,
    }
}
