//! What every test of a line looks at.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use tieline_transport::{Incoming, Receiver, ReceiverExt};

/// The next message, as text.
pub(crate) async fn message(receiver: &mut impl Receiver) -> String {
    match receiver.recv().await {
        Incoming::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
        other => panic!("no message: {other:?}"),
    }
}

pub(crate) async fn ended(receiver: &mut impl Receiver) {
    let incoming = receiver.recv().await;
    assert!(matches!(incoming, Incoming::End(_)), "{incoming:?}");
}
