//! Edge cases of JSON-RPC messages: limits, text that is not JSON, and the dialects.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::{Bytes, BytesMut};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, Invalid, Message, classify};
use tieline_proto::{Frame, Framing, Json, Lines};

fn read(message: &str) -> Message {
    classify(Bytes::copy_from_slice(message.as_bytes()), &Dialect::STRICT, Limits::default())
}

fn invalid(message: &str) -> Invalid {
    match read(message) {
        Message::Invalid(invalid) => invalid,
        other => panic!("valid: {other:?}"),
    }
}

#[test]
fn the_default_limits_are_128_levels_and_100000_members() {
    // The message itself is the first level and has four members.
    let deep = |levels| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"jsonrpc":"2.0","id":5,"method":"m","params":{open}{close}}}"#)
    };
    assert!(matches!(read(&deep(127)), Message::Request(_)));
    assert_eq!((invalid(&deep(128)).code(), invalid(&deep(128)).id()), (-32600, &b"5"[..]));
    let wide = |members: usize| {
        let members: Vec<_> = (0..members).map(|n| format!("\"{n}\":0")).collect();
        format!(r#"{{"jsonrpc":"2.0","id":5,"method":"m","params":{{{}}}}}"#, members.join(","))
    };
    assert!(matches!(read(&wide(99_996)), Message::Request(_)));
    assert_eq!((invalid(&wide(99_997)).code(), invalid(&wide(99_997)).id()), (-32600, &b"5"[..]));
}

#[test]
fn response_above_the_limits_is_a_bad_response_and_keeps_its_id() {
    let deep = "[".repeat(200);
    for member in ["result", "error", "\\u0072esult"] {
        let invalid = invalid(&format!(r#"{{"jsonrpc":"2.0","id":5,"{member}":{deep}"#));
        assert!(invalid.is_response(), "{member}");
        assert_eq!((invalid.code(), invalid.id()), (-32600, &b"5"[..]));
    }
    let request = invalid(&format!(r#"{{"jsonrpc":"2.0","id":5,"method":"m","result":{deep}"#));
    assert!(!request.is_response());
}

#[test]
fn text_that_is_not_json_is_a_parse_error_with_a_null_id() {
    for message in [
        r#"{"jsonrpc":"2.0","id":1,"method":"m",}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1,}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1"#,
        r#"{"jsonrpc":"2.0","id":1,"result":nul}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}]"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1} {"#,
    ] {
        let invalid = invalid(message);
        assert_eq!((invalid.code(), invalid.id()), (-32700, &b"null"[..]), "{message}");
        assert!(!invalid.is_response(), "{message}");
    }
}

#[test]
fn last_of_two_ids_is_used() {
    let invalid = invalid(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#);
    assert_eq!((invalid.code(), invalid.id()), (-32600, &b"2"[..]));
}

/// Each row contains the name, whether there is a `jsonrpc` member, whether there are batches, and how a
/// call is cancelled.
#[test]
fn dialects_are_as_specified() {
    let mcp = Some(("notifications/cancelled", "requestId", None));
    let all = [
        ("strict", true, true, None),
        ("lsp", true, false, Some(("$/cancelRequest", "id", Some(-32800)))),
        ("mcp", true, false, mcp),
        ("mcp-2025-03-26", true, true, mcp),
        ("acp", true, false, Some(("$/cancel_request", "requestId", Some(-32800)))),
        ("xi", false, false, None),
    ];
    let seen = Dialect::ALL.map(|dialect| {
        let cancel = dialect.cancel.map(|cancel| (cancel.method, cancel.id, cancel.code));
        (dialect.name, dialect.version, dialect.batches, cancel)
    });
    assert_eq!(seen, all);
}

#[test]
fn limits_also_apply_to_forwarded_json() {
    let framing = || Json::new(Lines::default(), Limits::default());
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let members: Vec<_> = (0..100_001).map(|n| format!("\"{n}\":0")).collect();
    let wide = format!("{{{}}}", members.join(","));
    for beyond in [deep, wide] {
        let mut stream = BytesMut::from(format!("{beyond}\n{{}}\n").as_bytes());
        let mut framing = framing();
        assert!(matches!(framing.decode(&mut stream).unwrap(), Some(Frame::Fault(_))));
        let next = framing.decode(&mut stream).unwrap();
        assert!(matches!(next, Some(Frame::Message(next)) if next == "{}"), "the line stays up");
    }
}
