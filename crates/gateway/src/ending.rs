//! What the ways in which a line can end have in common.

use std::pin::pin;
use std::time::Duration;

use tieline_proto::FrameError;
use tieline_proto::jsonrpc::{Dialect, PARSE_ERROR, write_error};
use tieline_transport::{CloseReason, Control, Sender, SenderExt};

/// The near side did not merely come to the end of its input.
pub(crate) fn is_failure(reason: &CloseReason) -> bool {
    use CloseReason::{
        ByPeerBecause, GivenUp, Io, NoMemory, NotPassedOn, Protocol, SessionLost, Stalled,
        TimedOut, Unreachable,
    };

    // Of a WebSocket: a page that was left hears no more, either.
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

/// Whether the near side has sent what ends its line, and still reads: what it had sent before that is answered
/// first.
pub(crate) fn is_fault(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::Protocol(_) | CloseReason::NoMemory(_) | CloseReason::NotPassedOn(_)
    )
}

/// Why the far side ended: a program that closes its stdout first has an exit status only later.
pub(crate) fn with_exit(reason: CloseReason, stopped: CloseReason) -> CloseReason {
    use CloseReason::{ByUs, ChildExited, StdoutClosed, Unterminated};

    match (&reason, &stopped) {
        (ByUs | StdoutClosed | Unterminated, ChildExited(_)) => stopped,
        _ => reason,
    }
}

/// One side has `Content-Length` headers, and the other sends lines.
pub(crate) fn is_other_framing(error: &FrameError) -> bool {
    matches!(error, FrameError::UnexpectedContentLength | FrameError::UnexpectedLines)
}

/// Tells a client that speaks another framing so, behind a `Content-Length` header: of the two framings, one
/// is the client's or the listener's.
pub(crate) async fn explain(error: &FrameError, client: &mut impl Sender) {
    if is_other_framing(error) {
        // With such headers, JSON-RPC is spoken.
        let text = format!("this listener cannot serve the client: {error}");
        let answer = write_error(&Dialect::STRICT, b"null", PARSE_ERROR, &text, None);
        let _ = client.send(answer).await;
    }
}

/// Ends the far side's input, and then what is behind it. The end of input goes out first, but a
/// child that does not read must not hold up its own end; where nothing is behind the far side to be
/// ended, its input still has to end.
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
