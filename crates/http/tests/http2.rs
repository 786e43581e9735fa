//! Tests of HTTP/2: the checks and limits that hold for HTTP/1.1, and those that only HTTP/2 needs. Frames are written
//! by hand where a client has to misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use support::http2::{
    CONTINUATION, Client, DATA, END_STREAM, HEADERS, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE,
    Whole, data, whole,
};
use support::{LIMIT, TOKEN, config, serve};
use tieline_http::{Responding, Route, RouteHandler, RouteRequest, ServerConfig, ServerLimits};
use tieline_testkit::clock::{FastClock, assert_took};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// The header with the token.
fn bearer() -> (&'static str, String) {
    ("authorization", format!("Bearer {TOKEN}"))
}

/// A handler that returns a body of 4 MiB, sends events until the client disconnects, or never responds.
struct Handler {
    begun: Arc<Notify>,
}

impl RouteHandler for Handler {
    fn handle(&self, request: RouteRequest) -> Responding<'_> {
        Box::pin(async move {
            match request.method() {
                "GET" => request.json(200, vec![b'x'; 4 << 20].into(), || "lost".into()),
                "PUT" => {
                    let (mut writer, response) = request.events();
                    tokio::spawn(async move {
                        writer.write(|out| out.extend_from_slice(b"data: begun\n\n"));
                        writer.gone().await;
                    });
                    response
                }
                _ => {
                    self.begun.notify_one();
                    std::future::pending().await
                }
            }
        })
    }
}

fn routed(limits: ServerLimits) -> (ServerConfig, Arc<Notify>) {
    let begun = Arc::<Notify>::default();
    let handler = Arc::new(Handler { begun: begun.clone() });
    let (headers, exposes) = (&[][..], &[][..]);
    let methods = &["GET", "PUT", "POST"];
    let route = Route { path: "/added", methods, headers, exposes, handler };
    (ServerConfig { routes: vec![route], limits, ..config() }, begun)
}

#[tokio::test]
async fn requests_pass_the_same_checks_as_with_http1() {
    let (config, _) = routed(ServerLimits::default());
    let served = serve(config).await;
    let mut client = Client::connect(&served).await;
    let own = format!("127.0.0.1:{}", served.port);
    let (_, token) = bearer();
    let bearer = ("authorization", &*token);
    let many: Vec<_> = (0..70).map(|_| ("x-many", "1")).collect();
    for (authority, method, path, headers, status) in [
        (&*own, "GET", "/health", &[][..], 200),
        (&own, "HEAD", "/health", &[], 200),
        (&own, "POST", "/health", &[bearer], 405),
        (&own, "GET", "/metrics", &[], 401),
        (&own, "GET", "/metrics", &[bearer], 200),
        (&own, "GET", "/metrics", &[("authorization", "Bearer wrong-wrong-wrong")], 401),
        (&own, "GET", "/metrics", &[bearer, ("origin", "http://evil.example")], 403),
        (&own, "PUT", "/added", &[bearer, ("sec-fetch-site", "cross-site")], 403),
        (&own, "GET", "/metrics", &[bearer, ("host", "127.0.0.1:1")], 403),
        (&own, "GET", "/metrics", &[bearer, ("host", &own)], 200),
        ("evil.example", "GET", "/metrics", &[bearer], 403),
        ("127.0.0.1:1", "GET", "/metrics", &[bearer], 403),
        (&own, "GET", "/ws", &[bearer], 426),
        (&own, "GET", "/unknown", &[bearer], 404),
        (&own, "GET", "/health", &many, 431),
    ] {
        let answer = client.ask_at(authority, method, path, headers, "").await.unwrap();
        assert_eq!(answer.status(), status, "{authority} {method} {path} {headers:?}");
        if method == "HEAD" {
            assert_eq!(answer.headers()["content-length"], "5");
            assert!(whole(answer).await.is_empty());
        }
    }
    let long = "x".repeat(20_000);
    let answer = client.ask("GET", "/health", &[("x-long", &long)], "").await;
    assert_eq!(answer.status(), 431);
    // The connection goes on after all of these.
    assert_eq!(whole(client.ask("GET", "/health", &[], "").await).await, "live\n");
    assert_eq!(served.web.counts().connections, 1);
}

#[tokio::test]
async fn a_body_that_is_not_read_does_not_end_the_connection() {
    let served = serve(config()).await;
    let mut client = Client::connect(&served).await;
    let answer = client.ask("POST", "/rpc", &[], vec![b'x'; 10 << 20]).await;
    assert_eq!(answer.status(), 401);
    let (name, token) = bearer();
    let answer = client.ask("POST", "/rpc", &[(name, &token)], vec![b'x'; 20 << 20]).await;
    assert_eq!(answer.status(), 413);
    assert_eq!(client.ask("GET", "/health", &[], "").await.status(), 200);
    assert_eq!(served.web.counts().connections, 1);
}

#[tokio::test]
async fn event_streams_and_posts_share_a_connection() {
    let mut served = serve(config()).await;
    let mut client = Client::connect(&served).await;
    let (name, token) = bearer();
    let headers = [(name, &*token), ("accept", "text/event-stream")];
    served.resumable = None;
    let answer = client.ask("GET", "/sse", &headers, "").await;
    assert_eq!(answer.status(), 200);
    let mut events = answer.into_body();
    let line = tieline_transport::Acceptor::accept(&mut served.plain).await.unwrap();
    let first = data(&mut events).await.unwrap();
    let first = String::from_utf8(first.to_vec()).unwrap();
    let session = first.split("data: ").nth(1).unwrap().trim().to_owned();
    let echoing = tokio::spawn(support::echo(line));
    for n in 0..50 {
        let answer = client.ask("POST", &format!("/{session}"), &headers, format!("\"{n}\"")).await;
        assert_eq!(answer.status(), 202);
        let mut text = String::new();
        while !text.contains(&format!("data: \"{n}\"\n\n")) {
            text += std::str::from_utf8(&data(&mut events).await.unwrap()).unwrap();
        }
    }
    drop(events);
    timeout(LIMIT, echoing).await.expect("the line ends with the stream").unwrap();
}

#[tokio::test]
async fn large_responses_are_delivered_at_once() {
    let (config, _) = routed(ServerLimits::default());
    let served = serve(config).await;
    let client = Client::connect(&served).await;
    let (_, token) = bearer();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (mut requests, port) = (client.requests.clone(), client.port);
        let token = token.clone();
        asking.spawn(async move {
            let uri = format!("http://127.0.0.1:{port}/added");
            let request = Request::builder().uri(uri).header("authorization", token);
            let request = request.body(Whole(Bytes::new())).unwrap();
            whole(requests.send_request(request).await.unwrap()).await
        });
    }
    while let Some(body) = asking.join_next().await {
        assert_eq!(body.unwrap().len(), 4 << 20);
    }
}

#[tokio::test]
async fn requests_of_a_connection_are_bounded() {
    let limits = ServerLimits { streams: 2, ..ServerLimits::default() };
    let (config, begun) = routed(limits);
    let served = serve(config).await;
    let mut raw = Raw::connect(&served).await;
    let settings = raw.wait(SETTINGS).await;
    let setting = |id: u16| {
        let values = settings.payload.chunks(6).map(|it| it.split_at(2));
        let mut found = values.filter(|(name, _)| u16::from_be_bytes([name[0], name[1]]) == id);
        found.next().map(|(_, it)| u32::from_be_bytes([it[0], it[1], it[2], it[3]]))
    };
    // SETTINGS_MAX_CONCURRENT_STREAMS, SETTINGS_INITIAL_WINDOW_SIZE and SETTINGS_MAX_HEADER_LIST_SIZE.
    assert_eq!((setting(3), setting(4), setting(6)), (Some(2), Some(64 * 1024), Some(16 * 1024)));
    for stream in [1, 3, 5] {
        raw.ask(stream, "POST", "/added", true).await;
    }
    let reset = raw.wait(RST_STREAM).await;
    // REFUSED_STREAM: the client may ask again.
    assert_eq!((reset.stream, &*reset.payload), (5, &[0, 0, 0, 7][..]));
    timeout(LIMIT, begun.notified()).await.unwrap();
    raw.reset(1).await;
    raw.ask(7, "POST", "/added", true).await;
    timeout(LIMIT, begun.notified()).await.expect("a reset stream makes room");
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// CVE-2023-44487. Each canceled request may have started something.
#[tokio::test]
async fn client_that_resets_its_requests_is_disconnected() {
    let (config, begun) = routed(ServerLimits::default());
    let served = serve(config).await;
    // The requests are handled before they are reset.
    let mut raw = Raw::connect(&served).await;
    for n in 0..129 {
        raw.ask(2 * n + 1, "POST", "/added", true).await;
        timeout(LIMIT, begun.notified()).await.expect("the connection is open");
        raw.reset(2 * n + 1).await;
    }
    raw.closed().await;
    // They are reset at once.
    let mut raw = Raw::connect(&served).await;
    for n in 0..10_000 {
        raw.ask(2 * n + 1, "POST", "/added", true).await;
        raw.reset(2 * n + 1).await;
    }
    raw.closed().await;
    let mut client = Client::connect(&served).await;
    assert_eq!(client.ask("GET", "/health", &[], "").await.status(), 200);
}

/// A client that cancels as many requests as are answered, such as a browser, stays connected.
#[tokio::test]
async fn client_that_cancels_some_requests_stays_connected() {
    let (config, begun) = routed(ServerLimits::default());
    let served = serve(config).await;
    let mut raw = Raw::connect(&served).await;
    for n in 0..300 {
        let stream = 4 * n + 1;
        raw.ask(stream, "POST", "/added", true).await;
        timeout(LIMIT, begun.notified()).await.unwrap();
        raw.reset(stream).await;
        raw.ask(stream + 2, "GET", "/health", true).await;
        while raw.wait(DATA).await.stream != stream + 2 {}
    }
}

/// CVE-2025-8671: the client makes the server reset the streams.
#[tokio::test]
async fn client_that_provokes_resets_is_disconnected() {
    let (config, _) = routed(ServerLimits::default());
    let served = serve(config).await;
    let mut raw = Raw::connect(&served).await;
    for n in 0..400 {
        raw.ask(2 * n + 1, "POST", "/added", false).await;
        // A window of more than 2^31 - 1 bytes is an error of the stream.
        raw.send(WINDOW_UPDATE, 0, 2 * n + 1, &[0x7f, 0xff, 0xff, 0xff]).await;
    }
    let code = raw.closed().await;
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
}

#[tokio::test]
async fn endless_heads_end_the_connection() {
    let served = serve(config()).await;
    let mut raw = Raw::connect(&served).await;
    let head = raw.head("GET", "/health");
    raw.send(HEADERS, END_STREAM, 1, &head).await;
    for _ in 0..100_000 {
        raw.send(CONTINUATION, 0, 1, &[]).await;
    }
    raw.closed().await;
}

#[tokio::test]
async fn connection_without_a_request_times_out() {
    let _clock = FastClock::start();
    let served = serve(config()).await;
    let total = Duration::from_secs(30);
    // Without the preface, within a head, and after a response. The client does not answer the last ping.
    for case in 0..4 {
        let begun = Instant::now();
        let mut raw = match case {
            0 => {
                let stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
                let mut raw = Raw { stream, port: served.port };
                raw.stream.write_all(b"PRI * HT").await.unwrap();
                raw
            }
            _ => Raw::connect(&served).await,
        };
        let head = raw.head("GET", "/health");
        match case {
            2 => raw.send(HEADERS, END_STREAM, 1, &head[..20]).await,
            3 => raw.ask(1, "GET", "/health", true).await,
            _ => {}
        }
        raw.closed().await;
        let linger = if case == 0 { Duration::ZERO } else { Duration::from_secs(5) };
        assert_took(begun.elapsed(), total + linger);
    }
}

/// Each response counts against the memory budget until the client has taken it.
#[tokio::test]
async fn response_that_the_client_does_not_take_is_reset() {
    let _clock = FastClock::start();
    let (mut config, _) = routed(ServerLimits::default());
    config.web_socket.channel.stall_timeout = Duration::from_secs(10);
    let served = serve(config).await;
    // SETTINGS_INITIAL_WINDOW_SIZE is 1000.
    let mut raw = Raw::connect_with(&served, &[0, 4, 0, 0, 3, 0xe8]).await;
    let begun = Instant::now();
    raw.ask(1, "GET", "/added", true).await;
    let reset = raw.wait(RST_STREAM).await;
    assert_eq!(reset.stream, 1);
    assert_took(begun.elapsed(), Duration::from_secs(10));
    // The connection goes on.
    raw.ask(3, "GET", "/health", true).await;
    while raw.wait(DATA).await.stream != 3 {}
}

#[tokio::test]
async fn connections_without_an_admitted_request_are_evicted() {
    let limits = ServerLimits { connections: 1, ..ServerLimits::default() };
    let (config, begun) = routed(limits);
    let served = serve(config).await;
    let mut first = Raw::connect(&served).await;
    first.wait(SETTINGS).await;
    let mut second = Raw::connect(&served).await;
    first.closed().await;
    second.ask(1, "POST", "/added", true).await;
    timeout(LIMIT, begun.notified()).await.unwrap();
    // The second one is in use.
    let mut third = Raw::connect(&served).await;
    third.closed().await;
    assert_eq!(served.web.counts().evicted, 1);
}

#[tokio::test]
async fn connections_end_when_the_server_closes() {
    let (config, _) = routed(ServerLimits::default());
    let served = serve(config).await;
    let mut idle = Client::connect(&served).await;
    assert_eq!(idle.ask("GET", "/health", &[], "").await.status(), 200);
    let mut client = Client::connect(&served).await;
    let (name, token) = bearer();
    let answer = client.ask("PUT", "/added", &[(name, &token)], "").await;
    let mut events = answer.into_body();
    assert_eq!(data(&mut events).await.unwrap(), "data: begun\n\n");
    let closing = served.web.close(LIMIT * 2);
    let ended = async { while data(&mut events).await.is_some() {} };
    timeout(LIMIT, async { tokio::join!(closing, ended) }).await.expect("timed out");
    assert!(client.ask_at("127.0.0.1", "GET", "/health", &[], "").await.is_err());
}

/// With TLS, client and server agree on the version in the handshake. Wine has no curl.
#[cfg(unix)]
#[tokio::test]
async fn version_is_negotiated_over_tls() {
    let served = serve(support::tls(None)).await;
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")] {
        let url = format!("https://localhost:{}/health", served.port);
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-s", option, "-w", "%{http_version}", "--cacert"]);
        let output = curl.arg(support::file("root.pem")).arg(url).output();
        let output = timeout(LIMIT, output).await.expect("timed out").unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("live\n{version}"), "{option}");
    }
}
