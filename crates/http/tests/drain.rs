//! Tests that clients that write their whole body before they read receive a response that was sent
//! earlier.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::{BEARER, LIMIT, Served, config, head, serve, status_of, tls};
use tieline_http::ServerConfig;
use tieline_proto::ByteSize;
use tieline_testkit::clock::{FastClock, assert_took};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// The length of a body, which is more than all buffers between two sockets hold.
const LENGTH: usize = 20 << 20;

fn small(config: ServerConfig) -> ServerConfig {
    let mut config = config;
    config.web_socket.channel.max_message = ByteSize::mib(1);
    config.limits.body_bytes = ByteSize::new(0);
    config.limits.rpc_calls = 1;
    config.limits.post_wait = Duration::from_millis(50);
    config
}

/// Writes the request head and the whole body, and only then reads the response head.
async fn write_then_read(served: &Served, head_lines: &str, body: &[u8]) -> String {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        stream.write_all(head_lines.as_bytes()).await.expect("cannot write the head");
        if let Err(error) = stream.write_all(body).await {
            panic!("{head_lines:.200}: {error}");
        }
        head(&mut stream).await
    };
    timeout(LIMIT, asking).await.expect("timed out")
}

#[tokio::test]
async fn every_early_response_arrives_after_the_whole_body() {
    let served = serve(small(config())).await;
    let host = format!("Host: 127.0.0.1:{}\r\n", served.port);
    let length = format!("Content-Length: {LENGTH}\r\n");
    let body = vec![b'x'; LENGTH];
    for (request, headers, status) in [
        ("POST /rpc", host.clone(), 401),
        ("POST /sse?session=none", host.clone(), 401),
        ("POST /rpc", format!("{host}Authorization: Bearer wrong-wrong-wrong-wrong\r\n"), 401),
        ("GET /?key=none", host.clone(), 403),
        ("POST /rpc", format!("Host: evil.example\r\n{BEARER}"), 403),
        ("POST /rpc", format!("{host}Origin: https://evil.example\r\n{BEARER}"), 403),
        ("POST /rpc", format!("{host}{host}{BEARER}"), 400),
        ("POST /nothing", format!("{host}{BEARER}"), 404),
        ("POST /sse?session=none", format!("{host}{BEARER}"), 404),
        ("DELETE /sse?session=none", format!("{host}{BEARER}"), 404),
        ("PUT /sse", format!("{host}{BEARER}"), 405),
        ("PUT /rpc", format!("{host}{BEARER}"), 405),
        ("POST /rpc", format!("{host}{BEARER}"), 413),
        ("POST /ws", format!("{host}{BEARER}"), 405),
        ("GET /ws", format!("{host}{BEARER}Upgrade: websocket\r\nConnection: Upgrade\r\n"), 400),
        ("GET /ws", format!("{host}Upgrade: websocket\r\nConnection: Upgrade\r\n"), 401),
        ("GET /sse", format!("{host}{BEARER}Tieline-Protocol: other\r\n"), 400),
        ("GET /health", host.clone(), 200),
        ("GET /metrics", format!("{host}{BEARER}"), 200),
        // The HTTP layer refuses these requests.
        ("POST /rpc", format!("{host}X: {}\r\n", "x".repeat(40_000)), 431),
        ("POST /rpc", format!("{host}no header\r\n"), 400),
    ] {
        let request = format!("{request} HTTP/1.1\r\n{length}{headers}\r\n");
        let answer = write_then_read(&served, &request, &body).await;
        assert_eq!(status_of(&answer), status, "{request:.200}: {answer}");
        if request.contains("Upgrade:") {
            continue;
        }
        let closes = answer.to_lowercase().contains("\r\nconnection: close\r\n");
        assert!(closes, "{request:.200}: {answer}");
    }
}

#[tokio::test]
async fn a_response_in_the_middle_of_a_body_arrives_after_it() {
    let mut served = serve(small(config())).await;
    served.resumable = None;
    let host = format!("Host: 127.0.0.1:{}\r\n", served.port);
    let chunk = format!("{LENGTH:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(LENGTH));
    let chunked = format!("POST /rpc HTTP/1.1\r\n{host}{BEARER}Transfer-Encoding: chunked\r\n\r\n");
    let answer = write_then_read(&served, &chunked, chunk.as_bytes()).await;
    assert_eq!(status_of(&answer), 413, "{answer}");
    // One call is in progress and uses all the memory for bodies; the next requests are refused with
    // 503.
    let stream = support::events::Stream::open(served.port, "").await.unwrap();
    let part = vec![b'x'; 1 << 20];
    let head_of = |path: &str| {
        format!("POST {path} HTTP/1.1\r\n{host}{BEARER}Content-Length: {}\r\n\r\n", part.len())
    };
    let mut slow = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    slow.write_all(head_of("/rpc").as_bytes()).await.unwrap();
    slow.write_all(&part[1..]).await.unwrap();
    let busy = async {
        while served.web.counts().body_bytes == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, busy).await.expect("the call did not start");
    for path in ["/rpc", &stream.uri] {
        let answer = write_then_read(&served, &head_of(path), &part).await;
        assert_eq!(status_of(&answer), 503, "{path}: {answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{path}: {answer}");
    }
}

/// The client sends frames before the upgrade is answered.
#[tokio::test]
async fn a_refused_web_socket_receives_its_response_after_its_frames() {
    let served = serve(config()).await;
    let mut frames = support::frame(0x82, &vec![b'x'; 1 << 20]);
    frames = frames.repeat(LENGTH >> 20);
    for (more, status) in [("", 401), ("Origin: https://evil.example\r\n", 403)] {
        let request = support::upgrade(served.port, more);
        let answer = write_then_read(&served, &request, &frames).await;
        assert_eq!(status_of(&answer), status, "{answer}");
    }
}

/// The connection is reused if the body was short or was read completely.
#[tokio::test]
async fn a_connection_is_kept_if_no_part_of_the_body_is_unread() {
    let served = serve(small(config())).await;
    let host = format!("Host: 127.0.0.1:{}\r\n", served.port);
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    for (path, body, status) in [
        ("/sse?session=none", "short".to_owned(), 404),
        ("/rpc", "no JSON".repeat(100_000), 400),
        ("/sse?session=none", "short".to_owned(), 404),
    ] {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\n{host}{BEARER}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await;
        assert_eq!(status_of(&answer), status, "{answer}");
        let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
    }
}

/// Uses third-party clients, with and without TLS. Under Wine, Linux programs are not found.
#[cfg(unix)]
#[tokio::test]
async fn curl_and_urllib_see_the_status() {
    use std::process::Stdio;
    use support::TOKEN;
    use tokio::process::Command;

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'x'; LENGTH]).unwrap();
    let script = "import ssl,sys,urllib.request,urllib.error\n\
                  url, token, file, ca = sys.argv[1:]\n\
                  context = ssl.create_default_context(cafile=ca)\n\
                  headers = {'Authorization': 'Bearer ' + token, 'Content-Type': 'text/plain'}\n\
                  body = open(file, 'rb').read()\n\
                  try: urllib.request.urlopen(urllib.request.Request(url, body, headers), context=context)\n\
                  except urllib.error.HTTPError as e: print(e.code, end='')\n";
    let ca = support::file("root.pem");
    for (scheme, config) in [("http", config()), ("https", tls(None))] {
        let served = serve(small(config)).await;
        for (path, token, status) in [
            ("/rpc", "wrong-wrong-wrong-wrong", "401"),
            ("/nothing", TOKEN, "404"),
            ("/rpc", TOKEN, "413"),
        ] {
            let url = format!("{scheme}://127.0.0.1:{}{path}", served.port);
            let mut python = Command::new("python3");
            python.args(["-c", script, &url, token]).arg(file.path()).arg(&ca);
            let mut commands = vec![python];
            // curl sends `Expect: 100-continue` by default; the second value removes it.
            for expect in ["Expect: 100-continue", "Expect:"] {
                let mut curl = Command::new("curl");
                curl.args(["--silent", "--show-error", "--write-out", "%{http_code}", "--output"]);
                curl.args(["/dev/null", "--header", expect, "--max-time", "60", "--http1.1"]);
                curl.args(["--header", &format!("Authorization: Bearer {token}"), "--cacert"]);
                curl.arg(&ca).arg("--data-binary").arg(format!("@{}", file.path().display()));
                curl.arg(&url);
                commands.push(curl);
            }
            for mut command in commands {
                let running = command.kill_on_drop(true).stdin(Stdio::null()).output();
                let output = timeout(LIMIT, running).await.expect("timed out").unwrap();
                let printed = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && printed == status, "{command:?}: {output:?}");
            }
        }
    }
}

/// A client that does not send a TLS handshake receives an alert.
#[tokio::test]
async fn a_client_without_a_tls_handshake_receives_its_alert_after_its_body() {
    let served = serve(tls(None)).await;
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        let head = format!("POST /rpc HTTP/1.1\r\nContent-Length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; LENGTH]).await.expect("cannot write the body");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(LIMIT, asking).await.expect("timed out");
    // The record is a fatal alert.
    assert_eq!((answer.first(), answer.get(5)), (Some(&21), Some(&2)), "{answer:?}");
}

#[tokio::test]
async fn no_more_than_the_limit_is_drained() {
    let mut config = small(config());
    config.limits.drain_bytes = ByteSize::new(0);
    let served = serve(config).await;
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let head = format!(
        "POST /rpc HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\n\r\n",
        served.port,
        1_u64 << 40
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let writing = async {
        let (chunk, mut written) = (vec![b'x'; 1 << 20], 0);
        while stream.write_all(&chunk).await.is_ok() {
            written += chunk.len();
        }
        written
    };
    // The server reads two messages, and the rest is in the system's buffers.
    let written = timeout(LIMIT, writing).await.expect("the server reads endlessly");
    assert!(written < 64 << 20, "{written}");
}

#[tokio::test]
async fn a_client_that_stops_sending_is_disconnected() {
    let _clock = FastClock::start();
    let served = serve(small(config())).await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let head_lines = format!(
        "POST /rpc HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {LENGTH}\r\n\r\n",
        served.port
    );
    stream.write_all(head_lines.as_bytes()).await.unwrap();
    assert_eq!(status_of(&head(&mut stream).await), 401);
    let gone = async {
        while served.web.counts().open > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("the connection was not closed");
    assert_took(begun.elapsed(), Duration::from_secs(5));
}
