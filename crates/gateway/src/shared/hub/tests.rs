#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tieline_proto::jsonrpc::Sharing;

use super::*;

mod batches;
mod bounds;
mod random;
mod things;

fn rules(dialect: Dialect) -> &'static SharingRules {
    let Sharing::Possible(rules) = dialect.sharing else { panic!("{}", dialect.name) };
    rules
}

/// A hub, and the messages that it has sent.
struct Test {
    hub: Hub,
    /// Messages to the program that the test has not checked yet.
    program: VecDeque<Bytes>,
    clients: BTreeMap<ClientId, VecDeque<Bytes>>,
    done: Vec<ClientId>,
    /// What the hub has reported to hold for each client.
    held: BTreeMap<ClientId, usize>,
}

impl Test {
    fn new(dialect: Dialect) -> Self {
        let hub = Hub::new(dialect, rules(dialect));
        let (program, clients, held) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        Self { hub, program, clients, done: Vec::new(), held }
    }

    fn settle(&mut self) {
        while let Some(output) = self.hub.output() {
            match output {
                Output::Program(message) | Output::Refusal(message) => {
                    self.program.push_back(message)
                }
                Output::Client(client, message) => {
                    self.clients.entry(client).or_default().push_back(message);
                }
                Output::Done(client) => self.done.push(client),
                Output::Held(client, bytes) => _ = self.held.insert(client, bytes),
            }
        }
    }

    fn join(&mut self) -> ClientId {
        let client = self.hub.join();
        self.settle();
        client
    }

    fn leave(&mut self, client: ClientId) {
        self.hub.leave(client);
        self.settle();
    }

    fn client(&mut self, client: ClientId, message: Value) {
        self.client_text(client, &message.to_string());
    }

    fn client_text(&mut self, client: ClientId, message: &str) {
        self.hub.client_message(client, Bytes::copy_from_slice(message.as_bytes()));
        self.settle();
    }

    fn program(&mut self, message: Value) {
        self.hub.program_message(message.to_string().into());
        self.settle();
    }

    fn at_program(&mut self) -> Value {
        serde_json::from_slice(&self.program.pop_front().expect("a message for the program"))
            .unwrap()
    }

    fn at_client(&mut self, client: ClientId) -> Value {
        serde_json::from_slice(&self.text_at_client(client)).unwrap()
    }

    fn text_at_client(&mut self, client: ClientId) -> Bytes {
        let queue = self.clients.entry(client).or_default();
        queue.pop_front().unwrap_or_else(|| panic!("no message for {client:?}"))
    }

    /// Asserts that the test has checked every message.
    fn is_quiet(&self) {
        assert!(self.program.is_empty(), "to the program: {:?}", self.program);
        assert!(self.clients.values().all(VecDeque::is_empty), "{:?}", self.clients);
    }

    /// Adds a client that completes the MCP handshake. Returns its number.
    fn opened(&mut self, capabilities: Value) -> ClientId {
        let client = self.join();
        self.client(client, initialize(0, &capabilities));
        if let Some(request) = self.program.pop_front() {
            let request: Value = serde_json::from_slice(&request).unwrap();
            assert_eq!(request["method"], "initialize");
            self.program(json!({"jsonrpc": "2.0", "id": request["id"], "result": offer()}));
        }
        let answer = self.at_client(client);
        assert_eq!((&answer["id"], &answer["result"]), (&json!(0), &offer()));
        self.client(client, json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        if let Some(confirmed) = self.program.pop_front() {
            let confirmed: Value = serde_json::from_slice(&confirmed).unwrap();
            assert_eq!(confirmed["method"], "notifications/initialized");
        }
        client
    }
}

fn initialize(id: u64, capabilities: &Value) -> Value {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities});
    json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params})
}

fn offer() -> Value {
    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}})
}

fn call(id: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "t"}})
}

fn notification(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

fn request(id: Value, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

#[test]
fn handshake_happens_once_and_later_clients_get_its_result() {
    let mut test = Test::new(Dialect::MCP);
    let first = test.join();
    let second = test.join();
    test.client(first, initialize(7, &json!({})));
    test.client_text(second, r#"{"jsonrpc":"2.0","id":"7","method":"initialize"}"#);
    let request = test.at_program();
    assert_eq!(request["method"], "initialize");
    test.is_quiet();
    test.program(result(&request["id"], offer()));
    assert_eq!(test.at_client(first), result(&json!(7), offer()));
    assert_eq!(test.at_client(second), result(&json!("7"), offer()));
    for client in [second, first] {
        test.client(client, notification("notifications/initialized", json!({})));
    }
    assert_eq!(test.at_program()["method"], "notifications/initialized");
    let third = test.opened(json!({}));
    test.is_quiet();
    test.client(third, initialize(8, &json!({})));
    assert_eq!(test.at_client(third)["error"]["code"], INVALID_REQUEST);
    test.is_quiet();
}

#[test]
fn refused_handshake_affects_only_its_client() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.join(), test.join());
    test.client(first, initialize(1, &json!({})));
    test.client(second, initialize(2, &json!({"roots": {}})));
    let request = test.at_program();
    let error = json!({"code": -32602, "message": "bad"});
    test.program(json!({"jsonrpc": "2.0", "id": request["id"], "error": error}));
    assert_eq!(test.at_client(first)["error"], error);
    let request = test.at_program();
    assert_eq!(request["params"]["capabilities"], json!({"roots": {}}));
    test.program(result(&request["id"], offer()));
    assert_eq!(test.at_client(second)["result"], offer());
    test.client(first, initialize(3, &json!({})));
    assert_eq!(test.at_client(first)["result"], offer());
    test.is_quiet();
}

#[test]
fn handshake_continues_when_its_client_leaves_or_cancels_it() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.join(), test.join());
    test.client(first, initialize(1, &json!({})));
    test.client(first, notification("notifications/cancelled", json!({"requestId": 1})));
    test.client(second, initialize(2, &json!({})));
    test.client(second, notification("notifications/initialized", json!({})));
    test.leave(first);
    let request = test.at_program();
    test.is_quiet();
    test.program(result(&request["id"], offer()));
    assert_eq!(test.at_client(second)["result"], offer());
    assert_eq!(test.at_program()["method"], "notifications/initialized");
    test.is_quiet();
}

#[test]
fn client_can_only_cancel_its_own_requests() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    test.client(first, call(json!("a")));
    let one = test.at_program()["id"].clone();
    test.client(second, call(json!("b")));
    let two = test.at_program()["id"].clone();
    for named in [json!("a"), one.clone(), two.clone(), json!(null)] {
        let cancel = notification("notifications/cancelled", json!({"requestId": named}));
        test.client(second, cancel);
    }
    // Parsers disagree about which of two equal names is used.
    test.client_text(
        second,
        &format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"b","requestId":{one}}}}}"#
        ),
    );
    test.is_quiet();
    let cancel = json!({"requestId": "b", "reason": "x"});
    test.client(second, notification("notifications/cancelled", cancel));
    let expected = json!({"requestId": two, "reason": "x"});
    assert_eq!(test.at_program(), notification("notifications/cancelled", expected));
    test.program(result(&two, json!({})));
    test.is_quiet();
    test.program(result(&one, json!({})));
    assert_eq!(test.at_client(first), result(&json!("a"), json!({})));
    test.is_quiet();
}

#[test]
fn calls_of_a_client_that_leaves_are_cancelled_and_only_those() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({"roots": {}})));
    test.client(first, call(json!(1)));
    let one = test.at_program()["id"].clone();
    test.leave(first);
    let cancelled = test.at_program();
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], one);
    test.client(second, call(json!(1)));
    let two = test.at_program()["id"].clone();
    test.program(request(json!("r"), "roots/list", json!({})));
    assert_eq!(test.at_client(second)["id"], "r");
    test.leave(second);
    assert_eq!(test.at_program()["params"]["requestId"], two);
    assert_eq!(test.at_program()["error"]["message"], "the client has disconnected");
    test.program(result(&one, json!({})));
    test.program(result(&two, json!({})));
    test.is_quiet();
}

#[test]
fn request_from_the_program_goes_to_the_client_with_calls_in_flight_or_to_none() {
    let mut test = Test::new(Dialect::MCP);
    let capable = json!({"roots": {}, "sampling": {}});
    let (first, second) = (test.opened(capable.clone()), test.opened(json!({"sampling": null})));
    let roots = |id: u64| request(json!(id), "roots/list", json!({}));
    // Nothing is in flight, and there are two clients.
    test.program(roots(1));
    assert_eq!(test.at_program()["error"]["code"], INTERNAL_ERROR);
    test.client(first, call(json!(1)));
    let one = test.at_program()["id"].clone();
    test.program(roots(2));
    assert_eq!(test.at_client(first), roots(2));
    // Only the client that was asked can answer.
    test.client(second, result(&json!(2), json!("forged")));
    test.is_quiet();
    test.client(first, result(&json!(2), json!("mine")));
    assert_eq!(test.at_program(), result(&json!(2), json!("mine")));
    test.client(first, result(&json!(2), json!("again")));
    test.is_quiet();
    test.client(second, call(json!(1)));
    let two = test.at_program()["id"].clone();
    test.program(roots(3));
    let answer = test.at_program();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(3), &json!(INTERNAL_ERROR)));
    test.program(result(&one, json!({})));
    test.at_client(first);
    // The only possible client has not declared the capability.
    for method in ["roots/list", "sampling/createMessage"] {
        test.program(request(json!(4), method, json!({})));
        assert_eq!(test.at_program()["error"]["code"], tieline_proto::jsonrpc::METHOD_NOT_FOUND);
    }
    test.program(result(&two, json!({})));
    test.at_client(second);
    test.leave(second);
    test.program(roots(5));
    assert_eq!(test.at_client(first), roots(5), "the only client");
    test.program(request(json!("p"), "ping", json!({})));
    assert_eq!(test.at_program(), result(&json!("p"), json!({})));
    // The program cancels its own request.
    let cancel = notification("notifications/cancelled", json!({"requestId": 5}));
    test.program(cancel.clone());
    assert_eq!(test.at_client(first), cancel);
    test.client(first, result(&json!(5), json!("late")));
    test.is_quiet();
}

#[test]
fn progress_reaches_its_client_with_its_own_token() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    let with = |token: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{{"progressToken":{token}}}}}}}"#
        )
    };
    test.client_text(first, &with(r#""\u0061""#));
    let one = test.at_program();
    test.client_text(second, &with("12345678901234567890"));
    let two = test.at_program();
    assert_eq!(one["params"]["_meta"]["progressToken"], one["id"]);
    let progress = |token: &Value| {
        notification("notifications/progress", json!({"progressToken": token, "progress": 1}))
    };
    test.program(progress(&two["id"]));
    test.program(progress(&one["id"]));
    let text = |token: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progress":1,"progressToken":{token}}}}}"#
        )
    };
    assert_eq!(test.text_at_client(second), text("12345678901234567890"));
    assert_eq!(test.text_at_client(first), text(r#""\u0061""#));
    // A token that appears twice could name another client's call.
    let doubled = format!(r#"1,"progressToken":{}"#, one["id"]);
    test.client_text(second, &with(&doubled));
    assert_eq!(test.at_client(second)["error"]["code"], INVALID_REQUEST);
    test.program(result(&one["id"], json!({})));
    test.at_client(first);
    test.program(progress(&one["id"]));
    test.program(progress(&json!("unknown")));
    // A client must not report progress of a request that it did not get.
    test.client(first, progress(&json!(1)));
    test.is_quiet();
}

#[test]
fn program_logs_at_the_most_verbose_level_and_each_client_gets_its_own() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    let log =
        |level: &str| notification("notifications/message", json!({"level": level, "data": 1}));
    let set = |level: &str| request(json!(1), "logging/setLevel", json!({"level": level}));
    test.program(log("debug"));
    assert_eq!((test.at_client(first), test.at_client(second)), (log("debug"), log("debug")));
    // The second client has set no level, so it gets `info`.
    test.client(first, set("error"));
    let asked = test.at_program();
    assert_eq!(asked["params"]["level"], "info");
    assert_eq!(test.at_client(first), result(&json!(1), json!({})));
    test.program(result(&asked["id"], json!({})));
    test.client(second, set("debug"));
    let asked = test.at_program();
    assert_eq!(asked["params"]["level"], "debug");
    test.program(result(&asked["id"], json!({})));
    assert_eq!(test.at_client(second), result(&json!(1), json!({})));
    test.program(log("warning"));
    test.program(log("error"));
    assert_eq!(test.at_client(first), log("error"));
    assert_eq!((test.at_client(second), test.at_client(second)), (log("warning"), log("error")));
    test.is_quiet();
    test.leave(second);
    assert_eq!(test.at_program()["params"]["level"], "error");
    test.client(first, set("error"));
    assert_eq!(test.at_client(first), result(&json!(1), json!({})));
    test.client(first, set("loud"));
    assert_eq!(test.at_program()["params"]["level"], "loud");
    test.is_quiet();
}

#[test]
fn notifications_reach_all_clients_that_have_completed_the_handshake() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.join());
    let third = test.opened(json!({}));
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    test.program(changed.clone());
    assert_eq!((test.at_client(first), test.at_client(third)), (changed.clone(), changed));
    assert!(!test.clients.contains_key(&second));
    test.is_quiet();
}

#[test]
fn messages_of_a_subscription_stream_are_tagged_with_the_id_of_their_client() {
    const TAG: &str = "io.modelcontextprotocol/subscriptionId";
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.join(), test.join());
    let mut asked = Vec::new();
    for client in [first, second] {
        test.client(client, request(json!("s"), "subscriptions/listen", json!({})));
        asked.push(test.at_program()["id"].clone());
    }
    let tagged =
        |id: &Value| notification("notifications/tools/list_changed", json!({"_meta": {TAG: id}}));
    test.program(tagged(&asked[1]));
    assert_eq!(test.at_client(second), tagged(&json!("s")));
    test.is_quiet();
    let ended = |id: &Value, tag: &Value| result(id, json!({"_meta": {TAG: tag}}));
    test.program(ended(&asked[0], &asked[0]));
    assert_eq!(test.at_client(first), ended(&json!("s"), &json!("s")));
    test.is_quiet();
}

#[test]
fn null_ids_and_invalid_messages_are_answered_by_the_hub() {
    let mut test = Test::new(Dialect::MCP);
    let client = test.opened(json!({}));
    for (text, code) in [
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, INVALID_REQUEST),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, INVALID_REQUEST),
        ("not json", tieline_proto::jsonrpc::PARSE_ERROR),
    ] {
        test.client_text(client, text);
        assert_eq!(test.at_client(client)["error"]["code"], code, "{text}");
        test.is_quiet();
    }
}

#[test]
fn calls_in_flight_are_bounded() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    for id in 0..MAX_CALLS {
        test.client(first, call(json!(id)));
    }
    assert_eq!(test.program.len(), MAX_CALLS);
    test.client(first, call(json!("more")));
    assert_eq!(test.at_client(first)["error"]["code"], Dialect::MCP.gone);
    test.program.clear();
    test.client(second, call(json!(1)));
    assert_eq!(test.program.len(), 1, "another client is not affected");
    let long = "x".repeat(4000);
    test.program.clear();
    for id in 0..MAX_CALLS {
        test.client(second, call(json!(format!("{id}{long}"))));
    }
    assert!(test.program.len() <= MAX_ID_BYTES / 4000 + 1, "{}", test.program.len());
}

#[test]
fn requests_that_wait_for_another_client_are_bounded() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    let subscribe = |id: usize, length: usize| {
        request(json!(id), "resources/subscribe", json!({"uri": "a", "data": "x".repeat(length)}))
    };
    test.client(first, subscribe(0, 1));
    let asked = test.at_program();
    test.client(second, subscribe(1, 2 * MAX_WAITING_BYTES));
    assert_eq!(test.hub.clients[&second].waiting, 1, "one may be long");
    test.client(second, subscribe(2, 1));
    assert_eq!(test.at_client(second)["error"]["code"], Dialect::MCP.gone);
    test.program(result(&asked["id"], json!({})));
    assert_eq!(test.at_client(first)["id"], 0);
    assert_eq!(test.at_client(second)["id"], 1);
    assert_eq!(
        (test.hub.clients[&second].waiting, test.hub.clients[&second].waiting_bytes),
        (0, 0)
    );
    let long = "x".repeat(17 * 1024);
    test.client(first, request(json!(3), "resources/subscribe", json!({"uri": long})));
    assert_eq!(test.at_client(first)["error"]["code"], INVALID_REQUEST);
    let token = json!({"_meta": {"progressToken": long}});
    test.client(first, request(json!(4), "tools/call", token));
    assert_eq!(test.at_client(first)["error"]["code"], INVALID_REQUEST);
    test.is_quiet();
}

#[test]
fn client_that_has_ended_its_input_is_done_after_its_last_response() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    test.client(first, call(json!(1)));
    let id = test.at_program()["id"].clone();
    test.hub.input_ended(first);
    test.hub.input_ended(second);
    test.settle();
    assert_eq!(test.done, [second]);
    test.program(result(&id, json!({})));
    assert_eq!(test.done, [second, first]);
    assert_eq!(test.at_client(first), result(&json!(1), json!({})));
}

#[test]
fn lost_and_damaged_responses_settle_their_calls() {
    let mut test = Test::new(Dialect::MCP);
    let client = test.opened(json!({}));
    for (place, text) in [
        r#"{"id":ID,"result":"#,
        r#"{"id":ID,"result":nope}"#,
        r#"{"id":"ID","result":1}"#,
        r#"{"error":{"code":1,"message":"x"}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        test.client(client, call(json!("a")));
        let id = test.at_program()["id"].to_string();
        test.hub.program_message(text.replace("ID", &id).into());
        test.settle();
        let answer = test.at_client(client);
        assert_eq!(answer["id"], "a", "{text}");
        assert_eq!(answer["result"].is_null(), place != 2, "{text}");
        test.is_quiet();
    }
    test.hub.program_message("Welcome to the server {\"id\":1}".into());
    test.settle();
    test.is_quiet();
}
