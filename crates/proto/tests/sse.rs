//! Server-sent events are parsed as the standard requires (WHATWG HTML, section 9.2), within limits.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::ByteSize;
use tieline_proto::sse::{
    EncodeError, Encoder, Event, Excess, Item, Limits, MAX_NAME, Parser, comment,
};

/// Parses the stream as a whole, byte by byte, and split in two at every offset. Panics unless the
/// results are equal.
fn parse_with(limits: Limits, stream: &[u8]) -> Vec<Item> {
    let in_pieces = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut parser, mut items) = (Parser::new(limits), Vec::new());
        for mut piece in pieces {
            items.extend(std::iter::from_fn(|| parser.parse(&mut piece)));
            assert!(piece.is_empty());
        }
        items
    };
    let whole = in_pieces(&mut [stream].into_iter());
    assert_eq!(in_pieces(&mut stream.chunks(1)), whole, "byte by byte");
    for cut in 0..=stream.len() {
        let (front, back) = stream.split_at(cut);
        assert_eq!(in_pieces(&mut [front, back].into_iter()), whole, "cut at {cut}");
    }
    whole
}

fn parse(stream: impl AsRef<[u8]>) -> Vec<Item> {
    parse_with(Limits::default(), stream.as_ref())
}

fn event(event: &str, data: &'static str, id: &str) -> Item {
    Item::Event(Event { event: event.into(), data: Bytes::from(data), id: id.into() })
}

fn data(data: &'static str) -> Item {
    event("", data, "")
}

#[test]
fn examples_of_the_standard_are_parsed() {
    for (stream, expected) in [
        ("data: YHOO\ndata: +2\ndata: 10\n\n", vec![data("YHOO\n+2\n10")]),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            vec![event("", "first event", "1"), data("second event"), data(" third event")],
        ),
        ("data\n\ndata\ndata\n\ndata:", vec![data(""), data("\n")]),
        ("data:test\n\ndata: test\n\n", vec![data("test"), data("test")]),
        (
            "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
            vec![
                event("add", "73857293", ""),
                event("remove", "2153", ""),
                event("add", "113411", ""),
            ],
        ),
    ] {
        assert_eq!(parse(stream), expected, "{stream:?}");
    }
}

#[test]
fn lines_end_with_lf_cr_or_both() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = "data: a|data: b||data: c||".replace('|', end);
        assert_eq!(parse(stream), [data("a\nb"), data("c")], "{end:?}");
    }
    assert_eq!(parse("data: a\r\ndata: b\r\r\ndata: c\n\r"), [data("a\nb"), data("c")]);
    // A CR ends the line at once, without waiting for a possible LF.
    assert_eq!(parse("data: a\r\r"), [data("a")]);
    assert_eq!(parse("\n\r\r\n\ndata: a\n\n"), [data("a")]);
}

#[test]
fn unknown_and_incomplete_fields_are_ignored() {
    for stream in [
        "",
        "\n",
        "\r\n\r\n",
        ":\n\n",
        ": data: x\n\n",
        " data: x\n\n",
        "Data: x\n\n",
        "dat: x\n\n",
        "datab: x\n\n",
        "data : x\n\n",
        "event\u{0}: x\n\n",
        "id: 7\n\n",
        "event: x\n\n",
        "data: never ended",
        "data: never ended\n",
        "retry\n\n",
        "retry:\n\n",
        "retry: 1x\n\n",
        "retry: +1\n\n",
        "retry: -1\n\n",
        "retry: 1.5\n\n",
        "retry:  1\n\n",
        "unheard-of-and-rather-long: x\n\n",
    ] {
        assert_eq!(parse(stream), [], "{stream:?}");
    }
}

#[test]
fn byte_order_mark_is_skipped_only_at_the_start_of_the_stream() {
    assert_eq!(parse("\u{feff}data: a\n\n"), [data("a")]);
    assert_eq!(parse("\u{feff}\ndata: a\n\n"), [data("a")]);
    assert_eq!(parse("\u{feff}: comment\ndata: a\n\n"), [data("a")]);
    for stream in ["\u{feff}\u{feff}data: a\n\n", "\n\u{feff}data: a\n\n", ":\n\u{feff}data: a\n\n"]
    {
        assert_eq!(parse(stream), [], "{stream:?}");
    }
    // An incomplete byte order mark is part of a field name.
    assert_eq!(parse(b"\xef\xbbdata: a\n\ndata: b\n\n"), [data("b")]);
    assert_eq!(parse(b"\xef\n\xbbdata: a\n\ndata: b\n\n"), [data("b")]);
    assert_eq!(parse("data: \u{feff}\n\n"), [data("\u{feff}")]);
}

#[test]
fn last_event_id_stays_until_the_next_one() {
    for (stream, expected, last) in [
        ("id: 1\ndata: a\n\ndata: b\n\n", vec![event("", "a", "1"), event("", "b", "1")], "1"),
        ("id: 1\n\ndata: b\n\n", vec![event("", "b", "1")], "1"),
        ("id: 1\ndata: a\n\nid\ndata: b\n\n", vec![event("", "a", "1"), data("b")], ""),
        ("id: 1\nid: 2\ndata: a\n\n", vec![event("", "a", "2")], "2"),
        ("id: 1\nid: 2\u{0}\ndata: a\n\n", vec![event("", "a", "1")], "1"),
        // The id of an incomplete event is not applied, so that the event is sent again.
        ("id: 1\ndata: a\n\nid: 2\ndata: b\n", vec![event("", "a", "1")], "1"),
        // The id of a lost event is applied, so that the event is not sent again.
        ("id: 1\ndata: 123456789\n\n", vec![Item::Lost(Excess::Data(ByteSize::new(8)))], "1"),
    ] {
        let limits = Limits { max_data: ByteSize::new(8), ..Limits::default() };
        assert_eq!(parse_with(limits, stream.as_bytes()), expected, "{stream:?}");
        let mut parser = Parser::new(limits);
        let mut rest = stream.as_bytes();
        while !rest.is_empty() {
            parser.parse(&mut rest);
        }
        assert_eq!(parser.last_event_id(), last, "{stream:?}");
    }
    let mut parser = Parser::default().behind("7");
    assert_eq!(parser.last_event_id(), "7");
    assert_eq!(parser.parse(&mut &b"data: a\n\n"[..]), Some(event("", "a", "7")));
}

#[test]
fn last_event_name_applies_to_one_event_only() {
    assert_eq!(parse("event: a\nevent: b\ndata\n\ndata\n\n"), [event("b", "", ""), data("")]);
    assert_eq!(parse("event: a\nevent\ndata\n\n"), [data("")]);
    assert_eq!(parse("event: a\n\ndata\n\n"), [data("")]);
    assert_eq!(
        parse(b"event: \xff\ndata: \xff\n\n"),
        [Item::Event(Event {
            event: "\u{fffd}".into(),
            data: Bytes::from_static(b"\xff"),
            id: String::new(),
        })]
    );
}

#[test]
fn retry_time_is_reported_at_the_end_of_its_line() {
    let after = |milliseconds| Item::Retry(Duration::from_millis(milliseconds));
    assert_eq!(parse("data: a\nretry: 10\n"), [after(10)]);
    assert_eq!(parse("retry:0\rdata: a\r\r"), [after(0), data("a")]);
    assert_eq!(parse("retry: 007\n"), [after(7)]);
    assert_eq!(parse("retry: 18446744073709551615\n"), [after(u64::MAX)]);
    assert_eq!(parse("retry: 18446744073709551616\n"), [after(u64::MAX)]);
    assert_eq!(parse(format!("retry: {}\n", "9".repeat(5000))), []);
}

#[test]
fn head_of_lost_data_can_be_taken_once() {
    let stream = b"data: 12\ndata: 345678901234\n\ndata: a\n\n";
    for piece in [1, 3, stream.len()] {
        let mut parser = Parser::new(Limits { max_data: ByteSize::new(8), ..Limits::default() });
        let mut items = Vec::new();
        for mut piece in stream.chunks(piece) {
            while !piece.is_empty() {
                items.extend(parser.parse(&mut piece));
            }
        }
        assert_eq!(items, [Item::Lost(Excess::Data(ByteSize::new(8))), data("a")]);
        let head = parser.take_lost_head();
        assert_eq!(&head[..8], b"12\n34567", "in pieces of {piece}");
        assert!(parser.take_lost_head().is_empty());
    }
}

#[test]
fn limits_are_exact_and_the_next_event_is_parsed() {
    let limits = Limits { max_data: ByteSize::new(10), max_fields: 4 };
    let too_much = Item::Lost(Excess::Data(limits.max_data));
    let name = |length| format!("data: a\nevent: {}\n\n", "n".repeat(length));
    let id = |length| format!("data: a\nid: {}\n\n", "i".repeat(length));
    for (first, expected) in [
        ("data: 1234567890\n\n".into(), data("1234567890")),
        ("data: 12345678901\n\n".into(), too_much.clone()),
        // The newline between two lines of data is included in the limit.
        ("data: 1234\ndata: 67890\n\n".into(), data("1234\n67890")),
        ("data: 12345\ndata: 67890\n\n".into(), too_much.clone()),
        ("data: 1234567890\ndata\n\n".into(), too_much.clone()),
        ("data: 12345678901\ndata: b\nevent: c\n\n".into(), too_much),
        ("data\ndata\ndata\nevent: a\n\n".into(), event("a", "\n\n", "")),
        ("data\ndata\ndata\ndata\ndata\ndata\n\n".into(), Item::Lost(Excess::Fields(4))),
        ("data\n:\n:\n:\n:\nunknown\nunknown\n\n".into(), data("")),
        (name(MAX_NAME.bytes()), event(&"n".repeat(MAX_NAME.bytes()), "a", "")),
        (name(MAX_NAME.bytes() + 1), Item::Lost(Excess::Name)),
        (id(MAX_NAME.bytes() + 1), Item::Lost(Excess::Name)),
    ] {
        let stream = format!("{first}data: next\n\n");
        let items = parse_with(limits, stream.as_bytes());
        assert_eq!(items, [expected, data("next")], "{}", stream.escape_debug());
    }
    let long = id(MAX_NAME.bytes());
    let items = parse_with(limits, long.as_bytes());
    assert_eq!(items, [event("", "a", &"i".repeat(MAX_NAME.bytes()))]);
}

#[test]
fn parser_knows_whether_it_holds_part_of_an_event() {
    for (stream, holds) in [
        ("", false),
        ("\u{feff}", false),
        (":\n", false),
        ("data: a\n\n", false),
        ("\r", false),
        ("d", true),
        (":", true),
        ("data: a\n", true),
        ("id: 1\n", true),
        ("event: a\n", true),
        ("data: a\n\nx", true),
    ] {
        let mut parser = Parser::default();
        let mut rest = stream.as_bytes();
        while !rest.is_empty() {
            parser.parse(&mut rest);
        }
        assert_eq!(parser.holds_part(), holds, "{stream:?}");
    }
}

#[test]
fn events_are_encoded_in_the_usual_form() {
    let mut out = BytesMut::new();
    Encoder::default().data(b"a", &mut out).unwrap();
    let full = Encoder::default().event("e").unwrap().id("1").unwrap();
    let full = full.retry(Duration::from_micros(1_500));
    full.data("{\r\n\"b\":\r 1\n}".as_bytes(), &mut out).unwrap();
    full.alone(&mut out);
    comment("one\ntwo", &mut out);
    Encoder::default().id("").unwrap().data(b"", &mut out).unwrap();
    assert_eq!(
        out,
        "data: a\n\n\
         event: e\nid: 1\nretry: 1\ndata: {\ndata: \"b\":\ndata:  1\ndata: }\n\n\
         event: e\nid: 1\nretry: 1\n\n\
         : one\n: two\n\n\
         id: \ndata: \n\n"
    );
}

#[test]
fn encoder_refuses_names_and_data_that_would_be_parsed_differently() {
    for (name, expected) in [
        ("a\nb", EncodeError::Forbidden),
        ("a\rdata: b", EncodeError::Forbidden),
        ("\r\n", EncodeError::Forbidden),
        ("a\0", EncodeError::Forbidden),
        (&"x".repeat(MAX_NAME.bytes() + 1), EncodeError::TooLong),
    ] {
        assert_eq!(Encoder::default().event(name).unwrap_err(), expected, "{name:?}");
        assert_eq!(Encoder::default().id(name).unwrap_err(), expected, "{name:?}");
    }
    let mut out = BytesMut::from("before");
    let refused = Encoder::default().event("e").unwrap().data(b"\xff", &mut out);
    assert_eq!(refused.unwrap_err(), EncodeError::NotUtf8);
    assert_eq!(out, "before");
}
