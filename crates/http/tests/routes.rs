//! Tests of routes that a program adds to the server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;

use bytes::BufMut;
use support::events::ask;
use support::{BEARER, config, message, serve, status_of};
use tieline_http::{
    EventChannel, HttpServer, Responding, Route, RouteHandler, RouteRequest, ServerConfig,
};
use tieline_proto::ByteSize;
use tieline_transport::{Channel, MemoryBudget, ReceiverExt, SenderExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// An event that the handler reports to the test.
enum Seen {
    Line(EventChannel),
    /// A stream has ended after this many events.
    Gone(usize),
}

/// What the client gets instead of a response that is lost.
const LOST: &str = "the response was lost";

/// A handler that returns the body of a POST (2 MiB for `long`), opens a line for a PUT and returns its first message, and
/// sends events for a GET until the client disconnects.
struct Handler(mpsc::UnboundedSender<Seen>);

impl RouteHandler for Handler {
    fn handle(&self, request: RouteRequest) -> Responding<'_> {
        Box::pin(async move {
            let mut request = request;
            match request.method() {
                "POST" => match request.body().await {
                    Ok(body) => {
                        assert!(request.body().await.is_ok_and(|again| again.is_empty()));
                        let body = match &*body {
                            b"long" => vec![b'x'; 2 << 20].into(),
                            _ => body,
                        };
                        request
                            .json(201, body, || LOST.into())
                            .with_header("x-id", "7")
                            .with_header("bad name", "x")
                    }
                    Err(refused) => refused,
                },
                "PUT" => {
                    let (channel, line) = request.line();
                    let _ = self.0.send(Seen::Line(channel));
                    line.room().await;
                    assert!(line.push("\"in\"".into()));
                    let Some(message) = line.take().await else { return request.empty(502) };
                    line.handed_on();
                    request.json(200, message, || LOST.into())
                }
                _ => {
                    let (mut writer, response) = request.events();
                    let seen = self.0.clone();
                    tokio::spawn(async move {
                        let mut events = 0;
                        while writer.ready().await {
                            writer.write(|out| {
                                out.put_slice(&[b"data: ", &[b'x'; 1000][..], b"\n\n"].concat())
                            });
                            events += 1;
                        }
                        writer.gone().await;
                        let _ = seen.send(Seen::Gone(events));
                    });
                    response
                }
            }
        })
    }
}

fn routed() -> (ServerConfig, mpsc::UnboundedReceiver<Seen>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let route = Route {
        path: "/added",
        methods: &["GET", "POST", "PUT"],
        headers: &["x-ask", "x-part-"],
        exposes: &["x-id"],
        handler: Arc::new(Handler(sender)),
    };
    (ServerConfig { routes: vec![route], ..config() }, seen)
}

async fn opened(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    timeout(support::LIMIT, seen.recv()).await.expect("timed out").unwrap()
}

#[tokio::test]
async fn added_route_is_protected_by_the_same_checks_as_built_in_ones() {
    let (config, mut seen) = routed();
    let served = serve(config).await;
    let (port, own) = (served.port, format!("Origin: http://127.0.0.1:{}\r\n", served.port));
    let preflight = format!("{own}Access-Control-Request-Method: PUT\r\n");
    for (method, more, status) in [
        ("PUT", String::new(), 401),
        ("PUT", "Authorization: Bearer wrong-wrong-wrong-wrong\r\n".into(), 401),
        ("PUT", format!("{BEARER}Origin: http://evil.example\r\n"), 403),
        ("PUT", format!("{BEARER}Sec-Fetch-Site: cross-site\r\n"), 403),
        ("DELETE", BEARER.into(), 405),
        ("OPTIONS", preflight, 200),
    ] {
        let (head, _) = ask(method, port, "/added", "", &more).await;
        assert_eq!(status_of(&head), status, "{method} {more}");
        if status == 405 {
            assert!(head.contains("\r\nallow: GET, POST, PUT\r\n"), "{head}");
        }
        if method == "OPTIONS" {
            assert!(head.contains("allow-methods: GET, POST, PUT\r\n"), "{head}");
            assert!(head.contains("allow-headers: authorization, x-ask\r\n"), "{head}");
        }
    }
    assert!(seen.try_recv().is_err(), "no line was opened");
    let (head, body) = ask("POST", port, "/added", "{}", &format!("{BEARER}{own}")).await;
    assert_eq!((status_of(&head), &*body), (201, "{}"));
    assert!(head.contains("\r\nx-id: 7\r\n") && !head.contains("bad name"), "{head}");
    assert!(head.contains("\r\naccess-control-expose-headers: x-id\r\n"), "{head}");
    let (head, _) = ask("POST", port, "/added", "{}", BEARER).await;
    assert!(!head.contains("access-control"), "no page: {head}");
}

/// Browsers do not accept `*` for a request with credentials, so the response lists the names.
#[tokio::test]
async fn preflight_lists_the_requested_headers_that_begin_as_the_route_allows() {
    let (config, _seen) = routed();
    let served = serve(config).await;
    let origin = format!("Origin: http://127.0.0.1:{}\r\n", served.port);
    let many: Vec<_> = (100..150).map(|number| format!("x-part-{number}")).collect();
    for (requested, more) in [
        ("x-part-a,x-part-b".to_owned(), ", x-part-a, x-part-b"),
        ("X-Part-A, x-part-a ,x-ask".into(), ", x-part-a"),
        ("x-part-,x-part,x-party,x-other,*,x-part-\"a,x-part-a b,,".into(), ""),
        ("x-part-*".into(), ", x-part-*"),
        ("\u{e9},x-part-a".into(), ""),
        (many.join(","), &format!(", {}", many[..32].join(", "))),
        (format!("{},x-part-a", "x-".repeat(5000)), ", x-part-a"),
    ] {
        let more_lines = format!(
            "{origin}Access-Control-Request-Method: PUT\r\n\
             Access-Control-Request-Headers: {requested}\r\n"
        );
        let (head, _) = ask("OPTIONS", served.port, "/added", "", &more_lines).await;
        let expected = format!("allow-headers: authorization, x-ask{more}\r\n");
        assert!(head.contains(&expected), "{requested}: {head}");
        // Other routes do not allow these names.
        let (head, _) = ask("OPTIONS", served.port, "/rpc", "", &more_lines).await;
        let expected = "allow-headers: authorization, content-type\r\n";
        assert!(head.contains(expected), "{requested}: {head}");
    }
}

#[tokio::test]
async fn handler_opens_a_line_for_its_client() {
    let (config, mut seen) = routed();
    let served = serve(config).await;
    let asking = ask("PUT", served.port, "/added", "", BEARER);
    let answering = async {
        let Seen::Line(channel) = opened(&mut seen).await else { panic!() };
        assert!(channel.control().principal().is_some());
        let (mut sender, mut receiver) = channel.split();
        assert_eq!(message(&mut receiver).await, "\"in\"");
        sender.send("\"out\"").await.unwrap();
        sender.flush().await.unwrap();
        receiver.recv().await
    };
    let ((head, body), _) = tokio::join!(asking, answering);
    assert_eq!((status_of(&head), &*body), (200, "\"out\""));
}

#[tokio::test]
async fn response_without_memory_is_counted_as_lost_and_the_client_is_told() {
    let (mut config, _seen) = routed();
    config.memory = Some(MemoryBudget::new(ByteSize::mib(1)));
    let served = serve(config).await;
    for (asked, status, answer, lost) in
        [("short", 201, "short", 0), ("long", 503, LOST, 1), ("short", 201, "short", 1)]
    {
        let (head, body) = ask("POST", served.port, "/added", asked, BEARER).await;
        assert_eq!((status_of(&head), &*body), (status, answer));
        assert_eq!(served.web.counts().lost, lost, "{asked}");
    }
    let metrics = served.web.counts().prometheus();
    assert!(metrics.contains("\ntieline_web_messages_lost_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn body_above_the_limit_is_refused() {
    let (mut config, _seen) = routed();
    config.web_socket.channel.max_message = ByteSize::new(1000);
    let served = serve(config).await;
    for (length, status) in [(1000, 201), (1001, 413)] {
        let (head, _) = ask("POST", served.port, "/added", vec![b'x'; length], BEARER).await;
        assert_eq!(status_of(&head), status, "{length}");
    }
}

#[tokio::test]
async fn stream_waits_for_its_client_and_detects_its_disconnection() {
    let (config, mut seen) = routed();
    let served = serve(config).await;
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let request = format!("GET /added HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{BEARER}\r\n", served.port);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = vec![0; 300_000];
    timeout(support::LIMIT, stream.read_exact(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"));
    drop(stream);
    let Seen::Gone(events) = opened(&mut seen).await else { panic!() };
    // The number is at least that of the events that the client has read, and at most that plus the
    // number of events in the sockets and the queue.
    assert!((290..100_000).contains(&events), "{events}");
}

#[tokio::test]
async fn stream_ends_when_the_server_closes() {
    let (config, mut seen) = routed();
    let served = serve(config).await;
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let request = format!("GET /added HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{BEARER}\r\n", served.port);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 1000]).await.unwrap();
    let reading = async {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    };
    let (rest, ()) = tokio::join!(reading, served.web.close(support::LIMIT));
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "the response is complete");
    assert!(matches!(opened(&mut seen).await, Seen::Gone(_)));
}

#[tokio::test]
async fn routes_that_conflict_or_are_malformed_are_refused() {
    for (path, methods, headers, is_right) in [
        ("/a/b-c", &["GET"][..], &["x-a"][..], true),
        ("a", &["GET"], &[], false),
        ("/a b", &["GET"], &[], false),
        ("/ws", &["PUT"], &[], false),
        ("/", &["PUT"], &[], false),
        ("/added", &["PUT"], &[], false),
        ("/a", &[], &[], false),
        ("/a", &["get"], &[], false),
        ("/a", &["GET"], &["X-A"], false),
    ] {
        let (mut config, _seen) = routed();
        let handler = config.routes[0].handler.clone();
        config.routes.push(Route { path, methods, headers, exposes: &[], handler });
        assert_eq!(HttpServer::listen(config).await.is_ok(), is_right, "{path} {methods:?}");
    }
}
