//! Our ends of the child's stdin and stdout. They are ours alone, so they may be non-blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use super::lifecycle::{Lifecycle, Phase, Pressure};
use crate::{BoxFuture, WriteEnd};

/// Our end of the child's stdin. Shutting it down closes it.
#[derive(Debug)]
pub struct ChildStdin {
    pipe: Option<pipe::Sender>,
    pressure: Arc<Pressure>,
}

impl ChildStdin {
    pub(super) fn new(stdin: OwnedFd, lifecycle: &Lifecycle) -> io::Result<Self> {
        let pipe = Some(pipe::Sender::from_owned_fd(stdin)?);
        Ok(Self { pipe, pressure: lifecycle.pressure() })
    }

    fn open(&mut self) -> io::Result<Pin<&mut pipe::Sender>> {
        self.pipe.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for ChildStdin {
    fn drop(&mut self) {
        self.pressure.raise(Pressure::ASKED);
    }
}

/// A child that closed its stdin may still be answering: its end is noticed by its exit.
impl WriteEnd for ChildStdin {}

impl AsyncWrite for ChildStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pressure.raise(Pressure::ASKED);
        self.pipe = None;
        Poll::Ready(Ok(()))
    }
}

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
    pub(super) fn new(stdout: OwnedFd, lifecycle: &Lifecycle) -> io::Result<Self> {
        let mut phase = lifecycle.phase();
        let over = async move {
            let _ = phase.wait_for(|phase| *phase >= Phase::Over).await;
        };
        let pipe = pipe::Receiver::from_owned_fd(stdout)?;
        Ok(Self { pipe, stage: Stage::Open(Box::pin(over)) })
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
