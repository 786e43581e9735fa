//! The body of an answer that goes on: bytes that wait for the connection, and how far it has come.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use tieline_transport::{Account, Holding, MemoryBudget, MemoryRefused};

use crate::channel::lock;

/// So many bytes may wait for the connection before no more are made.
const BOUND: usize = 64 * 1024;

/// How far the bytes of a connection have come: what was given to HTTP, and what of that was written.
#[derive(Default)]
pub(crate) struct Progress {
    given: AtomicU64,
    written: AtomicU64,
    /// Grows with every sign that bytes move: by those that were written, and by 1 whenever the kernel has
    /// sent some while nothing could be written.
    moves: AtomicU64,
    /// The kernel may still hold something of what was written.
    is_under_way: AtomicBool,
    has_stalled: AtomicBool,
    /// The other side may still be sending something that was not read as a part of a request.
    has_unread: AtomicBool,
    /// The request under way has a body that was not read to its end.
    has_body: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Progress {
    /// Bytes were written to the connection.
    pub(crate) fn sent(&self, bytes: usize) {
        self.moves.fetch_add(bytes as u64, Relaxed);
        if bytes > 0 {
            self.is_under_way.store(true, Relaxed);
        }
    }

    /// The kernel holds nothing of what was written.
    pub(crate) fn arrived(&self) {
        self.is_under_way.store(false, Relaxed);
    }

    /// Whether the kernel may still hold something of what was written.
    pub(crate) fn is_under_way(&self) -> bool {
        self.is_under_way.load(Relaxed)
    }

    /// Bytes that were written before have left.
    pub(crate) fn moved(&self) {
        self.moves.fetch_add(1, Relaxed);
    }

    /// A number that grows while bytes move.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// Bytes have come.
    pub(crate) fn received(&self) {
        self.has_unread.store(true, Relaxed);
    }

    /// The head of a request was read, or all of its body.
    pub(crate) fn requested(&self, has_body: bool) {
        self.has_unread.store(has_body, Relaxed);
        self.has_body.store(has_body, Relaxed);
    }

    pub(crate) fn has_body(&self) -> bool {
        self.has_body.load(Relaxed)
    }

    /// Whether the other side may still be sending something that is not read.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread.load(Relaxed)
    }

    /// The other side has stopped reading, and the connection is given up.
    pub(crate) fn stall(&self) {
        self.has_stalled.store(true, Relaxed);
    }

    /// All that HTTP had was written.
    pub(crate) fn flushed(&self) {
        let given = self.given.load(Relaxed);
        if self.written.swap(given, Relaxed) != given {
            let waker = lock(&self.waker).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// A body, and the pen that writes it. `progress` is that of the connection.
/// What waits beyond 64 KiB is counted by `memory`.
pub(crate) fn stream(
    progress: Arc<Progress>,
    memory: Option<&MemoryBudget>,
) -> (BodyWriter, Events) {
    let base = progress.given.load(Relaxed);
    let page = Arc::new(Mutex::new(BodyState::default()));
    (
        BodyWriter {
            page: page.clone(),
            progress: progress.clone(),
            base,
            pushed: 0,
            account: Account::of(memory, Holding::Queue),
            refused: OnceLock::new(),
        },
        Events { page, progress },
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

/// What writes the body. Dropping it ends the body.
pub(crate) struct BodyWriter {
    page: Arc<Mutex<BodyState>>,
    progress: Arc<Progress>,
    base: u64,
    pushed: u64,
    account: Account,
    refused: OnceLock<MemoryRefused>,
}

impl BodyWriter {
    /// Appends to the body whatever `write` does. Gives how long the body is then.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut BytesMut)) -> u64 {
        let mut page = lock(&self.page);
        let before = page.waiting.len();
        write(&mut page.waiting);
        self.pushed += (page.waiting.len() - before) as u64;
        let reader = page.reader.take();
        drop(page);
        reader.into_iter().for_each(Waker::wake);
        let held = usize::try_from(self.pushed - self.written()).unwrap_or(usize::MAX);
        if let Err(refused) = self.account.set(held) {
            let _ = self.refused.set(refused);
        }
        self.pushed
    }

    pub(crate) fn has_room(&self) -> bool {
        lock(&self.page).waiting.len() < BOUND
    }

    /// How much of the body was written to the connection.
    pub(crate) fn written(&self) -> u64 {
        self.progress.written.load(Relaxed).saturating_sub(self.base).min(self.pushed)
    }

    /// A number that grows while bytes of any kind move over the connection.
    pub(crate) fn moves(&self) -> u64 {
        self.progress.moves()
    }

    /// Waits until more was written than `known`, or there is room where there was none, or nobody reads.
    pub(crate) async fn moved(&self, known: u64, had_room: bool) {
        poll_fn(|cx| {
            *lock(&self.progress.waker) = Some(cx.waker().clone());
            let mut page = lock(&self.page);
            page.writer = Some(cx.waker().clone());
            let has_room = page.waiting.len() < BOUND;
            let is_torn = page.is_torn;
            drop(page);
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

    /// The connection was given up because nobody read what came over it.
    pub(crate) fn has_stalled(&self) -> bool {
        self.progress.has_stalled.load(Relaxed)
    }

    /// The connection is gone, or has to go.
    pub(crate) fn is_torn(&self) -> bool {
        self.refused.get().is_some() || lock(&self.page).is_torn
    }

    /// Why it has to go, if too much waits for it.
    pub(crate) fn refused(&self) -> Option<MemoryRefused> {
        self.refused.get().copied()
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        let mut page = lock(&self.page);
        page.has_ended = true;
        let reader = page.reader.take();
        drop(page);
        reader.into_iter().for_each(Waker::wake);
    }
}

/// The body.
pub(crate) struct Events {
    page: Arc<Mutex<BodyState>>,
    progress: Arc<Progress>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut page = lock(&self.page);
        if page.waiting.is_empty() {
            if page.has_ended {
                return Poll::Ready(None);
            }
            page.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = std::mem::take(&mut page.waiting).freeze();
        let writer = page.writer.take();
        drop(page);
        self.progress.given.fetch_add(bytes.len() as u64, Relaxed);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        let page = lock(&self.page);
        page.waiting.is_empty() && page.has_ended
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut page = lock(&self.page);
        page.is_torn = true;
        let writer = page.writer.take();
        drop(page);
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
    fn what_was_taken_counts_as_written_when_all_that_was_is() {
        let progress = Arc::new(Progress::default());
        // An answer before on the same connection.
        progress.given.fetch_add(7, Relaxed);
        progress.flushed();
        let (mut writer, mut events) = stream(progress.clone(), None);
        assert_eq!(writer.write(|out| out.put_slice(b"first")), 5);
        progress.flushed();
        assert_eq!(writer.written(), 0, "nobody has taken it");
        assert_eq!(read(&mut events).unwrap(), "first");
        assert_eq!(writer.written(), 0, "it is in a buffer");
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
    fn a_pen_has_room_until_enough_waits() {
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
