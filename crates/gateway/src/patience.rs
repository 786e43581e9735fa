//! How long a client may take to accept the remaining messages when its line ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tieline_transport::{Incoming, Receiver, Sender, from_now};
use tokio::time::{Instant, interval, sleep_until};

use crate::pump::Turn;

/// How often to check whether the last bytes were sent.
const SENT_CHECK: Duration = Duration::from_millis(100);

/// How long to wait for a client.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    until: Instant,
    /// If set, the timer restarts with this value while bytes move.
    again: Option<Duration>,
}

impl Patience {
    /// Creates a wait that ends at this time, whether or not bytes move.
    pub(crate) fn until(until: Instant) -> Self {
        Self { until, again: None }
    }

    /// Creates a wait that ends when no byte has moved for `grace`.
    pub(crate) fn while_it_moves(grace: Duration) -> Self {
        Self { until: from_now(grace), again: Some(grace) }
    }

    /// Returns the deadline for sending something small.
    pub(crate) fn deadline(&self) -> Instant {
        self.again.map_or(self.until, from_now)
    }

    /// Polls until `poll` is ready. Returns `None` if that takes too long.
    pub(crate) async fn wait<S: Sender, T>(
        &self,
        sender: &mut S,
        mut poll: impl FnMut(&mut S, &mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let mut timer = pin!(sleep_until(self.until));
        let mut left = sender.outgoing().left;
        poll_fn(|cx| {
            if let Poll::Ready(done) = poll(sender, cx) {
                return Poll::Ready(Some(done));
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                let now = sender.outgoing().left;
                match self.again {
                    Some(grace) if now != left => timer.as_mut().reset(from_now(grace)),
                    _ => return Poll::Ready(None),
                }
                left = now;
            }
        })
        .await
    }

    /// Waits until a client whose line was closed has received the last bytes: until it ends its side
    /// or, if it may continue to send (`half_close`), until the bytes have left this machine. `discard`
    /// reads and drops the client's messages, and completes when the client ends. This is needed because
    /// the operating system drops unsent output if a connection is closed with unread input.
    pub(crate) async fn wait_for_client_end(
        &self,
        sender: &mut impl Sender,
        discard: impl Future<Output = ()>,
        half_close: bool,
    ) {
        if half_close && sender.outgoing().waiting == 0 {
            return;
        }
        let mut checks = interval(SENT_CHECK);
        let mut discard = pin!(discard);
        self.wait(sender, |sender, cx| {
            if discard.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            while checks.poll_tick(cx).is_ready() {
                if half_close && sender.outgoing().waiting == 0 {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }
}

/// Reads to the end and counts the bytes of the messages. Yields regularly, so that an endless stream of
/// messages does not starve other futures of the task.
pub(crate) async fn discard(receiver: &mut impl Receiver, discarded: &AtomicU64) {
    let mut turn = Turn::default();
    loop {
        turn.count().await;
        match poll_fn(|cx| receiver.poll_recv(cx)).await {
            Incoming::Message(message) => {
                discarded.fetch_add(message.len() as u64, Relaxed);
            }
            Incoming::End(_) => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use tieline_transport::{Outgoing, SendError};
    use tokio::time::timeout;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A client that accepts a byte per second for a while, and then nothing.
    struct Client {
        begun: Instant,
        bytes: u64,
        takes: u64,
    }

    impl Client {
        fn new(bytes: u64, takes: u64) -> Self {
            Self { begun: Instant::now(), bytes, takes }
        }
    }

    impl Sender for Client {
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            Poll::Ready(Ok(()))
        }

        fn start_send(&mut self, _: Bytes) -> Result<(), SendError> {
            Ok(())
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            match self.outgoing().waiting {
                0 => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        }

        fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            self.poll_flush(cx)
        }

        fn outgoing(&self) -> Outgoing {
            let left = self.begun.elapsed().as_secs().min(self.takes).min(self.bytes);
            Outgoing::new(left, self.bytes - left)
        }
    }

    /// Returns whether a flush completes, and after how long.
    async fn flush(patience: Patience, client: &mut Client) -> (bool, Duration) {
        let begun = Instant::now();
        let flushed = patience.wait(client, |client, cx| client.poll_flush(cx)).await;
        (flushed.is_some(), begun.elapsed())
    }

    /// Returns how long `wait_for_client_end` waits for a client that does not end its side.
    async fn wait_for_client_end(
        patience: Patience,
        client: &mut Client,
        half_close: bool,
    ) -> Duration {
        let begun = Instant::now();
        let ended = patience.wait_for_client_end(client, std::future::pending(), half_close);
        timeout(s(3600), ended).await.unwrap();
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn wait_without_work_completes_at_once() {
        let mut client = Client::new(0, 0);
        assert_eq!(flush(Patience::until(Instant::now()), &mut client).await, (true, s(0)));
        assert_eq!(flush(Patience::while_it_moves(s(0)), &mut client).await, (true, s(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_client_gets_one_grace() {
        let patience = Patience::while_it_moves(GRACE);
        assert_eq!(flush(patience, &mut Client::new(100, 0)).await, (false, GRACE));
    }

    #[tokio::test(start_paused = true)]
    async fn grace_restarts_while_bytes_move() {
        // Bytes move in four periods, and none in the fifth.
        let patience = Patience::while_it_moves(GRACE);
        assert_eq!(flush(patience, &mut Client::new(100, 35)).await, (false, s(50)));
        // The last byte is accepted in the tenth period. That is noticed at the end of the period.
        let patience = Patience::while_it_moves(GRACE);
        assert_eq!(flush(patience, &mut Client::new(95, 95)).await, (true, s(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn fixed_deadline_does_not_move() {
        let patience = Patience::until(from_now(GRACE));
        assert_eq!(flush(patience, &mut Client::new(100, 100)).await, (false, GRACE));
        // The deadline has passed, so a second wait fails at once.
        assert_eq!(flush(patience, &mut Client::new(100, 100)).await, (false, s(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn small_messages_get_a_new_grace_unless_the_deadline_is_fixed() {
        let (moving, fixed) = (Patience::while_it_moves(GRACE), Patience::until(from_now(GRACE)));
        tokio::time::sleep(s(8)).await;
        assert_eq!(moving.deadline(), from_now(GRACE));
        assert_eq!(fixed.deadline(), from_now(s(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_client_is_waited_for_until_all_bytes_are_sent() {
        let patience = Patience::while_it_moves(GRACE);
        assert_eq!(wait_for_client_end(patience, &mut Client::new(0, 0), true).await, s(0));
        assert_eq!(wait_for_client_end(patience, &mut Client::new(3, 3), true).await, s(3));
        // Without half-close the wait is for the client's end, but not forever.
        let patience = Patience::while_it_moves(GRACE);
        assert_eq!(wait_for_client_end(patience, &mut Client::new(3, 3), false).await, s(20));
    }

    #[tokio::test(start_paused = true)]
    async fn wait_ends_when_the_client_ends() {
        let begun = Instant::now();
        let ends = tokio::time::sleep(s(4));
        Patience::while_it_moves(GRACE)
            .wait_for_client_end(&mut Client::new(100, 0), ends, false)
            .await;
        assert_eq!(begun.elapsed(), s(4));
    }

    /// A client that sends a message per second, and then ends.
    struct Talker {
        left: u8,
        pause: std::pin::Pin<Box<tokio::time::Sleep>>,
    }

    impl Receiver for Talker {
        fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
            ready!(self.pause.as_mut().poll(cx));
            self.pause = Box::pin(tokio::time::sleep(s(1)));
            match self.left.checked_sub(1) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Incoming::End(tieline_transport::CloseReason::ByPeer)),
            }
            Poll::Ready(Incoming::Message(Bytes::from_static(b"y")))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn discard_reads_to_the_end_and_counts_bytes() {
        let begun = Instant::now();
        let mut talker = Talker { left: 3, pause: Box::pin(tokio::time::sleep(s(1))) };
        let discarded = AtomicU64::new(0);
        discard(&mut talker, &discarded).await;
        assert_eq!((talker.left, begun.elapsed()), (0, s(4)));
        assert_eq!(discarded.into_inner(), 3);
    }
}
