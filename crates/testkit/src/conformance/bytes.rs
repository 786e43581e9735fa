//! Checks of the transfer of bytes, and of identity, health and closing.

use std::io;
use std::time::Duration;

use tieline_transport::{BoxConnection, CloseReason, Connection, ConnectionExt, Health};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Subject;
use crate::wait::LIMIT;

/// Bytes arrive as they were sent.
pub async fn bytes_are_echoed_unchanged(subject: Subject) {
    let mut line = subject.line().await;
    for length in [1, 2, 255, 4096, 5000] {
        round_trip(&mut line, &pattern(length)).await;
    }
}

/// Bytes can be read while others are written, in chunks of any size.
pub async fn mebibyte_in_both_directions_through_small_buffers(subject: Subject) {
    let (mut read, mut write) = subject.line().await.into_split();
    let sent = pattern(1 << 20);
    let (received, ()) =
        tokio::join!(read_pieces(&mut read, sent.len(), 333), write_pieces(&mut write, &sent, 777));
    assert_same(&received, &sent);
}

/// Shutting down the write half ends the peer's input, but not its output. Without half-close, it ends
/// both directions.
pub async fn end_of_input_reaches_the_peer_and_its_response_still_arrives(subject: Subject) {
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
    assert_eq!(read.read(&mut more).await.unwrap(), 0, "the end of input is permanent");
    // Nothing can be written after shutdown.
    assert!(write.write_all(b"late").await.is_err());
}

/// The info contains the kind, the endpoint, the counts, the last activity, and the peer if the
/// operating system knows it.
pub async fn info_describes_the_line_and_counts_bytes(subject: Subject) {
    let mut line = subject.line().await;
    let before = line.info();
    assert_eq!(before.kind, subject.kind());
    assert_eq!(before.kind.as_str(), subject.endpoint().scheme());
    assert_eq!(&before.endpoint, subject.endpoint());
    assert_eq!((before.bytes_in, before.bytes_out), (0, 0));
    assert_eq!(before.last_activity, before.since);
    assert_eq!(before.last_received, before.since);
    assert_eq!(before.peer.is_some(), line.capabilities().peer_identity);

    round_trip(&mut line, &pattern(1000)).await;
    let after = line.info();
    assert_eq!((after.bytes_in, after.bytes_out), (1000, 1000));
    assert_eq!(after.since, before.since);
    // Times have microsecond resolution, and less than one microsecond may have passed.
    while line.info().last_activity == before.last_activity
        || line.info().last_received == before.last_received
    {
        round_trip(&mut line, b"x").await;
    }
    assert_eq!(line.control().info().bytes_in, line.info().bytes_in);
}

/// A receive that times out loses no data.
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
            // This timeout is so short that it often expires while bytes are in transit.
            match line.receive(&mut buffer, Duration::from_micros(50)).await {
                Ok(0) => panic!("the line ended"),
                Ok(read) => received.extend_from_slice(&buffer[..read]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            }
        }
    }
    assert_same(&received, &sent);
}

/// Closing ends the line, and the reason remains available afterwards.
pub async fn close_returns_the_reason_and_health_is_down(subject: Subject) {
    let mut line = subject.line().await;
    let control = line.control().clone();
    round_trip(&mut line, b"hello").await;
    assert_eq!(line.health(), Health::Up);
    assert!(control.close_reason().is_none());

    let reason = line.close().await;
    assert!(reason.is_clean(), "{reason}");
    assert_eq!(control.health(), Health::Down);
    assert_eq!(control.close_reason().unwrap().to_string(), reason.to_string());
}

/// Dropping the write half ends the peer's input as shutdown does, except that nothing is flushed.
pub async fn dropping_the_write_half_ends_the_peers_input(subject: Subject) {
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

/// No handle other than the halves keeps the line alive.
pub async fn dropping_both_halves_ends_the_line(subject: Subject) {
    let line = subject.line().await;
    let control = line.control().clone();
    let (read, write) = line.into_split();
    assert_eq!(control.health(), Health::Up);
    drop((read, write));
    assert_eq!(control.health(), Health::Down);
    assert!(matches!(control.close_reason(), Some(CloseReason::ByUs)), "{control:?}");
}

pub(super) async fn round_trip(line: &mut BoxConnection, bytes: &[u8]) {
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

/// Returns bytes that reveal lost, duplicated or reordered chunks.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

#[track_caller]
pub(super) fn assert_same(received: &[u8], sent: &[u8]) {
    let differs = received.iter().zip(sent).position(|(received, sent)| received != sent);
    assert!(
        received == sent,
        "{} of {} bytes arrived; first difference: {differs:?}",
        received.len(),
        sent.len()
    );
}
