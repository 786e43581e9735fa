//! Reading an inherited descriptor from async code: a thread polls it together with a pipe that
//! says when to stop, and hands over what it read.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, ReadBuf};

/// One read brings at most this much, and the thread reads ahead no further.
const CHUNK: usize = 64 * 1024;

/// The real stdin. Dropping it ends its thread, also while nothing comes in.
pub struct Stdin {
    shared: Arc<Shared>,
    /// Closing it wakes the thread from its poll.
    _stop: PipeWriter,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    taken: Condvar,
}

#[derive(Default)]
struct State {
    /// What was read; the thread reads on when all of it was taken.
    chunk: Vec<u8>,
    position: usize,
    end: Option<io::Result<()>>,
    waker: Option<Waker>,
    stopped: bool,
}

impl Stdin {
    pub(super) fn new(stdin: OwnedFd) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        let builder = std::thread::Builder::new().name("tieline-stdin".into());
        builder.spawn(move || thread.run(&stdin, &stopped))?;
        Ok(Self { shared, _stop: stop })
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.taken.notify_one();
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

    fn run(&self, stdin: &OwnedFd, stopped: &PipeReader) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match read_or_stop(stdin, stopped, &mut chunk) {
                Ok(None) => return,
                Ok(Some(read)) => read,
                Err(errno) => return self.end(Err(errno.into())),
            };
            if read == 0 {
                return self.end(Ok(()));
            }
            chunk.truncate(read);
            match self.hand_over(chunk) {
                Some(emptied) => chunk = emptied,
                None => return,
            }
            chunk.resize(CHUNK, 0);
        }
    }

    /// Gives the chunk to the reader and waits until all of it was taken; `None` when nobody reads
    /// any more.
    fn hand_over(&self, chunk: Vec<u8>) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.chunk = chunk;
        state.position = 0;
        wake(&mut state);
        while state.position < state.chunk.len() && !state.stopped {
            state = self.taken.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        if state.stopped { None } else { Some(std::mem::take(&mut state.chunk)) }
    }

    fn end(&self, end: io::Result<()>) {
        let mut state = self.lock();
        state.end = Some(end);
        wake(&mut state);
    }
}

fn wake(state: &mut State) {
    if let Some(waker) = state.waker.take() {
        waker.wake();
    }
}

/// Reads once there is something to read; `None` when told to stop.
fn read_or_stop(
    stdin: &OwnedFd,
    stopped: &PipeReader,
    chunk: &mut [u8],
) -> rustix::io::Result<Option<usize>> {
    loop {
        let mut fds = [PollFd::new(stdin, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let [input, stop] = &fds;
        if !stop.revents().is_empty() {
            return Ok(None);
        }
        if input.revents().is_empty() {
            continue;
        }
        match rustix::io::read(stdin, &mut *chunk) {
            // Another process that shares the descriptor may have made it non-blocking, or may
            // have been quicker.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
            Ok(read) => return Ok(Some(read)),
        }
    }
}
