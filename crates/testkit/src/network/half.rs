//! The read half and the write half of a connection, for Tokio.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tieline_transport::{ReadEnd, WriteEnd};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::simulated_line::{SimulatedLine, later};

/// The read half.
pub struct Reading {
    line: Arc<SimulatedLine>,
    side: usize,
    sleep: Pin<Box<Sleep>>,
}

impl Reading {
    pub(super) fn new(line: Arc<SimulatedLine>, side: usize) -> Self {
        line.begin_half();
        Self { line, side, sleep: Box::pin(sleep_until(Instant::now())) }
    }
}

impl ReadEnd for Reading {}

impl AsyncRead for Reading {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { line, side, sleep } = self.get_mut();
        let read = later(sleep, cx, |cx| {
            let room = buffer.remaining();
            line.poll_read(*side, cx, room, |bytes| buffer.put_slice(bytes))
        });
        read.map_err(|()| io::ErrorKind::ConnectionReset.into())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.line.reader_gone(self.side);
    }
}

/// The write half.
pub struct Writing {
    line: Arc<SimulatedLine>,
    side: usize,
    sleep: Pin<Box<Sleep>>,
}

impl Writing {
    pub(super) fn new(line: Arc<SimulatedLine>, side: usize) -> Self {
        line.begin_half();
        Self { line, side, sleep: Box::pin(sleep_until(Instant::now())) }
    }
}

impl AsyncWrite for Writing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { line, side, sleep } = self.get_mut();
        let written = later(sleep, cx, |cx| line.poll_write(*side, cx, bytes));
        written.map_err(|()| io::ErrorKind::BrokenPipe.into())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.end(self.side);
        Poll::Ready(Ok(()))
    }
}

impl WriteEnd for Writing {
    fn unsent(&self) -> Option<usize> {
        self.line.unsent(self.side)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.line.writer_gone(self.side);
    }
}
