//! The two halves of a connected pipe. A pipe cannot be closed in one direction, so the end of the write
//! half is the end of the line.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use windows_sys::Win32::Foundation::{ERROR_BROKEN_PIPE, ERROR_PIPE_NOT_CONNECTED};

use super::End;
use crate::connection::{ReadEnd, WriteEnd};
use crate::windows::ended::{has_ended, waiting};
use crate::windows::is_code;

/// The maximum size of one write. While a slow reader reads these bytes, its progress is invisible, so
/// they must be few enough to be read within the stall timeout.
const WRITE: usize = 64 * 1024;

/// The read half of a named pipe.
#[derive(Debug)]
pub struct PipeReadHalf(Arc<Shared>);

/// The write half of a named pipe. Shutting it down ends the line after all bytes have been handed to
/// the system. Dropping it also ends the line, but bytes that were accepted earlier are still handed to
/// the system.
#[derive(Debug)]
pub struct PipeWriteHalf {
    shared: Arc<Shared>,
    /// The joined slices of a vectored write.
    joined: Vec<u8>,
}

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` once the line has ended on this side. The pipe is closed and not disconnected, so that the
    /// other side can still read the remaining bytes.
    end: Option<End>,
    /// The other side is gone.
    is_gone: bool,
    /// The task that waits for bytes.
    reader: Option<Waker>,
    /// The task that waits until the other side is gone.
    watcher: Option<Waker>,
}

pub(super) fn split(end: End) -> (PipeReadHalf, PipeWriteHalf) {
    let state = State { end: Some(end), is_gone: false, reader: None, watcher: None };
    let shared = Arc::new(Shared(Mutex::new(state)));
    (PipeReadHalf(shared.clone()), PipeWriteHalf { shared, joined: Vec::new() })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn close(&self) {
        let mut state = self.lock();
        let (end, reader, watcher) = (state.end.take(), state.reader.take(), state.watcher.take());
        drop(state);
        drop(end);
        reader.into_iter().chain(watcher).for_each(Waker::wake);
    }
}

impl ReadEnd for PipeReadHalf {
    fn unread(&self) -> Option<u64> {
        let state = self.0.lock();
        Some(state.end.as_ref()?.ask(waiting))
    }
}

impl AsyncRead for PipeReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let Some(end) = state.end.as_mut().filter(|_| buffer.remaining() > 0) else {
            return Poll::Ready(Ok(()));
        };
        let before = buffer.filled().len();
        let polled = loop {
            let polled = match end {
                End::Server(pipe) => Pin::new(pipe).poll_read(cx, buffer),
                End::Client(pipe) => Pin::new(pipe).poll_read(cx, buffer),
            };
            let is_nothing =
                matches!(polled, Poll::Ready(Ok(())) if buffer.filled().len() == before);
            if !is_nothing || end.ask(has_ended) {
                break polled;
            }
        };
        let is_over = match polled {
            Poll::Pending => {
                keep(&mut state.reader, cx);
                return Poll::Pending;
            }
            Poll::Ready(Ok(())) => buffer.filled().len() == before,
            // A server may disconnect the pipe instead of closing it, which also ends the stream.
            Poll::Ready(Err(error))
                if is_code(&error, &[ERROR_BROKEN_PIPE, ERROR_PIPE_NOT_CONNECTED]) =>
            {
                true
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        };
        if is_over {
            state.is_gone = true;
            if let Some(watcher) = state.watcher.take() {
                watcher.wake();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl PipeWriteHalf {
    fn poll_write_to(
        state: &mut State,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = bytes.get(..WRITE).unwrap_or(bytes);
        match &mut state.end {
            Some(End::Server(pipe)) => Pin::new(pipe).poll_write(cx, bytes),
            Some(End::Client(pipe)) => Pin::new(pipe).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl WriteEnd for PipeWriteHalf {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if state.is_gone || state.end.is_none() {
            return Poll::Ready(());
        }
        keep(&mut state.watcher, cx);
        Poll::Pending
    }
}

impl AsyncWrite for PipeWriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Self::poll_write_to(&mut self.shared.lock(), cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.joined.clear();
        for slice in slices {
            let room = WRITE - this.joined.len();
            this.joined.extend_from_slice(slice.get(..room).unwrap_or(slice));
        }
        if this.joined.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Self::poll_write_to(&mut this.shared.lock(), cx, &this.joined)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The system sends accepted bytes without a flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only one write is in progress at a time: when an empty write is accepted, all bytes before it
        // have been handed to the system. A reader ignores the empty write or treats it as the end,
        // which follows anyway. If the write fails, nothing reads from the pipe.
        let _ = ready!(Self::poll_write_to(&mut self.shared.lock(), cx, &[]));
        self.shared.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeWriteHalf {
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn keep(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}
