//! The write buffer. Small messages are copied together, large ones are kept by reference, and one
//! vectored write sends many of both.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use memchr::memchr2;

use crate::websocket::apply_mask;

/// Payloads of at least this size are kept by reference. For smaller payloads, a copy is cheaper than
/// another segment.
const REFERENCE_FROM: usize = 16 * 1024;

/// The maximum amount of memory that an empty queue keeps.
const KEEP_CAPACITY: usize = 8 * 1024;

/// The largest tail that is kept for the next queue that needs a large tail.
const MAX_SPARE: usize = 512 * 1024;

thread_local! {
    /// Memory that a queue of this thread released. If it were freed after each burst, the next burst
    /// would have to allocate it again, often from the operating system.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A queue of bytes to write.
///
/// The queue does not limit its own size: the caller checks [`len`](Self::len) before adding to it.
#[derive(Debug, Default)]
pub struct WriteBuf {
    /// Complete segments, written before `tail`.
    segments: VecDeque<Bytes>,
    /// Small messages, copied together.
    tail: Vec<u8>,
    /// How many bytes at the front of `tail` have been written.
    gone: usize,
    len: usize,
}

impl WriteBuf {
    /// Creates an empty queue, without allocating.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of bytes waiting to be written.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no bytes are waiting.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a message with the bytes of its frame `before` and `behind` it. A large message is kept
    /// by reference; all other bytes are copied.
    pub fn put_frame(&mut self, before: &[u8], message: &Bytes, behind: &[u8]) {
        let length = before.len() + message.len() + behind.len();
        self.len += length;
        if message.len() < REFERENCE_FROM {
            self.make_room(length);
            self.tail.extend_from_slice(before);
            self.tail.extend_from_slice(message);
        } else {
            self.tail.extend_from_slice(before);
            self.seal_tail();
            self.segments.push_back(message.clone());
        }
        self.tail.extend_from_slice(behind);
    }

    /// Appends `before` as it is, followed by `head` and `message`, masked as one payload.
    pub(crate) fn put_masked(&mut self, before: &[u8], head: &[u8], message: &[u8], mask: [u8; 4]) {
        let length = before.len() + head.len() + message.len();
        self.make_room(length);
        self.tail.extend_from_slice(before);
        let begins = self.tail.len();
        self.tail.extend_from_slice(head);
        self.tail.extend_from_slice(message);
        if let Some(payload) = self.tail.get_mut(begins..) {
            apply_mask(mask, payload);
        }
        self.len += length;
    }

    /// Appends a message and a newline. If the message contains a CR or LF, appends nothing and returns
    /// false.
    #[inline]
    pub(crate) fn put_line(&mut self, message: &Bytes) -> bool {
        if message.len() >= REFERENCE_FROM {
            return self.put_long_line(message);
        }
        let length = message.len() + 1;
        self.make_room(length);
        let before = self.tail.len();
        self.tail.extend_from_slice(message);
        // The compiler vectorizes this pass: two instructions find LF, VT, FF and CR together. The second
        // pass, for LF and CR alone, runs only if one of the four was found.
        let distance = |byte: &u8| byte.wrapping_sub(b'\n');
        let nearest = message.iter().map(distance).fold(u8::MAX, u8::min);
        if nearest <= b'\r' - b'\n' && memchr2(b'\n', b'\r', message).is_some() {
            self.tail.truncate(before);
            return false;
        }
        self.tail.push(b'\n');
        self.len += length;
        true
    }

    #[inline(never)]
    fn put_long_line(&mut self, message: &Bytes) -> bool {
        let holds_break = memchr2(b'\n', b'\r', message).is_some();
        if !holds_break {
            self.put_frame(b"", message, b"\n");
        }
        !holds_break
    }

    /// Reserves room for `more` bytes in the tail. Reuses the space of written bytes when moving the
    /// rest is cheap.
    #[inline]
    fn make_room(&mut self, more: usize) {
        if self.tail.capacity() - self.tail.len() < more {
            if self.gone > self.tail.len() / 2 {
                self.tail.drain(..self.gone);
                self.gone = 0;
            }
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let wanted = self.tail.len() + more;
        if wanted > KEEP_CAPACITY && self.tail.capacity() <= KEEP_CAPACITY {
            // While the thread exits, the thread-local value may already be destroyed.
            let mut spare = SPARE.try_with(Cell::take).unwrap_or_default();
            if spare.capacity() >= wanted {
                spare.extend_from_slice(&self.tail);
                self.tail = spare;
                return;
            }
        }
        self.tail.reserve(more);
    }

    /// Turns the unwritten bytes of the tail into a segment, and starts a new tail.
    fn seal_tail(&mut self) {
        let mut tail = Bytes::from(std::mem::take(&mut self.tail));
        tail.advance(std::mem::take(&mut self.gone));
        if !tail.is_empty() {
            self.segments.push_back(tail);
        }
    }

    /// Returns the first contiguous bytes to write.
    pub fn first_chunk(&self) -> &[u8] {
        self.segments.front().map_or(self.tail(), AsRef::as_ref)
    }

    /// Returns whether [`first_chunk`](Self::first_chunk) holds all waiting bytes.
    pub fn is_one_chunk(&self) -> bool {
        self.first_chunk().len() == self.len
    }

    fn tail(&self) -> &[u8] {
        self.tail.get(self.gone..).unwrap_or_default()
    }

    /// Fills `slices` with the next bytes to write, in order, and returns how many slices were filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(self.tail()).filter(|tail| !tail.is_empty());
        let waiting = self.segments.iter().map(AsRef::as_ref).chain(tail);
        let mut filled = 0;
        for (slot, chunk) in slices.iter_mut().zip(waiting) {
            *slot = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    /// Removes the first `written` bytes, or all bytes if there are fewer.
    pub fn advance(&mut self, written: usize) {
        let mut left = written.min(self.len);
        self.len -= left;
        while let Some(segment) = self.segments.front_mut() {
            if left < segment.len() {
                segment.advance(left);
                return;
            }
            left -= segment.len();
            self.segments.pop_front();
        }
        self.gone += left;
        if self.gone == self.tail.len() {
            self.tail.clear();
            self.gone = 0;
        }
    }

    /// Releases the memory of an empty queue if it is more than an idle line should keep. The memory is kept
    /// for the next queue of this thread that needs it, or freed.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.tail.capacity() > KEEP_CAPACITY {
            let tail = std::mem::take(&mut self.tail);
            if tail.capacity() <= MAX_SPARE {
                let _ = SPARE.try_with(|spare| spare.set(tail));
            }
        }
    }

    /// Returns a copy of all waiting bytes, for tests and for transports without vectored writes.
    pub fn to_bytes(&self) -> Bytes {
        let mut all = Vec::with_capacity(self.len);
        for segment in &self.segments {
            all.extend_from_slice(segment);
        }
        all.extend_from_slice(self.tail());
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// This holds for any messages, and for any number of bytes per write.
        #[test]
        fn bytes_are_written_in_order(
            pieces in proptest::collection::vec((any::<u8>(), 0usize..40_000, any::<bool>()), 0..12),
            steps in proptest::collection::vec(1usize..50_000, 1..20),
        ) {
            let mut queue = WriteBuf::new();
            let mut expected = Vec::new();
            for (byte, len, in_frame) in pieces {
                let piece = vec![byte; len];
                let (before, behind) = if in_frame { (&b"<<"[..], &b">"[..]) } else { (&b""[..], &b""[..]) };
                expected.extend_from_slice(before);
                expected.extend_from_slice(&piece);
                expected.extend_from_slice(behind);
                queue.put_frame(before, &Bytes::from(piece), behind);
            }
            prop_assert_eq!(queue.len(), expected.len());
            let mut written = Vec::new();
            for step in steps.iter().cycle() {
                if queue.is_empty() { break }
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = queue.chunks(&mut slices);
                let next: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).take(*step).collect();
                written.extend_from_slice(&next);
                queue.advance(next.len());
            }
            prop_assert_eq!(written, expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// This holds for any writes in between.
        #[test]
        fn refused_line_appends_nothing(
            steps in proptest::collection::vec(
                (0usize..4, prop_oneof![0usize..200, 3_000usize..6_000, 16_380usize..16_390], 0usize..20_000),
                1..40,
            ),
        ) {
            let mut queue = WriteBuf::new();
            let mut expected = Vec::new();
            for (index, (what, len, step)) in steps.into_iter().enumerate() {
                let mut line = vec![index as u8 | 0x80; len];
                if what == 0 && len > 0 {
                    line[step % len] = if step % 2 == 0 { b'\n' } else { b'\r' };
                }
                let is_taken = queue.put_line(&Bytes::from(line.clone()));
                prop_assert_eq!(is_taken, what != 0 || len == 0);
                if is_taken {
                    expected.extend_from_slice(&line);
                    expected.push(b'\n');
                }
                if what > 1 {
                    let written = step.min(expected.len());
                    queue.advance(written);
                    expected.drain(..written);
                }
                if what == 3 {
                    queue.shrink();
                }
                prop_assert_eq!(queue.len(), expected.len());
                prop_assert_eq!(queue.is_empty(), expected.is_empty());
                prop_assert!(queue.to_bytes() == expected, "the bytes differ after step {index}");
            }
        }
    }

    #[test]
    fn only_cr_and_lf_are_refused_at_any_position() {
        for byte in 0..=u8::MAX {
            for length in [1, 15, 16, 17, 32, 63, 100] {
                for at in 0..length {
                    let mut line = vec![b'x'; length];
                    line[at] = byte;
                    let is_taken = WriteBuf::new().put_line(&line.into());
                    assert_eq!(
                        is_taken,
                        !matches!(byte, b'\r' | b'\n'),
                        "{byte} at {at} of {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn large_payload_is_not_copied() {
        let large = Bytes::from(vec![7; REFERENCE_FROM]);
        let mut queue = WriteBuf::new();
        queue.put_frame(b"head", &large, b"");
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(queue.chunks(&mut slices), 2);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
    }
}
