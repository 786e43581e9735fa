//! Tests of WebSocket subprotocols: those that a server grants, and those that a client accepts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{
    BEARER, LIMIT, accept_key, client, config, head, refused, registry_with, serve, status_of,
    upgrade,
};
use tieline_http::{ClientConfig, ServerConfig, Subprotocol};
use tieline_transport::{Acceptor, ErrorKind, Options};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

fn offering(names: &[&str]) -> ClientConfig {
    let subprotocols = names.iter().map(|name| Subprotocol::new(*name).unwrap()).collect();
    ClientConfig { subprotocols, ..client() }
}

/// Returns the subprotocol that a response grants.
fn granted(answer: &str) -> Option<&str> {
    let line =
        answer.lines().find(|line| line.to_lowercase().starts_with("sec-websocket-protocol:"))?;
    line.split(':').nth(1).map(str::trim)
}

#[tokio::test]
async fn the_server_grants_the_first_subprotocol_that_it_knows() {
    let mut subprotocols = Subprotocol::usual();
    subprotocols.push(Subprotocol::new("agent.v2").unwrap());
    let mut served = serve(ServerConfig { subprotocols, ..config() }).await;
    for (offered, expected) in [
        (None, None),
        (Some("mcp"), Some("mcp")),
        (Some("acp"), Some("acp")),
        (Some("agent.v2"), Some("agent.v2")),
        (Some("tieline"), Some("tieline")),
        (Some("mcp, tieline"), Some("mcp")),
        (Some("tieline, mcp"), Some("tieline")),
        (Some("unknown, agent.v2, mcp"), Some("agent.v2")),
        (Some("mcp\r\nSec-WebSocket-Protocol: acp"), Some("mcp")),
        // Names are compared byte for byte (RFC 6455, section 4.2.2).
        (Some("MCP"), None),
        (Some("acp.v1, json"), None),
    ] {
        let line = offered.map(|offered| format!("Sec-WebSocket-Protocol: {offered}\r\n"));
        let more = format!("{BEARER}{}", line.unwrap_or_default());
        let answer = served.ask(upgrade(served.port, &more)).await;
        assert_eq!(status_of(&answer), 101, "{offered:?}: {answer}");
        assert_eq!(granted(&answer), expected, "{offered:?}: {answer}");
        served.plain.accept().await.unwrap();
    }
    // A request for a session takes precedence.
    let more = format!("{BEARER}Sec-WebSocket-Protocol: mcp, tieline.1\r\n");
    let answer = served.ask(upgrade(served.port, &more)).await;
    assert_eq!(granted(&answer), Some("tieline.1"), "{answer}");
    served.resumable.unwrap().accept().await.unwrap();
}

#[tokio::test]
async fn the_client_connects_if_an_offered_subprotocol_is_granted() {
    let mut served = serve(config()).await;
    let url = served.url();
    for names in [&["mcp"][..], &["unknown", "acp"], &[]] {
        let registry = registry_with(offering(names));
        let options = Options::default();
        let connecting = registry.connect(&url, &options);
        let (connected, accepted) = tokio::join!(connecting, served.plain.accept());
        assert!(connected.is_ok() && accepted.is_ok(), "{names:?}");
    }
    let error = refused(&registry_with(offering(&["unknown"])), &url.to_string()).await;
    assert!(matches!(error.kind(), ErrorKind::Handshake { protocol: "WebSocket", .. }), "{error}");
    assert!(error.to_string().contains("none of the subprotocols offered: unknown"), "{error}");
}

/// Starts a server that answers one handshake with these header lines. Returns its port.
async fn granting(lines: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = head(&mut stream).await;
        let key =
            request.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{lines}\r\n",
            accept_key(key)
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Waits until the client disconnects.
        let _ = tokio::time::timeout(LIMIT, head(&mut stream)).await;
    });
    port
}

#[tokio::test]
async fn the_client_refuses_subprotocols_that_it_did_not_offer() {
    for (names, lines, says) in [
        (
            &[][..],
            "Sec-WebSocket-Protocol: mcp\r\n",
            "the subprotocol \"mcp\", which was not offered",
        ),
        (&[], "Sec-WebSocket-Protocol: tieline\r\n", "the subprotocol \"tieline\", which was not"),
        (&["acp"], "Sec-WebSocket-Protocol: mcp\r\n", "the subprotocol \"mcp\", which was not"),
        (&["mcp"], "Sec-WebSocket-Protocol: MCP\r\n", "the subprotocol \"MCP\", which was not"),
        (&["mcp"], "Sec-WebSocket-Protocol: mcp, acp\r\n", "\"mcp, acp\", which was not"),
        (
            &["mcp", "acp"],
            "Sec-WebSocket-Protocol: mcp\r\nSec-WebSocket-Protocol: acp\r\n",
            "more than one subprotocol",
        ),
        (&["mcp", "acp"], "", "none of the subprotocols offered: mcp, acp"),
    ] {
        let port = granting(lines).await;
        let url = format!("ws://127.0.0.1:{port}/ws");
        let error = refused(&registry_with(offering(names)), &url).await;
        assert!(
            matches!(error.kind(), ErrorKind::Handshake { protocol: "WebSocket", .. }),
            "{lines}: {error}"
        );
        assert!(error.to_string().contains(says), "{lines}: {error}");
    }
}
