//! Helpers for the end of a line.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tieline_transport::{CloseReason, Control, Incoming, Receiver, Sender, SenderExt};

use crate::patience::discard;
use crate::unanswered::MAX_CALLS;

/// The target of log lines about programs that fail.
pub const PROGRAM_FAILURES: &str = "tieline_gateway::programs";

/// Returns whether the near side failed, rather than only ending its input.
pub(crate) fn is_failure(reason: &CloseReason) -> bool {
    use CloseReason::{
        ByPeerBecause, GivenUp, Io, NoMemory, NotPassedOn, Protocol, SessionLost, Stalled,
        TimedOut, Unreachable,
    };

    // `ByPeerBecause` is a WebSocket's close code: a page that has been left does not receive anything
    // either.
    matches!(
        reason,
        Io(_)
            | Protocol(_)
            | Stalled
            | NoMemory(_)
            | TimedOut
            | ByPeerBecause(_)
            | SessionLost(_)
            | GivenUp(_)
            | NotPassedOn(_)
            | Unreachable(_)
    )
}

/// Returns whether the near side's input ended with a fault while it can still receive. Its earlier
/// requests are answered before the line ends.
pub(crate) fn is_fault(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::Protocol(_) | CloseReason::NoMemory(_) | CloseReason::NotPassedOn(_)
    )
}

/// Returns why the far side ended. If a program closes its stdout first, its exit status is only known after
/// it was stopped.
fn with_exit(reason: CloseReason, stopped: CloseReason) -> CloseReason {
    use CloseReason::{ByUs, ChildExited, StdoutClosed, Unterminated};

    match (&reason, &stopped) {
        (ByUs | StdoutClosed | Unterminated, ChildExited(_)) => stopped,
        _ => reason,
    }
}

/// Ends the far side's input and stops its program. The end of input is sent first, but a child process that
/// does not read cannot delay being stopped. If there is no child process, waits up to `grace` for the end
/// of input to be sent.
pub(crate) async fn stop_far(
    far: &mut impl Sender,
    control: &Control,
    grace: Duration,
) -> CloseReason {
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

/// Stops a far side as [`stop_far`] does, and discards its remaining output, so that it does not block on it.
pub(crate) async fn stop_discarding(
    far: &mut impl Sender,
    receiver: &mut impl Receiver,
    control: &Control,
    grace: Duration,
) -> CloseReason {
    let discarded = AtomicU64::new(0);
    let output = async {
        discard(receiver, &discarded).await;
        std::future::pending::<CloseReason>().await
    };
    tokio::select! {
        reason = stop_far(far, control, grace) => reason,
        never = output => never,
    }
}

/// Ends a far side that has ended its output for `reason`, and returns why it ended.
pub(crate) async fn end_far(
    reason: CloseReason,
    far: &mut impl Sender,
    control: &Control,
    grace: Duration,
) -> CloseReason {
    let reason = acknowledged(reason, far, control, grace).await;
    let stopped = stop_far(far, control, grace).await;
    with_exit(reason, stopped)
}

/// Waits until the session of a far side that has ended cleanly has acknowledged all messages, for at
/// most `grace`. Messages may have arrived after its program ended. Returns why the far side ended: if
/// it has ended its session without acknowledging all messages, the reason says how many it has
/// acknowledged.
async fn acknowledged(
    reason: CloseReason,
    far: &mut impl Sender,
    control: &Control,
    grace: Duration,
) -> CloseReason {
    if !control.capabilities().is_session || !reason.is_clean() {
        return reason;
    }
    let acknowledged = async {
        // A session ends only when both sides have ended their input.
        let _ = far.close().await;
        poll_fn(|cx| far.poll_acknowledged(cx)).await;
    };
    let _ = tokio::time::timeout(grace, acknowledged).await;
    match control.close_reason() {
        Some(CloseReason::SessionLost(lost))
            if lost.delivered.acknowledged < lost.delivered.sent =>
        {
            CloseReason::SessionLost(lost)
        }
        _ => reason,
    }
}

/// Keeps the line of a closed sender alive, because web senders send pings only while they are polled.
/// Closing again is harmless. A flush would fail, and a link would then end the program.
pub(crate) async fn keep_alive(closed: &mut Option<&mut impl Sender>) -> Infallible {
    poll_fn(|cx| {
        if let Some(sender) = closed {
            let _ = sender.poll_close(cx);
        }
        Poll::Pending
    })
    .await
}

/// Receives the messages and faults that have already arrived, at most `most`.
pub(crate) fn arrived(receiver: &mut impl Receiver, most: usize) -> impl Iterator<Item = Incoming> {
    let poll = move || match receiver.poll_recv(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Incoming::End(_)) | Poll::Pending => None,
        Poll::Ready(incoming) => Some(incoming),
    };
    std::iter::from_fn(poll).take(most)
}

/// Receives the messages that have already arrived, at most [`MAX_CALLS`]. Returns their size in bytes.
pub(crate) fn waiting(receiver: &mut impl Receiver) -> u64 {
    let size = |incoming| match incoming {
        Incoming::Message(message) => message.len() as u64,
        _ => 0,
    };
    arrived(receiver, MAX_CALLS).map(size).sum()
}
