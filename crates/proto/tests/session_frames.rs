//! Tests that session frames are decoded as they were encoded, that no other bytes are decoded, and that
//! any frame of a hostile peer either ends the session or is a valid event.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tieline_proto::session::{
    Farewell, Frame, Hello, Malformed, Position, Received, Refusal, Secret, SessionConfig,
    SessionId, SessionMachine, Violation, Welcome,
};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..12_u64, any::<u64>(), Just(u64::MAX), Just(u64::MAX - 1)]
}

fn position() -> impl Strategy<Value = Position> {
    (number(), number(), number()).prop_map(|(received, acknowledged, sent)| Position {
        received,
        acknowledged,
        sent,
    })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    use Refusal::*;
    let known = proptest::sample::select(vec![
        Version,
        Unknown,
        Secret,
        Principal,
        Epoch,
        Gap,
        NeverSent,
        Full,
        Draining,
        Malformed,
        Unasked,
        User,
        UsesLines,
        UsesContentLength,
        UsesLengthPrefix,
        NoSessions,
        NotJson,
    ]);
    prop_oneof![known, (18..=255_u8).prop_map(Other), Just(Other(0))]
}

fn frame() -> impl Strategy<Value = Frame> {
    let message = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let text = || proptest::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter);
    let resumes = (any::<[u8; 16]>(), any::<[u8; 16]>(), number(), position());
    let welcome = (any::<[u8; 16]>(), any::<[u8; 16]>(), number(), position());
    prop_oneof![
        1 => Just(Frame::Hello(Hello { resumes: None, position: Position::default() })),
        1 => resumes.prop_map(|(session, secret, epoch, position)| {
            let resumes = Some((SessionId(session), Secret(secret), epoch));
            Frame::Hello(Hello { resumes, position })
        }),
        1 => welcome.prop_map(|(session, secret, epoch, position)| Frame::Welcome(Welcome {
            session: SessionId(session),
            secret: Secret(secret),
            epoch,
            position,
        })),
        1 => (refusal(), text()).prop_map(|(refusal, text)| Frame::Refused { refusal, text }),
        4 => (1..8_u64, number(), message())
            .prop_map(|(sequence, acknowledged, message)| Frame::Data { sequence, acknowledged, message }),
        2 => (1..=u64::MAX, number(), message())
            .prop_map(|(sequence, acknowledged, message)| Frame::Data { sequence, acknowledged, message }),
        1 => (1..=u64::MAX, number())
            .prop_map(|(sequence, acknowledged)| Frame::End { sequence, acknowledged }),
        1 => number().prop_map(|acknowledged| Frame::Ack { acknowledged }),
        1 => any::<u64>().prop_map(|token| Frame::Ping { token }),
        1 => any::<u64>().prop_map(|token| Frame::Pong { token }),
        1 => (number(), text())
            .prop_map(|(received, text)| Frame::Bye(Farewell { received, text })),
    ]
}

/// Returns the length of the fixed part of frames that end with a part of variable length.
fn fixed_part(frame: &Frame) -> Option<usize> {
    match frame {
        Frame::Data { .. } => Some(17),
        Frame::Bye(_) => Some(9),
        Frame::Refused { .. } => Some(3),
        _ => None,
    }
}

/// Compares two frames, including secrets, which `Debug` does not show.
fn same(a: Frame, b: Frame) -> bool {
    format!("{a:?}") == format!("{b:?}") && a.to_bytes() == b.to_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn encoded_frame_is_decoded_and_a_part_of_it_is_malformed(frame in frame(), more in 1..9_usize) {
        let whole = frame.clone().to_bytes();
        let read = Frame::decode(whole.clone());
        prop_assert!(read.is_ok_and(|read| same(read, frame.clone())));
        let (head, message) = frame.clone().encode();
        prop_assert_eq!([&head, &message[..]].concat(), &whole[..]);

        let fixed = fixed_part(&frame).unwrap_or(whole.len());
        for length in 0..fixed {
            let part = Frame::decode(whole.slice(..length));
            prop_assert!(matches!(part, Err(Malformed::Short)), "{length}: {part:?}");
        }
        if fixed_part(&frame).is_none() {
            let longer = [&whole[..], &vec![0; more]].concat();
            let longer = Frame::decode(longer.into());
            prop_assert!(matches!(longer, Err(Malformed::Long)), "{longer:?}");
        }
    }

    #[test]
    fn frames_decoded_from_any_bytes_encode_to_the_same_bytes(
        kind in prop_oneof![0..4_u8, 0x10..0x16_u8, any::<u8>()],
        magic in any::<bool>(),
        rest in proptest::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..90),
    ) {
        let mut bytes = vec![kind];
        if magic {
            bytes.extend_from_slice(if kind == 1 { b"TIEL\x01" } else { b"\x01" });
        }
        bytes.extend_from_slice(&rest);
        let mut session = SessionMachine::new(SessionConfig::default());
        let taken = session.clone().receive_encoded(Duration::ZERO, bytes.clone().into());
        let read = Frame::decode(bytes.clone().into()).map_err(Violation::from);
        prop_assert_eq!(taken, read.and_then(|read| session.receive(Duration::ZERO, read)));
        match Frame::decode(bytes.clone().into()) {
            Err(_) => {}
            // Invalid UTF-8 in a text is replaced, and a refusal may have another version.
            Ok(Frame::Refused { .. }) => prop_assert!(bytes.len() >= 3),
            Ok(Frame::Bye(farewell)) if farewell.text.contains('\u{fffd}') => {}
            Ok(frame) => prop_assert_eq!(&frame.to_bytes()[..], &bytes[..]),
        }
    }

    #[test]
    fn any_frame_is_a_valid_event_or_ends_the_session(
        commits in any::<bool>(),
        sent in 0..8_usize,
        steps in proptest::collection::vec(
            prop_oneof![
                8 => frame().prop_map(Ok),
                1 => position().prop_map(Err),
            ],
            0..60,
        ),
    ) {
        let config = SessionConfig { commits, ..SessionConfig::default() };
        let mut session = SessionMachine::new(config);
        for at in 0..sent {
            session.send(vec![at as u8; 10].into());
        }
        let mut last = 0;
        let mut has_ended = false;
        let now = Duration::MAX;
        for step in steps {
            let event = match step {
                Ok(frame) => {
                    let mut other = session.clone();
                    let encoded = other.receive_encoded(now, frame.clone().to_bytes());
                    let event = session.receive(now, frame);
                    prop_assert_eq!(&encoded, &event);
                    prop_assert_eq!(format!("{other:?}"), format!("{session:?}"));
                    event
                }
                Err(theirs) => { let _ = session.resume(theirs); Ok(None) }
            };
            match event {
                Err(_) => break,
                Ok(Some(Received::Message { sequence, .. })) => {
                    prop_assert!(!has_ended);
                    prop_assert_eq!(sequence, last + 1);
                    last = sequence;
                }
                Ok(Some(Received::End)) => {
                    prop_assert!(!has_ended);
                    has_ended = true;
                }
                Ok(_) => {}
            }
            session.commit(now, u64::MAX);
            // The number of frames to be sent is bounded by the messages sent here, for any number of
            // received frames.
            let frames = std::iter::from_fn(|| session.next(now)).take(100).count();
            prop_assert!(frames <= sent + 3, "{frames} frames");
            prop_assert!(session.kept().0 <= sent);
            prop_assert!(session.delivered().acknowledged <= sent as u64);
        }
    }
}

#[test]
fn each_kind_of_malformed_frame_is_detected() {
    let zero = [0; 16];
    for (bytes, malformed) in [
        (&b""[..], Malformed::Short),
        (b"\0", Malformed::Kind(0)),
        (b"\x16", Malformed::Kind(0x16)),
        (b"GET / HTTP/1.1", Malformed::Kind(b'G')),
        (b"\x01TIEN\x01\0", Malformed::Magic),
        (b"\x01TIEL\x02\0", Malformed::Version(2)),
        (b"\x01TIEL\x01\x02", Malformed::Flag(2)),
        (b"\x01TIEL\x01\0\0", Malformed::Long),
        (b"\x02\0", Malformed::Version(0)),
        (&[&b"\x10"[..], &zero].concat(), Malformed::Zero),
        (&[&b"\x11"[..], &zero].concat(), Malformed::Zero),
    ] {
        let read = Frame::decode(Bytes::copy_from_slice(bytes));
        assert_eq!(read.map(Frame::to_bytes), Err(malformed), "{bytes:?}");
    }
}

#[test]
fn long_text_is_truncated_at_a_character_boundary() {
    let text = "€".repeat(500);
    let farewell = Farewell { received: 0, text: text.clone() };
    let bytes = Frame::Bye(farewell).to_bytes();
    assert_eq!(bytes.len(), 9 + 1023);
    let Ok(Frame::Bye(read)) = Frame::decode(bytes) else { panic!("no farewell") };
    assert!(text.starts_with(&read.text));
    // A longer text that is not UTF-8 does not take more memory either.
    let flood = [&[0x15; 9][..], &vec![0xff; 1 << 20]].concat();
    let Ok(Frame::Bye(read)) = Frame::decode(flood.into()) else { panic!("no farewell") };
    assert_eq!(read.text.chars().count(), 1024);
}
