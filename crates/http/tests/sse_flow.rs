//! Tests of how many messages are kept for an EventSource, and of EventSources that do not read or lack
//! more messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::events::{Stream, ask};
use support::resume::{again, name_of, pair, sessions, sessions_with};
use support::{LIMIT, TOKEN, config, end, status_of};
use tieline_transport::{Acceptor, Channel, CloseReason, SenderExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Messages in flight on the older stream do not affect the session once there is a newer one.
#[tokio::test]
async fn an_older_stream_that_is_full_does_not_affect_a_newer_one() {
    const EACH: usize = 30_000;
    const COUNT: usize = 300;
    let mut served = sessions().await;
    let opening = Stream::open(served.port, "");
    let (older, session) = tokio::join!(opening, Acceptor::accept(&mut served.sessions));
    let (mut older, session) = (older.unwrap(), session.unwrap());
    let control = session.control().clone();
    let (mut sender, _receiver) = session.split();
    let confirm = format!("Last-Event-ID: {}\r\n", older.first);
    assert_eq!(status_of(&older.post("", &confirm).await), 202);
    let sending = tokio::spawn(async move {
        for number in 1..=COUNT {
            sender.feed(format!("{number:EACH$}")).await.unwrap();
        }
        sender.flush().await.unwrap();
        sender
    });
    // Waits until the limit of kept messages is reached. By then, the connection's buffers are full.
    while control.info().session.unwrap().kept_bytes < 8 << 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut newer = again(served.port, &older.first).await.unwrap();
    let old = async { while older.event().await.is_some() {} };
    let new = async {
        for number in 1..=COUNT {
            let event = newer.event().await.unwrap();
            assert_eq!(std::str::from_utf8(&event.data).unwrap().trim(), number.to_string());
            if number % 20 == 0 {
                let confirm = format!("Last-Event-ID: {}\r\n", event.id);
                assert_eq!(status_of(&newer.post("", &confirm).await), 202);
            }
        }
    };
    tokio::join!(old, new);
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_client_that_lacks_released_messages_receives_410() {
    let mut served = sessions().await;
    let (mut stream, mut sender, mut receiver) = pair(&mut served).await;
    let name = name_of(&stream).to_owned();
    // The client confirms nothing, so only the last 512 messages are kept.
    for number in 1..=1_600 {
        sender.feed(format!("{number}")).await.unwrap();
        if number % 100 == 0 {
            sender.flush().await.unwrap();
            for expected in number - 99..=number {
                assert_eq!(stream.message().await, format!("{expected}"));
            }
        }
    }
    drop(stream);
    // Newer messages are still available.
    let mut stream = again(served.port, &format!("{name}.1100")).await.unwrap();
    for expected in 1101..=1600 {
        assert_eq!(stream.message().await, format!("{expected}"));
    }
    // An event that was never sent is refused.
    let Err(refused) = again(served.port, &format!("{name}.1601")).await else {
        panic!("the stream was resumed")
    };
    assert_eq!(status_of(&refused), 400);
    drop(stream);
    // A released message is reported with its number.
    let more = format!("Authorization: Bearer {TOKEN}\r\nLast-Event-ID: {name}.1000\r\n");
    let (head, body) = ask("GET", served.port, "/sse", "", &more).await;
    assert_eq!(status_of(&head), 410, "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert!(body.contains("\"received\":1000,\"missing_from\":1001,"), "{body}");
    // The session has ended on both sides.
    assert!(!matches!(end(&mut receiver).await, CloseReason::ByUs));
    let Err(refused) = again(served.port, &format!("{name}.1550")).await else {
        panic!("the stream was resumed")
    };
    assert_eq!(status_of(&refused), 410);
}

/// A write without progress ends the connection, but not the session.
#[tokio::test]
async fn a_client_that_stops_reading_loses_its_connection_but_no_message() {
    const EACH: usize = 60_000;
    const COUNT: usize = 400;
    let mut config = config();
    config.limits.take_wait = Duration::from_millis(200);
    config.web_socket.channel.stall_timeout = Duration::from_millis(200);
    let mut served = sessions_with(config).await;
    let (mut stream, mut sender, _receiver) = pair(&mut served).await;
    // From here on, only confirmed messages are released.
    let confirm = format!("Last-Event-ID: {}\r\n", stream.first);
    assert_eq!(status_of(&stream.post("", &confirm).await), 202);
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            sender.send(format!("{number:EACH$}")).await.unwrap();
        }
        sender
    });
    // The client reads nothing until the server has closed the connection. Then a POST finds no open
    // stream.
    while served.web.counts().open > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(status_of(&stream.post("x", "").await), 503);
    let (mut last, mut expected, mut connections) = (stream.first.clone(), 0, 1);
    while expected < COUNT {
        let Some(event) = stream.event().await else {
            stream = again(served.port, &last).await.unwrap();
            connections += 1;
            continue;
        };
        last = event.id;
        assert_eq!(std::str::from_utf8(&event.data).unwrap().trim(), expected.to_string());
        expected += 1;
        if expected % 20 == 0 {
            let confirm = format!("Last-Event-ID: {last}\r\n");
            assert_eq!(status_of(&stream.post("", &confirm).await), 202);
        }
    }
    assert!(connections > 1);
    drop(sending.await.unwrap());
}

/// Sends 60,000 messages, or a million with `TIELINE_SOAK=1`.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_does_not_grow_with_the_number_of_messages() {
    let count = if std::env::var_os("TIELINE_SOAK").is_some() { 1_000_000 } else { 60_000 };
    let pages = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let mut served = sessions().await;
    let (mut stream, mut sender, _receiver) = pair(&mut served).await;
    let sending = tokio::spawn(async move {
        for number in 0..count {
            sender.feed(format!("{{\"number\":{number},\"text\":\"{:200}\"}}", "")).await.unwrap();
        }
        sender.flush().await.unwrap();
        sender
    });
    let mut early = 0;
    for number in 0..count {
        assert!(stream.message().await.starts_with(&format!("{{\"number\":{number},")));
        if number == count / 4 {
            early = pages();
        }
    }
    let late = pages();
    println!("{} KiB at a quarter, {} KiB at the end", early * 4, late * 4);
    assert!(late < early + 4 * 1024, "memory grew from {early} to {late} pages of 4 KiB");
    drop(sending.await.unwrap());
}

/// The server sends a comment after 15 s without an event, so a stream without comments has never
/// stalled. Uses several threads, so that the connection is written while the session is checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_confirms_nothing_does_not_stall() {
    const COUNT: usize = 50_000;
    let mut served = sessions().await;
    let mut socket = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let head = format!(
        "GET /sse HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        served.port
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let (mut sender, _receiver) = Acceptor::accept(&mut served.sessions).await.unwrap().split();
    let sending = async move {
        for number in 0..COUNT {
            sender.feed(format!("{number}")).await.unwrap();
        }
        sender.flush().await.unwrap();
        sender
    };
    let mut received = Vec::new();
    let receiving = async {
        let last = format!("data: {}\n", COUNT - 1);
        while !received.ends_with(b"\n\n\r\n")
            || memchr::memmem::find(&received, last.as_bytes()).is_none()
        {
            assert_ne!(socket.read_buf(&mut received).await.unwrap(), 0);
        }
    };
    let both = async { tokio::join!(tokio::spawn(sending), receiving) };
    let (sender, ()) = tokio::time::timeout(LIMIT * 10, both).await.unwrap();
    drop(sender.unwrap());
    let comments = memchr::memmem::find_iter(&received, b": \n\n").count();
    assert_eq!(comments, 0, "the stream stalled");
}
