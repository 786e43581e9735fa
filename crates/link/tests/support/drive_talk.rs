//! The behavior of a session's users: they send and receive with pauses, and do not always flush.

use std::time::Duration;

use bytes::Bytes;
use tieline_testkit::random::Random;
use tieline_transport::{SendError, Sender, SenderExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Kind, Run};

/// The parameters of one side's messages.
pub(super) struct Talk {
    pub(super) run: Run,
    pub(super) calm: Instant,
    pub(super) random: Random,
    /// The number of the message at which this side leaves.
    pub(super) leaves: Option<u64>,
}

pub(super) enum Settled {
    Yes,
    No,
    Left,
}

impl Talk {
    pub(super) async fn send(
        mut self,
        mut sender: Box<dyn Sender>,
        side: &str,
        sent: impl Fn(u64),
        reported: impl Fn(u64),
    ) -> Settled {
        let (messages, flushes) = (self.run.messages, self.random.pick(&[0, 20, 100]));
        let mut pauses = Pauses::new(self.random.below(u64::MAX));
        // By then, all effects of the misbehaving network are over.
        let late = self.calm + Duration::from_secs(30);
        for number in 0..messages {
            if self.leaves == Some(number) {
                return Settled::Left;
            }
            if self.run.kind == Kind::Kept && number + 1 == messages {
                // Flush first, as the last message may need the whole replay buffer.
                let _ = flush(&mut *sender, &reported).await;
                sleep_until(late).await;
            }
            let length = match self.random.percent(1) {
                true => 20_000,
                false => self.random.pick(&[0, 0, 10, 100, 1_000]),
            };
            let message = format!("{side}:{number}:{}", " ".repeat(length));
            if sender.feed(message).await.is_err() {
                return Settled::No;
            }
            sent(number + 1);
            if self.random.percent(flushes) && !flush(&mut *sender, &reported).await {
                return Settled::No;
            }
            pauses.next().await;
        }
        if self.leaves.is_some() {
            return Settled::Left;
        }
        loop {
            match sender.close().await {
                Ok(()) => break,
                Err(SendError::Lost(lost)) => reported(lost),
                Err(_) => return Settled::No,
            }
        }
        settle(&mut *sender, &reported).await
    }
}

/// Waits until the session is over: both ends have received everything, or it is lost.
async fn settle(sender: &mut dyn Sender, reported: &impl Fn(u64)) -> Settled {
    std::future::poll_fn(|cx| sender.poll_gone(cx)).await;
    match sender.close().await {
        Ok(()) => Settled::Yes,
        Err(SendError::Lost(lost)) => {
            reported(lost);
            Settled::No
        }
        Err(_) => Settled::No,
    }
}

/// Flushes; returns false if the session has ended.
async fn flush(sender: &mut dyn Sender, reported: &impl Fn(u64)) -> bool {
    loop {
        match sender.flush().await {
            Ok(()) => return true,
            Err(SendError::Lost(lost)) => reported(lost),
            Err(_) => return false,
        }
    }
}

/// Random pauses between operations.
pub(super) struct Pauses {
    random: Random,
    often: u64,
    most: u64,
}

impl Pauses {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (often, most) = random.pick(&[(0, 1), (10, 100), (50, 300), (2, 10_000)]);
        Self { random, often, most }
    }

    pub(super) async fn next(&mut self) {
        if self.random.percent(self.often) {
            sleep(Duration::from_millis(self.random.below(self.most))).await;
        }
    }
}

pub(super) fn read(message: &Bytes) -> (&str, u64) {
    let mut parts = std::str::from_utf8(message).unwrap().split(':');
    (parts.next().unwrap(), parts.next().unwrap().parse().unwrap())
}
