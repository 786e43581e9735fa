//! Responses to clients that are refused, or whose session has ended.

use std::time::Duration;

use tieline_proto::session::{Frame, Refusal};
use tieline_transport::{BoxChannel, Channel, Incoming, ReceiverExt, SenderExt};
use tokio::time::timeout;

/// Sends a refusal and closes the connection. Waits at most `limit` for the client to read it.
pub(super) async fn refuse(line: BoxChannel, limit: Duration, refusal: Refusal, text: &str) {
    send_and_close(line, limit, [Frame::Refused { refusal, text: text.to_owned() }]).await;
}

/// Sends these frames and closes the connection. Waits at most `limit` for the client to read them.
pub(super) async fn send_and_close(
    line: BoxChannel,
    limit: Duration,
    frames: impl IntoIterator<Item = Frame>,
) {
    let (mut sender, mut receiver) = line.split();
    let sending = async {
        for frame in frames {
            if sender.feed(frame.to_bytes()).await.is_err() {
                break;
            }
        }
        let _ = sender.close().await;
    };
    // Closing a connection with unread data may discard what was sent, so read until the peer closes. A client
    // that is itself sending may read only after that.
    let reading = async { while let Incoming::Message(_) = receiver.recv().await {} };
    let _ = timeout(limit, async { tokio::join!(sending, reading) }).await;
}
