//! Tests of lines over server-sent events and POSTs that end with their stream: delivery, refusals and
//! the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::events::{Stream, ask, post, post_as};
use support::{Served, TOKEN, config, end, message, serve, status_of};
use tieline_http::{ServerConfig, ServerLimits, WebLine};
use tieline_transport::{Acceptor, Channel, CloseReason, SenderExt};

/// Starts a server without sessions, on which every stream is a plain line.
async fn plain() -> Served {
    plain_with(config()).await
}

async fn plain_with(config: ServerConfig) -> Served {
    let mut served = serve(config).await;
    served.resumable = None;
    served
}

async fn pair(served: &mut Served) -> (Stream, WebLine) {
    let opening = Stream::open(served.port, "");
    let (stream, line) = tokio::join!(opening, served.plain.accept());
    (stream.unwrap(), line.unwrap())
}

#[tokio::test]
async fn a_stream_and_its_posts_form_a_line() {
    let mut served = plain().await;
    let (mut stream, line) = pair(&mut served).await;
    for header in [
        "content-type: text/event-stream\r\n",
        "cache-control: no-store\r\n",
        "x-accel-buffering: no\r\n",
    ] {
        assert!(stream.head.contains(header), "{}", stream.head);
    }
    assert!(
        stream.endpoint.starts_with("sse?session=") && stream.endpoint.len() == 12 + 22,
        "{}",
        stream.uri
    );
    assert_eq!(stream.first, "", "a plain stream has no ids");
    let (mut sender, mut receiver) = line.split();
    sender.send("{\"hello\":1}").await.unwrap();
    assert_eq!(stream.message().await, "{\"hello\":1}");
    for (body, messages) in [
        ("{\"id\":1}", &["{\"id\":1}"][..]),
        ("{\"id\":1}\r\n\n{\"id\":2}\n", &["{\"id\":1}", "{\"id\":2}"]),
        ("{\n\"id\": 3}", &["{ \"id\": 3}"]),
        ("plain words", &["plain words"]),
    ] {
        assert_eq!(status_of(&stream.post(body, "").await), 202);
        for expected in messages {
            assert_eq!(message(&mut receiver).await, expected);
        }
    }
    assert_eq!(status_of(&stream.post("", "").await), 202, "an empty body is no message");
    // A message that is not UTF-8 is sent in base64.
    sender.send(&b"\xff\x00"[..]).await.unwrap();
    let event = stream.event().await.unwrap();
    assert_eq!((&*event.event, &*event.data), ("binary", &b"_wA="[..]));
    // A message with line breaks remains one message.
    sender.send("a\r\nid: x\r\n\r\ndata: b").await.unwrap();
    assert_eq!(stream.message().await, "a\nid: x\n\ndata: b");
    let counts = served.web.counts();
    assert_eq!((counts.event_streams, counts.posts, counts.web_sockets), (1, 5, 0));
}

#[tokio::test]
async fn the_last_event_has_the_close_reason() {
    let mut served = plain().await;
    let exit = support::exit(3, "a secret path");
    for (reason, expected) in [
        (None, r#"{"code":1000,"reason":""}"#),
        (
            Some(CloseReason::ChildExited(exit.into())),
            if cfg!(unix) {
                r#"{"code":1011,"reason":"the program has failed with exit status 3"}"#
            } else {
                r#"{"code":1011,"reason":"the program has failed with exit code 3"}"#
            },
        ),
        (Some(CloseReason::ByUs), r#"{"code":1001,"reason":"shutting down"}"#),
    ] {
        let (mut stream, line) = pair(&mut served).await;
        let control = line.control().clone();
        let (mut sender, receiver) = line.split();
        sender.send("last message").await.unwrap();
        if let Some(reason) = reason {
            control.report_at_close(reason);
        }
        // A line ends when it is closed or dropped.
        if expected.contains("1011") {
            drop((sender, receiver));
        } else {
            sender.close().await.unwrap();
        }
        assert_eq!(stream.message().await, "last message");
        let event = stream.event().await.unwrap();
        assert_eq!((&*event.event, &*event.data), ("end", expected.as_bytes()));
        stream.end().await;
        assert_eq!(status_of(&stream.post("{}", "").await), 404);
    }
}

#[tokio::test]
async fn a_line_ends_with_its_stream() {
    let mut served = plain().await;
    let (stream, line) = pair(&mut served).await;
    let (mut sender, mut receiver) = line.split();
    assert_eq!(status_of(&stream.post("{\"id\":1}", "").await), 202);
    drop(stream);
    assert_eq!(message(&mut receiver).await, "{\"id\":1}", "accepted messages arrive");
    assert!(matches!(end(&mut receiver).await, CloseReason::ByPeer));
    assert!(sender.send("x").await.is_err());
    // After a DELETE, the client still receives messages in flight.
    let (mut stream, line) = pair(&mut served).await;
    let (mut sender, mut receiver) = line.split();
    let more = format!("Authorization: Bearer {TOKEN}\r\n");
    let (head, _) = ask("DELETE", served.port, &stream.uri, "", &more).await;
    assert_eq!(status_of(&head), 204);
    assert!(matches!(end(&mut receiver).await, CloseReason::ByPeer));
    sender.send("good bye").await.unwrap();
    sender.close().await.unwrap();
    assert_eq!(stream.message().await, "good bye");
    assert_eq!(stream.event().await.unwrap().event, "end");
    stream.end().await;
}

#[tokio::test]
async fn only_the_client_of_a_stream_can_post_to_it() {
    let mut served = plain().await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    let name = &stream.uri["/sse?session=".len()..];
    for uri in [
        "/sse".to_owned(),
        "/sse?session=".to_owned(),
        format!("/sse?session={}", &name[1..]),
        format!("/sse?session={}", "A".repeat(22)),
        format!("/sse?session={name}%00"),
        format!("/sse?other={name}"),
    ] {
        assert_eq!(status_of(&post(served.port, &uri, "{}", "").await), 404, "{uri}");
    }
    // Another authenticated client is a browser with its own cookie.
    let url = served.web.one_time_url().unwrap().unwrap();
    let key = url.split("?key=").nth(1).unwrap();
    let host = format!("Host: 127.0.0.1:{}\r\n", served.port);
    let answer = served.ask(format!("GET /?key={key} HTTP/1.1\r\n{host}\r\n")).await;
    let cookie = answer.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
    let cookie = format!("Cookie: {cookie}\r\n");
    for method in ["POST", "DELETE"] {
        let (head, _) = ask(method, served.port, &stream.uri, "", &cookie).await;
        assert_eq!(status_of(&head), 404);
    }
    assert_eq!(status_of(&post_as(served.port, &stream.uri, "{}", "").await), 401);
    // The stream of the cookie's client accepts only its own POST requests.
    let (other, line) = tokio::join!(Stream::open_as(served.port, &cookie), served.plain.accept());
    let (other, _line) = (other.unwrap(), line.unwrap());
    assert_eq!(status_of(&other.post("{}", "").await), 404, "posted with the token");
    assert_eq!(status_of(&post_as(served.port, &other.uri, "{}", &cookie).await), 202);
    assert_eq!(status_of(&stream.post("mine", "").await), 202);
    assert_eq!(message(&mut receiver).await, "mine");
}

#[tokio::test]
async fn repeated_posts_are_taken_once_and_missing_ones_are_detected() {
    let mut served = plain().await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    for (sequence, body, status) in [
        ("1", "one", 202),
        ("1", "one", 202),
        ("3", "three", 409),
        ("2", "two", 202),
        ("1", "one", 202),
        ("2", "two", 202),
        ("3", "three", 202),
        ("0", "x", 400),
        ("-1", "x", 400),
        ("+4", "x", 400),
        ("4.0", "x", 400),
        ("99999999999999999999999", "x", 400),
        ("18446744073709551615", "x", 409),
    ] {
        let header = format!("Tieline-Sequence: {sequence}\r\n");
        assert_eq!(status_of(&stream.post(body, &header).await), status, "{sequence}");
    }
    let twice = "Tieline-Sequence: 4\r\nTieline-Sequence: 4\r\n";
    assert_eq!(status_of(&stream.post("x", twice).await), 400);
    stream.post("last", "").await;
    for expected in ["one", "two", "three", "last"] {
        assert_eq!(message(&mut receiver).await, expected);
    }
}

#[tokio::test]
async fn a_body_is_checked_against_the_limit_before_it_is_read() {
    let mut config = config();
    config.web_socket.channel.max_message = tieline_proto::ByteSize::kib(64);
    let mut served = plain_with(config).await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    for (length, status) in [(64 * 1024 - 1, 202), (64 * 1024, 202), (64 * 1024 + 1, 413)] {
        let body = "x".repeat(length);
        assert_eq!(status_of(&stream.post(&body, "").await), status, "{length}");
        if status == 202 {
            assert_eq!(message(&mut receiver).await, body);
        }
    }
    // This request only announces its body's length.
    let host = format!("Host: 127.0.0.1:{}\r\nAuthorization: Bearer {TOKEN}\r\n", served.port);
    let long = format!("POST {} HTTP/1.1\r\n{host}Content-Length: 99999999999\r\n\r\n", stream.uri);
    assert_eq!(status_of(&served.ask(long).await), 413);
    // This request does not announce its body's length.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = format!(
        "POST {} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n{chunk}1\r\nx\r\n0\r\n\r\n",
        stream.uri
    );
    assert_eq!(status_of(&served.ask(chunked).await), 413);
    assert_eq!(status_of(&stream.post("a b\n".repeat(1025), "").await), 413, "too many messages");
}

#[tokio::test]
async fn posts_beyond_the_queue_wait_and_are_then_refused() {
    let mut config = config();
    config.limits = ServerLimits { take_wait: Duration::from_millis(200), ..config.limits };
    let mut served = plain_with(config).await;
    let (stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    let body = "x".repeat(300 * 1024);
    assert_eq!(status_of(&stream.post(&body, "Tieline-Sequence: 1\r\n").await), 202);
    let refused = stream.post("more", "Tieline-Sequence: 2\r\n").await;
    assert_eq!(status_of(&refused), 503);
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    // The refused POST was not counted. A waiting one is accepted when the queue has room.
    let waiting = stream.post("more", "Tieline-Sequence: 2\r\n");
    let taking = async { message(&mut receiver).await.len() };
    let (answer, length) = tokio::join!(waiting, taking);
    assert_eq!((status_of(&answer), length), (202, body.len()));
    assert_eq!(message(&mut receiver).await, "more");
}

#[tokio::test]
async fn other_methods_and_protocols_are_refused() {
    let served = plain().await;
    let more = format!("Authorization: Bearer {TOKEN}\r\n");
    for (method, path, allowed) in [
        ("HEAD", "/sse", "GET, POST, DELETE"),
        ("PUT", "/sse", "GET, POST, DELETE"),
        ("OPTIONS", "/sse", "GET, POST, DELETE"),
        ("GET", "/rpc", "POST"),
        ("HEAD", "/rpc", "POST"),
        ("DELETE", "/rpc", "POST"),
    ] {
        let (head, _) = ask(method, served.port, path, "", &more).await;
        assert_eq!(status_of(&head), 405, "{method} {path}");
        assert!(head.contains(&format!("allow: {allowed}\r\n")), "{head}");
    }
    for more in
        ["Tieline-Protocol: tieline.2\r\n", "Tieline-Protocol: tieline\r\nTieline-Protocol: x\r\n"]
    {
        let Err(refused) = Stream::open(served.port, more).await else { panic!("{more}") };
        assert_eq!(status_of(&refused), 400);
    }
    // This server accepts no sessions.
    let Err(refused) = Stream::open(served.port, "Tieline-Protocol: tieline.1\r\n").await else {
        panic!("the stream was accepted")
    };
    assert_eq!(status_of(&refused), 503);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let mut config = config();
    config.limits.event_streams = 2;
    let mut served = plain_with(config).await;
    let (first, _line) = pair(&mut served).await;
    let _second = pair(&mut served).await;
    let Err(refused) = Stream::open(served.port, "").await else { panic!("accepted") };
    assert_eq!(status_of(&refused), 503);
    let uri = first.uri.clone();
    drop(first);
    // The name is released with the stream.
    while status_of(&post(served.port, &uri, "", "").await) != 404 {}
    assert!(Stream::open(served.port, "").await.is_ok());
}

#[tokio::test]
async fn a_server_reports_its_shutdown_and_delivers_accepted_posts() {
    let mut served = plain().await;
    let (mut stream, line) = pair(&mut served).await;
    let (_sender, mut receiver) = line.split();
    assert_eq!(status_of(&stream.post("accepted", "").await), 202);
    served.web.close(Duration::from_secs(30)).await;
    let event = stream.event().await.unwrap();
    let expected = r#"{"code":1001,"reason":"shutting down"}"#;
    assert_eq!((&*event.event, &*event.data), ("end", expected.as_bytes()));
    stream.end().await;
    assert_eq!(message(&mut receiver).await, "accepted");
    assert!(matches!(end(&mut receiver).await, CloseReason::ByUs));
}

/// No part of a message or header becomes a field of the stream.
#[tokio::test]
async fn fields_cannot_be_injected_into_a_stream() {
    let mut served = plain().await;
    let (mut stream, line) = pair(&mut served).await;
    let (mut sender, _receiver) = line.split();
    let hostile = ["a\nevent: end\ndata: x", "a\r\n\r\nevent: end", "a\rid: 9", "\u{feff}a\0b"];
    for text in hostile {
        sender.send(text).await.unwrap();
        let event = stream.event().await.unwrap();
        assert_eq!((&*event.event, &*event.id), ("", ""));
        let expected = text.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(event.data, expected.as_bytes());
    }
    for id in ["x\0y", "x\u{1}y"] {
        let answer =
            post(served.port, &stream.uri, "{}", &format!("Last-Event-ID: {id}\r\n")).await;
        assert_eq!(status_of(&answer), 400, "{id:?}");
    }
}
