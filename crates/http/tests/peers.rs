//! Tests of WebSockets with third-party implementations: Python's `websockets`, Node's `ws`, curl, and a
//! server without sessions.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::PathBuf;
use std::process::Stdio;

use bytes::Bytes;
use support::{LIMIT, TOKEN, config, echo, end, message, registry, registry_with, serve};
use tieline_http::ClientConfig;
use tieline_link::SessionOptions;
use tieline_transport::{Acceptor, Channel, CloseReason, Endpoint, ErrorKind, Options, SenderExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// Returns the folder of the fixtures. Panics if `variable` is not set.
fn fixtures(variable: &str) -> PathBuf {
    let folder = std::env::var_os(variable);
    PathBuf::from(folder.unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test`")))
}

fn python() -> Command {
    let mut command = Command::new(fixtures("TIELINE_PYTHON_FIXTURES").join("bin/python"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/python/websocket_peer.py");
    command.arg(script);
    command
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.arg(fixtures("TIELINE_NODE_FIXTURES").join("websocket-peer.js"));
    command
}

async fn works_as_a_client(mut client: Command) {
    let mut served = serve(config()).await;
    let url = served.url().to_string();
    let running = client.args(["client", &url, TOKEN]).kill_on_drop(true).output();
    let serving = async {
        let channel = served.plain.accept().await.unwrap();
        let control = channel.control().clone();
        (echo(channel).await, control)
    };
    let both = async { tokio::join!(running, serving) };
    let (output, (reason, control)) = tokio::time::timeout(LIMIT, both).await.expect("timed out");
    let output = output.unwrap();
    assert!(output.status.success() && output.stdout == b"ok\n", "{output:?}");
    assert!(matches!(reason, CloseReason::ByPeer), "{reason}");
    assert_eq!(control.info().messages_in, 1008);
}

/// Starts a server. Returns its process and its URL.
async fn started(mut server: Command) -> (Child, Endpoint) {
    let server = server.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server.kill_on_drop(true).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    (server, format!("ws://127.0.0.1:{}/", line.trim()).parse().unwrap())
}

async fn works_as_a_server(server: Command) {
    let (_server, url) = started(server).await;
    let registry = registry_with(ClientConfig::default());
    let channel = registry.connect(&url, &Options::default()).await.unwrap();
    let (mut sender, mut receiver) = channel.split();
    let large = Bytes::from(vec![0xff; 16 << 20]);
    let text = Bytes::from("ü".repeat(100_000));
    for sent in ["x", "hello", "{\"a\":\"ü\"}"].map(Bytes::from).iter().chain([&text, &large]) {
        let (sending, came) = tokio::join!(sender.send(sent.clone()), message(&mut receiver));
        sending.unwrap();
        assert!(came == *sent, "{} bytes", sent.len());
    }
    for number in 0..1000 {
        sender.feed(format!("{number}")).await.unwrap();
    }
    sender.flush().await.unwrap();
    for number in 0..1000 {
        assert_eq!(message(&mut receiver).await, format!("{number}"));
    }
    sender.send("close 4321").await.unwrap();
    let reason = end(&mut receiver).await;
    let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
    assert_eq!((close.code, close.text.as_str()), (4321, "as asked"));
    // The second connection is closed by this side.
    let channel = registry.connect(&url, &Options::default()).await.unwrap();
    let (mut sender, mut receiver) = channel.split();
    sender.send("last").await.unwrap();
    assert_eq!(message(&mut receiver).await, "last");
    sender.close().await.unwrap();
    assert!(matches!(end(&mut receiver).await, CloseReason::ByUs));
}

#[tokio::test]
async fn python_websockets_works_as_a_client() {
    works_as_a_client(python()).await;
}

#[tokio::test]
async fn python_websockets_works_as_a_server() {
    works_as_a_server(python()).await;
}

#[tokio::test]
async fn node_ws_works_as_a_client() {
    works_as_a_client(node()).await;
}

#[tokio::test]
async fn node_ws_works_as_a_server() {
    works_as_a_server(node()).await;
}

#[tokio::test]
async fn curl_can_upgrade_to_a_web_socket() {
    let mut served = serve(config()).await;
    let url = format!("http://127.0.0.1:{}/ws", served.port);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--include", "--no-buffer", "--http1.1", "--max-time", "60"]);
    for line in [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &format!("Authorization: Bearer {TOKEN}"),
    ] {
        curl.args(["--header", line]);
    }
    let running = curl.arg(&url).kill_on_drop(true).output();
    let serving = async {
        let channel = served.plain.accept().await.unwrap();
        let (mut sender, _receiver) = channel.split();
        sender.send("hello").await.unwrap();
        sender.close().await.unwrap();
    };
    let (output, ()) = tokio::join!(running, serving);
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("HTTP/1.1 101 "), "{output:?}");
    assert!(text.contains("\u{5}hello"), "{output:?}");
}

/// A session is requested with its subprotocol; a server that does not grant it has no sessions.
#[tokio::test]
async fn connecting_to_a_server_without_sessions_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = support::head(&mut stream).await;
        assert!(request.contains("sec-websocket-protocol: tieline.1\r\n"), "{request}");
        // This is the response of a server that does not know the subprotocol.
        stream
            .write_all(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            .await
            .unwrap();
        let key = request.split("sec-websocket-key: ").nth(1).unwrap();
        let accept = accept_of(key.split("\r\n").next().unwrap());
        stream
            .write_all(format!("Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        std::future::pending::<()>().await;
    });
    let url: Endpoint = format!("resume+ws://127.0.0.1:{port}/ws").parse().unwrap();
    let options = SessionOptions::default();
    let connector =
        tieline_link::connector(&registry(), &url, &Options::default(), options).unwrap();
    let Err(error) = connector.connect().await else { panic!("a session was established") };
    assert!(matches!(error.kind(), ErrorKind::Handshake { protocol: "session", .. }), "{error}");
    for framing in ["lines", "content-length", "length-prefix"] {
        let url = &format!("{framing}+ws://127.0.0.1/ws");
        let error = support::refused(&registry(), url).await;
        assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error}");
    }
}

fn accept_of(key: &str) -> String {
    let script = "import base64,hashlib,sys;print(base64.b64encode(hashlib.sha1((sys.argv[1]+\
                  '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()).decode())";
    let output = std::process::Command::new("python3").args(["-c", script, key]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
