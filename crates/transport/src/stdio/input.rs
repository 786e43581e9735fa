//! Reading stdin from async code. A thread reads one chunk ahead.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};

use super::system::{READ, Source, Stopped, Worker};
use crate::connection::ReadEnd;

/// The maximum size of one read. The thread does not read further ahead.
const CHUNK: usize = 64 * 1024;

/// The original stdin. Dropping it ends its thread, even if no input arrives.
pub struct Stdin {
    shared: Arc<Shared>,
    /// Shared with the thread, which drops it when it ends.
    source: Weak<Source>,
    /// Dropped after `Stdin::drop` has set `stopped`, so that the stopped thread finds it set.
    _worker: Worker,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    taken: Condvar,
    /// Notified after each read.
    was_read: Condvar,
}

#[derive(Default)]
struct State {
    /// The bytes that were read. The thread reads more when all of them have been taken.
    chunk: Vec<u8>,
    position: usize,
    /// True while the thread is reading from the system.
    is_reading: bool,
    end: Option<io::Result<()>>,
    waker: Option<Waker>,
    stopped: bool,
}

impl Stdin {
    pub(super) fn new(source: Source) -> io::Result<Self> {
        let (shared, source) = (Arc::new(Shared::default()), Arc::new(source));
        let (thread, weak) = (shared.clone(), Arc::downgrade(&source));
        let worker = Worker::start("tieline-stdin", move |stopped| thread.run(&source, stopped))?;
        Ok(Self { shared, source: weak, _worker: worker })
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.taken.notify_one();
    }
}

impl ReadEnd for Stdin {
    fn unread(&self) -> Option<u64> {
        // While the state is locked, no read begins, so no bytes are on their way from the system to the
        // chunk.
        let state = self.shared.lock();
        let waited = self.shared.was_read.wait_timeout_while(state, READ, |state| state.is_reading);
        let (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        let here = state.chunk.len().saturating_sub(state.position) as u64;
        let source = self.source.upgrade().filter(|_| !state.is_reading);
        Some(here.saturating_add(source.map_or(0, |source| source.unread())))
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let unread = state.chunk.get(state.position..).unwrap_or_default();
        if unread.is_empty() {
            return match state.end.take() {
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                Some(end) => {
                    state.end = Some(Ok(()));
                    Poll::Ready(end)
                }
            };
        }
        let taken = unread.len().min(buffer.remaining());
        buffer.put_slice(unread.get(..taken).unwrap_or_default());
        state.position += taken;
        if state.position == state.chunk.len() {
            self.shared.taken.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn run(&self, source: &Source, stopped: &Stopped) {
        let mut chunk = vec![0; CHUNK];
        loop {
            match source.wait(stopped) {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => return self.end(Err(error)),
            }
            self.lock().is_reading = true;
            let read = match source.read(&mut chunk) {
                Ok(Some(0)) => return self.end(Ok(())),
                Ok(read) => read.unwrap_or_default(),
                Err(error) => return self.end(Err(error)),
            };
            chunk.truncate(read);
            match self.hand_over(chunk) {
                Some(emptied) => chunk = emptied,
                None => return,
            }
            chunk.resize(CHUNK, 0);
        }
    }

    /// Passes the chunk to the reader and waits until all of it has been taken. Returns `None` if the
    /// reader was dropped.
    fn hand_over(&self, chunk: Vec<u8>) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.chunk = chunk;
        state.position = 0;
        self.read_is_over(&mut state);
        while state.position < state.chunk.len() && !state.stopped {
            state = self.taken.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        if state.stopped { None } else { Some(std::mem::take(&mut state.chunk)) }
    }

    fn end(&self, end: io::Result<()>) {
        let mut state = self.lock();
        state.end = Some(end);
        self.read_is_over(&mut state);
    }

    fn read_is_over(&self, state: &mut State) {
        state.is_reading = false;
        self.was_read.notify_all();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}
