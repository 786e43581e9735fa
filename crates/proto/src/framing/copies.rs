//! Taking messages out of the read buffer, as copies or as slices of it.

use std::cell::Cell;

use bytes::{Buf, Bytes, BytesMut};

/// Messages up to this length are copied out of the read buffer. A slice of a few bytes would keep the
/// whole buffer alive.
const COPY_UP_TO: usize = 1024;

/// Short messages that arrived together are copied together, in blocks of at most this size. A message is
/// then a slice, which costs a fraction of a separate copy, and keeps at most this much memory alive.
pub(super) const BLOCK: usize = 8 * 1024;

/// Messages longer than this are not collected in blocks, and a block shorter than this gets an
/// allocation of exactly its own size.
pub(super) const SHORT: usize = BLOCK / 4;

thread_local! {
    /// The memory of this thread's last block. It is reused once every message of that block has been
    /// dropped, which is the usual case. A block then costs no allocation.
    static LAST: Cell<BytesMut> = Cell::default();
}

/// Returns a copy of several messages, which have at most [`BLOCK`] bytes in total.
pub(super) fn block(bytes: &[u8]) -> Bytes {
    if bytes.len() < SHORT {
        return Bytes::copy_from_slice(bytes);
    }
    // While the thread exits, the thread-local value may already be destroyed.
    let mut place = LAST.try_with(Cell::take).unwrap_or_default();
    if place.capacity() == 0 {
        place.reserve(BLOCK);
    } else if !place.try_reclaim(BLOCK) && place.capacity() < bytes.len() {
        // Messages of the last block are still held. With an exact copy, a caller that holds all
        // messages does not also hold the unused rest of each block. A new block is allocated next time.
        return Bytes::copy_from_slice(bytes);
    }
    place.extend_from_slice(bytes);
    let block = place.split().freeze();
    let _ = LAST.try_with(|last| last.set(place));
    block
}

/// Takes `length` bytes off the front of `buffer` as a message, and discards the `behind` bytes after
/// the message, which are the rest of its frame.
#[inline]
pub(crate) fn take_message(buffer: &mut BytesMut, length: usize, behind: usize) -> Bytes {
    let length = length.min(buffer.len());
    let message = if length > COPY_UP_TO {
        buffer.split_to(length).freeze()
    } else {
        let message = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        buffer.advance(length);
        message
    };
    buffer.advance(behind.min(buffer.len()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_COPIED: usize = BLOCK * 3 / 4;

    #[test]
    fn memory_of_a_dropped_block_is_reused() {
        let first = block(&[1; MAX_COPIED]);
        let place = first.as_ptr();
        drop(first);
        let second = block(&[2; MAX_COPIED]);
        assert_eq!(second.as_ptr(), place);
        // The rest of the same memory is large enough for this block.
        let third = block(&[3; SHORT]);
        assert_eq!(third.as_ptr(), place.wrapping_add(MAX_COPIED));
        assert_eq!(second, [2; MAX_COPIED][..]);
        assert_eq!(third, [3; SHORT][..]);
    }

    #[test]
    fn slice_of_a_block_keeps_only_that_block_alive() {
        let first = block(&[1; MAX_COPIED]);
        let place = first.as_ptr();
        let part = first.slice(10..20);
        drop(first);
        let second = block(&[2; MAX_COPIED]);
        let third = block(&[3; MAX_COPIED]);
        assert!(second.as_ptr() != place && third.as_ptr() != place);
        let place = third.as_ptr();
        drop(third);
        assert_eq!(block(&[4; MAX_COPIED]).as_ptr(), place);
        assert_eq!((part, second), (vec![1; 10].into(), vec![2; MAX_COPIED].into()));
    }

    #[test]
    fn small_block_has_its_own_allocation() {
        let first = block(&[1; BLOCK / 2]);
        let small = block(&[2; SHORT - 1]);
        assert_ne!(small.as_ptr(), first.as_ptr().wrapping_add(BLOCK / 2));
    }

    /// The order in which a thread's values are destroyed is unspecified, so both orders are tested.
    #[test]
    fn block_works_while_its_thread_exits() {
        struct Reads(Cell<Option<Bytes>>);
        impl Drop for Reads {
            fn drop(&mut self) {
                assert_eq!(block(&[7; MAX_COPIED]), [7; MAX_COPIED][..]);
            }
        }
        thread_local! {
            static READS: Reads = const { Reads(Cell::new(None)) };
        }
        for reads_first in [true, false] {
            #[allow(clippy::disallowed_methods)]
            let thread = std::thread::spawn(move || {
                if reads_first {
                    drop(block(&[1; MAX_COPIED]));
                }
                READS.with(|reads| reads.0.set(Some(block(&[2; MAX_COPIED]))));
            });
            thread.join().unwrap();
        }
    }
}
