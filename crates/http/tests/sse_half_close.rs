//! Tests of half-close over events: a client ends its input by a POST and still receives messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bytes::Bytes;
use support::events::{Stream, ask};
use support::{
    BEARER, LIMIT, Served, closed, config, end, head, message, registry, serve, status_of,
};
use tieline_transport::{Acceptor, BoxChannel, Channel, CloseReason, Options, SenderExt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const PLAIN: &str = "Tieline-Protocol: tieline\r\n";
const END: &str = "Tieline-Half-Close: 1\r\n";

async fn pair(served: &mut Served) -> (BoxChannel, BoxChannel) {
    let url = format!("http://127.0.0.1:{}/sse", served.port).parse().unwrap();
    let (registry, options) = (registry(), Options::default());
    let connecting = registry.connect(&url, &options);
    let (client, server) = tokio::join!(connecting, Acceptor::accept(&mut served.plain));
    (client.unwrap(), server.unwrap().boxed())
}

#[tokio::test]
async fn messages_arrive_after_end_of_input() {
    let mut served = serve(config()).await;
    let (client, server) = pair(&mut served).await;
    assert!(client.control().capabilities().half_close);
    assert!(!server.control().capabilities().half_close);
    let (mut to_server, mut from_server) = client.split();
    let control = server.control().clone();
    let (mut to_client, mut from_client) = server.split();
    to_server.feed("question").await.unwrap();
    to_server.close().await.unwrap();
    closed(&mut to_server).await;
    assert_eq!(message(&mut from_client).await, "question");
    for _ in 0..2 {
        assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    }
    assert!(control.close_reason().is_none(), "only one direction has ended");
    let answering = async {
        for number in 0..1000 {
            to_client.send(format!("{number}")).await.unwrap();
        }
        to_client.close().await.unwrap();
    };
    let reading = async {
        for number in 0..1000 {
            assert_eq!(message(&mut from_server).await, format!("{number}"));
        }
        end(&mut from_server).await
    };
    let (reason, ()) = tokio::join!(reading, answering);
    assert!(matches!(reason, CloseReason::ByUs), "{reason}");
}

/// The queues cannot hold all messages.
#[tokio::test]
async fn end_of_input_follows_queued_messages() {
    let mut served = serve(config()).await;
    let (client, server) = pair(&mut served).await;
    let (mut to_server, _from_server) = client.split();
    let (_to_client, mut from_client) = server.split();
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let sending = async {
        for _ in 0..8 {
            to_server.feed(large.clone()).await.unwrap();
        }
        to_server.close().await.unwrap();
    };
    let receiving = async {
        for _ in 0..8 {
            assert!(message(&mut from_client).await == large);
        }
        end(&mut from_client).await
    };
    let ((), reason) = tokio::join!(sending, receiving);
    assert!(matches!(reason, CloseReason::ByPeer));
}

#[tokio::test]
async fn lost_client_is_detected_after_end_of_input() {
    let mut served = serve(config()).await;
    let (client, server) = pair(&mut served).await;
    let (mut to_server, from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    to_server.close().await.unwrap();
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    drop((to_server, from_server));
    tokio::time::timeout(LIMIT, to_client.gone()).await.expect("not noticed");
    closed(&mut to_client).await;
    // A raw client disconnects without a DELETE.
    let stream = Stream::open(served.port, PLAIN).await.unwrap();
    let server = Acceptor::accept(&mut served.plain).await.unwrap();
    let (mut to_client, mut from_client) = server.split();
    assert_eq!(status_of(&stream.post("", END).await), 202);
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    drop(stream);
    tokio::time::timeout(LIMIT, to_client.gone()).await.expect("not noticed");
}

#[tokio::test]
async fn failed_program_is_reported_after_end_of_input() {
    let mut served = serve(config()).await;
    let (client, server) = pair(&mut served).await;
    let (mut to_server, mut from_server) = client.split();
    to_server.close().await.unwrap();
    server.control().report_at_close(CloseReason::StdoutClosed);
    let (mut to_client, mut from_client) = server.split();
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    let (closing, reason) = tokio::join!(to_client.close(), end(&mut from_server));
    closing.unwrap();
    let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
    assert_eq!(close.code, 1011);
}

/// Sends the POSTs that a user could send with curl.
#[tokio::test]
async fn end_of_input_is_a_numbered_post() {
    let mut served = serve(config()).await;
    let stream = Stream::open(served.port, PLAIN).await.unwrap();
    assert!(stream.head.contains("tieline-half-close: 1\r\n"), "{}", stream.head);
    let server = Acceptor::accept(&mut served.plain).await.unwrap();
    let (_to_client, mut from_client) = server.split();
    let numbered = |number: u32| format!("{END}Tieline-Sequence: {number}\r\n");
    assert_eq!(status_of(&stream.post("too early", &numbered(2)).await), 409);
    // A repeated POST is ignored.
    for _ in 0..2 {
        assert_eq!(status_of(&stream.post("last", &numbered(1)).await), 202);
    }
    assert_eq!(status_of(&stream.post("", END).await), 202);
    assert_eq!(message(&mut from_client).await, "last");
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    // No message may follow, but the line stays open.
    assert_eq!(status_of(&stream.post("more", "Tieline-Sequence: 2\r\n").await), 410);
    assert_eq!(status_of(&stream.post("more", "").await), 410);
    let mut twice = Stream::open(served.port, PLAIN).await.unwrap();
    let (mut to_client, _from_client) = Acceptor::accept(&mut served.plain).await.unwrap().split();
    assert_eq!(status_of(&twice.post("", "Tieline-Half-Close: yes\r\n").await), 400);
    assert_eq!(status_of(&twice.post("", &format!("{END}{END}")).await), 400);
    assert_eq!(status_of(&twice.post("", END).await), 202);
    to_client.send("answer").await.unwrap();
    assert_eq!(twice.message().await, "answer");
    // DELETE still ends the whole line.
    let (gone, _) = ask("DELETE", served.port, &twice.uri, "", BEARER).await;
    assert_eq!(status_of(&gone), 204);
    to_client.close().await.unwrap();
    assert_eq!(twice.event().await.unwrap().event, "end");
}

/// A session signals the end of input itself.
#[tokio::test]
async fn session_rejects_end_of_input_header() {
    let mut served = serve(config()).await;
    let stream = Stream::open(served.port, "Tieline-Protocol: tieline.1\r\n").await.unwrap();
    let _server = served.resumable.as_mut().unwrap().accept().await.unwrap();
    assert!(!stream.head.contains("tieline-half-close"), "{}", stream.head);
    assert_eq!(status_of(&stream.post("", END).await), 400);
}

/// The server is an older tieline or another implementation.
#[tokio::test]
async fn client_sends_delete_to_a_server_without_half_close() {
    for ours in ["Tieline-Protocol: tieline\r\n", "Tieline-Half-Close: 1\r\n", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/sse", listener.local_addr().unwrap().port());
        let (registry, url, options) = (registry(), url.parse().unwrap(), Options::default());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{ours}\r\n\
                 event: endpoint\ndata: /post\n\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let (client, _events) = tokio::join!(registry.connect(&url, &options), serving);
        let client = client.unwrap();
        assert!(!client.control().capabilities().half_close, "{ours}");
        let (mut sender, _receiver) = client.split();
        let posted = async {
            let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
            head(&mut stream).await
        };
        let (closing, request) = tokio::join!(sender.close(), posted);
        closing.unwrap();
        assert!(request.starts_with("DELETE /post "), "{request}");
    }
}
