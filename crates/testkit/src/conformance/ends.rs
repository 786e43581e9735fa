//! Checks of the end of a message line.

use std::time::Duration;

use tieline_proto::{ByteSize, Lines};
use tieline_transport::{
    BoxConnection, Channel, ChannelConfig, CloseReason, Control, FramedChannel, Health, Incoming,
    Receiver, ReceiverExt, SendError, Sender, SenderExt,
};

use super::Subject;
use super::messages::{channel, expect_message};

/// The receiver, the sender, and the control, which outlives both, report the end each time.
pub async fn end_can_be_read_repeatedly(subject: Subject) {
    let channel = channel(subject.line().await, Lines::default());
    let control = channel.control().clone();
    let (mut sender, mut receiver) = channel.split();
    sender.send("question").await.unwrap();
    if control.capabilities().half_close {
        sender.close().await.unwrap();
    }
    assert_eq!(expect_message(&mut receiver).await, "question");
    // With half-close, this closes the sender for the second time.
    sender.close().await.unwrap();

    let reason = expect_end(&mut receiver).await;
    assert!(reason.is_clean(), "{reason}");
    assert_eq!(expect_end(&mut receiver).await.to_string(), reason.to_string());
    assert_eq!(control.close_reason().unwrap().to_string(), reason.to_string());
    assert_eq!(control.health(), Health::Down);
    sender.close().await.unwrap();
    assert!(matches!(sender.send("late").await, Err(SendError::Closed(_))));
    drop((sender, receiver));
    assert_eq!(control.close_reason().unwrap().to_string(), reason.to_string());
}

/// Sending to a peer that does not read eventually fails, and the receiver reports the stall.
pub async fn peer_that_does_not_read_ends_the_line_as_stalled(subject: Subject) {
    let (control, mut sender, mut receiver) = impatient(subject.line().await);
    let error = loop {
        if let Err(error) = sender.send("x".repeat(5000)).await {
            break error;
        }
    };
    assert_stalled(&error, &control);
    assert_stalled(&sender.send("more").await.unwrap_err(), &control);
    assert_stalled(&sender.flush().await.unwrap_err(), &control);
    assert_ends_as_stalled(&mut receiver).await;
}

/// A stall is detected even if each message fits into the queue.
pub async fn flush_without_progress_ends_the_line_as_stalled(subject: Subject) {
    let (control, mut sender, mut receiver) = impatient(subject.line().await);
    let error = loop {
        if let Err(error) = sender.feed("x".repeat(50)).await {
            break error;
        }
        if let Err(error) = sender.flush().await {
            break error;
        }
    };
    assert_stalled(&error, &control);
    assert_ends_as_stalled(&mut receiver).await;
}

/// Closing waits for the queue to be flushed, but not forever.
pub async fn close_without_progress_ends_the_line_as_stalled(subject: Subject) {
    let (control, mut sender, mut receiver) = impatient(subject.line().await);
    fill(&mut sender).await;
    assert_stalled(&sender.close().await.unwrap_err(), &control);
    assert_ends_as_stalled(&mut receiver).await;
}

/// Creates a message line with a short stall timeout.
pub(super) fn impatient(line: BoxConnection) -> (Control, impl Sender, impl Receiver) {
    let stall_timeout = Duration::from_millis(300);
    let config = ChannelConfig {
        stall_timeout,
        program_stall_timeout: stall_timeout,
        write_queue: ByteSize::kib(4),
        ..Default::default()
    };
    let lines = Lines::new(ByteSize::mib(64));
    let channel = FramedChannel::new(line, lines, config);
    let control = channel.control().clone();
    let (sender, receiver) = channel.split();
    (control, sender, receiver)
}

/// Queues one message that is larger than all buffers on the way.
async fn fill(sender: &mut impl Sender) {
    sender.feed("x".repeat(40 << 20)).await.unwrap();
}

#[track_caller]
fn assert_stalled(error: &SendError, control: &Control) {
    assert!(matches!(error.close_reason(), Some(CloseReason::Stalled)), "{error:?}");
    assert!(matches!(control.close_reason(), Some(CloseReason::Stalled)), "{control:?}");
    assert_eq!(control.health(), Health::Down);
}

/// Panics unless the receiver reports a stall. Messages that were echoed before may be delivered first.
async fn assert_ends_as_stalled(receiver: &mut impl Receiver) {
    loop {
        match receiver.recv().await {
            Incoming::Message(_) => {}
            Incoming::End(CloseReason::Stalled) => return,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) async fn expect_end(receiver: &mut impl Receiver) -> CloseReason {
    match receiver.recv().await {
        Incoming::End(reason) => reason,
        other => panic!("expected the end: {other:?}"),
    }
}
