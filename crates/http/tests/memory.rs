//! Tests that the memory that all lines of all kinds hold together is bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::events::{Stream, ask, post};
use support::{
    BEARER, LIMIT, Served, close_code, config, end, frame, message, registry, serve, status_of,
};
use tieline_http::ServerConfig;
use tieline_proto::ByteSize;
use tieline_transport::{
    Acceptor, BoxChannel, Channel, CloseReason, Incoming, MemoryBudget, Options, ReceiverExt,
    SenderExt,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MIB: usize = 1 << 20;

/// Starts a server whose lines may hold this much memory together.
async fn within(mib: usize) -> (Served, MemoryBudget) {
    let budget = MemoryBudget::new(ByteSize::mib(mib));
    let mut config = ServerConfig { memory: Some(budget.clone()), ..config() };
    // No line stalls in these tests.
    config.web_socket.channel.stall_timeout = 2 * LIMIT;
    let mut served = serve(config).await;
    served.resumable = None;
    (served, budget)
}

/// Waits until the used memory satisfies the condition.
async fn held(budget: &MemoryBudget, is_wanted: impl Fn(usize) -> bool) {
    let waiting = async {
        while !is_wanted(budget.used().bytes()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = timeout(LIMIT, waiting).await;
    waited.unwrap_or_else(|_| panic!("{} bytes are held", budget.used()));
}

fn most(budget: &MemoryBudget) -> usize {
    budget.limit().bytes() / 4 * 5
}

/// Returns the frames of a message of `length` bytes, without its last byte.
fn unfinished(length: usize, fragment: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, _) in (0..length).step_by(fragment).enumerate() {
        bytes.extend(frame(if number == 0 { 0x02 } else { 0x00 }, &vec![b'x'; fragment]));
    }
    bytes.truncate(bytes.len() - 1);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_web_socket_messages_are_bounded_together() {
    const LINES: usize = 60;
    for fragment in [4 * MIB, 128 * 1024] {
        let (mut served, budget) = within(64).await;
        let bytes: std::sync::Arc<[u8]> = unfinished(4 * MIB, fragment).into();
        let (mut receiving, mut sending) = (JoinSet::new(), JoinSet::new());
        let mut controls = Vec::new();
        for place in 0..LINES {
            let (mut stream, line) = served.raw().await;
            controls.push(line.control().clone());
            receiving.spawn(async move {
                let (_sender, mut receiver) = line.split();
                end(&mut receiver).await
            });
            let bytes = bytes.clone();
            sending.spawn(async move {
                // The server may refuse the message before everything is sent.
                let _ = stream.write_all(&bytes).await;
                (place, stream)
            });
        }
        let mut streams = sending.join_all().await;
        // Waits until each line was refused or has received everything.
        let ended = || controls.iter().filter(|it| it.close_reason().is_some()).count();
        let settled = async {
            let is_whole = |bytes_in: u64| bytes_in >= bytes.len() as u64;
            while budget.refused() != ended() as u64
                || !controls
                    .iter()
                    .all(|it| it.close_reason().is_some() || is_whole(it.info().bytes_in))
            {
                assert!(budget.used().bytes() <= most(&budget), "{fragment}: {}", budget.used());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, settled).await.expect("some lines were neither received nor refused");
        assert!(budget.used().bytes() <= most(&budget), "{fragment}: {}", budget.used());
        assert!((LINES - 20..LINES).contains(&ended()), "{fragment}: {}", ended());
        streams.retain_mut(|(place, _)| controls[*place].close_reason().is_none());
        let refused = ended();
        for _ in 0..refused {
            let reason = receiving.join_next().await.unwrap().unwrap();
            assert!(matches!(reason, CloseReason::NoMemory(_)), "{fragment}: {reason}");
        }
        let kept = streams;
        // Small messages are still delivered, and all memory is released in the end.
        let (client, line) = served.pair().await;
        let (mut sender, (_out, mut receiver)) = (client.split().0, line.split());
        sender.send("small").await.unwrap();
        assert_eq!(message(&mut receiver).await, "small");
        drop(kept);
        receiving.join_all().await;
        held(&budget, |bytes| bytes == 0).await;
    }
}

#[tokio::test]
async fn the_largest_message_is_refused_and_smaller_ones_arrive() {
    let (mut served, budget) = within(8).await;
    let (mut large, large_line) = served.raw().await;
    let (mut small, small_line) = served.raw().await;
    let ((_one, mut large_in), (_other, mut small_in)) = (large_line.split(), small_line.split());
    let whole = frame(0x82, &vec![b'x'; 2 * MIB]);
    let part = frame(0x82, &vec![b'x'; 6 * MIB]);
    let reading = async {
        large.write_all(&part[..5 * MIB]).await.unwrap();
        held(&budget, |bytes| bytes > 4 * MIB).await;
        small.write_all(&whole).await.unwrap();
        small
    };
    let refused = end(&mut large_in);
    let came = message(&mut small_in);
    let (_small, reason, came) = tokio::join!(reading, refused, came);
    assert!(matches!(reason, CloseReason::NoMemory(_)), "{reason}");
    assert!(reason.to_string().contains("out of memory"), "{reason}");
    assert_eq!(came.len(), 2 * MIB);
}

#[tokio::test]
async fn bodies_of_post_requests_are_counted() {
    let (mut served, budget) = within(4).await;
    let stream = Stream::open(served.port, "").await.unwrap();
    let line: BoxChannel = served.plain.accept().await.unwrap().boxed();
    let (_sender, mut receiver) = line.split();
    let body = vec![b'x'; 6 * MIB];
    assert_eq!(status_of(&post(served.port, &stream.uri, &body, "").await), 503);
    assert!(budget.refused() > 0);
    held(&budget, |bytes| bytes == 0).await;
    let (answer, came) =
        tokio::join!(post(served.port, &stream.uri, &body[..MIB], ""), message(&mut receiver));
    assert_eq!((status_of(&answer), came.len()), (202, MIB));
}

/// No client reads, so messages wait in the queues of WebSockets and of event streams.
#[tokio::test]
async fn queues_for_slow_readers_are_counted() {
    const LENGTH: usize = 12 * MIB;
    for events in [false, true] {
        let (mut served, budget) = within(20).await;
        let mut readers = Vec::new();
        let mut lines: Vec<BoxChannel> = Vec::new();
        for _ in 0..3 {
            let line = if events {
                let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
                let host = format!("Host: 127.0.0.1:{}\r\n", served.port);
                let request = format!("GET /sse HTTP/1.1\r\n{host}{BEARER}\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                readers.push(stream);
                served.plain.accept().await.unwrap().boxed()
            } else {
                let (stream, line) = served.raw().await;
                readers.push(stream);
                line.boxed()
            };
            lines.push(line);
        }
        let mut sending = JoinSet::new();
        for line in lines {
            sending.spawn(async move {
                let (mut sender, _receiver) = line.split();
                sender.send(vec![b'x'; LENGTH]).await
            });
        }
        let first = timeout(LIMIT, sending.join_next()).await.expect("no line was refused");
        let error = first.unwrap().unwrap().unwrap_err();
        let reason = error.close_reason().unwrap();
        assert!(matches!(reason, CloseReason::NoMemory(_)), "{events}: {reason}");
        assert!(budget.used().bytes() <= most(&budget), "{events}: {}", budget.used());
        sending.shutdown().await;
        drop(readers);
        held(&budget, |bytes| bytes == 0).await;
    }
}

/// The client has a memory limit, too.
#[tokio::test]
async fn a_client_refuses_messages_beyond_its_memory() {
    let mut served = serve(config()).await;
    served.resumable = None;
    let budget = MemoryBudget::new(ByteSize::mib(2));
    let options = Options { memory: Some(budget.clone()), ..Options::default() };
    let (url, registry) = (served.url(), registry());
    let connecting = registry.connect(&url, &options);
    let (client, server) = tokio::join!(connecting, served.plain.accept());
    let ((_out, mut receiver), (mut sender, _in)) =
        (client.unwrap().split(), server.unwrap().split());
    let sending = async { _ = sender.send(vec![b'x'; 8 * MIB]).await };
    let ((), reason) = tokio::join!(sending, end(&mut receiver));
    assert!(matches!(reason, CloseReason::NoMemory(_)), "{reason}");
}

#[tokio::test]
async fn a_web_socket_refused_for_memory_closes_with_1013() {
    let (mut served, _budget) = within(1).await;
    let (mut stream, line) = served.raw().await;
    let (_sender, mut receiver) = line.split();
    let closing = async {
        let _ = stream.write_all(&unfinished(4 * MIB, 4 * MIB)).await;
        close_code(&mut stream).await
    };
    let (code, reason) = tokio::join!(closing, end(&mut receiver));
    assert_eq!(code, Some(1013));
    assert!(matches!(reason, CloseReason::NoMemory(_)), "{reason}");
}

/// Each response fits, but all responses of a batch together do not.
#[tokio::test]
async fn responses_to_a_batch_are_counted_until_the_client_has_them() {
    let (mut served, budget) = within(4).await;
    let port = served.port;
    let request = |id: usize| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
    for (requests, status) in [(1, 200), (8, 503)] {
        let batch = (0..requests).map(request).collect::<Vec<_>>().join(",");
        let serving = async {
            let line: BoxChannel = served.plain.accept().await.unwrap().boxed();
            let (mut sender, mut receiver) = line.split();
            for id in 0..requests {
                if let Incoming::End(reason) = receiver.recv().await {
                    return reason;
                }
                let long = "x".repeat(MIB);
                let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"{long}"}}"#);
                if sender.send(answer).await.is_err() {
                    break;
                }
            }
            end(&mut receiver).await
        };
        let more = format!("Authorization: Bearer {}\r\n", support::TOKEN);
        let asking = ask("POST", port, "/rpc", format!("[{batch}]"), &more);
        let ((head, body), reason) = tokio::join!(asking, serving);
        assert_eq!(status_of(&head), status, "{reason}");
        assert_eq!(body.len() > MIB, status == 200, "{}", body.len());
        if status == 503 {
            assert!(body.contains("the response was lost"), "{body}");
            assert!((1..=8).contains(&served.web.counts().lost), "{:?}", served.web.counts());
        }
        held(&budget, |bytes| bytes == 0).await;
    }
}
