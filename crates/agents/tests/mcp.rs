//! The "everything" server of the Model Context Protocol project, over its stdin and stdout.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Notifications, Program, fixture, recording, within};
use tieline_rpc::{CallError, Dialect, ErrorObject, PeerOptions, Router};
use tieline_testkit::clock::StoppedClock;
use tieline_transport::{Endpoint, Options};
use tokio::sync::{mpsc, oneshot};

/// Starts the server and initializes it.
async fn start(capabilities: Value, router: Router) -> (Program, Notifications) {
    let script = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let script = fixture("TIELINE_NODE_FIXTURES", script);
    let endpoint = Endpoint::exec("node", [script.as_os_str(), "stdio".as_ref()]);
    let (router, notifications) = recording(router);
    let peer = PeerOptions::new(Dialect::MCP);
    let server = Program::start(&endpoint, &Options::default(), peer, router).await;

    let params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "clientInfo": { "name": "tieline", "version": "0" },
    });
    let answer: Value = within("initialize", server.peer.call("initialize", params)).await.unwrap();
    assert_eq!(answer["protocolVersion"], "2025-11-25");
    assert_eq!(answer["serverInfo"]["name"], "mcp-servers/everything");
    server.peer.notify("notifications/initialized", ()).await.unwrap();
    (server, notifications)
}

fn tool(name: &str, arguments: Value) -> Value {
    json!({ "name": name, "arguments": arguments })
}

/// Calls a tool and returns its text.
async fn call(server: &Program, name: &str, arguments: Value) -> Result<String, CallError> {
    let result: Value = within(name, server.peer.call("tools/call", tool(name, arguments))).await?;
    Ok(text(&result))
}

fn text(result: &Value) -> String {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
}

#[tokio::test]
async fn tools_are_listed_and_called() {
    let (server, _heard) = start(json!({}), Router::new()).await;
    let list: Value = within("the list", server.peer.call("tools/list", json!({}))).await.unwrap();
    let names: Vec<_> = list["tools"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert!(names.contains(&&json!("echo")), "{names:?}");
    assert!(
        !names.contains(&&json!("trigger-sampling-request")),
        "the tool is not offered without the capability"
    );

    let message = "two\nlines, \"quoted\", and 🧵";
    let answer = call(&server, "echo", json!({ "message": message })).await.unwrap();
    assert_eq!(answer, format!("Echo: {message}"));
    let refused = within("an error", server.peer.call::<Value>("no/such/method", ())).await;
    let Err(CallError::Remote(ErrorObject { code, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!(code, -32601);
    server.close().await;
}

/// Our clock is paused and advances only with each progress notification, so that no machine is too slow
/// for the limit. If progress arrives faster than it is handled, only the latest notification is kept.
#[tokio::test]
async fn progress_is_reported_and_extends_the_timeout() {
    let (server, _heard) = start(json!({}), Router::new()).await;
    let still = StoppedClock::new(Duration::from_secs(60));
    let limit = Duration::from_secs(2);
    let params = tool("trigger-long-running-operation", json!({ "duration": 2, "steps": 5 }));
    let long = || server.peer.method("tools/call").params(&params).timeout(limit);

    let (report, mut reports) = mpsc::unbounded_channel();
    let record = move |progress: &[u8]| {
        report.send(serde_json::from_slice::<Value>(progress).unwrap()).unwrap();
    };
    let numbers = async {
        let mut numbers = Vec::new();
        while let Some(progress) = reports.recv().await {
            assert_eq!(progress["total"], 5);
            numbers.push(progress["progress"].as_u64().unwrap());
            tokio::time::advance(limit * 3 / 4).await;
        }
        numbers
    };
    let all =
        async { tokio::join!(long().on_progress(record).call(), long().call::<Value>(), numbers) };
    let (patient, hasty, numbers) = within("both operations", all).await;
    let answer = text(&patient.unwrap());
    assert_eq!(answer, "Long running operation completed. Duration: 2 seconds, Steps: 5.");
    assert!(matches!(hasty, Err(CallError::TimedOut(_))), "{hasty:?}");
    assert!(numbers.is_sorted() && numbers.last() == Some(&5), "{numbers:?}");
    drop(still);
    server.close().await;
}

#[tokio::test]
async fn server_logs_at_the_requested_level() {
    let (server, mut notifications) = start(json!({}), Router::new()).await;
    let level = json!({ "level": "debug" });
    let done: Value =
        within("the level", server.peer.call("logging/setLevel", level)).await.unwrap();
    assert_eq!(done, json!({}));
    call(&server, "toggle-simulated-logging", json!({})).await.unwrap();
    let logged = notifications.next("notifications/message").await;
    assert!(logged["data"].as_str().unwrap().contains("essage"), "{logged}");
    server.close().await;
}

#[tokio::test]
async fn server_requests_a_sample_and_uses_the_response() {
    let (report, mut asked) = mpsc::unbounded_channel();
    let router = Router::new().request("sampling/createMessage", move |params: Value, _| {
        report.send(params).unwrap();
        async { Ok(sample("the sample of the test")) }
    });
    let (server, _heard) = start(json!({ "sampling": {} }), router).await;
    let arguments = json!({ "prompt": "say something", "maxTokens": 7 });
    let answer = call(&server, "trigger-sampling-request", arguments).await.unwrap();
    assert!(answer.contains("the sample of the test"), "{answer}");
    let asked = asked.try_recv().unwrap();
    assert_eq!(asked["maxTokens"], 7);
    let prompt = asked["messages"][0]["content"]["text"].as_str().unwrap();
    assert!(prompt.ends_with("say something"), "{prompt}");
    server.close().await;
}

fn sample(text: &str) -> Value {
    let content = json!({ "type": "text", "text": text });
    json!({ "role": "assistant", "content": content, "model": "none", "stopReason": "endTurn" })
}

/// The test delays its response to the tool's request, so that the call is certainly cancelled while the
/// tool runs.
#[tokio::test]
async fn dropped_call_is_cancelled_at_the_server_and_the_line_continues() {
    let (report, mut asked) = mpsc::unbounded_channel();
    let router = Router::new().request("sampling/createMessage", move |_: Value, _| {
        let (answer, answered) = oneshot::channel();
        report.send(answer).unwrap();
        async move { answered.await.map_err(ErrorObject::internal) }
    });
    let (server, _heard) = start(json!({ "sampling": {} }), router).await;
    let arguments = json!({ "prompt": "never mind" });
    let answer = tokio::select! {
        result = call(&server, "trigger-sampling-request", arguments) => panic!("{result:?}"),
        answer = within("the question", asked.recv()) => answer.unwrap(),
    };
    within("a pong", server.peer.call::<Value>("ping", ())).await.unwrap();

    // The tool ends now. A server that has handled the cancellation does not send the tool's result, so
    // there is no other message before the response of the next tool.
    let before = server.messages_in();
    answer.send(sample("too late")).unwrap();
    let echo = call(&server, "echo", json!({ "message": "still here" })).await.unwrap();
    assert_eq!(echo, "Echo: still here");
    assert_eq!(server.messages_in() - before, 1);
    server.close().await;
}
