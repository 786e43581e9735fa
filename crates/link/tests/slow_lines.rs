//! Long messages over slow connections, on a simulated network in virtual time: a connection with progress
//! is not considered dead, and a message that cannot be delivered is not retried forever.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use tieline_link::{LineOptions, Recovery, Session, SessionOptions, Sessions};
use tieline_proto::{BackoffConfig, Lines};
use tieline_testkit::network::{Network, Slow};
use tieline_transport::{
    Acceptor, Channel, ChannelConfig, CloseReason, DynConnector, FramedChannel, Incoming, Listener,
    LostBy, Options, Receiver, ReceiverExt, Registry, SendError, Sender, SenderExt, Transport,
};

/// The length of a long message, which takes a minute at the usual rate.
const LONG: usize = 9_000_000;

/// A connection with 150 KB per second and the buffer sizes of Linux.
const USUAL: Slow = Slow { rate: 150_000, buffer: 4 << 20, tells: true, cut_behind: None };

/// The same connection with a proxy in between, whose buffers are invisible.
const HIDDEN: Slow = Slow { buffer: 2 << 20, tells: false, ..USUAL };

/// Options of a client that reconnects within seconds.
fn at_once() -> SessionOptions {
    SessionOptions {
        recovery: Some(Recovery::Reconnect(BackoffConfig::LOCAL)),
        ..SessionOptions::default()
    }
}

async fn session(network: &Network, options: SessionOptions) -> (Session, Session) {
    let mut registry = Registry::new();
    registry.register("net", network.clone());
    let endpoint = Network::endpoint().resumable().carrier();
    let line = LineOptions::default();
    let acceptor = registry.listen(&endpoint, &Options::default()).await.unwrap();
    let mut sessions = Sessions::new(acceptor, options, line.clone());
    let connector: Arc<dyn DynConnector> =
        registry.connector(&endpoint, &Options::default()).unwrap().into();
    let connected = Session::connect(connector, options, line);
    let (client, server) = tokio::join!(connected, Acceptor::accept(&mut sessions));
    // Accept further connections, so that the session can resume.
    tokio::spawn(async move { while Acceptor::accept(&mut sessions).await.is_ok() {} });
    (client.unwrap(), server.unwrap())
}

/// Receives the long message.
async fn arrives(receiver: &mut impl Receiver) {
    match receiver.recv().await {
        Incoming::Message(message) => assert_eq!(message.len(), LONG),
        other => panic!("{other:?}"),
    }
}

/// Sends a long message in both directions at once, and then a short one.
async fn both_ways(ours: impl Channel, theirs: impl Channel) {
    let pass = async |mut sender: Box<dyn Sender>, mut receiver: Box<dyn Receiver>| {
        let send = async {
            sender.send(vec![b'x'; LONG]).await.unwrap();
            sender
        };
        let (mut sender, ()) = tokio::join!(send, arrives(&mut receiver));
        // Requesting the next message acknowledges the long one, which makes room.
        let (sent, short) = tokio::join!(sender.send("short"), receiver.recv());
        sent.unwrap();
        assert!(matches!(short, Incoming::Message(short) if short == "short"));
        // Keep both halves until the peer has received everything.
        (sender, receiver)
    };
    let (ours, theirs) = (ours.boxed().split(), theirs.boxed().split());
    tokio::join!(pass(ours.0, ours.1), pass(theirs.0, theirs.1));
}

/// Sends a long message in one direction.
async fn one_way(from: impl Channel, to: impl Channel) {
    let ((mut sender, _receives), (_sends, mut receiver)) =
        (from.boxed().split(), to.boxed().split());
    let send = async { sender.send(vec![b'x'; LONG]).await.unwrap() };
    tokio::join!(send, arrives(&mut receiver));
}

#[tokio::test(start_paused = true)]
async fn long_message_of_a_session_needs_only_one_slow_connection() {
    for slow in [USUAL, HIDDEN] {
        for direction in ["up", "down", "both"] {
            let network = Network::slow(slow);
            let (client, server) = session(&network, SessionOptions::default()).await;
            match direction {
                "up" => one_way(client, server).await,
                "down" => one_way(server, client).await,
                _ => both_ways(client, server).await,
            }
            assert_eq!(network.events().connections, 1, "{direction}, {slow:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn long_message_of_a_plain_line_is_not_stalled_by_a_slow_connection() {
    for direction in ["up", "down", "both"] {
        let network = Network::slow(USUAL);
        let mut listener = network.listen(&tieline_testkit::network::Nothing).await.unwrap();
        let (client, server) =
            tokio::join!(network.connect(&tieline_testkit::network::Nothing), listener.accept());
        let framed = |it| FramedChannel::new(it, Lines::default(), ChannelConfig::default());
        let (client, server) = (framed(client.unwrap()), framed(server.unwrap()));
        match direction {
            "up" => one_way(client, server).await,
            "down" => one_way(server, client).await,
            _ => both_ways(client, server).await,
        }
    }
}

/// Each connection is cut in the middle of the message.
#[tokio::test(start_paused = true)]
async fn undeliverable_message_ends_its_session_with_an_error() {
    for up in [true, false] {
        let network = Network::slow(Slow { cut_behind: Some(1 << 20), ..USUAL });
        let (client, server) = session(&network, at_once()).await;
        let (from, to) = if up { (client, server) } else { (server, client) };
        let ((mut sender, mut receiver), (_sends, mut other)) = (from.split(), to.split());
        let _ = sender.send(vec![b'x'; LONG]).await;
        let lost = match receiver.recv().await {
            Incoming::End(CloseReason::SessionLost(lost)) => lost,
            other => panic!("{other:?}"),
        };
        let LostBy::Undeliverable { bytes: LONG, tries, last: Some(_) } = &lost.cause else {
            panic!("{lost}")
        };
        assert!(*tries >= 10, "{lost}");
        assert_eq!(network.events().connections, u64::from(*tries) + 1);
        assert_eq!((lost.delivered.acknowledged, lost.delivered.sent), (0, 1));
        assert!(matches!(sender.send("more").await, Err(SendError::Closed(_))));
        // The other end gets the reason, too.
        match other.recv().await {
            Incoming::End(CloseReason::SessionLost(lost)) => {
                assert!(lost.to_string().contains("was not delivered"), "{lost}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A session survives a line that flaps for less than a minute.
#[tokio::test(start_paused = true)]
async fn session_survives_many_cuts_in_a_short_time() {
    let network = Network::slow(USUAL);
    let (client, server) = session(&network, at_once()).await;
    let ((mut sender, _receives), (_sends, mut receiver)) = (client.split(), server.split());
    let cutting = network.clone();
    let cuts = tokio::spawn(async move {
        for _ in 0..55 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cutting.cut_all();
        }
    });
    let send = async { sender.send(vec![b'x'; LONG]).await.unwrap() };
    tokio::join!(send, arrives(&mut receiver));
    cuts.await.unwrap();
    assert!(network.events().connections > 10);
}

/// One task sends and receives. It waits for room, and nothing is received. It must be polled only a few
/// times. If each poll of the sender took reading back from the receiver, the two would wake each other
/// forever.
#[tokio::test(start_paused = true)]
async fn task_that_waits_for_room_and_receives_is_not_polled_endlessly() {
    let mut options = SessionOptions::default();
    options.session.replay_messages = 1;
    let network = Network::slow(USUAL);
    let (client, server) = session(&network, options).await;
    let ((mut sender, mut receiver), (_sends, _receives)) = (client.split(), server.split());
    let mut polls = 0;
    let mut both = std::pin::pin!(async {
        let sends = async {
            // The other end acknowledges nothing.
            sender.send("kept").await.unwrap();
            sender.send("there is no room for it").await
        };
        // In this order, the receiver begins to read first.
        tokio::join!(biased; receiver.recv(), sends)
    });
    let counted = std::future::poll_fn(|cx| {
        polls += 1;
        assert!(polls < 1_000, "the task is polled endlessly");
        both.as_mut().poll(cx)
    });
    let waited = tokio::time::timeout(Duration::from_secs(5), counted).await;
    assert!(waited.is_err(), "{waited:?}");
}
