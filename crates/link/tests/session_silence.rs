//! Idle and silent peers of a session.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use tieline_link::{LineOptions, LineState, Session, SessionOptions, listen};
use tieline_proto::session::{Frame, Hello, Position};
use tieline_transport::{
    Channel, CloseReason, DynAcceptor, Endpoint, Incoming, LostBy, Options, Receiver, ReceiverExt,
    Registry, Sender, SenderExt,
};
use tokio::time::Instant;

async fn serve(registry: &Registry) -> (Endpoint, Box<dyn DynAcceptor>) {
    let endpoint = Endpoint::memory("silence").resumable();
    let (options, session) = (Options::default(), SessionOptions::default());
    let acceptor = listen(registry, &endpoint, &options, session).await.unwrap();
    (endpoint, acceptor)
}

async fn connect(registry: &Registry, endpoint: &Endpoint) -> Session {
    let dialer = registry.connector(&endpoint.carrier(), &Options::default()).unwrap();
    let (session, line) = (SessionOptions::default(), LineOptions::default());
    Session::connect(dialer.into(), session, line).await.unwrap()
}

/// Begins a session frame by frame, over a line that nothing reads afterwards.
async fn begin(registry: &Registry, endpoint: &Endpoint) -> (Box<dyn Sender>, Box<dyn Receiver>) {
    let line = registry.connect(&endpoint.carrier(), &Options::default()).await.unwrap();
    let (mut sender, mut receiver) = line.split();
    let hello = Hello { resumes: None, position: Position::default() };
    sender.send(Frame::Hello(hello).to_bytes()).await.unwrap();
    assert!(matches!(next_frame(&mut receiver).await, Some(Frame::Welcome(_))));
    (sender, receiver)
}

async fn next_frame(receiver: &mut impl Receiver) -> Option<Frame> {
    match receiver.recv().await {
        Incoming::Message(frame) => Some(Frame::decode(frame).unwrap()),
        Incoming::End(_) => None,
        other => panic!("{other:?}"),
    }
}

/// An hour on the paused clock. The tests check that nothing happens during this time, so there is no
/// event to wait for.
const AN_HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn silent_peer_is_pinged_twice_and_given_up_after_25_seconds() {
    let registry = Registry::new();
    let (endpoint, mut acceptor) = serve(&registry).await;
    let (_sender, mut receiver) = begin(&registry, &endpoint).await;
    let server = acceptor.accept().await.unwrap();
    let begun = Instant::now();
    let (mut pings, mut last) = (0, Duration::ZERO);
    while let Some(frame) = next_frame(&mut receiver).await {
        if let Frame::Ping { .. } = frame {
            pings += 1;
        }
        last = begun.elapsed();
    }
    assert_eq!((pings, begun.elapsed().as_secs()), (2, 25), "the last at {last:?}");
    // The session waits another two minutes for the client to resume.
    let (_to_client, mut from_client) = server.split();
    let Incoming::End(CloseReason::SessionLost(lost)) = from_client.recv().await else {
        panic!("no end")
    };
    assert!(matches!(lost.cause, LostBy::Expired(_)), "{lost}");
    assert_eq!(begun.elapsed().as_secs(), 25 + 120);
}

#[tokio::test(start_paused = true)]
async fn idle_session_stays_connected() {
    let registry = Registry::new();
    let (endpoint, mut acceptor) = serve(&registry).await;
    let (client, server) = tokio::join!(connect(&registry, &endpoint), acceptor.accept());
    let (states, server) = (client.states(), server.unwrap());
    let ((mut to_server, _from_server), (_to_client, mut from_client)) =
        (client.split(), server.split());
    // Neither consumer polls, so only the tasks can respond to pings.
    tokio::time::sleep(AN_HOUR).await;
    to_server.send("still here").await.unwrap();
    let received = from_client.recv().await;
    assert!(matches!(&received, Incoming::Message(it) if it == "still here"), "{received:?}");
    assert!(matches!(states.present(), LineState::Connected { epoch: 1 }), "{}", states.present());
}

#[tokio::test(start_paused = true)]
async fn consumer_that_receives_nothing_for_an_hour_keeps_the_session_connected() {
    let registry = Registry::new();
    let (endpoint, mut acceptor) = serve(&registry).await;
    let (client, server) = tokio::join!(connect(&registry, &endpoint), acceptor.accept());
    let (states, server) = (client.states(), server.unwrap());
    let ((mut to_server, _from_server), (_to_client, mut from_client)) =
        (client.split(), server.split());
    let sending = tokio::spawn(async move {
        for number in 0..5000 {
            to_server.send(format!("{number}")).await.unwrap();
        }
        to_server
    });
    tokio::time::sleep(AN_HOUR).await;
    for number in 0..5000 {
        match from_client.recv().await {
            Incoming::Message(it) => assert_eq!(it, number.to_string()),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(states.present(), LineState::Connected { epoch: 1 }), "{}", states.present());
    drop(sending.await.unwrap());
}
