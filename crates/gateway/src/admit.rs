//! Checks unauthenticated clients before a program is started for them.

use std::future::poll_fn;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tieline_proto::json::{self, Limits};
use tieline_proto::{ByteSize, FrameError};
use tieline_transport::{BoxChannel, Channel, CloseReason, Control, Incoming, Receiver, Sender};
use tokio::time::{Instant, timeout_at};

use crate::patience::{Patience, discard};

/// A client that sends nothing for this long is admitted: it may be waiting for the program to send
/// first.
const SILENCE: Duration = Duration::from_secs(1);

/// How long after connecting a client may take to complete a first message that it has started.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// The number of bytes for which the client gets one more second, so that long messages can arrive over
/// slow lines.
const BYTES_A_SECOND: u64 = 8 * 1024;

/// Admits a client, or closes it and returns `None`.
///
/// The first message of an unauthenticated client must be JSON: a web page that posts to the port sends an
/// HTTP request line instead, and no program is started for it. A silent client is admitted, so that the
/// program can send first, and its first message is checked when it arrives. A client that ends its input
/// without a message, and still receives, is admitted as well.
pub(crate) async fn admit(client: BoxChannel) -> Option<BoxChannel> {
    if !client.control().capabilities().unauthenticated {
        return Some(client);
    }
    let control = client.control().clone();
    let (mut sender, receiver) = client.split();
    let mut receiver = FirstMessage::new(receiver, control.clone());
    let begun = Instant::now();
    let Some(reason) = receiver.refusal(begun, &control).await else {
        return Some(BoxChannel::from_parts(sender, Box::new(receiver), control));
    };
    let problem = match &reason {
        CloseReason::TimedOut => {
            format!("it sent no complete message within {} s", begun.elapsed().as_secs())
        }
        CloseReason::Protocol(error) => error.to_string(),
        reason => format!("it sent no message: {reason}"),
    };
    tracing::warn!("client refused on {}: {problem}", control.endpoint());
    control.report_at_close(reason);
    if control.is_refused() {
        let patience = Patience::until(Instant::now() + SILENCE);
        patience.wait(&mut sender, |sender, cx| sender.poll_close(cx)).await;
        let half_close = control.capabilities().half_close;
        let discarded = AtomicU64::new(0);
        let discard = discard(&mut receiver.rest, &discarded);
        patience.wait_for_client_end(&mut sender, discard, half_close).await;
    }
    None
}

/// A receiver that ends if its first message is not JSON.
struct FirstMessage {
    rest: Box<dyn Receiver>,
    /// The first item, if [`arrived`](Self::arrived) has received it in advance and it has not been
    /// returned yet.
    first: Option<Incoming>,
    is_checked: bool,
    refused: Option<CloseReason>,
    control: Control,
}

impl FirstMessage {
    fn new(rest: Box<dyn Receiver>, control: Control) -> Self {
        Self { rest, first: None, is_checked: false, refused: None, control }
    }

    /// Waits for the first message, unless the client is silent. Returns the reason if the client is to
    /// be refused.
    async fn refusal(&mut self, begun: Instant, control: &Control) -> Option<CloseReason> {
        if let Ok(first) = timeout_at(begun + SILENCE, self.arrived()).await {
            // A client that has only ended its input still receives.
            let has_ended = |reason: &CloseReason| {
                !matches!(reason, CloseReason::ByPeer) || control.close_reason().is_some()
            };
            return first.filter(has_ended);
        }
        if !self.rest.holds_part() {
            return None;
        }
        let mut until = begun + FIRST_MESSAGE;
        loop {
            if let Ok(first) = timeout_at(until, self.arrived()).await {
                return first;
            }
            let more = Duration::from_secs(control.info().bytes_in / BYTES_A_SECOND);
            let later = begun + FIRST_MESSAGE + more;
            if later <= until {
                return Some(CloseReason::TimedOut);
            }
            until = later;
        }
    }

    /// Waits for the first message. Returns the reason if the client is to be refused.
    async fn arrived(&mut self) -> Option<CloseReason> {
        let first = poll_fn(|cx| self.poll_recv(cx)).await;
        match first {
            Incoming::End(reason) => Some(reason),
            first => {
                self.first = Some(first);
                None
            }
        }
    }

    fn check(&mut self, first: Incoming) -> Incoming {
        match first {
            Incoming::Message(message) if json::check(&message, Limits::default()).is_ok() => {
                self.is_checked = true;
                Incoming::Message(message)
            }
            Incoming::Message(_) | Incoming::Fault(_) => {
                self.control.refuse(FrameError::FirstNotJson);
                let reason = CloseReason::Protocol(FrameError::FirstNotJson);
                self.refused = Some(reason.clone());
                Incoming::End(reason)
            }
            other => other,
        }
    }
}

impl Receiver for FirstMessage {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(first);
        }
        if let Some(reason) = &self.refused {
            return Poll::Ready(Incoming::End(reason.clone()));
        }
        let incoming = ready!(self.rest.poll_recv(cx));
        Poll::Ready(if self.is_checked { incoming } else { self.check(incoming) })
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        self.rest.limit_to(most)
    }

    fn unfinished(&self) -> usize {
        self.rest.unfinished()
    }

    fn holds_part(&self) -> bool {
        self.first.is_some() || self.rest.holds_part()
    }

    fn keep_sender_open(&mut self) {
        self.rest.keep_sender_open();
    }

    fn unread(&self) -> u64 {
        let first = match &self.first {
            Some(Incoming::Message(message)) => message.len() as u64,
            _ => 0,
        };
        first.saturating_add(self.rest.unread())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tieline_proto::Lines;
    use tieline_testkit::duplex::framed;
    use tieline_transport::{Capabilities, ReceiverExt, TransportKind};
    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio::time::sleep;

    use super::*;

    /// Returns an unauthenticated client's own end, and the channel to it.
    fn client() -> (DuplexStream, BoxChannel) {
        let (own, end) = tokio::io::duplex(64 * 1024);
        let capabilities = Capabilities { unauthenticated: true, ..Capabilities::default() };
        let channel = framed(end, Lines::default(), TransportKind::MEMORY, capabilities);
        (own, channel.boxed())
    }

    /// Sends a message of this length in pieces of `piece` bytes, one per second. Returns the length of the
    /// message that was received from the admitted client.
    async fn admitted(length: usize, piece: usize) -> Option<usize> {
        let (mut own, client) = client();
        let message = [b"\"".as_slice(), &vec![b'x'; length - 2], b"\"\n"].concat();
        let slow = async {
            for piece in message.chunks(piece) {
                if own.write_all(piece).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let client = tokio::select! {
            client = admit(client) => client?,
            () = slow => return None,
        };
        match client.split().1.recv().await {
            Incoming::Message(message) => Some(message.len()),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_first_message_gets_more_time_while_its_bytes_arrive() {
        assert_eq!(admitted(600_000, 10_000).await, Some(600_000), "10,000 bytes per second");
        assert_eq!(admitted(1000, 10).await, None, "10 bytes per second");
    }
}
