//! Tests the two ends of a session over connections that break.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{
    Delivered, Farewell, Frame, Lease, Position, Received, Refusal, Secret, SessionConfig,
    SessionId, SessionMachine, Ticket, Violation,
};

const NOW: Duration = Duration::ZERO;

/// Passes all frames of `from` to `to`, and returns what `to` received.
fn pass(from: &mut SessionMachine, to: &mut SessionMachine) -> Vec<Received> {
    let mut received = Vec::new();
    while let Some(frame) = from.next(NOW) {
        let frame = Frame::decode(frame.to_bytes()).expect("a frame");
        received.extend(to.receive(NOW, frame).expect("no violation"));
    }
    received
}

fn messages(received: Vec<Received>) -> Vec<(u64, Bytes)> {
    let message = |received| match received {
        Received::Message { sequence, message } => Some((sequence, message)),
        _ => None,
    };
    received.into_iter().filter_map(message).collect()
}

#[test]
fn only_missing_messages_are_replayed() {
    let (mut a, mut b) = (
        SessionMachine::new(SessionConfig::default()),
        SessionMachine::new(SessionConfig::default()),
    );
    for word in ["one", "two"] {
        a.send(word.into());
    }
    assert_eq!(messages(pass(&mut a, &mut b)), [(1, "one".into()), (2, "two".into())]);
    for word in ["three", "four"] {
        a.send(word.into());
    }
    // The first message is lost with the connection, and the second was never written.
    assert!(matches!(a.next(NOW), Some(Frame::Data { sequence: 3, .. })));

    let (of_a, of_b) = (a.position(), b.position());
    assert_eq!(a.resume(of_b), Ok(1));
    assert_eq!(b.resume(of_a), Ok(0));
    assert_eq!(a.delivered(), Delivered { acknowledged: 2, sent: 4 });
    assert_eq!(messages(pass(&mut a, &mut b)), [(3, "three".into()), (4, "four".into())]);
}

#[test]
fn gap_forged_acknowledgement_and_message_after_the_end_are_violations() {
    let mut session = SessionMachine::new(SessionConfig::default());
    let data = |sequence, acknowledged| Frame::Data { sequence, acknowledged, message: "m".into() };
    let gap = session.receive(NOW, data(2, 0));
    assert_eq!(gap, Err(Violation::Gap { expected: 1, got: 2 }));
    session.send("mine".into());
    let forged = session.receive(NOW, Frame::Ack { acknowledged: 1 });
    assert_eq!(forged, Err(Violation::NeverSent { acknowledged: 1, sent: 0 }));
    let end = session.receive(NOW, Frame::End { sequence: 1, acknowledged: 0 });
    assert_eq!(end, Ok(Some(Received::End)));
    assert_eq!(session.receive(NOW, data(2, 0)), Err(Violation::AfterEnd));
}

#[test]
fn secret_is_invalid_once_the_next_one_was_seen() {
    let id = SessionId([7; 16]);
    let secret = |byte| Secret([byte; 16]);
    let (mut lease, welcome) = Lease::new(id, 1000, secret(1));
    let mut ticket = Ticket::granted(&welcome).expect("the first");
    let first = ticket.present(Default::default());
    assert_eq!(lease.check(&first, &1001), Err(Refusal::Principal));

    // The welcome is lost, so the same secret is valid once more.
    lease.resume(&first, &1000, secret(2), Default::default()).expect("admitted");
    let again = lease.resume(&first, &1000, secret(3), Default::default()).expect("admitted");
    ticket.renewed(&again).expect("newer");
    assert_eq!((ticket.epoch(), lease.epoch()), (3, 3));
    lease.seen();
    assert_eq!(lease.check(&first, &1000), Err(Refusal::Secret));
    assert_eq!(lease.check(&ticket.present(Default::default()), &1000), Ok(()));
}

#[test]
fn message_committed_during_the_handshake_is_acknowledged_after_it() {
    let commits = SessionConfig { commits: true, ..SessionConfig::default() };
    let (mut a, mut b) =
        (SessionMachine::new(SessionConfig::default()), SessionMachine::new(commits));
    a.send("one".into());
    pass(&mut a, &mut b);
    // The position in the greeting is read before the message is committed.
    let of_b = b.position();
    b.commit(NOW, 1);
    a.resume(of_b).expect("it fits");
    b.resume(a.position()).expect("it fits");
    assert_eq!(a.kept(), (1, 3));
    pass(&mut b, &mut a);
    assert_eq!(a.kept(), (0, 0));
}

#[test]
fn idle_client_acknowledges_to_show_that_it_has_seen_the_welcome() {
    let mut client = SessionMachine::new(SessionConfig::default());
    client.resume(SessionMachine::new(SessionConfig::default()).position()).expect("it fits");
    assert!(matches!(client.next(NOW), Some(Frame::Ack { acknowledged: 0 })));
    assert!(client.next(NOW).is_none());
}

#[test]
fn delayed_greeting_does_not_invalidate_newer_secrets() {
    let secret = |byte| Secret([byte; 16]);
    let (mut lease, welcome) = Lease::new(SessionId([7; 16]), (), secret(1));
    let mut ticket = Ticket::granted(&welcome).expect("the first");
    let greeting = ticket.present(Default::default());
    let of_second = lease.resume(&greeting, &(), secret(2), Default::default()).expect("admitted");
    ticket.renewed(&of_second).expect("newer");
    // This is the delayed greeting of the first connection, which the client has abandoned.
    lease.resume(&greeting, &(), secret(3), Default::default()).expect("admitted");
    assert_eq!(lease.check(&ticket.present(Default::default()), &()), Ok(()));
    // Many such greetings displace the oldest offered secret, but never the proven one.
    for byte in 4..40 {
        lease.resume(&greeting, &(), secret(byte), Default::default()).expect("admitted");
    }
    assert_eq!(lease.check(&ticket.present(Default::default()), &()), Err(Refusal::Secret));
    assert_eq!(lease.check(&greeting, &()), Ok(()));
}

#[test]
fn using_an_offered_secret_invalidates_all_others() {
    let secret = |byte| Secret([byte; 16]);
    let (mut lease, welcome) = Lease::new(SessionId([7; 16]), (), secret(1));
    let first = Ticket::granted(&welcome).expect("the first");
    let greeting = first.present(Default::default());
    let mut tickets = [2, 3].map(|byte| {
        let mut ticket = first.clone();
        let welcome = lease.resume(&greeting, &(), secret(byte), Default::default());
        ticket.renewed(&welcome.expect("admitted")).expect("newer");
        ticket
    });
    let [second, third] = tickets.each_mut().map(|ticket| ticket.present(Default::default()));
    lease.resume(&second, &(), secret(4), Default::default()).expect("admitted");
    assert_eq!(lease.check(&greeting, &()), Err(Refusal::Secret));
    assert_eq!(lease.check(&third, &()), Err(Refusal::Secret));
    assert_eq!(lease.check(&second, &()), Ok(()));
}

#[test]
fn farewell_that_acknowledges_unsent_messages_is_a_violation() {
    let mut session = SessionMachine::new(SessionConfig::default());
    session.send("mine".into());
    let bye = |received| Frame::Bye(Farewell { received, text: String::new() });
    let lie = session.receive(NOW, bye(1));
    assert_eq!(lie, Err(Violation::NeverSent { acknowledged: 1, sent: 0 }));
    assert!(session.next(NOW).is_some());
    assert!(matches!(session.receive(NOW, bye(1)), Ok(Some(Received::Bye(_)))));
}

#[test]
fn discarded_messages_are_a_gap_unless_the_other_end_has_received_them() {
    let mut session = SessionMachine::new(SessionConfig::default());
    for word in ["one", "two"] {
        session.send(word.into());
    }
    session.end();
    assert!(matches!(session.next(NOW), Some(Frame::Data { sequence: 1, .. })));
    let theirs = |received| Position { received, ..Position::default() };
    let mut written = session.clone();
    session.discard_kept();
    assert_eq!(session.kept(), (0, 0));
    // The second message was never written, so no end can have received it.
    assert_eq!([0, 1].map(|received| session.check(theirs(received))), [Err(Refusal::Gap); 2]);

    while written.next(NOW).is_some() {}
    written.discard_kept();
    assert_eq!(written.check(theirs(1)), Err(Refusal::Gap));
    // Only the end is missing.
    assert_eq!(written.resume(theirs(2)), Ok(1));
    assert!(matches!(written.next(NOW), Some(Frame::End { sequence: 3, .. })));
}
