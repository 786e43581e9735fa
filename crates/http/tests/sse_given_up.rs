//! Tests that the session of a GET that was abandoned before its response is not leaked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../link/tests/support/by_hand.rs"]
mod by_hand;
mod support;

use std::time::Duration;

use by_hand::ByHand;
use support::events::Stream;
use support::{LIMIT, TOKEN, config, serve};
use tieline_http::{ServerConfig, ServerLimits, WebAcceptor};
use tieline_proto::session::{Frame, Position, Secret, SessionId, Welcome};
use tieline_transport::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Accepts the next session with hand-written frames.
async fn granted(acceptor: &mut WebAcceptor) -> ByHand {
    let mut server = ByHand::over(acceptor.accept().await.unwrap());
    let Some(Frame::Hello(hello)) = server.next_frame().await else { panic!("not a Hello") };
    assert!(hello.resumes.is_none());
    let (session, secret) = (SessionId([1; 16]), Secret([2; 16]));
    let position = Position::default();
    server.send_frame(Frame::Welcome(Welcome { session, secret, epoch: 1, position })).await;
    server
}

/// The limit is one stream, so another one is accepted only after the first is forgotten.
#[tokio::test]
async fn the_session_of_an_abandoned_get_is_forgotten_after_its_grace_period() {
    let limits = ServerLimits {
        event_streams: 1,
        event_grace: Duration::from_millis(1),
        ..ServerLimits::default()
    };
    let hosts = vec!["127.0.0.1".into()];
    let mut served = serve(ServerConfig { hosts, limits, ..config() }).await;
    let (port, mut acceptor) = (served.port, served.resumable.take().unwrap());
    let (stream, _server) = tokio::join!(Stream::open(port, ""), granted(&mut acceptor));
    let stream = stream.unwrap();

    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!(
        "GET /sse HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Last-Event-ID: {}\r\n\r\n",
        stream.first
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // The new GET has replaced the first stream, which no longer manages the session. Then it disconnects.
    let _unanswered = acceptor.accept().await.unwrap();
    drop(socket);

    let another = async {
        loop {
            tokio::select! {
                opened = Stream::open(port, "") => {
                    let refused = opened.err().expect("the stream was opened");
                    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
                }
                _ = acceptor.accept() => return,
            }
        }
    };
    timeout(LIMIT, another).await.expect("no other stream was accepted");
}
