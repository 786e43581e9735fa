//! A widely used language server, from its first message to its exit.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::{Value, json};
use support::{Notifications, Program, fixture, recording, within};
use tieline_proto::FramingKind;
use tieline_rpc::{CallError, Dialect, PeerOptions, Router};
use tieline_transport::{CloseReason, Endpoint, Options};

const TEXT: &str = r#"def greet(name: str) -> str:
    """Says hello to someone."""
    return "hello " + name

greet("you")
"#;

/// Starts python-lsp-server, which stores its data about the sources in `cache`.
async fn start(cache: &tempfile::TempDir) -> (Program, Notifications) {
    // The server is started as a module, because its script contains the path where the environment was
    // created.
    let python = fixture("TIELINE_PYTHON_FIXTURES", "bin/python");
    let endpoint = Endpoint::exec(python, ["-m", "pylsp"]).with_framing(FramingKind::ContentLength);
    let cache = ("XDG_CACHE_HOME", cache.path());
    let options = Options { env: [cache].into_iter().collect(), ..Options::default() };
    let (router, notifications) = recording(Router::new());
    (
        Program::start(&endpoint, &options, PeerOptions::new(Dialect::LSP), router).await,
        notifications,
    )
}

async fn initialize(server: &Program) -> Value {
    let params = json!({
        "processId": std::process::id(),
        "rootUri": null,
        "capabilities": { "textDocument": { "hover": { "contentFormat": ["plaintext"] } } },
    });
    let answer = server.peer.call("initialize", params);
    let answer: Value = within("initialize", answer).await.unwrap();
    server.peer.notify("initialized", json!({})).await.unwrap();
    answer
}

#[tokio::test]
async fn language_server_works_from_initialize_through_hover_to_exit() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut notifications) = start(&directory).await;
    let answer = initialize(&server).await;
    assert_eq!(answer["serverInfo"]["name"], "pylsp");
    assert_eq!(answer["capabilities"]["hoverProvider"], true);

    let uri = format!("file://{}", directory.path().join("greet.py").display());
    let document = json!({ "uri": uri, "languageId": "python", "version": 1, "text": TEXT });
    server.peer.notify("textDocument/didOpen", json!({ "textDocument": document })).await.unwrap();
    let position = json!({ "line": 4, "character": 2 });
    let hover = json!({ "textDocument": { "uri": uri }, "position": position });
    let hover = server.peer.call("textDocument/hover", hover);
    let hover: Value = within("hover", hover).await.unwrap();
    let shown = hover["contents"]["value"].as_str().unwrap();
    assert!(shown.contains("greet(name: str) -> str"), "{shown}");
    assert!(shown.contains("Says hello to someone."), "{shown}");
    let diagnostics = notifications.next("textDocument/publishDiagnostics").await;
    assert_eq!(diagnostics["uri"], uri);

    within("shutdown", server.peer.call::<()>("shutdown", ())).await.unwrap();
    server.peer.notify("exit", ()).await.unwrap();
    let reason = server.ended().await;
    let CloseReason::ChildExited(exit) = &reason else { panic!("{reason}") };
    assert!(exit.status.success(), "{reason}");
}

#[tokio::test]
async fn request_unknown_to_the_server_is_refused_and_the_line_continues() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _heard) = start(&directory).await;
    initialize(&server).await;
    let refused = within("an error", server.peer.call::<Value>("no/such/method", ())).await;
    let Err(CallError::Remote(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.code, -32601);
    within("shutdown", server.peer.call::<()>("shutdown", ())).await.unwrap();
    server.close().await;
}
