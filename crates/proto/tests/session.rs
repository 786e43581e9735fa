//! Two ends of a session over connections that break.

use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{
    Delivered, Frame, Lease, Received, Refusal, Secret, Session, SessionConfig, SessionId, Ticket,
    Violation,
};

const NOW: Duration = Duration::ZERO;

/// Everything that `from` has for the connection, given to `to`; what that made of it.
fn pass(from: &mut Session, to: &mut Session) -> Vec<Received> {
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
fn what_the_other_side_lacks_is_sent_again_and_nothing_else() {
    let (mut a, mut b) =
        (Session::new(SessionConfig::default()), Session::new(SessionConfig::default()));
    for word in ["one", "two"] {
        a.send(word.into());
    }
    assert_eq!(messages(pass(&mut a, &mut b)), [(1, "one".into()), (2, "two".into())]);
    for word in ["three", "four"] {
        a.send(word.into());
    }
    // One of them is lost with the connection, the other was never written.
    assert!(matches!(a.next(NOW), Some(Frame::Data { sequence: 3, .. })));

    let (of_a, of_b) = (a.position(), b.position());
    assert_eq!(a.resume(of_b), Ok(1));
    assert_eq!(b.resume(of_a), Ok(0));
    assert_eq!(a.delivered(), Delivered { acknowledged: 2, sent: 4 });
    assert_eq!(messages(pass(&mut a, &mut b)), [(3, "three".into()), (4, "four".into())]);
}

#[test]
fn a_gap_a_forged_acknowledgement_and_a_word_behind_the_end_are_violations() {
    let mut session = Session::new(SessionConfig::default());
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
fn a_secret_is_worth_nothing_once_the_next_was_seen() {
    let id = SessionId([7; 16]);
    let secret = |byte| Secret([byte; 16]);
    let (mut lease, welcome) = Lease::new(id, 1000, secret(1));
    let mut ticket = Ticket::granted(&welcome).expect("the first");
    let first = ticket.present(Default::default());
    assert_eq!(lease.check(&first, &1001), Err(Refusal::Principal));

    // Its answer is lost: the same secret is good once more.
    lease.resume(&first, &1000, secret(2), Default::default()).expect("admitted");
    let again = lease.resume(&first, &1000, secret(3), Default::default()).expect("admitted");
    ticket.renewed(&again).expect("newer");
    assert_eq!((ticket.epoch(), lease.epoch()), (3, 3));
    lease.seen();
    assert_eq!(lease.check(&first, &1000), Err(Refusal::Secret));
    assert_eq!(lease.check(&ticket.present(Default::default()), &1000), Ok(()));
}
