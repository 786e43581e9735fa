//! How long a client may take for what is still to be handed to it, when its line ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tieline_transport::{Incoming, Receiver, Sender, from_now};
use tokio::time::{Instant, interval, sleep_until};

use crate::pump::Turn;

/// So often it is looked whether the last bytes have left.
const LOOK: Duration = Duration::from_millis(100);

/// Until when a client is waited for.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    until: Instant,
    /// While bytes move it begins anew with this.
    again: Option<Duration>,
}

impl Patience {
    /// It ends at `until`, whatever moves.
    pub(crate) fn until(until: Instant) -> Self {
        Self { until, again: None }
    }

    /// It ends when nothing has moved for `grace`.
    pub(crate) fn while_it_moves(grace: Duration) -> Self {
        Self { until: from_now(grace), again: Some(grace) }
    }

    /// Until when something that is small may take.
    pub(crate) fn deadline(&self) -> Instant {
        self.again.map_or(self.until, from_now)
    }

    /// Polls the sender until that is done. `None`: it took too long.
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

    /// Waits until a client whose line was closed has taken the last bytes: until it says that it has ended, or,
    /// where it may go on speaking (`half_close`), until they have left this machine. What it says is thrown
    /// away by `discard`, which completes at its end: if a connection is closed while something is unread, the
    /// system drops what was not sent.
    pub(crate) async fn see_off(
        &self,
        sender: &mut impl Sender,
        discard: impl Future<Output = ()>,
        half_close: bool,
    ) {
        if half_close && sender.outgoing().waiting == 0 {
            return;
        }
        let mut looks = interval(LOOK);
        let mut discard = pin!(discard);
        self.wait(sender, |sender, cx| {
            if discard.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            while looks.poll_tick(cx).is_ready() {
                if half_close && sender.outgoing().waiting == 0 {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }
}

/// Reads to the end, and counts the bytes of the messages. One that never stops must not keep others from
/// having their turn.
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
