//! Checks of messages, and of the effects of dropped futures.

use std::sync::Arc;

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::{ByteSize, EncodeError, Fault, Framing, Json, LengthPrefix, Lines};
use tieline_transport::{
    BoxConnection, Capabilities, Channel, ChannelConfig, Connection, ControlBuilder, FramedChannel,
    Incoming, IoConnection, Receiver, ReceiverExt, SendError, SenderExt, SharedSender,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Subject;
use super::bytes::{assert_same, pattern};
use crate::wait::{LIMIT, poll_once};

/// Messages of many lengths, including zero and those close to the sizes of buffers, arrive whole and in
/// order.
pub async fn messages_arrive_whole_and_in_order(subject: Subject) {
    let (mut sender, mut receiver) = channel(subject.line().await, LengthPrefix::default()).split();
    let messages = [0, 1, 1024, 1025, 4092, 4093, 65_536, 70_000, 300_000, 2].map(pattern);
    let messages = messages.map(Bytes::from);
    let sending = async {
        for message in &messages {
            sender.send(message.clone()).await.unwrap();
        }
    };
    let receiving = async {
        for message in &messages {
            assert_same(&expect_message(&mut receiver).await, message);
        }
    };
    tokio::join!(sending, receiving);
}

/// The received part of a message is kept when the future is dropped.
pub async fn dropped_recv_loses_nothing(subject: Subject) {
    let (mut receiver, mut echoed) = receiver_and_echo(subject.line().await, Lines::default());
    let mut received = Vec::new();
    for byte in "hello\nwörld\n!\n".bytes() {
        let arrived = receiver.1.info().bytes_in;
        echoed.write_all(&[byte]).await.unwrap();
        echoed.flush().await.unwrap();
        while receiver.1.info().bytes_in == arrived {
            match poll_once(receiver.0.recv()).await {
                None => tokio::task::yield_now().await,
                Some(Incoming::Message(message)) => received.push(message),
                Some(other) => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(received, ["hello", "wörld", "!"]);
}

/// Exactly the messages that are counted as queued arrive, in order and whole.
pub async fn dropped_send_has_queued_all_or_nothing(subject: Subject) {
    let config = ChannelConfig { write_queue: ByteSize::kib(1), ..patient() };
    let channel = FramedChannel::new(subject.line().await, Lines::default(), config);
    let control = channel.control().clone();
    let (mut sender, mut receiver) = channel.split();

    let padding = "x".repeat(3000);
    let message = |number: usize| format!("{number} {padding}");
    let mut queued = Vec::new();
    let (mut dropped_when_queued, mut dropped_before) = (0, 0);
    // The echo is not read, so all buffers are eventually full.
    for number in 0.. {
        let before = control.info().messages_out;
        let finished = poll_once(sender.send(message(number))).await;
        match (finished, control.info().messages_out - before) {
            (Some(Ok(())), 1) => {}
            (None, 1) => dropped_when_queued += 1,
            (None, 0) => dropped_before += 1,
            (finished, sent) => panic!("{finished:?} after {sent}"),
        }
        if control.info().messages_out > before {
            queued.push(number);
            dropped_before = 0;
        }
        if dropped_before == 50 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(dropped_when_queued > 0);

    let sending = async { sender.send("the last").await.unwrap() };
    let receiving = async {
        for number in queued {
            let received = expect_message(&mut receiver).await;
            assert!(received == message(number), "{number}: {:?}", &received[..20]);
        }
        assert_eq!(expect_message(&mut receiver).await, "the last");
    };
    tokio::join!(sending, receiving);
}

/// A message that is not JSON affects only itself.
pub async fn bad_message_is_a_fault_and_the_line_continues(subject: Subject) {
    let framing = Json::new(Lines::default(), Limits::default());
    let channel = channel(subject.line().await, framing);
    let control = channel.control().clone();
    let (mut sender, mut receiver) = channel.split();
    for message in ["{\"a\":1}", "no JSON", "[2]"] {
        sender.send(message).await.unwrap();
    }
    assert_eq!(expect_message(&mut receiver).await, "{\"a\":1}");
    match receiver.recv().await {
        Incoming::Fault(Fault::NotJson(bad)) => {
            assert_eq!((&bad.head[..], bad.length), (&b"no JSON"[..], 7));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(expect_message(&mut receiver).await, "[2]");
    assert_eq!((control.info().messages_in, control.info().faults), (2, 1));
}

/// A line above the limit is discarded as it arrives.
pub async fn oversize_message_is_a_fault_and_the_line_continues(subject: Subject) {
    let framing = Lines::new(ByteSize::kib(1));
    let (mut receiver, mut echoed) = receiver_and_echo(subject.line().await, framing);
    let long = "x".repeat(50_000);
    echoed.write_all(format!("before\n{long}\nafter\n").as_bytes()).await.unwrap();
    echoed.flush().await.unwrap();
    assert_eq!(expect_message(&mut receiver.0).await, "before");
    match receiver.0.recv().await {
        Incoming::Fault(Fault::Oversize(lost)) => assert_eq!(lost.limit, ByteSize::kib(1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(expect_message(&mut receiver.0).await, "after");
}

/// A message that the framing cannot carry is refused before any part of it is queued.
pub async fn unsendable_message_affects_only_itself(subject: Subject) {
    let (mut sender, mut receiver) =
        channel(subject.line().await, Lines::new(ByteSize::kib(1))).split();
    let oversize = Bytes::from(pattern(2000));
    for (message, refusal) in [
        (Bytes::from("two\nlines"), EncodeError::RawNewline),
        (Bytes::new(), EncodeError::Empty),
        (oversize, EncodeError::Oversize { length: 2000, limit: ByteSize::kib(1) }),
    ] {
        match sender.send(message.clone()).await {
            Err(SendError::Message(refused)) => {
                assert_eq!((refused.message, refused.error), (message, refusal));
            }
            other => panic!("{other:?}"),
        }
    }
    sender.send("good").await.unwrap();
    assert_eq!(expect_message(&mut receiver).await, "good");
}

/// Messages that several tasks send with the same sender are never interleaved.
pub async fn tasks_sharing_a_sender_never_tear_messages(subject: Subject) {
    const TASKS: usize = 50;
    const EACH: usize = 200;
    fn message(task: usize, number: usize) -> String {
        format!("{task} {number} {}", "x".repeat((task * 31 + number * 17) % 700))
    }

    let (sender, mut receiver) = channel(subject.line().await, Lines::default()).split();
    let sender = SharedSender::new(sender);
    for task in 0..TASKS {
        let sender = sender.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                sender.send(message(task, number)).await.unwrap();
            }
        });
    }
    let mut next = [0; TASKS];
    for _ in 0..TASKS * EACH {
        let received = expect_message(&mut receiver).await;
        let received = std::str::from_utf8(&received).unwrap();
        let task: usize = received.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(received, message(task, next[task]), "messages of each task arrive in order");
        next[task] += 1;
    }
    assert_eq!(next, [EACH; TASKS]);
}

pub(super) fn channel<F: Framing>(
    line: BoxConnection,
    framing: F,
) -> FramedChannel<BoxConnection, F> {
    FramedChannel::new(line, framing, patient())
}

/// Returns a configuration with long timeouts, so that a peer on a slow machine is not considered
/// stalled.
pub(super) fn patient() -> ChannelConfig {
    ChannelConfig { stall_timeout: LIMIT, program_stall_timeout: LIMIT, ..ChannelConfig::default() }
}

pub(super) async fn expect_message(receiver: &mut impl Receiver) -> Bytes {
    match receiver.recv().await {
        Incoming::Message(message) => message,
        other => panic!("expected a message: {other:?}"),
    }
}

/// Creates a receiver that uses `framing`, the control that counts its bytes, and a writer for the raw
/// bytes that it receives.
fn receiver_and_echo<F: Framing>(
    line: BoxConnection,
    framing: F,
) -> ((impl Receiver, tieline_transport::Control), impl AsyncWrite + Unpin) {
    let control = ControlBuilder {
        kind: line.info().kind,
        endpoint: line.info().endpoint,
        peer: None,
        capabilities: Capabilities::default(),
        profile: line.control().profile(),
        backing: Arc::new(()),
    };
    let control = control.build();
    let (read, write) = line.into_split();
    let (_, nowhere) = tokio::io::split(tokio::io::join(tokio::io::empty(), tokio::io::sink()));
    let receive_only = IoConnection::new(read, nowhere, control.clone());
    let (_, receiver) = FramedChannel::new(receive_only, framing, patient()).split();
    ((receiver, control), write)
}
