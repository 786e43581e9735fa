//! One direction of a line: messages are passed on in batches, and counted.
//!
//! Every message goes through [`Direction::pass`]. The sink knows what its framing can carry
//! ([`Sender::pass_on`]). [`Passing`] adds requirements that follow from both transports, and decides
//! what happens to a message that cannot be passed on.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_proto::json::{self, Limits};
use tieline_proto::jsonrpc::Message;
use tieline_transport::{
    CloseReason, Control, Incoming, NotPassedOn, Receiver, Refused, Reset, SendError, Sender,
    SenderExt, TransportKind, WarnThrottle,
};
use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::{Sleep, sleep};

use crate::Bridge;
use crate::dialogue::{Dialogue, Settled, Verdict};
use crate::ending::is_fault;
use crate::line_memory::{LineMemory, MemoryPart};
use crate::side::Side;
use crate::unanswered::Unanswered;

/// The parts that examine the messages of a line while they are passed on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Watch<'a> {
    /// The state of the line if the dialect is known.
    pub(crate) dialogue: Option<&'a Dialogue>,
    /// The requests without a response if the dialect is unknown, as far as they can be recognized.
    pub(crate) awaited: Option<&'a Unanswered>,
    /// The requirements of the two transports.
    pub(crate) passing: Passing,
    /// Counts the memory of a large message that waits for room on the other side.
    pub(crate) held: Option<&'a Arc<LineMemory>>,
}

/// The requirements of a direction's source and sink for its messages.
#[derive(Clone, Copy, Default)]
pub(crate) struct Passing {
    /// The framings differ, so every message must be JSON.
    converts: bool,
    /// The source is a session, which acknowledges received messages, so a message that cannot be passed
    /// on ends the direction.
    from_session: bool,
    /// The sink is this process's stdout: bytes that wait when its reader is gone, and messages that
    /// arrive later, are lost output. With other sinks, waiting bytes may only be unacknowledged.
    to_stdio: bool,
}

impl Passing {
    pub(crate) fn between(source: &Control, sink: &Control) -> Self {
        // An in-memory channel carries messages of any framing.
        let framing =
            |line: &Control| line.framing().filter(|_| line.kind() != TransportKind::MEMORY);
        let converts = matches!((framing(source), framing(sink)), (Some(a), Some(b)) if a != b);
        Self {
            converts,
            from_session: source.capabilities().is_session,
            to_stdio: sink.kind() == TransportKind::STDIO,
        }
    }
}

/// Why the direction ends because a message was not passed on.
pub(crate) enum NotPassed {
    /// The sink ended.
    Closed(SendError),
    /// The sink cannot carry the message, and the source has already acknowledged it.
    Refused(Box<Refused>),
}

impl From<SendError> for NotPassed {
    fn from(error: SendError) -> Self {
        Self::Closed(error)
    }
}

impl Watch<'_> {
    fn passed(&self, from: Side, message: &Message) {
        match (self.dialogue, self.awaited, from) {
            (Some(dialogue), _, _) => dialogue.passed(from, message),
            (None, Some(awaited), Side::Client) => awaited.asked(message),
            (None, Some(awaited), Side::Server) => awaited.answered(message),
            (None, None, _) => {}
        }
    }
}

/// A message that waits for room. Dropping this counts the message as lost unless it was passed on.
struct InHand<'a> {
    direction: &'a Direction<'a>,
    watch: Watch<'a>,
    /// The classified message, if it was classified.
    seen: Option<Message>,
    is_passed: bool,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if self.is_passed {
            return;
        }
        self.direction.lose(&"the other side has ended");
        if let (Side::Client, Some(message)) = (self.direction.from, &self.seen) {
            self.watch.passed(Side::Client, message);
        }
    }
}

/// Messages up to this length are not counted while they wait for room.
const SMALL: usize = 64 * 1024;

/// How long the source may take to end after the reader of stdout has gone, before its output is
/// considered cut off.
const CUT_OFF: Duration = Duration::from_secs(1);

/// The limits for a message that has to be JSON to be passed on.
const LIMITS: Limits = Limits { depth: 128, keys: 100_000 };

/// How many messages consume one unit of Tokio's cooperative budget, as one read does. A task yields after 128
/// units.
const MESSAGES: u8 = 32;

/// Makes a loop over messages yield. One read may yield tens of thousands of messages, and other futures
/// of the task, such as a deadline, must not wait for all of them.
#[derive(Default)]
pub(crate) struct Turn(u8);

impl Turn {
    pub(crate) async fn count(&mut self) {
        self.0 += 1;
        if self.0 == MESSAGES {
            self.0 = 0;
            coop::consume_budget().await;
        }
    }
}

/// One of the two directions of a line.
pub(crate) struct Direction<'a> {
    options: &'a Bridge,
    from: Side,
    pub(crate) passed: AtomicU64,
    pub(crate) lost: AtomicU64,
    warnings: WarnThrottle,
    /// All messages received so far are passed on and flushed.
    pub(crate) is_idle: AtomicBool,
    /// Why the source ended.
    end: OnceLock<CloseReason>,
    ended: Notify,
}

pub(crate) enum PumpEnd {
    /// The source ended.
    Source(CloseReason),
    /// The source failed.
    Broken(CloseReason),
    /// The sink accepts no more messages.
    Sink(CloseReason),
    /// The source was replaced by a new one.
    Reset(Box<Reset>),
}

impl<'a> Direction<'a> {
    pub(crate) fn new(options: &'a Bridge, from: Side) -> Self {
        let (line, name) = (options.line, from.name());
        let warnings = WarnThrottle::new(move |count| {
            tracing::warn!(line, count, "more messages from the {name} were lost");
        });
        Self {
            options,
            from,
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            warnings,
            is_idle: AtomicBool::new(false),
            end: OnceLock::new(),
            ended: Notify::new(),
        }
    }

    /// Returns why the source ended, if it ended with a [fault](is_fault).
    pub(crate) fn fault(&self) -> Option<&CloseReason> {
        self.end.get().filter(|reason| is_fault(reason))
    }

    /// Waits for a [fault](Self::fault). Earlier messages of the source may not be flushed yet. Only one task
    /// may wait.
    pub(crate) async fn faulted(&self) -> CloseReason {
        loop {
            if let Some(reason) = self.fault() {
                return reason.clone();
            }
            self.ended.notified().await;
        }
    }

    fn note_end(&self, reason: &CloseReason) {
        let _ = self.end.set(reason.clone());
        self.ended.notify_one();
    }

    /// Passes messages on until the source or the sink ends. When the source ends, all its messages have
    /// been passed on. Flushes when no further message is available, so that a batch is sent in one
    /// write.
    pub(crate) async fn pump(
        &self,
        source: &mut impl Receiver,
        sink: &mut impl Sender,
        watch: Watch<'_>,
        watch_sink: Option<&AtomicBool>,
    ) -> PumpEnd {
        let mut turn = Turn::default();
        let mut number = 0;
        let mut reader_gone: Option<Pin<Box<Sleep>>> = None;
        loop {
            turn.count().await;
            let next = poll_fn(|cx| {
                if let Poll::Ready(incoming) = source.poll_recv(cx) {
                    number += 1;
                    return Poll::Ready(Ok(incoming));
                }
                let flushed = sink.poll_flush(cx);
                self.is_idle.store(flushed.is_ready(), Relaxed);
                match flushed {
                    // The source reports a lost connection as a reset.
                    Poll::Ready(Ok(()) | Err(SendError::Lost(_))) | Poll::Pending => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                }
                let watches = watch_sink.is_some_and(|watch| watch.load(Relaxed));
                if watches && sink.poll_gone(cx).is_ready() {
                    let mut reason = CloseReason::ByPeer;
                    if watch.passing.to_stdio {
                        // Whether output is lost is only known when a write fails or the source ends.
                        // Bytes that the reader has taken may still be counted as waiting.
                        let cut_off = reader_gone.get_or_insert_with(|| Box::pin(sleep(CUT_OFF)));
                        ready!(cut_off.as_mut().poll(cx));
                        reason = std::io::Error::from(std::io::ErrorKind::BrokenPipe).into();
                    }
                    return Poll::Ready(Err(SendError::Closed(Box::new(reason))));
                }
                Poll::Pending
            });
            let passed = match next.await {
                Ok(Incoming::Message(message)) => self.pass(message, sink, watch).await,
                Ok(Incoming::End(reason)) => {
                    self.note_end(&reason);
                    if let CloseReason::Truncated(truncated) = &reason {
                        self.lose(truncated);
                    }
                    return match sink.flush().await {
                        Ok(()) | Err(SendError::Lost(_)) => PumpEnd::Source(reason),
                        Err(error) => PumpEnd::Sink(closed(error)),
                    };
                }
                Ok(Incoming::Fault(fault)) => {
                    self.lose(&fault);
                    match watch.dialogue {
                        Some(dialogue) => match dialogue.lost(self.from, &fault).await {
                            Some(instead) => self.hand_over(instead, sink, watch, None).await,
                            None => continue,
                        },
                        None => continue,
                    }
                }
                Ok(Incoming::Reset(reset)) => return PumpEnd::Reset(reset),
                Ok(_) => continue,
                Err(error) => Err(NotPassed::Closed(error)),
            };
            match passed {
                Ok(()) => {}
                Err(NotPassed::Closed(error)) => return PumpEnd::Sink(closed(error)),
                Err(NotPassed::Refused(refused)) => {
                    let Refused { message, error } = *refused;
                    let message = NotPassedOn { number, length: message.len(), error };
                    let reason = CloseReason::NotPassedOn(Arc::new(message));
                    self.note_end(&reason);
                    return PumpEnd::Source(reason);
                }
            }
        }
    }

    /// Passes one message on or counts it as lost, for example if the other side ends before there is
    /// room.
    pub(crate) async fn pass(
        &self,
        message: Bytes,
        sink: &mut impl Sender,
        watch: Watch<'_>,
    ) -> Result<(), NotPassed> {
        let message = json::without_byte_order_mark(message, LIMITS);
        if let Some(tap) = &self.options.tap {
            tap.record(self.options.line, self.from.name(), &message).await;
        }
        let not_json = |message: &Bytes| {
            let expected = watch.passing.converts.then_some(LIMITS);
            expected.and_then(|limits| Fault::unless_json(message, limits))
        };
        let Some(dialogue) = watch.dialogue else {
            if let Some(fault) = not_json(&message) {
                self.lose(&fault);
                return Ok(());
            }
            let seen = watch.awaited.map(|awaited| awaited.classify(&message));
            return self.hand_over(message, sink, watch, seen).await;
        };
        match dialogue.judge(self.from, &message) {
            Verdict::Pass(seen) => match not_json(&message) {
                None => self.hand_over(message, sink, watch, Some(seen)).await,
                Some(fault) => {
                    self.lose(&fault);
                    match dialogue.settle(self.from, &message, fault.to_string()).await {
                        Settled::Instead(instead) => {
                            self.hand_over(instead, sink, watch, None).await
                        }
                        Settled::Answered | Settled::Not => Ok(()),
                    }
                }
            },
            Verdict::Changed(changed, seen) => {
                self.hand_over(changed, sink, watch, Some(seen)).await
            }
            Verdict::Instead(instead, why) => {
                self.lose(&why);
                self.hand_over(instead, sink, watch, None).await
            }
            Verdict::Answer(answer, why) => {
                self.lose(&why);
                dialogue.send_own(self.from, answer).await;
                Ok(())
            }
            Verdict::Drop(why) => {
                self.lose(&why);
                Ok(())
            }
        }
    }

    async fn hand_over(
        &self,
        message: Bytes,
        sink: &mut impl Sender,
        watch: Watch<'_>,
        seen: Option<Message>,
    ) -> Result<(), NotPassed> {
        let mut in_hand = InHand { direction: self, watch, seen, is_passed: false };
        let mut in_memory = MemoryPart::default();
        let length = message.len();
        poll_fn(|cx| {
            let polled = sink.poll_ready(cx);
            if polled.is_pending() && length > SMALL && in_memory.is_empty() {
                in_memory = MemoryPart::of(watch.held);
                in_memory.set(length);
            }
            polled
        })
        .await?;
        drop(in_memory);
        // Record the message only now that the sink has room, because the far side may have been
        // replaced during the wait.
        in_hand.is_passed = true;
        let note = |seen: Option<Message>| {
            if let Some(seen) = seen {
                watch.passed(self.from, &seen);
            }
        };
        match sink.pass_on(message) {
            Ok(()) => {
                note(in_hand.seen.take());
                self.passed.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(SendError::Message(refused)) => {
                self.lose(&refused.error);
                let settled = match watch.dialogue {
                    Some(dialogue) => {
                        let why = refused.error.to_string();
                        dialogue.settle(self.from, &refused.message, why).await
                    }
                    None => Settled::Not,
                };
                match settled {
                    Settled::Answered => Ok(()),
                    Settled::Instead(instead) => {
                        poll_fn(|cx| sink.poll_ready(cx)).await?;
                        let _ = sink.pass_on(instead);
                        Ok(())
                    }
                    Settled::Not if watch.passing.from_session => Err(NotPassed::Refused(refused)),
                    Settled::Not => Ok(()),
                }
            }
            Err(error) => {
                note(in_hand.seen.take());
                self.lose(&error);
                Err(NotPassed::Closed(error))
            }
        }
    }

    /// Counts a lost message, and warns at most once per minute.
    pub(crate) fn lose(&self, why: &dyn fmt::Display) {
        self.lose_many(1, why);
    }

    pub(crate) fn lose_many(&self, count: u64, why: &dyn fmt::Display) {
        if count == 0 {
            return;
        }
        let (line, from) = (self.options.line, self.from.name());
        self.lost.fetch_add(count, Relaxed);
        if let Some(unreported) = self.warnings.admit_many(count, Instant::now()) {
            tracing::warn!(line, count, unreported, "a message from the {from} was lost: {why}");
        } else {
            tracing::debug!(line, count, "a message from the {from} was lost: {why}");
        }
    }
}

fn closed(error: SendError) -> CloseReason {
    match error {
        SendError::Closed(reason) => *reason,
        // Flushing and closing never refuse a single message.
        _ => CloseReason::ByUs,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]

    use std::task::Context;

    use tieline_transport::Outgoing;

    use super::*;

    /// A source that sends these items, one per 100 ms, and then nothing.
    struct Later(Vec<Incoming>, Pin<Box<Sleep>>);

    impl Later {
        fn new(mut incoming: Vec<Incoming>) -> Self {
            incoming.reverse();
            Self(incoming, Box::pin(sleep(PAUSE)))
        }
    }

    const PAUSE: Duration = Duration::from_millis(100);

    impl Receiver for Later {
        fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
            ready!(self.1.as_mut().poll(cx));
            self.1 = Box::pin(sleep(PAUSE));
            self.0.pop().map_or(Poll::Pending, Poll::Ready)
        }
    }

    /// A sink whose reader is gone. It counts bytes as waiting, and writing a message fails.
    struct Gone {
        waiting: u64,
        writes: bool,
    }

    impl Sender for Gone {
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            Poll::Ready(Ok(()))
        }

        fn start_send(&mut self, _: Bytes) -> Result<(), SendError> {
            self.writes = true;
            Ok(())
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            if self.writes {
                let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                return Poll::Ready(Err(SendError::Closed(Box::new(broken.into()))));
            }
            match self.waiting {
                0 => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        }

        fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            Poll::Pending
        }

        fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn outgoing(&self) -> Outgoing {
            Outgoing::new(0, self.waiting)
        }
    }

    /// Returns how a direction whose sink is gone ends.
    async fn end_of(incoming: Vec<Incoming>, to_stdio: bool, waiting: u64) -> PumpEnd {
        let options = Bridge::default();
        let is_watched = AtomicBool::new(true);
        let passing = Passing { to_stdio, ..Passing::default() };
        let watch = Watch { passing, ..Watch::default() };
        let direction = Direction::new(&options, Side::Server);
        let (mut source, mut sink) = (Later::new(incoming), Gone { waiting, writes: false });
        let end = direction.pump(&mut source, &mut sink, watch, Some(&is_watched));
        tokio::time::timeout(Duration::from_secs(60), end).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_waits_when_the_reader_of_stdout_goes_is_an_error() {
        // Even without waiting bytes, the source may still send more, because it has not ended.
        for (to_stdio, waiting, is_clean) in [(true, 0, false), (true, 1, false), (false, 1, true)]
        {
            let end = end_of(Vec::new(), to_stdio, waiting).await;
            let PumpEnd::Sink(reason) = end else { panic!("the sink has not ended") };
            assert_eq!(reason.is_clean(), is_clean, "{to_stdio} {waiting}: {reason}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_arrives_after_the_reader_of_stdout_has_gone_is_an_error() {
        let message = || Incoming::Message(Bytes::from_static(b"{}"));
        let end = || Incoming::End(CloseReason::ByPeer);
        let cut = end_of(vec![message(), end()], true, 0).await;
        assert!(matches!(cut, PumpEnd::Sink(CloseReason::Io(_))));
        // Nothing was lost if nothing more arrives.
        let whole = end_of(vec![end()], true, 0).await;
        assert!(matches!(whole, PumpEnd::Source(CloseReason::ByPeer)));
    }
}
