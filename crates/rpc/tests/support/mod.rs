//! A peer at one end of a line, and a raw end at the other, which sends exactly the text that it is
//! given.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde_json::Value;
use tieline_proto::{ByteSize, Framing, Lines};
use tieline_rpc::{Handler, Peer, PeerOptions};
use tieline_transport::{
    Capabilities, Channel, ChannelConfig, CloseReason, ControlBuilder, Endpoint, FramedChannel,
    Incoming, IoConnection, MemoryChannel, PerformanceProfile, Receiver, ReceiverExt, SenderExt,
    TransportKind, memory_pair,
};
use tokio::task::JoinHandle;

/// The raw end of a line.
pub(crate) struct Raw {
    pub(crate) sender: <MemoryChannel as Channel>::Sender,
    pub(crate) receiver: <MemoryChannel as Channel>::Receiver,
}

impl Raw {
    pub(crate) async fn send(&mut self, message: &str) {
        within(self.sender.send(message.to_owned())).await.unwrap();
    }

    /// Receives the next message as text.
    pub(crate) async fn recv_text(&mut self) -> String {
        match within(self.receiver.recv()).await {
            Incoming::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
            other => panic!("expected a message: {other:?}"),
        }
    }

    pub(crate) async fn recv(&mut self) -> Value {
        serde_json::from_str(&self.recv_text().await).unwrap()
    }

    pub(crate) async fn recv_end(&mut self) -> CloseReason {
        match within(self.receiver.recv()).await {
            Incoming::End(reason) => reason,
            other => panic!("expected the end: {other:?}"),
        }
    }
}

pub(crate) fn with_options(
    handler: impl Handler,
    options: PeerOptions,
) -> (Peer, JoinHandle<CloseReason>, Raw) {
    let (ours, theirs) = memory_pair();
    let (peer, driver) = Peer::new(ours, handler, options);
    let (sender, receiver) = theirs.split();
    (peer, tokio::spawn(driver), Raw { sender, receiver })
}

pub(crate) fn peer_and_raw(handler: impl Handler) -> (Peer, JoinHandle<CloseReason>, Raw) {
    with_options(handler, PeerOptions::default())
}

/// Returns two peers that are connected to each other.
pub(crate) fn two_peers(one: impl Handler, other: impl Handler) -> (Peer, Peer) {
    let (ours, theirs) = memory_pair();
    let (peer, driver) = Peer::new(ours, one, PeerOptions::default());
    let (other_peer, other_driver) = Peer::new(theirs, other, PeerOptions::default());
    tokio::spawn(driver);
    tokio::spawn(other_driver);
    (peer, other_peer)
}

/// Waits for the future, and fails after half a minute.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(there) => there,
        Err(_) => panic!("timed out after 30 seconds"),
    }
}

/// Returns a channel of lines over a byte stream.
pub(crate) fn lines(stream: tokio::io::DuplexStream, config: ChannelConfig) -> impl Channel {
    framed(stream, Lines::new(config.max_message), config)
}

/// Returns a channel over a byte stream.
pub(crate) fn framed(
    stream: tokio::io::DuplexStream,
    framing: impl Framing,
    config: ChannelConfig,
) -> impl Channel {
    let (read, write) = tokio::io::split(stream);
    let control = ControlBuilder {
        kind: TransportKind::custom("test"),
        endpoint: Endpoint::memory("test"),
        peer: None,
        capabilities: Capabilities { half_close: true, ..Capabilities::default() },
        profile: PerformanceProfile {
            connect: Duration::from_secs(1),
            round_trip: Duration::from_secs(1),
            throughput: ByteSize::mib(1),
        },
        backing: Arc::new(()),
    };
    let connection = IoConnection::new(read, write, control.build());
    FramedChannel::new(connection, framing, config)
}

/// Polls the future once.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Receives the next message as JSON.
pub(crate) async fn message(receiver: &mut impl Receiver) -> Value {
    match within(receiver.recv()).await {
        Incoming::Message(message) => serde_json::from_slice(&message).unwrap(),
        other => panic!("expected a message: {other:?}"),
    }
}
