//! Helpers for tests of a line.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub(crate) mod server;

use tieline_proto::{ByteSize, Framing, Lines};
use tieline_testkit::duplex::framed;
use tieline_transport::{Capabilities, Channel, Incoming, Receiver, ReceiverExt, TransportKind};

/// Receives the next message, as text.
pub(crate) async fn message(receiver: &mut impl Receiver) -> String {
    match receiver.recv().await {
        Incoming::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
        other => panic!("no message: {other:?}"),
    }
}

/// Receives the end.
pub(crate) async fn ended(receiver: &mut impl Receiver) {
    let incoming = receiver.recv().await;
    assert!(matches!(incoming, Incoming::End(_)), "{incoming:?}");
}

/// Returns two ends of a line with the framing `lines`, for messages of at most this length.
pub(crate) fn lines_pair(max_message: ByteSize) -> (impl Channel, impl Channel) {
    lines_pair_of(max_message, max_message)
}

/// Works like [`lines_pair`], with a limit for each end.
pub(crate) fn lines_pair_of(left: ByteSize, right: ByteSize) -> (impl Channel, impl Channel) {
    framed_pair(Lines::new(left), Lines::new(right))
}

/// Returns two ends of a line, each with its own framing.
pub(crate) fn framed_pair<F: Framing>(left: F, right: F) -> (impl Channel, impl Channel) {
    let ends = tokio::io::duplex(64 * 1024);
    let framed =
        |end, framing| framed(end, framing, TransportKind::MEMORY, Capabilities::default());
    (framed(ends.0, left), framed(ends.1, right))
}
