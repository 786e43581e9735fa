//! The body of a streaming response: bytes that wait for the connection, and how many of them were written.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use tieline_transport::{Account, Holding, MemoryBudget, MemoryRefused};

use crate::lock::lock;

/// How many bytes may wait for the connection before the writer has to wait.
const BOUND: usize = 64 * 1024;

/// The progress of a connection: how many bytes were given to hyper, and how many of them were written.
#[derive(Default)]
pub(crate) struct Progress {
    given: AtomicU64,
    written: AtomicU64,
    /// A number that grows whenever bytes move: by the number of bytes written, and by 1 whenever the
    /// kernel has sent some while nothing could be written.
    moves: AtomicU64,
    /// Whether the kernel may still hold written bytes.
    is_under_way: AtomicBool,
    has_stalled: AtomicBool,
    /// Whether the other side may still be sending bytes that were not read as part of a request.
    has_unread: AtomicBool,
    /// Whether the current request has a body that was not read completely.
    has_body: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// The progress of the connection, if this is that of an HTTP/2 stream.
    connection: Option<Arc<Progress>>,
}

impl Progress {
    /// Creates the progress of a stream of an HTTP/2 connection.
    ///
    /// Bytes of the stream count as written when the client has a window for all of them and for more. Then they
    /// leave with the next write of the connection.
    pub(crate) fn of_stream(connection: Arc<Self>) -> Self {
        Self { connection: Some(connection), ..Self::default() }
    }

    /// Records bytes that were written to the connection.
    pub(crate) fn sent(&self, bytes: usize) {
        self.moves.fetch_add(bytes as u64, Relaxed);
        if bytes > 0 {
            self.is_under_way.store(true, Relaxed);
        }
    }

    /// Records that the kernel holds no written bytes.
    pub(crate) fn arrived(&self) {
        self.is_under_way.store(false, Relaxed);
    }

    /// Returns whether the kernel may still hold written bytes.
    pub(crate) fn is_under_way(&self) -> bool {
        self.is_under_way.load(Relaxed)
    }

    /// Records that bytes written earlier have left the kernel.
    pub(crate) fn moved(&self) {
        self.moves.fetch_add(1, Relaxed);
    }

    /// Returns a number that grows while bytes move.
    pub(crate) fn moves(&self) -> u64 {
        let connection = self.connection.as_ref().map_or(0, |connection| connection.moves());
        self.moves.load(Relaxed) + connection
    }

    /// Returns whether the connection, or its stream, was abandoned because the other side stopped reading.
    fn has_stalled(&self) -> bool {
        let is_broken = self.connection.as_ref().is_some_and(|connection| connection.has_stalled());
        self.has_stalled.load(Relaxed) || is_broken
    }

    /// Records that bytes were received.
    pub(crate) fn received(&self) {
        self.has_unread.store(true, Relaxed);
    }

    /// Records that the head of a request, or its whole body, was read.
    pub(crate) fn requested(&self, has_body: bool) {
        self.has_unread.store(has_body, Relaxed);
        self.has_body.store(has_body, Relaxed);
    }

    pub(crate) fn has_body(&self) -> bool {
        self.has_body.load(Relaxed)
    }

    /// Returns whether the other side may still be sending bytes that are not read.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread.load(Relaxed)
    }

    /// Records that the other side has stopped reading and the connection is abandoned.
    pub(crate) fn stall(&self) {
        self.has_stalled.store(true, Relaxed);
    }

    /// Records that everything given to hyper was written.
    pub(crate) fn flushed(&self) {
        let given = self.given.load(Relaxed);
        if self.written.swap(given, Relaxed) != given {
            let waker = lock(&self.waker).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// Creates a body and its writer. `progress` belongs to the connection. Unwritten bytes beyond 64 KiB
/// count against `memory`.
pub(crate) fn stream(
    progress: Arc<Progress>,
    memory: Option<&MemoryBudget>,
) -> (BodyWriter, Events) {
    let base = progress.given.load(Relaxed);
    let state = Arc::new(Mutex::new(BodyState::default()));
    (
        BodyWriter {
            state: state.clone(),
            progress: progress.clone(),
            base,
            pushed: 0,
            account: Account::of(memory, Holding::Queue),
            refused: OnceLock::new(),
        },
        Events { state, progress },
    )
}

#[derive(Default)]
struct BodyState {
    waiting: BytesMut,
    has_ended: bool,
    is_torn: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

/// The writer of the body. Dropping it ends the body.
pub(crate) struct BodyWriter {
    state: Arc<Mutex<BodyState>>,
    progress: Arc<Progress>,
    base: u64,
    pushed: u64,
    account: Account,
    refused: OnceLock<MemoryRefused>,
}

impl BodyWriter {
    /// Calls `write` to append to the body. Returns the length of the body so far.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut BytesMut)) -> u64 {
        let mut state = lock(&self.state);
        let before = state.waiting.len();
        write(&mut state.waiting);
        self.pushed += (state.waiting.len() - before) as u64;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        let held = usize::try_from(self.pushed - self.written()).unwrap_or(usize::MAX);
        if let Err(refused) = self.account.set(held) {
            let _ = self.refused.set(refused);
        }
        self.pushed
    }

    pub(crate) fn has_room(&self) -> bool {
        lock(&self.state).waiting.len() < BOUND
    }

    /// Returns how many bytes of the body were written to the connection.
    pub(crate) fn written(&self) -> u64 {
        self.progress.written.load(Relaxed).saturating_sub(self.base).min(self.pushed)
    }

    /// Returns a number that grows while any bytes move over the connection.
    pub(crate) fn moves(&self) -> u64 {
        self.progress.moves()
    }

    /// Waits until more than `known` bytes were written, or room becomes available, or the body is
    /// dropped.
    pub(crate) async fn moved(&self, known: u64, had_room: bool) {
        poll_fn(|cx| {
            *lock(&self.progress.waker) = Some(cx.waker().clone());
            let mut state = lock(&self.state);
            state.writer = Some(cx.waker().clone());
            let has_room = state.waiting.len() < BOUND;
            let is_torn = state.is_torn;
            drop(state);
            if let Err(refused) = self.account.check(cx.waker()) {
                let _ = self.refused.set(refused);
            }
            match is_torn
                || self.refused.get().is_some()
                || self.written() > known
                || (has_room && !had_room)
            {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Returns whether the connection was abandoned because the other side stopped reading.
    pub(crate) fn has_stalled(&self) -> bool {
        self.progress.has_stalled()
    }

    /// Returns whether the connection is gone or has to be closed.
    pub(crate) fn is_torn(&self) -> bool {
        self.refused.get().is_some() || lock(&self.state).is_torn
    }

    /// Returns the error if the connection has to be closed because too much memory is in use.
    pub(crate) fn refused(&self) -> Option<MemoryRefused> {
        self.refused.get().copied()
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.has_ended = true;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

/// The body of a streaming response.
pub(crate) struct Events {
    state: Arc<Mutex<BodyState>>,
    progress: Arc<Progress>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.progress.connection.is_some() {
            // The client has a window for everything that was taken before.
            self.progress.flushed();
        }
        let mut state = lock(&self.state);
        if state.waiting.is_empty() {
            if state.has_ended {
                return Poll::Ready(None);
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = std::mem::take(&mut state.waiting).freeze();
        let writer = state.writer.take();
        drop(state);
        self.progress.given.fetch_add(bytes.len() as u64, Relaxed);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        state.waiting.is_empty() && state.has_ended
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.is_torn = true;
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;

    fn read(events: &mut Events) -> Option<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(events).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            _ => None,
        }
    }

    #[test]
    fn taken_bytes_are_counted_as_written_after_the_flush() {
        let progress = Arc::new(Progress::default());
        // An earlier response on the same connection.
        progress.given.fetch_add(7, Relaxed);
        progress.flushed();
        let (mut writer, mut events) = stream(progress.clone(), None);
        assert_eq!(writer.write(|out| out.put_slice(b"first")), 5);
        progress.flushed();
        assert_eq!(writer.written(), 0, "not taken yet");
        assert_eq!(read(&mut events).unwrap(), "first");
        assert_eq!(writer.written(), 0, "not flushed yet");
        assert_eq!(writer.write(|out| out.put_slice(b"second")), 11);
        progress.flushed();
        assert_eq!(writer.written(), 5);
        assert!(read(&mut events).is_some() && read(&mut events).is_none());
        progress.flushed();
        assert_eq!(writer.written(), 11);
        drop(writer);
        assert!(events.is_end_stream());
    }

    #[test]
    fn streams_of_http2_count_their_own_bytes_when_the_client_has_a_window() {
        let connection = Arc::new(Progress::default());
        let stream_of = || stream(Arc::new(Progress::of_stream(connection.clone())), None);
        let ((mut first, mut events), (mut second, mut others)) = (stream_of(), stream_of());
        first.write(|out| out.put_slice(b"first"));
        second.write(|out| out.put_slice(b"second"));
        assert_eq!(read(&mut events).unwrap(), "first");
        connection.flushed();
        assert_eq!((first.written(), second.written()), (0, 0));
        // hyper asks for more when the client has a window.
        assert_eq!(read(&mut events), None);
        assert_eq!((first.written(), second.written()), (5, 0));
        assert_eq!(read(&mut others).unwrap(), "second");
        let moves = first.moves();
        connection.sent(1);
        assert!(first.moves() > moves && !first.has_stalled());
        connection.stall();
        assert!(first.has_stalled());
    }

    #[test]
    fn writer_has_room_below_the_bound() {
        let (mut writer, mut events) = stream(Arc::default(), None);
        writer.write(|out| out.put_bytes(b'x', BOUND - 1));
        assert!(writer.has_room());
        writer.write(|out| out.put_bytes(b'x', 1));
        assert!(!writer.has_room());
        read(&mut events).unwrap();
        assert!(writer.has_room() && !writer.is_torn());
        drop(events);
        assert!(writer.is_torn());
    }
}
