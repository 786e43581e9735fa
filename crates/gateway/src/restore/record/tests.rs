#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, DialectState, classify};

use super::*;

/// Messages from the client and from the program, in the order in which they pass.
struct Script {
    record: Record,
    dialect: Dialect,
}

impl Script {
    fn new(dialect: Dialect) -> Self {
        let DialectState::Handshake(rules) = dialect.state else { panic!("no handshake") };
        Self { record: Record::new(rules), dialect }
    }

    /// Starts a script with a completed handshake.
    fn open(dialect: Dialect) -> Self {
        let mut script = Self::new(dialect);
        script.client(json!({"id": 0, "method": "initialize", "params": {"a": 1}}));
        script.program(json!({"id": 0, "result": {"capabilities": {}}}));
        script
    }

    fn message(&self, mut message: Value) -> Message {
        message["jsonrpc"] = json!("2.0");
        classify(message.to_string().into(), &self.dialect, Limits::default())
    }

    fn client(&mut self, message: Value) -> &mut Self {
        let message = self.message(message);
        self.record.record_client(&message);
        self
    }

    fn program(&mut self, message: Value) -> &mut Self {
        let message = self.message(message);
        self.record.record_program(&message);
        self
    }

    fn plan(&mut self) -> Plan {
        self.record.restarted()
    }

    /// Returns the methods and parameters that follow the opening request.
    fn then(&mut self) -> Vec<(String, Value)> {
        let Plan::Replay { request, then, .. } = self.plan() else { panic!("no replay") };
        assert_eq!(request.method(), "initialize");
        let replayed = |replayed: Replayed| match replayed {
            Replayed::Notification(message) => {
                let message: Value = serde_json::from_slice(&message).unwrap();
                (message["method"].as_str().unwrap().to_owned(), message["params"].clone())
            }
            Replayed::Request { method, params } => {
                (method.to_owned(), serde_json::from_slice(&params.unwrap_or_default()).unwrap())
            }
        };
        then.into_iter().map(replayed).collect()
    }

    fn open_document(&mut self, uri: &str) -> &mut Self {
        let document = json!({"textDocument": {"uri": uri, "text": "a"}});
        self.client(json!({"method": "textDocument/didOpen", "params": document}))
    }
}

fn methods(then: &[(String, Value)]) -> Vec<&str> {
    then.iter().map(|(method, _)| method.as_str()).collect()
}

#[test]
fn nothing_is_restored_before_the_handshake_is_answered() {
    let mut script = Script::new(Dialect::MCP);
    assert!(matches!(script.plan(), Plan::Nothing));
    script.client(json!({"id": 1, "method": "tools/list"}));
    script.program(json!({"id": 1, "result": {}}));
    assert!(matches!(script.plan(), Plan::Nothing));
    script.client(json!({"id": 2, "method": "initialize"}));
    assert!(script.record.awaits_answer());
    assert!(matches!(script.plan(), Plan::Nothing));
    // A response from a program that has ended does not open the line.
    script.program(json!({"id": 2, "result": {}}));
    assert!(matches!(script.plan(), Plan::Nothing));
}

#[test]
fn refused_handshake_changes_nothing() {
    let error = json!({"code": 1, "message": "no"});
    let mut script = Script::new(Dialect::MCP);
    script.client(json!({"id": 0, "method": "initialize"}));
    script.program(json!({"id": 0, "error": error}));
    assert!(matches!(script.plan(), Plan::Nothing));
    let mut script = Script::open(Dialect::MCP);
    script.client(json!({"id": 7, "method": "initialize", "params": {"a": 2}}));
    script.program(json!({"id": 7, "error": error}));
    let Plan::Replay { request, .. } = script.plan() else { panic!("no replay") };
    assert_eq!(request.id(), b"0");
}

/// Some clients, such as scripts, send the handshake and the following messages at once.
#[test]
fn messages_sent_before_the_handshake_is_answered_are_restored() {
    let pipelined = |script: &mut Script, id: u32| {
        script
            .client(json!({"id": id, "method": "initialize", "params": {"a": id}}))
            .client(json!({"method": "notifications/initialized"}))
            .client(json!({"id": id + 1, "method": "logging/setLevel", "params": {"level": id}}));
    };
    let mut script = Script::new(Dialect::MCP);
    pipelined(&mut script, 1);
    script.program(json!({"id": 1, "error": {"code": 1, "message": ""}}));
    script.program(json!({"id": 2, "result": {}}));
    assert!(matches!(script.plan(), Plan::Nothing));
    pipelined(&mut script, 5);
    script.program(json!({"id": 5, "result": {}}));
    script.program(json!({"id": 6, "result": {}}));
    let then = script.then();
    assert_eq!(methods(&then), ["notifications/initialized", "logging/setLevel"]);
    assert_eq!(then[1].1, json!({"level": 5}));
}

#[test]
fn lsp_documents_opened_before_the_handshake_is_answered_are_restored() {
    let mut script = Script::new(Dialect::LSP);
    script.client(json!({"id": 0, "method": "initialize", "params": {}}));
    script.client(json!({"method": "initialized", "params": {}}));
    script.open_document("file:///a");
    script.program(json!({"id": 0, "result": {"capabilities": {}}}));
    assert_eq!(methods(&script.then()), ["initialized", "textDocument/didOpen"]);
}

#[test]
fn second_handshake_replaces_the_first() {
    let mut script = Script::open(Dialect::MCP);
    script.client(json!({"method": "notifications/initialized"}));
    script.client(json!({"id": "again", "method": "initialize"}));
    script.program(json!({"id": "again", "result": {"capabilities": {"tools": {}}}}));
    let Plan::Replay { request, result, then, .. } = script.plan() else { panic!("no replay") };
    assert_eq!(request.id(), b"\"again\"");
    assert_eq!(
        serde_json::from_slice::<Value>(&result).unwrap()["capabilities"]["tools"],
        json!({})
    );
    assert_eq!(then, []);
}

#[test]
fn opening_request_is_replayed_byte_for_byte() {
    let mut script = Script::new(Dialect::ACP);
    let sent = r#"{ "method":"initialize", "id": 1.0,"jsonrpc":"2.0" }"#;
    let message = classify(sent.into(), &Dialect::ACP, Limits::default());
    script.record.record_client(&message);
    script.record.record_program(&classify(
        r#"{"jsonrpc":"2.0","id":1.0,"result":{}}"#.into(),
        &Dialect::ACP,
        Limits::default(),
    ));
    let Plan::Replay { request, then, .. } = script.plan() else { panic!("no replay") };
    assert_eq!((&request.message()[..], then.len()), (sent.as_bytes(), 0));
}

#[test]
fn mcp_log_level_and_subscriptions_are_kept_once_they_are_answered() {
    let mut script = Script::open(Dialect::MCP);
    script.client(json!({"method": "notifications/initialized"}));
    let steps = [
        ("logging/setLevel", json!({"level": "info"}), true),
        ("resources/subscribe", json!({"uri": "a"}), true),
        ("resources/subscribe", json!({"uri": "b"}), true),
        ("resources/subscribe", json!({"uri": "refused"}), false),
        ("logging/setLevel", json!({"level": "debug"}), true),
        ("resources/unsubscribe", json!({"uri": "a"}), true),
        ("resources/unsubscribe", json!({"uri": "b"}), false),
        ("tools/call", json!({"name": "t"}), true),
    ];
    for (id, (method, params, works)) in steps.into_iter().enumerate() {
        script.client(json!({"id": id + 1, "method": method, "params": params}));
        match works {
            true => script.program(json!({"id": id + 1, "result": {}})),
            false => script.program(json!({"id": id + 1, "error": {"code": 1, "message": ""}})),
        };
    }
    // This request gets no response.
    script.client(json!({"id": 99, "method": "resources/subscribe", "params": {"uri": "c"}}));
    let then = script.then();
    let expected = [
        ("notifications/initialized", Value::Null),
        ("resources/subscribe", json!({"uri": "b"})),
        ("logging/setLevel", json!({"level": "debug"})),
    ];
    assert_eq!(then, expected.map(|(method, params)| (method.to_owned(), params)));
    // The next restart replays the same messages.
    assert_eq!(script.then(), then);
}

#[test]
fn lsp_documents_are_kept_until_they_change() {
    let mut script = Script::open(Dialect::LSP);
    script.client(json!({"method": "initialized", "params": {}}));
    script.open_document("a").open_document("b");
    script.client(
        json!({"method": "textDocument/didClose", "params": {"textDocument": {"uri": "a"}}}),
    );
    script.client(
        json!({"method": "textDocument/didSave", "params": {"textDocument": {"uri": "b"}}}),
    );
    let then = script.then();
    assert_eq!(methods(&then), ["initialized", "textDocument/didOpen"]);
    assert_eq!(then[1].1["textDocument"]["uri"], "b");
    let change = json!({"textDocument": {"uri": "b"}, "contentChanges": []});
    script.client(json!({"method": "textDocument/didChange", "params": change}));
    let Plan::Impossible(why) = script.plan() else { panic!("restored") };
    assert_eq!(why, r#""b" was changed after it was opened"#);
    script.client(
        json!({"method": "textDocument/didClose", "params": {"textDocument": {"uri": "b"}}}),
    );
    assert_eq!(methods(&script.then()), ["initialized"]);
    // A change of a document that is not open is ignored.
    script.client(json!({"method": "textDocument/didChange", "params": change}));
    assert_eq!(methods(&script.then()), ["initialized"]);
}

#[test]
fn latest_lsp_configuration_and_every_change_of_folders_are_kept() {
    let mut script = Script::open(Dialect::LSP);
    script.client(json!({"method": "initialized"}));
    for step in 0..2 {
        for method in [
            "workspace/didChangeConfiguration",
            "workspace/didChangeWorkspaceFolders",
            "$/setTrace",
        ] {
            script.client(json!({"method": method, "params": {"step": step}}));
        }
    }
    let folders = "workspace/didChangeWorkspaceFolders";
    let expected = [
        ("initialized", Value::Null),
        (folders, json!({"step": 0})),
        ("workspace/didChangeConfiguration", json!({"step": 1})),
        (folders, json!({"step": 1})),
        ("$/setTrace", json!({"step": 1})),
    ];
    assert_eq!(script.then(), expected.map(|(method, params)| (method.to_owned(), params)));
}

#[test]
fn nothing_is_restored_after_a_shutdown() {
    let mut script = Script::open(Dialect::LSP);
    script.open_document("a").client(json!({"id": 1, "method": "shutdown"}));
    assert!(matches!(script.plan(), Plan::Nothing));
}

#[test]
fn answered_registrations_are_kept_until_one_is_removed() {
    let mut script = Script::open(Dialect::LSP);
    let register =
        |id| json!({"id": id, "method": "client/registerCapability", "params": {"for": id}});
    script.program(register(1)).program(register(2)).program(register(3));
    script.client(json!({"id": 1, "result": null}));
    script.client(json!({"id": 3, "error": {"code": 1, "message": "no"}}));
    let Plan::Replay { registrations, .. } = script.plan() else { panic!("no replay") };
    let seen: Vec<_> =
        registrations.iter().map(|(params, outcome)| (&params[..], outcome.is_ok())).collect();
    assert_eq!(seen, [(&br#"{"for":1}"#[..], true), (br#"{"for":3}"#, false)]);
    script.program(json!({"id": 4, "method": "client/unregisterCapability", "params": {}}));
    let Plan::Replay { registrations, .. } = script.plan() else { panic!("no replay") };
    assert!(registrations.is_empty());
}

#[test]
fn state_beyond_the_bounds_cannot_be_restored() {
    let mut script = Script::open(Dialect::LSP);
    for number in 0..MAX_MESSAGES {
        script.open_document(&number.to_string());
    }
    assert_eq!(script.then().len(), MAX_MESSAGES);
    script.open_document("one more");
    assert!(matches!(script.plan(), Plan::Impossible(_)));
    let mut script = Script::open(Dialect::LSP);
    let text = "x".repeat(MAX_BYTES / 2);
    for (uri, fits) in [("a", true), ("a", true), ("b", false)] {
        let document = json!({"textDocument": {"uri": uri, "text": text}});
        script.client(json!({"method": "textDocument/didOpen", "params": document}));
        assert_eq!(matches!(script.plan(), Plan::Replay { .. }), fits, "{uri}");
    }
    let mut script = Script::open(Dialect::MCP);
    for id in 0..=MAX_ASKED {
        script.client(json!({"id": id, "method": "resources/subscribe", "params": {"uri": id}}));
    }
    assert!(matches!(script.plan(), Plan::Impossible(_)));
}

#[test]
fn other_methods_do_not_concern_the_record() {
    for dialect in [Dialect::MCP, Dialect::LSP, Dialect::ACP] {
        let DialectState::Handshake(rules) = dialect.state else { panic!("no handshake") };
        assert!(Record::concerns(rules, "initialize"));
        for method in ["tools/call", "textDocument/hover", "session/prompt", ""] {
            assert!(!Record::concerns(rules, method), "{method}");
        }
    }
}

#[test]
fn requests_in_flight_count_towards_the_bound_until_they_are_answered() {
    let long = "x".repeat(MAX_BYTES / 5);
    let mut script = Script::open(Dialect::MCP);
    for round in 0..10 {
        for id in 0..2 {
            let params = json!({"uri": format!("{id}{long}")});
            script.client(json!({"id": id, "method": "resources/subscribe", "params": params}));
        }
        assert!(script.record.bytes > MAX_BYTES / 2, "round {round}");
        for id in 0..2 {
            script.program(json!({"id": id, "error": {"code": 1, "message": ""}}));
        }
        assert_eq!((script.record.bytes, script.record.lost), (0, None), "round {round}");
    }
    let mut script = Script::open(Dialect::LSP);
    for id in 0..10 {
        let params = json!({"long": long});
        script.program(json!({"id": id, "method": "client/registerCapability", "params": params}));
        script.client(json!({"id": id, "result": long}));
        assert!(script.record.bytes <= MAX_BYTES);
    }
    assert!(
        matches!(script.plan(), Plan::Replay { .. }),
        "registrations beyond the bound must not prevent a restart"
    );
    script.program(json!({"id": 4, "method": "client/unregisterCapability", "params": {}}));
    assert_eq!(script.record.bytes, 0);
}
