//! Long messages over slow connections, on a virtual network in virtual time: what moves is not dead, and what does
//! not get through is not tried for ever.
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

/// A minute at the usual rate.
const LONG: usize = 9_000_000;

/// 150 KB a second, and the buffers of Linux.
const USUAL: Slow = Slow { rate: 150_000, buffer: 4 << 20, tells: true, cut_behind: None };

/// The same with a proxy between: nobody sees what it holds.
const HIDDEN: Slow = Slow { buffer: 2 << 20, tells: false, ..USUAL };

/// A client that comes back within seconds.
fn at_once() -> SessionOptions {
    SessionOptions {
        recovery: Some(Recovery::Reconnect(BackoffConfig::LOCAL)),
        ..SessionOptions::default()
    }
}

async fn session(network: &Network, options: SessionOptions) -> (Session, Session) {
    let mut registry = Registry::new();
    registry.register("net", network.clone());
    let endpoint = Network::endpoint().with_framing(tieline_proto::FramingKind::LengthPrefix);
    let line = LineOptions::default();
    let acceptor = registry.listen(&endpoint, &Options::default()).await.unwrap();
    let mut sessions = Sessions::new(acceptor, options, line.clone());
    let connector: Arc<dyn DynConnector> =
        registry.connector(&endpoint, &Options::default()).unwrap().into();
    let connected = Session::connect(connector, options, line);
    let (client, server) = tokio::join!(connected, Acceptor::accept(&mut sessions));
    // The listener is needed to come back.
    tokio::spawn(async move { while Acceptor::accept(&mut sessions).await.is_ok() {} });
    (client.unwrap(), server.unwrap())
}

/// How the message arrives.
async fn arrives(receiver: &mut impl Receiver) {
    match receiver.recv().await {
        Incoming::Message(message) => assert_eq!(message.len(), LONG),
        other => panic!("{other:?}"),
    }
}

/// A long message goes each way at once, and then a short one.
async fn both_ways(ours: impl Channel, theirs: impl Channel) {
    let pass = async |mut sender: Box<dyn Sender>, mut receiver: Box<dyn Receiver>| {
        let send = async {
            sender.send(vec![b'x'; LONG]).await.unwrap();
            sender
        };
        let (mut sender, ()) = tokio::join!(send, arrives(&mut receiver));
        // What was taken is acknowledged when more is asked for, and makes room then.
        let (sent, short) = tokio::join!(sender.send("short"), receiver.recv());
        sent.unwrap();
        assert!(matches!(short, Incoming::Message(short) if short == "short"));
        // Until the other side has it.
        (sender, receiver)
    };
    let (ours, theirs) = (ours.boxed().split(), theirs.boxed().split());
    tokio::join!(pass(ours.0, ours.1), pass(theirs.0, theirs.1));
}

/// A long message goes one way.
async fn one_way(from: impl Channel, to: impl Channel) {
    let ((mut sender, _receives), (_sends, mut receiver)) =
        (from.boxed().split(), to.boxed().split());
    let send = async { sender.send(vec![b'x'; LONG]).await.unwrap() };
    tokio::join!(send, arrives(&mut receiver));
}

#[tokio::test(start_paused = true)]
async fn a_long_message_of_a_session_goes_over_one_slow_connection() {
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
async fn a_long_message_of_a_plain_line_is_not_stalled_by_a_slow_connection() {
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

/// Where each connection is cut in the middle of the message.
#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_get_through_ends_its_session_with_an_error_that_says_so() {
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
        // The other side is told, too.
        match other.recv().await {
            Incoming::End(CloseReason::SessionLost(lost)) => {
                assert!(lost.to_string().contains("was not delivered"), "{lost}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A line that flaps for less than a minute is lived through.
#[tokio::test(start_paused = true)]
async fn a_session_outlives_many_cuts_in_a_short_time() {
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

/// One task sends and receives; what it sends waits for room, and nothing comes. It is polled a few times, and not
/// again and again: with each poll of the sender the session's task would take back the reading that the receiver was
/// lent.
#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_room_and_receives_is_left_alone() {
    let mut options = SessionOptions::default();
    options.session.replay_messages = 1;
    let network = Network::slow(USUAL);
    let (client, server) = session(&network, options).await;
    let ((mut sender, mut receiver), (_sends, _receives)) = (client.split(), server.split());
    let mut polls = 0;
    let mut both = std::pin::pin!(async {
        let sends = async {
            // The other side takes nothing over.
            sender.send("kept").await.unwrap();
            sender.send("there is no room for it").await
        };
        // In this order, the receiver is lent the reading first.
        tokio::join!(biased; receiver.recv(), sends)
    });
    let counted = std::future::poll_fn(|cx| {
        polls += 1;
        assert!(polls < 1_000, "it is polled without end");
        both.as_mut().poll(cx)
    });
    let waited = tokio::time::timeout(Duration::from_secs(5), counted).await;
    assert!(waited.is_err(), "{waited:?}");
}
