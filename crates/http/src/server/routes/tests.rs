#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tieline_transport::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::{HttpServer, ServerConfig, WebAcceptor};
use super::*;
use crate::address::Place;
use crate::token::Token;

const BEARER: &str = "Authorization: Bearer the-token-of-these-tests\r\n";

/// The time after which a test that hangs is ended.
const LIMIT: Duration = Duration::from_secs(60);

/// The expected responses of a path.
struct Expected {
    path: &'static str,
    methods: &'static str,
    gate: Gate,
    headers: &'static str,
    /// The status of a request with the token and without a body, for each method.
    statuses: &'static [u16],
}

const ONLY_TOKEN: &str = "authorization";

const EXPECTED: [Expected; 13] = [
    page("/"),
    page("/page.css"),
    page("/page.js"),
    page("/tieline.js"),
    page("/session.js"),
    Expected { gate: Gate::Public, ..page("/health") },
    Expected { gate: Gate::Public, ..page("/health/ready") },
    Expected {
        methods: "GET, HEAD, POST",
        gate: Gate::Login,
        statuses: &[303, 303, 401],
        ..page("/login")
    },
    Expected { methods: "GET", statuses: &[204], ..page("/exit") },
    page("/metrics"),
    Expected { methods: "GET", gate: Gate::Program, statuses: &[426], ..page("/ws") },
    Expected {
        methods: "GET, POST, DELETE",
        gate: Gate::Program,
        headers: "authorization, last-event-id, tieline-protocol, content-type, tieline-sequence, \
                  tieline-half-close",
        statuses: &[200, 404, 404],
        ..page("/sse")
    },
    Expected {
        methods: "POST",
        gate: Gate::Program,
        headers: "authorization, content-type",
        statuses: &[400],
        ..page("/rpc")
    },
];

const fn page(path: &'static str) -> Expected {
    let (methods, headers, statuses) = ("GET, HEAD", ONLY_TOKEN, &[200, 200]);
    Expected { path, methods, gate: Gate::Token, headers, statuses }
}

impl Expected {
    fn methods(&self) -> impl Iterator<Item = &'static str> {
        self.methods.split(", ")
    }
}

struct Site {
    /// The server, which listens until this value is dropped.
    _http: HttpServer,
    acceptors: [WebAcceptor; 2],
    port: u16,
}

impl Site {
    async fn open() -> Self {
        let place = Place::Tcp { host: "127.0.0.1".into(), port: 0 };
        let config = ServerConfig::new(place, Token::new("the-token-of-these-tests").unwrap());
        let (http, plain, resumable) = HttpServer::listen(config).await.unwrap();
        let text = http.endpoint().to_string();
        let port = text.rsplit(':').next().unwrap().parse().unwrap();
        Self { _http: http, acceptors: [plain, resumable], port }
    }

    fn host(&self) -> String {
        format!("Host: 127.0.0.1:{}\r\n", self.port)
    }

    fn own_origin(&self) -> String {
        format!("Origin: http://127.0.0.1:{}\r\n", self.port)
    }

    /// Sends a request and returns the head of the response.
    async fn ask(&self, method: &str, path: &str, lines: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let request = format!("{method} {path} HTTP/1.1\r\n{length}{lines}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let reading = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            String::from_utf8(head).unwrap()
        };
        timeout(LIMIT, reading).await.unwrap()
    }

    /// Sends a request with the right Host and the token.
    async fn ask_well(&self, method: &str, path: &str, lines: &str) -> String {
        self.ask(method, path, &format!("{}{BEARER}{lines}", self.host())).await
    }

    /// Returns whether a line was opened. A program would be started for it.
    fn has_line(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.acceptors.iter_mut().any(|acceptor| {
            let accepting = pin!(acceptor.accept());
            matches!(accepting.poll(&mut cx), Poll::Ready(_))
        })
    }
}

fn status(head: &str) -> u16 {
    head.get(9..12).unwrap().parse().unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn table_has_exactly_the_expected_routes() {
    let routes = Routes::new(Vec::new(), false);
    let rows: BTreeSet<_> = (routes.rows.iter())
        .flat_map(|route| route.methods.iter().map(|method| (&*route.path, *method)))
        .collect();
    let expected: BTreeSet<_> =
        EXPECTED.iter().flat_map(|it| it.methods().map(|method| (it.path, method))).collect();
    assert_eq!(rows, expected);
    for it in EXPECTED {
        assert_eq!(routes.gate(it.path), it.gate, "{}", it.path);
        assert_eq!(it.methods().count(), it.statuses.len(), "{}", it.path);
    }
}

#[tokio::test]
async fn every_route_answers_its_methods_and_refuses_all_others() {
    let site = Site::open().await;
    for it in EXPECTED {
        for (method, expected) in it.methods().zip(it.statuses) {
            // Without this header, `/sse` would open a session, which waits for its acceptor.
            let head = site.ask_well(method, it.path, "Tieline-Protocol: tieline\r\n").await;
            assert_eq!(status(&head), *expected, "{method} {}: {head}", it.path);
        }
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"] {
            if it.methods().any(|known| known == method) {
                continue;
            }
            let head = site.ask_well(method, it.path, "").await;
            assert_eq!(status(&head), 405, "{method} {}: {head}", it.path);
            assert_eq!(header(&head, "allow"), Some(it.methods), "{method} {}", it.path);
        }
    }
    for path in ["/elsewhere", "/sse/", "/SSE", "/rpc/x", "//sse", "/%73se"] {
        assert_eq!(status(&site.ask_well("GET", path, "").await), 404, "{path}");
    }
}

#[tokio::test]
async fn every_route_is_protected_by_its_gate() {
    let mut site = Site::open().await;
    let (host, own) = (site.host(), site.own_origin());
    for it in EXPECTED {
        let (path, is_public) = (it.path, it.gate == Gate::Public);
        // Methods that the path does not have are protected by the same gate.
        for method in it.methods().chain(["PUT"]) {
            for (lines, expected) in [
                (format!("Host: evil.example\r\n{BEARER}"), Some(403)),
                (format!("Host: evil.example:{}\r\n{own}{BEARER}", site.port), Some(403)),
                (format!("{host}Origin: http://evil.example\r\n{BEARER}"), Some(403)),
                (format!("{host}Origin: null\r\n{BEARER}"), Some(403)),
                (format!("{host}{own}{own}{BEARER}"), Some(400)),
                (BEARER.to_owned(), Some(400)),
                (
                    host.clone(),
                    (!is_public && (it.gate != Gate::Login || method != "PUT")).then_some(401),
                ),
                (
                    format!("{host}{BEARER}Sec-Fetch-Site: cross-site\r\n"),
                    it.gate.keeps_out_pages().then_some(403),
                ),
            ] {
                let Some(expected) = expected else { continue };
                let head = site.ask(method, path, &lines).await;
                assert_eq!(status(&head), expected, "{method} {path} {lines}: {head}");
            }
        }
    }
    assert!(!site.has_line());
}

#[tokio::test]
async fn preflights_state_what_the_route_accepts_and_start_nothing() {
    let mut site = Site::open().await;
    let (host, own) = (site.host(), site.own_origin());
    for it in EXPECTED {
        for method in it.methods().chain(["PUT"]) {
            let asked = format!("Access-Control-Request-Method: {method}\r\n");
            let head = site.ask("OPTIONS", it.path, &format!("{host}{own}{asked}")).await;
            assert_eq!(status(&head), 200, "{}: {head}", it.path);
            let allowed = header(&head, "access-control-allow-methods");
            assert_eq!(allowed, Some(it.methods), "{}", it.path);
            let headers = header(&head, "access-control-allow-headers");
            assert_eq!(headers, Some(it.headers), "{}", it.path);
            let foreign = format!("{host}Origin: http://evil.example\r\n{asked}");
            let head = site.ask("OPTIONS", it.path, &foreign).await;
            assert_eq!(status(&head), 403, "{}", it.path);
            assert_eq!(header(&head, "access-control-allow-methods"), None, "{}", it.path);
            let head = site.ask("OPTIONS", it.path, &format!("{host}{asked}")).await;
            assert_eq!(status(&head), 404, "no page: {}", it.path);
        }
    }
    let asked = format!("{host}{own}Access-Control-Request-Method: GET\r\n");
    assert_eq!(status(&site.ask("OPTIONS", "/elsewhere", &asked).await), 404);
    assert!(!site.has_line());
}
