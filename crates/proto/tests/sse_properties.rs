//! Compares the parser of server-sent events with a simple one, which follows the standard step by step
//! on a whole stream.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::*;
use tieline_proto::ByteSize;
use tieline_proto::sse::{Encoder, Event, Excess, Item, Limits, Parser, comment};

/// Parses a whole stream as the standard requires, without limits.
fn obvious(stream: &[u8]) -> (Vec<Item>, String) {
    let mut rest = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut items, mut last) = (Vec::new(), Vec::new());
    let (mut data, mut event, mut id) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let line = &rest[..end];
        let behind = &rest[end..];
        rest = behind.strip_prefix(b"\r\n").unwrap_or(&behind[1..]);
        if line.is_empty() {
            last.clone_from(&id);
            let (data, event): (Vec<u8>, Vec<u8>) =
                (std::mem::take(&mut data), std::mem::take(&mut event));
            if let Some(data) = data.strip_suffix(b"\n") {
                let data = Bytes::copy_from_slice(data);
                items.push(Item::Event(Event { event: lossy(&event), data, id: lossy(&last) }));
            }
            continue;
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => event = value.to_vec(),
            b"data" => {
                data.extend(value);
                data.push(b'\n');
            }
            b"id" if !value.contains(&0) => id = value.to_vec(),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let digits = std::str::from_utf8(value).unwrap();
                let time = digits
                    .parse::<u128>()
                    .map_or(u64::MAX, |time| time.min(u64::MAX.into()) as u64);
                items.push(Item::Retry(Duration::from_millis(time)));
            }
            _ => {}
        }
    }
    (items, lossy(&last))
}

fn parse(limits: Limits, stream: &[u8], cuts: &[usize]) -> (Vec<Item>, String) {
    let (mut parser, mut items, mut rest) = (Parser::new(limits), Vec::new(), stream);
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (piece, behind) = rest.split_at(cut.min(rest.len()));
        // Each piece is a buffer of two chunks.
        let mut piece = piece[..piece.len() / 2].chain(&piece[piece.len() / 2..]);
        items.extend(std::iter::from_fn(|| parser.parse(&mut piece)));
        assert!(!piece.has_remaining());
        rest = behind;
    }
    (items, parser.last_event_id().to_owned())
}

/// Generates streams from words that are meaningful in event streams.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        6 => proptest::sample::select(vec![
            &b"data"[..], b"data:", b"data: ", b"event:", b"id:", b"id", b"retry: ", b"retry", b":",
            b"dat", b"datax: ", b"\xef\xbb\xbf", b"\xef\xbb", b" ", b"\0", b"\xff", b"x", b"17", b"{}",
            b"\xe2\x82\xac",
        ])
        .prop_map(<[u8]>::to_vec),
        5 => proptest::sample::select(vec![&b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"])
            .prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![0..4_usize, 0..40_usize], 0..40)
}

/// Generates text with line breaks of every kind.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec!["\n", "\r", "\r\n", " ", ":", "data: ", "\u{feff}", "\0"])
            .prop_map(str::to_owned),
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn name() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|name| name.replace(['\r', '\n', '\0'], ""))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn stream_in_any_pieces_is_parsed_as_the_standard_requires(
        stream in stream(),
        cuts in cuts(),
    ) {
        prop_assert_eq!(parse(Limits::default(), &stream, &cuts), obvious(&stream));
    }

    #[test]
    fn any_bytes_in_any_pieces_parse_the_same_within_the_limits(
        stream in prop_oneof![stream(), proptest::collection::vec(any::<u8>(), 0..300)],
        cuts in cuts(),
        max_data in 0..20_usize,
        max_fields in 0..6_usize,
    ) {
        let limits = Limits { max_data: ByteSize::new(max_data), max_fields };
        let parsed = parse(limits, &stream, &cuts);
        prop_assert_eq!(&parsed, &parse(limits, &stream, &[]));
        // Limits add no items, and remove only those that are reported as lost.
        let (all, last) = obvious(&stream);
        prop_assert_eq!(parsed.1, last);
        let mut all = all.into_iter();
        let mut lost = 0;
        for item in parsed.0 {
            match item {
                Item::Lost(Excess::Data(limit)) => {
                    prop_assert_eq!(limit.bytes(), max_data);
                    lost += 1;
                }
                Item::Lost(_) => lost += 1,
                item => {
                    if let Item::Event(event) = &item {
                        prop_assert!(event.data.len() <= max_data);
                    }
                    let missing = all.by_ref().take_while(|other| *other != item).count();
                    lost = usize::saturating_sub(lost, missing);
                }
            }
        }
        prop_assert!(all.filter(|item| matches!(item, Item::Event(_))).count() <= lost);
    }

    #[test]
    fn encoded_events_are_parsed_back(
        events in proptest::collection::vec(
            (proptest::option::of(name()), proptest::option::of(name()), any::<Option<u32>>(), text()),
            0..5,
        ),
        cuts in cuts(),
        between in text(),
    ) {
        let (mut out, mut expected, mut last) = (BytesMut::new(), Vec::new(), String::new());
        for (event, id, retry, data) in &events {
            let mut encoder = Encoder::default();
            if let Some(event) = event {
                encoder = encoder.event(event).unwrap();
            }
            if let Some(id) = id {
                encoder = encoder.id(id).unwrap();
                last.clone_from(id);
            }
            if let Some(retry) = retry {
                let retry = Duration::from_millis((*retry).into());
                encoder = encoder.retry(retry);
                expected.push(Item::Retry(retry));
            }
            encoder.data(data.as_bytes(), &mut out).unwrap();
            comment(&between, &mut out);
            let data = data.replace("\r\n", "\n").replace('\r', "\n").into();
            let event = event.clone().unwrap_or_default();
            expected.push(Item::Event(Event { event, data, id: last.clone() }));
        }
        prop_assert_eq!(parse(Limits::default(), &out, &cuts), (expected, last));
    }
}
