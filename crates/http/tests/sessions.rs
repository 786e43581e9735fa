//! Tests of sessions over WebSockets: messages in flight when a connection is cut are neither lost nor
//! duplicated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{BEARER, close_code, config, frame, serve, status, upgrade};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::session::LARGEST_GREETING;
use tieline_transport::DynAcceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_session_survives_a_thousand_web_sockets_cut_in_mid_frame() {
    let url = |port| format!("resume+ws://127.0.0.1:{port}/ws");
    support::cuts::a_thousand(url, |counts| counts.web_sockets).await;
}

/// A client has no session before its first frame. A message longer than any valid first frame is
/// refused because of its announced length, before its payload arrives.
#[tokio::test]
async fn an_oversized_first_message_is_refused_by_its_length() {
    let served = serve(config()).await;
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let _sessions = Sessions::new(acceptor, SessionOptions::default(), LineOptions::default());
    let longest = LARGEST_GREETING.bytes();
    let code_after = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        let more = format!("{BEARER}Sec-WebSocket-Protocol: tieline.1\r\n");
        stream.write_all(upgrade(served.port, &more).as_bytes()).await.unwrap();
        assert_eq!(status(&mut stream).await, 101);
        stream.write_all(bytes).await.unwrap();
        close_code(&mut stream).await
    };
    // This is not a greeting, but it is short enough to be read and answered.
    assert_eq!(code_after(&frame(0x82, &vec![b'x'; longest])).await, Some(1000));
    // Only the frame header of these is sent.
    for length in [longest + 1, 1 << 16, 1 << 20] {
        let whole = frame(0x82, &vec![b'x'; length]);
        assert_eq!(code_after(&whole[..whole.len() - length]).await, Some(1009), "{length}");
    }
}
