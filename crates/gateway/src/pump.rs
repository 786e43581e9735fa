//! One of the two ways of a line: what is there is passed on in batches, and counted.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;

use bytes::Bytes;
use tieline_transport::{CloseReason, Incoming, Receiver, SendError, Sender, SenderExt};

use crate::Bridge;
use crate::unanswered::Unanswered;

/// Who speaks.
#[derive(Clone, Copy)]
pub(crate) enum Side {
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

/// A message that is neither passed on nor lost yet.
struct InHand<'a>(&'a Direction<'a>);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.lose(&"the other side has ended");
    }
}

/// One of the two ways.
pub(crate) struct Direction<'a> {
    options: &'a Bridge,
    from: Side,
    pub(crate) passed: AtomicU64,
    pub(crate) lost: AtomicU64,
    /// All that was there to be taken is handed over.
    pub(crate) is_idle: AtomicBool,
}

pub(crate) enum PumpEnd {
    /// No more will come.
    Source(CloseReason),
    /// No more can be handed over.
    Sink(CloseReason),
}

impl<'a> Direction<'a> {
    pub(crate) fn new(options: &'a Bridge, from: Side) -> Self {
        Self {
            options,
            from,
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
        }
    }

    /// Passes messages on until one end is reached; all that was taken was then handed over, or
    /// the sink has ended. The flush comes when nothing more is there to be taken, so that a batch
    /// leaves in one write.
    pub(crate) async fn pump(
        &self,
        source: &mut impl Receiver,
        sink: &mut impl Sender,
        unanswered: Option<&Unanswered>,
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
                Ok(Incoming::Message(message)) => self.pass(message, sink, unanswered).await,
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

    /// Passes one message on, or counts it as lost: also when the other side ends before it has room
    /// for it.
    pub(crate) async fn pass(
        &self,
        message: Bytes,
        sink: &mut impl Sender,
        unanswered: Option<&Unanswered>,
    ) -> Result<(), SendError> {
        let in_hand = InHand(self);
        if let Some(tap) = &self.options.tap {
            tap.record(self.options.line, self.from.name(), &message).await;
        }
        match (unanswered, self.from) {
            (Some(unanswered), Side::Client) => unanswered.asked(&message),
            (Some(unanswered), Side::Server) => unanswered.answered(&message),
            (None, _) => {}
        }
        let passed = sink.feed(message).await;
        std::mem::forget(in_hand);
        match passed {
            Ok(()) => drop(self.passed.fetch_add(1, Relaxed)),
            Err(SendError::Message(refused)) => self.lose(&refused.error),
            Err(error) => {
                self.lose(&error);
                return Err(error);
            }
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
