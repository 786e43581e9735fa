//! Tests of tieline's client for event streams and POSTs, for plain lines and for sessions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use base64::prelude::*;
use bytes::Bytes;
use support::events::shears;
use support::{Served, config, end, head, message, refused, registry, serve};
use tieline_http::{PLAIN, RESUMABLE, ServerConfig};
use tieline_link::SessionOptions;
use tieline_proto::session::{Farewell, Frame};
use tieline_transport::{
    Acceptor, BoxChannel, Channel, CloseReason, Endpoint, ErrorKind, Options, SendError, SenderExt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn url(port: u16) -> Endpoint {
    format!("http://127.0.0.1:{port}/sse").parse().unwrap()
}

async fn pair(served: &mut Served) -> (BoxChannel, BoxChannel) {
    let (registry, url, options) = (registry(), url(served.port), Options::default());
    let connecting = registry.connect(&url, &options);
    let (client, server) = tokio::join!(connecting, Acceptor::accept(&mut served.plain));
    (client.unwrap(), server.unwrap().boxed())
}

#[tokio::test]
async fn messages_of_every_kind_arrive_in_order_in_both_directions() {
    // The server supports sessions, but a plain client does not use them.
    let mut served = serve(config()).await;
    let (client, server) = pair(&mut served).await;
    assert_eq!(client.control().info().kind.as_str(), "http");
    let (mut sender, mut receiver) = client.split();
    let (mut back, mut came) = server.split();
    let large = Bytes::from(vec![0xfe; 16 << 20]);
    let odd = ["{\"a\":\"ü\"}", "two\nlines", " blank ", "\n", "a\r\nb"].map(Bytes::from);
    for sent in odd.iter().chain([&Bytes::from_static(b"\xff\x00"), &large]) {
        let (sending, got) = tokio::join!(sender.send(sent.clone()), message(&mut came));
        sending.unwrap();
        assert!(got == *sent, "{} bytes", sent.len());
    }
    // In this direction, events change line breaks to `\n`.
    for sent in ["{\"a\":\"ü\"}", "two\nlines", " blank "] {
        back.send(sent).await.unwrap();
        assert_eq!(message(&mut receiver).await, sent);
    }
    let (sending, got) = tokio::join!(back.send(large.clone()), message(&mut receiver));
    sending.unwrap();
    assert!(got == large);
    for (error, length) in [("empty", 0), ("limit", (16 << 20) + 1)] {
        let refused = sender.send(vec![b'x'; length]).await.unwrap_err();
        assert!(matches!(refused, SendError::Message(_)), "{error}: {refused}");
    }
    let up = async {
        for number in 0..5_000 {
            sender.feed(format!("up {number}")).await.unwrap();
        }
        sender.flush().await.unwrap();
    };
    let down = async {
        for number in 0..5_000 {
            back.feed(format!("down {number}")).await.unwrap();
        }
        back.flush().await.unwrap();
    };
    let at_server = async {
        for number in 0..5_000 {
            assert_eq!(message(&mut came).await, format!("up {number}"));
        }
    };
    let at_client = async {
        for number in 0..5_000 {
            assert_eq!(message(&mut receiver).await, format!("down {number}"));
        }
    };
    tokio::join!(up, down, at_server, at_client);
    assert!(
        served.web.counts().posts < 2_500,
        "waiting messages share a POST: {:?}",
        served.web.counts()
    );
}

#[cfg(unix)]
#[tokio::test]
async fn events_work_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("http-unix:{}", folder.path().join("a.sock").display());
    let endpoint: Endpoint = endpoint.parse().unwrap();
    let mut served = serve(ServerConfig::at(&endpoint, support::token()).unwrap()).await;
    let (registry, options) = (registry(), Options::default());
    let connecting = registry.connect(&endpoint, &options);
    let (client, server) = tokio::join!(connecting, Acceptor::accept(&mut served.plain));
    let (mut sender, mut receiver) = client.unwrap().split();
    let server = server.unwrap();
    assert!(server.control().peer().is_some());
    let (mut back, mut came) = server.split();
    sender.send("there").await.unwrap();
    back.send("back").await.unwrap();
    assert_eq!(
        (message(&mut came).await, message(&mut receiver).await),
        ("there".into(), "back".into())
    );
}

#[tokio::test]
async fn each_side_receives_the_close_of_the_other_and_earlier_messages() {
    let mut served = serve(config()).await;
    // The client closes.
    let (client, server) = pair(&mut served).await;
    let (mut sender, mut receiver) = client.split();
    let (mut back, mut came) = server.split();
    sender.send("last").await.unwrap();
    back.send("in flight").await.unwrap();
    sender.close().await.unwrap();
    assert_eq!(message(&mut came).await, "last");
    assert!(matches!(end(&mut came).await, CloseReason::ByPeer));
    back.send("good bye").await.unwrap();
    back.close().await.unwrap();
    assert_eq!(message(&mut receiver).await, "in flight");
    assert_eq!(message(&mut receiver).await, "good bye");
    assert!(matches!(end(&mut receiver).await, CloseReason::ByUs));
    // The server closes.
    for (reason, code) in [(None, None), (Some(CloseReason::Overrun), Some(1013))] {
        let (client, server) = pair(&mut served).await;
        let (mut sender, mut receiver) = client.split();
        let control = server.control().clone();
        let (mut back, came) = server.split();
        back.send("last").await.unwrap();
        if let Some(reason) = reason {
            control.report_at_close(reason);
        }
        drop((back, came));
        assert_eq!(message(&mut receiver).await, "last");
        let received = match end(&mut receiver).await {
            CloseReason::ByPeerBecause(close) => Some(close.code),
            CloseReason::ByPeer => None,
            other => panic!("{other}"),
        };
        assert_eq!(received, code);
        assert!(sender.send("x").await.is_err());
    }
    // The client is dropped.
    let (client, server) = pair(&mut served).await;
    drop(client);
    assert!(end(&mut server.split().1).await.is_clean());
    // The server shuts down.
    let (client, _server) = pair(&mut served).await;
    served.web.close(Duration::from_secs(30)).await;
    let reason = end(&mut client.split().1).await;
    assert!(matches!(&reason, CloseReason::ByPeerBecause(close) if close.code == 1001), "{reason}");
}

#[tokio::test]
async fn a_plain_line_ends_with_its_connection() {
    let hosts = vec!["127.0.0.1".into()];
    let mut served = serve(ServerConfig { hosts, ..config() }).await;
    let port = shears(served.port, || Some(4_000)).await;
    let (registry, url, options) = (registry(), url(port), Options::default());
    let connecting = registry.connect(&url, &options);
    let (client, server) = tokio::join!(connecting, Acceptor::accept(&mut served.plain));
    let (_sender, mut receiver) = client.unwrap().split();
    let (mut back, mut came) = server.unwrap().split();
    for number in 0..1_000 {
        if back.send(format!("{number}")).await.is_err() {
            break;
        }
    }
    assert_eq!(message(&mut receiver).await, "0");
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Io(_)), "{reason}");
    assert!(matches!(end(&mut came).await, CloseReason::ByPeer));
}

/// The client has already closed its side.
#[tokio::test]
async fn an_incomplete_event_is_not_a_clean_end() {
    for (rest, is_clean) in [("", true), ("data: half", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            let answer = format!(
                "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\nTieline-Protocol: tieline\r\n\r\n\
                 event: endpoint\ndata: /x\n\ndata: whole\n\n{rest}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut dismissing, _) = listener.accept().await.unwrap();
            assert!(head(&mut dismissing).await.starts_with("DELETE /x "));
            dismissing.write_all(b"HTTP/1.1 204 x\r\n\r\n").await.unwrap();
        });
        let client = registry().connect(&url(port), &Options::default()).await.unwrap();
        let (mut sender, mut receiver) = client.split();
        assert_eq!(message(&mut receiver).await, "whole");
        sender.close().await.unwrap();
        let reason = end(&mut receiver).await;
        assert_eq!(reason.is_clean(), is_clean, "{rest}: {reason}");
    }
}

#[tokio::test]
async fn responses_that_are_not_event_streams_are_refused() {
    for (answer, expected) in [
        ("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n", "the server answered with status 404"),
        ("HTTP/1.1 200 x\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", "text/html"),
        (
            "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n",
            "before the event with the URL for POSTs",
        ),
        (
            "HTTP/1.1 200 x\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n\
             event: endpoint\ndata: http://other.example/x\n\n",
            "another origin",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = head(&mut stream).await;
            assert!(request.contains("accept: text/event-stream\r\n"), "{request}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let error = refused(&registry(), &url(port).to_string()).await;
        assert!(error.to_string().contains(expected), "{error}");
    }
    let served = serve(config()).await;
    let mut registry = tieline_transport::Registry::new();
    tieline_http::register(&mut registry, tieline_http::ClientConfig::default());
    let error = refused(&registry, &url(served.port).to_string()).await;
    assert!(matches!(error.kind(), ErrorKind::Denied { status: 401 }), "{error}");
    for framing in ["lines", "content-length", "length-prefix"] {
        let error = refused(&registry, &format!("{framing}+{}", url(served.port))).await;
        assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error}");
    }
}

/// The server supports events, but no sessions.
#[tokio::test]
async fn a_session_must_be_granted_by_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = head(&mut stream).await;
        assert!(request.contains("tieline-protocol: tieline.1\r\n"), "{request}");
        let answer = "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\n\r\n\
                      event: endpoint\ndata: /x\n\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let options = SessionOptions::default();
    let url: Endpoint = format!("resume+{}", url(port)).parse().unwrap();
    let connector =
        tieline_link::connector(&registry(), &url, &Options::default(), options).unwrap();
    let Err(error) = connector.connect().await else { panic!("a session was established") };
    assert!(matches!(error.kind(), ErrorKind::Handshake { protocol: "session", .. }), "{error}");
}

#[tokio::test]
async fn a_session_survives_a_thousand_streams_cut_in_mid_event() {
    let url = |port| format!("resume+http://127.0.0.1:{port}/sse");
    support::cuts::a_thousand(url, |counts| counts.event_streams).await;
}

/// A server that refuses the first POST and then ends the stream with this text. Returns its port.
async fn refuses_posts(protocol: &'static str, last: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        let begin = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTieline-Protocol: {protocol}\r\n\
             Tieline-Half-Close: 1\r\n\r\nevent: endpoint\ndata: /sse\n\n"
        );
        stream.write_all(begin.as_bytes()).await.unwrap();
        let (mut post, _) = listener.accept().await.unwrap();
        head(&mut post).await;
        let refusal = b"HTTP/1.1 410 Gone\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        post.write_all(refusal).await.unwrap();
        // The stream ends after the client has seen the status.
        while post.read_u8().await.is_ok() {}
        stream.write_all(last.as_bytes()).await.unwrap();
    });
    port
}

/// Returns how a client's line ends whose POST is refused before the stream ends with this event. The client sends a
/// message, or only ends its input.
async fn refused_post(last: &str, has_message: bool) -> CloseReason {
    let port = refuses_posts(PLAIN, last.to_owned()).await;
    let (registry, url, options) = (registry(), url(port), Options::default());
    let (mut sender, mut receiver) = registry.connect(&url, &options).await.unwrap().split();
    if has_message {
        sender.send("unread").await.unwrap_err();
    } else {
        let _ = sender.close().await;
    }
    end(&mut receiver).await
}

#[tokio::test]
async fn last_event_of_the_stream_replaces_the_status_of_a_refused_post() {
    let failed = "event: end\ndata: {\"code\":1011,\"reason\":\"unread\"}\n\n";
    for has_message in [true, false] {
        let reason = refused_post(failed, has_message).await;
        let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
        assert_eq!((close.code, &*close.text), (1011, "unread"));
    }
    let clean = "event: end\ndata: {\"code\":1000,\"reason\":\"\"}\n\n";
    let reason = refused_post(clean, false).await;
    assert!(reason.is_clean(), "{reason}");
    let reason = refused_post(clean, true).await;
    assert!(matches!(reason, CloseReason::InputUnread(6)), "{reason}");
}

/// A server that has ended a session refuses POSTs, and the last frames are on their way.
#[tokio::test]
async fn last_frames_of_a_session_arrive_after_a_refused_post() {
    let text = "enough";
    let bye = Frame::Bye(Farewell { received: 0, text: text.into() }).to_bytes();
    let last = format!("data: {}\n\n", BASE64_URL_SAFE.encode(bye));
    let port = refuses_posts(RESUMABLE, last).await;
    let carrier = url(port).resumable().carrier();
    let line = registry().connect(&carrier, &Options::default()).await.unwrap();
    let (mut sender, mut receiver) = line.split();
    sender.send("a frame").await.unwrap_err();
    let frame = Frame::decode(message(&mut receiver).await).unwrap();
    assert!(matches!(frame, Frame::Bye(farewell) if farewell.text == text));
}
