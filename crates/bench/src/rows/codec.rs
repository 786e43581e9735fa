//! Instructions that encoding and decoding one line of 128 bytes takes: repeatable where time is
//! not, so a guard of the hot path.

use std::io::IoSlice;
use std::process::Command;

use bytes::{Bytes, BytesMut};
use tieline_proto::{Frame, Framing, Lines, WriteBuf};

use super::payload;
use crate::compare::{Bench, Result};
use crate::report::{Line, Unit};

const PAYLOAD: usize = 128;
/// Few enough that copying them at once is not what is counted.
const BATCH: usize = 10;
const MESSAGES: usize = 1000 * BATCH;
const WORK: &str = "instructions, encode and decode 128 bytes, lines";

pub(crate) fn run(_: &Bench) -> Result<Vec<Line>> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Ok(vec![Line::skipped(WORK, "valgrind is not installed")]);
    }
    // What starting the program costs is in both counts.
    let (once, twice) = (instructions(MESSAGES)?, instructions(2 * MESSAGES)?);
    let each = twice.saturating_sub(once) as f64 / MESSAGES as f64;
    Ok(vec![Line::alone(WORK, Unit::Pieces, each, None)])
}

fn instructions(messages: usize) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let mut record = std::ffi::OsString::from("--callgrind-out-file=");
    record.push(folder.path().join("record"));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(record)
        .arg(std::env::current_exe()?)
        .args(["codec", &messages.to_string()])
        .output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    collected(&report).ok_or_else(|| format!("callgrind gave no count: {report}").into())
}

/// The count in callgrind's report.
fn collected(report: &str) -> Option<u64> {
    report.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

/// What is counted: messages into the queue a batch at a time, and out of the bytes again.
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
    fn the_count_is_found_in_the_report() {
        let report = "==12== Events    : Ir\n==12== Collected : 1234567\n==12==\n";
        assert_eq!(collected(report), Some(1_234_567));
        assert_eq!(collected("==12== no such thing"), None);
    }

    #[test]
    fn the_counted_work_ends() {
        work(BATCH + 1).unwrap();
    }
}
