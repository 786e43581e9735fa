//! Tests of `wss:` and `https:`: which certificates are trusted, and which errors are reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{config, echo, file, message, registry, registry_with, serve, tls, tls_client};
use tieline_http::{ClientConfig, ClientTls, HttpServer, Place, ServerConfig, ServerTls};
use tieline_testkit::clock::{FastClock, assert_took};
use tieline_transport::{Acceptor, Channel, Endpoint, ErrorKind, Options, SenderExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn trusting() -> tieline_transport::Registry {
    registry_with(ClientConfig { tls: tls_client(None), ..support::client() })
}

#[tokio::test]
async fn web_sockets_and_events_work_over_tls() {
    let mut served = serve(tls(None)).await;
    assert!(served.web.endpoint().to_string().starts_with("https://127.0.0.1:"));
    assert!(served.web.one_time_url().unwrap().unwrap().starts_with("https://127.0.0.1:"));
    for (url, host) in [("wss", "127.0.0.1"), ("wss", "localhost"), ("https", "localhost")] {
        let path = if url == "wss" { "ws" } else { "sse" };
        let url: Endpoint = format!("{url}://{host}:{}/{path}", served.port).parse().unwrap();
        let (registry, options) = (trusting(), Options::default());
        let connecting = registry.connect(&url, &options);
        let (client, server) = tokio::join!(connecting, served.plain.accept());
        tokio::spawn(echo(server.unwrap()));
        let (mut sender, mut receiver) = client.unwrap().split();
        for length in [1, 1000, 300_000, 1 << 20] {
            let sent = vec![b'x'; length];
            let (sending, came) = tokio::join!(sender.send(sent.clone()), message(&mut receiver));
            sending.unwrap();
            assert!(came == sent, "{length}");
        }
        sender.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_with_an_untrusted_certificate_is_refused() {
    let served = serve(tls(None)).await;
    let url = format!("wss://127.0.0.1:{}/ws", served.port);
    let error = support::refused(&registry(), &url).await;
    assert!(matches!(error.kind(), ErrorKind::Tls), "{error}");
    assert!(!error.is_retryable() && std::error::Error::source(&error).is_some(), "{error:?}");
    // The certificate is trusted, but it is for another name.
    let served = serve(ServerConfig {
        place: Place::Tcp { host: "127.0.0.2".into(), port: 0 },
        ..tls(None)
    })
    .await;
    let error = support::refused(&trusting(), &format!("wss://127.0.0.2:{}/ws", served.port)).await;
    assert!(matches!(error.kind(), ErrorKind::Tls), "{error}");
    assert_eq!(served.web.counts().admitted, 0);
}

#[tokio::test]
async fn a_client_without_a_required_certificate_is_refused() {
    let served = serve(tls(Some("root.pem"))).await;
    let url = format!("wss://127.0.0.1:{}/ws", served.port);
    let error = support::refused(&trusting(), &url).await;
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Closed(_)), "{error}");
    assert_eq!(served.web.counts().admitted, 0);
}

#[cfg(unix)]
#[tokio::test]
async fn curl_presents_a_required_certificate() {
    let served = serve(tls(Some("root.pem"))).await;
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--max-time", "30", "--cacert"])
        .arg(file("root.pem"))
        .arg("--cert")
        .arg(file("client.pem"))
        .arg("--key")
        .arg(file("client.key.pem"))
        .arg(format!("https://127.0.0.1:{}/health", served.port))
        .output()
        .await
        .expect("this test needs curl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "live\n", "{output:?}");
}

#[tokio::test]
async fn plain_http_to_a_tls_port_and_tls_to_a_plain_port_fail() {
    let served = serve(tls(None)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    let served = serve(config()).await;
    let url = format!("wss://127.0.0.1:{}/ws", served.port);
    let error = support::refused(&trusting(), &url).await;
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Closed(_)), "{error}");
}

#[tokio::test]
async fn any_certificate_is_accepted_only_with_the_option() {
    let accepting = ClientTls { accept_any_certificate: true, ..ClientTls::default() };
    let client = |tls| registry_with(ClientConfig { tls, ..support::client() });
    let mut served = serve(tls(None)).await;
    for path in ["wss://127.0.0.1:PORT/ws", "https://127.0.0.1:PORT/sse"] {
        let url: Endpoint = path.replace("PORT", &served.port.to_string()).parse().unwrap();
        let (registry, options) = (client(accepting.clone()), Options::default());
        let connecting = registry.connect(&url, &options);
        let (client, server) = tokio::join!(connecting, served.plain.accept());
        tokio::spawn(echo(server.unwrap()));
        let (mut sender, mut receiver) = client.unwrap().split();
        sender.send("hello").await.unwrap();
        assert_eq!(message(&mut receiver).await, "hello");
    }
    let url = format!("wss://127.0.0.1:{}/ws", served.port);
    let both = ClientTls { extra_roots: Some(file("root.pem")), ..accepting };
    let error = support::refused(&client(both), &url).await;
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig(_)), "{error}");
}

/// The client sends nothing.
#[tokio::test]
async fn a_slow_handshake_times_out() {
    let _clock = FastClock::start();
    let served = serve(tls(None)).await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_took(begun.elapsed(), std::time::Duration::from_secs(10));
}

#[tokio::test]
async fn a_token_and_tls_permit_listening_beyond_loopback() {
    let place = Place::Tcp { host: "0.0.0.0".into(), port: 0 };
    let (web, ..) = HttpServer::listen(ServerConfig { place, ..tls(None) }).await.unwrap();
    assert!(web.endpoint().to_string().starts_with("https://0.0.0.0:"));
}

#[tokio::test]
async fn errors_name_invalid_certificate_files() {
    for (certificate, key, named) in [
        ("missing.pem", "server.key.pem", "missing.pem"),
        ("server.pem", "missing.pem", "missing.pem"),
        ("server.key.pem", "server.key.pem", "server.key.pem"),
        ("server.pem", "client.key.pem", "server.pem"),
    ] {
        let tls = ServerTls { certificate: file(certificate), key: file(key), client_roots: None };
        let Err(error) = HttpServer::listen(ServerConfig { tls: Some(tls), ..config() }).await
        else {
            panic!("{certificate} and {key} were accepted")
        };
        assert!(matches!(error.kind(), ErrorKind::Tls), "{error}");
        assert!(error.hint().unwrap().contains(named), "{error:?}");
    }
}
