//! vscode-jsonrpc, the reference implementation of the Language Server Protocol's JSON-RPC, as server
//! and as client.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use support::{Notifications, Program, fixture, recording, within};
use tieline_proto::FramingKind;
use tieline_rpc::{Dialect, PeerOptions, Router};
use tieline_transport::{Endpoint, Options};
use tokio::sync::mpsc;

async fn start(role: &str, router: Router) -> (Program, Notifications) {
    let script = fixture("TIELINE_NODE_FIXTURES", "message-connection.js");
    let endpoint = Endpoint::exec("node", [script.as_os_str(), role.as_ref()])
        .with_framing(FramingKind::ContentLength);
    let (router, notifications) = recording(router);
    let peer = PeerOptions::new(Dialect::LSP);
    (Program::start(&endpoint, &Options::default(), peer, router).await, notifications)
}

#[tokio::test]
async fn server_responds_notifies_and_calls_back() {
    let twice = |(n,): (i64,), _| async move { Ok(2 * n) };
    let (server, mut notifications) = start("server", Router::new().request("twice", twice)).await;
    let sum: i64 = within("a sum", server.peer.call("add", (2, 3))).await.unwrap();
    assert_eq!(sum, 5);
    let answer: i64 = within("an answer", server.peer.call("ask", [21])).await.unwrap();
    assert_eq!(answer, 42);
    let note = json!({ "text": "käse\u{2028}🧀" });
    server.peer.notify("note", &note).await.unwrap();
    assert_eq!(notifications.next("noted").await, note);
    server.close().await;
}

#[tokio::test]
async fn dropped_call_is_cancelled_at_the_server_and_its_late_response_is_ignored() {
    let (server, mut notifications) = start("server", Router::new()).await;
    tokio::select! {
        answer = server.peer.call::<Value>("hang", ()) => panic!("{answer:?}"),
        _ = notifications.next("hanging") => {}
    }
    notifications.next("cancelled").await;
    let sum: i64 = within("a sum", server.peer.call("add", (2, 3))).await.unwrap();
    assert_eq!(sum, 5);
    // These are the two notifications, the late response, and the sum.
    assert_eq!(server.messages_in(), 4);
    server.close().await;
}

/// A value that sends a message when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn client_cancels_its_call_and_the_handler_is_dropped() {
    let (report, mut dropped) = mpsc::unbounded_channel();
    let router = Router::new()
        .request("add", |(a, b): (i64, i64), _| async move { Ok(a + b) })
        .request("hang", move |(): (), peer| {
            let dropped = Dropped(report.clone());
            async move {
                peer.notify("hanging", ()).await.unwrap();
                std::future::pending::<()>().await;
                drop(dropped);
                Ok(())
            }
        });
    let (client, mut notifications) = start("client", router).await;
    assert_eq!(notifications.next("answered").await, json!({ "method": "add", "result": 5 }));
    assert_eq!(notifications.next("refused").await, json!({ "method": "missing", "code": -32601 }));
    assert_eq!(notifications.next("refused").await, json!({ "method": "hang", "code": -32800 }));
    within("the handler's end", dropped.recv()).await.unwrap();
    assert_eq!(notifications.next("answered").await, json!({ "method": "add", "result": 9 }));
    client.close().await;
}
