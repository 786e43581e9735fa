//! Encoded bytes on their way out: small messages are copied together, large ones are passed by
//! reference, and one vectored write takes many of both.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads from here on are kept by reference; below, a copy is cheaper than another segment.
const REFERENCE_FROM: usize = 16 * 1024;

/// An emptied buffer larger than this is given back to the allocator.
const KEEP_CAPACITY: usize = 64 * 1024;

/// A queue of bytes to write.
///
/// It has no bound of its own: who fills it asks [`len`](Self::len) first.
#[derive(Debug, Default)]
pub struct WriteBuf {
    /// Whole segments, written before `tail`.
    segments: VecDeque<Bytes>,
    /// Where small writes are copied together.
    tail: BytesMut,
    len: usize,
}

impl WriteBuf {
    /// An empty queue; allocates nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes wait to be written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends `bytes`, by reference when they are large.
    pub fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() < REFERENCE_FROM {
            return self.put_slice(bytes);
        }
        if !self.tail.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
        }
        self.segments.push_back(bytes.clone());
        self.len += bytes.len();
    }

    /// Fills `slices` with what is to be written next, in order, and says how many were filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(self.tail.as_ref());
        let waiting = self.segments.iter().map(AsRef::as_ref).chain(tail);
        let mut filled = 0;
        for (slot, chunk) in slices.iter_mut().zip(waiting) {
            *slot = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `written` bytes, at most all.
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
        self.tail.advance(left);
        if self.tail.is_empty() && self.tail.capacity() > KEEP_CAPACITY {
            self.tail = BytesMut::new();
        }
    }

    /// Everything that waits, in one piece, for tests and for transports without vectored writes.
    pub fn to_bytes(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.len);
        for segment in &self.segments {
            all.extend_from_slice(segment);
        }
        all.extend_from_slice(&self.tail);
        all.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is put in comes out in order, however the writes fall.
        #[test]
        fn bytes_leave_in_the_order_they_came(
            pieces in proptest::collection::vec((any::<u8>(), 0usize..40_000, any::<bool>()), 0..12),
            steps in proptest::collection::vec(1usize..50_000, 1..20),
        ) {
            let mut queue = WriteBuf::new();
            let mut expected = Vec::new();
            for (byte, len, by_reference) in pieces {
                let piece = vec![byte; len];
                expected.extend_from_slice(&piece);
                if by_reference { queue.put_bytes(&Bytes::from(piece)) } else { queue.put_slice(&piece) }
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

    #[test]
    fn a_large_payload_is_not_copied() {
        let large = Bytes::from(vec![7; REFERENCE_FROM]);
        let mut queue = WriteBuf::new();
        queue.put_slice(b"head");
        queue.put_bytes(&large);
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(queue.chunks(&mut slices), 2);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
    }
}
