//! Tests of announced lengths that are too large and of floods of frames: each ends the sender's line,
//! and none uses much memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{config, end, frame, message, serve};
use tieline_proto::websocket::Violation;
use tieline_proto::{ByteSize, FrameError};
use tieline_transport::{Channel, CloseReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_message_of_16_mib_is_the_largest() {
    const LIMIT: usize = 16 << 20;
    for (length, is_taken) in [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
        let mut served = serve(config()).await;
        let (stream, channel) = served.raw().await;
        let (mut read, mut write) = stream.into_split();
        tokio::spawn(async move {
            let _ = write.write_all(&frame(0x82, &vec![7; length])).await;
            let _ = write.write_all(&frame(0x88, b"")).await;
            std::future::pending::<()>().await;
        });
        let (_sender, mut receiver) = channel.split();
        if is_taken {
            assert_eq!(message(&mut receiver).await.len(), length);
            assert!(matches!(end(&mut receiver).await, CloseReason::ByPeer));
            continue;
        }
        let (reason, code) = tokio::join!(end(&mut receiver), async {
            let mut answer = [0; 4];
            read.read_exact(&mut answer).await.unwrap();
            (answer[0], u16::from_be_bytes([answer[2], answer[3]]))
        });
        assert_eq!(code, (0x88, 1009));
        let CloseReason::Protocol(FrameError::Oversize { length: announced, limit }) = reason
        else {
            panic!("{reason}")
        };
        assert_eq!((announced, limit), (length as u64, ByteSize::mib(16)));
    }
}

/// The announced length is not allocated.
#[tokio::test]
async fn an_announced_length_uses_no_memory() {
    let mut served = serve(config()).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        let (mut stream, channel) = served.raw().await;
        let mut head = frame(0x82, &vec![0; 70_000])[..14].to_vec();
        head[2..10].copy_from_slice(&(16u64 << 20).to_be_bytes());
        stream.write_all(&head).await.unwrap();
        let (sender, mut receiver) = channel.split();
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(tieline_transport::Receiver::poll_recv(&mut receiver, cx))
        });
        assert!(polled.await.is_pending());
        held.push((stream, sender, receiver));
    }
    let resident = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = resident.lines().find_map(|line| line.strip_prefix("VmData:"));
    let Some(kib) = resident.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok())
    else {
        return;
    };
    assert!(kib < 50 * 8 * 1024, "{kib} KiB for 50 announcements of 16 MiB");
}

/// Returns the number of frames in a flood: ten million in a soak test, and otherwise enough to end the
/// line.
fn flood() -> usize {
    let is_long = std::env::var_os("TIELINE_SOAK").is_some();
    if is_long { 10_000_000 } else { 100_000 }
}

async fn flooded(frame: Vec<u8>, before: Vec<u8>) -> (CloseReason, Option<u16>, usize) {
    let mut served = serve(config()).await;
    let (stream, channel) = served.raw().await;
    let (read, mut write) = stream.into_split();
    let mut read = read;
    let (sender, mut receiver) = channel.split();
    let flooding = tokio::spawn(async move {
        let _ = write.write_all(&before).await;
        let many = frame.repeat(10_000);
        for sent in 0..flood() / 10_000 {
            if write.write_all(&many).await.is_err() {
                return sent * 10_000;
            }
        }
        std::future::pending::<()>().await;
        0
    });
    let closing = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        // Finds the last frame that was received.
        let place = answer.windows(4).rposition(|it| it[0] == 0x88 && it[2] == 3)?;
        Some(u16::from_be_bytes([answer[place + 2], answer[place + 3]]))
    });
    let reason = end(&mut receiver).await;
    drop((sender, receiver));
    let code = closing.await.unwrap();
    flooding.abort();
    (reason, code, served.web.counts().open as usize)
}

#[tokio::test]
async fn a_flood_of_empty_frames_pings_and_fragments_ends_the_line() {
    let head = frame(0x01, &[b'x'; 32]);
    for (what, frame, before) in [
        ("empty texts", frame(0x81, b""), Vec::new()),
        ("blank texts", frame(0x81, b"\n"), Vec::new()),
        ("empty binaries", frame(0x82, b""), Vec::new()),
        ("pings", frame(0x89, b"ping"), Vec::new()),
        ("pongs", frame(0x8a, b""), Vec::new()),
        ("empty fragments", frame(0x00, b""), head.clone()),
        ("tiny fragments", frame(0x00, b"x"), head),
    ] {
        let (reason, code, _) = flooded(frame, before).await;
        let flood = FrameError::WebSocket(Violation::TooManyFrames);
        assert!(matches!(&reason, CloseReason::Protocol(it) if *it == flood), "{what}: {reason}");
        assert_eq!(code, Some(1008), "{what}");
    }
}

/// The fragments are too large to be a flood, and never end.
#[tokio::test]
async fn endless_fragments_end_at_the_limit() {
    let (head, more) = (frame(0x02, &[0; 60_000]), frame(0x00, &[0; 60_000]));
    let mut served = serve(config()).await;
    let (stream, channel) = served.raw().await;
    let (mut read, mut write) = stream.into_split();
    tokio::spawn(async move {
        let _ = write.write_all(&head).await;
        while write.write_all(&more).await.is_ok() {}
    });
    let (_sender, mut receiver) = channel.split();
    let (reason, code) = tokio::join!(end(&mut receiver), async {
        let mut answer = [0; 4];
        read.read_exact(&mut answer).await.unwrap();
        u16::from_be_bytes([answer[2], answer[3]])
    });
    assert_eq!(code, 1009);
    assert!(matches!(reason, CloseReason::Protocol(FrameError::Oversize { .. })), "{reason}");
}
