#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use tieline_proto::session::{Frame, Position, Secret, SessionId, Welcome};
use tieline_transport::{
    Acceptor, Channel, ChannelConfig, Framed, Incoming, Memory, MemoryConfig, Receiver, ReceiverExt,
};

use super::*;
use crate::session::{LineOptions, Session, SessionOptions};

/// Returns a session, and the other end of its connection.
async fn connected(name: &str) -> (Session, impl Sender, impl Receiver) {
    let config = MemoryConfig::new(name);
    let framing = tieline_proto::LengthPrefix::default();
    let framed = Framed::new(Memory::default(), config, framing, ChannelConfig::default());
    let framed = framed.unwrap();
    let mut acceptor = framed.clone().listen().await.unwrap();
    let (options, line) = (SessionOptions::default(), LineOptions::default());
    let serving = async {
        let (mut sender, mut receiver) = acceptor.accept().await.unwrap().split();
        assert!(matches!(receiver.recv().await, Incoming::Message(_)));
        let (session, secret) = (SessionId([1; 16]), Secret([2; 16]));
        let welcome = Welcome { session, secret, epoch: 1, position: Position::default() };
        sender.send(Frame::Welcome(welcome).to_bytes()).await.unwrap();
        (sender, receiver)
    };
    let connecting = Session::connect(Arc::new(framed), options, line);
    let (session, (to_client, from_client)) = tokio::join!(connecting, serving);
    (session.unwrap(), to_client, from_client)
}

#[tokio::test(start_paused = true)]
async fn peer_is_pinged_at_once_after_a_suspend() {
    let (session, _to_client, mut from_client) = connected("sleep").await;
    let (sender, _receiver) = session.split();
    // Between the two checks, the wall clock advances by an hour.
    let shared = &sender.shared;
    for wall in [0, 3600] {
        let mut state = shared.state();
        shared.check_liveness(&mut state, Some(Duration::from_secs(wall)));
        let _ = state.pump();
    }
    let begun = tokio::time::Instant::now();
    while let Incoming::Message(frame) = from_client.recv().await {
        if let Frame::Ping { .. } = Frame::decode(frame).unwrap() {
            break;
        }
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "the ping must not wait");
}

#[tokio::test(start_paused = true)]
async fn consumer_that_polls_while_the_task_reads_leaves_reading_to_the_task() {
    let (session, _to_client, _from_client) = connected("turns").await;
    let (sender, mut receiver) = session.split();
    let shared = &sender.shared;
    let mut cx = Context::from_waker(Waker::noop());
    assert!(receiver.poll_recv(&mut cx).is_pending());
    assert!(shared.state().is_lent(), "the consumer must read");
    let reading = shared.intake();
    assert!(receiver.poll_recv(&mut cx).is_pending());
    // A message may have woken the consumer. The task must read it instead.
    assert!(!shared.state().is_lent(), "the task must read");
    drop(reading);
}
