//! A waiting receiver reads the connection itself, and no other task has to wait for it.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/by_hand.rs"]
mod by_hand;

use std::sync::Arc;
use std::time::Duration;

use by_hand::{ByHand, hello};
use bytes::Bytes;
use tieline_link::{LineOptions, LineState, Session, SessionOptions, listen};
use tieline_proto::session::{Frame, Hello, Position, Secret, SessionConfig, SessionId, Welcome};
use tieline_testkit::wait::{poll_once, within};
use tieline_transport::{
    Acceptor, Channel, ChannelConfig, DynAcceptor, Endpoint, Framed, Incoming, Memory,
    MemoryConfig, Options, ReceiverExt, Registry, SenderExt,
};
use tokio::time::Instant;

async fn serve(registry: &Registry, session: SessionOptions) -> (Endpoint, Box<dyn DynAcceptor>) {
    let endpoint = Endpoint::memory("reading").resumable();
    let acceptor = listen(registry, &endpoint, &Options::default(), session).await.unwrap();
    (endpoint, acceptor)
}

async fn both(session: SessionOptions) -> (Session, tieline_transport::BoxChannel) {
    let registry = Registry::new();
    let (endpoint, mut acceptor) = serve(&registry, session).await;
    let dialer = registry.connector(&endpoint.carrier(), &Options::default()).unwrap();
    let connecting = Session::connect(dialer.into(), session, LineOptions::default());
    let (client, server) = tokio::join!(connecting, acceptor.accept());
    // No other clients connect.
    drop(acceptor);
    (client.unwrap(), server.unwrap())
}

/// An hour on the paused clock, which advances only while no task has anything to do.
const AN_HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn receiver_that_was_polled_once_does_not_make_the_line_look_dead() {
    let (client, server) = both(SessionOptions::default()).await;
    let states = client.states();
    let ((mut to_server, mut from_server), (mut to_client, mut from_client)) =
        (client.split(), server.split());
    // From now on the consumers are responsible for reading, but do not poll.
    assert!(poll_once(from_server.recv()).await.is_none());
    assert!(poll_once(from_client.recv()).await.is_none());
    tokio::time::sleep(AN_HOUR).await;
    assert!(matches!(states.present(), LineState::Connected { epoch: 1 }), "{}", states.present());
    to_server.send("there").await.unwrap();
    to_client.send("back").await.unwrap();
    assert!(matches!(from_client.recv().await, Incoming::Message(it) if it == "there"));
    assert!(matches!(from_server.recv().await, Incoming::Message(it) if it == "back"));
}

#[tokio::test(start_paused = true)]
async fn sender_gets_acknowledgements_after_the_receiver_was_polled_once() {
    let (client, server) = both(SessionOptions::default()).await;
    let ((mut to_server, mut from_server), (_to_client, mut from_client)) =
        (client.split(), server.split());
    assert!(poll_once(from_server.recv()).await.is_none());
    let taking = tokio::spawn(async move {
        for number in 0..5000 {
            let Incoming::Message(message) = from_client.recv().await else { panic!("no message") };
            assert_eq!(message, number.to_string());
        }
        from_client
    });
    let begun = Instant::now();
    // Send several times as many messages as may be unacknowledged.
    for number in 0..5000 {
        to_server.send(format!("{number}")).await.unwrap();
    }
    taking.await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "a timer was needed");
}

#[tokio::test(start_paused = true)]
async fn received_messages_are_acknowledged_when_there_are_many_or_no_more_arrive() {
    let registry = Registry::new();
    let (endpoint, mut acceptor) = serve(&registry, SessionOptions::default()).await;
    let line = registry.connect(&endpoint.carrier(), &Options::default()).await.unwrap();
    let mut client = ByHand::over(line);
    client.greet(hello(None)).await.unwrap();
    let (_to_client, mut from_client) = acceptor.accept().await.unwrap().split();
    assert!(poll_once(from_client.recv()).await.is_none());
    for sequence in 1..=700 {
        let message = Bytes::from_static(b"x");
        let frame = Frame::Data { sequence, acknowledged: 0, message };
        client.sender.feed(frame.to_bytes()).await.unwrap();
    }
    client.sender.flush().await.unwrap();
    // The task is unconstrained, so that the runtime does not return `Pending` while messages are
    // available.
    let taking = tokio::task::unconstrained(async {
        for _ in 0..700 {
            assert!(matches!(from_client.recv().await, Incoming::Message(_)));
        }
        // Requesting another message acknowledges the last one.
        from_client.recv().await
    });
    let acknowledging = async {
        let mut acknowledgements = Vec::new();
        while acknowledgements.last() != Some(&700) {
            match client.next_frame().await {
                Some(Frame::Ack { acknowledged }) => acknowledgements.push(acknowledged),
                other => panic!("{other:?}"),
            }
        }
        acknowledgements
    };
    let begun = Instant::now();
    tokio::select! {
        acknowledgements = acknowledging => assert_eq!(acknowledgements, [512, 700]),
        more = taking => panic!("{more:?}"),
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "a timer was needed");
}

/// Both ends send all the time and receive now and then, so that the task and the consumer interrupt each
/// other's reading at any point.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn task_and_consumer_take_turns_on_several_threads() {
    const MESSAGES: u32 = 20_000;
    let session = SessionConfig { replay_messages: 200, ..SessionConfig::default() };
    let options = SessionOptions { session, ..SessionOptions::default() };
    let (client, server) = both(options).await;
    let talk = |line: tieline_transport::BoxChannel| async move {
        let (mut sender, mut receiver) = line.split();
        let sending = tokio::spawn(async move {
            for number in 0..MESSAGES {
                sender.feed(format!("{number}")).await.unwrap();
                if number % 7 == 0 {
                    sender.flush().await.unwrap();
                }
            }
            sender.flush().await.unwrap();
            sender
        });
        let taking = tokio::spawn(async move {
            for number in 0..MESSAGES {
                let Incoming::Message(message) = receiver.recv().await else {
                    panic!("no message")
                };
                assert_eq!(message, number.to_string());
                if number % 5 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            receiver
        });
        (sending.await.unwrap(), taking.await.unwrap())
    };
    let talking = async { tokio::join!(talk(client.boxed()), talk(server)) };
    within("both to receive everything", talking).await;
}

/// Receives the greeting of a client, and grants the session.
async fn welcome(line: impl Channel, epoch: u64, sent: u64) -> (ByHand, Hello) {
    let mut server = ByHand::over(line);
    let Some(Frame::Hello(hello)) = server.next_frame().await else { panic!("no greeting") };
    let position = Position { received: 1, acknowledged: 1, sent };
    let position = if epoch == 1 { Position::default() } else { position };
    let (session, secret) = (SessionId([1; 16]), Secret([2; 16]));
    server.send_frame(Frame::Welcome(Welcome { session, secret, epoch, position })).await;
    (server, hello)
}

#[tokio::test(start_paused = true)]
async fn acknowledgement_that_could_not_be_written_is_sent_on_the_next_connection() {
    let config = MemoryConfig::new("last");
    let framing = tieline_proto::LengthPrefix::default();
    let framed = Framed::new(Memory::default(), config, framing, ChannelConfig::default()).unwrap();
    let mut acceptor = framed.clone().listen().await.unwrap();
    let (options, line) = (SessionOptions::default(), LineOptions::default());
    let connecting = Session::connect(Arc::new(framed), options, line);
    let serving = async { welcome(Acceptor::accept(&mut acceptor).await.unwrap(), 1, 0).await };
    let (session, (mut server, _)) = tokio::join!(connecting, serving);
    let (mut to_server, mut from_server) = session.unwrap().split();
    to_server.close().await.unwrap();
    assert!(poll_once(from_server.recv()).await.is_none());
    assert!(matches!(server.next_frame().await, Some(Frame::End { sequence: 1, .. })));
    // The client receives everything it waits for, but its acknowledgement can no longer be written.
    let message = Bytes::from_static(b"last");
    server.send_frame(Frame::Data { sequence: 1, acknowledged: 1, message }).await;
    server.send_frame(Frame::End { sequence: 2, acknowledged: 1 }).await;
    drop(server);
    assert!(matches!(from_server.recv().await, Incoming::Message(it) if it == "last"));
    assert!(matches!(from_server.recv().await, Incoming::End(_)));
    let again = async { welcome(Acceptor::accept(&mut acceptor).await.unwrap(), 2, 2).await };
    let (mut server, hello) = within("the client to reconnect", again).await;
    assert_eq!(hello.position.received, 2);
    assert!(matches!(server.next_frame().await, Some(Frame::Ack { acknowledged: 2 })));
}

#[tokio::test(start_paused = true)]
async fn orderly_end_needs_no_timer() {
    let (client, server) = both(SessionOptions::default()).await;
    let begun = Instant::now();
    let end = |line: tieline_transport::BoxChannel| async move {
        let (mut sender, mut receiver) = line.split();
        assert!(poll_once(receiver.recv()).await.is_none());
        sender.send("bye").await.unwrap();
        sender.close().await.unwrap();
        assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == "bye"));
        assert!(matches!(receiver.recv().await, Incoming::End(_)));
        sender.gone().await;
    };
    within("both to end", async { tokio::join!(end(client.boxed()), end(server)) }).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "a timer was needed");
}
