//! Why a line ended.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{Delivered, Refusal, Violation};
use tieline_proto::websocket::{Close, CloseCode};
use tieline_proto::{EncodeError, FrameError, Truncated};

use crate::{MemoryRefused, TransportError};

/// Why a line ended. It can be cloned and asked for as long as anybody holds the line's
/// [`Control`](crate::Control).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed first.
    ByUs,
    /// The other side closed, between two messages.
    ByPeer,
    /// The other side of a WebSocket closed and said why; where it was only done, it is
    /// [`ByPeer`](Self::ByPeer).
    ByPeerBecause(Arc<Close>),
    /// The other side closed behind a last line without a newline, which was delivered.
    Unterminated,
    /// The other side was cut off in the middle of a message, which was not delivered.
    Truncated(Truncated),
    /// Something did not happen in time.
    TimedOut,
    /// A write made no progress for too long: the other side has stopped reading.
    Stalled,
    /// More came in than was handled in time.
    Overrun,
    /// All lines together held too much memory, and this one had to let go of its part.
    NoMemory(MemoryRefused),
    /// The child process has ended.
    ChildExited(Arc<ChildExit>),
    /// The child process has closed its stdout and goes on without it.
    StdoutClosed,
    /// The child process takes no more input: it has closed its stdin, or has ended. What it still
    /// says arrives, and how it ended is for the receiver to say.
    StdinClosed,
    /// The line was lost, and came back to be lost again, too often in too short a time.
    GivenUp(Arc<GivenUp>),
    /// The line was lost, and trying again to connect is in vain.
    Unreachable(TransportError),
    /// A session has ended before both sides had ended it. What was delivered is said.
    SessionLost(Arc<SessionLost>),
    /// The program or session was begun anew, and the state of the one before it could not be restored.
    NotRestored(Arc<NotRestored>),
    /// A message that a session had received could not be passed on, so the session was ended.
    NotPassedOn(Arc<NotPassedOn>),
    /// The other side broke the framing.
    Protocol(FrameError),
    /// The operating system reported an error.
    Io(Arc<io::Error>),
}

impl CloseReason {
    /// Whether everything went as it should: closed by either side between two messages, or by a
    /// child that reported success.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::ByUs | Self::ByPeer | Self::Unterminated => true,
            // A page that was left, or a server that goes in good order.
            Self::ByPeerBecause(close) => close.code == CloseCode::GOING_AWAY,
            Self::ChildExited(exit) => exit.status.success() && exit.truncated.is_none(),
            _ => false,
        }
    }

    /// How the child process ended, where there was one; of several the last.
    pub fn child_exit(&self) -> Option<&ChildExit> {
        match self {
            Self::ChildExited(exit) => Some(exit),
            Self::GivenUp(given_up) => given_up.last.child_exit(),
            Self::SessionLost(lost) => match &lost.cause {
                LostBy::Line(reason) => reason.child_exit(),
                _ => None,
            },
            Self::NotRestored(not_restored) => not_restored.cause.child_exit(),
            _ => None,
        }
    }

    /// What to do about it, as a sentence for people.
    pub fn hint(&self) -> Option<&str> {
        Some(match self {
            Self::StdoutClosed => {
                "a program on a line must keep its stdout open and speak over it alone"
            }
            Self::StdinClosed => {
                "look at how the program ends, and send nothing behind its last input"
            }
            Self::NoMemory(_) => {
                "send smaller messages or fewer at once, or raise the limit (--max-memory)"
            }
            Self::GivenUp(_) => "mend what its last words complain of, and connect again",
            Self::Unreachable(error) => return error.hint(),
            Self::NotRestored(_) => "connect again, and begin with the handshake",
            Self::Stalled => {
                "find out why it does not read; if it needs longer, raise --stall-timeout, or \
                 --program-stall-timeout for a program"
            }
            Self::SessionLost(lost) if matches!(lost.cause, LostBy::Undeliverable { .. }) => {
                "look for what ends the connections, such as a proxy's limit on size or time; send \
                 shorter messages"
            }
            Self::NotPassedOn(_) => {
                "send only JSON, or use an endpoint with length-prefix+ for other data"
            }
            Self::SessionLost(_) => {
                "send again what was not acknowledged, if having it twice does no harm"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByUs => f.write_str("closed by this side"),
            Self::ByPeer => f.write_str("closed by the other side"),
            Self::ByPeerBecause(close) => write!(f, "closed by the other side with {close}"),
            Self::Unterminated => {
                f.write_str("closed by the other side, behind a last line that is unterminated")
            }
            Self::Truncated(truncated) => write!(f, "cut off: {truncated}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Stalled => f.write_str("stalled: the other side has stopped reading"),
            Self::Overrun => f.write_str("overrun: more came in than was handled in time"),
            Self::NoMemory(refused) => refused.fmt(f),
            Self::ChildExited(exit) => exit.fmt(f),
            Self::StdoutClosed => f.write_str("the child has closed its stdout and goes on"),
            Self::StdinClosed => f.write_str("the child takes no more input"),
            Self::GivenUp(given_up) => given_up.fmt(f),
            Self::Unreachable(error) => error.fmt(f),
            Self::SessionLost(lost) => lost.fmt(f),
            Self::NotRestored(not_restored) => not_restored.fmt(f),
            Self::NotPassedOn(message) => message.fmt(f),
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

/// A line that was lost too often.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// How often it had come back in all.
    pub restarts: u64,
    /// Why it was lost for the last time.
    pub last: CloseReason,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "given up after {} restarts: {}", self.restarts, self.last)
    }
}

/// A new program or session that could not take the place of the one before it.
#[derive(Clone, Debug)]
pub struct NotRestored {
    /// Why the one before it was lost.
    pub cause: CloseReason,
    /// Why its state could not be restored.
    pub problem: String,
}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, problem } = self;
        write!(f, "the program was replaced by a new one, which cannot go on: {problem}; {cause}")
    }
}

/// A session that ended before both sides had ended it.
#[derive(Clone, Debug)]
pub struct SessionLost {
    /// What the other side is known to have taken over. What was sent behind that may have arrived or
    /// not, and is not sent again.
    pub delivered: Delivered,
    /// Which of its connections was the last.
    pub epoch: u64,
    /// Why.
    pub cause: LostBy,
}

/// Why a session was lost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LostBy {
    /// The other side refused to resume it: with its own words, if it had any.
    Refused(Refusal, String),
    /// The other side broke its protocol.
    Violation(Violation),
    /// The other side has ended it, in these words; without any if it went while something was still
    /// on its way to it.
    Farewell(String),
    /// Nobody has resumed it in so long.
    Expired(Duration),
    /// Its line ended so that no other is sought.
    Line(CloseReason),
    /// A message of so many bytes did not get through: so many connections, one after the other, were lost
    /// before the other side had it, and nothing else moved the session on meanwhile.
    Undeliverable {
        /// The length of the message.
        bytes: usize,
        /// How many connections it was sent over.
        tries: u32,
        /// How the last of them ended, if that is known.
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
                write!(f, "the other side broke the session's protocol: {violation}")?;
            }
            LostBy::Farewell(text) if text.is_empty() => {
                f.write_str("the other side has ended the session")?;
            }
            LostBy::Farewell(text) => {
                write!(f, "the other side has ended the session: {}", text.escape_debug())?;
            }
            LostBy::Expired(limit) => write!(f, "nobody resumed the session in {limit:?}")?,
            LostBy::Line(reason) => write!(f, "the session has lost its line for good: {reason}")?,
            LostBy::Undeliverable { bytes, tries, last } => {
                write!(f, "a message of {bytes} bytes did not get through in {tries} tries")?;
                if let Some(last) = last {
                    write!(f, "; the last connection ended: {last}")?;
                }
            }
        }
        let Delivered { acknowledged, sent } = self.delivered;
        write!(f, "; {acknowledged} of {sent} messages sent were acknowledged")
    }
}

/// A message of a session that could not be passed on to where it was going.
#[derive(Clone, Debug)]
pub struct NotPassedOn {
    /// Which message of the session it is, as this line counts them; the first is 1.
    pub number: u64,
    /// Its length in bytes.
    pub length: usize,
    /// Why it could not be passed on.
    pub error: EncodeError,
}

impl fmt::Display for NotPassedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, length, error } = self;
        write!(f, "message {number} of the session ({length} bytes) cannot be passed on: {error}")
    }
}

/// How a child process ended.
#[derive(Clone, Debug)]
pub struct ChildExit {
    /// What the operating system says.
    pub status: ExitStatus,
    /// The last of what it wrote to stderr, at most 64 KiB.
    pub stderr_tail: Bytes,
    /// Its last line had no newline, and was delivered.
    pub unterminated: bool,
    /// It ended in the middle of a message, which was not delivered.
    pub truncated: Option<Truncated>,
    /// How many bytes of its input were in the pipe, and not read, when it ended. `None` where the system
    /// does not say (it does on Linux).
    pub unread: Option<u64>,
    /// Somebody else had killed its guardian, and it was killed for that.
    pub guardian_lost: bool,
}

impl fmt::Display for ChildExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the child ended with {}", self.status)?;
        if self.guardian_lost {
            f.write_str(", because somebody killed its guardian")?;
        }
        if let Some(truncated) = &self.truncated {
            write!(f, "; {truncated}")?;
        }
        if let Some(unread @ 1..) = self.unread {
            write!(f, "; it left {unread} bytes of its input unread")?;
        }
        if let Some(line) = last_line(&self.stderr_tail) {
            write!(f, "; its last words: {}", line.escape_debug())?;
        }
        Ok(())
    }
}

/// The last line of stderr that says something, at most 500 bytes of it.
fn last_line(stderr: &[u8]) -> Option<String> {
    let line = stderr.rsplit(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty())?;
    let line = line.trim_ascii();
    Some(String::from_utf8_lossy(line.get(..500).unwrap_or(line)).into_owned())
}
