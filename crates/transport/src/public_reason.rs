//! What a client may know about why its line ends.

use std::borrow::Cow;

use tieline_proto::Count;

use crate::close::{ChildExit, CloseReason, LostBy};
use crate::endpoint::Address;
use crate::error::TransportError;

impl CloseReason {
    /// Returns this reason as text for the other side of a line that ends because of it. It contains neither
    /// paths nor the output of programs, but texts that were received from the far side of a gateway. It is empty
    /// if the reason is [clean](Self::is_clean), and only then.
    pub fn public_text(&self) -> Cow<'static, str> {
        if self.is_clean() {
            return Cow::Borrowed("");
        }
        if let Self::Unresponsive(unresponsive) = self {
            let pings = Count(unresponsive.pings, "ping");
            return Cow::Owned(format!("the program did not answer {pings}"));
        }
        if let Some(exit) = self.child_exit().filter(|exit| !exit.is_clean()) {
            return Cow::Owned(exit.failure());
        }
        Cow::Borrowed(match self {
            Self::Protocol(error) => return Cow::Owned(error.to_string()),
            Self::NotPassedOn(_)
            | Self::InputUnread(_)
            | Self::StdoutClosed
            | Self::StdinClosed => return Cow::Owned(self.to_string()),
            Self::TurnedAway(why) => return Cow::Owned(why.to_string()),
            Self::Overrun => "messages arrived faster than they were handled",
            Self::Stalled => "messages were not read in time",
            Self::TimedOut => "timed out",
            Self::NoMemory(_) => "too little memory is available; try again later",
            Self::Unreachable(error) if starts_program(error) => "the program cannot be started",
            Self::Unreachable(_) => "the upstream endpoint cannot be reached",
            Self::Truncated(_) => "the far side ended in the middle of a message",
            Self::ByPeerBecause(given) => {
                return Cow::Owned(format!("the far side closed the line with {given}"));
            }
            Self::SessionLost(lost) => match &lost.cause {
                LostBy::Farewell(text) if !text.is_empty() => {
                    let text = text.escape_debug();
                    return Cow::Owned(format!("the far side ended its session: {text}"));
                }
                LostBy::Line(reason) if !reason.is_clean() => return reason.public_text(),
                _ => "the session with the far side was lost",
            },
            Self::NotRestored(_) => {
                "the program was restarted, and its state could not be restored"
            }
            Self::GivenUp(given_up) if !given_up.last.is_clean() => {
                return given_up.last.public_text();
            }
            _ => "the far side has failed",
        })
    }
}

impl ChildExit {
    /// Returns how the program failed, without its output: `the program has failed with exit status 3`. Meant for
    /// an exit that is not [clean](Self::is_clean).
    pub fn failure(&self) -> String {
        match &self.truncated {
            Some(_) if self.status.success() => {
                "the program has failed: it exited in the middle of a message".into()
            }
            _ => format!("the program has failed with {}", self.status_words()),
        }
    }
}

/// Returns whether the error is that of a program that was to be started.
fn starts_program(error: &TransportError) -> bool {
    error.endpoint().is_some_and(|endpoint| matches!(endpoint.address(), Address::Exec(_)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use tieline_proto::Truncated;
    use tieline_proto::session::Delivered;

    use super::*;
    use crate::close::{GivenUp, SessionLost};
    use crate::error::{ErrorKind, Operation};
    use crate::peer_reason::PeerReason;

    fn exit(code: u32) -> ChildExit {
        #[cfg(unix)]
        use std::os::unix::process::ExitStatusExt;
        #[cfg(windows)]
        use std::os::windows::process::ExitStatusExt;
        ChildExit {
            #[cfg(unix)]
            status: std::process::ExitStatus::from_raw((code as i32) << 8),
            #[cfg(windows)]
            status: std::process::ExitStatus::from_raw(code),
            stderr_tail: "a secret path".into(),
            unterminated: false,
            truncated: None,
            unread: None,
            guardian_lost: false,
        }
    }

    fn lost(cause: LostBy) -> CloseReason {
        let delivered = Delivered { acknowledged: 1, sent: 2 };
        CloseReason::SessionLost(Arc::new(SessionLost { delivered, epoch: 1, cause }))
    }

    #[test]
    fn only_a_clean_reason_has_no_text() {
        let closed = |endpoint: &str| {
            let kind = ErrorKind::Closed(CloseReason::ByUs);
            let error = TransportError::new(kind, Operation::Connect);
            CloseReason::Unreachable(error.at(&endpoint.parse().unwrap()))
        };
        let given = |is_clean| {
            let given = PeerReason::new(1011, Some("internal error"), "a\nb");
            CloseReason::ByPeerBecause(Arc::new(given.with_clean(is_clean)))
        };
        let failed = |code| CloseReason::ChildExited(exit(code).into());
        for (reason, text) in [
            (CloseReason::ByUs, ""),
            (CloseReason::ByPeer, ""),
            (CloseReason::Unterminated, ""),
            (failed(0), ""),
            (given(true), ""),
            (given(false), "the far side closed the line with 1011 (internal error): a\\nb"),
            (closed("exec:agent"), "the program cannot be started"),
            (closed("tcp:127.0.0.1:1"), "the upstream endpoint cannot be reached"),
            (lost(LostBy::Farewell("why\n".into())), "the far side ended its session: why\\n"),
            (lost(LostBy::Farewell(String::new())), "the session with the far side was lost"),
            (lost(LostBy::Line(CloseReason::Stalled)), "messages were not read in time"),
            (std::io::Error::other("disk").into(), "the far side has failed"),
        ] {
            assert_eq!(reason.public_text(), text, "{reason:?}");
        }
    }

    #[test]
    fn failed_program_is_reported_with_its_status_and_without_its_output() {
        let failed = CloseReason::ChildExited(exit(3).into());
        let given_up = GivenUp { restarts: 5, last: failed.clone() };
        let over = lost(LostBy::Line(failed.clone()));
        for reason in [failed, CloseReason::GivenUp(given_up.into()), over] {
            let text = reason.public_text();
            assert!(text.starts_with("the program has failed with exit "), "{text}");
            assert!(text.ends_with(" 3"), "{text}");
        }
        let truncated = Some(Truncated { received: 4, expected: None });
        let cut = ChildExit { truncated, ..exit(0) };
        let text = CloseReason::ChildExited(cut.into()).public_text();
        assert_eq!(text, "the program has failed: it exited in the middle of a message");
    }
}
