//! The state of a restarted program is restored, or the line ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::message;
use tieline_gateway::{Bridge, BridgeEnd, BridgeReport, bridge_supervised};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, Incoming, MemoryChannel, Receiver,
    ReceiverExt, SenderExt, TransportError, memory_pair,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

type Half = (<MemoryChannel as Channel>::Sender, <MemoryChannel as Channel>::Receiver);

/// A connector to programs whose part the test plays.
struct Programs(mpsc::UnboundedSender<MemoryChannel>);

impl DynConnector for Programs {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        let (far, program) = memory_pair();
        self.0.send(program).unwrap();
        Box::pin(async { Ok(far.boxed()) })
    }
}

struct Test {
    to_server: Half,
    programs: mpsc::UnboundedReceiver<MemoryChannel>,
    program: Half,
    report: JoinHandle<BridgeReport>,
}

impl Test {
    async fn start(dialect: Dialect) -> Self {
        let (client, near) = memory_pair();
        let (started, mut programs) = mpsc::unbounded_channel();
        let target: Arc<dyn DynConnector> = Arc::new(Programs(started));
        let bridge = Bridge { dialect: Some(dialect), ..Bridge::default() };
        let report = tokio::spawn(async move {
            let always = RestartPolicy::Always;
            bridge_supervised(near.boxed(), target, always, bridge, pending()).await.unwrap()
        });
        let program = programs.recv().await.unwrap().split();
        Self { to_server: client.split(), programs, program, report }
    }

    /// Starts a line and completes the handshake.
    async fn opened(dialect: Dialect, result: Value) -> Self {
        let mut test = Self::start(dialect).await;
        test.client(initialize()).await;
        assert_eq!(test.at_program().await, initialize());
        test.program(json!({"id": 0, "result": result})).await;
        assert_eq!(test.at_client().await["result"], result);
        let confirmed = match dialect.name {
            "mcp" => "notifications/initialized",
            "lsp" => "initialized",
            _ => return test,
        };
        test.client(json!({"method": confirmed})).await;
        assert_eq!(test.at_program().await["method"], confirmed);
        test
    }

    async fn client(&mut self, message: Value) {
        self.to_server.0.send(with_version(message).to_string()).await.unwrap();
    }

    async fn program(&mut self, message: Value) {
        self.program.0.send(with_version(message).to_string()).await.unwrap();
    }

    async fn at_client(&mut self) -> Value {
        value(&mut self.to_server.1).await
    }

    async fn at_program(&mut self) -> Value {
        value(&mut self.program.1).await
    }

    /// Ends the program and waits for the next one.
    async fn restart(&mut self) {
        self.program = {
            let (mut sender, receiver) =
                std::mem::replace(&mut self.program, memory_pair().0.split());
            sender.close().await.unwrap();
            drop((sender, receiver));
            self.programs.recv().await.unwrap().split()
        };
    }

    /// Returns the messages that the client receives until its line ends, why the state was not
    /// restored, and the report.
    async fn end(mut self) -> (Vec<Value>, String, BridgeReport) {
        let mut received = Vec::new();
        loop {
            match self.to_server.1.recv().await {
                Incoming::Message(message) => {
                    received.push(serde_json::from_slice(&message).unwrap());
                }
                Incoming::End(_) => break,
                other => panic!("{other:?}"),
            }
        }
        let report = self.report.await.unwrap();
        let BridgeEnd::Far(CloseReason::NotRestored(why)) = &report.end else {
            panic!("{}", report.end)
        };
        assert!(!report.end.is_clean());
        (received, why.problem.clone(), report)
    }
}

fn with_version(mut message: Value) -> Value {
    message["jsonrpc"] = json!("2.0");
    message
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"capabilities": {}}})
}

async fn value(receiver: &mut impl Receiver) -> Value {
    serde_json::from_str(&message(receiver).await).unwrap()
}

fn call(id: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call"})
}

#[tokio::test]
async fn restarted_program_gets_the_handshake_before_anything_else() {
    for dialect in [Dialect::MCP, Dialect::LSP, Dialect::ACP] {
        let result = json!({"capabilities": {"tools": {}}, "serverInfo": {"name": "a"}});
        let mut test = Test::opened(dialect, result.clone()).await;
        for _ in 0..2 {
            test.client(call(1)).await;
            assert_eq!(test.at_program().await, call(1));
            test.restart().await;
            let lost = test.at_client().await;
            assert_eq!((&lost["id"], &lost["error"]["code"]), (&json!(1), &json!(dialect.gone)));
            test.client(call(2)).await;
            assert_eq!(test.at_program().await, initialize(), "{}", dialect.name);
            // Until the program responds, its messages are handled, and those of the client wait.
            test.program(json!({"id": "p", "method": "ping"})).await;
            assert_eq!(test.at_program().await, with_version(json!({"id": "p", "result": {}})));
            test.program(json!({"method": "log"})).await;
            assert_eq!(test.at_client().await["method"], "log");
            test.program(json!({"id": 0, "result": result})).await;
            if dialect != Dialect::ACP {
                let confirmed = test.at_program().await;
                assert!(confirmed["method"].as_str().unwrap().ends_with("initialized"));
            }
            assert_eq!(test.at_program().await, call(2));
            test.program(json!({"id": 2, "result": "done"})).await;
            assert_eq!(test.at_client().await["result"], "done");
        }
        drop((test.to_server, test.program));
        assert_eq!(test.report.await.unwrap().restarted, 2);
    }
}

#[tokio::test]
async fn program_that_ends_during_the_replay_is_followed_by_a_new_replay() {
    let mut test = Test::opened(Dialect::MCP, json!({})).await;
    test.restart().await;
    assert_eq!(test.at_program().await, initialize());
    test.restart().await;
    test.client(call(1)).await;
    assert_eq!(test.at_program().await, initialize());
    test.program(json!({"id": 0, "result": {}})).await;
    assert_eq!(test.at_program().await["method"], "notifications/initialized");
    assert_eq!(test.at_program().await, call(1));
}

#[tokio::test]
async fn restarted_program_gets_messages_at_once_without_a_handshake() {
    let mut test = Test::start(Dialect::MCP).await;
    test.client(call(1)).await;
    assert_eq!(test.at_program().await, call(1));
    test.restart().await;
    assert_eq!(test.at_client().await["id"], 1);
    // The next request is passed on at once, because there is nothing to replay.
    test.client(call(2)).await;
    assert_eq!(test.at_program().await, call(2));
}

#[tokio::test]
async fn subscriptions_are_restored_without_the_client() {
    let mut test = Test::opened(Dialect::MCP, json!({})).await;
    let subscribe = json!({"id": 5, "method": "resources/subscribe", "params": {"uri": "a"}});
    test.client(subscribe).await;
    test.at_program().await;
    test.program(json!({"id": 5, "result": {}})).await;
    test.at_client().await;
    test.restart().await;
    assert_eq!(test.at_program().await, initialize());
    test.client(call(6)).await;
    test.program(json!({"id": 0, "result": {}})).await;
    assert_eq!(test.at_program().await["method"], "notifications/initialized");
    let again = test.at_program().await;
    assert_eq!(
        (&again["method"], &again["params"]),
        (&json!("resources/subscribe"), &json!({"uri": "a"}))
    );
    assert_eq!(test.at_program().await, call(6));
    test.program(json!({"id": again["id"], "result": {}})).await;
    test.program(json!({"id": 6, "result": 1})).await;
    assert_eq!(test.at_client().await["id"], 6);
}

#[tokio::test]
async fn program_that_offers_less_ends_the_line_with_the_reason() {
    let mut test = Test::opened(Dialect::MCP, json!({"capabilities": {"tools": {}}})).await;
    test.restart().await;
    assert_eq!(test.at_program().await, initialize());
    test.client(call(1)).await;
    test.program(json!({"id": 0, "result": {"capabilities": {}}})).await;
    let (received, why, report) = test.end().await;
    assert_eq!(why, "its `capabilities.tools` differs from that of the previous program");
    assert_eq!(received.iter().map(|it| &it["id"]).collect::<Vec<_>>(), [&json!(1)]);
    let text = received[0]["error"]["message"].as_str().unwrap();
    assert!(text.contains(&why), "{text}");
    assert_eq!((report.to_far, report.lost), (2, 1));
}

#[tokio::test]
async fn changed_document_ends_the_line_with_the_reason() {
    let mut test = Test::opened(Dialect::LSP, json!({"capabilities": {}})).await;
    for method in ["textDocument/didOpen", "textDocument/didChange"] {
        test.client(json!({"method": method, "params": {"textDocument": {"uri": "file:a"}}})).await;
        test.at_program().await;
    }
    test.client(json!({"id": 1, "method": "textDocument/hover"})).await;
    test.at_program().await;
    test.restart().await;
    let (received, why, _) = test.end().await;
    assert_eq!(why, "\"file:a\" was changed after it was opened");
    assert_eq!(received.len(), 1);
    assert_eq!(received[0]["id"], 1);
}

#[tokio::test]
async fn state_without_a_handshake_ends_the_line_with_the_reason() {
    let mut test = Test::start(Dialect::XI).await;
    test.client(json!({"method": "client_started", "params": {}})).await;
    test.at_program().await;
    test.restart().await;
    let (received, why, _) = test.end().await;
    assert_eq!((received, &*why), (vec![], "the dialect xi does not support restoring state"));
}

#[tokio::test(start_paused = true)]
async fn program_that_does_not_answer_the_handshake_ends_the_line() {
    let mut test = Test::opened(Dialect::MCP, json!({})).await;
    test.restart().await;
    let begun = Instant::now();
    assert_eq!(test.at_program().await, initialize());
    test.client(call(1)).await;
    let program = std::mem::replace(&mut test.program, memory_pair().0.split());
    let (received, why, _) = test.end().await;
    assert_eq!(why, "it did not answer the handshake within 1m");
    assert!(begun.elapsed() >= Duration::from_secs(60));
    assert_eq!(received[0]["id"], 1);
    drop(program);
}

#[tokio::test]
async fn requests_from_the_old_program_are_cancelled_and_their_responses_dropped() {
    for dialect in [Dialect::MCP, Dialect::LSP] {
        let mut test = Test::opened(dialect, json!({})).await;
        test.program(json!({"id": "q", "method": "roots/list"})).await;
        assert_eq!(test.at_client().await["id"], "q");
        test.restart().await;
        let cancelled = test.at_client().await;
        let cancel = dialect.cancel.unwrap();
        assert_eq!(cancelled["method"], cancel.method);
        assert_eq!(cancelled["params"][cancel.id], "q");
        assert_eq!(test.at_program().await, initialize());
        test.program(json!({"id": 0, "result": {}})).await;
        assert!(test.at_program().await["method"].as_str().unwrap().ends_with("initialized"));
        test.client(json!({"id": "q", "result": []})).await;
        test.client(call(1)).await;
        assert_eq!(test.at_program().await, call(1), "{}", dialect.name);
        // The new program uses the same id.
        test.program(json!({"id": "q", "method": "roots/list"})).await;
        assert_eq!(test.at_client().await["id"], "q");
        test.client(json!({"id": "q", "result": [1]})).await;
        assert_eq!(test.at_program().await["result"], json!([1]));
        drop((test.to_server, test.program));
        assert_eq!(test.report.await.unwrap().lost, 1);
    }
}

#[tokio::test]
async fn process_id_reaches_only_programs_that_can_see_the_process() {
    for isolated in [false, true] {
        let (client, near) = memory_pair();
        let (far, program) = memory_pair();
        let bridge = Bridge { dialect: Some(Dialect::LSP), isolated, ..Bridge::default() };
        let report =
            tokio::spawn(tieline_gateway::bridge(near.boxed(), far.boxed(), bridge, pending()));
        let (mut to_program, from_program) = client.split();
        let (to_client, mut from_client) = program.split();
        let params = json!({"processId": 4711, "rootUri": null});
        let initialize =
            json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        to_program.send(initialize.to_string()).await.unwrap();
        let expected = if isolated { Value::Null } else { json!(4711) };
        let arrived = value(&mut from_client).await;
        assert_eq!((&arrived["params"]["processId"], &arrived["id"]), (&expected, &json!(1)));
        drop((to_program, from_program, to_client, from_client));
        assert_eq!(report.await.unwrap().lost, 0);
    }
}

#[tokio::test]
async fn handshake_without_a_version_is_replayed() {
    let mut test = Test::start(Dialect::MCP).await;
    let initialize = r#"{"id":0,"method":"initialize"}"#;
    test.to_server.0.send(initialize).await.unwrap();
    test.at_program().await;
    test.program.0.send(r#"{"id":0,"result":{}}"#).await.unwrap();
    test.at_client().await;
    test.restart().await;
    assert_eq!(message(&mut test.program.1).await, initialize);
}
