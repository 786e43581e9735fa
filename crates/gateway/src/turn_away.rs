//! Refuses a client, with an error response to its requests.

use std::time::Duration;

use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{BoxChannel, Channel, CloseReason, Incoming, ReceiverExt, SenderExt};

use crate::ending::arrived;
use crate::unanswered::{MAX_CALLS, Unanswered};

/// How long a client may take to send a request and to receive the response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Closes a client's line with `reason`. If the dialect is known, first waits for a request, and answers
/// it and any others that have arrived by then with an error.
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
                Incoming::End(_) => return,
                incoming => _ = unanswered.arrived(&incoming),
            }
        }
        for incoming in arrived(&mut receiver, MAX_CALLS) {
            unanswered.arrived(&incoming);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tieline_proto::{ByteSize, Lines};
    use tieline_testkit::duplex::framed;
    use tieline_transport::{Capabilities, TransportKind};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Returns the text that a client of an overloaded server receives.
    async fn answers(sent: &str) -> String {
        let (mut own, end) = tokio::io::duplex(64 * 1024);
        let lines = Lines::new(ByteSize::new(512));
        let client = framed(end, lines, TransportKind::MEMORY, Capabilities::default());
        own.write_all(sent.as_bytes()).await.unwrap();
        own.shutdown().await.unwrap();
        let dialect = Some(Dialect::MCP);
        turn_away(client.boxed(), dialect, "too many", CloseReason::Overrun).await;
        let mut received = String::new();
        own.read_to_string(&mut received).await.unwrap();
        received
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_too_long_are_answered_like_the_others() {
        let long = "x".repeat(1000);
        let request = |id: u8, params: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"m\",\"params\":[{params:?}]}}\n"
            )
        };
        for params in [["", ""], [&long, ""], ["", &long], [&long, &long]] {
            let [first, second] = params;
            let received = answers(&(request(1, first) + &request(2, second))).await;
            let ids = [1, 2].map(|id| received.contains(&format!("\"id\":{id},")));
            assert_eq!(ids, [true, true], "{params:?}: {received}");
            assert_eq!(received.matches("too many").count(), 2, "{received}");
        }
    }
}
