//! Tests that a WebSocket between two tieline endpoints behaves like any other channel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use support::{LIMIT, Served, config, echo, end, message, serve};
use tieline_http::ServerConfig;
use tieline_proto::json::Limits;
use tieline_proto::{ByteSize, HeartbeatConfig};
use tieline_transport::{
    Channel, ChannelConfig, CloseReason, Incoming, Receiver, ReceiverExt, SendError, Sender,
    SenderExt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::frame;

#[tokio::test]
async fn messages_arrive_whole_and_in_order() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let server = tokio::spawn(echo(server));
    let control = client.control().clone();
    let (mut sender, mut receiver) = client.split();
    let lengths = [1, 125, 126, 127, 65_535, 65_536, 300_000, 2, 1 << 20];
    let messages = lengths.map(|length| Bytes::from(vec![b'x'; length]));
    let sending = async {
        for message in &messages {
            sender.send(message.clone()).await.unwrap();
        }
    };
    let receiving = async {
        for sent in &messages {
            assert!(message(&mut receiver).await == sent, "{} bytes", sent.len());
        }
    };
    tokio::join!(sending, receiving);
    // Bytes that are not UTF-8 are sent as a binary message.
    sender.send(&b"\xff\x00"[..]).await.unwrap();
    assert_eq!(message(&mut receiver).await, &b"\xff\x00"[..]);
    let info = control.info();
    assert_eq!((info.messages_out, info.messages_in, info.faults), (10, 10, 0));
    assert!(info.bytes_in > 1 << 20 && info.bytes_out > info.bytes_in);
    sender.close().await.unwrap();
    assert!(matches!(end(&mut receiver).await, CloseReason::ByUs));
    assert!(matches!(server.await.unwrap(), CloseReason::ByPeer));
}

#[tokio::test]
async fn messages_sent_before_a_close_arrive() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let (mut client, mut from_server) = client.split();
    let (mut server, mut from_client) = server.split();
    for number in 0..1000 {
        server.feed(format!("{number}")).await.unwrap();
    }
    client.send("done").await.unwrap();
    client.close().await.unwrap();
    assert_eq!(message(&mut from_client).await, "done");
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    let closing = async {
        server.close().await.unwrap();
        end(&mut from_client).await
    };
    let (reason, ()) = tokio::join!(closing, async {
        for number in 0..1000 {
            assert_eq!(message(&mut from_server).await, format!("{number}"));
        }
        assert!(matches!(end(&mut from_server).await, CloseReason::ByUs));
    });
    assert!(matches!(reason, CloseReason::ByPeer));
    match server.send("too late").await {
        Err(SendError::Closed(reason)) => assert!(matches!(*reason, CloseReason::ByUs)),
        other => panic!("{other:?}"),
    }
}

/// The number of messages that each side sends: more than all buffers between them can hold.
const TALK: usize = 200;

fn talk_about(number: usize) -> Bytes {
    format!("{number} {}", "x".repeat(256 * 1024)).into()
}

/// Sends all messages, and reads only while a write is blocked. Returns how many times a write was
/// blocked.
async fn sends_before_reading(sender: &mut impl Sender, receiver: &mut impl Receiver) -> usize {
    let (mut sent, mut received, mut waited) = (0, 0, 0);
    while sent < TALK || received < TALK {
        let next = poll_fn(|cx| {
            let written = match sent < TALK {
                true => sender.poll_ready(cx),
                false => sender.poll_flush(cx),
            };
            match written {
                Poll::Ready(Ok(())) if sent < TALK => return Poll::Ready(None),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => waited += 1,
            }
            receiver.poll_recv(cx).map(Some)
        });
        match tokio::time::timeout(LIMIT, next).await.expect("deadlock: both sides wait") {
            None => {
                sender.start_send(talk_about(sent)).unwrap();
                sent += 1;
            }
            Some(Incoming::Message(message)) => {
                assert!(message == talk_about(received), "{received}");
                received += 1;
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    sender.flush().await.unwrap();
    waited
}

/// Tests invariant 7 in ARCHITECTURE.md.
#[tokio::test]
async fn two_sides_that_write_before_they_read_do_not_deadlock() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let ((mut to_server, mut from_server), (mut to_client, mut from_client)) =
        (client.split(), server.split());
    let (client, server) = tokio::join!(
        sends_before_reading(&mut to_server, &mut from_server),
        sends_before_reading(&mut to_client, &mut from_client),
    );
    assert!(client > 0 && server > 0, "no write was ever blocked");
}

/// Each direction has its own task, so that each needs its own wakeup. The reading half must answer
/// pings while the writing half waits.
#[tokio::test]
async fn both_halves_are_woken_while_two_sides_write() {
    let mut config = config();
    let idle = std::time::Duration::from_millis(1);
    config.web_socket.heartbeat =
        Some(HeartbeatConfig { idle, misses: 1000, ..Default::default() });
    let mut served = serve(config).await;
    let (client, server) = served.pair().await;
    let mut tasks = tokio::task::JoinSet::new();
    for (mut sender, mut receiver) in [client.split(), server.boxed().split()] {
        let is_read = std::sync::Arc::new(tokio::sync::Notify::new());
        let all_is_read = is_read.clone();
        tasks.spawn(async move {
            for number in 0..TALK {
                sender.send(talk_about(number)).await.unwrap();
            }
            all_is_read.notified().await;
        });
        tasks.spawn(async move {
            for number in 0..TALK {
                assert!(message(&mut receiver).await == talk_about(number), "{number}");
                // All other tasks run first.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            is_read.notify_one();
        });
    }
    let talked = async {
        while let Some(talked) = tasks.join_next().await {
            talked.unwrap()
        }
    };
    tokio::time::timeout(LIMIT, talked).await.expect("deadlock: both sides wait");
}

#[tokio::test]
async fn several_messages_and_final_newlines_in_one_text_are_accepted() {
    let mut served = serve(config()).await;
    for (text, messages) in [
        ("{\"a\":1}\n", &["{\"a\":1}"][..]),
        ("{\"a\":1}\r\n{\"b\":2}\n\n{\"c\":3}", &["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]),
        // This message is joined into one line, because other framings require it.
        ("{\"a\":\n [1,\r\n 2]}\n", &["{\"a\":  [1,   2]}"]),
        ("\n", &[]),
        ("", &[]),
        (" plain text ", &["plain text"]),
    ] {
        let (mut stream, channel) = served.raw().await;
        stream.write_all(&frame(0x81, text.as_bytes())).await.unwrap();
        stream.write_all(&frame(0x82, b"after")).await.unwrap();
        let (_sender, mut receiver) = channel.split();
        for expected in messages.iter().chain(&["after"]) {
            assert_eq!(message(&mut receiver).await, *expected, "{text:?}");
        }
    }
}

#[tokio::test]
async fn anything_but_json_is_a_fault_if_json_is_required() {
    let config = ServerConfig { json: Some(Limits::default()), ..config() };
    let mut served = serve(config).await;
    let (mut stream, channel) = served.raw().await;
    let control = channel.control().clone();
    for payload in ["[1]", "no JSON", "{}\nnope\n[2]"] {
        stream.write_all(&frame(0x81, payload.as_bytes())).await.unwrap();
    }
    stream.write_all(&frame(0x82, b"\xff")).await.unwrap();
    stream.write_all(&frame(0x88, b"")).await.unwrap();
    let (_sender, mut receiver) = channel.split();
    let mut came = Vec::new();
    let reason = loop {
        match receiver.recv().await {
            Incoming::Message(message) => came.push(String::from_utf8(message.to_vec()).unwrap()),
            Incoming::Fault(_) => came.push("fault".into()),
            Incoming::End(reason) => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(came, ["[1]", "fault", "{}", "fault", "[2]", "fault"]);
    assert!(matches!(reason, CloseReason::ByPeer), "{reason}");
    assert_eq!(control.info().faults, 3);
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_does_not_end_the_line() {
    let mut config = config();
    config.web_socket.channel.max_message = ByteSize::kib(1);
    let mut served = serve(config).await;
    let (client, server) = served.pair().await;
    let (mut sender, _receiver) = server.split();
    for message in [Bytes::new(), Bytes::from(vec![b'x'; 1025])] {
        match sender.send(message.clone()).await {
            Err(SendError::Message(refused)) => assert_eq!(refused.message, message),
            other => panic!("{other:?}"),
        }
    }
    sender.send(vec![b'x'; 1024]).await.unwrap();
    let (_sender, mut receiver) = client.split();
    assert_eq!(message(&mut receiver).await.len(), 1024);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_carries_web_sockets_and_identifies_the_peer() {
    use tieline_transport::{Acceptor, Options};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a:b.sock");
    let config =
        ServerConfig::new(tieline_http::Place::Unix(path.clone().into()), support::token());
    let (web, mut plain, _resumable) = tieline_http::HttpServer::listen(config).await.unwrap();
    assert!(web.endpoint().to_string().starts_with("http-unix:/"), "{}", web.endpoint());
    assert_eq!(web.one_time_url().unwrap(), None);
    let url = format!("ws-unix:{}", path.display().to_string().replace(':', "%3A"));
    let (registry, options, url) = (support::registry(), Options::default(), url.parse().unwrap());
    let connecting = registry.connect(&url, &options);
    let (client, server) = tokio::join!(connecting, plain.accept());
    let (client, server) = (client.unwrap(), server.unwrap());
    for control in [client.control(), server.control()] {
        assert_eq!(control.peer().unwrap().pid, Some(std::process::id()));
    }
    tokio::spawn(echo(server));
    let (mut sender, mut receiver) = client.split();
    sender.send("hello").await.unwrap();
    assert_eq!(message(&mut receiver).await, "hello");
}

#[tokio::test]
async fn a_peer_that_does_not_read_ends_the_line_as_stalled() {
    let mut config = config();
    config.web_socket.channel = ChannelConfig {
        stall_timeout: std::time::Duration::from_millis(200),
        ..Default::default()
    };
    let mut served: Served = serve(config).await;
    let (_deaf, channel) = served.raw().await;
    let control = channel.control().clone();
    let (mut sender, mut receiver) = channel.split();
    // A pending receive ends as well.
    let waiting = tokio::spawn(async move { end(&mut receiver).await });
    let reason = loop {
        match sender.send(vec![b'x'; 100_000]).await {
            Ok(()) => {}
            Err(SendError::Closed(reason)) => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(*reason, CloseReason::Stalled), "{reason}");
    assert!(matches!(waiting.await.unwrap(), CloseReason::Stalled));
    assert!(matches!(control.close_reason(), Some(CloseReason::Stalled)));
}

/// Both messages arrive before the first response, so the sender does not know which of them the
/// response answers.
#[tokio::test]
async fn after_a_binary_message_only_binary_is_sent() {
    let mut config = config();
    config.web_socket.verbatim = true;
    let mut served = serve(config).await;
    let (mut stream, channel) = served.raw().await;
    let (mut sender, mut receiver) = channel.split();
    let mut exchange = async |kinds: &[u8], expected: u8| {
        for kind in kinds {
            stream.write_all(&frame(*kind, b"{}")).await.unwrap();
            assert_eq!(message(&mut receiver).await, "{}");
        }
        for _ in kinds {
            sender.send("{}").await.unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, [expected, 2, b'{', b'}'], "{kinds:?}");
        }
    };
    let (text, binary) = (0x81, 0x82);
    exchange(&[], text).await;
    exchange(&[text, text], text).await;
    exchange(&[text, binary], binary).await;
    exchange(&[binary, text], binary).await;
    exchange(&[text], binary).await;
    // An explicit kind takes precedence.
    sender.set_kind(Some(tieline_proto::websocket::Kind::Text));
    sender.send("{}").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), text);
}
