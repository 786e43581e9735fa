//! The reasons why lines end.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{Delivered, Refusal, Violation};
use tieline_proto::{Count, EncodeError, FrameError, Truncated, printable};

use crate::budget::MemoryRefused;
use crate::error::TransportError;
use crate::peer_reason::PeerReason;

/// The reason why a line ended. It can be cloned, and can be queried as long as a
/// [`Control`](crate::Control) of the line exists.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed first.
    ByUs,
    /// The other side closed between two messages.
    ByPeer,
    /// The other side closed and gave a reason in the terms of its protocol, such as a WebSocket's close code.
    /// A normal closure is [`ByPeer`](Self::ByPeer).
    ByPeerBecause(Arc<PeerReason>),
    /// The other side closed after a last line without a newline, which was delivered.
    Unterminated,
    /// The stream ended in the middle of a message, which was not delivered.
    Truncated(Truncated),
    /// A deadline passed.
    TimedOut,
    /// A write made no progress for too long: the other side has stopped reading.
    Stalled,
    /// The other side did not answer pings and sent nothing else, so it was stopped.
    Unresponsive(Arc<Unresponsive>),
    /// Messages arrived faster than they were handled.
    Overrun,
    /// A gateway refused the client, which may try again later. The text says why, and is
    /// [reported](crate::Control::report_at_close) to the client.
    TurnedAway(Arc<str>),
    /// The memory limit of all lines was reached, and this line had to release its memory.
    NoMemory(MemoryRefused),
    /// The child process has ended.
    ChildExited(Arc<ChildExit>),
    /// The child process closed its stdout and is still running.
    StdoutClosed,
    /// The child process reads no more input, because it has closed its stdin or has ended. Its
    /// remaining output is still delivered. The receiver then returns how the child ended.
    StdinClosed,
    /// The line was lost and restarted too often in too short a time.
    GivenUp(Arc<GivenUp>),
    /// The line was lost, and reconnecting cannot succeed.
    Unreachable(TransportError),
    /// A session ended before both sides had closed it. The value contains the number of delivered
    /// messages.
    SessionLost(Arc<SessionLost>),
    /// The program or session was restarted, and the state of the previous one could not be restored.
    NotRestored(Arc<NotRestored>),
    /// A message that a session had received could not be passed on, so the session was ended.
    NotPassedOn(Arc<NotPassedOn>),
    /// The far side of a gateway's line ended cleanly, but left this many bytes sent by this side unread. A
    /// gateway [reports](crate::Control::report_at_close) it to the client.
    InputUnread(u64),
    /// The other side broke the framing.
    Protocol(FrameError),
    /// The operating system reported an error.
    Io(Arc<io::Error>),
}

impl CloseReason {
    /// Returns true if nothing went wrong: either side closed between two messages, or a child exited
    /// successfully.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::ByUs | Self::ByPeer | Self::Unterminated => true,
            // A web page was closed, or a server is shutting down.
            Self::ByPeerBecause(given) => given.is_clean,
            Self::ChildExited(exit) => exit.is_clean(),
            _ => false,
        }
    }

    /// Returns how the child process ended, if there was one. After restarts, this is the last one.
    pub fn child_exit(&self) -> Option<&ChildExit> {
        match self {
            Self::ChildExited(exit) => Some(exit),
            Self::GivenUp(given_up) => given_up.last.child_exit(),
            Self::Unresponsive(unresponsive) => unresponsive.stopped.child_exit(),
            Self::SessionLost(lost) => match &lost.cause {
                LostBy::Line(reason) => reason.child_exit(),
                _ => None,
            },
            Self::NotRestored(not_restored) => not_restored.cause.child_exit(),
            _ => None,
        }
    }

    /// Returns advice for the user on how to solve the problem.
    pub fn hint(&self) -> Option<&str> {
        Some(match self {
            Self::StdoutClosed => {
                "the program must keep its stdout open and send all its messages there"
            }
            Self::StdinClosed => {
                "check why the program exited or closed its stdin; send nothing after its last input"
            }
            Self::NoMemory(_) => {
                "send smaller messages or fewer at once, or raise the limit (--max-memory)"
            }
            Self::Unresponsive(_) => {
                "find out what the program was waiting for; if it only needs more time, raise --probe"
            }
            Self::GivenUp(_) => "fix what the program reports on stderr, then connect again",
            Self::Unreachable(error) => return error.hint(),
            Self::NotRestored(_) => "connect again and repeat the handshake",
            Self::Stalled => {
                "find out why it has stopped reading; if it only needs more time, raise \
                 --stall-timeout, or --program-stall-timeout for a program"
            }
            Self::SessionLost(lost) if matches!(lost.cause, LostBy::Undeliverable { .. }) => {
                "check what ends the connections, such as a proxy's size or time limit, or send \
                 shorter messages"
            }
            Self::NotPassedOn(_) => {
                "send only JSON, or use an endpoint with length-prefix+ for other data"
            }
            Self::Protocol(FrameError::UserNotAccepted) => {
                "ask the owner of the server to allow your user (serve --allow-uid UID; `id -u` \
                 prints the uid)"
            }
            Self::Protocol(FrameError::FirstNotJson) => {
                "send JSON, or connect to an endpoint that identifies its clients, such as unix:"
            }
            Self::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                "the other side has closed the connection, and may not have read everything; \
                 with resume+ on both sides it says how much"
            }
            Self::SessionLost(lost) if lost.delivered.acknowledged < lost.delivered.sent => {
                "send unacknowledged messages again if receiving them twice does no harm"
            }
            Self::SessionLost(lost) if matches!(lost.cause, LostBy::Farewell(_)) => {
                "look at the log of the server, which says more; what was acknowledged may not have \
                 been processed"
            }
            _ => return None,
        })
    }
}

/// The alternate form (`{:#}`) omits the output of a child process on stderr.
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByUs => f.write_str("closed by this side"),
            Self::ByPeer => f.write_str("closed by the other side"),
            Self::ByPeerBecause(given) => write!(f, "closed by the other side with {given}"),
            Self::Unterminated => {
                f.write_str("closed by the other side after an unterminated last line")
            }
            Self::Truncated(truncated) => write!(f, "cut off: {truncated}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Stalled => f.write_str("stalled: the other side has stopped reading"),
            Self::Unresponsive(unresponsive) => unresponsive.fmt(f),
            Self::Overrun => f.write_str("overrun: messages arrived faster than they were handled"),
            Self::TurnedAway(why) => write!(f, "refused: {why}"),
            Self::NoMemory(refused) => refused.fmt(f),
            Self::ChildExited(exit) => exit.fmt(f),
            Self::StdoutClosed => {
                f.write_str("the child process closed its stdout and is still running")
            }
            Self::StdinClosed => f.write_str("the child process reads no more input"),
            Self::GivenUp(given_up) => given_up.fmt(f),
            Self::Unreachable(error) => error.fmt(f),
            Self::SessionLost(lost) => lost.fmt(f),
            Self::NotRestored(not_restored) => not_restored.fmt(f),
            Self::NotPassedOn(message) => message.fmt(f),
            Self::InputUnread(bytes) => {
                let bytes = Count(*bytes, "byte");
                write!(f, "the far side ended without reading the last {bytes} of its input")
            }
            Self::Protocol(error) if error.is_refusal() => write!(f, "refused: {error}"),
            Self::Protocol(error) => write!(f, "broken framing: {error}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        match MemoryRefused::in_error(&error) {
            Some(refused) => Self::NoMemory(refused),
            None => Self::Io(Arc::new(error)),
        }
    }
}

impl From<MemoryRefused> for CloseReason {
    fn from(refused: MemoryRefused) -> Self {
        Self::NoMemory(refused)
    }
}

/// A program that no longer answered.
#[derive(Clone, Debug)]
pub struct Unresponsive {
    /// How many pings in a row it did not answer.
    pub pings: u32,
    /// How it ended when it was stopped.
    pub stopped: CloseReason,
}

impl fmt::Display for Unresponsive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pings = Count(self.pings, "ping");
        write!(f, "the program did not answer {pings} and was stopped: ")?;
        self.stopped.fmt(f)
    }
}

/// A line that was lost too often.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// The total number of restarts.
    pub restarts: u64,
    /// The reason why it was lost the last time.
    pub last: CloseReason,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gave up after {}: ", Count(self.restarts, "restart"))?;
        self.last.fmt(f)
    }
}

/// A program or session whose state could not be restored after a restart.
#[derive(Clone, Debug)]
pub struct NotRestored {
    /// Why the previous one was lost.
    pub cause: CloseReason,
    /// Why its state could not be restored.
    pub problem: String,
}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, problem } = self;
        write!(f, "the program was restarted, but its state could not be restored: {problem}; ")?;
        cause.fmt(f)
    }
}

/// A session that ended before both sides had closed it.
#[derive(Clone, Debug)]
pub struct SessionLost {
    /// How many messages the other side acknowledged. Later ones may or may not have arrived, and are
    /// not sent again.
    pub delivered: Delivered,
    /// The number of its last connection.
    pub epoch: u64,
    /// Why it was lost.
    pub cause: LostBy,
}

/// The reason why a session was lost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LostBy {
    /// The other side refused to resume it. The text is the other side's explanation, or empty.
    Refused(Refusal, String),
    /// The other side violated the session protocol.
    Violation(Violation),
    /// The other side ended it. The text is its explanation; it is empty if the other side closed while
    /// messages to it were still in flight.
    Farewell(String),
    /// It was not resumed within this time.
    Expired(Duration),
    /// Its connection ended for a reason that makes reconnecting useless.
    Line(CloseReason),
    /// A message could not be delivered: this many connections in a row were lost before the other side
    /// acknowledged it, and the session made no other progress in between.
    Undeliverable {
        /// The length of the message in bytes.
        bytes: usize,
        /// The number of connections over which it was sent.
        tries: u32,
        /// The reason why the last of these connections ended, if it is known.
        last: Option<CloseReason>,
    },
}

impl fmt::Display for SessionLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            LostBy::Refused(refusal, text) if text.is_empty() => {
                write!(f, "the session was not resumed: {refusal}")?;
            }
            LostBy::Refused(refusal, text) => {
                write!(f, "the session was not resumed: {refusal} (\"{}\")", text.escape_debug())?;
            }
            LostBy::Violation(violation) => {
                write!(f, "the other side violated the session protocol: {violation}")?;
            }
            LostBy::Farewell(text) if text.is_empty() => {
                f.write_str("the other side ended the session")?;
            }
            LostBy::Farewell(text) => {
                write!(f, "the other side ended the session: {}", text.escape_debug())?;
            }
            LostBy::Expired(limit) => {
                write!(f, "the session was not resumed within {limit:?}")?;
            }
            LostBy::Line(reason) => {
                f.write_str("the session lost its connection and cannot reconnect: ")?;
                reason.fmt(f)?;
            }
            LostBy::Undeliverable { bytes, tries, last } => {
                let (bytes, tries) = (Count(*bytes, "byte"), Count(*tries, "attempt"));
                write!(f, "a message of {bytes} was not delivered in {tries}")?;
                if let Some(last) = last {
                    write!(f, "; the last connection ended: {last}")?;
                }
            }
        }
        match self.delivered {
            Delivered { sent: 0, .. } => Ok(()),
            Delivered { acknowledged, sent } => {
                write!(f, "; {acknowledged} of {sent} messages sent were acknowledged")
            }
        }
    }
}

/// A message of a session that could not be passed on.
#[derive(Clone, Debug)]
pub struct NotPassedOn {
    /// The number of the message in the session; the first is 1.
    pub number: u64,
    /// Its length in bytes.
    pub length: usize,
    /// Why it could not be passed on.
    pub error: EncodeError,
}

impl fmt::Display for NotPassedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, length, error } = self;
        let length = Count(*length, "byte");
        write!(f, "message {number} of the session ({length}) cannot be passed on: {error}")
    }
}

/// How a child process ended.
#[derive(Clone, Debug)]
pub struct ChildExit {
    /// The exit status from the operating system.
    pub status: ExitStatus,
    /// The end of the child's output on stderr, at most 64 KiB.
    pub stderr_tail: Bytes,
    /// True if its last line had no newline; the line was delivered.
    pub unterminated: bool,
    /// The message in whose middle its output ended, if any. It was not delivered.
    pub truncated: Option<Truncated>,
    /// How many bytes of its input were still in the pipe when it ended. `None` if the system does not
    /// report this number. Linux reports it.
    pub unread: Option<u64>,
    /// True if it was killed because another process had killed its guardian.
    pub guardian_lost: bool,
}

/// The number of lines of stderr that are shown to users, and the number of bytes of each.
const SHOWN_LINES: usize = 10;
const SHOWN_BYTES: usize = 500;

impl ChildExit {
    /// Returns true if it exited successfully, and not in the middle of a message.
    pub fn is_clean(&self) -> bool {
        self.status.success() && self.truncated.is_none()
    }

    /// Returns the status as text that can follow the word "with": `exit status 3` or `signal 9
    /// (SIGKILL)`.
    pub fn status_words(&self) -> String {
        self.status.to_string().replacen(": ", " ", 1)
    }

    /// Returns the last lines of stderr in readable form, oldest first: at most ten, and at most 500
    /// bytes of each, with control characters escaped. Blank lines at the end are omitted.
    pub fn last_lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self
            .stderr_tail
            .rsplit(|byte| *byte == b'\n')
            .skip_while(|line| line.trim_ascii().is_empty())
            .take(SHOWN_LINES)
            .map(|line| {
                let line = line.trim_ascii_end();
                let is_start = |at: &usize| line.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
                let cut = (0..=SHOWN_BYTES.min(line.len())).rev().find(is_start);
                printable(line.get(..cut.unwrap_or_default()).unwrap_or(line)).into_owned()
            })
            .collect();
        lines.reverse();
        lines
    }

    /// Returns a JSON object with the exit `code` (`null` after a signal), the `status` as text, and the
    /// last `max_stderr` bytes of `stderr`. If `max_stderr` is 0, the member `stderr` is omitted.
    pub fn to_json(&self, max_stderr: usize) -> String {
        let mut members =
            serde_json::json!({ "code": self.status.code(), "status": self.status.to_string() });
        if max_stderr > 0 {
            let tail = &self.stderr_tail;
            let tail = tail.get(tail.len().saturating_sub(max_stderr)..).unwrap_or_default();
            if let Some(members) = members.as_object_mut() {
                members.insert("stderr".into(), String::from_utf8_lossy(tail).into());
            }
        }
        members.to_string()
    }
}

/// The alternate form (`{:#}`) omits the output of the process on stderr.
impl fmt::Display for ChildExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the child process ended with {}", self.status)?;
        if self.guardian_lost {
            f.write_str(", because its guardian was killed")?;
        }
        if let Some(truncated) = &self.truncated {
            write!(f, "; {truncated}")?;
        }
        if let Some(unread @ 1..) = self.unread {
            write!(f, "; it left {} of its input unread", Count(unread, "byte"))?;
        }
        match self.last_lines().pop() {
            Some(line) if !f.alternate() => {
                write!(f, "; last line on stderr: {}", line.trim_ascii_start())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(stderr: impl Into<Bytes>) -> ChildExit {
        #[cfg(unix)]
        use std::os::unix::process::ExitStatusExt;
        #[cfg(windows)]
        use std::os::windows::process::ExitStatusExt;
        ChildExit {
            status: ExitStatus::from_raw(if cfg!(unix) { 3 << 8 } else { 3 }),
            stderr_tail: stderr.into(),
            unterminated: false,
            truncated: None,
            unread: None,
            guardian_lost: false,
        }
    }

    #[test]
    fn last_lines_are_readable_and_bounded() {
        let long = "é".repeat(300);
        for (stderr, lines) in [
            ("", vec![]),
            ("\n \n", vec![]),
            ("a\n  b 'c'\r\n\n", vec!["a", "  b 'c'"]),
            ("a\n\nb", vec!["a", "", "b"]),
            ("x\u{1b}[31m\u{9b}", vec!["x\\u001b[31m\\u009b"]),
            (&format!("{long}\n"), vec![&long[..500]]),
        ] {
            assert_eq!(exit(stderr.to_owned()).last_lines(), lines, "{stderr:?}");
        }
        let many: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(exit(many).last_lines(), (90..100).map(|it| it.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn alternate_text_omits_stderr() {
        let reason = CloseReason::ChildExited(Arc::new(exit("first\n  it's last\n")));
        let reason = CloseReason::GivenUp(Arc::new(GivenUp { restarts: 2, last: reason }));
        let (long, short) = (reason.to_string(), format!("{reason:#}"));
        assert!(long.ends_with(": 3; last line on stderr: it's last"), "{long}");
        assert!(
            short.starts_with("gave up after 2 restarts: ") && short.ends_with(": 3"),
            "{short}"
        );
    }

    #[test]
    fn json_contains_at_most_the_requested_bytes_of_stderr() {
        let exit = exit("one\ntwo\n");
        let status = exit.status;
        let begin = format!(r#"{{"code":3,"status":"{status}""#);
        assert_eq!(exit.to_json(0), format!("{begin}}}"));
        assert_eq!(exit.to_json(4), format!(r#"{begin},"stderr":"two\n"}}"#));
        assert!(exit.status_words().ends_with(" 3") && !exit.status_words().contains(':'));
    }
}
