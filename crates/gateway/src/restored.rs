//! The receiver from the far side, which intercepts responses while a recorded handshake is replayed to a new
//! program.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tieline_transport::{CloseReason, Incoming, NotRestored, Receiver, Reset, from_now};
use tokio::time::Sleep;

use crate::dialogue::Dialogue;

/// How long a new program may take to answer the opening request of its handshake.
pub(crate) const OPENING: Duration = Duration::from_secs(60);

/// How many messages are swallowed in one poll before the task yields.
const SWALLOWED: u32 = 64;

/// A receiver that restores the state of a restarted program, if the dialect is known.
pub(crate) struct Restored {
    receiver: Box<dyn Receiver>,
    dialogue: Option<Arc<Dialogue>>,
    /// When the wait for the answer to the handshake times out.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Why the previous program was lost.
    cause: CloseReason,
    end: Option<CloseReason>,
}

impl Restored {
    pub(crate) fn new(receiver: Box<dyn Receiver>, dialogue: Option<Arc<Dialogue>>) -> Self {
        Self { receiver, dialogue, deadline: None, cause: CloseReason::ByUs, end: None }
    }

    fn begin(&mut self, reset: &Reset) {
        let Some(dialogue) = &self.dialogue else { return };
        self.cause = reset.cause.clone();
        let is_session = matches!(reset.cause, CloseReason::SessionLost(_));
        let begun = dialogue.restarted(is_session);
        self.deadline =
            dialogue.is_opening().then(|| Box::pin(tokio::time::sleep_until(from_now(OPENING))));
        if let Err(problem) = begun {
            self.fail(problem);
        }
    }

    fn fail(&mut self, problem: String) {
        tracing::warn!("cannot restore the state of the restarted program: {problem}");
        let reason = NotRestored { cause: self.cause.clone(), problem };
        self.end = Some(CloseReason::NotRestored(Arc::new(reason)));
    }
}

impl Receiver for Restored {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        for _ in 0..SWALLOWED {
            let Some(dialogue) = &self.dialogue else { return self.receiver.poll_recv(cx) };
            if let Some(reason) = &self.end {
                return Poll::Ready(Incoming::End(reason.clone()));
            }
            match self.receiver.poll_recv(cx) {
                Poll::Ready(Incoming::Message(message)) => {
                    match dialogue.handle_during_replay(&message) {
                        Ok(true) => return Poll::Ready(Incoming::Message(message)),
                        Ok(false) => {}
                        Err(problem) => self.fail(problem),
                    }
                }
                Poll::Ready(Incoming::Reset(reset)) => {
                    self.begin(&reset);
                    return Poll::Ready(Incoming::Reset(reset));
                }
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => {
                    let Some(deadline) = &mut self.deadline else { return Poll::Pending };
                    if dialogue.is_opening() {
                        ready!(deadline.as_mut().poll(cx));
                        let limit = humantime::format_duration(OPENING);
                        self.fail(format!("it did not answer the handshake within {limit}"));
                    } else {
                        self.deadline = None;
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn holds_part(&self) -> bool {
        self.receiver.holds_part()
    }
}
