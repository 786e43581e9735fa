//! The end of a line: the near side is closed once the far side has ended.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tieline_transport::{
    Capabilities, CloseReason, Control, Receiver, SendError, Sender, SenderExt,
};
use tokio::time::{Instant, timeout_at};

use super::{BridgedLine, Joined};
use crate::ending::{arrived, is_fault, waiting};
use crate::gateway_messages::WithGatewayMessages;
use crate::outbox::Outbox;
use crate::patience::{self, Patience};
use crate::pump::Watch;
use crate::unanswered::MAX_CALLS;
use crate::{BridgeEnd, BridgeReport};

impl BridgedLine<'_> {
    /// Closes the near side. It may have disconnected already, and a near side that does not read must not
    /// delay the end.
    pub(crate) async fn end(
        self,
        (mut near, mut receiver): (WithGatewayMessages<Outbox>, Box<dyn Receiver>),
        control: &Control,
        joined: Joined,
    ) -> BridgeReport {
        let Joined { end, out_of_grace, patience } = joined;
        let near_reads = !out_of_grace
            && self.answer_what_is_left(&end, &mut near, &mut receiver, patience).await;
        let Capabilities { half_close, is_session, .. } = control.capabilities();
        if let (BridgeEnd::Far(_) | BridgeEnd::Stopped(_), false) = (&end, half_close) {
            // Without half-close, the close can report unread bytes to the near side, so count them
            // first.
            let unread = if is_session { receiver.unread() } else { waiting(&mut receiver) };
            self.unread.fetch_add(unread, Relaxed);
        }
        let unread = self.unread.load(Relaxed);
        let leaves_unread = unread > 0
            && match &end {
                BridgeEnd::Far(far) => far.is_clean(),
                BridgeEnd::Stopped(_) => true,
                BridgeEnd::Near { .. } => false,
            };
        self.report_at_close(control, &end, leaves_unread.then_some(unread));
        let patience = if near_reads { patience } else { Patience::until(Instant::now()) };
        // A session whose client has failed does not wait for it. If it is dropped, it reports the reason at once.
        let leaves_unclosed =
            is_session && matches!(&end, BridgeEnd::Near { near, .. } if reports_reason(near));
        let leave =
            |near: &mut WithGatewayMessages<Outbox>, cx: &mut Context<'_>| match leaves_unclosed {
                true => near.poll_flush(cx),
                false => near.poll_close(cx),
            };
        let closed = patience.wait(&mut near, leave).await;
        let is_live_session = control.info().session.is_some();
        if is_live_session {
            if !leaves_unclosed && leaves_failure(&end, leaves_unread) {
                wait_for_acknowledgement(&mut near, control, patience).await;
            }
        } else {
            let is_closed = matches!(closed, Some(Ok(())));
            let near = (&mut near, &mut receiver);
            self.wait_for_near_end(&end, is_closed, near, patience, half_close).await;
        }
        let end = match (end, closed) {
            // The client ended its session before it had received everything from the far side.
            (BridgeEnd::Far(far), Some(Err(SendError::Closed(reason))))
                if matches!(*reason, CloseReason::SessionLost(_)) =>
            {
                BridgeEnd::Near { near: *reason, far }
            }
            (end, _) => end,
        };
        let (undelivered, unwritten) = (near.sender.lost(), near.unwritten() as u64);
        BridgeReport {
            to_far: self.to_far.passed.load(Relaxed),
            to_near: self.to_near.passed.load(Relaxed).saturating_sub(undelivered),
            lost: self.to_far.lost.load(Relaxed) + self.to_near.lost.load(Relaxed) + undelivered,
            unread: self.unread.load(Relaxed),
            written: near.outgoing().left,
            unwritten,
            restarted: self.restarted.load(Relaxed),
            near_was_done: self.near_was_done.load(Relaxed),
            end,
        }
    }

    /// Answers the requests that the near side has sent, until it sends no more. Returns whether it reads.
    async fn answer_what_is_left(
        &self,
        end: &BridgeEnd,
        near: &mut WithGatewayMessages<Outbox>,
        receiver: &mut Box<dyn Receiver>,
        patience: Patience,
    ) -> bool {
        let reason = match end {
            BridgeEnd::Far(reason) | BridgeEnd::Stopped(reason) => reason,
            // A near side that was too slow would not read more now.
            BridgeEnd::Near { near, .. } => return !matches!(near, CloseReason::Overrun),
        };
        let mut most = MAX_CALLS;
        loop {
            // The near side sends until it notices the end, so the number is bounded.
            let drained = self.drain(receiver, most);
            most -= drained;
            if !self.answer(reason, near, patience).await {
                return false;
            }
            if drained == 0 {
                return true;
            }
        }
    }

    /// Sets the reason that the near side gets when its line is closed, and the dialect's message about it.
    fn report_at_close(&self, control: &Control, end: &BridgeEnd, unread: Option<u64>) {
        match (end, unread) {
            (_, Some(unread)) => control.report_at_close(CloseReason::InputUnread(unread)),
            (BridgeEnd::Far(reason), None) => control.report_at_close(reason.clone()),
            (BridgeEnd::Stopped(_), None) => control.report_at_close(CloseReason::ByUs),
            (BridgeEnd::Near { near, .. }, None) if reports_reason(near) => {
                control.report_at_close(near.clone());
            }
            (BridgeEnd::Near { .. }, None) => {}
        }
        if let (BridgeEnd::Near { near: CloseReason::Protocol(error), .. }, Some(dialogue)) =
            (end, &self.dialogue)
        {
            // A client of another protocol would not understand a JSON-RPC error.
            if !control.is_refused() {
                dialogue.client_broke_framing(error);
            }
        }
    }

    /// Waits until the near side has ended its direction, if it was closed, and counts the messages that it has
    /// sent and that the far side will not receive.
    async fn wait_for_near_end(
        &self,
        end: &BridgeEnd,
        is_closed: bool,
        (near, receiver): (&mut WithGatewayMessages<Outbox>, &mut Box<dyn Receiver>),
        patience: Patience,
        half_close: bool,
    ) {
        let discarded = AtomicU64::new(0);
        match end {
            _ if !is_closed => {}
            // A stream that can no longer be split into messages is not read any further.
            BridgeEnd::Near { near: reason, .. } if is_fault(reason) && half_close => {
                patience.wait_for_client_end(near, std::future::pending(), half_close).await;
            }
            BridgeEnd::Near { near: reason, .. } if !is_fault(reason) => {}
            _ => {
                let discard = patience::discard(receiver, &discarded);
                patience.wait_for_client_end(near, discard, half_close).await;
            }
        }
        if let BridgeEnd::Far(_) | BridgeEnd::Stopped(_) = end {
            let unread = discarded.load(Relaxed).saturating_add(receiver.unread());
            self.unread.fetch_add(unread, Relaxed);
        }
    }

    /// Sends error responses to the requests that the far side left unanswered. Returns false if the near side
    /// does not read them in time.
    pub(super) async fn answer(
        &self,
        reason: &CloseReason,
        near: &mut impl Sender,
        patience: Patience,
    ) -> bool {
        let Some(unanswered) = self.unanswered() else { return true };
        let mut answers = unanswered.answers(reason);
        let mut taken = false;
        // Earlier messages may be long, so they get time of their own.
        let before = patience.wait(near, |near, cx| near.poll_flush(cx)).await;
        let deadline = before.map_or_else(Instant::now, |_| patience.deadline());
        let answered = async {
            for answer in &mut answers {
                if self.to_near.pass(answer.into(), near, Watch::default()).await.is_err() {
                    return;
                }
            }
            taken = near.flush().await.is_ok();
        };
        let _ = timeout_at(deadline, answered).await;
        let unsent = answers.len();
        if unsent > 0 {
            self.to_near.lose_many(unsent as u64, &"the client did not read it in time");
        }
        taken
    }

    /// Receives messages that the far side can no longer read, counts them as lost, and records their requests
    /// so that they are answered. Returns the number of messages, at most `most`.
    fn drain(&self, near: &mut impl Receiver, most: usize) -> usize {
        let Some(dialogue) = self.dialogue.as_ref().filter(|it| it.unanswered().is_some()) else {
            return 0;
        };
        let mut drained = 0;
        for incoming in arrived(near, most) {
            if dialogue.undelivered(&incoming) {
                self.to_far.lose(&"the other side has ended");
            }
            drained += 1;
        }
        drained
    }
}

/// Waits until a connected client has acknowledged everything, after which it can be told at once why its session
/// has failed. A session delivers its last messages, and the reason, by itself to a client that is slow or away.
async fn wait_for_acknowledgement(
    near: &mut WithGatewayMessages<Outbox>,
    control: &Control,
    patience: Patience,
) {
    if control.capabilities().acknowledges_late {
        return;
    }
    let is_connected = || control.info().session.is_some_and(|session| session.is_connected);
    let acknowledged =
        |near: &mut WithGatewayMessages<Outbox>, cx: &mut Context<'_>| match is_connected() {
            true => near.poll_acknowledged(cx),
            false => Poll::Ready(()),
        };
    patience.wait(near, acknowledged).await;
}

/// Returns whether the near side is told about a failure when its line ends.
fn leaves_failure(end: &BridgeEnd, leaves_unread: bool) -> bool {
    leaves_unread || matches!(end, BridgeEnd::Far(far) if !far.is_clean())
}

/// Returns whether the near side can get this reason although it ended the line.
fn reports_reason(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Overrun) || is_fault(reason)
}
