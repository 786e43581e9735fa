//! Refuses a client, with an error response to its requests.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Incoming, Receiver, ReceiverExt, SenderExt,
};

use crate::unanswered::{MAX_CALLS, Unanswered};

/// How long a client may take to send a request and to receive the response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Closes a client's line with `reason`. If the dialect is known, first waits for a request, and answers it and
/// the others that have arrived by then with an error.
pub(crate) async fn turn_away(
    client: BoxChannel,
    dialect: Option<Dialect>,
    why: &str,
    reason: CloseReason,
) {
    let control = client.control().clone();
    control.report_at_close(reason);
    let Some(dialect) = dialect.filter(|dialect| dialect.adds_messages) else { return };
    let (mut sender, mut receiver) = client.split();
    let refusal = async {
        let unanswered = Unanswered::new(dialect);
        while unanswered.is_empty() {
            match receiver.recv().await {
                Incoming::Message(message) => unanswered.asked(&unanswered.classify(&message)),
                Incoming::End(_) => return,
                _ => {}
            }
        }
        for message in waiting(&mut receiver).take(MAX_CALLS) {
            unanswered.asked(&unanswered.classify(&message));
        }
        for answer in unanswered.answers_because(why) {
            if sender.feed(answer).await.is_err() {
                return;
            }
        }
        let _ = sender.close().await;
        // On some transports, closing with unread input resets the connection.
        while !matches!(receiver.recv().await, Incoming::End(_)) {}
    };
    let _ = tokio::time::timeout(PATIENCE, refusal).await;
}

/// Returns the messages that have already arrived.
fn waiting(receiver: &mut impl Receiver) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(|| {
        let mut cx = Context::from_waker(Waker::noop());
        match receiver.poll_recv(&mut cx) {
            Poll::Ready(Incoming::Message(message)) => Some(message),
            _ => None,
        }
    })
}
