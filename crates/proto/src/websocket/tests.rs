use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::byte_size::ByteSize;
use crate::write_buf::WriteBuf;
use std::time::Duration;

const LIMIT: ByteSize = ByteSize::kib(64);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn decoder(role: Role) -> Decoder {
    Decoder::new(role, LIMIT)
}

/// Decodes all events in `bytes`.
fn all(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Event>, Violation> {
    let mut buffer = BytesMut::from(bytes);
    let mut events = Vec::new();
    while let Some(event) = decoder.decode(&mut buffer)? {
        events.push(event);
    }
    Ok(events)
}

fn text(text: &str) -> Event {
    Event::Message(Kind::Text, Bytes::copy_from_slice(text.as_bytes()))
}

fn binary(payload: &[u8]) -> Event {
    Event::Message(Kind::Binary, Bytes::copy_from_slice(payload))
}

/// Tests the examples in RFC 6455, section 5.7.
#[test]
fn examples_of_the_rfc_are_decoded() {
    let client = |bytes: &[u8]| all(&mut decoder(Role::Client), bytes).unwrap();
    assert_eq!(client(&[0x81, 5, 0x48, 0x65, 0x6c, 0x6c, 0x6f]), [text("Hello")]);
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(all(&mut decoder(Role::Server), &masked).unwrap(), [text("Hello")]);
    assert_eq!(client(&[0x01, 3, 0x48, 0x65, 0x6c, 0x80, 2, 0x6c, 0x6f]), [text("Hello")]);
    assert_eq!(client(b"\x89\x05Hello"), [Event::Ping("Hello".into())]);
    let long = [&[0x82, 0x7e, 1, 0][..], &[7; 256]].concat();
    assert_eq!(client(&long), [binary(&[7; 256])]);
    let longer = [&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65536]].concat();
    assert_eq!(client(&longer), [binary(&[7; 65536])]);
}

#[test]
fn control_frames_are_decoded_between_fragments() {
    let bytes = b"\x01\x02ab\x89\x01p\x00\x00\x8a\x00\x80\x01c\x88\x04\x03\xe8ok";
    let close = Close::because(CloseCode::NORMAL, "ok");
    let expected = [
        Event::Ping("p".into()),
        Event::Pong(Bytes::new()),
        text("abc"),
        Event::Close(Some(close)),
    ];
    assert_eq!(all(&mut decoder(Role::Client), bytes).unwrap(), expected);
    assert_eq!(all(&mut decoder(Role::Client), &[0x88, 0]).unwrap(), [Event::Close(None)]);
}

#[test]
fn each_violation_is_detected() {
    let oversize = |length| Violation::Oversize { length, limit: LIMIT };
    for (bytes, violation) in [
        (&b"\xc1"[..], Violation::ReservedBits),
        (b"\x91", Violation::ReservedBits),
        (b"\x83", Violation::UnknownOpcode(3)),
        (b"\x8f", Violation::UnknownOpcode(15)),
        (b"\x09", Violation::FragmentedControl),
        (b"\x08\x00", Violation::FragmentedControl),
        (b"\x89\x7e", Violation::ControlOversize),
        (b"\x81\x80", Violation::Masking),
        (b"\x80\x00", Violation::Continuation),
        (b"\x00\x01a", Violation::Continuation),
        (b"\x01\x01a\x81\x01b", Violation::Interleaved),
        (b"\x81\x7e\x00\x7d", Violation::MalformedLength),
        (b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", Violation::MalformedLength),
        (b"\x82\x7f\x80\x00\x00\x00\x00\x01\x00\x00", Violation::MalformedLength),
        (b"\x88\x01\x03", Violation::MalformedClose),
        (b"\x88\x02\x03\xec", Violation::MalformedClose),
        (b"\x88\x02\x03\xed", Violation::MalformedClose),
        (b"\x88\x02\x03\xee", Violation::MalformedClose),
        (b"\x88\x02\x00\x00", Violation::MalformedClose),
        (b"\x88\x02\x07\xd0", Violation::MalformedClose),
        (b"\x88\x03\x03\xe8\xff", Violation::NotUtf8),
        (b"\x81\x01\xff", Violation::NotUtf8),
        (b"\x81\x01\xc3", Violation::NotUtf8),
        // A surrogate, and a code point above U+10FFFF.
        (b"\x81\x03\xed\xa0\x80", Violation::NotUtf8),
        (b"\x81\x04\xf4\x90\x80\x80", Violation::NotUtf8),
        // Invalid UTF-8 is reported at once, not at the end of the message.
        (b"\x01\x02\xc3\x28", Violation::NotUtf8),
        (b"\x01\x01\xc3\x00\x01\x28", Violation::NotUtf8),
        (b"\x01\x01\xc3\x80\x00", Violation::NotUtf8),
        // Only the headers were received.
        (b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x01", oversize(65537)),
        (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", oversize(i64::MAX as u64)),
        (b"\x02\x01a\x80\x7f\x00\x00\x00\x00\x00\x01\x00\x00", oversize(65537)),
    ] {
        let outcome = all(&mut decoder(Role::Client), bytes);
        assert_eq!(outcome, Err(violation), "{}", bytes.escape_ascii());
    }
    assert_eq!(all(&mut decoder(Role::Server), b"\x81\x01a"), Err(Violation::Masking));
}

#[test]
fn end_of_input_is_decoded_only_if_it_was_negotiated() {
    let after_hello = |frames: &[u8]| {
        let mut decoder = decoder(Role::Client);
        decoder.expect_end();
        all(&mut decoder, &[b"\x81\x02hi", frames].concat())
    };
    let control = after_hello(b"\x8b\x00\x89\x01p\x8a\x00\x88\x00").unwrap();
    let ping = Event::Ping("p".into());
    let pong = Event::Pong(Bytes::new());
    assert_eq!(control, [text("hi"), Event::End, ping, pong, Event::Close(None)]);
    for (frames, violation) in [
        (&b"\x8b\x01a"[..], Violation::MalformedEnd),
        (b"\x01\x01a\x8b\x00", Violation::MalformedEnd),
        (b"\x8b\x00\x8b\x00", Violation::MalformedEnd),
        (b"\x0b", Violation::FragmentedControl),
        (b"\xcb", Violation::ReservedBits),
        (b"\x8b\x00\x81\x01a", Violation::AfterEnd),
        (b"\x8b\x00\x02\x00", Violation::AfterEnd),
        (b"\x8b\x00\x80\x00", Violation::AfterEnd),
    ] {
        assert_eq!(after_hello(frames), Err(violation), "{}", frames.escape_ascii());
    }
    assert_eq!(all(&mut decoder(Role::Client), b"\x8b"), Err(Violation::UnknownOpcode(11)));
}

#[test]
fn end_of_input_is_encoded_as_an_empty_control_frame() {
    let encoder = Encoder::new(LIMIT);
    let written = |mask| {
        let mut out = WriteBuf::new();
        encoder.end(mask, &mut out);
        out.to_bytes()
    };
    assert_eq!(written(None), &b"\x8b\x00"[..]);
    assert_eq!(written(Some(MASK)), [&b"\x8b\x80"[..], &MASK].concat());
}

#[test]
fn message_limit_is_exact() {
    for (length, is_taken) in [(65535, true), (65536, true), (65537, false)] {
        for fragments in [1, 2, 5] {
            let mut wire = Vec::new();
            let each = length / fragments;
            for number in 0..fragments {
                let is_last = number + 1 == fragments;
                let size = if is_last { length - each * number } else { each };
                wire.push(if is_last { 0x80 } else { 0 } | if number == 0 { 2 } else { 0 });
                match u16::try_from(size) {
                    Ok(size) => wire.extend([&[126][..], &size.to_be_bytes()].concat()),
                    Err(_) => wire.extend([&[127][..], &(size as u64).to_be_bytes()].concat()),
                }
                wire.extend(vec![1; size]);
            }
            let outcome = all(&mut decoder(Role::Client), &wire);
            assert_eq!(outcome.is_ok(), is_taken, "{length} bytes in {fragments}: {outcome:?}");
        }
    }
    let encoder = Encoder::new(LIMIT);
    for (length, is_taken) in [(65536, true), (65537, false)] {
        let (mut out, message) = (WriteBuf::new(), Bytes::from(vec![0; length]));
        let head = message.slice(..10);
        let behind = message.slice(10..);
        for message in [(&[][..], &message), (&head[..], &behind)] {
            let before = out.len();
            let encoded = encoder.message(Kind::Binary, message, None, &mut out);
            assert_eq!(encoded.is_ok(), is_taken, "{length}");
            assert_eq!(out.len() > before, is_taken, "{length}");
        }
    }
}

/// An announced length alone must not cause a large allocation.
#[test]
fn missing_bytes_never_exceed_the_limit() {
    let decoder = decoder(Role::Client);
    let wanted = |bytes: &[u8]| decoder.missing(&BytesMut::from(bytes));
    assert_eq!(wanted(b"\x82"), 0);
    assert_eq!(wanted(b"\x82\x05ab"), 3);
    assert_eq!(wanted(b"\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff"), LIMIT.bytes());
}

/// Tests each kind of tiny frame up to the allowance.
#[test]
fn too_many_tiny_frames_are_a_violation() {
    for (frame, begins) in [
        (&b"\x89\x00"[..], &b""[..]),
        (b"\x8a\x00", b""),
        (b"\x81\x00", b""),
        (b"\x82\x00", b""),
        (b"\x00\x00", b"\x02\x20xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        (b"\x00\x01x", b"\x01\x20xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ] {
        let mut decoder = decoder(Role::Client);
        all(&mut decoder, begins).unwrap();
        let mut taken = 0;
        let outcome = loop {
            match all(&mut decoder, frame) {
                Ok(_) => taken += 1,
                Err(violation) => break violation,
            }
        };
        assert_eq!((taken, outcome), (ALLOWANCE, Violation::TooManyFrames), "{frame:?}");
        assert_eq!(outcome.close_code(), CloseCode::POLICY);
    }
}

#[test]
fn allowance_refills_with_time_and_messages_do_not_consume_it() {
    let mut decoder = decoder(Role::Client);
    let mut now = Duration::from_secs(7);
    decoder.refill(now);
    for _ in 0..ALLOWANCE {
        all(&mut decoder, b"\x89\x00").unwrap();
    }
    for _ in 0..10 * ALLOWANCE {
        all(&mut decoder, b"\x81\x01x").unwrap();
        decoder.refill(now);
    }
    now += Duration::from_millis(500);
    decoder.refill(now);
    for _ in 0..ALLOWANCE_A_SECOND / 2 {
        all(&mut decoder, b"\x89\x00").unwrap();
    }
    assert_eq!(all(&mut decoder, b"\x89\x00"), Err(Violation::TooManyFrames));
    decoder.refill(now + Duration::from_secs(3600));
    for _ in 0..ALLOWANCE {
        all(&mut decoder, b"\x89\x00").unwrap();
    }
    assert_eq!(all(&mut decoder, b"\x89\x00"), Err(Violation::TooManyFrames));
}

#[test]
fn a_few_small_fragments_of_a_message_are_refunded_and_many_are_not() {
    let mut decoder = decoder(Role::Client);
    for _ in 0..10 * ALLOWANCE {
        assert_eq!(all(&mut decoder, b"\x01\x01a\x80\x01b").unwrap(), [text("ab")]);
    }
    let many = [&b"\x01\x01a"[..], &b"\x00\x00".repeat(19), b"\x80\x00"].concat();
    let mut taken = 0;
    while all(&mut decoder, &many).is_ok() {
        taken += 1;
    }
    assert!((60..100).contains(&taken), "{taken} messages of 21 fragments, 8 of them refunded");
}

/// Time must not be lost when each refill is too short to add a frame.
#[test]
fn short_refills_add_up() {
    let mut decoder = decoder(Role::Client);
    decoder.refill(Duration::ZERO);
    for _ in 0..ALLOWANCE {
        all(&mut decoder, b"\x89\x00").unwrap();
    }
    for milliseconds in 1..=8 {
        decoder.refill(Duration::from_millis(milliseconds));
    }
    assert!(all(&mut decoder, b"\x89\x00").is_ok());
}

#[test]
fn close_text_is_cut_to_fit_the_frame() {
    let (encoder, mut out) = (Encoder::new(LIMIT), WriteBuf::new());
    let close = Close::because(CloseCode::INTERNAL, "é".repeat(100));
    encoder.close(Some(&close), None, &mut out);
    let events = all(&mut decoder(Role::Client), &out.to_bytes()).unwrap();
    let shown = Close::because(CloseCode::INTERNAL, "é".repeat(61));
    assert_eq!(events, [Event::Close(Some(shown))]);
}

#[derive(Clone, Debug)]
enum Sent {
    Message(Kind, Vec<u8>, usize),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..130),
        (60_000usize..65_536, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        (1000usize..20_000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ];
    prop_oneof![
        ("\\PC{0,80}", 0usize..9).prop_map(|(text, head)| Sent::Message(
            Kind::Text,
            text.into_bytes(),
            head
        )),
        (payload, 0usize..9).prop_map(|(payload, head)| Sent::Message(Kind::Binary, payload, head)),
        proptest::collection::vec(any::<u8>(), 0..126).prop_map(Sent::Ping),
        proptest::collection::vec(any::<u8>(), 0..126).prop_map(Sent::Pong),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The frames are sent by either side, and the bytes are split at any position.
    #[test]
    fn encoded_frames_are_decoded(
        all_sent in proptest::collection::vec(any_sent(), 0..12),
        from_client in any::<bool>(),
        steps in proptest::collection::vec(prop_oneof![1usize..8, 1usize..70_000], 1..20),
    ) {
        let (encoder, mut out) = (Encoder::new(LIMIT), WriteBuf::new());
        let mask = from_client.then_some(MASK);
        let mut expected = Vec::new();
        for sent in all_sent {
            expected.push(match sent {
                Sent::Message(kind, payload, head) => {
                    let payload = Bytes::from(payload);
                    let (head, rest) = (payload.slice(..head.min(payload.len())), payload.slice(head.min(payload.len())..));
                    encoder.message(kind, (&head, &rest), mask, &mut out).unwrap();
                    Event::Message(kind, payload)
                }
                Sent::Ping(payload) => {
                    encoder.ping(&payload, mask, &mut out);
                    Event::Ping(payload.into())
                }
                Sent::Pong(payload) => {
                    encoder.pong(&payload, mask, &mut out);
                    Event::Pong(payload.into())
                }
            });
        }
        let wire = out.to_bytes();
        prop_assert_eq!(wire.len(), out.len());
        let mut decoder = decoder(if from_client { Role::Server } else { Role::Client });
        let (mut buffer, mut rest, mut received) = (BytesMut::new(), &wire[..], Vec::new());
        for step in steps.iter().cycle() {
            if rest.is_empty() { break }
            let (now, later) = rest.split_at((*step).min(rest.len()));
            rest = later;
            let missing = decoder.missing(&buffer);
            prop_assert!(missing <= now.len() + later.len(), "it expects more than was sent");
            buffer.extend_from_slice(now);
            while let Some(event) = decoder.decode(&mut buffer).unwrap() {
                received.push(event);
            }
        }
        prop_assert_eq!(received, expected);
        prop_assert_eq!(decoder.part(&buffer), None);
    }

    /// Text in any fragments is checked like the joined text.
    #[test]
    fn fragmented_text_is_valid_if_the_joined_text_is(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..24),
            "\\PC{0,12}".prop_map(String::into_bytes),
            ("\\PC{0,6}", 0usize..30, any::<u8>()).prop_map(|(text, place, byte)| {
                let mut bytes = text.into_bytes();
                if let Some(at) = bytes.get_mut(place) { *at = byte }
                bytes
            }),
        ],
        cuts in proptest::collection::vec(0usize..6, 0..24),
    ) {
        let mut wire = Vec::new();
        let (mut rest, mut opcode) = (&bytes[..], 1u8);
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            wire.extend([&[opcode, now.len() as u8][..], now].concat());
            (rest, opcode) = (later, 0);
        }
        wire.extend([&[0x80 | opcode, rest.len() as u8][..], rest].concat());
        let outcome = all(&mut decoder(Role::Client), &wire);
        match std::str::from_utf8(&bytes) {
            Ok(whole) => prop_assert_eq!(outcome, Ok(vec![text(whole)])),
            Err(_) => prop_assert_eq!(outcome, Err(Violation::NotUtf8)),
        }
    }

    /// Arbitrary bytes must not cause a panic.
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), server in any::<bool>()) {
        let role = if server { Role::Server } else { Role::Client };
        let _ = all(&mut decoder(role), &bytes);
    }
}
