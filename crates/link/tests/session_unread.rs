//! The sender of a session learns which messages the other end has not received when it ends.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::poll_fn;

use tieline_link::{SessionOptions, connector, listen};
use tieline_testkit::wait::block_on;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Endpoint, Incoming, Options, Receiver, ReceiverExt, Registry,
    Sender, SenderExt,
};

/// Returns both ends of a session.
async fn pair() -> (BoxChannel, BoxChannel) {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::unix(directory.path().join("s")).resumable();
    let (registry, options, session) = (Registry::new(), Options::default(), Default::default());
    let mut acceptor = listen(&registry, &endpoint, &options, session).await.unwrap();
    let connector = connector(&registry, &endpoint, &options, SessionOptions::default()).unwrap();
    let (client, server) = tokio::join!(connector.connect(), acceptor.accept());
    (client.unwrap(), server.unwrap())
}

/// Waits until the message has arrived at this end, where it is not received.
async fn arrived(receiver: &impl Receiver) {
    while !receiver.holds_part() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn message_that_the_other_end_drops_when_it_ends_stays_unacknowledged() {
    block_on(async {
        let (client, server) = pair().await;
        let control = client.control().clone();
        let ((mut to_server, mut from_server), (mut to_client, from_client)) =
            (client.split(), server.split());
        to_server.send("ignored").await.unwrap();
        arrived(&from_client).await;
        drop(from_client);
        to_client.close().await.unwrap();
        drop(to_client);

        assert!(matches!(from_server.recv().await, Incoming::End(CloseReason::ByPeer)));
        let _ = to_server.close().await;
        poll_fn(|cx| to_server.poll_acknowledged(cx)).await;
        assert_eq!(to_server.unwritten(), "ignored".len());
        let Some(CloseReason::SessionLost(lost)) = control.close_reason() else {
            panic!("{:?}", control.close_reason());
        };
        assert_eq!((lost.delivered.acknowledged, lost.delivered.sent), (0, 1), "{lost}");
    });
}

#[test]
fn nothing_is_left_once_the_other_end_has_received_everything() {
    block_on(async {
        let (client, server) = pair().await;
        let ((mut to_server, _from_server), (_to_client, mut from_client)) =
            (client.split(), server.split());
        to_server.send("one").await.unwrap();
        assert_eq!(to_server.unwritten(), "one".len(), "it was not received yet");
        assert!(matches!(from_client.recv().await, Incoming::Message(_)));
        // The next call acknowledges the message.
        let acknowledged = poll_fn(|cx| to_server.poll_acknowledged(cx));
        tokio::select! {
            () = acknowledged => {}
            more = from_client.recv() => panic!("{more:?}"),
        }
        assert_eq!(to_server.unwritten(), 0);
    });
}
