//! Sessions over WebSockets: what is on its way when a connection is cut is not lost, and not doubled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{BEARER, close_code, config, frame, serve, status, upgrade};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::session::LARGEST_GREETING;
use tieline_transport::DynAcceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_session_survives_a_thousand_web_sockets_that_are_cut_in_mid_frame() {
    let url = |port| format!("resume+ws://127.0.0.1:{port}/ws");
    support::cuts::a_thousand(url, |counts| counts.web_sockets).await;
}

/// Whoever was let in is a stranger to the sessions until he has greeted: what is longer than any greeting
/// is refused by its length, and nothing of it is waited for.
#[tokio::test]
async fn a_first_message_is_no_longer_than_a_greeting() {
    let served = serve(config()).await;
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let _sessions = Sessions::new(acceptor, SessionOptions::default(), LineOptions::default());
    let longest = LARGEST_GREETING.bytes();
    let knock = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        let more = format!("{BEARER}Sec-WebSocket-Protocol: tieline.1\r\n");
        stream.write_all(upgrade(served.port, &more).as_bytes()).await.unwrap();
        assert_eq!(status(&mut stream).await, 101);
        stream.write_all(bytes).await.unwrap();
        close_code(&mut stream).await
    };
    // No greeting, but short enough to be read and answered.
    assert_eq!(knock(&frame(0x82, &vec![b'x'; longest])).await, Some(1000));
    // The head is all that comes of these.
    for length in [longest + 1, 1 << 16, 1 << 20] {
        let whole = frame(0x82, &vec![b'x'; length]);
        assert_eq!(knock(&whole[..whole.len() - length]).await, Some(1009), "{length}");
    }
}
