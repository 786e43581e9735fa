//! Tests of headers and passwords that a client adds to its requests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::{Arc, Mutex};

use support::{config, echo, head, message, refused, registry_with, serve};
use tieline_http::{BasicAuth, ClientConfig, RequestHeader, ServerConfig};
use tieline_transport::{Acceptor, Channel, Endpoint, ErrorKind, Options, SenderExt};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Forwards connections to the server at port `to`, and records the first head of each.
async fn recorder(to: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let asked = head(&mut near).await;
                seen.lock().unwrap().push(asked.clone());
                let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                far.write_all(asked.as_bytes()).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, heads)
}

fn headers(lines: &[&str]) -> Vec<RequestHeader> {
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn headers_are_sent_with_every_request() {
    for (scheme, path, requests) in [("ws", "ws", 1), ("http", "sse", 2)] {
        let hosts = vec!["127.0.0.1".into()];
        let mut served = serve(ServerConfig { hosts, ..config() }).await;
        let (port, heads) = recorder(served.port).await;
        let headers = headers(&["X-Api-Key: abc", "X-Two: 1", "X-Two: 2", "User-Agent: me/1"]);
        let registry = registry_with(ClientConfig { headers, ..support::client() });
        let url: Endpoint = format!("{scheme}://127.0.0.1:{port}/{path}").parse().unwrap();
        let options = Options::default();
        let connecting = registry.connect(&url, &options);
        let (client, server) = tokio::join!(connecting, served.plain.accept());
        tokio::spawn(echo(server.unwrap()));
        let (mut sender, mut receiver) = client.unwrap().split();
        sender.send("hello").await.unwrap();
        assert_eq!(message(&mut receiver).await, "hello");
        let heads = heads.lock().unwrap().clone();
        assert_eq!(heads.len(), requests, "{heads:?}");
        for head in heads {
            for line in ["x-api-key: abc", "x-two: 1", "x-two: 2", "user-agent: me/1"] {
                assert!(head.to_ascii_lowercase().contains(&format!("\r\n{line}\r\n")), "{head}");
            }
        }
    }
}

#[tokio::test]
async fn a_password_replaces_the_token() {
    let served = serve(config()).await;
    let (port, heads) = recorder(served.port).await;
    let basic = Some(BasicAuth::new("Aladdin", "open sesame").unwrap());
    let registry = registry_with(ClientConfig { basic, ..ClientConfig::default() });
    for url in [format!("ws://127.0.0.1:{port}/ws"), format!("http://127.0.0.1:{port}/sse")] {
        // The server does not support passwords.
        let error = refused(&registry, &url).await;
        assert!(matches!(error.kind(), ErrorKind::Denied { .. }), "{error}");
    }
    for head in heads.lock().unwrap().iter() {
        let line = "authorization: basic qwxhzgrpbjpvcgvuihnlc2ftzq==\r\n";
        assert!(head.to_ascii_lowercase().contains(line), "{head}");
    }
}

#[tokio::test]
async fn contradicting_headers_fail_before_anything_is_sent() {
    let headers = headers(&["Authorization: Bearer other"]);
    let registry = registry_with(ClientConfig { headers, ..support::client() });
    for url in ["ws://127.0.0.1:1/ws", "http://127.0.0.1:1/sse"] {
        let error = refused(&registry, url).await;
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig(_)), "{error}");
        assert!(!format!("{error:?}").contains("other"), "{error:?}");
    }
}
