//! Tests of outgoing connections through an HTTP proxy, and of proxies that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::proxy::{Proxy, answering};
use support::{Served, config, echo, message, refused, registry_with, serve, tls};
use tieline_http::{ClientConfig, ClientTls, Proxies, ServerConfig};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_transport::{
    Acceptor, Channel, Endpoint, ErrorKind, Options, Registry, SenderExt, TransportError,
};

/// A name that no resolver knows, so that it can be reached only through the proxy.
const HOST: &str = "agent.invalid";

fn named(config: ServerConfig) -> ServerConfig {
    ServerConfig { hosts: vec![HOST.into()], ..config }
}

/// Returns the configuration of a client that uses the proxy at this port. It accepts any certificate,
/// because the server's certificate has other names.
fn client(user: &str, port: u16) -> ClientConfig {
    let tls = ClientTls { accept_any_certificate: true, ..ClientTls::default() };
    ClientConfig {
        proxies: Proxies::all(&format!("http://{user}127.0.0.1:{port}")).unwrap(),
        // The server still checks the token.
        send_token_without_tls: true,
        tls,
        ..support::client()
    }
}

fn through(port: u16) -> Registry {
    registry_with(client("", port))
}

fn url(scheme: &str) -> Endpoint {
    let path = if scheme.contains("ws") { "ws" } else { "sse" };
    format!("{scheme}://{HOST}:81/{path}").parse().unwrap()
}

async fn is_echoed(registry: &Registry, url: &Endpoint, served: &mut Served) {
    let options = Options::default();
    let connecting = registry.connect(url, &options);
    let (client, server) = tokio::join!(connecting, served.plain.accept());
    tokio::spawn(echo(server.unwrap()));
    let (mut sender, mut receiver) = client.unwrap().split();
    for length in [1, 1000, 300_000] {
        let sent = vec![b'x'; length];
        let (sending, came) = tokio::join!(sender.send(sent.clone()), message(&mut receiver));
        sending.unwrap();
        assert!(came == sent, "{url}: {length}");
    }
}

#[tokio::test]
async fn every_kind_of_line_goes_through_a_proxy_with_a_password() {
    // The credentials are the example of RFC 7617: `Aladdin` and `open sesame`.
    let credentials = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    for (scheme, is_secure, first) in [
        ("ws", false, "CONNECT agent.invalid:81 HTTP/1.1"),
        ("wss", true, "CONNECT agent.invalid:81 HTTP/1.1"),
        ("https", true, "CONNECT agent.invalid:81 HTTP/1.1"),
        ("http", false, "GET http://agent.invalid:81/sse HTTP/1.1"),
    ] {
        let mut served = serve(named(if is_secure { tls(None) } else { config() })).await;
        let proxy = Proxy::start(served.port, credentials).await;
        let registry = registry_with(client("Aladdin:open%20sesame@", proxy.port));
        is_echoed(&registry, &url(scheme), &mut served).await;
        assert_eq!(proxy.requests()[0], first);
        for head in proxy.heads() {
            let head = head.to_ascii_lowercase();
            assert!(head.contains("\r\nhost: agent.invalid:81\r\n"), "{head}");
            // Inside a tunnel, the token is sent only to the server.
            assert_eq!(head.contains("\r\nauthorization: "), scheme == "http", "{head}");
        }
    }
}

#[tokio::test]
async fn a_session_resumes_through_the_proxy() {
    for scheme in ["ws", "http"] {
        let mut served = serve(named(config())).await;
        let resumable: Box<dyn tieline_transport::DynAcceptor> =
            Box::new(served.resumable.take().unwrap());
        let session = SessionOptions::default();
        let mut sessions = Sessions::new(resumable, session, LineOptions::default());
        tokio::spawn(async move {
            while let Ok(channel) = sessions.accept().await {
                tokio::spawn(echo(channel));
            }
        });
        let proxy = Proxy::start(served.port, None).await;
        let registry = through(proxy.port);
        let (endpoint, options) = (url(scheme).resumable(), Options::default());
        let connector = tieline_link::connector(&registry, &endpoint, &options, session).unwrap();
        let (mut sender, mut receiver) = connector.connect().await.unwrap().split();
        for round in 0..3 {
            let sent = format!("{scheme} {round}");
            sender.send(sent.clone()).await.unwrap();
            assert_eq!(message(&mut receiver).await, sent);
            proxy.cut.notify_waiters();
        }
        let again = proxy.requests().iter().filter(|line| !line.starts_with("POST")).count();
        assert!(again >= 3, "{:?}", proxy.requests());
    }
}

#[tokio::test]
async fn servers_on_this_machine_and_exceptions_are_reached_without_the_proxy() {
    let mut served = serve(config()).await;
    let proxy = Proxy::start(served.port, None).await;
    let registry = through(proxy.port);
    let near = served.url();
    is_echoed(&registry, &near, &mut served).await;
    let proxies = Proxies::all(&format!("127.0.0.1:{}", proxy.port)).unwrap().except("invalid");
    let registry = registry_with(ClientConfig { proxies, ..client("", proxy.port) });
    let error = refused(&registry, &url("ws").exact().to_string()).await;
    // The name does not exist.
    assert!(matches!(error.kind(), ErrorKind::NotFound), "{error:?}");
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
}

#[tokio::test]
async fn the_certificate_in_a_tunnel_is_checked_against_the_name_of_the_server() {
    let served = serve(named(tls(None))).await;
    let proxy = Proxy::start(served.port, None).await;
    let config = ClientConfig { tls: support::tls_client(None), ..client("", proxy.port) };
    let error = refused(&registry_with(config), &url("wss").exact().to_string()).await;
    assert!(matches!(error.kind(), ErrorKind::Tls), "{error:?}");
    let named = format!("127.0.0.1:{}", proxy.port);
    assert!(error.hint().unwrap().contains(&named), "{error:?}");
    assert_eq!(served.web.counts().admitted, 0);
}

async fn fails(scheme: &str, port: u16) -> TransportError {
    fails_within(support::LIMIT, scheme, port).await
}

/// Connects through the proxy at this port, and asserts that the error names the proxy.
async fn fails_within(connect_timeout: Duration, scheme: &str, port: u16) -> TransportError {
    let options = Options { connect_timeout, ..Options::default() };
    let registry = registry_with(client("me:secret@", port));
    let error = registry.connect(&url(scheme), &options).await.err().unwrap();
    let text = format!("{error:?}");
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    assert!(!text.contains("secret"), "{text}");
    error
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_status() {
    for (status, says, is_retryable) in [
        (407, "http://USER:PASSWORD@HOST:PORT", false),
        (403, "may not allow", false),
        (405, "may not allow", false),
        (502, "cannot connect to the server", true),
        (504, "cannot connect to the server", true),
        (429, "may not allow", true),
        (301, "may not allow", false),
    ] {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 5\r\n\r\nsorry");
        let port = answering(answer, false).await;
        for scheme in ["ws", "wss", "https"] {
            let error = fails(scheme, port).await;
            let text = format!("{error:?}");
            assert!(text.contains(&format!("answered with status {status}")), "{text}");
            assert!(text.contains(says), "{text}");
            assert_eq!(error.is_retryable(), is_retryable, "{text}");
        }
        // Here, the status may be that of the server, unless it is 407.
        let error = fails("http", port).await;
        let is_denied = matches!(error.kind(), ErrorKind::Denied { .. });
        assert_eq!(is_denied, status != 407, "{error:?}");
    }
}

#[tokio::test]
async fn connecting_through_a_hostile_proxy_fails_within_limits() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let first = format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(1 << 20));
    for (answer, closes, says) in [
        (String::new(), true, "closed the connection"),
        ("HTTP/1.1 2".into(), true, "proxy"),
        ("SSH-2.0-OpenSSH_9.2\r\n".into(), false, "not HTTP"),
        ("\0\u{1}\u{2}\u{3}\r\n\r\n".into(), false, "not HTTP"),
        (long, false, "not HTTP"),
        (many, false, "not HTTP"),
        (first, false, "not HTTP"),
        // The data after the response would be taken for the server's response.
        ("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching\r\n\r\n".into(), false, "data of its own"),
    ] {
        let port = answering(answer.clone(), closes).await;
        for scheme in ["ws", "wss", "https"] {
            let text = format!("{:?}", fails(scheme, port).await);
            let shown = answer.chars().take(40).collect::<String>();
            assert!(text.contains(says), "{shown:?}: {text}");
        }
        fails("http", port).await;
    }
}

#[tokio::test]
async fn a_proxy_that_never_completes_its_response_times_out() {
    for answer in ["", "HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let port = answering(answer, false).await;
        for scheme in ["wss", "http"] {
            let error = fails_within(Duration::from_millis(300), scheme, port).await;
            assert!(matches!(error.kind(), ErrorKind::TimedOut(_)), "{answer:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_named() {
    // This port was free a moment ago.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for scheme in ["ws", "wss", "http", "https"] {
        let error = fails(scheme, port).await;
        assert!(error.to_string().contains("cannot be reached"), "{error:?}");
        assert!(error.is_retryable(), "{error:?}");
    }
}
