//! A buffer for bytes that wait to be decoded. It grows with the traffic and shrinks when the line is idle.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::budget::{Account, Holding, MemoryBudget};

/// The size of the first read. The size doubles whenever a read fills all the room it was given.
const SMALLEST_READ: usize = 4 * 1024;
const LARGEST_READ: usize = 256 * 1024;

/// Messages of at least this length are considered large.
const LARGE: usize = 64 * 1024;

/// An idle line releases a buffer larger than this.
const KEEP_CAPACITY: usize = 16 * 1024;

thread_local! {
    /// A buffer that an idle line released, kept for the next busy line of this thread. If it were freed
    /// after each burst, the next burst would have to allocate it again.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Bytes that were read from a stream and not decoded yet.
///
/// It is for channels on a byte stream: [`poll_fill`](Self::poll_fill) reads into it, and a decoder
/// takes bytes from the buffer to which it derefs. An idle line keeps at most 16 KiB; each thread keeps
/// at most another 256 KiB for all its lines.
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: BytesMut,
    /// The size of the whole allocation.
    size: usize,
    next_read: usize,
    /// The length of the last message.
    last_length: usize,
    account: Account,
    /// How many bytes of an incomplete message the decoder holds elsewhere.
    beside: usize,
}

impl ReadBuffer {
    /// Creates a buffer that contains `bytes`.
    pub fn new(bytes: BytesMut) -> Self {
        let account = Account::unbounded();
        Self { bytes, size: 0, next_read: SMALLEST_READ, last_length: 0, account, beside: 0 }
    }

    /// Counts the buffer's memory beyond 64 KiB against `budget`.
    pub fn within(mut self, budget: Option<&MemoryBudget>) -> Self {
        self.account = Account::of(budget, Holding::Message);
        self
    }

    /// Sets how many bytes of an incomplete message the decoder holds elsewhere. They are counted as
    /// well.
    #[inline]
    pub fn set_beside(&mut self, bytes: usize) {
        self.beside = bytes;
    }

    /// Records that a message of `length` bytes was taken.
    #[inline]
    pub fn took(&mut self, length: usize) {
        self.last_length = length;
    }

    /// Discards the bytes and releases the memory.
    pub fn release(&mut self) {
        self.bytes = BytesMut::new();
        self.beside = 0;
        // Shrinking is always granted.
        let _ = self.account.set(0);
    }

    /// Reads once; 0 is the end of the stream. `missing` is the number of bytes of the current message
    /// that the peer has announced but not sent. Because the announcement may be false, the buffer at
    /// most doubles.
    ///
    /// # Errors
    /// The stream's error, or a [`MemoryRefused`](crate::MemoryRefused).
    pub fn poll_fill(
        &mut self,
        read: &mut (impl AsyncRead + Unpin),
        missing: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.next_read > SMALLEST_READ && self.bytes.capacity() == 0 {
            // A thread that is exiting has no thread-locals.
            self.bytes = SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default();
            self.size = 0;
        }
        let room = self.room(missing);
        let size = self.size_with(room).saturating_add(self.beside);
        ready!(self.account.poll_set(size, cx))?;
        self.bytes.reserve(room);
        self.size = self.size.max(self.bytes.capacity());
        // Do not read past a large message: the start of the next one would have to be copied.
        let free = self.bytes.capacity() - self.bytes.len();
        let wanted = free.min(missing.max(self.next_read));
        let mut limited = (&mut self.bytes).limit(wanted);
        // A `read_buf` future keeps no state between polls, so it can be recreated each time.
        let polled = pin!(read.read_buf(&mut limited)).poll(cx);
        match polled {
            Poll::Ready(Ok(read)) if read == wanted => {
                self.next_read = (self.next_read * 2).min(LARGEST_READ);
            }
            Poll::Pending if self.bytes.is_empty() && self.bytes.capacity() > KEEP_CAPACITY => {
                self.rest();
            }
            _ => {}
        }
        if polled.is_pending() {
            self.account.check(cx.waker())?;
        }
        polled
    }

    /// Returns how large the buffer becomes when `room` more bytes are reserved.
    fn size_with(&self, room: usize) -> usize {
        let (here, all) = (self.bytes.len(), self.bytes.capacity());
        match all - here >= room {
            true => all,
            // The buffer at least doubles when it grows.
            false => all.saturating_mul(2).max(here.saturating_add(room)),
        }
    }

    /// Releases the buffer of an idle line, and reduces the size of the next read.
    #[cold]
    fn rest(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let _ = self.account.set(self.beside);
        // If messages still refer to the memory, it is freed when the last of them is dropped.
        if self.size <= LARGEST_READ && bytes.try_reclaim(self.size) {
            let _ = SPARE.try_with(|spare| spare.set(Some(bytes)));
        }
        let is_large = std::mem::take(&mut self.last_length) >= LARGE;
        // The buffer grows for a large message once its length is known.
        self.next_read = if is_large { SMALLEST_READ } else { self.next_read / 2 };
        self.next_read = self.next_read.max(SMALLEST_READ);
    }

    /// Returns how much room to reserve for the next read.
    fn room(&self, missing: usize) -> usize {
        let here = self.bytes.len();
        let announced = missing.min(here);
        // After a large message, another one is likely. Reserve room for all of it early, because
        // growing the buffer copies its content.
        let likely = match self.last_length.checked_sub(here) {
            Some(rest) if self.last_length >= LARGE => rest + self.next_read,
            _ => 0,
        };
        self.next_read.max(announced).max(likely)
    }
}

impl Deref for ReadBuffer {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

    use std::task::Waker;

    use super::*;

    /// Reads all of `stream`, then polls a silent one.
    fn drain(buffer: &mut ReadBuffer, mut stream: &[u8]) -> usize {
        let (mut silent, _other) = tokio::io::duplex(1);
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = 0;
        while !stream.is_empty() {
            match buffer.poll_fill(&mut stream, 0, &mut cx) {
                Poll::Ready(Ok(length)) => read += length,
                other => panic!("{other:?}"),
            }
            buffer.clear();
        }
        assert!(buffer.poll_fill(&mut silent, 0, &mut cx).is_pending());
        read
    }

    #[test]
    fn idle_line_passes_its_buffer_to_the_next_busy_line() {
        let burst = vec![b'x'; 300_000];
        let (mut one, mut other) =
            (ReadBuffer::new(BytesMut::new()), ReadBuffer::new(BytesMut::new()));
        assert_eq!(drain(&mut one, &burst), burst.len());
        assert!(one.capacity() <= KEEP_CAPACITY, "{}", one.capacity());
        let spare = SPARE.take().unwrap();
        let place = spare.as_ptr();
        SPARE.set(Some(spare));
        // A line that has read little needs no large buffer.
        drain(&mut other, b"little");
        assert!(other.capacity() <= KEEP_CAPACITY);
        let spare = SPARE.take().unwrap();
        assert_eq!(spare.as_ptr(), place);
        SPARE.set(Some(spare));
        // A busy line takes the spare buffer and returns it when idle.
        let mut cx = Context::from_waker(Waker::noop());
        assert!(one.poll_fill(&mut &burst[..], 0, &mut cx).is_ready());
        assert_eq!(one.as_ptr(), place);
        assert!(SPARE.take().is_none());
        one.clear();
        drain(&mut one, b"");
        assert_eq!(SPARE.take().unwrap().as_ptr(), place);
    }

    #[test]
    fn memory_that_messages_refer_to_is_not_reused() {
        let mut buffer = ReadBuffer::new(BytesMut::new());
        drain(&mut buffer, &[b'x'; 300_000]);
        SPARE.set(None);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(buffer.poll_fill(&mut &[b'm'; 100_000][..], 0, &mut cx).is_ready());
        let message = buffer.split().freeze();
        drain(&mut buffer, b"");
        drain(&mut buffer, &[b'y'; 100_000]);
        assert!(message.iter().all(|byte| *byte == b'm'));
    }

    #[test]
    fn small_bursts_shrink_the_reads() {
        let mut buffer = ReadBuffer::new(BytesMut::new());
        drain(&mut buffer, &[b'x'; 1_000_000]);
        for _ in 0..10 {
            drain(&mut buffer, b"little");
        }
        assert_eq!(buffer.next_read, SMALLEST_READ);
    }
}
