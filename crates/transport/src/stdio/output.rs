//! Writing to stdout from async code. A thread writes the queued bytes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWrite;

use super::system::{Reader, Sink, Stopped, Worker};
use crate::connection::WriteEnd;

/// The maximum number of queued bytes.
const QUEUE: usize = 64 * 1024;

/// The original stdout. Shutting it down writes the queued bytes and closes it. Dropping it discards
/// bytes that were not flushed.
pub struct Stdout {
    shared: Arc<Shared>,
    reader: Reader,
    /// Dropped after `Stdout::drop` has set the stage, so that the stopped thread finds the reason there.
    _worker: Worker,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    queued: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    /// How many bytes the thread has taken but not written yet.
    writing: usize,
    /// How many bytes were discarded because they could not be written.
    discarded: usize,
    stage: Stage,
    error: Option<io::ErrorKind>,
    waker: Option<Waker>,
}

#[derive(Default, PartialEq)]
enum Stage {
    #[default]
    Open,
    /// The queued bytes are being written; then stdout is closed.
    Closing,
    /// Stdout is closed.
    Closed,
    /// The handle was dropped, and the thread must stop.
    Dropped,
}

impl Stdout {
    pub(super) fn new(mut sink: Sink) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = sink.reader()?;
        let thread = shared.clone();
        let worker = Worker::start("tieline-stdout", move |stopped| thread.run(sink, stopped))?;
        Ok(Self { shared, reader, _worker: worker })
    }
}

impl Drop for Stdout {
    fn drop(&mut self) {
        self.shared.lock().stage = Stage::Dropped;
        self.shared.queued.notify_one();
    }
}

impl WriteEnd for Stdout {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader.poll_gone(cx)
    }

    fn unflushed(&self) -> usize {
        let state = self.shared.lock();
        state.unwritten() + state.discarded
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        state.check()?;
        if state.stage != Stage::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = QUEUE.saturating_sub(state.queue.len()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.queue.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.shared.queued.notify_one();
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        state.check()?;
        if state.unwritten() == 0 {
            return Poll::Ready(Ok(()));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The watch also holds stdout open.
        self.reader = Reader::Unknown;
        let mut state = self.shared.lock();
        if state.stage == Stage::Open {
            state.stage = Stage::Closing;
            self.shared.queued.notify_one();
        }
        if state.stage == Stage::Closed {
            return Poll::Ready(state.check());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    fn unwritten(&self) -> usize {
        self.queue.len() + self.writing
    }

    fn check(&self) -> io::Result<()> {
        self.error.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs the thread, which owns the sink and closes it before it reports the end.
    fn run(&self, mut sink: Sink, stopped: &Stopped) {
        let mut batch = Vec::new();
        while self.take(&mut batch) {
            let written = self.write(&mut sink, stopped, &batch);
            let mut state = self.lock();
            if let Err(error) = written {
                state.error = Some(error.kind());
                break;
            }
            state.wake();
        }
        drop(sink);
        let mut state = self.lock();
        state.discarded = state.unwritten();
        state.queue = Vec::new();
        state.writing = 0;
        state.stage = Stage::Closed;
        state.wake();
    }

    /// Waits for bytes to write. Returns false when there will be none.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        let mut state = self.lock();
        loop {
            match state.stage {
                Stage::Dropped | Stage::Closed => return false,
                _ if !state.queue.is_empty() => break,
                Stage::Closing => return false,
                Stage::Open => {}
            }
            state = self.queued.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        std::mem::swap(&mut state.queue, batch);
        state.writing = batch.len();
        state.wake();
        true
    }

    /// Writes all bytes, in pieces, whenever there is room.
    fn write(&self, sink: &mut Sink, stopped: &Stopped, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = sink.write_piece(bytes, stopped)?;
            bytes = bytes.get(written..).unwrap_or_default();
            let mut state = self.lock();
            state.writing -= written;
            if state.stage == Stage::Dropped {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }
}
