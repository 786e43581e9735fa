//! JSON-RPC messages: the examples of the specification, messages that are almost valid, and random
//! messages, which are compared with a simple implementation based on serde_json.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Dialect, MAX_BATCH, MAX_ID, Message, classify, write_error, write_notification, write_request,
    write_response, write_result,
};

fn read(message: &str) -> Message {
    classify(Bytes::copy_from_slice(message.as_bytes()), &Dialect::STRICT, Limits::default())
}

/// Describes a message in one line: its type and its members.
fn show(message: &Message) -> String {
    let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    let params = |raw: Option<&[u8]>| raw.map_or("-".into(), text);
    match message {
        Message::Request(it) => {
            format!("request {} {} {}", text(it.id()), it.method(), params(it.params()))
        }
        Message::Notification(it) => {
            format!("notification {} {}", it.method(), params(it.params()))
        }
        Message::Response(it) => match it.outcome() {
            Ok(result) => format!("result {} {}", text(it.id()), text(result)),
            Err(error) => format!("error {} {}", text(it.id()), text(error)),
        },
        Message::Batch(elements) => {
            format!("batch [{}]", elements.iter().map(show).collect::<Vec<_>>().join("; "))
        }
        Message::Invalid(it) if it.is_response() => format!("bad response {}", it.problem()),
        Message::Invalid(it) => format!("invalid {} {}", it.code(), text(it.id())),
    }
}

/// The messages are from section 7 of the specification.
#[test]
fn examples_of_the_specification_are_classified() {
    for (message, expected) in [
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
            "request 1 subtract [42, 23]",
        ),
        (r#"{"jsonrpc": "2.0", "result": 19, "id": 1}"#, "result 1 19"),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
            "request 2 subtract [23, 42]",
        ),
        (r#"{"jsonrpc": "2.0", "result": -19, "id": 2}"#, "result 2 -19"),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
            r#"request 3 subtract {"subtrahend": 23, "minuend": 42}"#,
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#,
            "notification update [1,2,3,4,5]",
        ),
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, "notification foobar -"),
        (r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#, r#"request "1" foobar -"#),
        (
            r#"{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}"#,
            r#"error "1" {"code": -32601, "message": "Method not found"}"#,
        ),
        (r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#, "invalid -32700 null"),
        (r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, "invalid -32600 null"),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]"#,
            "invalid -32700 null",
        ),
        ("[]", "invalid -32600 null"),
        ("[1]", "batch [invalid -32600 null]"),
        ("[1,2,3]", "batch [invalid -32600 null; invalid -32600 null; invalid -32600 null]"),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]"#,
            r#"batch [request "1" sum [1,2,4]; notification notify_hello [7]; request "2" subtract [42,23]; invalid -32600 null; request "5" foo.get {"name": "myself"}; request "9" get_data -]"#,
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#,
            "batch [notification notify_sum [1,2,4]; notification notify_hello [7]]",
        ),
    ] {
        assert_eq!(show(&read(message)), expected, "{message}");
    }
}

#[test]
fn members_are_found_in_any_order_and_spelling() {
    for (message, expected) in [
        (r#"{"params":[1],"method":"m","id":1,"jsonrpc":"2.0"}"#, "request 1 m [1]"),
        (r#"{"\u006a\u0073onrpc":"2.0","\u0069d":7,"m\u0065thod":"\u006d\n"}"#, "request 7 m\n -"),
        (
            r#" { "jsonrpc" : "2.0" , "x" : {"id":2,"method":3} , "method" : "m" } "#,
            "notification m -",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#, "request 1 m -"),
        (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "result 1 null"),
        (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, "error null {}"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, "request 1 \u{fffd} -"),
        (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, "request 1  -"),
    ] {
        assert_eq!(show(&read(message)), expected, "{message}");
    }
}

#[test]
fn ids_are_kept_as_written() {
    let long = format!("\"{}\"", "i".repeat(MAX_ID - 2));
    for id in [
        "1",
        "-0",
        "1.50",
        "1E400",
        "9007199254740993",
        "123456789012345678901234567890",
        "null",
        r#""""#,
        r#""a\u0062\"""#,
        &long,
    ] {
        let request = read(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#));
        let Message::Request(request) = request else { panic!("{id}: {request:?}") };
        assert_eq!(request.id(), id.as_bytes());
    }
}

#[test]
fn invalid_messages_keep_their_id_if_they_have_one() {
    let too_long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "i".repeat(MAX_ID));
    for (message, expected) in [
        ("", "invalid -32700 null"),
        ("nonsense", "invalid -32700 null"),
        ("1", "invalid -32600 null"),
        ("\"text\"", "invalid -32600 null"),
        ("null", "invalid -32600 null"),
        ("{}", "invalid -32600 null"),
        ("{}{}", "invalid -32700 null"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m"} x"#, "invalid -32700 null"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":nul}"#, "invalid -32700 null"),
        (r#"{"id":1,"method":"m"}"#, "invalid -32600 1"),
        (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, "invalid -32600 1"),
        (r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#, "invalid -32600 1"),
        (r#"{"jsonrpc":"2.0","id":1}"#, "invalid -32600 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, "invalid -32600 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"p"}"#, "invalid -32600 1"),
        (r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, "invalid -32600 null"),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, "invalid -32600 null"),
        (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, "invalid -32600 null"),
        (r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"m"}"#, "invalid -32600 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","\u006dethod":"n"}"#, "invalid -32600 1"),
        (&too_long, "invalid -32600 null"),
        (r#"[[{"jsonrpc":"2.0","id":1,"method":"m"}]]"#, "batch [invalid -32600 null]"),
    ] {
        assert_eq!(show(&read(message)), expected, "{message}");
    }
}

#[test]
fn bad_responses_are_recognized_as_responses() {
    for message in [
        r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":"text"}"#,
        r#"{"jsonrpc":"2.0","result":1}"#,
        r#"{"jsonrpc":"2.0","id":[],"result":1}"#,
        r#"{"id":1,"result":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1,"result":2}"#,
    ] {
        let shown = show(&read(message));
        assert!(shown.starts_with("bad response"), "{message}: {shown}");
    }
}

#[test]
fn unusual_responses_of_other_implementations_are_accepted() {
    for (message, expected) in [
        (r#"{"jsonrpc":"2.0","id":1,"result":5,"error":null}"#, "result 1 5"),
        (r#"{"jsonrpc":"2.0","id":1,"result":null,"error":null}"#, "result 1 null"),
        (r#"{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":1}}"#, r#"error 1 {"code":1}"#),
        (r#"{"jsonrpc":"2.0","id":1,"result":5,"method":null,"params":null}"#, "result 1 5"),
        (r#"{"jsonrpc":"2.0","id":1,"result":5,"method":7}"#, "result 1 5"),
        (r#"{"jsonrpc":"2.0","error":{"code":1}}"#, r#"error null {"code":1}"#),
        (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#, r#"error null {"code":1}"#),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","result":5}"#, "request 1 m -"),
    ] {
        assert_eq!(show(&read(message)), expected, "{message}");
    }
}

/// Each case contains the calls that the message answers, and whether it may be a response.
#[test]
fn calls_answered_by_invalid_messages_are_found() {
    use tieline_proto::jsonrpc::Answers::{self, Call, OnlyCall};
    let deep = "[".repeat(200);
    let limited = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{deep}"#);
    let behind = format!(r#"{{"jsonrpc":"2.0","result":{deep}{},"id":7}}"#, "]".repeat(200));
    let cases: &[(&[u8], &[Answers<'_>], bool)] = &[
        (br#"{"jsonrpc":"2.0","id":7}"#, &[Call(b"7")], true),
        (br#"{"jsonrpc":"2.0","id":7,"error":null}"#, &[Call(b"7")], true),
        (br#"{"jsonrpc":"2.0","id":7,"method":null}"#, &[Call(b"7")], true),
        (br#"{"jsonrpc":"2.0","id":7,"result":1,"error":{}}"#, &[Call(b"7")], true),
        (br#"{"jsonrpc":"2.0","id":7,"id":7,"result":1}"#, &[Call(b"7")], true),
        (br#"{"id":7,"result":1}"#, &[Call(b"7")], true),
        (br#"{"jsonrpc":"2.0","result":1}"#, &[OnlyCall], true),
        (br#"{"jsonrpc":"2.0","id":null,"error":"text"}"#, &[OnlyCall], true),
        (br#"{"jsonrpc":"2.0","id":null}"#, &[], true),
        (b"{}", &[], true),
        (b"7", &[], true),
        (limited.as_bytes(), &[Call(b"7")], true),
        (behind.as_bytes(), &[Call(b"7")], true),
        (b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"caf\xe9\"}", &[Call(b"7")], true),
        (b"Welcome to my server", &[], true),
        (br#"{"jsonrpc":"2.0","id":7,"method":"m","params":"text"}"#, &[], false),
        (br#"{"jsonrpc":"2.0","id":7,"id":7,"method":"m"}"#, &[], false),
    ];
    for (message, answers, may_be_response) in cases {
        let shown = message.escape_ascii();
        let read = classify(Bytes::copy_from_slice(message), &Dialect::STRICT, Limits::default());
        let Message::Invalid(invalid) = read else { panic!("valid: {shown}") };
        assert_eq!(invalid.answers(), *answers, "{shown}");
        assert_eq!(invalid.may_be_response(), *may_be_response, "{shown}");
    }
    let batch = Bytes::from_static(br#"[{"jsonrpc":"2.0","id":1,"result":1},{"id":2,"error":{}}]"#);
    let Message::Invalid(invalid) = classify(batch, &Dialect::MCP, Limits::default()) else {
        panic!("this dialect has no batches")
    };
    assert_eq!(invalid.answers(), [Call(b"1"), Call(b"2")]);
}

#[test]
fn invalid_utf8_and_nul_bytes_are_parse_errors() {
    for message in [&b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"[..], b"\0", b"{\0}", b"\"\0\""] {
        let read = classify(Bytes::from_static(message), &Dialect::STRICT, Limits::default());
        assert_eq!(show(&read), "invalid -32700 null");
    }
}

#[test]
fn message_above_the_limits_is_invalid_and_keeps_an_id_that_came_first() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let keys: String = (0..1_000_000).map(|n| format!("\"{n}\":0,")).collect();
    for (message, expected) in [
        (format!(r#"{{"jsonrpc":"2.0","id":5,"method":"m","params":{deep}}}"#), "invalid -32600 5"),
        (
            format!(r#"{{"params":{deep},"jsonrpc":"2.0","id":5,"method":"m"}}"#),
            "invalid -32600 null",
        ),
        (
            format!(r#"{{"jsonrpc":"2.0","id":5,"method":"m","params":{{{keys}"z":0}}}}"#),
            "invalid -32600 5",
        ),
        (deep.clone(), "invalid -32600 null"),
    ] {
        assert_eq!(show(&read(&message)), expected, "{}", &message[..60]);
    }
}

#[test]
fn number_of_100_mb_is_accepted() {
    let number = "7".repeat(100_000_000);
    let message = read(&format!(r#"{{"jsonrpc":"2.0","method":"m","params":[{number}]}}"#));
    let Message::Notification(notification) = message else { panic!("not a notification") };
    assert_eq!(notification.params().unwrap().len(), number.len() + 2);
}

#[test]
fn batch_above_the_limit_is_invalid() {
    let batch = |length| format!("[{}]", vec!["1"; length].join(","));
    assert!(
        matches!(read(&batch(MAX_BATCH)), Message::Batch(elements) if elements.len() == MAX_BATCH)
    );
    assert_eq!(show(&read(&batch(MAX_BATCH + 1))), "invalid -32600 null");
    assert_eq!(show(&read(&batch(8_000_000))), "invalid -32600 null");
}

#[test]
fn dialects_differ_in_version_batches_and_cancellation() {
    let read = |message: &str, dialect| {
        show(&classify(Bytes::copy_from_slice(message.as_bytes()), &dialect, Limits::default()))
    };
    assert_eq!(read(r#"{"id":1,"method":"m"}"#, Dialect::XI), "request 1 m -");
    assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#, Dialect::XI), "request 1 m -");
    let batch = r#"[{"jsonrpc":"2.0","method":"m"}]"#;
    for dialect in Dialect::ALL {
        let expected =
            if dialect.batches { "batch [notification m -]" } else { "invalid -32600 null" };
        assert_eq!(read(batch, dialect), expected, "{}", dialect.name);
        if let Some(cancel) = dialect.cancellation(b"7") {
            let cancel = read(std::str::from_utf8(&cancel).unwrap(), dialect);
            assert!(cancel.starts_with("notification ") && cancel.ends_with(":7}"), "{cancel}");
        }
    }
}

#[test]
fn written_messages_are_read_back() {
    for dialect in Dialect::ALL {
        let back =
            |message: Vec<u8>| show(&classify(Bytes::from(message), &dialect, Limits::default()));
        assert_eq!(
            back(write_request(&dialect, b"1", "a\"\n", Some(b"[1]"))),
            "request 1 a\"\n [1]"
        );
        assert_eq!(back(write_request(&dialect, b"\"x\"", "m", None)), "request \"x\" m -");
        assert_eq!(back(write_notification(&dialect, "m", Some(b"{}"))), "notification m {}");
        assert_eq!(back(write_result(&dialect, b"null", b"null")), "result null null");
        assert_eq!(back(write_response(&dialect, b"1", Ok(b"[]"))), "result 1 []");
        assert_eq!(back(write_response(&dialect, b"1", Err(b"{}"))), "error 1 {}");
        assert_eq!(
            back(write_error(&dialect, b"1", -32601, "no \"m\"", Some(b"[]"))),
            r#"error 1 {"code":-32601,"message":"no \"m\"","data":[]}"#
        );
    }
}

/// Describes a message like [`show`], from a value that serde_json has parsed.
fn second_opinion(message: &Value) -> String {
    let Some(object) = message.as_object() else { return "invalid -32600 null".into() };
    let id = object.get("id");
    let has_id = matches!(id, Some(Value::Null | Value::Number(_) | Value::String(_)));
    let answers = object.contains_key("result") || object.contains_key("error");
    let method = object.get("method");
    let broken = || match (method, answers) {
        (method, true) if !method.is_some_and(Value::is_string) => "bad response".into(),
        _ => format!("invalid -32600 {}", id.filter(|_| has_id).unwrap_or(&Value::Null)),
    };
    if object.get("jsonrpc") != Some(&json!("2.0")) || (id.is_some() && !has_id) {
        return broken();
    }
    match (method, id) {
        (Some(Value::String(method)), id) => {
            let params = match object.get("params") {
                None | Some(Value::Null) => "-".into(),
                Some(params @ (Value::Array(_) | Value::Object(_))) => params.to_string(),
                Some(_) => return broken(),
            };
            match id {
                Some(id) => format!("request {id} {method} {params}"),
                None => format!("notification {method} {params}"),
            }
        }
        (_, id) => match (object.get("result"), object.get("error"), id) {
            (Some(result), None | Some(Value::Null), Some(id)) => format!("result {id} {result}"),
            (None | Some(Value::Null), Some(error @ Value::Object(_)), id) => {
                format!("error {} {error}", id.unwrap_or(&Value::Null))
            }
            _ => broken(),
        },
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("2.0")),
        Just(json!(null)),
        Just(json!(true)),
        Just(json!({ "code": 1, "message": "m" })),
        Just(json!([1, { "id": 2 }])),
        any::<i64>().prop_map(|n| json!(n)),
        "[ -~é]{0,6}".prop_map(|text| json!(text)),
    ]
}

fn any_member() -> impl Strategy<Value = (String, Value)> {
    let name = proptest::sample::select(vec!["id", "method", "params", "result", "error", "other"]);
    (name.prop_map(String::from), any_value())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn agrees_with_serde_json(
        members in proptest::collection::btree_map("id|method|params|result|error|x", any_value(), 0..5),
        version in proptest::option::weighted(0.9, Just(json!("2.0"))),
        order in any::<u64>(),
    ) {
        let mut members: Vec<(String, Value)> = members.into_iter().collect();
        members.extend(version.map(|version| ("jsonrpc".into(), version)));
        let turn = order as usize % members.len().max(1);
        members.rotate_left(turn);
        let text: Vec<String> = members.iter().map(|(k, v)| format!("{}:{v}", json!(k))).collect();
        let text = format!("{{{}}}", text.join(","));
        let value: Value = serde_json::from_str(&text).unwrap();
        let ours = show(&read(&text));
        let ours = if ours.starts_with("bad response") { "bad response".into() } else { ours };
        prop_assert_eq!(ours, second_opinion(&value), "{}", text);
    }

    #[test]
    fn duplicate_member_is_invalid(member in any_member(), other in any_member()) {
        let ((name, value), (other, between)) = (member, other);
        let text = format!(r#"{{"{name}":{value},"{other}":{between},"{name}":{value}}}"#);
        let shown = show(&read(&text));
        prop_assert!(shown.starts_with("invalid -32600") || shown.starts_with("bad response"), "{}", shown);
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(text: Vec<u8>) {
        for dialect in Dialect::ALL {
            let read = classify(Bytes::copy_from_slice(&text), &dialect, Limits::default());
            if let Message::Invalid(invalid) = read {
                let _ = invalid.answers();
            }
        }
    }

    #[test]
    fn truncated_message_is_a_parse_error(cut in 1usize..70) {
        let message = r#"[{"jsonrpc":"2.0","id":"\u00e9","method":"m","params":[-1.5e3,{}]}]"#;
        prop_assume!(cut < message.len());
        prop_assert_eq!(show(&read(&message[..cut])), "invalid -32700 null");
    }
}
