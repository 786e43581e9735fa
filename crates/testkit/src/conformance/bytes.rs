//! Level one: bytes, identity, health, close.

use std::io;
use std::time::Duration;

use tieline_transport::{BoxConnection, CloseReason, Connection, ConnectionExt, Health};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Subject;
use crate::wait::LIMIT;

/// Bytes arrive as they were sent.
pub async fn bytes_go_there_and_back(subject: Subject) {
    let mut line = subject.line().await;
    for length in [1, 2, 255, 4096, 5000] {
        there_and_back(&mut line, &pattern(length)).await;
    }
}

/// Reading goes on while writing does, whatever the sizes of the pieces.
pub async fn a_mebibyte_goes_both_ways_at_once_through_small_buffers(subject: Subject) {
    let (mut read, mut write) = subject.line().await.into_split();
    let sent = pattern(1 << 20);
    let (received, ()) =
        tokio::join!(read_pieces(&mut read, sent.len(), 333), write_pieces(&mut write, &sent, 777));
    assert_same(&received, &sent);
}

/// Shutting down the writing half is the far side's end of input, and no end of its output; where there
/// is no half-close it is the end of both.
pub async fn the_end_of_input_reaches_the_far_side_and_its_answer_still_arrives(subject: Subject) {
    let line = subject.line().await;
    let half_close = line.capabilities().half_close;
    let (mut read, mut write) = line.into_split();
    write.write_all(b"question").await.unwrap();
    write.flush().await.unwrap();
    if half_close {
        write.shutdown().await.unwrap();
    }
    assert_eq!(read_pieces(&mut read, 8, 100).await, b"question");
    if !half_close {
        write.shutdown().await.unwrap();
    }
    let mut more = [0; 1];
    assert_eq!(read.read(&mut more).await.unwrap(), 0);
    assert_eq!(read.read(&mut more).await.unwrap(), 0, "an end stays an end");
    // The half that was shut down takes nothing more.
    assert!(write.write_all(b"late").await.is_err());
}

/// Kind, endpoint, counts, last activity, and the peer where the operating system knows it.
pub async fn info_says_what_it_is_and_counts_what_moves(subject: Subject) {
    let mut line = subject.line().await;
    let before = line.info();
    assert_eq!(before.kind, subject.kind());
    assert_eq!(before.kind.as_str(), subject.endpoint().scheme());
    assert_eq!(&before.endpoint, subject.endpoint());
    assert_eq!((before.bytes_in, before.bytes_out), (0, 0));
    assert_eq!(before.last_activity, before.since);
    assert_eq!(before.last_received, before.since);
    assert_eq!(before.peer.is_some(), line.capabilities().peer_identity);

    there_and_back(&mut line, &pattern(1000)).await;
    let after = line.info();
    assert_eq!((after.bytes_in, after.bytes_out), (1000, 1000));
    assert_eq!(after.since, before.since);
    // It is kept in microseconds, and one may not have passed.
    while line.info().last_activity == before.last_activity
        || line.info().last_received == before.last_received
    {
        there_and_back(&mut line, b"x").await;
    }
    assert_eq!(line.control().info().bytes_in, line.info().bytes_in);
}

/// A receive that took too long took nothing.
pub async fn receive_times_out_and_loses_nothing(subject: Subject) {
    let mut line = subject.line().await;
    let mut buffer = [0; 16];
    let sent = pattern(300);
    let mut received = Vec::new();
    for piece in sent.chunks(10) {
        let error = line.receive(&mut buffer, Duration::from_micros(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        line.send(piece, LIMIT).await.unwrap();
        let expected = received.len() + piece.len();
        while received.len() < expected {
            // Short enough to be cut off often while the bytes are under way.
            match line.receive(&mut buffer, Duration::from_micros(50)).await {
                Ok(0) => panic!("the line ended"),
                Ok(read) => received.extend_from_slice(&buffer[..read]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            }
        }
    }
    assert_same(&received, &sent);
}

/// Closing ends what stands behind, and the reason can be had from then on.
pub async fn close_says_why_and_health_goes_down(subject: Subject) {
    let mut line = subject.line().await;
    let control = line.control().clone();
    there_and_back(&mut line, b"hello").await;
    assert_eq!(line.health(), Health::Up);
    assert!(control.close_reason().is_none());

    let reason = line.close().await;
    assert!(reason.is_clean(), "{reason}");
    assert_eq!(control.health(), Health::Down);
    assert_eq!(control.close_reason().unwrap().to_string(), reason.to_string());
}

/// As shutting it down, but for what was not flushed.
pub async fn dropping_the_writing_half_is_the_far_sides_end_of_input(subject: Subject) {
    let line = subject.line().await;
    let half_close = line.capabilities().half_close;
    let (mut read, mut write) = line.into_split();
    write.write_all(b"question").await.unwrap();
    write.flush().await.unwrap();
    if !half_close {
        assert_eq!(read_pieces(&mut read, 8, 100).await, b"question");
    }
    drop(write);
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, if half_close { &b"question"[..] } else { b"" });
}

/// Nothing that outlives the halves keeps the line.
pub async fn dropping_both_halves_ends_the_line(subject: Subject) {
    let line = subject.line().await;
    let control = line.control().clone();
    let (read, write) = line.into_split();
    assert_eq!(control.health(), Health::Up);
    drop((read, write));
    assert_eq!(control.health(), Health::Down);
    assert!(matches!(control.close_reason(), Some(CloseReason::ByUs)), "{control:?}");
}

pub(super) async fn there_and_back(line: &mut BoxConnection, bytes: &[u8]) {
    line.send(bytes, LIMIT).await.unwrap();
    let mut received = vec![0; bytes.len()];
    line.read_exact(&mut received).await.unwrap();
    assert_same(&received, bytes);
}

pub(super) async fn write_pieces(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size) {
        write.write_all(piece).await.unwrap();
    }
    write.flush().await.unwrap();
}

pub(super) async fn read_pieces(
    read: &mut (impl AsyncRead + Unpin),
    length: usize,
    size: usize,
) -> Vec<u8> {
    let mut received = Vec::with_capacity(length);
    let mut buffer = vec![0; size];
    while received.len() < length {
        let read = read.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the stream ended after {} of {length} bytes", received.len());
        received.extend_from_slice(&buffer[..read]);
    }
    received
}

/// Bytes in which neither a lost nor a doubled nor a moved piece goes unnoticed.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

#[track_caller]
pub(super) fn assert_same(received: &[u8], sent: &[u8]) {
    let differs = received.iter().zip(sent).position(|(received, sent)| received != sent);
    assert!(
        received == sent,
        "{} bytes arrived of {}; the first to differ: {differs:?}",
        received.len(),
        sent.len()
    );
}
