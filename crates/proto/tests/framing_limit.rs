//! Message limits that change while a line is in use, for example between a session's greeting and its
//! messages.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::{Bytes, BytesMut};
use tieline_proto::json::Limits;
use tieline_proto::{ByteSize, Fault, Frame, FrameError, Framing, FramingKind, Json, WriteBuf};

const LOW: ByteSize = ByteSize::new(10);
const USUAL: ByteSize = ByteSize::new(1000);

fn encode(framing: &impl Framing, length: usize) -> BytesMut {
    let mut out = WriteBuf::new();
    let message = format!("\"{}\"", "x".repeat(length - 2));
    framing.encode(&message.into(), &mut out).unwrap();
    let mut bytes = BytesMut::new();
    while !out.is_empty() {
        bytes.extend_from_slice(out.first_chunk());
        let length = out.first_chunk().len();
        out.advance(length);
    }
    bytes
}

fn length(frame: Option<Frame>) -> Option<usize> {
    match frame {
        Some(Frame::Message(message)) => Some(Bytes::len(&message)),
        _ => None,
    }
}

#[test]
fn lowered_limit_applies_until_it_is_raised_again() {
    for kind in FramingKind::ALL {
        for length_below in [9, 10] {
            let mut framing = Json::new(kind.codec(USUAL), Limits::default());
            assert_eq!(framing.limit_to(LOW), Some(USUAL));
            let mut buffer = encode(&framing_of(kind), length_below);
            assert_eq!(length(framing.decode(&mut buffer).unwrap()), Some(length_below), "{kind}");
            assert_eq!(framing.limit_to(USUAL), Some(LOW));
            let mut buffer = encode(&framing_of(kind), 1000);
            assert_eq!(length(framing.decode(&mut buffer).unwrap()), Some(1000), "{kind}");
        }
        let mut framing = kind.codec(USUAL);
        framing.limit_to(LOW);
        let mut buffer = encode(&framing_of(kind), 11);
        match framing.decode(&mut buffer) {
            Ok(Some(Frame::Fault(Fault::Oversize(message)))) => {
                assert_eq!(message.limit, LOW);
                assert_eq!(kind, FramingKind::Lines);
            }
            Err(FrameError::Oversize { length: 11, limit: LOW }) => {
                assert_ne!(kind, FramingKind::Lines);
            }
            other => panic!("{kind}: {other:?}"),
        }
    }
}

#[test]
fn missing_bytes_never_exceed_a_lowered_limit() {
    let mut framing = FramingKind::LengthPrefix.codec(USUAL);
    framing.limit_to(LOW);
    let announced = &encode(&framing_of(FramingKind::LengthPrefix), 11)[..4];
    assert_eq!(framing.missing(&announced.into()), 0);
}

/// Returns the peer's framing with the usual limit.
fn framing_of(kind: FramingKind) -> impl Framing {
    kind.codec(USUAL)
}
