//! Compares the parser of server-sent events with eventsource-parser, which the MCP SDK for JavaScript
//! uses. Node decodes the text for the latter.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tieline_proto::sse::{Encoder, Item, Parser};

const STREAMS: usize = 3_000;

/// A Node process that is killed on drop.
struct Node(Child);

impl Node {
    fn start() -> Self {
        let variable = "TIELINE_NODE_FIXTURES";
        let fixtures = std::env::var_os(variable)
            .unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test`"));
        let script = PathBuf::from(fixtures).join("event-stream.js");
        let mut node = Command::new("node");
        let node = node.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(node.spawn().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn words() -> impl Strategy<Value = Vec<u8>> {
    let of =
        |words: &'static [&'static [u8]]| proptest::sample::select(words).prop_map(<[u8]>::to_vec);
    let fields: &[&[u8]] = &[
        b"data",
        b"data:",
        b"data: ",
        b"data:  ",
        b"event:",
        b"event: ",
        b"event",
        b"id:",
        b"id",
        b"id: 1",
        b"id: \0",
        b"retry: ",
        b"retry: 12",
        b"retry",
        b":",
        b": comment",
        b"dat",
        b"datax: ",
        b" data:",
    ];
    let values: &[&[u8]] = &[
        b"x",
        b"17",
        b"{}",
        b"a:b",
        b" ",
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xc3\xa4",
        b"\xe2\x82\xac",
        b"\xf0\x9f\xa7",
        b"\xef\xbb\xbf",
    ];
    let ends: &[&[u8]] = &[b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"];
    let word = prop_oneof![4 => of(fields), 2 => of(values), 4 => of(ends)];
    let mark = prop_oneof![9 => Just(&b""[..]), 1 => Just(&b"\xef\xbb\xbf"[..])];
    (mark, proptest::collection::vec(word, 0..40))
        .prop_map(|(mark, words)| [mark, &words.concat()].concat())
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (words(), proptest::collection::vec(0..30_usize, 0..10)).prop_map(|(mut stream, cuts)| {
        // eventsource-parser holds a final CR back until it sees whether an LF follows.
        stream.extend(b"\n: the end\n");
        let mut pieces = Vec::new();
        for cut in cuts {
            let rest = stream.split_off(cut.min(stream.len()));
            pieces.push(std::mem::replace(&mut stream, rest));
        }
        pieces.push(stream);
        pieces
    })
}

fn items(pieces: &[Vec<u8>]) -> Vec<Item> {
    let (mut parser, mut items) = (Parser::default(), Vec::new());
    for piece in pieces {
        let mut piece = &piece[..];
        items.extend(std::iter::from_fn(|| parser.parse(&mut piece)));
    }
    items
}

/// Compares two items. eventsource-parser reports an id only with the event that sets it.
fn is_same(ours: &Item, theirs: &Value) -> bool {
    match ours {
        Item::Event(event) => {
            theirs["event"] == event.event
                && theirs["data"] == String::from_utf8_lossy(&event.data).as_ref()
                && (theirs["id"].is_null() || theirs["id"] == event.id)
        }
        Item::Retry(retry) => theirs["retry"] == retry.as_millis() as u64,
        _ => false,
    }
}

/// Returns the items that Node parses from each of these streams, which are passed in pieces.
fn ask(streams: &[Vec<Vec<u8>>]) -> Vec<Vec<Value>> {
    let mut node = Node::start();
    let mut stdin = node.0.stdin.take().unwrap();
    let hex = |piece: &Vec<u8>| piece.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line =
        |stream: &Vec<Vec<u8>>| json!(stream.iter().map(hex).collect::<Vec<_>>()).to_string();
    let lines: String = streams.iter().map(|stream| line(stream) + "\n").collect();
    let asking = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let answers = BufReader::new(node.0.stdout.take().unwrap()).lines();
    let answers = answers.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    asking.join().unwrap();
    assert!(node.0.wait().unwrap().success());
    answers
}

#[test]
fn both_parsers_find_the_same_events_in_random_streams() {
    let (mut runner, pieces) = (TestRunner::default(), pieces());
    let streams: Vec<_> =
        (0..STREAMS).map(|_| pieces.new_tree(&mut runner).unwrap().current()).collect();
    let answers = ask(&streams);
    assert_eq!(answers.len(), STREAMS);
    let (mut events, mut retries) = (0, 0);
    for (stream, theirs) in streams.iter().zip(&answers) {
        let ours = items(stream);
        let same = ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs));
        assert!(same, "{:?}\n{ours:?}\n{theirs:?}", stream.concat().escape_ascii().to_string());
        events += ours.iter().filter(|item| matches!(item, Item::Event(_))).count();
        retries += ours.iter().filter(|item| matches!(item, Item::Retry(_))).count();
    }
    println!("{events} events and {retries} retry times in {STREAMS} streams");
    assert!(
        events > STREAMS / 6 && retries > STREAMS / 50,
        "the streams contain too few events: {events}, or retry times: {retries}"
    );
}

#[test]
fn node_parses_encoded_events_and_hostile_data_adds_no_field() {
    let hostile = [
        "a\nid: 2",
        "a\r\revent: x\rdata: y",
        "\r\n\r\ndata: z\n\n",
        "\u{feff}",
        "",
        " a",
        ":",
        "ä€🧵",
    ];
    let mut streams = Vec::new();
    for data in hostile {
        let mut out = BytesMut::new();
        let encoder = Encoder::default().event("e:v ").unwrap().id(" 7: ").unwrap();
        encoder.data(data.as_bytes(), &mut out).unwrap();
        streams.push(vec![out.to_vec()]);
    }
    for (data, items) in hostile.iter().zip(ask(&streams)) {
        let data = data.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(items, [json!({"event": "e:v ", "data": data, "id": " 7: "})]);
    }
}
