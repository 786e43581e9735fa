//! Moves messages between the queues of the clients and their program.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Incoming, Receiver, SendError, Sender, WarnThrottle, from_now,
};
use tokio::sync::watch;
use tokio::time::Sleep;

use super::exchange::{Exchange, FromProgram, TURN_BYTES};
use crate::ending::{end_far, stop_discarding};

/// How many messages of each direction are handled before the task yields.
const TURN: usize = 64;

/// How long the end of a program's input may take to be sent.
const GRACE: Duration = Duration::from_secs(10);

/// Drives a program until it ends, until it has had no client for `idle_timeout`, or until `stop` is set. Then
/// ends the lines of its clients. Dropping the future kills the program.
pub(super) async fn drive(
    exchange: Arc<Exchange>,
    channel: BoxChannel,
    idle_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) -> CloseReason {
    let control = channel.control().clone();
    let (mut sender, mut receiver) = channel.split();
    let mut turn = Turn::new(&exchange);
    let mut idle = Idle { timeout: idle_timeout, timer: None };
    let ended = tokio::select! {
        ended = poll_fn(|cx| {
            if let Some(reason) = exchange.refused(cx) {
                return Poll::Ready(Some(reason));
            }
            if let Poll::Ready(reason) = turn.poll(&mut sender, &mut receiver, cx) {
                return Poll::Ready(Some(reason));
            }
            idle.poll(&exchange, cx).map(|()| None)
        }) => ended,
        // An error means that the owner was dropped.
        _ = stop.wait_for(|stop| *stop) => None,
    };
    exchange.close(false);
    let ended_by_itself = ended.is_some();
    let reason = match ended {
        Some(reason @ CloseReason::NoMemory(_)) => {
            // The clients release what is held for them before the program has stopped.
            exchange.end(&reason, 0);
            stop_discarding(&mut sender, &mut receiver, &control, GRACE).await;
            reason
        }
        Some(reason) => end_far(reason, &mut sender, &control, GRACE).await,
        None => stop_discarding(&mut sender, &mut receiver, &control, GRACE).await,
    };
    if ended_by_itself && !reason.is_clean() {
        exchange.failed();
    }
    let unsent = turn.unsent + turn.pending.iter().map(Bytes::len).sum::<usize>();
    exchange.end(&reason, sender.unwritten().saturating_add(unsent));
    reason
}

/// One poll of a program's channel.
struct Turn<'a> {
    exchange: &'a Exchange,
    /// Messages for the program that have no room yet.
    pending: VecDeque<Bytes>,
    /// The program takes no more input, so its end will follow.
    takes_no_input: bool,
    /// The size of the messages that were dropped because of that.
    unsent: usize,
    lost: WarnThrottle,
}

impl<'a> Turn<'a> {
    fn new(exchange: &'a Exchange) -> Self {
        let lost = WarnThrottle::new(|count| {
            tracing::warn!(count, "more messages from or for a shared program were lost");
        });
        Self { exchange, pending: VecDeque::new(), takes_no_input: false, unsent: 0, lost }
    }

    /// Logs lost messages, as a warning at most once per minute.
    fn lose(&self, count: usize, which: &str, why: &dyn fmt::Display) {
        self.exchange.lose(count);
        if let Some(unreported) = self.lost.admit_many(count as u64, Instant::now()) {
            tracing::warn!(count, unreported, "a message {which} a shared program was lost: {why}");
        } else {
            tracing::debug!(count, "a message {which} a shared program was lost: {why}");
        }
    }

    fn poll(
        &mut self,
        sender: &mut impl Sender,
        receiver: &mut impl Receiver,
        cx: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        let mut refused = Vec::new();
        let mut has_more = self.send(sender, &mut refused, cx);
        let mut received: Vec<_> =
            refused.into_iter().map(|(message, why)| FromProgram::Refused(message, why)).collect();
        let (mut end, mut number, mut bytes) = (None, 0, 0);
        loop {
            if number >= TURN || bytes >= TURN_BYTES {
                has_more = true;
                break;
            }
            number += 1;
            match receiver.poll_recv(cx) {
                Poll::Ready(Incoming::Message(message)) => {
                    bytes += message.len();
                    received.push(FromProgram::Message(message));
                }
                Poll::Ready(Incoming::Fault(fault)) => {
                    self.lose(1, "from", &fault);
                    received.push(FromProgram::Fault(fault));
                }
                Poll::Ready(Incoming::End(reason)) => {
                    end = Some(reason);
                    break;
                }
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        if !received.is_empty() {
            self.exchange.handle(received);
        }
        match end {
            Some(reason) => Poll::Ready(reason),
            None => {
                if has_more {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Sends up to [`TURN`] messages. Returns whether there may be more messages and the program has
    /// room for them.
    fn send(
        &mut self,
        sender: &mut impl Sender,
        refused: &mut Vec<(Bytes, String)>,
        cx: &mut Context<'_>,
    ) -> bool {
        // If all of these are sent, there may be more.
        let most = if self.pending.is_empty() { TURN } else { 0 };
        self.pending.append(&mut self.exchange.for_program(most, cx));
        let had_any = !self.pending.is_empty();
        while !self.pending.is_empty() && !self.takes_no_input {
            match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    let Some(message) = self.pending.pop_front() else { break };
                    match sender.pass_on(message) {
                        Err(SendError::Message(message)) => {
                            self.lose(1, "for", &message.error);
                            refused.push((message.message, message.error.to_string()));
                        }
                        Err(error) => {
                            self.takes_no_input |= matches!(error, SendError::Closed(_));
                            self.lose(1, "for", &error);
                        }
                        Ok(()) => {}
                    }
                }
                Poll::Ready(Err(SendError::Closed(_))) => self.takes_no_input = true,
                Poll::Ready(Err(_)) => {}
                Poll::Pending => break,
            }
        }
        if !self.takes_no_input
            && matches!(sender.poll_flush(cx), Poll::Ready(Err(SendError::Closed(_))))
        {
            self.takes_no_input = true;
        }
        if self.takes_no_input && !self.pending.is_empty() {
            // Clients do not wait for a program that is about to end.
            self.lose(self.pending.len(), "for", &"it takes no more input");
            self.unsent += self.pending.drain(..).map(|message| message.len()).sum::<usize>();
        }
        had_any && self.pending.is_empty()
    }
}

/// How long a program has had no client.
struct Idle {
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// Waits until the program has been idle for too long and admits no further client.
    fn poll(&mut self, exchange: &Exchange, cx: &mut Context<'_>) -> Poll<()> {
        if !exchange.is_idle() {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(from_now(self.timeout))));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) if exchange.close(true) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use std::task::Waker;

    use tieline_proto::jsonrpc::{Dialect, Sharing};
    use tieline_transport::memory_pair;

    use super::super::hub::Hub;
    use super::*;

    /// A program that always has another message of this length.
    struct Endless(Bytes, usize);

    impl Receiver for Endless {
        fn poll_recv(&mut self, _: &mut Context<'_>) -> Poll<Incoming> {
            self.1 += 1;
            Poll::Ready(Incoming::Message(self.0.clone()))
        }
    }

    #[test]
    fn one_turn_reads_a_bounded_number_of_messages_and_bytes() {
        let Sharing::Possible(rules) = Dialect::MCP.sharing else { panic!("MCP can be shared") };
        let exchange = Exchange::new(Hub::new(Dialect::MCP, rules), None, Arc::default());
        for (length, expected) in [(10, TURN), (TURN_BYTES / 4, 4), (3 * TURN_BYTES, 1)] {
            let mut turn = Turn::new(&exchange);
            let (program, _other) = memory_pair();
            let (mut sender, _) = program.split();
            let mut endless = Endless(Bytes::from(vec![b' '; length]), 0);
            let mut cx = Context::from_waker(Waker::noop());
            assert!(turn.poll(&mut sender, &mut endless, &mut cx).is_pending());
            assert_eq!(endless.1, expected, "messages of {length} bytes");
        }
    }
}
