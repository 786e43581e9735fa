//! The count of bytes that have arrived on a line but were not returned as messages.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use tieline_proto::{Framing, LengthPrefix, Lines};
use tieline_transport::{
    Channel, ChannelConfig, FramedChannel, Incoming, Listener, Receiver, ReceiverExt, SenderExt,
    Tcp, TcpConfig, Transport, Unix, UnixConfig,
};

/// The maximum time for each wait.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends three messages, receives one, and counts the rest. The framing adds `overhead` bytes to each
/// message.
async fn counts<T: Transport, F: Framing + Clone>(
    transport: T,
    config: T::Config,
    (framing, overhead): (F, u64),
    name: &str,
) {
    let rest = "two".len() as u64 + 4_000 + 2 * overhead;
    let mut listener = transport.listen(&config).await.unwrap();
    let endpoint = listener.endpoint().clone();
    let config = transport.config(&endpoint, &Default::default()).unwrap();
    let (ours, theirs) = tokio::join!(transport.connect(&config), listener.accept());
    let channel =
        |connection| FramedChannel::new(connection, framing.clone(), ChannelConfig::default());
    let (mut sender, _receiver) = channel(ours.unwrap()).split();
    let theirs = theirs.unwrap();
    let (_sender, mut receiver) =
        FramedChannel::new(theirs, framing.clone(), ChannelConfig::default()).split();
    assert_eq!(receiver.unread(), 0, "{name}: nothing has arrived");
    let large = vec![b'x'; 4_000];
    for message in [b"one".as_slice(), b"two", &large] {
        sender.feed(message.to_vec()).await.unwrap();
    }
    sender.close().await.unwrap();
    let Incoming::Message(first) = receiver.recv().await else { panic!("{name}") };
    assert_eq!(first, "one");
    // Over TCP, the bytes arrive a moment later.
    let all = async {
        while receiver.unread() < rest {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap();
    assert_eq!(receiver.unread(), rest, "{name}");
    while !matches!(receiver.recv().await, Incoming::End(_)) {}
    assert_eq!(receiver.unread(), 0, "{name}: everything was returned");
}

#[tokio::test]
async fn receiver_counts_bytes_in_its_buffer_and_in_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let unix = |name: &str| UnixConfig::new(directory.path().join(name));
    let tcp = TcpConfig { allow_unauthenticated: true, ..TcpConfig::new("127.0.0.1", 0) };
    let (lines, prefix) = ((Lines::default(), 1), (LengthPrefix::default(), 4));
    counts(Unix, unix("lines"), lines.clone(), "lines over unix").await;
    counts(Unix, unix("prefix"), prefix.clone(), "length-prefix over unix").await;
    counts(Tcp, tcp.clone(), lines, "lines over tcp").await;
    counts(Tcp, tcp, prefix, "length-prefix over tcp").await;
}
