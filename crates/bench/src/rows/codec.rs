//! The number of instructions for encoding and decoding one line of 128 bytes. Unlike times, it is
//! repeatable, so it reveals small regressions in the hot path.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use tieline_proto::{Frame, Framing, Lines, WriteBuf};

use super::payload;
use crate::compare::{Bench, Result};
use crate::report::{TableLine, Unit};
use crate::valgrind::{self, Count};

const PAYLOAD: usize = 128;
/// The number of messages in a batch, which is so small that the cost of copying the batch does not
/// dominate the count.
const BATCH: usize = 10;
const MESSAGES: usize = 1000 * BATCH;
const WORK: &str = "instructions, encode and decode 128 bytes, lines";

pub(super) fn instructions(_: &Bench) -> Result<Vec<TableLine>> {
    let each = valgrind::each(MESSAGES, |messages| {
        valgrind::count(Count::Instructions, &["codec", &messages.to_string()])
    })?;
    Ok(vec![TableLine::alone(WORK, Unit::Pieces, each, None)])
}

/// Does the work that is counted: encodes messages into a queue in batches, and decodes the bytes.
pub(crate) fn work(messages: usize) -> Result<()> {
    let message = Bytes::from_static(payload(PAYLOAD));
    let mut lines = Lines::default();
    let mut queue = WriteBuf::new();
    let mut buffer = BytesMut::new();
    let mut decoded = 0;
    while decoded < messages {
        for _ in 0..BATCH {
            lines.encode(&message, &mut queue)?;
        }
        let mut slices = [IoSlice::new(&[])];
        queue.chunks(&mut slices);
        let [written] = slices;
        buffer.extend_from_slice(&written);
        queue.advance(buffer.len());
        while let Some(frame) = lines.decode(&mut buffer)? {
            let Frame::Message(message) = frame else { return Err("not a message".into()) };
            std::hint::black_box(message);
            decoded += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_work_terminates() {
        work(BATCH + 1).unwrap();
    }
}
