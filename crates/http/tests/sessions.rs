//! Tests of sessions over WebSockets: messages in flight when a connection is cut are neither lost nor
//! duplicated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{
    BEARER, Served, close_code, config, end, frame, message, registry, serve, status, upgrade,
};
use tieline_http::ServerConfig;
use tieline_link::{LineOptions, Recovery, SessionOptions, Sessions};
use tieline_proto::BackoffConfig;
use tieline_proto::session::LARGEST_GREETING;
use tieline_transport::{
    Acceptor, Channel, CloseReason, DynAcceptor, Endpoint, LostBy, Options, SenderExt,
};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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

/// Forwards connections while it is open. Closing it cuts all of them. Returns the port to connect to.
async fn gate(to: u16) -> (u16, Arc<watch::Sender<bool>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let is_open = Arc::new(watch::Sender::new(true));
    let gate = is_open.clone();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut is_open = gate.subscribe();
            tokio::spawn(async move {
                let forwarding = async {
                    let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    copy_bidirectional(&mut near, &mut far).await
                };
                tokio::select! {
                    _ = is_open.wait_for(|is_open| !*is_open) => {}
                    _ = forwarding => {}
                }
            });
        }
    });
    (port, is_open)
}

/// The connection is lost before the server ends the session, and the client returns after that.
#[tokio::test]
async fn a_client_that_returns_to_an_ended_session_gets_the_last_messages_and_the_reason() {
    for (scheme, path) in [("ws", "ws"), ("http", "sse")] {
        let hosts = vec!["127.0.0.1".into()];
        let served = serve(ServerConfig { hosts, ..config() }).await;
        let Served { web: _web, plain: _plain, resumable, port } = served;
        let (port, is_open) = gate(port).await;
        let backoff =
            BackoffConfig { first: Duration::ZERO, initial: Duration::ZERO, max: Duration::ZERO };
        let recovery = Some(Recovery::Reconnect(backoff));
        let options = SessionOptions { recovery, ..SessionOptions::default() };
        let acceptor: Box<dyn DynAcceptor> = Box::new(resumable.unwrap());
        let mut sessions = Sessions::new(acceptor, options, LineOptions::default());
        let url: Endpoint = format!("resume+{scheme}://127.0.0.1:{port}/{path}").parse().unwrap();
        let connector =
            tieline_link::connector(&registry(), &url, &Options::default(), options).unwrap();
        let (client, server) = tokio::join!(connector.connect(), Acceptor::accept(&mut sessions));
        let (mut to_server, mut from_server) = client.unwrap().split();
        let server = server.unwrap();
        let control = server.control().clone();
        let (mut to_client, mut from_client) = server.split();
        to_server.send("read").await.unwrap();
        assert_eq!(message(&mut from_client).await, "read");

        is_open.send_replace(false);
        while control.info().session.is_some_and(|session| session.is_connected) {
            tokio::task::yield_now().await;
        }
        // More than a POST holds.
        for _ in 0..8 {
            to_server.send(vec![b'x'; 100 << 10]).await.unwrap();
        }
        to_client.send("last").await.unwrap();
        control.report_at_close(CloseReason::InputUnread(7));
        drop((to_client, from_client));
        is_open.send_replace(true);

        assert_eq!(message(&mut from_server).await, "last", "{scheme}");
        let reason = end(&mut from_server).await;
        let CloseReason::SessionLost(lost) = &reason else { panic!("{scheme}: {reason}") };
        assert_eq!((lost.delivered.acknowledged, lost.delivered.sent), (1, 9), "{scheme}");
        let LostBy::Farewell(text) = &lost.cause else { panic!("{scheme}: {reason}") };
        assert_eq!(text, &CloseReason::InputUnread(7).to_string(), "{scheme}");
    }
}
