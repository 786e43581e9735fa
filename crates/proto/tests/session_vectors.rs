//! Decodes and encodes the golden vectors of the session protocol. Other implementations are tested with
//! the same vectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::str::SplitWhitespace;

use bytes::Bytes;
use tieline_proto::session::{
    Farewell, Frame, Hello, Malformed, Position, Refusal, Secret, SessionId, VERSION, Welcome,
};

const VECTORS: &str = include_str!("vectors/session-1.txt");

#[test]
fn golden_vectors_are_encoded_and_decoded_exactly() {
    let (mut frames, mut refused) = (0, 0);
    for line in VECTORS.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some((hex, words)) = line.split_once(" = ") {
            frames += 1;
            let (bytes, (frame, version)) = (hex_bytes(hex), frame(words));
            let read = Frame::decode(bytes.clone()).unwrap_or_else(|why| panic!("{line}: {why}"));
            assert_eq!(format!("{read:?}"), format!("{frame:?}"), "{line}");
            if version == VERSION {
                assert_eq!(read.to_bytes(), bytes, "{line}");
                assert_eq!(frame.to_bytes(), bytes, "{line}");
            }
        } else if let Some((hex, why)) = line.split_once(" ! ") {
            refused += 1;
            let read = Frame::decode(hex_bytes(hex)).map(Frame::to_bytes);
            assert_eq!(read.map_err(name), Err(why), "{line}");
        } else {
            assert!(line.is_empty(), "{line}");
        }
    }
    assert!(frames >= 30 && refused >= 30, "{frames} valid frames, {refused} malformed ones");
}

fn name(malformed: Malformed) -> &'static str {
    match malformed {
        Malformed::Kind(_) => "kind",
        Malformed::Short => "short",
        Malformed::Long => "long",
        Malformed::Magic => "magic",
        Malformed::Version(_) => "version",
        Malformed::Zero => "zero",
        Malformed::Flag(_) => "flag",
        other => panic!("{other:?} has no name in the vectors"),
    }
}

/// Returns the frame and the protocol version in which it is written.
fn frame(words: &str) -> (Frame, u8) {
    let mut words = words.split_whitespace();
    let kind = words.next().unwrap();
    let words = &mut words;
    let mut version = VERSION;
    let frame = match kind {
        "hello" => {
            let resumes = words
                .clone()
                .next()
                .map(|_| (SessionId(array(words)), Secret(array(words)), number(words)));
            let position = resumes.as_ref().map(|_| position(words)).unwrap_or_default();
            Frame::Hello(Hello { resumes, position })
        }
        "welcome" => {
            version = u8::try_from(number(words)).unwrap();
            Frame::Welcome(Welcome {
                session: SessionId(array(words)),
                secret: Secret(array(words)),
                epoch: number(words),
                position: position(words),
            })
        }
        "refused" => {
            version = u8::try_from(number(words)).unwrap();
            Frame::Refused { refusal: refusal(number(words)), text: text(words) }
        }
        "data" => Frame::Data {
            sequence: number(words),
            acknowledged: number(words),
            message: rest(words),
        },
        "end" => Frame::End { sequence: number(words), acknowledged: number(words) },
        "ack" => Frame::Ack { acknowledged: number(words) },
        "ping" => Frame::Ping { token: number(words) },
        "pong" => Frame::Pong { token: number(words) },
        "bye" => Frame::Bye(Farewell { received: number(words), text: text(words) }),
        other => panic!("unknown frame {other}"),
    };
    assert_eq!(words.next(), None, "trailing fields after {kind}");
    (frame, version)
}

fn refusal(code: u64) -> Refusal {
    use Refusal::*;
    let known = [
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
    ];
    let code = u8::try_from(code).unwrap();
    (1..).zip(known).find(|(number, _)| *number == code).map_or(Other(code), |(_, known)| known)
}

fn number(words: &mut SplitWhitespace<'_>) -> u64 {
    words.next().unwrap().parse().unwrap()
}

fn position(words: &mut SplitWhitespace<'_>) -> Position {
    Position { received: number(words), acknowledged: number(words), sent: number(words) }
}

fn array(words: &mut SplitWhitespace<'_>) -> [u8; 16] {
    hex_bytes(words.next().unwrap())[..].try_into().unwrap()
}

fn rest(words: &mut SplitWhitespace<'_>) -> Bytes {
    match words.next().unwrap() {
        "-" => Bytes::new(),
        hex => hex_bytes(hex),
    }
}

fn text(words: &mut SplitWhitespace<'_>) -> String {
    String::from_utf8(rest(words).into()).unwrap()
}

fn hex_bytes(hex: &str) -> Bytes {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}
