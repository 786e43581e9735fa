//! No message is lost silently: over many kills, every message is accounted for.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use support::{kill, shell, within};
use tieline_link::{Link, LinkOptions, Recovery};
use tieline_proto::BackoffConfig;
use tieline_transport::{Channel, Incoming, ReceiverExt, SendError, SenderExt};

/// A random number generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

const KILLS: u64 = 150;

/// The first and last number received over one line.
#[derive(Default)]
struct Line {
    first: Option<u64>,
    last: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_echoed_or_was_in_flight_when_a_line_was_lost() {
    let seed = std::collections::hash_map::RandomState::new().build_hasher().finish() | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    // The child is killed more often than the restart limit allows, so use a policy without a limit.
    let at_once = BackoffConfig { initial: Duration::ZERO, ..BackoffConfig::LOCAL };
    let options = LinkOptions::recovering(Recovery::Reconnect(at_once));
    let link = Link::connect(shell("echo $$; exec cat"), options).await.unwrap();
    let (mut sender, mut receiver) = link.split();
    let accepted = Arc::new(AtomicU64::new(0));
    let counted = accepted.clone();
    let (enough, mut is_enough) = tokio::sync::watch::channel(false);
    let sending = tokio::spawn(async move {
        let mut reported = 0;
        let mut report = |sent: Result<(), SendError>| match sent {
            Ok(()) => {}
            Err(SendError::Lost(lost)) => reported += lost,
            Err(other) => panic!("{other}"),
        };
        for number in 0.. {
            if *is_enough.borrow_and_update() {
                break;
            }
            // Some messages are long enough to fill the pipe.
            let padding = if number % 50 == 0 { 40_000 } else { 10 };
            sender.feed(format!("{number} {}", "x".repeat(padding))).await.unwrap();
            counted.fetch_add(1, Relaxed);
            if number % 7 == 0 {
                report(sender.flush().await);
            }
        }
        // The receiver waits for this last message.
        sender.feed("end").await.unwrap();
        report(sender.flush().await);
        (sender, reported)
    });
    let (mut lost, mut echoed, mut resets, mut missing) = (0, 0, 0, 0);
    let (mut child, mut echoes) = (None, random.below(300));
    let mut line = Line::default();
    let mut next = 0;
    let last_of_all = loop {
        match within("a message", receiver.recv()).await {
            Incoming::Message(message) => {
                let text = std::str::from_utf8(&message).unwrap();
                if text == "end" {
                    break next;
                }
                let (text, _) = text.split_once(' ').unwrap_or((text, ""));
                let number: u64 = text.parse().unwrap();
                if child.is_none() {
                    child = Some(u32::try_from(number).unwrap());
                    // Kill some children before they have echoed anything.
                    if resets < KILLS && echoes == 0 {
                        kill(child.unwrap());
                    }
                    continue;
                }
                // The numbers are in order, none is repeated, and none is missing except after the loss
                // of a line.
                match line.first {
                    None => {
                        assert!(number >= next, "{number} is repeated, seed {seed}");
                        assert!(
                            number == next || resets > 0,
                            "got {number}, expected {next}, seed {seed}"
                        );
                        missing += number - next;
                        line.first = Some(number);
                    }
                    Some(_) => assert_eq!(number, line.last + 1, "seed {seed}"),
                }
                line.last = number;
                next = number + 1;
                echoed += 1;
                echoes = echoes.saturating_sub(1);
                if resets < KILLS && echoes == 0 {
                    kill(child.unwrap());
                    echoes = u64::MAX;
                }
            }
            Incoming::Reset(reset) => {
                resets += 1;
                lost += reset.lost;
                (child, echoes, line) = (None, random.below(300), Line::default());
                if resets == KILLS {
                    enough.send_replace(true);
                }
            }
            other => panic!("{other:?}, seed {seed}"),
        }
    };
    let (_sender, reported) = within("the sender", sending).await.unwrap();
    let accepted = accepted.load(Relaxed);
    println!(
        "{accepted} accepted, {echoed} echoed, {missing} missing, {lost} reported, {resets} resets"
    );
    assert_eq!(last_of_all, accepted, "seed {seed}");
    assert_eq!(echoed + missing, accepted, "seed {seed}");
    // Sender and receiver reported the same losses.
    assert_eq!(reported, lost, "seed {seed}");
    assert_eq!(resets, KILLS);
}
