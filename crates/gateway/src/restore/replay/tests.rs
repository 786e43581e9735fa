#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::json;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{DialectState, classify};

use super::*;

fn message(message: Value) -> Message {
    let mut message = message;
    message["jsonrpc"] = json!("2.0");
    classify(message.to_string().into(), &Dialect::STRICT, Limits::default())
}

/// Starts a replay to a program after a previous one that answered the opening request with `result`.
fn begin(dialect: Dialect, result: Value, then: Vec<Replayed>) -> Replay {
    let DialectState::Handshake(rules) = dialect.state else { panic!("no handshake") };
    let Message::Request(request) = message(json!({"id": 7, "method": "initialize"})) else {
        panic!("no request")
    };
    let registrations = vec![(Bytes::from_static(b"{\"r\":1}"), Ok(Bytes::from_static(b"null")))];
    let registrations = if dialect == Dialect::LSP { registrations } else { Vec::new() };
    let sent = request.message().clone();
    let plan = Plan::Replay { request, result: result.to_string().into(), then, registrations };
    let (replay, first) = Replay::of(plan, dialect, rules).unwrap().unwrap();
    assert_eq!(first, sent);
    assert!(replay.is_opening() && !replay.is_done());
    replay
}

fn value(message: &Bytes) -> Value {
    serde_json::from_slice(message).unwrap()
}

#[test]
fn other_messages_follow_the_response_to_the_opening_request() {
    let subscribe = Replayed::Request {
        method: "resources/subscribe",
        params: Some(Bytes::from_static(b"{\"uri\":\"a\"}")),
    };
    let confirmation = Replayed::Notification(Bytes::from_static(b"confirmed"));
    let mut replay = begin(Dialect::MCP, json!({}), vec![confirmation, subscribe]);
    // Other responses are swallowed, and notifications are passed on.
    assert_eq!(replay.handle(&message(json!({"id": 1, "result": 1}))), ReplayStep::Swallowed);
    assert_eq!(
        replay.handle(&message(json!({"method": "notifications/message"}))),
        ReplayStep::Pass
    );
    let ReplayStep::Opened(replayed) = replay.handle(&message(json!({"id": 7, "result": {}})))
    else {
        panic!("not opened")
    };
    assert_eq!(replayed[0], "confirmed");
    let id = value(&replayed[1])["id"].clone();
    assert_eq!(value(&replayed[1])["params"], json!({"uri": "a"}));
    assert!(id.is_string() && !replay.is_opening() && !replay.is_done());
    // From here on, responses to the client's own requests are passed on, even with the same id.
    assert_eq!(replay.handle(&message(json!({"id": 7, "result": 1}))), ReplayStep::Pass);
    assert_eq!(replay.handle(&message(json!({"id": id, "result": {}}))), ReplayStep::Swallowed);
    assert!(replay.is_done());
}

#[test]
fn program_that_refuses_a_replayed_request_fails() {
    let error = json!({"code": -1, "message": "not today"});
    let mut replay = begin(Dialect::ACP, json!({}), vec![]);
    let step = replay.handle(&message(json!({"id": 7, "error": error})));
    let ReplayStep::Failed(why) = step else { panic!("{step:?}") };
    assert!(why.contains("`initialize`") && why.contains("not today"), "{why}");

    let authenticate = Replayed::Request { method: "authenticate", params: None };
    let mut replay = begin(Dialect::ACP, json!({}), vec![authenticate]);
    let ReplayStep::Opened(replayed) = replay.handle(&message(json!({"id": 7, "result": {}})))
    else {
        panic!("not opened")
    };
    let id = value(&replayed[0])["id"].clone();
    let step = replay.handle(&message(json!({"id": id, "error": error})));
    let ReplayStep::Failed(why) = step else { panic!("{step:?}") };
    assert!(why.contains("`authenticate`"), "{why}");

    let mut replay = begin(Dialect::ACP, json!({}), vec![]);
    let step = replay.handle(&message(json!({"id": 7, "result": 1, "error": error})));
    assert!(matches!(step, ReplayStep::Failed(_)), "{step:?}");
}

#[test]
fn program_that_offers_less_fails_and_one_that_offers_more_does_not() {
    let before = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {"listChanged": true}, "logging": {}, "x": false, "y": [1, 2]},
        "serverInfo": {"name": "a", "version": "1"},
        "instructions": "old",
    });
    let missing = |change: fn(&mut Value)| {
        let mut now = before.clone();
        now["serverInfo"]["version"] = json!("2");
        now["instructions"] = Value::Null;
        change(&mut now);
        let mut replay = begin(Dialect::MCP, before.clone(), vec![]);
        match replay.handle(&message(json!({"id": 7, "result": now}))) {
            ReplayStep::Opened(_) => None,
            ReplayStep::Failed(why) => Some(why.split('`').nth(1).unwrap().to_owned()),
            other => panic!("{other:?}"),
        }
    };
    let some = |path: &str| Some(path.to_owned());
    assert_eq!(missing(|_| ()), None);
    assert_eq!(missing(|now| now["capabilities"]["prompts"] = json!({})), None);
    assert_eq!(missing(|now| now["capabilities"]["x"] = json!(true)), None);
    assert_eq!(missing(|now| now["capabilities"]["logging"] = json!({"a": 1})), None);
    assert_eq!(
        missing(|now| now["capabilities"]["tools"] = json!({})),
        some("capabilities.tools.listChanged")
    );
    assert_eq!(
        missing(|now| now["capabilities"]["logging"] = Value::Null),
        some("capabilities.logging")
    );
    assert_eq!(missing(|now| now["capabilities"]["y"] = json!([1])), some("capabilities.y"));
    assert_eq!(
        missing(|now| now["protocolVersion"] = json!("2024-11-05")),
        some("protocolVersion")
    );
    assert_eq!(missing(|now| *now = json!("what?")), some("protocolVersion"));
}

#[test]
fn program_requests_are_answered_while_the_client_waits() {
    let mut replay = begin(Dialect::LSP, json!({}), vec![]);
    let mut ask = |method: &str, params: Value| {
        replay.handle(&message(json!({"id": "p", "method": method, "params": params})))
    };
    let answer = |step: ReplayStep| match step {
        ReplayStep::Answer(answer) => value(&answer),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        answer(ask("ping", Value::Null)),
        json!({"jsonrpc": "2.0", "id": "p", "result": {}})
    );
    let refused = answer(ask("workspace/configuration", json!({})));
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("p"), &json!(-32603)));
    // The client has answered this request before. The recorded response is used only once.
    let registered = answer(ask("client/registerCapability", json!({"r": 1})));
    assert_eq!(registered, json!({"jsonrpc": "2.0", "id": "p", "result": null}));
    assert!(answer(ask("client/registerCapability", json!({"r": 1}))).get("error").is_some());
    let opened = replay.handle(&message(json!({"id": 7, "result": {}})));
    assert_eq!(opened, ReplayStep::Opened(vec![]));
    let asked = message(json!({"id": 1, "method": "workspace/configuration"}));
    assert_eq!(replay.handle(&asked), ReplayStep::Pass);
    assert!(replay.is_done());
}

#[test]
fn registration_after_the_handshake_is_answered_from_the_record() {
    let mut replay = begin(Dialect::LSP, json!({}), vec![]);
    replay.handle(&message(json!({"id": 7, "result": {}})));
    assert!(!replay.is_done());
    let register = |params: Value| {
        message(json!({"id": 1, "method": "client/registerCapability", "params": params}))
    };
    assert_eq!(replay.handle(&register(json!({"r": 2}))), ReplayStep::Pass);
    assert!(matches!(replay.handle(&register(json!({"r": 1}))), ReplayStep::Answer(_)));
    assert!(replay.is_done());
}
