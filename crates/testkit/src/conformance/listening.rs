//! Checks that use both ends of a line, for transports that can listen.

use std::sync::Arc;

use tieline_proto::{LengthPrefix, Lines};
use tieline_transport::{
    Capabilities, Channel, CloseReason, Connection, ErrorKind, Health, Incoming, Operation,
    ReceiverExt, SendError, SenderExt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::Subject;
use super::bytes::{assert_same, pattern, read_pieces, write_pieces};
use super::ends::{expect_end, impatient};
use super::messages::{channel, expect_message};
use crate::wait::poll_once;

/// The error contains the endpoint, the operation and a hint.
pub async fn connecting_to_nothing_is_not_found_or_refused(subject: Subject) {
    let Err(error) = subject.connect().await else { panic!("connected to nothing") };
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Refused), "{error:?}");
    assert_eq!(error.operation(), Operation::Connect);
    assert_eq!(error.endpoint(), Some(subject.endpoint()));
    assert!(error.is_retryable(), "a server may be started later");
    assert!(error.hint().is_some());
}

/// The first listener continues to work, and the address is free once it is dropped.
pub async fn listening_twice_is_address_in_use(subject: Subject) {
    for _ in 0..2 {
        let mut listener = subject.listen().await.unwrap();
        assert_eq!(listener.endpoint(), subject.endpoint());
        let Err(error) = subject.listen().await else { panic!("two listeners at once") };
        assert!(matches!(error.kind(), ErrorKind::AddressInUse), "{error:?}");
        assert_eq!(error.operation(), Operation::Listen);
        assert_eq!(error.endpoint(), Some(subject.endpoint()));
        assert!(error.hint().is_some());
        let (near, far) = tokio::join!(subject.connect(), listener.accept());
        assert_eq!(near.unwrap().health(), Health::Up);
        drop(far);
    }
}

/// Every connection is returned by a later accept.
pub async fn dropped_accept_loses_no_connection(subject: Subject) {
    const CONNECTIONS: u8 = 20;
    let mut listener = subject.listen().await.unwrap();
    assert!(poll_once(listener.accept()).await.is_none());

    let subject = Arc::new(subject);
    let mut connecting = JoinSet::new();
    for number in 0..CONNECTIONS {
        let subject = subject.clone();
        connecting.spawn(async move {
            let mut near = subject.connect().await.unwrap();
            near.write_all(&[number]).await.unwrap();
            near.flush().await.unwrap();
            near
        });
    }
    let mut accepted = Vec::new();
    while accepted.len() < usize::from(CONNECTIONS) {
        match poll_once(listener.accept()).await {
            Some(connection) => accepted.push(connection.unwrap()),
            None => tokio::task::yield_now().await,
        }
    }
    let _near_ends = connecting.join_all().await;
    let mut numbers = Vec::new();
    for mut connection in accepted {
        numbers.push(connection.read_u8().await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, Vec::from_iter(0..CONNECTIONS));
}

/// The two ends report the same kind, endpoint and peer.
pub async fn both_ends_identify_each_other(subject: Subject) {
    let (near, far) = subject.pair().await;
    for end in [&near, &far] {
        assert_eq!(end.info().kind, subject.kind());
        assert_eq!(&end.info().endpoint, subject.endpoint());
        assert_eq!(end.info().peer.is_some(), end.capabilities().peer_identity);
        assert_eq!(end.health(), Health::Up);
    }
    // Without authentication, the accepting end knows less about its peer than the connecting end.
    let near_as_far =
        Capabilities { unauthenticated: far.capabilities().unauthenticated, ..near.capabilities() };
    assert_eq!(near_as_far, far.capabilities());
    // Both ends are this process.
    for peer in [near.info().peer, far.info().peer].into_iter().flatten() {
        assert_eq!(peer.pid, Some(std::process::id()));
    }
    assert_eq!(near.info().peer, far.info().peer);
}

/// Each end can write and read at the same time.
pub async fn bulk_data_in_both_directions(subject: Subject) {
    let (near, far) = subject.pair().await;
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
        (near.into_split(), far.into_split());
    let (there, back) = (pattern(1 << 20), pattern((1 << 20) + 7));
    let (at_far, at_near, (), ()) = tokio::join!(
        read_pieces(&mut far_read, there.len(), 1000),
        read_pieces(&mut near_read, back.len(), 100_000),
        write_pieces(&mut near_write, &there, 100_000),
        write_pieces(&mut far_write, &back, 1000),
    );
    assert_same(&at_far, &there);
    assert_same(&at_near, &back);
}

/// One direction continues after the other has ended. Without half-close, both directions end, but data
/// written before the end still arrives.
pub async fn one_direction_ends_while_the_other_continues(subject: Subject) {
    let (near, far) = subject.pair().await;
    let half_close = near.capabilities().half_close;
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
        (near.into_split(), far.into_split());
    let all_of_it = pattern(if half_close { 8 } else { 200_000 });
    let (received, ()) = tokio::join!(
        async {
            let mut received = Vec::new();
            far_read.read_to_end(&mut received).await.unwrap();
            received
        },
        async {
            write_pieces(&mut near_write, &all_of_it, 50_000).await;
            near_write.shutdown().await.unwrap();
        }
    );
    assert_same(&received, &all_of_it);

    if half_close {
        let answer = pattern(300_000);
        let (received, ()) = tokio::join!(
            read_pieces(&mut near_read, answer.len(), 5000),
            write_pieces(&mut far_write, &answer, 5000)
        );
        assert_same(&received, &answer);
        far_write.shutdown().await.unwrap();
    } else {
        while far_write.write_all(&[0; 5000]).await.is_ok() {}
    }
    assert_eq!(near_read.read(&mut [0; 1]).await.unwrap(), 0);
}

/// Data that fits into the buffers between the ends can be written without a reader, and is read after
/// the end.
pub async fn data_written_before_the_end_is_read_later(subject: Subject) {
    for shuts_down in [true, false] {
        let (near, mut far) = subject.pair().await;
        let (near_read, mut near_write) = near.into_split();
        let said = pattern(4000);
        near_write.write_all(&said).await.unwrap();
        near_write.flush().await.unwrap();
        if shuts_down {
            near_write.shutdown().await.unwrap();
        }
        drop((near_read, near_write));
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_same(&received, &said);
    }
}

/// After one end is dropped, reading from the other returns the end of input, and writing to it fails.
pub async fn dropped_end_is_end_of_input_for_the_other(subject: Subject) {
    let (near, mut far) = subject.pair().await;
    drop(near);
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    // Data in transit may delay the error.
    while far.write_all(&[0; 5000]).await.is_ok() && far.flush().await.is_ok() {}
}

/// An end between two messages is clean, whether the peer shut down its direction or closed the
/// connection.
pub async fn end_between_messages_is_clean(subject: Subject) {
    for goes_away in [false, true] {
        let (near, far) = subject.pair().await;
        let half_close = near.capabilities().half_close;
        let channel = channel(near, LengthPrefix::default());
        let control = channel.control().clone();
        let (mut sender, mut receiver) = channel.split();
        let (far_read, mut far_write) = far.into_split();
        far_write.write_all(b"\0\0\0\x05hello").await.unwrap();
        far_write.shutdown().await.unwrap();
        let far_read = (!goes_away).then_some(far_read);
        drop(far_write);

        assert_eq!(expect_message(&mut receiver).await, "hello");
        let reason = expect_end(&mut receiver).await;
        assert!(matches!(reason, CloseReason::ByPeer), "{reason:?}");
        assert_eq!(control.health(), Health::Down);
        if let Some(mut far_read) = far_read.filter(|_| half_close) {
            sender.send("answer").await.unwrap();
            let answer = read_pieces(&mut far_read, 10, 100).await;
            assert_eq!(answer, b"\0\0\0\x06answer");
        }
    }
}

/// The incomplete message is not delivered.
pub async fn end_inside_a_message_is_truncation(subject: Subject) {
    for part in [&b"\0\0"[..], b"\0\0\0\x05", b"\0\0\0\x05hel"] {
        let (near, mut far) = subject.pair().await;
        let (_sender, mut receiver) = channel(near, LengthPrefix::default()).split();
        far.write_all(part).await.unwrap();
        far.flush().await.unwrap();
        drop(far);
        let reason = expect_end(&mut receiver).await;
        assert!(matches!(reason, CloseReason::Truncated(_)), "{reason:?}");
        assert!(!reason.is_clean());
    }
}

/// A closed peer is noticed without writing. A peer that has only shut down its direction can still
/// receive.
pub async fn closed_peer_is_noticed_and_half_closed_peer_is_not(subject: Subject) {
    let (near, far) = subject.pair().await;
    let Capabilities { notices_hangup: notices, half_close, .. } = near.capabilities();
    let (mut sender, mut receiver) = channel(near, Lines::default()).split();
    let (far_read, mut far_write) = far.into_split();
    far_write.write_all(b"goodbye\n").await.unwrap();
    far_write.shutdown().await.unwrap();
    assert!(matches!(receiver.recv().await, Incoming::Message(_)));
    assert!(matches!(receiver.recv().await, Incoming::End(_)));
    if half_close {
        assert!(poll_once(sender.gone()).await.is_none(), "the peer is waiting for responses");
        sender.send("answer").await.unwrap();
    }

    drop((far_read, far_write));
    if notices {
        sender.gone().await;
    }
    while !matches!(sender.send("x".repeat(5000)).await, Err(SendError::Closed(_))) {}
}

/// A receiver that is waiting while sending stalls reports the stall.
pub async fn stall_wakes_a_waiting_receiver(subject: Subject) {
    let (near, _far) = subject.pair().await;
    let (control, mut sender, mut receiver) = impatient(near);
    let waiting = tokio::spawn(async move { receiver.recv().await });
    while sender.send("x".repeat(5000)).await.is_ok() {}
    assert!(matches!(control.close_reason(), Some(CloseReason::Stalled)), "{control:?}");
    let woken = waiting.await.unwrap();
    assert!(matches!(woken, Incoming::End(CloseReason::Stalled)), "{woken:?}");
}
