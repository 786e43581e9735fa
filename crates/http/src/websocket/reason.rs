//! Converts close reasons to close frames and back. A close frame contains nothing that the other side
//! must not know.

use std::sync::Arc;

use tieline_proto::FrameError;
use tieline_proto::websocket::{Close, CloseCode};
use tieline_transport::{CloseReason, PeerReason};

/// Returns the close frame that states why this side closes.
pub(crate) fn close_for(reason: Option<&CloseReason>) -> Close {
    let Some(reason) = reason else { return Close::new(CloseCode::NORMAL) };
    let code = match reason {
        // This side was stopped before its work was done.
        CloseReason::ByUs => return super::going_away(),
        reason if reason.is_clean() => return Close::new(CloseCode::NORMAL),
        CloseReason::Protocol(FrameError::WebSocket(violation)) => violation.close_code(),
        CloseReason::Protocol(FrameError::Oversize { .. }) => CloseCode::TOO_BIG,
        CloseReason::Overrun
        | CloseReason::TurnedAway(_)
        | CloseReason::Stalled
        | CloseReason::NoMemory(_)
        | CloseReason::Unreachable(_) => CloseCode::TRY_AGAIN,
        CloseReason::TimedOut | CloseReason::Protocol(FrameError::FirstNotJson) => {
            CloseCode::POLICY
        }
        _ => CloseCode::INTERNAL,
    };
    let text = match reason {
        CloseReason::InputUnread(bytes) => {
            let were = if *bytes == 1 { "byte sent was" } else { "bytes sent were" };
            format!("the last {bytes} {were} not read before the program ended")
        }
        reason => reason.public_text().into_owned(),
    };
    Close::because(code, text)
}

/// Returns the close reason for a close frame from the other side.
pub(crate) fn reason_of(close: Option<Close>) -> CloseReason {
    match close {
        Some(close) if close.code != CloseCode::NORMAL => {
            let Close { code, text } = close;
            let given = PeerReason::new(code.get(), code.meaning(), text);
            let is_clean = code == CloseCode::GOING_AWAY;
            CloseReason::ByPeerBecause(Arc::new(given.with_clean(is_clean)))
        }
        _ => CloseReason::ByPeer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_proto::ByteSize;
    use tieline_proto::websocket::Violation;

    #[test]
    fn each_reason_has_its_close_code() {
        let oversize = FrameError::Oversize { length: 9, limit: ByteSize::new(8) };
        let unsupported = FrameError::WebSocket(Violation::Unsupported);
        let flood = FrameError::WebSocket(Violation::TooManyFrames);
        for (reason, code) in [
            (None, 1000),
            (Some(CloseReason::ByUs), 1001),
            (Some(CloseReason::ByPeer), 1000),
            (Some(CloseReason::Protocol(FrameError::WebSocket(Violation::Masking))), 1002),
            (Some(CloseReason::Protocol(unsupported)), 1003),
            (Some(CloseReason::Protocol(FrameError::WebSocket(Violation::NotUtf8))), 1007),
            (Some(CloseReason::Protocol(flood)), 1008),
            (Some(CloseReason::Protocol(FrameError::FirstNotJson)), 1008),
            (Some(CloseReason::Protocol(oversize)), 1009),
            (Some(CloseReason::StdoutClosed), 1011),
            (Some(std::io::Error::other("disk").into()), 1011),
            (Some(CloseReason::Overrun), 1013),
            (Some(CloseReason::TurnedAway("too many clients".into())), 1013),
        ] {
            let close = close_for(reason.as_ref());
            assert_eq!(close.code.get(), code, "{reason:?}");
            assert!(!close.text.contains("disk"));
        }
    }

    #[test]
    fn only_normal_and_going_away_are_clean() {
        let of = |code| CloseCode::new(code).map(Close::new);
        for (close, is_clean) in [
            (None, true),
            (of(1000), true),
            (of(1001), true),
            (of(1002), false),
            (of(1008), false),
            (of(1009), false),
            (of(1011), false),
            (of(1013), false),
            (of(4000), false),
        ] {
            assert_eq!(reason_of(close.clone()).is_clean(), is_clean, "{close:?}");
        }
    }
}
