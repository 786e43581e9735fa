//! Our ends of the child's pipes. They are ours alone, so they may be non-blocking.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

use super::lifecycle::Lifecycle;
use crate::BoxFuture;

/// Our end of the child's stdin.
pub(super) type ToChild = pipe::Sender;

/// How much may still come out of the pipe once the child's life is over: what a pipe can hold.
const LEFT_IN_PIPE: usize = 1 << 20;

/// Our end of the child's stdout.
pub struct ChildStdout {
    pipe: pipe::Receiver,
    stage: Stage,
}

enum Stage {
    /// Until the future is ready, the end of the pipe is the end of the stream.
    Open(BoxFuture<'static, ()>),
    /// The child's life is over, but somebody may hold its stdout for ever: what is in the pipe is
    /// read, at most this much, and no more is waited for.
    Over(usize),
}

impl ChildStdout {
    pub(super) fn new(stdout: pipe::Receiver, lifecycle: &Lifecycle) -> Self {
        Self { pipe: stdout, stage: Stage::Open(lifecycle.over()) }
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
                Stage::Open(over) => {
                    if let Poll::Ready(result) = Pin::new(&mut this.pipe).poll_read(cx, buffer) {
                        return Poll::Ready(result);
                    }
                    ready!(over.as_mut().poll(cx));
                    this.stage = Stage::Over(LEFT_IN_PIPE);
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
