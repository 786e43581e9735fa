#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use tieline_proto::websocket::Role;
use tieline_transport::{
    Capabilities, Connection, ControlBuilder, Endpoint, IoConnection, ReceiverExt, Sender,
    TransportKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::time::timeout;

use super::super::out::Out;
use super::super::receiver::Reader;
use super::super::sender::WebSender;
use super::super::shared_socket::{Counts, Lifeline};
use super::super::{Content, PROFILE};
use super::*;
use crate::stream::{BoxRead, BoxWrite};

/// Returns both halves of a server's WebSocket, and the other end of its stream.
fn web_socket() -> (WebSender, Reader, DuplexStream) {
    let (ours, theirs) = duplex(64 * 1024);
    let (read, write) = split(ours);
    let (read, write): (BoxRead, BoxWrite) = (Box::new(read), Box::new(write));
    let counts = Arc::new(Counts::holding(None, None));
    let builder = ControlBuilder {
        kind: TransportKind::MEMORY,
        endpoint: Endpoint::memory("keepalive"),
        peer: None,
        capabilities: Capabilities::default(),
        profile: PROFILE,
        backing: counts.clone(),
    };
    let (control, config) = (builder.build(), WebSocketConfig::default());
    let (read, write) = IoConnection::new(read, write, control.clone()).into_split();
    let out = Out::new(write, Role::Server, &config.channel, None);
    let shared = SharedSocket::new(out, Content::Plain(None), config, false, counts, control);
    let shared = Arc::new(shared);
    let reader = Reader::new(read, BytesMut::new(), Role::Server, false, shared.clone(), None);
    let lifeline = Arc::new(Lifeline::new(shared.clone()));
    (WebSender::new(shared, lifeline), reader, theirs)
}

/// Polls only the sender, as a busy consumer does.
async fn flush(sender: &mut WebSender) {
    poll_fn(|cx| {
        assert!(!matches!(sender.poll_flush(cx), Poll::Ready(Err(_))));
        Poll::<()>::Pending
    })
    .await;
}

/// Receives a ping.
async fn ping(stream: &mut DuplexStream) {
    let mut frame = [0; 2];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame, *b"\x89\0");
}

/// The other side gives up after 25 s by default.
#[tokio::test(start_paused = true)]
async fn busy_side_pings_after_a_canceled_receive() {
    let (mut sender, mut reader, mut peer) = web_socket();
    assert!(timeout(Duration::from_secs(1), reader.recv()).await.is_err());
    let begun = Instant::now();
    for nth in 1..=3 {
        tokio::select! {
            pinged = timeout(Duration::from_secs(24), ping(&mut peer)) => {
                assert!(pinged.is_ok(), "no ping {nth}, {:?} after the receive", begun.elapsed());
            }
            () = flush(&mut sender) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_receiver_pings_while_it_waits() {
    let (mut sender, mut reader, mut peer) = web_socket();
    let begun = Instant::now();
    let answering = async {
        for _ in 0..10 {
            ping(&mut peer).await;
            // A pong, masked with zeros.
            peer.write_all(b"\x8a\x80\0\0\0\0").await.unwrap();
        }
    };
    tokio::select! {
        () = answering => {}
        () = flush(&mut sender) => {}
        ended = reader.recv() => panic!("{ended:?}"),
    }
    assert!(begun.elapsed() >= Duration::from_secs(100), "{:?}", begun.elapsed());
}
