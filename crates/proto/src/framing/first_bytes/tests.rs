use super::*;
use crate::framing::{ContentLength, DetectedLines, Framing, LengthPrefix, Lines};
use FramingKind::{ContentLength as Headers, LengthPrefix as Prefix, Lines as Text};

const MAX: ByteSize = ByteSize::mib(16);

/// Returns the reaction of a line in this framing to the first bytes of a peer.
fn meet(ours: FramingKind, first: &[u8]) -> Result<bool, FrameError> {
    match ours {
        Text => {
            let detected = DetectedLines::new(MAX, false).meet(first);
            assert_eq!(Lines::new(MAX).meet(first), detected);
            detected
        }
        Headers => ContentLength::new(MAX).meet(first),
        Prefix => {
            let in_session = LengthPrefix::new(MAX).meet(first);
            match first.first() {
                Some(0) => assert_eq!(in_session, Ok(true), "a session's frame"),
                _ => assert_eq!(in_session, LengthPrefix::new(MAX).without_sessions().meet(first)),
            }
            LengthPrefix::new(MAX).without_sessions().meet(first)
        }
    }
}

fn frames<const N: usize>(messages: [&[u8]; N]) -> Vec<u8> {
    let frame = |it: &[u8]| [&(it.len() as u32).to_be_bytes(), it].concat();
    messages.into_iter().flat_map(frame).collect()
}

fn headers(message: &str) -> Vec<u8> {
    format!("Content-Length: {}\r\n\r\n{message}", message.len()).into()
}

fn greeting() -> Vec<u8> {
    frames([&session::Frame::Hello(session::Hello {
        resumes: None,
        position: session::Position::default(),
    })
    .to_bytes()])
}

/// Asserts the result for these first bytes, regardless of how many of them arrive at once: no part of
/// them has a different result, and further bytes do not change the result.
fn assert_met(ours: FramingKind, first: &[u8], expected: Result<(), FrameError>) {
    let shown = first.get(..60).unwrap_or(first).escape_ascii();
    let expected = expected.map(|()| true);
    assert_eq!(meet(ours, first), expected, "{ours}: {shown}");
    for cut in 1..first.len() {
        let met = meet(ours, &first[..cut]);
        assert!(met == Ok(false) || met == expected, "{ours}: {cut} bytes of {shown}: {met:?}");
    }
}

#[test]
fn messages_in_another_framing_are_recognized_at_every_cut() {
    let long = format!("[{}]", "7,".repeat(5000));
    let short = (0..=255).filter(|it| *it != b'\n').collect::<Vec<u8>>();
    for (theirs, ours, first) in [
        (Headers, Text, headers("{}")),
        (Headers, Text, b"content-length:2\r\n".into()),
        (Headers, Prefix, headers("{}")),
        (Prefix, Text, frames([b"{\"jsonrpc\":\"2.0\"}"])),
        (Prefix, Text, frames([long.as_bytes()])),
        (Prefix, Text, frames([b"hello"])),
        (Prefix, Text, frames([b"5", b"6"])),
        (Prefix, Text, frames([b"", b"", b"true"])),
        (Prefix, Text, frames([b""])),
        (Prefix, Text, frames([&short])),
        (Prefix, Headers, frames([b"{}"])),
        (Prefix, Headers, frames([b"hello"])),
        (Prefix, Headers, frames([&[b'x'; 5000]])),
        (Prefix, Headers, frames([b""])),
        (Text, Headers, b"{\"jsonrpc\":\"2.0\"}\n".into()),
        (Text, Headers, b"  [1]\n".into()),
        (Text, Headers, b"\"text\"\n".into()),
        (Text, Headers, b"5\n".into()),
        (Text, Headers, b"hello\n".into()),
        (Text, Headers, b"hello\r\n".into()),
        (Text, Headers, b"contents\n".into()),
        (Text, Headers, b"a: b\n".into()),
        (Text, Headers, [b'x'; 8192].into()),
        (Text, Headers, "\u{feff}{}\n".into()),
        (Text, Prefix, b"{\"jsonrpc\":\"2.0\"}\n".into()),
        (Text, Prefix, b"5\n".into()),
        (Text, Prefix, b"[]\n".into()),
        (Text, Prefix, b"hello\r\n".into()),
        (Text, Prefix, "\u{feff}{}\n".into()),
    ] {
        assert_met(ours, &first, Err(FrameError::OtherFraming { theirs, ours }));
    }
}

#[test]
fn other_protocols_are_recognized_at_every_cut() {
    for (first, error) in [
        (greeting(), FrameError::UnexpectedGreeting),
        (b"\x16\x03\x01\x02\x00\x01".into(), FrameError::UnexpectedTls),
        (b"\x15\x03\x03\x00\x02\x02\x46".into(), FrameError::UnexpectedTls),
        (b"GET /ws HTTP/1.1\r\nHost: a\r\n".into(), FrameError::UnexpectedHttp),
        (b"CONNECT a:1 HTTP/1.1\r\n".into(), FrameError::UnexpectedHttp),
        (b"PRI * HTTP/2.0\r\n".into(), FrameError::UnexpectedHttp),
        (b"GET http://a/ HTTP/1.1\r\n".into(), FrameError::UnexpectedHttp),
        (b"OPTIONS * HTTP/1.0\r\n".into(), FrameError::UnexpectedHttp),
        (b"HTTP/1.1 400 Bad Request\r\n".into(), FrameError::UnexpectedHttp),
        (b"HTTP/2 200\r\n".into(), FrameError::UnexpectedHttp),
    ] {
        for ours in FramingKind::ALL {
            assert_met(ours, &first, Err(error));
        }
    }
}

#[test]
fn every_refusal_is_recognized_by_clients_of_every_framing_at_every_cut() {
    let refused_for = |error: FrameError, ours| error.refusal(ours).unwrap().to_vec();
    for listener in FramingKind::ALL {
        for client in FramingKind::ALL.into_iter().filter(|client| *client != listener) {
            let error = FrameError::OtherFraming { theirs: client, ours: listener };
            let expected = FrameError::OtherFraming { theirs: listener, ours: client };
            assert_met(client, &refused_for(error, listener), Err(expected));
        }
        for (error, expected) in [
            (FrameError::FirstNotJson, FrameError::FirstNotJson),
            (FrameError::UnexpectedGreeting, FrameError::Refused(Refusal::NoSessions)),
        ] {
            for client in FramingKind::ALL {
                assert_met(client, &refused_for(error, listener), Err(expected));
            }
        }
    }
    for (refusal, expected) in [
        (Refusal::Unasked, FrameError::UnexpectedSession),
        (Refusal::Malformed, FrameError::UnexpectedSession),
        (Refusal::User, FrameError::UserNotAccepted),
        (Refusal::Other(99), FrameError::Refused(Refusal::Other(99))),
    ] {
        for client in FramingKind::ALL {
            assert_met(client, &session::plain_refusal(refusal, "why"), Err(expected));
        }
    }
}

#[test]
fn messages_of_the_line_itself_are_never_refused() {
    let refusal = FrameError::FirstNotJson.refusal(Text).unwrap();
    let later = [b"{}\n", &refusal[..]].concat();
    for first in [
        &b"{\"jsonrpc\":\"2.0\"}\n"[..],
        b"content\n",
        b"Content-Length\n",
        b"Content-Length: 12\n",
        b"Content-Length: 1x\r\n",
        b"Content-Length:\r\n",
        b"Content-Type: x\r\n",
        b"GET / HTTP\n",
        b"GET\n",
        b"HELLO WORLD AGAIN\n",
        b"HTTP is a protocol\n",
        b"HTTP/2 is good\n",
        b"HTTP/2 is good\r\n",
        b"HTTP/1.1\r\n",
        b"We love HTTP/1.1\n",
        b"We love HTTP/1.1\r\n",
        b"NOTE: see HTTP/1.1\r\n",
        b"A B HTTP/1.1\r\n",
        b"GET / HTTP/\r\n",
        b"GET / HTTP/1.1\n",
        b"HTTP/1.1 200 OK\n",
        b"\x15\n",
        b"\x16\x03\n",
        b"\n",
        b"\0\n",
        b"\0\0\n",
        b"\0\0\0\n",
        b"\0\0\0\x05hello\n",
        b"\0\0\0\x05hello, world\n",
        b"\0\0\0\x03\x03\x02\x0b\n",
        b"\0\xff\xff\xff\x03\x01\n",
        b"\0text that begins with NUL\n",
        b"\0\x01\x02\x03\x04\x05\n",
        &later,
    ] {
        assert_eq!(meet(Text, first), Ok(true), "{}", first.escape_ascii());
    }
    for first in [
        headers("{}"),
        headers("{"),
        headers("{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"no\"}}"),
        b"Content-Type: a\r\nContent-Length: 2\r\n\r\n{}".into(),
        b"content-length: 12 34\r\n".into(),
        b"Content Length: 2\r\n".into(),
        b"Content-Length: 2\n".into(),
        b"\r\n".into(),
        [headers("{}"), refusal.to_vec()].concat(),
    ] {
        assert_eq!(meet(Headers, &first), Ok(true), "{}", first.escape_ascii());
    }
    for first in [
        frames([b"{}"]),
        frames([b""]),
        frames([b"", b"five!"]),
        frames([b"hello"]),
        frames([&[b'x'; 5000]]),
        frames([b"\x03\x02\x0bwhy"]),
        frames([b"\x03\x01\x0b"]),
        frames([b"\x01TIEL"]),
        frames([b"{}", &refusal[4..]]),
        b"\x40\0\0\0".into(),
        b"\xff\xff\xff\xff".into(),
    ] {
        assert_eq!(meet(Prefix, &first), Ok(true), "{}", first.escape_ascii());
    }
    // With so large a limit, text may be a length.
    let mut large = LengthPrefix::new(ByteSize::mib(3072)).without_sessions();
    assert_eq!(large.meet(b"{\"a\""), Ok(true));
}
