//! If a message is not passed on, the side that waits for it gets an error response, provided that the
//! dialect is known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::pending;

use serde_json::{Value, json};
use support::{framed_pair, lines_pair_of, message};
use tieline_gateway::{Bridge, BridgeReport, Overflow, bridge};
use tieline_proto::jsonrpc::Dialect;
use tieline_proto::{ByteSize, ContentLength};
use tieline_transport::{Channel, Receiver, Sender, SenderExt};
use tokio::task::JoinHandle;

const LIMIT: usize = 100_000;

struct Test {
    to_server: Box<dyn Sender>,
    from_server: Box<dyn Receiver>,
    to_client: Box<dyn Sender>,
    from_client: Box<dyn Receiver>,
    report: JoinHandle<BridgeReport>,
}

impl Test {
    fn start(dialect: Option<Dialect>) -> Self {
        Self::with(Bridge { dialect, ..Bridge::default() }, ByteSize::new(LIMIT))
    }

    /// Starts a line on which messages to and from the client are at most `client_limit` long.
    fn with(options: Bridge, client_limit: ByteSize) -> Self {
        // The limits of the test's own ends are never reached.
        let (client, near) = lines_pair_of(ByteSize::mib(4), client_limit);
        let (server, far) = lines_pair_of(ByteSize::mib(4), ByteSize::new(LIMIT));
        let report = tokio::spawn(bridge(near.boxed(), far.boxed(), options, pending()));
        let (to_server, from_server) = client.boxed().split();
        let (to_client, from_client) = server.boxed().split();
        Self { to_server, from_server, to_client, from_client, report }
    }

    async fn client(&mut self, text: impl Into<String>) {
        self.to_server.send(text.into()).await.unwrap();
    }

    async fn program(&mut self, text: impl Into<String>) {
        self.to_client.send(text.into()).await.unwrap();
    }

    async fn at_client(&mut self) -> Value {
        serde_json::from_str(&message(&mut self.from_server).await).unwrap()
    }

    async fn at_program(&mut self) -> Value {
        serde_json::from_str(&message(&mut self.from_client).await).unwrap()
    }

    /// Sends requests with these ids from the client, and receives them as the program.
    async fn ask(&mut self, ids: &[Value]) {
        for id in ids {
            self.client(request(id)).await;
            assert_eq!(self.at_program().await["id"], *id);
        }
    }

    /// Asserts that no other message waits for either side.
    async fn assert_nothing_else(&mut self) {
        self.client(r#"{"jsonrpc":"2.0","method":"up"}"#).await;
        assert_eq!(self.at_program().await["method"], "up");
        self.program(r#"{"jsonrpc":"2.0","method":"down"}"#).await;
        assert_eq!(self.at_client().await["method"], "down");
    }

    async fn end(self) -> BridgeReport {
        drop((self.to_server, self.from_server, self.to_client, self.from_client));
        self.report.await.unwrap()
    }
}

fn request(id: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": "m"}).to_string()
}

fn long() -> String {
    "x".repeat(LIMIT)
}

/// Returns 200 nested arrays.
fn deep() -> String {
    format!("{}{}", "[".repeat(200), "]".repeat(200))
}

#[tokio::test]
async fn lost_response_settles_its_call() {
    let (long, deep) = (long(), deep());
    for (answer, what) in [
        (format!(r#"{{"jsonrpc":"2.0","id":2,"result":"{long}"}}"#), "above the limit"),
        (format!(r#"{{"jsonrpc":"2.0","id":2,"error":{{"code":1,"message":"{long}"}}}}"#), "above"),
        (r#"{"jsonrpc":"2.0","id":2,"result":"}"#.into(), "unexpected end"),
        (r#"{"jsonrpc":"2.0","result":NaN,"id":2}"#.into(), "unexpected `N`"),
        (format!(r#"{{"jsonrpc":"2.0","id":2,"result":{deep}}}"#), "nested too deep"),
        (format!(r#"{{"jsonrpc":"2.0","result":{deep},"id":2}}"#), "nested too deep"),
        (r#"{"jsonrpc":"2.0","id":9,"id":2,"result":1}"#.into(), "duplicate `id`"),
        (r#"{"jsonrpc":"2.0","id":2,"method":null,"method":null,"result":1}"#.into(), "duplicate"),
    ] {
        let mut test = Test::start(Some(Dialect::STRICT));
        test.ask(&[json!(1), json!(2), json!("2")]).await;
        test.program(&*answer).await;
        let error = test.at_client().await;
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(2), &json!(-32603)), "{what}");
        let text = error["error"]["message"].as_str().unwrap();
        assert!(text.starts_with("the response was lost: ") && text.contains(what), "{text}");
        test.assert_nothing_else().await;
        drop((test.to_client, test.from_client));
        // The other requests are answered when the program ends, and this one is not answered again.
        let left = [value(&mut test.from_server).await, value(&mut test.from_server).await];
        assert_eq!([&left[0]["id"], &left[1]["id"]], [&json!(1), &json!("2")], "{what}");
        drop((test.to_server, test.from_server));
        let report = test.report.await.unwrap();
        assert_eq!(report.lost, 1, "{what}");
    }
}

async fn value(receiver: &mut impl Receiver) -> Value {
    serde_json::from_str(&message(receiver).await).unwrap()
}

#[tokio::test]
async fn lost_response_without_an_id_settles_the_only_call_in_flight() {
    let answer = format!(r#"{{"jsonrpc":"2.0","result":"{}","id":7}}"#, long());
    let mut test = Test::start(Some(Dialect::MCP));
    test.ask(&[json!(7)]).await;
    test.program(&*answer).await;
    assert_eq!(test.at_client().await["id"], 7);
    // With two calls in flight, the response might belong to either.
    test.ask(&[json!(8), json!(9)]).await;
    test.program(&*answer).await;
    test.assert_nothing_else().await;
    assert_eq!(test.end().await.lost, 2);
}

#[tokio::test]
async fn lost_message_that_is_not_a_response_settles_nothing() {
    let (long, deep) = (long(), deep());
    let mut test = Test::start(Some(Dialect::LSP));
    test.ask(&[json!(1)]).await;
    let lines = [
        "Welcome, version 1.2".to_owned(),
        "{'python': 1}".into(),
        "{}{}".into(),
        long.clone(),
        format!(r#"{{"jsonrpc":"2.0","method":"log","params":["{long}"]}}"#),
        format!(r#"{{"jsonrpc":"2.0","params":["{long}"],"method":"log"}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":"log","params":{deep}}}"#),
        r#"{"jsonrpc":"2.0","method":"log","method":"log"}"#.into(),
        // These responses have an unknown id.
        format!(r#"{{"jsonrpc":"2.0","id":99,"result":"{long}"}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":99,"result":{deep}}}"#),
    ];
    for line in &lines {
        test.program(&**line).await;
    }
    test.assert_nothing_else().await;
    test.program(r#"{"jsonrpc":"2.0","id":1,"result":0}"#).await;
    assert_eq!(test.at_client().await["result"], 0);
    assert_eq!(test.end().await.lost, lines.len() as u64);
}

#[tokio::test]
async fn invalid_request_is_answered_with_its_id() {
    let (long, deep) = (long(), deep());
    let many = (0..100_001).fold(String::new(), |all, _| all + r#","":0"#);
    for (lost, id) in [
        (format!(r#"{{"jsonrpc":"2.0","id":"a","method":"m","params":["{long}"]}}"#), json!("a")),
        (format!(r#"{{"jsonrpc":"2.0","id":3,"method":"m","params":{deep}}}"#), json!(3)),
        (format!(r#"{{"jsonrpc":"2.0","method":"m","params":{deep},"id":3}}"#), json!(3)),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#.into(), json!(2)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","method":"n"}"#.into(), json!(1)),
        (format!("[{deep}]"), Value::Null),
    ] {
        // The invalid message may come from either side.
        let mut test = Test::start(Some(Dialect::STRICT));
        test.client(&*lost).await;
        let refused = test.at_client().await;
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&id, &json!(-32600)), "{refused}");
        if !id.is_null() {
            test.program(&*lost).await;
            let refused = test.at_program().await;
            assert_eq!((&refused["id"], &refused["error"]["code"]), (&id, &json!(-32600)));
        }
        test.assert_nothing_else().await;
        assert_eq!(test.end().await.lost, if id.is_null() { 1 } else { 2 });
    }
    let wide = Bridge { dialect: Some(Dialect::MCP), ..Bridge::default() };
    let mut test = Test::with(wide, ByteSize::mib(1));
    test.client(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"a":0{many}}}}}"#))
        .await;
    let refused = test.at_client().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(1), &json!(-32600)));
}

#[tokio::test]
async fn request_too_long_for_the_program_is_answered() {
    let wide = Bridge { dialect: Some(Dialect::MCP), ..Bridge::default() };
    let mut test = Test::with(wide, ByteSize::mib(1));
    test.client(format!(r#"{{"jsonrpc":"2.0","id":4,"method":"m","params":["{}"]}}"#, long()))
        .await;
    let refused = test.at_client().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(4), &json!(-32600)));
    test.assert_nothing_else().await;
    assert_eq!(test.end().await.lost, 1);
}

#[tokio::test]
async fn response_too_long_for_the_client_settles_its_call() {
    for overflow in Overflow::ALL {
        let narrow = Bridge { dialect: Some(Dialect::MCP), overflow, ..Bridge::default() };
        let mut test = Test::with(narrow, ByteSize::kib(1));
        test.ask(&[json!(1), json!(2)]).await;
        let long = "x".repeat(2000);
        test.program(format!(r#"{{"jsonrpc":"2.0","id":2,"result":"{long}"}}"#)).await;
        let error = test.at_client().await;
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(2), &json!(-32603)));
        test.assert_nothing_else().await;
        assert_eq!(test.end().await.lost, 1, "{overflow}");
    }
}

#[tokio::test]
async fn program_gets_an_error_for_a_lost_response_from_the_client() {
    let (long, deep) = (long(), deep());
    for answer in [
        format!(r#"{{"jsonrpc":"2.0","id":"q","result":"{long}"}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":"q","result":{deep}}}"#),
        r#"{"jsonrpc":"2.0","id":"q","id":"q","result":1}"#.into(),
    ] {
        let mut test = Test::start(Some(Dialect::MCP));
        test.program(request(&json!("q"))).await;
        assert_eq!(test.at_client().await["id"], "q");
        test.client(&*answer).await;
        let error = test.at_program().await;
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!("q"), &json!(-32603)));
        test.assert_nothing_else().await;
        assert_eq!(test.end().await.lost, 1);
    }
}

#[tokio::test]
async fn slightly_invalid_request_is_answered_when_the_program_ends() {
    for asked in [
        r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"text"}"#,
        r#"{"id":1,"method":"m"}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"m"}]"#,
    ] {
        let mut test = Test::start(Some(Dialect::MCP));
        test.client(asked).await;
        test.at_program().await;
        drop((test.to_client, test.from_client));
        let error = value(&mut test.from_server).await;
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-31000)), "{asked}");
    }
}

#[tokio::test]
async fn messages_pass_unchanged_without_a_dialect() {
    let deep = deep();
    for dialect in [None, Some(Dialect::XI)] {
        let mut test = Test::start(dialect);
        for line in [&*format!(r#"{{"id":1,"method":"m","params":{deep}}}"#), r#"{"id":1,"id":2}"#]
        {
            test.client(line).await;
            assert_eq!(message(&mut test.from_client).await, line);
            test.program(line).await;
            assert_eq!(message(&mut test.from_server).await, line);
        }
        let banner = "not JSON";
        test.client(banner).await;
        assert_eq!(message(&mut test.from_client).await, banner);
        test.program(banner).await;
        if dialect.is_none() {
            assert_eq!(message(&mut test.from_server).await, banner);
        }
        test.assert_nothing_else().await;
        assert_eq!(test.end().await.lost, u64::from(dialect.is_some()));
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_read_its_error_responses_is_not_read() {
    let mut test = Test::start(Some(Dialect::STRICT));
    let bad = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{}}}"#, deep());
    // These are far more messages than fit into all queues.
    let sending = tokio::spawn(async move {
        for _ in 0..20_000 {
            test.to_server.send(bad.clone()).await.unwrap();
        }
        test.to_server
    });
    for _ in 0..20_000 {
        assert_eq!(value(&mut test.from_server).await["id"], 1);
    }
    drop(sending.await.unwrap());
    drop((test.from_server, test.to_client, test.from_client));
    assert_eq!(test.report.await.unwrap().lost, 20_000);
}

#[tokio::test(start_paused = true)]
async fn program_that_does_not_read_its_error_responses_is_still_read() {
    let mut test = Test::start(Some(Dialect::STRICT));
    let bad = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{}}}"#, deep());
    for _ in 0..20_000 {
        test.to_client.send(bad.clone()).await.unwrap();
    }
    test.program(r#"{"jsonrpc":"2.0","method":"down"}"#).await;
    assert_eq!(test.at_client().await["method"], "down");
    assert_eq!(test.end().await.lost, 20_000);
}

#[tokio::test]
async fn client_that_announces_a_too_long_message_gets_an_error_before_its_line_ends() {
    for dialect in [None, Some(Dialect::XI), Some(Dialect::LSP)] {
        let of = |limit| ContentLength::new(ByteSize::new(limit));
        let (client, near) = framed_pair(of(LIMIT), of(1000));
        let (far, _server) = lines_pair_of(ByteSize::mib(1), ByteSize::mib(1));
        let options = Bridge { dialect, ..Bridge::default() };
        let report = tokio::spawn(bridge(near.boxed(), far.boxed(), options, pending()));
        let (mut to_server, mut from_server) = client.boxed().split();
        to_server.send("x".repeat(1001)).await.unwrap();
        if dialect == Some(Dialect::LSP) {
            let refused = value(&mut from_server).await;
            assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32600)));
        }
        support::ended(&mut from_server).await;
        assert!(!report.await.unwrap().end.is_clean());
    }
}
