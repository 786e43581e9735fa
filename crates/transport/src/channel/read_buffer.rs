//! Where bytes of a stream wait to be decoded: as much room as its traffic needs, and next to none while
//! it idles.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Account, Holding, MemoryBudget};

/// A read asks for this much at first, and for twice as much whenever it got all it asked for.
const SMALLEST_READ: usize = 4 * 1024;
const LARGEST_READ: usize = 256 * 1024;

/// A message from this length on is a large one.
const LARGE: usize = 64 * 1024;

/// An idle line gives back a buffer larger than this.
const KEEP_CAPACITY: usize = 16 * 1024;

thread_local! {
    /// What a line gave back when it fell silent, for the next of this thread that speaks: memory that is
    /// given to the allocator after each burst would be taken from it, and from the system, for the next.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// The bytes of a stream that were read and not decoded yet.
///
/// It is for channels that read a byte stream: [`poll_fill`](Self::poll_fill) reads into it, and a
/// decoder takes from it what it derefs to. A line that idles keeps at most 16 KiB; a thread keeps at
/// most 256 KiB besides, for all its lines.
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: BytesMut,
    /// How much all of it holds.
    size: usize,
    next_read: usize,
    /// The length of the last message.
    last_length: usize,
    account: Account,
    /// What its owner holds of a message that has begun, beside these bytes.
    beside: usize,
}

impl ReadBuffer {
    /// One in which these bytes wait.
    pub fn new(bytes: BytesMut) -> Self {
        let account = Account::unbounded();
        Self { bytes, size: 0, next_read: SMALLEST_READ, last_length: 0, account, beside: 0 }
    }

    /// The same, and what it holds beyond 64 KiB is counted by `budget`.
    pub fn within(mut self, budget: Option<&MemoryBudget>) -> Self {
        self.account = Account::of(budget, Holding::Message);
        self
    }

    /// Whoever decodes holds so many bytes of a message that has begun. They are counted, too.
    #[inline]
    pub fn set_beside(&mut self, bytes: usize) {
        self.beside = bytes;
    }

    /// A message of so many bytes was taken.
    #[inline]
    pub fn took(&mut self, length: usize) {
        self.last_length = length;
    }

    /// Forgets what waits, and gives the memory back.
    pub fn release(&mut self) {
        self.bytes = BytesMut::new();
        self.beside = 0;
        // Less is always granted.
        let _ = self.account.set(0);
    }

    /// One read; 0 is the end of the stream. Of the message that has begun, `missing` bytes are said to be
    /// still to come: that is believed only as far as it has already been borne out, so the buffer at most
    /// doubles.
    ///
    /// # Errors
    /// The stream's, or a [`MemoryRefused`](crate::MemoryRefused).
    pub fn poll_fill(
        &mut self,
        read: &mut (impl AsyncRead + Unpin),
        missing: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.next_read > SMALLEST_READ && self.bytes.capacity() == 0 {
            // A thread that ends has none any more.
            self.bytes = SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default();
            self.size = 0;
        }
        let room = self.room(missing);
        self.account.set(self.size_with(room).saturating_add(self.beside))?;
        self.bytes.reserve(room);
        self.size = self.size.max(self.bytes.capacity());
        // Not beyond the end of a large message: the start of the next one would have to be moved.
        let free = self.bytes.capacity() - self.bytes.len();
        let wanted = free.min(missing.max(self.next_read));
        let mut limited = (&mut self.bytes).limit(wanted);
        // A `read_buf` future holds no state between polls, so a new one each time is the same.
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

    /// How large it is with so much room behind what waits.
    fn size_with(&self, room: usize) -> usize {
        let (here, all) = (self.bytes.len(), self.bytes.capacity());
        match all - here >= room {
            true => all,
            // It grows at least by as much again.
            false => all.saturating_mul(2).max(here.saturating_add(room)),
        }
    }

    /// The line has fallen silent. It may speak again as much as before; if not, it asks for less.
    #[cold]
    fn rest(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let _ = self.account.set(self.beside);
        // If messages still refer to it, it goes with the last of them.
        if self.size <= LARGEST_READ && bytes.try_reclaim(self.size) {
            let _ = SPARE.try_with(|spare| spare.set(Some(bytes)));
        }
        let is_large = std::mem::take(&mut self.last_length) >= LARGE;
        // Room for a large message is made when it is known how large.
        self.next_read = if is_large { SMALLEST_READ } else { self.next_read / 2 };
        self.next_read = self.next_read.max(SMALLEST_READ);
    }

    /// How much room to make for what comes next.
    fn room(&self, missing: usize) -> usize {
        let here = self.bytes.len();
        let announced = missing.min(here);
        // Behind a large message another one is likely. Room for all of it is made while little of
        // it is here, as that has to be moved.
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

    /// Reads what there is, until nothing is.
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
    fn a_line_that_falls_silent_gives_its_memory_to_the_next_that_speaks() {
        let burst = vec![b'x'; 300_000];
        let (mut one, mut other) =
            (ReadBuffer::new(BytesMut::new()), ReadBuffer::new(BytesMut::new()));
        assert_eq!(drain(&mut one, &burst), burst.len());
        assert!(one.capacity() <= KEEP_CAPACITY, "{}", one.capacity());
        let spare = SPARE.take().unwrap();
        let place = spare.as_ptr();
        SPARE.set(Some(spare));
        // Whoever has said little so far needs no large one.
        drain(&mut other, b"little");
        assert!(other.capacity() <= KEEP_CAPACITY);
        let spare = SPARE.take().unwrap();
        assert_eq!(spare.as_ptr(), place);
        SPARE.set(Some(spare));
        // The one that was given it back has it again, and gives it back again.
        let mut cx = Context::from_waker(Waker::noop());
        assert!(one.poll_fill(&mut &burst[..], 0, &mut cx).is_ready());
        assert_eq!(one.as_ptr(), place);
        assert!(SPARE.take().is_none());
        one.clear();
        drain(&mut one, b"");
        assert_eq!(SPARE.take().unwrap().as_ptr(), place);
    }

    #[test]
    fn what_messages_refer_to_is_not_given_to_anybody() {
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
    fn a_line_that_says_little_again_and_again_asks_for_little() {
        let mut buffer = ReadBuffer::new(BytesMut::new());
        drain(&mut buffer, &[b'x'; 1_000_000]);
        for _ in 0..10 {
            drain(&mut buffer, b"little");
        }
        assert_eq!(buffer.next_read, SMALLEST_READ);
    }
}
