//! The handling of the output of child processes on stderr.

use std::fmt;
use std::sync::Arc;

/// How a child's stderr is handled. It is always read, and the end of the output is part of the
/// [`ChildExit`](crate::ChildExit).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ChildStderr {
    /// Logs each line (target `tieline::child`, level INFO), at most 100 lines per second. Lines longer
    /// than 8 KiB are not logged. This is the default.
    #[default]
    Log,
    /// Discards the output.
    Discard,
    /// Passes the output to this sink.
    PassOn(StderrSink),
}

/// A callback that receives the output of children on stderr.
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
    /// One or more lines, as the child wrote them; each ends with a newline. Lines longer than 64 KiB
    /// are split.
    pub text: &'a [u8],
}

impl StderrSink {
    /// Creates a sink that calls `write` with the lines of each child as they arrive. `write` must not
    /// block.
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
