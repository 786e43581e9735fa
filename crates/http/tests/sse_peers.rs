//! Tests of events and POSTs with third-party implementations: Node's `eventsource` and fetch, the
//! client and server of the MCP SDK, and Python's urllib.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::events::{Numbers, shears};
use support::sdk::{fixtures, node, prints_ok, sdk_behind, started};
use support::{LIMIT, TOKEN, config, end, message, registry_with, serve};
use tieline_http::{ClientConfig, ServerConfig};
use tieline_link::{LineOptions, Session, SessionOptions, Sessions};
use tieline_transport::{
    Acceptor, Channel, CloseReason, DynAcceptor, Incoming, Options, ReceiverExt, SenderExt,
};
use tokio::process::Command;

/// Echoes messages until the client sends `enough` or ends the line.
async fn echo(channel: impl Channel) -> CloseReason {
    let (mut sender, mut receiver) = channel.split();
    loop {
        match receiver.recv().await {
            Incoming::Message(message) if message == "enough" => sender.close().await.unwrap(),
            Incoming::Message(message) => sender.send(message).await.unwrap(),
            Incoming::End(reason) => return reason,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn node_eventsource_resumes_where_it_was_cut_off() {
    let hosts = vec!["127.0.0.1".into()];
    let served = serve(ServerConfig { hosts, ..config() }).await;
    let mut numbers = Numbers(7);
    // Cuts only five times, because `eventsource` waits three seconds before it reconnects.
    let mut times = 0;
    let port = shears(served.port, move || {
        times += 1;
        (times < 6).then(|| 1_000 + numbers.below(9_000) as usize)
    })
    .await;
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let options = SessionOptions::default();
    let mut sessions = Sessions::new(acceptor, options, LineOptions::default());
    let mut command = node();
    command.args(["source", &format!("http://127.0.0.1:{port}/sse"), TOKEN]);
    let serving = async {
        let session: Session = Acceptor::accept(&mut sessions).await.unwrap();
        let reason = echo(session).await;
        // The client has received the end; the script still has to exit.
        if reason.is_clean() {
            std::future::pending::<()>().await;
        }
        reason
    };
    tokio::select! {
        () = prints_ok(command) => {}
        reason = serving => panic!("{reason}"),
    }
    assert!(served.web.counts().event_streams > 1, "{:?}", served.web.counts());
}

#[tokio::test]
async fn python_urllib_works_as_a_client() {
    let mut served = serve(config()).await;
    served.resumable = None;
    let mut command = Command::new(fixtures("TIELINE_PYTHON_FIXTURES").join("bin/python"));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/python/events_peer.py"));
    command.args([&format!("http://127.0.0.1:{}/sse", served.port), TOKEN]).kill_on_drop(true);
    let serving = async { echo(Acceptor::accept(&mut served.plain).await.unwrap()).await };
    let both = async { tokio::join!(prints_ok(command), serving) };
    let ((), reason) = tokio::time::timeout(LIMIT, both).await.expect("timed out");
    assert!(matches!(reason, CloseReason::ByPeer), "{reason}");
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

#[tokio::test]
async fn the_mcp_sdk_server_works_as_a_server() {
    let (_server, url) = started().await;
    let registry = registry_with(ClientConfig::default());
    let channel = registry.connect(&url, &Options::default()).await.unwrap();
    let (mut sender, mut receiver) = channel.split();
    sender.send(INITIALIZE).await.unwrap();
    let answer = message(&mut receiver).await;
    assert!(answer.starts_with(b"{"), "{answer:?}");
    sender.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await.unwrap();
    for number in 1..=200 {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"echo","arguments":{{"message":"grüße {number}"}}}}}}"#
        );
        sender.feed(call).await.unwrap();
    }
    sender.flush().await.unwrap();
    for number in 1..=200 {
        let answer = message(&mut receiver).await;
        let answer = std::str::from_utf8(&answer).unwrap();
        assert!(answer.contains(&format!("grüße {number}\"")), "{answer}");
    }
    sender.close().await.unwrap();
    assert!(matches!(end(&mut receiver).await, CloseReason::ByUs));
}

/// Connects the SDK's client for the older HTTP+SSE transport to the SDK's server through a plain line.
#[tokio::test]
async fn the_mcp_sdk_client_works_as_a_client() {
    let mut served = serve(config()).await;
    served.resumable = None;
    let mut command = node();
    command.args(["mcp", &format!("http://127.0.0.1:{}/sse", served.port), TOKEN]);
    let serving = sdk_behind(&mut served);
    let both = async { tokio::join!(prints_ok(command), serving) };
    tokio::time::timeout(LIMIT, both).await.expect("timed out");
}
