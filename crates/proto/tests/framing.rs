//! Tests that every framing yields the same messages, faults and ending, no matter where the stream is
//! split.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tieline_proto::json::Limits;
use tieline_proto::{
    ByteSize, Codec, ContentLength, EncodeError, Ending, FAULT_HEAD, Fault, Frame, FrameError,
    Framing, FramingKind, Json, LengthPrefix, Lines, MAX_HEADER_BLOCK, Oversize, Truncated,
    WriteBuf,
};

/// All that a decoder returns for a stream.
#[derive(Debug, PartialEq)]
struct Seen {
    frames: Vec<Frame>,
    end: Result<Ending, FrameError>,
}

impl Seen {
    fn messages(&self) -> Vec<&[u8]> {
        let mut messages = Vec::new();
        for frame in &self.frames {
            let Frame::Message(message) = frame else { panic!("{self:?}") };
            messages.push(message.as_ref());
        }
        messages
    }
}

/// Feeds `pieces` one by one, as if each came from one read.
fn decode<'a>(mut framing: impl Framing, pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match framing.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return Seen { frames, end: Err(error) },
            }
        }
    }
    let ending = framing.finish(&mut buffer);
    assert!(buffer.is_empty(), "a finished decoder must empty the buffer");
    Seen { frames, end: Ok(ending) }
}

/// Decodes the stream as a whole, byte by byte, and split in two at every offset. The results must be
/// equal.
fn decode_every_way(framing: impl Framing, stream: &[u8]) -> Seen {
    let whole = decode(framing.clone(), [stream]);
    assert_eq!(decode(framing.clone(), stream.chunks(1)), whole, "byte by byte");
    for cut in 0..=stream.len() {
        let (front, back) = stream.split_at(cut);
        assert_eq!(decode(framing.clone(), [front, back]), whole, "cut at {cut}");
    }
    whole
}

fn encode(framing: &impl Framing, message: &[u8]) -> Result<Bytes, EncodeError> {
    let mut out = WriteBuf::new();
    framing.encode(&Bytes::copy_from_slice(message), &mut out).map(|()| out.to_bytes())
}

fn limit(bytes: usize) -> ByteSize {
    ByteSize::new(bytes)
}

fn oversize(bytes: usize, head: &[u8]) -> Frame {
    Frame::Fault(Fault::Oversize(Box::new(Oversize { limit: limit(bytes), head: head.into() })))
}

fn message(bytes: &'static [u8]) -> Frame {
    Frame::Message(Bytes::from_static(bytes))
}

#[test]
fn lines_end_with_lf_or_cr_lf_and_blank_ones_are_skipped() {
    let seen = decode_every_way(Lines::default(), b"\n{\"a\":1}\r\n\r\n   \n\t\nplain text\n\0\n");
    assert_eq!(seen.messages(), [&b"{\"a\":1}"[..], b"plain text", b"\0"]);
    assert_eq!(seen.end, Ok(Ending::Clean));
}

#[test]
fn cr_inside_a_line_is_part_of_the_message() {
    let seen = decode_every_way(Lines::default(), b"a\rb\r\r\n");
    assert_eq!(seen.messages(), [&b"a\rb\r"[..]]);
}

#[test]
fn last_line_without_newline_is_distinct_from_a_clean_end() {
    let seen = decode_every_way(Lines::default(), b"one\ntwo");
    assert_eq!(seen.messages(), [b"one"]);
    assert_eq!(seen.end, Ok(Ending::Unterminated(Bytes::from_static(b"two"))));
    assert_eq!(decode_every_way(Lines::default(), b"one\n \r").end, Ok(Ending::Clean));
    assert_eq!(decode_every_way(Lines::default(), b"").end, Ok(Ending::Clean));
}

#[test]
fn line_above_the_limit_is_one_fault() {
    let seen = decode_every_way(Lines::new(limit(4)), b"123\n1234\r\n12345\n1234\n");
    let expected = vec![message(b"123"), message(b"1234"), oversize(4, b"1234"), message(b"1234")];
    assert_eq!(seen.frames, expected);
    assert_eq!(seen.end, Ok(Ending::Clean));
}

#[test]
fn line_after_an_oversize_one_is_decoded() {
    let seen = decode_every_way(Lines::new(limit(4)), b"123456789123456789\r\nab\n");
    assert_eq!(seen.frames, [oversize(4, b"1234"), message(b"ab")]);
}

#[test]
fn unfinished_oversize_line_is_truncated() {
    let seen = decode_every_way(Lines::new(limit(4)), b"ab\n1234\r56");
    assert_eq!(seen.frames, [message(b"ab"), oversize(4, b"1234")]);
    let truncated = Truncated { received: 7, expected: None };
    assert_eq!(seen.end, Ok(Ending::Truncated(truncated)));
}

#[test]
fn gibibyte_without_a_newline_keeps_the_buffer_small() {
    let mut lines = Lines::new(ByteSize::mib(1));
    let mut buffer = BytesMut::new();
    let piece = vec![b'x'; 1 << 20];
    let mut faults = 0;
    let mut largest = 0;
    for _ in 0..1024 {
        buffer.extend_from_slice(&piece);
        while let Some(frame) = lines.decode(&mut buffer).unwrap() {
            assert_eq!(frame, oversize(1 << 20, &[b'x'; FAULT_HEAD]));
            faults += 1;
        }
        largest = largest.max(buffer.capacity());
    }
    assert_eq!(faults, 1);
    assert!(largest <= 4 << 20, "{largest}");
}

#[test]
fn ten_million_blank_lines_yield_nothing_and_keep_the_buffer_small() {
    let mut lines = Lines::default();
    let mut buffer = BytesMut::new();
    for _ in 0..10_000 {
        buffer.extend_from_slice(&[b'\n'; 1000]);
        assert_eq!(lines.decode(&mut buffer), Ok(None));
        assert!(buffer.is_empty());
    }
    assert!(buffer.capacity() < 100_000);
}

#[test]
fn short_lines_do_not_keep_the_read_buffer_alive() {
    let mut lines = Lines::default();
    let mut buffer = BytesMut::from(&b"one of many lines\n".repeat(10_000)[..]);
    let read = buffer.as_ptr_range();
    let mut messages = 0;
    while let Some(Frame::Message(message)) = lines.decode(&mut buffer).unwrap() {
        assert_eq!(message, "one of many lines");
        assert!(!read.contains(&message.as_ptr()), "the read buffer is kept alive");
        messages += 1;
    }
    assert_eq!(messages, 10_000);
}

#[test]
fn lines_refuse_messages_that_would_become_two_lines_or_none() {
    let lines = Lines::new(limit(8));
    for text in [&b"a\nb"[..], b"a\rb", b"a\n", b"\r"] {
        assert_eq!(encode(&lines, text), Err(EncodeError::RawNewline), "{text:?}");
    }
    for text in [&b""[..], b"  \t"] {
        assert_eq!(encode(&lines, text), Err(EncodeError::Empty), "{text:?}");
    }
    assert_eq!(encode(&lines, b"12345678").unwrap(), &b"12345678\n"[..]);
    let error = EncodeError::Oversize { length: 9, limit: limit(8) };
    assert_eq!(encode(&lines, b"123456789"), Err(error));
}

#[test]
fn content_length_decodes_language_server_protocol_messages() {
    let stream =
        b"Content-Length: 2\r\n\r\n{}Content-Type: application/vscode-jsonrpc; charset=utf-8\r\n\
        content-length:\t5 \r\n\r\na\r\n\nbContent-Length: 0\r\n\r\n";
    let seen = decode_every_way(ContentLength::default(), stream);
    assert_eq!(seen.messages(), [&b"{}"[..], b"a\r\n\nb", b""]);
    assert_eq!(seen.end, Ok(Ending::Clean));
}

#[test]
fn content_length_refuses_every_ambiguous_header() {
    use FrameError::*;
    for (header, error) in [
        ("Content-Length: 1\r\nContent-Length: 1\r\n\r\n", DuplicateContentLength),
        ("Content-Length: 1\r\ncontent-length: 2\r\n\r\n", DuplicateContentLength),
        ("Content-Length: +5\r\n\r\n", InvalidContentLength),
        ("Content-Length: -5\r\n\r\n", InvalidContentLength),
        ("Content-Length: 0x10\r\n\r\n", InvalidContentLength),
        ("Content-Length: 1 2\r\n\r\n", InvalidContentLength),
        ("Content-Length: 1,1\r\n\r\n", InvalidContentLength),
        ("Content-Length: \r\n\r\n", InvalidContentLength),
        ("Content-Length: 5.0\r\n\r\n", InvalidContentLength),
        ("Content-Length: \u{0661}\r\n\r\n", InvalidContentLength),
        ("Content-Length: 18446744073709551616\r\n\r\n", InvalidContentLength),
        ("Content-Type: text/plain\r\n\r\n", MissingContentLength),
        ("\r\n", MissingContentLength),
        ("Content-Length: 1\n\n", MalformedHeader),
        ("Content-Length : 1\r\n\r\n", MalformedHeader),
        (" Content-Length: 1\r\n\r\n", MalformedHeader),
        ("{\"jsonrpc\":\"2.0\"}\n", MalformedHeader),
        ("garbage without colon\r\n\r\n", MalformedHeader),
        (": 1\r\n\r\n", MalformedHeader),
        ("\u{0}\u{0}", MalformedHeader),
    ] {
        let seen = decode_every_way(ContentLength::default(), header.as_bytes());
        assert_eq!(seen, Seen { frames: vec![], end: Err(error) }, "{header:?}");
    }
}

#[test]
fn content_length_body_above_the_limit_is_an_error() {
    let framing = ContentLength::new(limit(4));
    for (length, body) in [(3, "abc"), (4, "abcd")] {
        let stream = format!("Content-Length: {length}\r\n\r\n{body}");
        let seen = decode_every_way(framing.clone(), stream.as_bytes());
        assert_eq!(seen.messages(), [body.as_bytes()]);
    }
    for length in [5, 1 << 40, u64::MAX] {
        let stream = format!("Content-Length: {length}\r\n\r\n");
        let error = FrameError::Oversize { length, limit: limit(4) };
        assert_eq!(decode_every_way(framing.clone(), stream.as_bytes()).end, Err(error));
    }
}

#[test]
fn header_block_above_its_limit_is_an_error() {
    let block = |size: usize| {
        let rest = "X: \r\nContent-Length: 2\r\n\r\n".len();
        format!("X: {}\r\nContent-Length: 2\r\n\r\n{{}}", "x".repeat(size - rest))
    };
    let largest = MAX_HEADER_BLOCK.bytes();
    for size in [largest - 1, largest] {
        let seen = decode(ContentLength::default(), [block(size).as_bytes()]);
        assert_eq!(seen.messages(), [b"{}"]);
        assert_eq!(decode(ContentLength::default(), block(size).as_bytes().chunks(1)), seen);
    }
    let stream = block(largest + 1);
    for pieces in [1, 4096, stream.len()] {
        let seen = decode(ContentLength::default(), stream.as_bytes().chunks(pieces));
        assert_eq!(seen.end, Err(FrameError::HeaderBlockOversize));
    }
}

#[test]
fn end_in_mid_frame_reports_how_much_arrived() {
    let cases: [(&[u8], Truncated); 3] = [
        (b"Content-Le", Truncated { received: 10, expected: None }),
        (b"Content-Length: 5\r\n\r\nabc", Truncated { received: 3, expected: Some(5) }),
        (b"Content-Length: 5\r\n\r\n", Truncated { received: 0, expected: Some(5) }),
    ];
    for (stream, truncated) in cases {
        let seen = decode_every_way(ContentLength::default(), stream);
        assert_eq!(seen.end, Ok(Ending::Truncated(truncated)));
    }
    let cases: [(&[u8], Truncated); 3] = [
        (b"\0\0", Truncated { received: 2, expected: None }),
        (b"\0\0\0\x05", Truncated { received: 0, expected: Some(5) }),
        (b"\0\0\0\x05abc", Truncated { received: 3, expected: Some(5) }),
    ];
    for (stream, truncated) in cases {
        let seen = decode_every_way(LengthPrefix::default(), stream);
        assert_eq!(seen.end, Ok(Ending::Truncated(truncated)));
    }
}

#[test]
fn length_prefix_carries_any_bytes_up_to_the_limit() {
    let framing = LengthPrefix::new(limit(4));
    let seen = decode_every_way(framing.clone(), b"\0\0\0\x04\n\r\0\xff\0\0\0\0\0\0\0\x03abc");
    assert_eq!(seen.messages(), [&b"\n\r\0\xff"[..], b"", b"abc"]);
    let error = FrameError::Oversize { length: 5, limit: limit(4) };
    assert_eq!(decode_every_way(framing.clone(), b"\0\0\0\x05").end, Err(error));
    let error = FrameError::Oversize { length: u32::MAX.into(), limit: limit(4) };
    assert_eq!(decode_every_way(framing, b"\xff\xff\xff\xff....").end, Err(error));
}

#[test]
fn missing_bytes_never_exceed_the_limit() {
    for (stream, missing) in [
        (&b"\0\0\0\x04ab"[..], 2),
        (b"\0\0\0\x04abcdef", 0),
        (b"\xff\xff\xff\xff", 0),
        (b"\0\0", 0),
    ] {
        let buffer = BytesMut::from(stream);
        assert_eq!(LengthPrefix::new(limit(4)).missing(&buffer), missing, "{stream:?}");
    }
    let mut framing = ContentLength::new(limit(4));
    let mut buffer = BytesMut::from(&b"Content-Length: 4\r\n\r\na"[..]);
    assert_eq!(framing.decode(&mut buffer), Ok(None));
    assert_eq!(framing.missing(&buffer), 3);
}

#[test]
fn json_framing_yields_one_fault_for_each_message_that_is_not_json() {
    let framing = Json::new(Lines::default(), Limits::default());
    let seen = decode_every_way(framing, b"{\"a\":1}\noops\n[1]\n\xff\n");
    assert_eq!(seen.frames.len(), 4);
    assert_eq!(seen.frames[0], message(b"{\"a\":1}"));
    assert_eq!(seen.frames[2], message(b"[1]"));
    let Frame::Fault(Fault::NotJson(oops)) = &seen.frames[1] else { panic!("{seen:?}") };
    assert_eq!((&oops.head[..], oops.length), (&b"oops"[..], 4));
}

#[test]
fn json_fault_keeps_the_first_4_kib_and_shows_200_bytes() {
    let framing = Json::new(Lines::default(), Limits::default());
    let seen = decode(framing, [&[&[b'Q'; 10_000][..], b"\n"].concat()[..]]);
    let Frame::Fault(Fault::NotJson(long)) = &seen.frames[0] else { panic!("{seen:?}") };
    assert_eq!((long.head.len(), long.length), (FAULT_HEAD, 10_000));
    let text = Fault::NotJson(long.clone()).to_string();
    assert_eq!(text.matches('Q').count(), 201, "200, and one in the reason: {text}");
}

#[test]
fn unterminated_line_that_is_not_json_is_truncated() {
    let framing = Json::new(Lines::default(), Limits::default());
    let seen = decode_every_way(framing.clone(), b"{\"a\":1");
    let truncated = Truncated { received: 6, expected: None };
    assert_eq!(seen.end, Ok(Ending::Truncated(truncated)));
    let seen = decode_every_way(framing, b"{\"a\":1}");
    assert_eq!(seen.end, Ok(Ending::Unterminated(Bytes::from_static(b"{\"a\":1}"))));
}

#[test]
fn json_with_raw_newlines_is_sent_as_one_line() {
    let framing = Json::new(Lines::default(), Limits::default());
    assert_eq!(encode(&framing, b"{\n\"a\":\r\n1}").unwrap(), &b"{ \"a\":  1}\n"[..]);
    let error = encode(&framing, b"{\"a\":\n\"x\ny\"}").unwrap_err();
    assert!(matches!(error, EncodeError::NotJson(_)), "{error:?}");
    let body = Json::new(ContentLength::default(), Limits::default());
    assert_eq!(encode(&body, b"[\n]").unwrap(), &b"Content-Length: 3\r\n\r\n[\n]"[..]);
}

#[test]
fn framing_names_parse_back() {
    for kind in FramingKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert!("ndjson".parse::<FramingKind>().is_err());
}

/// Generates messages that all three framings can carry.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let text = proptest::collection::vec(any::<u8>(), 1..40);
    text.prop_map(|bytes| {
        let plain = |b: &u8| !matches!(b, b'\n' | b'\r');
        [b"m".to_vec(), bytes.into_iter().filter(plain).collect()].concat()
    })
}

fn any_codec() -> impl Strategy<Value = Codec> {
    proptest::sample::select(FramingKind::ALL.to_vec()).prop_map(|kind| kind.codec(limit(64)))
}

/// Splits `stream` into pieces with the lengths `cuts`, which are repeated.
fn pieces<'a>(mut stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at((*cut).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn encoded_messages_are_decoded_wherever_the_stream_is_split(
        codec in any_codec(),
        messages in proptest::collection::vec(any_message(), 0..8),
        cuts in proptest::collection::vec(1usize..50, 1..8),
    ) {
        let mut out = WriteBuf::new();
        for message in &messages {
            codec.encode(&Bytes::copy_from_slice(message), &mut out).unwrap();
        }
        let stream = out.to_bytes();
        let seen = decode(codec, pieces(&stream, &cuts));
        prop_assert_eq!(&seen.end, &Ok(Ending::Clean));
        prop_assert_eq!(seen.messages(), messages);
    }

    #[test]
    fn any_bytes_decode_the_same_wherever_they_are_split(
        codec in any_codec(),
        stream in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(0u8), Just(b'1')], 0..300),
        header: bool,
        cuts in proptest::collection::vec(1usize..50, 1..8),
    ) {
        let mut bytes = if header { b"Content-Length: 7\r\n".to_vec() } else { Vec::new() };
        bytes.extend_from_slice(&stream);
        let whole = decode(codec.clone(), [&bytes[..]]);
        prop_assert_eq!(decode(codec, pieces(&bytes, &cuts)), whole);
    }

    #[test]
    fn decoder_buffers_no_more_than_the_limit(
        codec in any_codec(),
        stream in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut codec = codec;
        let mut buffer = BytesMut::new();
        for byte in stream {
            buffer.extend_from_slice(&[byte]);
            match codec.decode(&mut buffer) {
                Ok(_) => prop_assert!(buffer.len() <= MAX_HEADER_BLOCK.bytes() + 64),
                Err(_) => break,
            }
        }
    }
}
