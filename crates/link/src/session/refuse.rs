//! Responses to clients that are refused, or whose session has ended.

use std::time::Duration;

use tieline_proto::session::{Farewell, Frame, Refusal, Welcome};
use tieline_transport::{BoxChannel, Channel, Incoming, ReceiverExt, SenderExt};
use tokio::time::timeout;

/// Sends the final position of an ended session to its client once more, and a farewell.
pub(super) async fn farewell(line: BoxChannel, limit: Duration, welcome: Welcome) {
    let received = welcome.position.received;
    let bye = Frame::Bye(Farewell { received, text: String::new() });
    send_and_close(line, limit, [Frame::Welcome(welcome), bye]).await;
}

/// Sends a refusal and closes the connection. Waits at most `limit` for the client to read it.
pub(super) async fn refuse(line: BoxChannel, limit: Duration, refusal: Refusal, text: &str) {
    send_and_close(line, limit, [Frame::Refused { refusal, text: text.to_owned() }]).await;
}

/// Sends these frames and closes the connection.
async fn send_and_close(
    line: BoxChannel,
    limit: Duration,
    frames: impl IntoIterator<Item = Frame>,
) {
    let (mut sender, mut receiver) = line.split();
    let _ = timeout(limit, async {
        for frame in frames {
            let _ = sender.send(frame.to_bytes()).await;
        }
        let _ = sender.close().await;
        // Closing a connection with unread data may discard what was sent, so read until the peer closes.
        while let Incoming::Message(_) = receiver.recv().await {}
    })
    .await;
}
