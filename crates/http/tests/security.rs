//! The rows of the threat model that fall to the server of the web. What is refused reaches nobody who
//! could start a process for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::{
    TOKEN, close_code, config, echo, end, frame, head, message, refused, registry, registry_with,
    serve, status, status_of, token, upgrade, upgrade_of,
};
use tieline_http::{
    Access, ClientConfig, Place, ServerConfig, ServerLimits, Token, Web, WebChannel,
};
use tieline_proto::websocket::Violation;
use tieline_proto::{ByteSize, FrameError};
use tieline_transport::{
    Acceptor, Channel, CloseReason, Endpoint, ErrorKind, Options, ReceiverExt, SenderExt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BEARER: &str = "Authorization: Bearer the-token-of-these-tests\r\n";

/// Whether a channel has come out: a process could be started for it.
async fn came_out(served: &mut support::Served) -> bool {
    let waiting = async {
        tokio::select! {
            channel = served.plain.accept() => channel.is_ok(),
            channel = served.resumable.accept() => channel.is_ok(),
        }
    };
    let mut waiting = std::pin::pin!(waiting);
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx)));
    polled.await.is_ready()
}

#[tokio::test]
async fn dns_rebinding_and_cross_site_web_sockets_reach_nobody() {
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
    assert!(!came_out(&mut served).await);
    let counts = served.web.counts();
    assert_eq!((counts.refused_host, counts.refused_origin, counts.refused_token), (1, 2, 2));
    assert_eq!((counts.refused_malformed, counts.admitted, counts.web_sockets), (3, 0, 0));
    // The same with nothing wrong about it.
    let right = format!("Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n{BEARER}");
    assert_eq!(status_of(&served.ask(upgrade_of(&right)).await), 101);
}

#[tokio::test]
async fn an_unauthenticated_proxy_is_not_to_be_had() {
    let clear = |host: &str| Place::Tcp { host: host.into(), port: 0 };
    let open =
        |place| ServerConfig { access: Access::Anybody, ..ServerConfig::new(place, token()) };
    for config in [
        ServerConfig::new(clear("0.0.0.0"), token()),
        ServerConfig::new(clear("::"), token()),
        open(clear("0.0.0.0")),
    ] {
        let Err(error) = Web::listen(config).await else { panic!("it listens") };
        assert!(matches!(error.kind(), ErrorKind::Unauthenticated), "{error}");
    }
    let exposed = ServerConfig {
        expose_without_token_and_tls: true,
        ..ServerConfig::new(clear("0.0.0.0"), token())
    };
    assert!(Web::listen(exposed).await.is_ok());
    // Near, without a token: it is said of each that anybody may have made it.
    let mut served = serve(open(clear("127.0.0.1"))).await;
    let (_stream, channel) = served.raw().await;
    assert!(channel.control().capabilities().unauthenticated);
    let mut served = serve(config()).await;
    let (_stream, channel) = served.raw().await;
    assert!(!channel.control().capabilities().unauthenticated);
}

#[tokio::test]
async fn a_client_learns_why_it_is_not_let_in() {
    let served = serve(config()).await;
    let url = served.url().to_string();
    for (token, kind) in [(None, 401), (Some("another-token-than-that"), 401)] {
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
async fn a_token_is_in_no_text_that_anybody_prints() {
    let config = config();
    let client = ClientConfig { token: Some(token()), ..ClientConfig::default() };
    for shown in [format!("{config:?}"), format!("{client:?}"), format!("{:?}", token())] {
        assert!(!shown.contains(TOKEN), "{shown}");
    }
}

/// What a person does with the URL that the program prints.
#[tokio::test]
async fn a_page_gets_in_by_a_one_time_url_and_a_cookie() {
    let mut served = serve(config()).await;
    let (url, port) = (served.web.one_time_url().unwrap().unwrap(), served.port);
    let prefix = format!("http://127.0.0.1:{port}");
    let path = url.strip_prefix(&prefix).unwrap();
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{more}\r\n")
    };
    assert_eq!(status_of(&served.ask(get("/", "")).await), 401);
    let foreign = get(path, "Origin: http://evil.example\r\n");
    assert_eq!(status_of(&served.ask(foreign).await), 403, "the key is not spent");
    let answer = served.ask(get(path, "")).await;
    assert_eq!(status_of(&answer), 303, "{answer}");
    assert!(answer.contains("\r\nlocation: /\r\n"), "{answer}");
    let cookie = answer.split("set-cookie: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
    assert_eq!(status_of(&served.ask(get(path, "")).await), 403, "a second time");
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let page = served.ask(get("/", &cookie)).await;
    assert_eq!(status_of(&page), 200);
    assert!(page.contains("default-src 'none'"), "{page}");
    assert_eq!(status_of(&served.ask(get("/page.js", &cookie)).await), 200);
    // The page's own WebSocket, and one of a foreign page, to which a browser gives no such cookie, but
    // another program might.
    let own = format!("Origin: http://127.0.0.1:{port}\r\n{cookie}");
    assert_eq!(status_of(&served.ask(upgrade(port, &own)).await), 101);
    assert!(served.plain.accept().await.is_ok());
    let foreign = format!("Origin: http://evil.example\r\n{cookie}");
    assert_eq!(status_of(&served.ask(upgrade(port, &foreign)).await), 403);
    assert!(!came_out(&mut served).await);
}

#[tokio::test]
async fn a_script_gets_in_by_a_subprotocol_and_is_told_of_another() {
    let served = serve(config()).await;
    let ask = |protocols: &str| {
        served.ask(upgrade(served.port, &format!("Sec-WebSocket-Protocol: {protocols}\r\n")))
    };
    for (protocols, chosen) in [
        (format!("tieline, tieline.token.{TOKEN}"), "tieline"),
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
async fn health_needs_no_token_and_says_nothing_else() {
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
    assert_eq!(status_of(&ask("/metrics", BEARER).await), 404);
    served.web.set_metrics(|| "tieline_up 1\n".into());
    assert_eq!(status_of(&ask("/metrics", BEARER).await), 200);
    assert_eq!(status_of(&ask("/elsewhere", "").await), 401, "what there is, is not told");
    assert_eq!(status_of(&ask("/elsewhere", BEARER).await), 404);
}

#[tokio::test]
async fn what_is_no_request_for_a_web_socket_is_answered() {
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
        ("GET /ws", "POST /ws", 400),
        ("GET /ws HTTP/1.1", "GET /ws HTTP/1.0", 400),
    ] {
        let answer = served.ask(right.replace(from, to)).await;
        assert_eq!(status_of(&answer), status, "{from:?} as {to:?}: {answer}");
    }
}

#[tokio::test]
async fn header_bombs_are_cut_off() {
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
    // The next one is served.
    assert_eq!(status_of(&served.ask(upgrade(served.port, BEARER)).await), 101);
}

/// In virtual time.
#[tokio::test(start_paused = true)]
async fn slow_headers_are_waited_for_within_the_deadline() {
    let served = serve(config()).await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: 127.").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(29) && took < Duration::from_secs(32), "{took:?}");
    // One that was served and idles, too.
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let request = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", served.port);
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&mut stream).await, 200);
    let begun = tokio::time::Instant::now();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(begun.elapsed() < Duration::from_secs(32), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn those_who_say_nothing_make_room_for_those_who_do() {
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
    // The first of them was sent away.
    let mut rest = Vec::new();
    let _ = trickling[0].read_to_end(&mut rest).await;
    assert!(first.control().close_reason().is_none());
    let counts = served.web.counts();
    assert!(counts.evicted >= 180 && counts.open <= 21, "{counts:?}");
}

#[tokio::test]
async fn web_sockets_beyond_the_bound_are_refused() {
    let limits = ServerLimits { connections: 3, ..ServerLimits::default() };
    let mut served = serve(ServerConfig { limits, ..config() }).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(served.raw().await);
    }
    assert_eq!(served.ask(upgrade(served.port, BEARER)).await, "");
    assert_eq!(served.web.counts().refused_busy, 1);
    // One that goes makes room, as soon as the last of it is dropped.
    kept.pop();
    let (_stream, _channel) = served.raw().await;
    // Nobody accepts.
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

#[tokio::test]
async fn a_message_of_16_mib_is_the_largest() {
    const LIMIT: usize = 16 << 20;
    for (length, is_taken) in [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
        let mut served = serve(config()).await;
        let (stream, channel) = served.raw().await;
        let (mut read, mut write) = stream.into_split();
        tokio::spawn(async move {
            let _ = write.write_all(&frame(0x82, &vec![7; length])).await;
            let _ = write.write_all(&frame(0x88, b"")).await;
            std::future::pending::<()>().await;
        });
        let (_sender, mut receiver) = channel.split();
        if is_taken {
            assert_eq!(message(&mut receiver).await.len(), length);
            assert!(matches!(end(&mut receiver).await, CloseReason::ByPeer));
            continue;
        }
        let (reason, code) = tokio::join!(end(&mut receiver), async {
            let mut answer = [0; 4];
            read.read_exact(&mut answer).await.unwrap();
            (answer[0], u16::from_be_bytes([answer[2], answer[3]]))
        });
        assert_eq!(code, (0x88, 1009));
        let CloseReason::Protocol(FrameError::Oversize { length: told, limit }) = reason else {
            panic!("{reason}")
        };
        assert_eq!((told, limit), (length as u64, ByteSize::mib(16)));
    }
}

/// A length that is announced makes nobody reserve it.
#[tokio::test]
async fn an_announced_length_costs_nothing() {
    let mut served = serve(config()).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        let (mut stream, channel) = served.raw().await;
        let mut head = frame(0x82, &vec![0; 70_000])[..14].to_vec();
        head[2..10].copy_from_slice(&(16u64 << 20).to_be_bytes());
        stream.write_all(&head).await.unwrap();
        let (sender, mut receiver) = channel.split();
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(tieline_transport::Receiver::poll_recv(&mut receiver, cx))
        });
        assert!(polled.await.is_pending());
        held.push((stream, sender, receiver));
    }
    let resident = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = resident.lines().find_map(|line| line.strip_prefix("VmData:"));
    let Some(kib) = resident.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok())
    else {
        return;
    };
    assert!(kib < 50 * 8 * 1024, "{kib} KiB for 50 announcements of 16 MiB");
}

/// How many frames a flood has: ten million where it is asked for, else enough to see that it ends.
fn flood() -> usize {
    let all = std::env::var_os("TIELINE_SOAK").is_some();
    if all { 10_000_000 } else { 100_000 }
}

async fn flooded(frame: Vec<u8>, before: Vec<u8>) -> (CloseReason, Option<u16>, usize) {
    let mut served = serve(config()).await;
    let (stream, channel) = served.raw().await;
    let (read, mut write) = stream.into_split();
    let mut read = read;
    let (sender, mut receiver) = channel.split();
    let flooding = tokio::spawn(async move {
        let _ = write.write_all(&before).await;
        let many = frame.repeat(10_000);
        for sent in 0..flood() / 10_000 {
            if write.write_all(&many).await.is_err() {
                return sent * 10_000;
            }
        }
        std::future::pending::<()>().await;
        0
    });
    let closing = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        // The last frame of all that came.
        let place = answer.windows(4).rposition(|it| it[0] == 0x88 && it[2] == 3)?;
        Some(u16::from_be_bytes([answer[place + 2], answer[place + 3]]))
    });
    let reason = end(&mut receiver).await;
    drop((sender, receiver));
    let code = closing.await.unwrap();
    flooding.abort();
    (reason, code, served.web.counts().open as usize)
}

#[tokio::test]
async fn a_flood_of_empty_frames_pings_and_fragments_ends_the_line() {
    let head = frame(0x01, &[b'x'; 32]);
    for (what, frame, before) in [
        ("empty texts", frame(0x81, b""), Vec::new()),
        ("blank texts", frame(0x81, b"\n"), Vec::new()),
        ("empty binaries", frame(0x82, b""), Vec::new()),
        ("pings", frame(0x89, b"ping"), Vec::new()),
        ("pongs", frame(0x8a, b""), Vec::new()),
        ("empty fragments", frame(0x00, b""), head.clone()),
        ("tiny fragments", frame(0x00, b"x"), head),
    ] {
        let (reason, code, _) = flooded(frame, before).await;
        let flood = FrameError::WebSocket(Violation::TooManyFrames);
        assert!(matches!(&reason, CloseReason::Protocol(it) if *it == flood), "{what}: {reason}");
        assert_eq!(code, Some(1008), "{what}");
    }
}

/// Large enough to be worth something, and never ending.
#[tokio::test]
async fn endless_fragments_end_at_the_limit() {
    let (head, more) = (frame(0x02, &[0; 60_000]), frame(0x00, &[0; 60_000]));
    let mut served = serve(config()).await;
    let (stream, channel) = served.raw().await;
    let (mut read, mut write) = stream.into_split();
    tokio::spawn(async move {
        let _ = write.write_all(&head).await;
        while write.write_all(&more).await.is_ok() {}
    });
    let (_sender, mut receiver) = channel.split();
    let (reason, code) = tokio::join!(end(&mut receiver), async {
        let mut answer = [0; 4];
        read.read_exact(&mut answer).await.unwrap();
        u16::from_be_bytes([answer[2], answer[3]])
    });
    assert_eq!(code, 1009);
    assert!(matches!(reason, CloseReason::Protocol(FrameError::Oversize { .. })), "{reason}");
}

#[tokio::test]
async fn each_breach_is_told_by_its_code() {
    let mut served = serve(config()).await;
    for (bytes, code) in [
        (frame(0x83, b""), 1002),
        (frame(0xc1, b""), 1002),
        (b"\x81\x05hello".to_vec(), 1002),
        (frame(0x81, b"\xff"), 1007),
        (frame(0x88, &1005u16.to_be_bytes()), 1002),
        (frame(0x88, &1000u16.to_be_bytes()), 1000),
        (frame(0x88, &4321u16.to_be_bytes()), 4321),
        (frame(0x88, b""), 1005),
    ] {
        let (mut stream, channel) = served.raw().await;
        let (_sender, mut receiver) = channel.split();
        stream.write_all(&bytes).await.unwrap();
        let (_, told) = tokio::join!(end(&mut receiver), close_code(&mut stream));
        assert_eq!(told, Some(code), "{bytes:?}");
    }
    // A session's connection takes no text.
    let protocol = format!("{BEARER}Sec-WebSocket-Protocol: tieline.1\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    stream.write_all(upgrade(served.port, &protocol).as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.contains("101"));
    let (_sender, mut receiver) = served.resumable.accept().await.unwrap().split();
    stream.write_all(&frame(0x81, b"text")).await.unwrap();
    let (_, told) = tokio::join!(end(&mut receiver), close_code(&mut stream));
    assert_eq!(told, Some(1003));
}

async fn told_for(reason: CloseReason, channel: WebChannel, stream: &mut TcpStream) -> Option<u16> {
    channel.control().end(reason);
    let (mut sender, _receiver) = channel.split();
    sender.close().await.unwrap();
    close_code(stream).await
}

#[tokio::test]
async fn a_close_says_what_is_known_of_its_reason() {
    let mut served = serve(config()).await;
    for (reason, code) in
        [(CloseReason::ByUs, 1000), (CloseReason::StdoutClosed, 1011), (CloseReason::Overrun, 1013)]
    {
        let (mut stream, channel) = served.raw().await;
        let told = told_for(reason.clone(), channel, &mut stream).await;
        assert_eq!(told, Some(code), "{reason}");
    }
    // Without a close, too, where nothing waits to be written.
    let (mut stream, channel) = served.raw().await;
    channel.control().end(CloseReason::StdoutClosed);
    drop(channel);
    assert_eq!(close_code(&mut stream).await, Some(1011));
}

#[tokio::test]
async fn a_client_hears_why_a_server_closes() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    server.control().end(CloseReason::StdoutClosed);
    let (mut sender, _receiver) = server.split();
    sender.close().await.unwrap();
    let (_sender, mut receiver) = client.split();
    let reason = end(&mut receiver).await;
    let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
    assert_eq!(close.code.get(), 1011);
    assert!(!reason.is_clean());
}

#[tokio::test]
async fn a_server_that_shuts_down_says_so() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let server = tokio::spawn(echo(server));
    let (_sender, mut receiver) = client.split();
    let port = served.port;
    let (reason, ()) = tokio::join!(end(&mut receiver), served.web.close(Duration::from_secs(30)));
    let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
    assert_eq!(close.code.get(), 1001);
    assert!(reason.is_clean());
    assert!(matches!(server.await.unwrap(), CloseReason::ByUs));
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

/// A close frame that nobody answers is not waited for long, in virtual time.
#[tokio::test(start_paused = true)]
async fn a_close_that_nobody_answers_is_waited_for_within_its_time() {
    let mut served = serve(config()).await;
    let (_stream, channel) = served.raw().await;
    let (mut sender, mut receiver) = channel.split();
    let begun = tokio::time::Instant::now();
    sender.close().await.unwrap();
    assert!(matches!(receiver.recv().await, tieline_transport::Incoming::End(CloseReason::ByUs)));
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(11), "{took:?}");
}

/// In virtual time: pings after 10 and 20 s, each waited for 5 s.
#[tokio::test(start_paused = true)]
async fn a_half_open_peer_is_found_within_25_seconds() {
    let mut served = serve(config()).await;
    let (mut stream, channel) = served.raw().await;
    let (_sender, mut receiver) = channel.split();
    let begun = tokio::time::Instant::now();
    let reason = match receiver.recv().await {
        tieline_transport::Incoming::End(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert!(matches!(reason, CloseReason::TimedOut), "{reason}");
    let took = begun.elapsed();
    assert!(took <= Duration::from_millis(25_100), "{took:?}");
    let mut pings = [0; 4];
    stream.read_exact(&mut pings).await.unwrap();
    assert_eq!(pings, [0x89, 0, 0x89, 0]);
}

/// One that answers is left alone, for an hour of virtual time.
#[tokio::test(start_paused = true)]
async fn a_peer_that_only_answers_pings_stays() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let (mut client, mut from_server) = client.split();
    tokio::spawn(async move { from_server.recv().await });
    let (_sender, mut receiver) = server.split();
    let idle = tokio::time::timeout(Duration::from_secs(3600), receiver.recv());
    assert!(idle.await.is_err(), "it is idle, and not gone");
    client.send("still here").await.unwrap();
    assert_eq!(message(&mut receiver).await, "still here");
}

#[tokio::test]
async fn a_connection_that_is_cut_off_is_told_from_one_that_closes() {
    let mut served = serve(config()).await;
    let (stream, channel) = served.raw().await;
    drop(stream);
    let (_sender, mut receiver) = channel.split();
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Io(_)), "{reason}");
    let (mut stream, channel) = served.raw().await;
    stream.write_all(&frame(0x81, b"half a message")[..10]).await.unwrap();
    drop(stream);
    let (_sender, mut receiver) = channel.split();
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Truncated(_)), "{reason}");
}

/// What only looks like a server does not get anything.
#[tokio::test]
async fn a_client_takes_no_answer_that_does_not_fit() {
    for (answer, says) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "answers with 200"),
        ("HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n", "answers with 302"),
        ("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "fit the key"),
        (
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            "fit the key",
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        ("", "nobody listens"),
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
    }
    // It is waited for no longer than connecting may take.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Endpoint = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let options = Options { connect_timeout: Duration::from_millis(100), ..Options::default() };
    let Err(error) = registry().connect(&url, &options).await else { panic!("who answered?") };
    assert!(matches!(error.kind(), ErrorKind::TimedOut(_)), "{error}");
}
