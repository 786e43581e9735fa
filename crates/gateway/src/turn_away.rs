//! Refuses a client, with an error response to its requests.

use std::time::Duration;

use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Incoming, ReceiverExt, SenderExt, from_now,
};
use tokio::time::timeout_at;

use crate::ending::arrived;
use crate::far_breaker::KeepsFailing;
use crate::unanswered::{MAX_CALLS, Unanswered};

/// How long a client may take to send a request and to receive the response.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after its first message a client may take to send a request. One that sends only notifications waits
/// for no answer.
const WITHOUT_REQUEST: Duration = Duration::from_secs(1);

/// Why a client is refused.
pub(crate) struct Refusal {
    /// What its requests are answered with.
    why: String,
    /// How a program ended, as JSON, if that is the reason.
    exit: Option<String>,
    reason: CloseReason,
}

impl Refusal {
    pub(crate) fn new(why: &str) -> Self {
        Self::because(why.to_owned(), CloseReason::TurnedAway(why.into()))
    }

    pub(crate) fn because(why: String, reason: CloseReason) -> Self {
        Self { why, exit: None, reason }
    }

    /// The far side is not started, because others have failed. Only error responses contain output of a program.
    pub(crate) fn keeps_failing(failing: &KeepsFailing) -> Self {
        const WHAT: &str = "the program was not started because it keeps failing";
        let reason = CloseReason::TurnedAway(format!("{WHAT}: {failing:#}").into());
        Self { why: format!("{WHAT}: {failing}"), exit: failing.exit(), reason }
    }
}

/// Closes a client's line. If the dialect is known, first waits for a request, and answers
/// it and any others that have arrived by then with an error.
pub(crate) async fn turn_away(client: BoxChannel, dialect: Option<Dialect>, refusal: Refusal) {
    let Refusal { why, exit, reason } = refusal;
    let control = client.control().clone();
    control.report_at_close(reason);
    let Some(dialect) = dialect.filter(|dialect| dialect.adds_messages) else { return };
    let (mut sender, mut receiver) = client.split();
    let refusal = async {
        let unanswered = Unanswered::new(dialect);
        let mut until = from_now(PATIENCE);
        while unanswered.is_empty() {
            match timeout_at(until, receiver.recv()).await {
                Ok(Incoming::End(_)) | Err(_) => return,
                Ok(incoming) => _ = unanswered.arrived(&incoming),
            }
            until = until.min(from_now(WITHOUT_REQUEST));
        }
        for incoming in arrived(&mut receiver, MAX_CALLS) {
            unanswered.arrived(&incoming);
        }
        for answer in unanswered.answers_because(why, exit) {
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
    use tokio::time::Instant;

    use super::*;

    fn too_many() -> Refusal {
        Refusal::because("too many".into(), CloseReason::Overrun)
    }

    /// Returns the text that a client of an overloaded server receives.
    async fn answers(sent: &str) -> String {
        let (mut own, end) = tokio::io::duplex(64 * 1024);
        let lines = Lines::new(ByteSize::new(512));
        let client = framed(end, lines, TransportKind::MEMORY, Capabilities::default());
        own.write_all(sent.as_bytes()).await.unwrap();
        own.shutdown().await.unwrap();
        let dialect = Some(Dialect::MCP);
        turn_away(client.boxed(), dialect, too_many()).await;
        let mut received = String::new();
        own.read_to_string(&mut received).await.unwrap();
        received
    }

    /// A client that takes the places of others by waiting is refused sooner if it sends only notifications.
    #[tokio::test(start_paused = true)]
    async fn client_without_a_request_is_closed_after_a_second_and_a_silent_one_after_ten() {
        let notification = "{\"jsonrpc\":\"2.0\",\"method\":\"n\"}\n";
        for (sent, after) in [("", PATIENCE), (notification, WITHOUT_REQUEST)] {
            let (mut own, end) = tokio::io::duplex(64 * 1024);
            let lines = Lines::new(ByteSize::new(512));
            let client = framed(end, lines, TransportKind::MEMORY, Capabilities::default());
            own.write_all(sent.as_bytes()).await.unwrap();
            let begun = Instant::now();
            // More notifications make no difference.
            let more = async {
                tokio::time::sleep(WITHOUT_REQUEST / 2).await;
                own.write_all(sent.as_bytes()).await.unwrap();
            };
            let refused = turn_away(client.boxed(), Some(Dialect::MCP), too_many());
            tokio::join!(refused, more);
            assert_eq!(begun.elapsed(), after);
        }
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
