//! Tests of the server behind nginx, with the configurations from `docs/web.md`: messages are delivered,
//! and forwarding headers do not affect access control.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use support::sdk::{node, prints_ok, sdk_behind};
use support::{
    BEARER, LIMIT, Served, TOKEN, config, echo, frame, message, registry, serve, status_of,
};
use tempfile::TempDir;
use tieline_http::{BasicAuth, ClientConfig, RequestHeader, ServerConfig};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::HeartbeatConfig;
use tieline_transport::{Acceptor, Channel, Endpoint, Options, SenderExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{Child, Command};

/// Returns the nginx configuration at index `block` in the documentation, with this port.
fn documented(block: usize, port: u16) -> String {
    let docs = include_str!("../../../docs/web.md");
    let block = docs.split("```nginx\n").nth(block + 1).expect("docs/web.md has a configuration");
    let (block, _) = block.split_once("```").unwrap();
    assert!(block.contains("proxy_pass http://127.0.0.1:8080"), "{block}");
    block.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
}

/// The prefix of the second configuration.
const PREFIX: &str = "/agents/one";

/// An nginx process with a socket in a temporary directory. It is killed when this is dropped.
struct Nginx {
    _process: Child,
    directory: TempDir,
}

impl Nginx {
    /// Starts nginx in front of the server at `port`; `more` is added to its `server` block.
    async fn before(port: u16, more: &str) -> Self {
        // The test does not use TLS: it replaces the listening address and removes the certificate.
        let (map, server) = documented(0, port).split_once("server {").map_or_else(
            || panic!("no `server` block"),
            |(map, server)| (map.to_owned(), server.to_owned()),
        );
        let lines = server.lines();
        let server: Vec<_> = lines
            .filter(|line| !line.contains("ssl_certificate") && !line.contains("listen "))
            .collect();
        Self::start(&map, &format!("{more}\n{}", server.join("\n"))).await
    }

    /// Starts nginx in front of the server at `port`, below [`PREFIX`].
    async fn before_prefix(port: u16) -> Self {
        let (map, _) = documented(0, port)
            .split_once("server {")
            .map(|(map, rest)| (map.to_owned(), rest.len()))
            .unwrap();
        let location = documented(1, port);
        assert!(location.starts_with(&format!("location {PREFIX}/ {{")), "{location}");
        Self::start(&map, &format!("server_name agent.example.org;\n{location}\n}}")).await
    }

    /// Starts nginx with `map` before its only `server` block and `server` inside it.
    async fn start(map: &str, server: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {path}/{what};"))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr notice;\n\
             events {{}}\nhttp {{ access_log off; {temporary}\n{map}\nserver {{\nlisten unix:{path}/nginx.sock;\n{server} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut process = Command::new("sh")
            .args(["-c", "PATH=$PATH:/usr/sbin; exec nginx -c \"$0\" -p \"$1\" -e stderr"])
            .args([&file, directory.path()])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut output = String::new();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                output += &(line + "\n");
                // nginx prints this when its sockets listen.
                if output.contains("OS: ") {
                    return;
                }
            }
            panic!("nginx, which this test needs, did not start: {output}");
        };
        tokio::time::timeout(LIMIT, listening).await.expect("nginx did not start in time");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { _process: process, directory }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("nginx.sock")
    }

    /// Returns a local port that forwards to the socket, for programs that do not support Unix sockets.
    async fn port(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, socket) = (listener.local_addr().unwrap().port(), self.socket());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let socket = socket.clone();
                tokio::spawn(async move {
                    let mut far = UnixStream::connect(socket).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        port
    }

    /// Returns the URL of the server's `ws` or `sse` through nginx.
    fn url(&self, scheme: &str, path: &str) -> Endpoint {
        format!("{scheme}-unix:{}:/{path}", self.socket().display()).parse().unwrap()
    }
}

/// Returns the configuration of a server with the host name from the documentation.
fn named() -> ServerConfig {
    ServerConfig {
        // Clients on a Unix socket send `localhost`.
        hosts: vec!["agent.example.org".into(), "localhost".into()],
        origins: vec!["https://agent.example.org".into()],
        ..config()
    }
}

async fn head(socket: &Path, request: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the connection ended before a response"));
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("timed out waiting for a response");
    (stream, String::from_utf8(head).unwrap())
}

fn upgrade(more: &str) -> String {
    support::upgrade_of(more)
}

#[tokio::test]
async fn messages_of_all_sizes_are_delivered_at_once_with_and_without_a_session() {
    let served = serve(named()).await;
    let nginx = Nginx::before(served.port, "").await;
    messages_pass(served, &nginx, "").await;
}

/// nginx requires a password, and sends the server the token instead.
#[tokio::test]
async fn a_password_for_nginx_and_headers_are_sent() {
    let mut served = serve(named()).await;
    let passwords = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(passwords.path(), "me:{PLAIN}open sesame\n").unwrap();
    let server = format!(
        "location / {{ proxy_pass http://127.0.0.1:{}; proxy_http_version 1.1; proxy_buffering off;\n\
         auth_basic me; auth_basic_user_file {};\n\
         if ($http_x_api_key != abc) {{ return 418; }}\n\
         proxy_set_header Host $host; proxy_set_header Authorization \"Bearer {TOKEN}\";\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }}\n}}",
        served.port,
        passwords.path().display()
    );
    let map = "map $http_upgrade $connection_upgrade { default upgrade; '' close; }";
    let nginx = Nginx::start(map, &server).await;
    let client = |password, key| ClientConfig {
        basic: Some(BasicAuth::new("me", password).unwrap()),
        headers: vec![RequestHeader::new("X-Api-Key", key).unwrap()],
        ..ClientConfig::default()
    };
    for (scheme, path) in [("ws", "ws"), ("http", "sse")] {
        let (url, options) = (nginx.url(scheme, path), Options::default());
        for (password, key, status) in [("wrong", "abc", 401), ("open sesame", "wrong", 418)] {
            let registry = support::registry_with(client(password, key));
            let error = registry.connect(&url, &options).await.err().unwrap();
            assert!(error.to_string().contains(&format!("status {status}")), "{error}");
        }
        let registry = support::registry_with(client("open sesame", "abc"));
        let connecting = registry.connect(&url, &options);
        let (client, server) = tokio::join!(connecting, served.plain.accept());
        tokio::spawn(echo(server.unwrap()));
        let (mut sender, mut receiver) = client.unwrap().split();
        sender.send("hello").await.unwrap();
        assert_eq!(message(&mut receiver).await, "hello");
    }
}

/// Asserts that messages of all sizes are echoed over each transport below `prefix`.
async fn messages_pass(served: Served, nginx: &Nginx, prefix: &str) {
    let Served { web: _web, mut plain, resumable, .. } = served;
    tokio::spawn(async move {
        while let Ok(channel) = plain.accept().await {
            tokio::spawn(echo(channel));
        }
    });
    let acceptor: Box<dyn tieline_transport::DynAcceptor> = Box::new(resumable.unwrap());
    let options = SessionOptions::default();
    let mut sessions = Sessions::new(acceptor, options, LineOptions::default());
    tokio::spawn(async move {
        while let Ok(session) = Acceptor::accept(&mut sessions).await {
            tokio::spawn(echo(session));
        }
    });
    for (scheme, path) in
        [("ws", "ws"), ("resume+ws", "ws"), ("http", "sse"), ("resume+http", "sse")]
    {
        let url = nginx.url(scheme, &format!("{prefix}{path}"));
        let connector =
            tieline_link::connector(&registry(), &url, &Options::default(), options).unwrap();
        let (mut sender, mut receiver) = connector.connect().await.unwrap().split();
        // Messages are sent one at a time, so that one that is held back in a buffer would not arrive.
        for length in [1, 100, 5000, 70_000, 1 << 20] {
            let sent = Bytes::from(vec![b'x'; length]);
            let (sending, came) = tokio::join!(sender.send(sent.clone()), message(&mut receiver));
            sending.unwrap();
            assert!(came == sent, "{scheme} {length}");
        }
        sender.close().await.unwrap();
    }
}

/// Takes one second of real time, which is nginx's shortest timeout.
#[tokio::test]
async fn pings_keep_an_idle_line_open() {
    let mut config = named();
    let idle = Duration::from_millis(100);
    config.web_socket.heartbeat = Some(HeartbeatConfig { idle, ..HeartbeatConfig::default() });
    for (heartbeat, stays_open) in [(config.web_socket.heartbeat, true), (None, false)] {
        config.web_socket.heartbeat = heartbeat;
        let mut served = serve(config.clone()).await;
        let nginx = Nginx::before(served.port, "proxy_read_timeout 1s;").await;
        let request = upgrade(&format!("Host: agent.example.org\r\n{BEARER}"));
        let (mut stream, answer) = head(&nginx.socket(), &request).await;
        assert_eq!(status_of(&answer), 101, "{answer}");
        let echoing = tokio::spawn(echo(served.plain.accept().await.unwrap()));
        if stays_open {
            // Fifteen pings, 100 ms apart, take longer than nginx's timeout.
            for _ in 0..15 {
                let mut ping = [0; 2];
                stream.read_exact(&mut ping).await.unwrap();
                assert_eq!(ping, [0x89, 0]);
                stream.write_all(&frame(0x8a, b"")).await.unwrap();
            }
            stream.write_all(&frame(0x81, b"still here")).await.unwrap();
            let mut echoed = [0; 12];
            stream.read_exact(&mut echoed).await.unwrap();
            assert_eq!(&echoed[2..], b"still here");
        } else {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            let reason = tokio::time::timeout(LIMIT, echoing).await.unwrap().unwrap();
            assert!(!reason.is_clean(), "{reason}");
        }
    }
}

#[tokio::test]
async fn forwarding_headers_do_not_affect_access_control() {
    let mut served = serve(named()).await;
    let nginx = Nginx::before(served.port, "").await;
    let forwarded = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: agent.example.org\r\n\
                     X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 127.0.0.1\r\n\
                     Forwarded: for=127.0.0.1;host=agent.example.org;proto=https\r\n";
    let ours = "Host: agent.example.org\r\n";
    let page = "Origin: https://agent.example.org\r\n";
    for (more, status) in [
        (format!("{ours}{BEARER}"), 101),
        (format!("{ours}{page}{BEARER}"), 101),
        (format!("Host: AGENT.example.org:443\r\n{page}{BEARER}"), 101),
        (format!("{ours}{forwarded}{BEARER}"), 101),
        // Forwarding headers do not admit a request.
        (format!("{ours}{forwarded}"), 401),
        (format!("Host: evil.example\r\n{forwarded}{BEARER}"), 403),
        (format!("{ours}Origin: https://evil.example\r\n{forwarded}{BEARER}"), 403),
        // nginx's own address does not admit one, either.
        (format!("Host: 127.0.0.1\r\n{BEARER}"), 403),
        (format!("{ours}Origin: http://127.0.0.1:{}\r\n{BEARER}", served.port), 403),
        // A page over plain HTTP has a foreign origin, although TLS ends at nginx.
        (format!("{ours}Origin: http://evil.example\r\n{BEARER}"), 403),
        // Forwarding headers do not cause a refusal, either.
        (
            format!(
                "{ours}X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Host: evil.example\r\n{BEARER}"
            ),
            101,
        ),
    ] {
        let (_stream, answer) = head(&nginx.socket(), &upgrade(&more)).await;
        assert_eq!(status_of(&answer), status, "{more}: {answer}");
        if status == 101 {
            served.plain.accept().await.unwrap();
        }
    }
    // A browser opens the one-time URL, with nginx's host name in it.
    let url = served.web.one_time_url().unwrap().unwrap();
    let path = url.splitn(4, '/').nth(3).unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\n{ours}Accept: text/html\r\n\r\n");
    let (_stream, answer) = head(&nginx.socket(), &request).await;
    assert_eq!(status_of(&answer), 303, "{answer}");
    // The redirect does not lead to another host or to the server's own port.
    assert!(answer.to_lowercase().contains("\r\nlocation: ./\r\n"), "{answer}");
    let cookie = answer.split("et-cookie: ").nth(1).or_else(|| answer.split("et-Cookie: ").nth(1));
    let cookie = cookie.unwrap().split(';').next().unwrap();
    let (_stream, answer) =
        head(&nginx.socket(), &upgrade(&format!("{ours}{page}Cookie: {cookie}\r\n"))).await;
    assert_eq!(status_of(&answer), 101, "{answer}");
}

fn public() -> ServerConfig {
    let public_url = Some(format!("https://agent.example.org{PREFIX}").parse().unwrap());
    let hosts = vec!["localhost".into()];
    ServerConfig { hosts, public_url, ..config() }
}

#[tokio::test]
async fn messages_are_delivered_below_a_prefix_with_and_without_a_public_url() {
    for config in [named(), public()] {
        let served = serve(config).await;
        let nginx = Nginx::before_prefix(served.port).await;
        messages_pass(served, &nginx, &format!("{}/", &PREFIX[1..])).await;
    }
}

/// A proxy may pass on the prefix instead of stripping it.
#[tokio::test]
async fn a_prefix_that_is_not_stripped_is_accepted() {
    let mut served = serve(public()).await;
    let host = "Host: agent.example.org\r\n";
    for (path, status) in [
        (format!("{PREFIX}/health"), 200),
        (format!("{PREFIX}/"), 200),
        ("/".to_owned(), 200),
        (format!("{PREFIX}/page.js"), 200),
        (format!("{PREFIX}/nothing"), 404),
        (format!("{PREFIX}x/health"), 404),
        (format!("{PREFIX}{PREFIX}/health"), 404),
        (PREFIX.to_owned(), 308),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\n{host}{BEARER}\r\n");
        let answer = served.ask(request).await;
        assert_eq!(status_of(&answer), status, "{path}: {answer}");
    }
    let upgrade = upgrade(&format!("{host}{BEARER}")).replace("/ws", &format!("{PREFIX}/ws"));
    assert_eq!(status_of(&served.ask(upgrade).await), 101);
    served.plain.accept().await.unwrap();
    // The prefix bypasses no check: a foreign page cannot start anything.
    let foreign = "Origin: https://evil.example\r\n";
    let request = format!("GET {PREFIX}/sse HTTP/1.1\r\n{host}{foreign}{BEARER}\r\n");
    assert_eq!(status_of(&served.ask(request).await), 403);
    let fetched = "Sec-Fetch-Site: cross-site\r\n";
    for path in [&format!("{PREFIX}/sse"), "/sse"] {
        let request = format!("GET {path} HTTP/1.1\r\n{host}{fetched}{BEARER}\r\n");
        assert_eq!(status_of(&served.ask(request).await), 403, "{path}");
    }
    // A browser opens the URL without the final slash.
    let url = served.web.one_time_url().unwrap().unwrap();
    let key = url.strip_prefix(&format!("https://agent.example.org{PREFIX}/?key=")).unwrap();
    let request = format!("GET {PREFIX}?key={key} HTTP/1.1\r\n{host}\r\n");
    let answer = served.ask(request).await;
    assert_eq!(status_of(&answer), 308, "{answer}");
    assert!(answer.contains(&format!("\r\nlocation: {PREFIX}/?key={key}\r\n")), "{answer}");
    let request = format!("GET {PREFIX}/?key={key} HTTP/1.1\r\n{host}\r\n");
    let answer = served.ask(request).await;
    assert_eq!(status_of(&answer), 303, "{answer}");
    assert!(answer.contains("\r\nlocation: ./\r\n"), "{answer}");
    let attributes =
        format!("; HttpOnly; SameSite=Strict; Max-Age=34560000; Path={PREFIX}/; Secure\r\n");
    assert!(answer.contains(&attributes), "{answer}");
}

/// The MCP SDK's client finds the URL for POST requests below a prefix. The messages go to the SDK's own server.
#[tokio::test]
async fn the_mcp_sdk_client_works_below_a_prefix() {
    let mut served = serve(ServerConfig { hosts: vec!["127.0.0.1".into()], ..config() }).await;
    served.resumable = None;
    let nginx = Nginx::before_prefix(served.port).await;
    let url = format!("http://127.0.0.1:{}{PREFIX}/sse", nginx.port().await);
    let serving = sdk_behind(&mut served);
    let mut command = node();
    command.args(["mcp", &url, TOKEN]);
    let both = async { tokio::join!(prints_ok(command), serving) };
    tokio::time::timeout(LIMIT, both).await.expect("timed out");
}
