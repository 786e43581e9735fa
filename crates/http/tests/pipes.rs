//! Tests of a web server on a named pipe. `cargo xtask windows` runs them under Wine.
#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use support::{BEARER, Served, config, head_of, registry, serve, status_of};
use tieline_http::{Place, ServerConfig, WebLine};
use tieline_transport::{Acceptor, BoxChannel, Channel, Incoming, Options, ReceiverExt, SenderExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient};

/// Starts a server on a pipe, and returns its name.
async fn on_pipe() -> (Served, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tieline-http-test-{}-{number}", std::process::id());
    let config = ServerConfig { place: Place::Pipe(name.clone()), ..config() };
    let served = serve(config).await;
    assert_eq!(served.web.endpoint().to_string(), format!("http-pipe:{name}"));
    (served, name)
}

async fn open(name: &str) -> NamedPipeClient {
    let path = format!(r"\\.\pipe\{name}");
    ClientOptions::new().open(path).unwrap()
}

/// Sends a request and returns the head of the response.
async fn ask(pipe: &mut NamedPipeClient, request: &str) -> String {
    // The server may respond and close before it has read everything.
    let _ = pipe.write_all(request.as_bytes()).await;
    head_of(pipe).await
}

async fn echo(client: BoxChannel, server: WebLine) {
    let (mut to_server, mut from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    // More than a pipe holds.
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    for message in ["{\"a\":1}", &long] {
        let sending = async {
            to_server.send(message.to_owned()).await.unwrap();
            to_server.flush().await.unwrap();
        };
        let answering = async {
            let Incoming::Message(got) = from_client.recv().await else { panic!() };
            assert_eq!(got.len(), message.len());
            to_client.send(got).await.unwrap();
            to_client.flush().await.unwrap();
        };
        let receiving = async {
            let Incoming::Message(got) = from_server.recv().await else { panic!() };
            assert_eq!(got.len(), message.len());
        };
        tokio::join!(sending, answering, receiving);
    }
}

#[tokio::test]
async fn clients_use_web_sockets_and_events_over_a_pipe() {
    let (mut served, name) = on_pipe().await;
    for scheme in ["ws-pipe", "http-pipe"] {
        let (registry, options) = (registry(), Options::default());
        let endpoint = format!("{scheme}:{name}").parse().unwrap();
        let connecting = registry.connect(&endpoint, &options);
        let (client, server) = tokio::join!(connecting, served.plain.accept());
        let (client, server) = (client.unwrap(), server.unwrap());
        for control in [client.control(), server.control()] {
            assert!(control.peer().is_some_and(|peer| peer.user.is_some()), "{scheme}");
        }
        assert!(server.control().principal().is_some());
        echo(client, server).await;
    }
}

#[tokio::test]
async fn requests_over_a_pipe_pass_the_same_checks() {
    let (served, name) = on_pipe().await;
    let mut pipe = open(&name).await;
    for (request, status) in [
        ("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 200),
        (format!("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n{BEARER}\r\n"), 200),
        ("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 401),
        (format!("HEAD /metrics HTTP/1.1\r\nHost: evil.example\r\n{BEARER}\r\n"), 403),
    ] {
        let mut pipe = open(&name).await;
        assert_eq!(status_of(&ask(&mut pipe, &request).await), status, "{request}");
    }
    // One connection can be used for several requests.
    for _ in 0..3 {
        let request = format!("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n{BEARER}\r\n");
        assert_eq!(status_of(&ask(&mut pipe, &request).await), 200);
    }
    assert_eq!(served.web.one_time_url().unwrap(), None, "a browser cannot use a pipe");
}

/// A pipe has no half-close, so the server reads the rest of the request before it ends the connection.
#[tokio::test]
async fn refusal_of_a_long_body_reaches_the_client() {
    let (_served, name) = on_pipe().await;
    let mut pipe = open(&name).await;
    let body = "x".repeat(1 << 20);
    let request = format!(
        "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(status_of(&ask(&mut pipe, &request).await), 401);
    let mut rest = Vec::new();
    let _ = pipe.read_to_end(&mut rest).await;
}
