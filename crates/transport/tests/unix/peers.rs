//! The disappearance of a socket's peer, and how it is noticed.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener as StdListener, UnixStream};

use tieline_proto::{ByteSize, Lines};
use tieline_testkit::wait;
use tieline_transport::{
    Channel, ChannelConfig, CloseReason, FramedChannel, Incoming, ReceiverExt, SenderExt,
};

use super::*;

/// Returns a channel of lines, and its peer as a plain socket.
async fn line() -> (FramedChannel<UnixConnection, Lines>, UnixStream) {
    let (_directory, path) = place();
    let listener = StdListener::bind(&path).unwrap();
    let near = connect(&path).await.unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(wait::LIMIT)).unwrap();
    let config = ChannelConfig { stall_timeout: wait::LIMIT, ..ChannelConfig::default() };
    (FramedChannel::new(near, Lines::default(), config), far)
}

#[test]
fn closed_peer_is_gone_but_one_that_ended_its_direction_is_not() {
    block_on(async {
        let (channel, mut far) = line().await;
        let (mut sender, mut receiver) = channel.split();
        assert!(wait::poll_once(sender.gone()).await.is_none());
        far.shutdown(Shutdown::Write).unwrap();
        assert!(matches!(receiver.recv().await, Incoming::End(CloseReason::ByPeer)));
        // The end of its direction is also an event.
        for _ in 0..100 {
            assert!(wait::poll_once(sender.gone()).await.is_none());
            tokio::task::yield_now().await;
        }
        sender.send("answer").await.unwrap();
        let mut answer = [0; 7];
        far.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer\n");

        drop(far);
        sender.gone().await;
        sender.gone().await;
    });
}

#[test]
fn leaving_peer_wakes_a_waiting_task() {
    block_on(async {
        let (channel, far) = line().await;
        let (mut sender, _receiver) = channel.split();
        let waiting = tokio::spawn(async move { sender.gone().await });
        tokio::task::spawn_blocking(move || drop(far)).await.unwrap();
        waiting.await.unwrap();
    });
}

#[test]
fn polling_gone_takes_no_wakeup_from_writes() {
    block_on(async {
        let (channel, mut far) = line().await;
        let (mut sender, _receiver) = channel.split();
        let message = "x".repeat(1 << 20);
        sender.feed(message.clone()).await.unwrap();
        // The socket is full now, and both calls wait for the same event.
        assert!(wait::poll_once(sender.flush()).await.is_none());
        assert!(wait::poll_once(sender.gone()).await.is_none());
        let reading = tokio::task::spawn_blocking(move || {
            let mut received = vec![0; message.len() + 1];
            far.read_exact(&mut received).unwrap();
            far
        });
        std::future::poll_fn(|cx| {
            assert!(tieline_transport::Sender::poll_gone(&mut sender, cx).is_pending());
            tieline_transport::Sender::poll_flush(&mut sender, cx)
        })
        .await
        .unwrap();
        let far = reading.await.unwrap();
        drop(far);
        sender.gone().await;
    });
}

#[test]
fn partial_line_before_a_reset_is_not_a_message() {
    for (part, is_truncated) in [("whole\n", false), ("whole\nhal", true)] {
        block_on(async {
            let (channel, mut far) = line().await;
            let (mut sender, mut receiver) = channel.split();
            sender.send("never read").await.unwrap();
            far.write_all(part.as_bytes()).unwrap();
            // Closing a socket with unread data resets the connection.
            drop(far);
            match receiver.recv().await {
                Incoming::Message(message) => assert_eq!(message, "whole"),
                other => panic!("{other:?}"),
            }
            match receiver.recv().await {
                Incoming::End(CloseReason::Truncated(it)) if is_truncated => {
                    assert_eq!(it.received, 3);
                }
                Incoming::End(CloseReason::Io(error)) if !is_truncated => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                }
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn partial_line_before_a_clean_end_is_a_message() {
    block_on(async {
        let (channel, mut far) = line().await;
        let (_sender, mut receiver) = channel.split();
        far.write_all(b"last words").unwrap();
        drop(far);
        match receiver.recv().await {
            Incoming::Message(message) => assert_eq!(message, "last words"),
            other => panic!("{other:?}"),
        }
        match receiver.recv().await {
            Incoming::End(reason @ CloseReason::Unterminated) => assert!(reason.is_clean()),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn messages_sent_before_the_line_is_dropped_arrive() {
    block_on(async {
        let (channel, mut far) = line().await;
        let (mut sender, receiver) = channel.split();
        let message = "x".repeat(ByteSize::kib(100).bytes());
        sender.send(message.clone()).await.unwrap();
        drop((sender, receiver));
        let mut received = String::new();
        far.read_to_string(&mut received).unwrap();
        assert_eq!(received.trim_end(), message);
    });
}
