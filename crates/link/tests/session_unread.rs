//! When a session ends, its sender knows which messages the other end has not received.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use tieline_link::{Link, LinkOptions, SessionOptions, connector, listen};
use tieline_testkit::wait::block_on;
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, Endpoint, Incoming, Options,
    Receiver, ReceiverExt, Registry, Sender, SenderExt, TransportError,
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

/// Waits until the message has arrived at this end, without receiving it.
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

/// A gateway puts a link around every target.
#[test]
fn link_over_a_session_waits_for_the_acknowledgement() {
    block_on(async {
        let (client, server) = pair().await;
        let connector = Once(Mutex::new(Some(client)));
        let link = Link::connect(Arc::new(connector), LinkOptions::default()).await.unwrap();
        let ((mut to_server, _from_server), (_to_client, mut from_client)) =
            (link.split(), server.split());
        to_server.send("one").await.unwrap();
        let mut acknowledged = Box::pin(poll_fn(|cx| to_server.poll_acknowledged(cx)));
        let early = poll_fn(|cx| Poll::Ready(acknowledged.as_mut().poll(cx).is_ready())).await;
        assert!(!early, "the message was not received yet");
        assert!(matches!(from_client.recv().await, Incoming::Message(_)));
        tokio::select! {
            () = acknowledged => {}
            more = from_client.recv() => panic!("{more:?}"),
        }
    });
}

/// A connector that yields one channel.
struct Once(Mutex<Option<BoxChannel>>);

impl DynConnector for Once {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        let channel = self.0.lock().unwrap().take().unwrap();
        Box::pin(async { Ok(channel) })
    }
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
