//! How much is kept for an EventSource, and what becomes of one that does not read, or lacks more than that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::events::{Stream, ask};
use support::resume::{again, name_of, pair, sessions, sessions_with};
use support::{LIMIT, TOKEN, config, end, status_of};
use tieline_transport::{Acceptor, Channel, CloseReason, SenderExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What was on its way to the older stream when the newer came is nothing to the session any more.
#[tokio::test]
async fn an_older_stream_that_is_full_does_not_disturb_the_newer() {
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
    let saying = tokio::spawn(async move {
        for number in 1..=COUNT {
            sender.feed(format!("{number:EACH$}")).await.unwrap();
        }
        sender.flush().await.unwrap();
        sender
    });
    // As much as is kept: what does not fit between is at the server.
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
    drop(saying.await.unwrap());
}

#[tokio::test]
async fn a_client_that_lacks_too_much_is_told_so_and_not_passed_over() {
    let mut served = sessions().await;
    let (mut stream, mut sender, mut receiver) = pair(&mut served).await;
    let name = name_of(&stream).to_owned();
    // It says nothing of what it has received; so what lies 512 behind is let go.
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
    // What lies less far behind is there,
    let mut stream = again(served.port, &format!("{name}.1100")).await.unwrap();
    for expected in 1101..=1600 {
        assert_eq!(stream.message().await, format!("{expected}"));
    }
    // what was never there is not,
    let Err(refused) = again(served.port, &format!("{name}.1601")).await else { panic!("it came") };
    assert_eq!(status_of(&refused), 400);
    drop(stream);
    // and of what is gone it is said what it is.
    let more = format!("Authorization: Bearer {TOKEN}\r\nLast-Event-ID: {name}.1000\r\n");
    let (head, body) = ask("GET", served.port, "/sse", "", &more).await;
    assert_eq!(status_of(&head), 410, "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert!(body.contains("\"received\":1000,\"missing_from\":1001,"), "{body}");
    // The session is over, at both ends.
    assert!(!matches!(end(&mut receiver).await, CloseReason::ByUs));
    let Err(refused) = again(served.port, &format!("{name}.1550")).await else { panic!("it came") };
    assert_eq!(status_of(&refused), 410);
}

/// A write that makes no progress costs the connection, and not the session.
#[tokio::test]
async fn who_stops_reading_loses_the_connection_and_no_message() {
    const EACH: usize = 60_000;
    const COUNT: usize = 400;
    let mut config = config();
    config.limits.take_wait = Duration::from_millis(200);
    config.web_socket.channel.stall_timeout = Duration::from_millis(200);
    let mut served = sessions_with(config).await;
    let (mut stream, mut sender, _receiver) = pair(&mut served).await;
    // From here on nothing is let go that is not confirmed.
    let confirm = format!("Last-Event-ID: {}\r\n", stream.first);
    assert_eq!(status_of(&stream.post("", &confirm).await), 202);
    let saying = tokio::spawn(async move {
        for number in 0..COUNT {
            sender.send(format!("{number:EACH$}")).await.unwrap();
        }
        sender
    });
    // Nothing is read until the server has given the connection up: then a POST finds no stream.
    while status_of(&stream.post("x", "").await) == 202 {}
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
    drop(saying.await.unwrap());
}

/// With `TIELINE_SOAK=1`, a million.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn many_messages_leave_no_memory_behind() {
    let count = if std::env::var_os("TIELINE_SOAK").is_some() { 1_000_000 } else { 60_000 };
    let pages = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let mut served = sessions().await;
    let (mut stream, mut sender, _receiver) = pair(&mut served).await;
    let saying = tokio::spawn(async move {
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
    assert!(late < early + 4 * 1024, "it has grown from {early} to {late} pages of 4 KiB");
    drop(saying.await.unwrap());
}

/// The server's own comment comes after 15 s of silence: where it does not, nothing has stood still. On
/// several threads, as the connection is written while the session is looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_says_nothing_of_what_it_has_is_not_kept_waiting() {
    const COUNT: usize = 50_000;
    let mut served = sessions().await;
    let mut socket = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let head = format!(
        "GET /sse HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        served.port
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let (mut sender, _receiver) = Acceptor::accept(&mut served.sessions).await.unwrap().split();
    let saying = async move {
        for number in 0..COUNT {
            sender.feed(format!("{number}")).await.unwrap();
        }
        sender.flush().await.unwrap();
        sender
    };
    let mut said = Vec::new();
    let hearing = async {
        let last = format!("data: {}\n", COUNT - 1);
        while !said.ends_with(b"\n\n\r\n") || memchr::memmem::find(&said, last.as_bytes()).is_none()
        {
            assert_ne!(socket.read_buf(&mut said).await.unwrap(), 0);
        }
    };
    let both = async { tokio::join!(tokio::spawn(saying), hearing) };
    let (sender, ()) = tokio::time::timeout(LIMIT * 10, both).await.unwrap();
    drop(sender.unwrap());
    let comments = memchr::memmem::find_iter(&said, b": \n\n").count();
    assert_eq!(comments, 0, "the stream has stood still");
}
