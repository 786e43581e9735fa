//! Our ends of the child's pipes. No other process shares them, so they may be non-blocking.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

use super::lifecycle::Lifecycle;
use crate::connection::ReadEnd;
use crate::control::BoxFuture;

/// Our end of the child's stdin.
pub(super) type ToChild = pipe::Sender;

/// How many bytes are still read from the pipe after [`Phase::Over`](super::lifecycle::Phase::Over): at
/// most the capacity of a pipe.
const LEFT_IN_PIPE: usize = 1 << 20;

/// How many reads in a row may succeed before the phase is checked. Without this limit, a process that
/// has escaped and writes endlessly would keep the stream open.
const READS: u8 = 64;

/// Our end of the child's stdout.
pub struct ChildStdout {
    pipe: pipe::Receiver,
    stage: Stage,
}

enum Stage {
    /// The stream ends with the pipe, or soon after the future is ready.
    Open { over: BoxFuture<'static, ()>, reads: u8 },
    /// All processes of the child are being killed, but one that has escaped may hold its stdout open
    /// forever. The bytes that are in the pipe are read, up to this number and without waiting for more.
    Over(usize),
}

impl ChildStdout {
    pub(super) fn new(stdout: pipe::Receiver, lifecycle: &Lifecycle) -> Self {
        Self { pipe: stdout, stage: Stage::Open { over: lifecycle.over(), reads: 0 } }
    }
}

impl ReadEnd for ChildStdout {
    fn unread(&self) -> Option<u64> {
        crate::readiness::unread(&self.pipe)
    }
}

impl AsyncRead for ChildStdout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Open { over, reads } => {
                    let read = Pin::new(&mut this.pipe).poll_read(cx, buffer);
                    *reads += 1;
                    if read.is_ready() && *reads < READS {
                        return read;
                    }
                    *reads = 0;
                    let is_over = over.as_mut().poll(cx).is_ready();
                    if is_over {
                        this.stage = Stage::Over(LEFT_IN_PIPE);
                    }
                    if read.is_ready() || !is_over {
                        return read;
                    }
                }
                Stage::Over(left) => {
                    let before = buffer.filled().len();
                    let polled = match this.pipe.try_read_buf(buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                        read => read.map(drop),
                    };
                    let read = buffer.filled().len() - before;
                    *left = left.saturating_sub(read);
                    if *left == 0 {
                        buffer.set_filled(before);
                    }
                    return Poll::Ready(polled);
                }
            }
        }
    }
}
