//! How messages leave the read buffer.

use std::cell::Cell;

use bytes::{Buf, Bytes, BytesMut};

/// Messages up to this length are copied out of the read buffer: a reference would keep the whole
/// buffer alive for as long as somebody holds a few bytes of it.
const COPY_UP_TO: usize = 1024;

/// Short messages that came together are copied out of the read buffer together, this much at a time:
/// so a message is a slice that costs a fraction of a copy of its own, and whoever holds one keeps
/// no more than this alive.
pub(super) const BLOCK: usize = 8 * 1024;

/// Longer messages go one by one, and fewer bytes get memory of just their size.
pub(super) const SHORT: usize = BLOCK / 4;

thread_local! {
    /// Where the last block of this thread was put. It is put there again when nobody has anything of it
    /// any more, as is the rule: then a block costs neither allocation nor release.
    static LAST: Cell<BytesMut> = Cell::default();
}

/// A copy of what came together, of at most [`BLOCK`] bytes.
pub(super) fn block(bytes: &[u8]) -> Bytes {
    if bytes.len() < SHORT {
        return Bytes::copy_from_slice(bytes);
    }
    // A thread that ends has no such place any more.
    let mut place = LAST.try_with(Cell::take).unwrap_or_default();
    if place.capacity() == 0 {
        place.reserve(BLOCK);
    } else if !place.try_reclaim(BLOCK) && place.capacity() < bytes.len() {
        // What is put there is kept: who keeps all of it is not to pay for what is left over each time.
        // The next block has a place of its own.
        return Bytes::copy_from_slice(bytes);
    }
    place.extend_from_slice(bytes);
    let block = place.split().freeze();
    let _ = LAST.try_with(|last| last.set(place));
    block
}

/// Takes `length` bytes off the front of `buffer` as a message, and drops the rest of its frame
/// `behind` it.
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

    const MOST: usize = BLOCK * 3 / 4;

    #[test]
    fn a_block_that_nobody_has_any_more_is_the_place_of_the_next() {
        let first = block(&[1; MOST]);
        let place = first.as_ptr();
        drop(first);
        let second = block(&[2; MOST]);
        assert_eq!(second.as_ptr(), place);
        // What is left there is enough for this one.
        let third = block(&[3; SHORT]);
        assert_eq!(third.as_ptr(), place.wrapping_add(MOST));
        assert_eq!(second, [2; MOST][..]);
        assert_eq!(third, [3; SHORT][..]);
    }

    #[test]
    fn who_keeps_a_part_of_a_block_keeps_its_place_and_no_others() {
        let first = block(&[1; MOST]);
        let place = first.as_ptr();
        let part = first.slice(10..20);
        drop(first);
        let second = block(&[2; MOST]);
        let third = block(&[3; MOST]);
        assert!(second.as_ptr() != place && third.as_ptr() != place);
        let place = third.as_ptr();
        drop(third);
        assert_eq!(block(&[4; MOST]).as_ptr(), place);
        assert_eq!((part, second), (vec![1; 10].into(), vec![2; MOST].into()));
    }

    #[test]
    fn a_small_block_keeps_nothing_but_itself_alive() {
        let first = block(&[1; BLOCK / 2]);
        let small = block(&[2; SHORT - 1]);
        assert_ne!(small.as_ptr(), first.as_ptr().wrapping_add(BLOCK / 2));
    }

    /// What a thread has is given back in an order that nobody knows.
    #[test]
    fn a_thread_that_ends_may_still_read() {
        struct Reads(Cell<Option<Bytes>>);
        impl Drop for Reads {
            fn drop(&mut self) {
                assert_eq!(block(&[7; MOST]), [7; MOST][..]);
            }
        }
        thread_local! {
            static READS: Reads = const { Reads(Cell::new(None)) };
        }
        for reads_first in [true, false] {
            let thread = std::thread::spawn(move || {
                if reads_first {
                    drop(block(&[1; MOST]));
                }
                READS.with(|reads| reads.0.set(Some(block(&[2; MOST]))));
            });
            thread.join().unwrap();
        }
    }
}
