//! Tests of the memory that the request bodies of all connections use together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;
use std::time::Duration;

use support::events::{Stream, ask, post};
use support::{BEARER, LIMIT, Served, config, head_at_any_time, message, serve, status, status_of};
use tieline_http::{ServerConfig, WebLine};
use tieline_proto::ByteSize;
use tieline_testkit::clock::{FastClock, assert_took};
use tieline_transport::{Acceptor, BoxChannel, Channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Returns a configuration with messages up to 1 MiB, and with memory for only one body of that size at
/// a time.
fn tight() -> ServerConfig {
    let mut config = config();
    config.web_socket.channel.max_message = ByteSize::mib(1);
    config.limits.body_bytes = ByteSize::new(0);
    config.limits.post_wait = LIMIT;
    config
}

async fn plain(config: ServerConfig) -> Served {
    let mut served = serve(config).await;
    served.resumable = None;
    served
}

async fn pair(served: &mut Served) -> (Stream, BoxChannel) {
    let stream = Stream::open(served.port, "").await.unwrap();
    (stream, WebLine::boxed(served.plain.accept().await.unwrap()))
}

/// Starts a POST whose Content-Length is `length`, and sends only `sent`.
async fn begun(port: u16, uri: &str, length: usize, sent: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!(
        "POST {uri} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{BEARER}Content-Length: {length}\r\n\r\n"
    );
    let _ = socket.write_all(head.as_bytes()).await;
    // The server may refuse the POST before everything is sent.
    let _ = socket.write_all(sent).await;
    socket
}

/// Waits until the memory that bodies hold satisfies the condition.
async fn held(served: &Served, is_wanted: impl Fn(u64) -> bool) {
    let waiting = async {
        while !is_wanted(served.web.counts().body_bytes) {
            // Sleeps in real time, even if the test's time is paused.
            let pause = || std::thread::sleep(Duration::from_millis(1));
            tokio::task::spawn_blocking(pause).await.unwrap();
        }
    };
    let waited = timeout(LIMIT, waiting).await;
    waited.unwrap_or_else(|_| panic!("{} bytes are held", served.web.counts().body_bytes));
}

/// Returns the peak resident memory of this process, in MiB.
fn most_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bodies_use_bounded_memory_and_do_not_block_short_ones() {
    const MANY: usize = 64;
    const LENGTH: usize = 4 << 20;
    let mut config = config();
    config.web_socket.channel.max_message = ByteSize::mib(4);
    config.limits.body_bytes = ByteSize::mib(4);
    config.limits.post_wait = Duration::from_millis(100);
    let mut served = plain(config).await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    let body: std::sync::Arc<[u8]> = vec![b'x'; LENGTH - 1].into();
    let before = most_resident();
    let (mut slow, port) = (JoinSet::new(), served.port);
    for _ in 0..MANY {
        let (body, uri) = (body.clone(), stream.uri.clone());
        slow.spawn(async move {
            let mut socket = begun(port, &uri, LENGTH, &body).await;
            // Two of them get no response before all others were refused.
            head_at_any_time(&mut socket).await
        });
    }
    // Two bodies of maximum length fit.
    for _ in 0..MANY - 2 {
        let answer = timeout(LIMIT, slow.join_next())
            .await
            .expect("timed out waiting for a response")
            .unwrap()
            .unwrap();
        // Other systems may drop a response to a client that is still sending.
        if cfg!(target_os = "linux") || !answer.is_empty() {
            assert_eq!(status_of(&answer), 503, "{answer}");
            assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        }
    }
    held(&served, |bytes| bytes >= 4 << 20).await;
    assert!(served.web.counts().body_bytes <= 9 << 20, "{:?}", served.web.counts());
    assert!(served.web.counts().refused_busy >= MANY as u64 - 2);
    if let (Some(before), Some(after)) = (before, most_resident()) {
        println!("{before} MiB before, {after} MiB after");
        assert!(after - before < 48, "{before} MiB before and {after} after");
    }
    assert_eq!(status_of(&stream.post("short", "").await), 202);
    assert_eq!(message(&mut receiver).await, "short");
    let (_, metrics) = ask("GET", port, "/metrics", "", BEARER).await;
    assert!(metrics.contains("tieline_web_body_bytes "), "{metrics}");
    // All memory is released, and new bodies fit.
    slow.shutdown().await;
    held(&served, |bytes| bytes == 0).await;
    assert_eq!(status_of(&stream.post(&body, "").await), 202);
    assert_eq!(message(&mut receiver).await.len(), body.len());
    held(&served, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn a_body_of_maximum_length_fits_with_every_limit() {
    let mut served = plain(tight()).await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    let framed = |length: usize| [&(length as u32).to_be_bytes()[..], &vec![b'x'; length]].concat();
    let most = 1 << 20;
    let body = [framed(most), framed((256 << 10) - 8)].concat();
    assert_eq!(body.len(), most + (256 << 10));
    let frames = "Content-Type: application/vnd.tieline.frames\r\n";
    for body in [vec![b'x'; most], body] {
        let more = if body[0] == b'x' { "" } else { frames };
        let answering = stream.post(&body, more);
        let (answer, first) = tokio::join!(answering, message(&mut receiver));
        assert_eq!((status_of(&answer), first.len()), (202, most));
    }
    assert_eq!(message(&mut receiver).await.len(), (256 << 10) - 8);
}

#[tokio::test]
async fn short_bodies_do_not_count_against_the_limit() {
    const SHORT: usize = 16 << 10;
    let mut served = plain(tight()).await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    let (port, uri, long) = (served.port, &stream.uri, 1 << 20);
    let mut slow = vec![begun(port, uri, long, &vec![b'x'; 600 << 10]).await];
    for _ in 0..17 {
        slow.push(begun(port, uri, long, &vec![b'x'; SHORT + 1]).await);
    }
    // Only the allowance for session frame headers is left.
    held(&served, |bytes| bytes == (1 << 20) + (256 << 10)).await;
    assert_eq!(status_of(&stream.post("x".repeat(SHORT), "").await), 202);
    assert_eq!(message(&mut receiver).await.len(), SHORT);
    drop(slow);
    held(&served, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn a_waiting_body_continues_when_another_is_released() {
    let mut served = plain(tight()).await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    let body = vec![b'x'; 1 << 20];
    let slow = begun(served.port, &stream.uri, body.len(), &body[..600 << 10]).await;
    let whole = (1 << 20) - (16 << 10);
    held(&served, |bytes| bytes == whole).await;
    let mut answering = pin!(stream.post(&body, ""));
    let waiting = async {
        // The waiting body has started and has reserved the rest of the memory. Meanwhile, short bodies
        // are accepted.
        held(&served, |bytes| bytes > whole + (240 << 10)).await;
        for _ in 0..20 {
            assert_eq!(status_of(&stream.post("brief", "").await), 202);
            assert_eq!(message(&mut receiver).await, "brief");
        }
    };
    tokio::select! {
        answer = &mut answering => panic!("the body did not wait: {answer}"),
        () = waiting => {}
    }
    drop(slow);
    let answer = answering.await;
    assert_eq!(status_of(&answer), 202, "{answer}");
    assert_eq!(message(&mut receiver).await.len(), body.len());
    held(&served, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn memory_is_released_in_every_way_that_a_body_can_end() {
    let mut served = plain(tight()).await;
    let (stream, line) = pair(&mut served).await;
    let (port, uri) = (served.port, stream.uri.clone());
    let part = vec![b'x'; 100 << 10];
    let chunks = |chunk: &str| {
        let head = format!(
            "POST {uri} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{BEARER}Transfer-Encoding: chunked\r\n\r\n"
        );
        let part = String::from_utf8(part.clone()).unwrap();
        format!("{head}{:x}\r\n{part}\r\n{chunk}", part.len())
    };
    // The client disconnects.
    let gone = begun(port, &uri, 1 << 20, &part).await;
    held(&served, |bytes| bytes > 0).await;
    drop(gone);
    held(&served, |bytes| bytes == 0).await;
    // The body is malformed.
    let mut broken = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    broken.write_all(chunks("").as_bytes()).await.unwrap();
    held(&served, |bytes| bytes > 0).await;
    broken.write_all(b"no length\r\n").await.unwrap();
    assert_eq!(status(&mut broken).await, 400);
    held(&served, |bytes| bytes == 0).await;
    // The body is too long.
    let too_long = chunks(&format!("{:x}\r\n{}\r\n0\r\n\r\n", 1 << 20, "x".repeat(1 << 20)));
    assert_eq!(status_of(&served.ask(too_long).await), 413);
    held(&served, |bytes| bytes == 0).await;
    // The body is not valid JSON-RPC.
    assert_eq!(status_of(&ask("POST", port, "/rpc", &part, BEARER).await.0), 400);
    held(&served, |bytes| bytes == 0).await;
    // The line ends while the body waits in its queue.
    let (sender, receiver) = line.split();
    let full = stream.post(vec![b'x'; 300 << 10], "").await;
    assert_eq!(status_of(&full), 202);
    let mut waiting = begun(port, &uri, part.len(), &part).await;
    held(&served, |bytes| bytes > 0).await;
    drop((sender, receiver));
    assert!([404, 410].contains(&status(&mut waiting).await));
    held(&served, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_refused_and_released() {
    let _clock = FastClock::start();
    let mut served = plain(tight()).await;
    let (stream, _line) = pair(&mut served).await;
    let begun_at = Instant::now();
    let mut slow = begun(served.port, &stream.uri, 1 << 20, &vec![b'x'; 100 << 10]).await;
    held(&served, |bytes| bytes > 0).await;
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert_took(begun_at.elapsed(), Duration::from_secs(60));
    held(&served, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn a_call_holds_memory_until_its_line_has_received_it() {
    let mut config = tight();
    config.limits.rpc_timeout = 2 * LIMIT;
    let mut served = plain(config).await;
    let port = served.port;
    let long = "x".repeat(1 << 19);
    let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":["{long}"]}}"#);
    let half = begun(port, "/rpc", request.len(), &request.as_bytes()[..400 << 10]).await;
    held(&served, |bytes| bytes > 400 << 10).await;
    drop(half);
    held(&served, |bytes| bytes == 0).await;
    let _waiting = begun(port, "/rpc", request.len(), request.as_bytes()).await;
    let (_sender, mut receiver) = WebLine::boxed(served.plain.accept().await.unwrap()).split();
    assert_eq!(message(&mut receiver).await, request);
    // The call has no response yet.
    held(&served, |bytes| bytes == 0).await;
    assert_eq!(status_of(&post(port, "/sse?session=none", "", "").await), 404);
}
