//! The definition of a write's progress, tested in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tieline_proto::Lines;
use tieline_testkit::wait::poll_once;
use tieline_transport::{
    Channel, ChannelConfig, CloseReason, ControlBuilder, Endpoint, FramedChannel, IoConnection,
    PerformanceProfile, SendError, Sender, SenderExt, TransportKind, WriteEnd,
};
use tokio::io::AsyncWrite;

const LIMIT: Duration = Duration::from_secs(10);
const ALMOST: Duration = Duration::from_millis(9_999);
const A_LITTLE: Duration = Duration::from_millis(2);

/// The value of `room` that means that the system has discarded the bytes.
const GIVEN_UP: usize = usize::MAX;

/// A write half that accepts and forwards only as many bytes as the test allows.
#[derive(Clone, Default)]
struct Hands {
    room: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    /// How many bytes a kernel that reports its fill level still holds.
    unsent: Arc<AtomicUsize>,
}

impl AsyncWrite for Hands {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.room.load(Relaxed) == GIVEN_UP {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let taken = bytes.len().min(self.room.load(Relaxed));
        if taken == 0 {
            return Poll::Pending;
        }
        self.room.fetch_sub(taken, Relaxed);
        // Bytes in the kernel are not also held here.
        let held = if self.unsent.load(Relaxed) > 0 { 0 } else { taken };
        self.held.fetch_add(held, Relaxed);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.load(Relaxed) == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl WriteEnd for Hands {
    fn unflushed(&self) -> usize {
        self.held.load(Relaxed)
    }

    fn unsent(&self) -> Option<usize> {
        Some(self.unsent.load(Relaxed))
    }
}

/// Returns a sender of lines with a stall timeout of ten seconds.
fn sender(hands: &Hands) -> impl Sender + use<> {
    sender_with(hands, ChannelConfig::default())
}

fn sender_with(hands: &Hands, config: ChannelConfig) -> impl Sender + use<> {
    sender_to(TransportKind::custom("hands"), hands, config)
}

fn sender_to(kind: TransportKind, hands: &Hands, config: ChannelConfig) -> impl Sender + use<> {
    let control = ControlBuilder {
        kind,
        endpoint: Endpoint::memory("hands"),
        peer: None,
        capabilities: Default::default(),
        profile: PerformanceProfile {
            connect: LIMIT,
            round_trip: LIMIT,
            throughput: tieline_proto::ByteSize::mib(1),
        },
        backing: Arc::new(()),
    };
    let connection = IoConnection::new(tokio::io::empty(), hands.clone(), control.build());
    let config = ChannelConfig { stall_timeout: LIMIT, ..config };
    FramedChannel::new(connection, Lines::default(), config).split().0
}

async fn flushes(sender: &mut impl Sender) -> Option<Result<(), SendError>> {
    poll_once(sender.flush()).await
}

#[tokio::test(start_paused = true)]
async fn write_without_progress_stalls() {
    let hands = Hands::default();
    let mut sender = sender(&hands);
    sender.feed("hello").await.unwrap();
    assert!(flushes(&mut sender).await.is_none());
    tokio::time::advance(ALMOST).await;
    assert!(flushes(&mut sender).await.is_none());
    tokio::time::advance(A_LITTLE).await;
    let stalled = flushes(&mut sender).await.unwrap().unwrap_err();
    assert!(matches!(stalled.close_reason(), Some(CloseReason::Stalled)), "{stalled:?}");
}

#[tokio::test(start_paused = true)]
async fn write_that_the_system_times_out_is_stalled() {
    let hands = Hands::default();
    let mut sender = sender(&hands);
    sender.feed("hello").await.unwrap();
    hands.room.store(GIVEN_UP, Relaxed);
    let stalled = flushes(&mut sender).await.unwrap().unwrap_err();
    assert!(matches!(stalled.close_reason(), Some(CloseReason::Stalled)), "{stalled:?}");
}

#[tokio::test(start_paused = true)]
async fn single_bytes_are_progress() {
    let hands = Hands::default();
    let mut sender = sender(&hands);
    sender.feed("hello, world").await.unwrap();
    for _ in 0.."hello, world".len() {
        assert!(flushes(&mut sender).await.is_none());
        tokio::time::advance(ALMOST).await;
        hands.room.fetch_add(1, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_leave_the_write_half_are_progress_of_a_flush() {
    let hands = Hands::default();
    let mut sender = sender(&hands);
    hands.room.store("hello, world\n".len(), Relaxed);
    sender.feed("hello, world").await.unwrap();
    assert!(flushes(&mut sender).await.is_none());
    assert_eq!(hands.held.load(Relaxed), 13, "all bytes were accepted");
    for number in 0..12 {
        tokio::time::advance(ALMOST).await;
        hands.held.fetch_sub(1, Relaxed);
        assert!(flushes(&mut sender).await.is_none());
        // Messages that are queued in the meantime do not hide the progress.
        sender.feed(format!("{number}")).await.unwrap();
    }
    tokio::time::advance(ALMOST).await;
    assert!(flushes(&mut sender).await.is_none());
    tokio::time::advance(A_LITTLE).await;
    let stalled = flushes(&mut sender).await.unwrap().unwrap_err();
    assert!(matches!(stalled.close_reason(), Some(CloseReason::Stalled)), "{stalled:?}");
}

#[tokio::test(start_paused = true)]
async fn stall_timeout_restarts_with_each_message() {
    let hands = Hands::default();
    let mut sender = sender(&hands);
    for _ in 0..5 {
        sender.feed("hello").await.unwrap();
        assert!(flushes(&mut sender).await.is_none());
        tokio::time::advance(ALMOST).await;
        hands.room.store(6, Relaxed);
        assert!(flushes(&mut sender).await.is_none());
        hands.held.store(0, Relaxed);
        assert!(flushes(&mut sender).await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn close_without_progress_stalls() {
    let hands = Hands::default();
    let mut sender = sender(&hands);
    hands.room.store(100, Relaxed);
    sender.feed("hello").await.unwrap();
    assert!(poll_once(sender.close()).await.is_none());
    tokio::time::advance(LIMIT + A_LITTLE).await;
    let stalled = poll_once(sender.close()).await.unwrap().unwrap_err();
    assert!(matches!(stalled.close_reason(), Some(CloseReason::Stalled)), "{stalled:?}");
}

/// Returns true if the flush has failed with `Stalled`.
async fn is_stalled(sender: &mut impl Sender) -> bool {
    match flushes(sender).await {
        None => false,
        Some(Err(error)) => {
            assert!(matches!(error.close_reason(), Some(CloseReason::Stalled)), "{error:?}");
            true
        }
        Some(Ok(())) => panic!("the flush succeeded"),
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_leave_the_kernel_are_progress_of_a_blocked_write() {
    let hands = Hands::default();
    let mut sender = sender(&hands);
    sender.feed("hello").await.unwrap();
    hands.room.store(5, Relaxed);
    hands.unsent.store(5, Relaxed);
    // There is no room for the newline.
    assert!(!is_stalled(&mut sender).await);
    for left in (1..5).rev() {
        tokio::time::advance(ALMOST).await;
        hands.unsent.store(left, Relaxed);
        assert!(!is_stalled(&mut sender).await, "{left} bytes are left in the kernel");
    }
    tokio::time::advance(ALMOST).await;
    assert!(!is_stalled(&mut sender).await);
    tokio::time::advance(A_LITTLE).await;
    assert!(is_stalled(&mut sender).await);
}

#[tokio::test(start_paused = true)]
async fn program_stall_timeout_starts_with_the_first_read() {
    let hands = Hands::default();
    let mut sender = sender_to(TransportKind::PROCESS, &hands, ChannelConfig::default());
    sender.feed("hello").await.unwrap();
    hands.room.store(5, Relaxed);
    hands.unsent.store(5, Relaxed);
    assert!(!is_stalled(&mut sender).await);
    // The program starts slowly.
    for _ in 0..59 {
        tokio::time::advance(LIMIT).await;
        assert!(!is_stalled(&mut sender).await);
    }
    hands.unsent.store(4, Relaxed);
    tokio::time::advance(ALMOST).await;
    assert!(!is_stalled(&mut sender).await);
    // It has read a byte and is busy.
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(!is_stalled(&mut sender).await);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(is_stalled(&mut sender).await);
}

#[tokio::test(start_paused = true)]
async fn program_that_never_reads_is_stalled_after_ten_minutes() {
    let hands = Hands::default();
    let mut sender = sender_to(TransportKind::PROCESS, &hands, ChannelConfig::default());
    sender.feed("hello").await.unwrap();
    hands.room.store(5, Relaxed);
    hands.unsent.store(5, Relaxed);
    assert!(!is_stalled(&mut sender).await);
    tokio::time::advance(Duration::from_secs(599)).await;
    assert!(!is_stalled(&mut sender).await);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(is_stalled(&mut sender).await);
}

/// The configuration of a custom channel is not validated.
#[tokio::test(start_paused = true)]
async fn queue_of_zero_bytes_holds_one_message_at_a_time() {
    let hands = Hands::default();
    let none = ChannelConfig { write_queue: tieline_proto::ByteSize::new(0), ..Default::default() };
    let mut sender = sender_with(&hands, none);
    sender.feed("1").await.unwrap();
    assert!(poll_once(sender.feed("2")).await.is_none(), "the first message is still queued");
    hands.room.store(2, Relaxed);
    sender.feed("2").await.unwrap();
}
