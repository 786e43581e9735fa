//! If a client does not use the listener's framing, both sides get the reason.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use tieline_proto::{FrameError, FramingKind};
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Endpoint, Incoming, Options, Receiver, ReceiverExt, Registry,
    SenderExt,
};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// Returns the client's channel and the listener's.
async fn pair(listens: FramingKind, speaks: FramingKind) -> (BoxChannel, BoxChannel) {
    let registry = Registry::new();
    let endpoint: Endpoint = "mem:one".parse().unwrap();
    let listens = endpoint.clone().with_framing(listens);
    let mut acceptor = registry.listen(&listens, &Options::default()).await.unwrap();
    let (speaks, options) = (endpoint.with_framing(speaks), Options::default());
    let client = registry.connect(&speaks, &options);
    let (client, server) = tokio::join!(client, acceptor.accept());
    (client.unwrap(), server.unwrap())
}

async fn end(receiver: &mut impl Receiver) -> FrameError {
    match timeout(LIMIT, receiver.recv()).await.unwrap() {
        Incoming::End(CloseReason::Protocol(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn kinds() -> impl Iterator<Item = (FramingKind, FramingKind)> {
    let pairs = |one| FramingKind::ALL.map(|other| (one, other));
    FramingKind::ALL.into_iter().flat_map(pairs).filter(|(one, other)| one != other)
}

#[tokio::test]
async fn client_gets_the_reason_when_the_refusing_side_closes() {
    for (listens, speaks) in kinds() {
        for message in ["{}", "5", "not json"] {
            let (client, server) = pair(listens, speaks).await;
            let (mut to_server, mut from_server) = client.split();
            let control = server.control().clone();
            let (mut to_client, mut from_client) = server.split();
            to_server.send(message).await.unwrap();
            let error = end(&mut from_client).await;
            assert_eq!(error, FrameError::OtherFraming { theirs: speaks, ours: listens });
            assert!(control.is_refused());
            to_client.close().await.unwrap();
            let error = end(&mut from_server).await;
            assert_eq!(error, FrameError::OtherFraming { theirs: listens, ours: speaks });
        }
    }
}

/// The bytes that the listener has sent show its framing. A refusal after them would not be the first
/// bytes.
#[tokio::test]
async fn nothing_is_added_to_what_was_sent_before() {
    for (listens, speaks) in kinds() {
        let (client, server) = pair(listens, speaks).await;
        let control = server.control().clone();
        let (mut to_client, mut from_client) = server.split();
        to_client.send("{}").await.unwrap();
        let bytes = control.info().bytes_out;
        let (mut to_server, mut from_server) = client.split();
        to_server.send("{}").await.unwrap();
        end(&mut from_client).await;
        assert!(!control.is_refused());
        to_client.close().await.unwrap();
        assert_eq!(control.info().bytes_out, bytes);
        let error = end(&mut from_server).await;
        assert_eq!(error, FrameError::OtherFraming { theirs: listens, ours: speaks });
    }
}

/// The server would treat a refusal as a message.
#[tokio::test]
async fn a_client_does_not_refuse_its_server() {
    for (listens, speaks) in kinds() {
        let (client, server) = pair(listens, speaks).await;
        let (mut to_client, _from_client) = server.split();
        to_client.send("{}").await.unwrap();
        let control = client.control().clone();
        let (mut to_server, mut from_server) = client.split();
        end(&mut from_server).await;
        to_server.close().await.unwrap();
        assert_eq!((control.is_refused(), control.info().bytes_out), (false, 0));
    }
}
