//! Tests of the rows of the threat model that the web server covers. A refused request never becomes a
//! line, so no process is started for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::events::ask;
use support::{
    BEARER, TOKEN, config, echo, frame, head, refused, registry, registry_with, serve, status,
    status_of, token, upgrade, upgrade_of,
};
use tieline_http::{Access, ClientConfig, HttpServer, Place, ServerConfig, ServerLimits, Token};
use tieline_testkit::clock::{FastClock, assert_took};
use tieline_transport::{Acceptor, Channel, CloseReason, Endpoint, ErrorKind, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Returns whether a channel was accepted. A process could be started for it.
async fn was_accepted(served: &mut support::Served) -> bool {
    let waiting = async {
        tokio::select! {
            channel = served.plain.accept() => channel.is_ok(),
            channel = served.resumable.as_mut().unwrap().accept() => channel.is_ok(),
        }
    };
    let mut waiting = std::pin::pin!(waiting);
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx)));
    polled.await.is_ready()
}

#[tokio::test]
async fn dns_rebinding_and_cross_site_web_sockets_are_refused() {
    let mut served = serve(config()).await;
    let port = served.port;
    for (more, status) in [
        (format!("Host: evil.example:{port}\r\n{BEARER}"), 403),
        (format!("Host: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}\r\n{BEARER}"), 400),
        (BEARER.to_owned(), 400),
        (format!("Host: 127.0.0.1:{port}\r\nOrigin: http://evil.example\r\n{BEARER}"), 403),
        (format!("Host: 127.0.0.1:{port}\r\nOrigin: null\r\n{BEARER}"), 403),
        (format!("Host: 127.0.0.1:{port}\r\n"), 401),
        (format!("Host: 127.0.0.1:{port}\r\nAuthorization: Bearer wrong\r\n"), 401),
        (format!("Host: 127.0.0.1:{port}\r\n{BEARER}{BEARER}"), 400),
    ] {
        let answer = served.ask(upgrade_of(&more)).await;
        assert_eq!(status_of(&answer), status, "{more}: {answer}");
    }
    assert!(!was_accepted(&mut served).await);
    let counts = served.web.counts();
    assert_eq!((counts.refused_host, counts.refused_origin, counts.refused_token), (1, 2, 2));
    assert_eq!((counts.refused_malformed, counts.admitted, counts.web_sockets), (3, 0, 0));
    // A valid request is accepted.
    let right = format!("Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n{BEARER}");
    assert_eq!(status_of(&served.ask(upgrade_of(&right)).await), 101);
}

/// Images and scripts send no `Origin`, and cookies are shared by all ports of a host.
#[tokio::test]
async fn cross_site_requests_without_an_origin_start_nothing() {
    let mut served = serve(config()).await;
    let host = format!("Host: 127.0.0.1:{}\r\n", served.port);
    let cookie = served.cookie("").await.unwrap();
    for path in ["/sse", "/sse?again", "/rpc", "/ws"] {
        for more in [
            "Sec-Fetch-Site: cross-site\r\n",
            "Sec-Fetch-Site: same-site\r\n",
            "sec-fetch-site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
            "Sec-Fetch-Site: \r\n",
        ] {
            let request = format!("GET {path} HTTP/1.1\r\n{host}{cookie}{more}\r\n");
            let answer = served.ask(request).await;
            assert_eq!(status_of(&answer), 403, "{path} {more}: {answer}");
        }
    }
    assert!(!was_accepted(&mut served).await);
    assert_eq!((served.web.counts().refused_origin, served.web.counts().admitted), (16, 0));
    // The server's own page may send such requests, and a link on another site may open the page.
    for (path, site, status) in
        [("/", "cross-site", 200), ("/rpc", "same-origin", 405), ("/rpc", "none", 405)]
    {
        let more = format!("Sec-Fetch-Site: {site}\r\n");
        let request = format!("GET {path} HTTP/1.1\r\n{host}{cookie}{more}\r\n");
        assert_eq!(status_of(&served.ask(request).await), status, "{path} {site}");
    }
}

#[tokio::test]
async fn listening_beyond_loopback_requires_a_token_and_tls() {
    let clear = |host: &str| Place::Tcp { host: host.into(), port: 0 };
    let open =
        |place| ServerConfig { access: Access::Anybody, ..ServerConfig::new(place, token()) };
    for config in [
        ServerConfig::new(clear("0.0.0.0"), token()),
        ServerConfig::new(clear("::"), token()),
        open(clear("0.0.0.0")),
    ] {
        let Err(error) = HttpServer::listen(config).await else { panic!("the server listens") };
        assert!(matches!(error.kind(), ErrorKind::Unauthenticated), "{error}");
    }
    let exposed = ServerConfig {
        expose_without_token_and_tls: true,
        ..ServerConfig::new(clear("0.0.0.0"), token())
    };
    assert!(HttpServer::listen(exposed).await.is_ok());
    // On loopback without a token, channels are marked as unauthenticated.
    let mut served = serve(open(clear("127.0.0.1"))).await;
    let (_stream, channel) = served.raw().await;
    assert!(channel.control().capabilities().unauthenticated);
    let mut served = serve(config()).await;
    let (_stream, channel) = served.raw().await;
    assert!(!channel.control().capabilities().unauthenticated);
}

#[tokio::test]
async fn a_refused_client_receives_the_reason() {
    let served = serve(config()).await;
    let url = served.url().to_string();
    for (token, kind) in [(None, 401), (Some("not-the-token-of-the-server"), 401)] {
        let token = token.map(|token| Token::new(token).unwrap());
        let registry = registry_with(ClientConfig { token, ..ClientConfig::default() });
        let error = refused(&registry, &url).await;
        assert!(matches!(error.kind(), ErrorKind::Denied { status } if *status == kind), "{error}");
        assert!(!error.is_retryable());
        assert!(error.hint().unwrap().contains("token"));
    }
    let elsewhere = url.replace("/ws", "/elsewhere");
    let error = refused(&registry(), &elsewhere).await;
    assert!(matches!(error.kind(), ErrorKind::Denied { status: 404 }), "{error}");
    let origin = Some("http://evil.example".to_owned());
    let token = Some(token());
    let registry = registry_with(ClientConfig { token, origin, ..ClientConfig::default() });
    let error = refused(&registry, &url).await;
    assert!(matches!(error.kind(), ErrorKind::Denied { status: 403 }), "{error}");
}

#[tokio::test]
async fn debug_output_does_not_contain_the_token() {
    let config = config();
    let client = ClientConfig { token: Some(token()), ..ClientConfig::default() };
    for shown in [format!("{config:?}"), format!("{client:?}"), format!("{:?}", token())] {
        assert!(!shown.contains(TOKEN), "{shown}");
    }
}

/// Follows the steps of a person who opens the printed URL.
#[tokio::test]
async fn a_page_logs_in_with_a_one_time_url_and_a_cookie() {
    let mut served = serve(config()).await;
    let (url, port) = (served.web.one_time_url().unwrap().unwrap(), served.port);
    let prefix = format!("http://127.0.0.1:{port}");
    let path = url.strip_prefix(&prefix).unwrap();
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{more}\r\n")
    };
    assert_eq!(status_of(&served.ask(get("/", "")).await), 401);
    let foreign = get(path, "Origin: http://evil.example\r\n");
    assert_eq!(status_of(&served.ask(foreign).await), 403, "the key is not used up");
    let answer = served.ask(get(path, "")).await;
    assert_eq!(status_of(&answer), 303, "{answer}");
    assert!(answer.contains("\r\nlocation: ./\r\n"), "{answer}");
    let cookie = answer.split("set-cookie: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Max-Age=34560000"), "{cookie}");
    assert_eq!(status_of(&served.ask(get(path, "")).await), 403, "the key was used before");
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let page = served.ask(get("/", &cookie)).await;
    assert_eq!(status_of(&page), 200);
    assert!(page.contains("default-src 'none'"), "{page}");
    assert_eq!(status_of(&served.ask(get("/page.js", &cookie)).await), 200);
    // The page's own WebSocket is accepted, and one of a foreign page is refused. A browser would not
    // send this cookie for a foreign page, but another program might.
    let own = format!("Origin: http://127.0.0.1:{port}\r\n{cookie}");
    assert_eq!(status_of(&served.ask(upgrade(port, &own)).await), 101);
    assert!(served.plain.accept().await.is_ok());
    let foreign = format!("Origin: http://evil.example\r\n{cookie}");
    assert_eq!(status_of(&served.ask(upgrade(port, &foreign)).await), 403);
    assert!(!was_accepted(&mut served).await);
}

#[tokio::test]
async fn a_page_logs_in_with_the_token_in_a_form() {
    let mut served = serve(config()).await;
    let port = served.port;
    let post = async |form: &str, more: &str| {
        let (head, body) =
            ask("POST", port, "/login", form, &format!("Accept: text/html\r\n{more}")).await;
        head + &body
    };
    let form = format!("token={TOKEN}");
    let own = format!("Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\n");
    for (form, more, expected) in [
        ("token=a-token-that-is-wrong", own.as_str(), 401),
        ("token=", &own, 401),
        ("", &own, 401),
        // Pages of other sites are refused, including those that hide their origin.
        (&form, "Origin: http://evil.example\r\n", 403),
        (&form, "Origin: null\r\n", 403),
        (&form, "Sec-Fetch-Site: cross-site\r\n", 403),
        (&"x".repeat(3000), &own, 413),
    ] {
        let answer = post(form, more).await;
        assert_eq!(status_of(&answer), expected, "{form} {more}: {answer}");
        assert!(!answer.contains("set-cookie"), "{answer}");
        let has_form = answer.contains("<form method=\"post\" action=\"login\">");
        assert_eq!(has_form, expected == 401, "{answer}");
        if has_form {
            assert!(answer.contains("This is not the server's token."), "{answer}");
            // With another policy, browsers would hide the form's origin.
            assert!(answer.contains("\r\nreferrer-policy: same-origin\r\n"), "{answer}");
            assert!(answer.contains("form-action 'self'; base-uri 'none'"), "{answer}");
        }
    }
    assert_eq!(served.web.counts().refused_token, 3);
    let answer = post(&form, &own).await;
    assert_eq!(status_of(&answer), 303, "{answer}");
    assert!(answer.contains("\r\nlocation: ./\r\n") && !answer.contains(TOKEN), "{answer}");
    let cookie = answer.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
    let cookie = format!("{own}Cookie: {cookie}\r\n");
    assert_eq!(status_of(&served.ask(upgrade(port, &cookie)).await), 101);
    assert!(served.plain.accept().await.is_ok());
    // A browser that is logged in keeps its cookie, because its sessions belong to it.
    let again = post(&form, &cookie).await;
    assert!(status_of(&again) == 303 && !again.contains("set-cookie"), "{again}");
    // A GET shows the form.
    let get = |more: &str| {
        format!("GET /login HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{more}\r\n")
    };
    assert_eq!(status_of(&served.ask(get("")).await), 401);
    assert_eq!(status_of(&served.ask(get(&cookie)).await), 303);
}

#[tokio::test]
async fn only_the_owner_of_a_session_can_ask_how_its_program_ended() {
    use tieline_proto::session::SessionId;
    let served = serve(config()).await;
    let (one, other) = (served.cookie("").await.unwrap(), served.cookie("").await.unwrap());
    let known = SessionId(*b"the session's id");
    let owner = std::sync::Mutex::new(None);
    served.web.set_failures(move |session, asking| {
        let mut owner = owner.lock().unwrap();
        let is_owner = *asking == *owner.get_or_insert(*asking);
        let failed = || CloseReason::ChildExited(support::exit(3, "a line\n").into());
        (session == known && is_owner).then(failed)
    });
    let ask = async |query: String, more: &str| {
        let (head, body) = ask("GET", served.port, &format!("/exit?{query}"), "", more).await;
        head + &body
    };
    let session = format!("session={known}");
    let answer = ask(session.clone(), &one).await;
    assert_eq!(status_of(&answer), 200, "{answer}");
    assert!(
        answer.contains("\"code\":3") && answer.contains("\"stderr\":\"a line\\n\""),
        "{answer}"
    );
    for query in ["session=00", "", "session=%00"] {
        assert_eq!(status_of(&ask(query.into(), &one).await), 204, "{query}");
    }
    assert_eq!(status_of(&ask(session.clone(), &other).await), 204);
    assert_eq!(status_of(&ask(session, "").await), 401);
}

#[tokio::test]
async fn a_script_logs_in_with_a_subprotocol_that_is_not_echoed() {
    let served = serve(config()).await;
    let ask = |protocols: &str| {
        served.ask(upgrade(served.port, &format!("Sec-WebSocket-Protocol: {protocols}\r\n")))
    };
    for (protocols, chosen) in [
        (format!("tieline, tieline.token.{TOKEN}"), "tieline"),
        (format!("tieline.token.{TOKEN}, mcp"), "mcp"),
        (format!("tieline.token.{TOKEN}, tieline.1, tieline"), "tieline.1"),
    ] {
        let answer = ask(&protocols).await;
        assert_eq!(status_of(&answer), 101, "{answer}");
        let line = format!("\r\nsec-websocket-protocol: {chosen}\r\n");
        assert!(answer.to_lowercase().contains(&line), "{answer}");
        assert!(!answer.contains(TOKEN), "{answer}");
    }
    assert_eq!(status_of(&ask("tieline, tieline.token.wrong").await), 401);
    assert_eq!(status_of(&ask("tieline").await), 401);
}

#[tokio::test]
async fn health_needs_no_token_and_reveals_nothing_else() {
    let served = serve(config()).await;
    let port = served.port;
    let ask = |path: &str, more: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}\r\n");
        served.ask(request)
    };
    assert_eq!(status_of(&ask("/health", "").await), 200);
    assert_eq!(status_of(&ask("/health/ready", "").await), 200);
    served.web.set_ready(false);
    assert_eq!(status_of(&ask("/health/ready", "").await), 503);
    assert_eq!(status_of(&ask("/health", "").await), 200);
    assert_eq!(status_of(&ask("/health", "Origin: http://evil.example\r\n").await), 403);
    assert_eq!(status_of(&ask("/metrics", "").await), 401);
    assert_eq!(status_of(&ask("/metrics", BEARER).await), 200);
    assert_eq!(status_of(&ask("/elsewhere", "").await), 401, "unknown paths are not revealed");
    assert_eq!(status_of(&ask("/elsewhere", BEARER).await), 404);
}

#[tokio::test]
async fn metrics_contain_the_counters() {
    let served = serve(config()).await;
    served.web.set_metrics(|| "tieline_up 1\n".into());
    let port = served.port;
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    served.ask(upgrade(port, "")).await;
    served.ask(upgrade(port, "Origin: http://evil.example\r\n")).await;
    let bearer = format!("{host}{BEARER}Connection: close\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\n{bearer}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status_of(&answer), 200, "{answer}");
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(text.starts_with("tieline_up 1\n# HELP tieline_web_connections_total "), "{text}");
    for line in [
        "# TYPE tieline_web_connections gauge",
        "tieline_web_connections_total 3",
        "tieline_web_admitted_total 1",
        "tieline_web_refused_total{cause=\"malformed\"} 0",
        "tieline_web_refused_total{cause=\"origin\"} 1",
        "tieline_web_refused_total{cause=\"token\"} 1",
        "tieline_web_sockets_total 0",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
    // Each metric has exactly one TYPE line.
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<&str> = names.map(|line| line.split(' ').next().unwrap()).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let name = line.split([' ', '{']).next().unwrap();
        assert_eq!(names.iter().filter(|it| **it == name).count(), 1, "{name}");
    }
}

#[tokio::test]
async fn invalid_web_socket_requests_get_an_error_status() {
    let served = serve(config()).await;
    let right = upgrade(served.port, BEARER);
    for (from, to, status) in [
        ("Upgrade: websocket\r\n", "", 426),
        ("Connection: Upgrade\r\n", "", 426),
        ("Connection: Upgrade\r\n", "Connection: keep-alive, Upgrade\r\n", 101),
        ("Upgrade: websocket", "Upgrade: WebSocket", 101),
        ("Version: 13", "Version: 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400),
        ("GET /ws", "POST /ws", 405),
        ("GET /ws HTTP/1.1", "GET /ws HTTP/1.0", 400),
    ] {
        let answer = served.ask(right.replace(from, to)).await;
        assert_eq!(status_of(&answer), status, "{from:?} as {to:?}: {answer}");
    }
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let served = serve(config()).await;
    for (what, bomb) in [
        ("a long line", format!("X: {}\r\n", "x".repeat(1 << 20))),
        ("many lines", "X: y\r\n".repeat(65)),
        ("very many lines", "X: y\r\n".repeat(100_000)),
    ] {
        let answer = served.ask(upgrade(served.port, &format!("{BEARER}{bomb}"))).await;
        assert!(["", "431"].contains(&answer.get(9..12).unwrap_or_default()), "{what}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(1 << 20));
    let answer = served.ask(long).await;
    assert!(["", "414", "431"].contains(&answer.get(9..12).unwrap_or_default()), "{answer}");
    assert_eq!(served.web.counts().admitted, 0);
    // A valid request is still served.
    assert_eq!(status_of(&served.ask(upgrade(served.port, BEARER)).await), 101);
}

#[tokio::test]
async fn slow_headers_time_out() {
    let _clock = FastClock::start();
    let served = serve(config()).await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: 127.").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_took(begun.elapsed(), Duration::from_secs(30));
    // An idle connection after a response times out as well.
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let request = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", served.port);
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&mut stream).await, 200);
    let begun = tokio::time::Instant::now();
    let _ = stream.read_to_end(&mut rest).await;
    assert_took(begun.elapsed(), Duration::from_secs(30));
}

#[tokio::test]
async fn unauthenticated_connections_are_evicted_for_new_ones() {
    let limits = ServerLimits { connections_per_peer: 20, ..ServerLimits::default() };
    let mut served = serve(ServerConfig { limits, ..config() }).await;
    let (_honest, first) = served.raw().await;
    let mut trickling = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        stream.write_all(b"GET /ws HTTP/1.1\r\nX").await.unwrap();
        trickling.push(stream);
    }
    let (mut honest, second) = served.raw().await;
    tokio::spawn(echo(second));
    honest.write_all(&frame(0x81, b"hello")).await.unwrap();
    let mut echoed = [0; 7];
    honest.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed[2..], b"hello");
    // The oldest of the slow connections was evicted.
    let mut rest = Vec::new();
    let _ = trickling[0].read_to_end(&mut rest).await;
    assert!(first.control().close_reason().is_none());
    let counts = served.web.counts();
    assert!(counts.evicted >= 180 && counts.open <= 21, "{counts:?}");
}

#[tokio::test]
async fn web_sockets_beyond_the_limit_are_refused() {
    let limits = ServerLimits { connections: 3, ..ServerLimits::default() };
    let mut served = serve(ServerConfig { limits, ..config() }).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(served.raw().await);
    }
    assert_eq!(served.ask(upgrade(served.port, BEARER)).await, "");
    assert_eq!(served.web.counts().refused_busy, 1);
    // A connection's place becomes free as soon as the last half of its channel is dropped.
    kept.pop();
    let (_stream, _channel) = served.raw().await;
    // The backlog is full when no one accepts.
    let limits = ServerLimits { backlog: 2, ..ServerLimits::default() };
    let mut served = serve(ServerConfig { limits, ..config() }).await;
    let mut waiting = Vec::new();
    for expected in [101, 101, 503] {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        stream.write_all(upgrade(served.port, BEARER).as_bytes()).await.unwrap();
        assert_eq!(status(&mut stream).await, expected);
        waiting.push(stream);
    }
    assert!(served.plain.accept().await.is_ok());
    assert_eq!(status_of(&served.ask(upgrade(served.port, BEARER)).await), 101);
}

/// The responses are those of servers that are not WebSocket servers.
#[tokio::test]
async fn a_client_refuses_invalid_handshake_responses() {
    for (answer, says) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "answered with status 200"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n",
            "answered with status 302",
        ),
        ("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "match the key"),
        (
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            "match the key",
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        ("", "the line has ended"),
        ("HTTP/1.1 101 x\r\nUpgrade: web", "the line has ended"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let registry = registry();
        let (error, ()) = tokio::join!(refused(&registry, &url), serving);
        assert!(error.to_string().contains(says), "{answer:?}: {error}");
        assert_eq!(error.is_retryable(), says == "the line has ended", "{answer:?}: {error}");
    }
    // A missing response is limited by the connect timeout.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Endpoint = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let options = Options { connect_timeout: Duration::from_millis(100), ..Options::default() };
    let Err(error) = registry().connect(&url, &options).await else {
        panic!("connected without a response")
    };
    assert!(matches!(error.kind(), ErrorKind::TimedOut(_)), "{error}");
}
