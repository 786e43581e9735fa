//! What happens to the output of child processes on stderr.

use std::fmt;
use std::sync::Arc;

/// What happens to the output of a child on stderr. In each case it is read, and its end is part of the
/// [`ChildExit`](crate::ChildExit).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ChildStderr {
    /// Each line is logged (target `tieline::child`, level INFO), at most 100 lines per second. Lines above
    /// 8 KiB are not logged. The default.
    #[default]
    Log,
    /// It is discarded.
    Discard,
    /// It is passed to this sink.
    PassOn(StderrSink),
}

/// Receives the output of children on stderr.
#[derive(Clone)]
pub struct StderrSink(Arc<dyn Fn(StderrLines<'_>) + Send + Sync>);

/// Lines that a child wrote to stderr.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StderrLines<'a> {
    /// The file name of the child's program.
    pub program: &'a str,
    /// The child's process ID.
    pub pid: u32,
    /// One or more lines, as the child wrote them; each ends with a newline. Lines above 64 KiB are divided.
    pub text: &'a [u8],
}

impl StderrSink {
    /// Calls `write` with the lines of each child as they arrive. It must not block.
    pub fn new(write: impl Fn(StderrLines<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    pub(crate) fn write(&self, lines: StderrLines<'_>) {
        (self.0)(lines);
    }
}

impl fmt::Debug for StderrSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StderrSink").finish_non_exhaustive()
    }
}
