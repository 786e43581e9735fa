//! Runs the example agent without changes: in memory, over a Unix socket or a named pipe, on its stdin
//! and stdout, and on the web over WebSocket and server-sent events.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../examples/agent.rs"]
#[allow(dead_code, unreachable_pub)]
mod agent;

use std::future::Future;
use std::time::Duration;

use tieline::Channel;
use tieline::rpc::{Peer, PeerOptions, Router};

/// Calls `add` and `greet`. The greeting is in German, because this side returns that language when the
/// agent calls it.
async fn use_it(channel: impl Channel) {
    let german = Router::new().request("language", |(): (), _| async move { Ok("de") });
    let (peer, driver) = Peer::new(channel, german, PeerOptions::default());
    let driver = tokio::spawn(driver);
    assert_eq!(within(peer.call::<f64>("add", (2, 3))).await.unwrap(), 5.0);
    let greeting: String = within(peer.call("greet", ["Welt"])).await.unwrap();
    assert_eq!(greeting, "Hallo Welt");
    within(peer.close()).await;
    within(driver).await.unwrap();
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("timed out after 30 seconds")
}

#[tokio::test]
async fn agent_works_in_memory() {
    let (ours, theirs) = tieline::memory_pair();
    tokio::spawn(agent::serve(theirs));
    use_it(ours).await;
}

#[cfg(unix)]
#[tokio::test]
async fn agent_works_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("unix:{}", directory.path().join("agent.sock").display());
    let mut acceptor = tieline::listen(&endpoint).await.unwrap();
    tokio::spawn(async move { agent::serve(acceptor.accept().await.unwrap()).await });
    use_it(tieline::connect(&endpoint).await.unwrap()).await;
}

#[cfg(windows)]
#[tokio::test]
async fn agent_works_over_a_named_pipe() {
    let endpoint = format!("pipe:tieline-agent-test-{}", std::process::id());
    let mut acceptor = tieline::listen(&endpoint).await.unwrap();
    tokio::spawn(async move { agent::serve(acceptor.accept().await.unwrap()).await });
    use_it(tieline::connect(&endpoint).await.unwrap()).await;
}

#[tokio::test]
async fn agent_works_on_the_web() {
    use tieline::web::{Access, ClientConfig, HttpServer, Place, ServerConfig, Token};
    use tieline::{Acceptor, Options, Registry};

    let token = Token::new("a-token-that-is-hard-to-guess").unwrap();
    let place = Place::Tcp { host: "127.0.0.1".into(), port: 0 };
    let config = ServerConfig::new(place, Access::Token(token.clone()));
    let (web, mut lines, sessions) = HttpServer::listen(config).await.unwrap();
    // Without sessions, an event stream is an ordinary line.
    drop(sessions);
    let serving = tokio::spawn(async move {
        while let Ok(line) = lines.accept().await {
            tokio::spawn(agent::serve(line));
        }
    });
    let mut registry = Registry::new();
    let client = ClientConfig { token: Some(token), ..ClientConfig::default() };
    tieline::web::register(&mut registry, client);
    let http = web.endpoint().to_string();
    for url in [format!("{}/ws", http.replacen("http", "ws", 1)), format!("{http}/sse")] {
        let endpoint = url.parse().unwrap();
        use_it(registry.connect(&endpoint, &Options::default()).await.unwrap()).await;
    }
    within(web.close(Duration::from_secs(10))).await;
    serving.abort();
}

#[tokio::test]
async fn agent_works_on_its_own_stdio() {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples/agent");
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.exists(), "the example is built with the tests, by `cargo test`");
    let endpoint = tieline::Endpoint::exec(&program, [""; 0]).exact().to_string();
    use_it(tieline::connect(&endpoint).await.unwrap()).await;
}
