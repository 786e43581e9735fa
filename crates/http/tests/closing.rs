//! Tests of how a WebSocket ends, and which reason each side receives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use support::{BEARER, LIMIT, close_code, config, echo, end, frame, head, message, serve, upgrade};
use tieline_http::WebChannel;
use tieline_proto::HeartbeatConfig;
use tieline_testkit::clock::{FastClock, StoppedClock, assert_took};
use tieline_transport::{
    Acceptor, Channel, CloseReason, Incoming, Receiver, ReceiverExt, Sender, SenderExt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

#[tokio::test]
async fn each_protocol_violation_has_its_close_code() {
    let mut served = serve(config()).await;
    for (bytes, code) in [
        (frame(0x83, b""), 1002),
        (frame(0xc1, b""), 1002),
        (b"\x81\x05hello".to_vec(), 1002),
        (frame(0x81, b"\xff"), 1007),
        (frame(0x88, &1005u16.to_be_bytes()), 1002),
        (frame(0x88, &1000u16.to_be_bytes()), 1000),
        (frame(0x88, &4321u16.to_be_bytes()), 4321),
        (frame(0x88, b""), 1005),
    ] {
        let (mut stream, channel) = served.raw().await;
        let (_sender, mut receiver) = channel.split();
        stream.write_all(&bytes).await.unwrap();
        let (_, received) = tokio::join!(end(&mut receiver), close_code(&mut stream));
        assert_eq!(received, Some(code), "{bytes:?}");
    }
    // The connection of a session accepts no text messages.
    let protocol = format!("{BEARER}Sec-WebSocket-Protocol: tieline.1\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    stream.write_all(upgrade(served.port, &protocol).as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.contains("101"));
    let (_sender, mut receiver) =
        served.resumable.as_mut().unwrap().accept().await.unwrap().split();
    stream.write_all(&frame(0x81, b"text")).await.unwrap();
    let (_, received) = tokio::join!(end(&mut receiver), close_code(&mut stream));
    assert_eq!(received, Some(1003));
}

/// Ends the channel for this reason and returns the close code that the client receives.
async fn code_for(reason: CloseReason, channel: WebChannel, stream: &mut TcpStream) -> Option<u16> {
    channel.control().end(reason);
    let (mut sender, _receiver) = channel.split();
    sender.close().await.unwrap();
    close_code(stream).await
}

#[tokio::test]
async fn each_reason_is_reported_with_its_close_code() {
    let mut served = serve(config()).await;
    for (reason, code) in
        [(CloseReason::ByUs, 1001), (CloseReason::StdoutClosed, 1011), (CloseReason::Overrun, 1013)]
    {
        let (mut stream, channel) = served.raw().await;
        let received = code_for(reason.clone(), channel, &mut stream).await;
        assert_eq!(received, Some(code), "{reason}");
    }
    // The code is also sent if the channel is dropped without a close while nothing waits to be written.
    let (mut stream, channel) = served.raw().await;
    channel.control().end(CloseReason::StdoutClosed);
    drop(channel);
    assert_eq!(close_code(&mut stream).await, Some(1011));
}

#[tokio::test]
async fn a_client_receives_the_close_reason_of_the_server() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    server.control().end(CloseReason::StdoutClosed);
    let (mut sender, _receiver) = server.split();
    sender.close().await.unwrap();
    let (_sender, mut receiver) = client.split();
    let reason = end(&mut receiver).await;
    let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
    assert_eq!(close.code, 1011);
    assert!(!reason.is_clean());
}

#[tokio::test]
async fn a_server_reports_its_shutdown() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let server = tokio::spawn(echo(server));
    let (_sender, mut receiver) = client.split();
    let port = served.port;
    let (reason, ()) = tokio::join!(end(&mut receiver), served.web.close(Duration::from_secs(30)));
    let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
    assert_eq!(close.code, 1001);
    assert!(reason.is_clean());
    assert!(matches!(server.await.unwrap(), CloseReason::ByUs));
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

/// The buffers of many clients are full, and none of the clients reads.
#[tokio::test]
async fn a_server_closes_within_its_grace_period_although_no_client_reads() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    let mut deaf = Vec::new();
    for _ in 0..50 {
        let (stream, channel) = served.raw().await;
        let (mut sender, receiver) = channel.split();
        while poll_fn(|cx| Poll::Ready(sender.poll_ready(cx).is_ready())).await {
            sender.start_send(vec![b'x'; 256 * 1024].into()).unwrap();
        }
        deaf.push((stream, sender, receiver));
    }
    let begun = Instant::now();
    served.web.close(Duration::from_secs(2)).await;
    assert_took(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn an_unanswered_close_times_out() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    let (_stream, channel) = served.raw().await;
    let (mut sender, mut receiver) = channel.split();
    let begun = Instant::now();
    sender.close().await.unwrap();
    assert!(matches!(receiver.recv().await, Incoming::End(CloseReason::ByUs)));
    assert_took(begun.elapsed(), Duration::from_secs(10));
}

/// A client that violated the protocol has two seconds to read the reason.
#[tokio::test]
async fn a_client_has_time_to_read_the_close_reason() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    let (mut stream, channel) = served.raw().await;
    let (_sender, mut receiver) = channel.split();
    stream.write_all(&frame(0x83, b"")).await.unwrap();
    let begun = Instant::now();
    let came = receiver.recv().await;
    assert!(matches!(came, Incoming::End(CloseReason::Protocol(_))), "{came:?}");
    assert_took(begun.elapsed(), Duration::from_secs(2));
    assert_eq!(close_code(&mut stream).await, Some(1002));
}

#[tokio::test]
async fn a_client_that_violated_the_protocol_and_left_is_not_waited_for() {
    let mut served = serve(config()).await;
    let (mut stream, channel) = served.raw().await;
    let (_sender, mut receiver) = channel.split();
    stream.write_all(&frame(0x83, b"")).await.unwrap();
    drop(stream);
    let _clock = StoppedClock::new(LIMIT);
    let begun = Instant::now();
    let came = receiver.recv().await;
    assert!(matches!(came, Incoming::End(CloseReason::Protocol(_))), "{came:?}");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// Responses that are sent after the violation precede the close frame.
#[tokio::test]
async fn a_sender_that_is_kept_open_answers_before_the_close_frame() {
    let mut served = serve(config()).await;
    for (bytes, code) in [
        (frame(0x83, b""), 1002),
        (frame(0x81, b"\xff"), 1007),
        (frame(0x88, &1005u16.to_be_bytes()), 1002),
    ] {
        for closes in [true, false] {
            let (mut stream, channel) = served.raw().await;
            let (mut sender, mut receiver) = channel.split();
            receiver.keep_sender_open();
            stream.write_all(&[frame(0x81, b"asked"), bytes.clone()].concat()).await.unwrap();
            assert_eq!(message(&mut receiver).await, "asked");
            for _ in 0..2 {
                let came = receiver.recv().await;
                assert!(matches!(came, Incoming::End(CloseReason::Protocol(_))), "{came:?}");
            }
            sender.send("answered").await.unwrap();
            let mut answer = [0; 10];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"\x81\x08answered");
            if closes {
                sender.close().await.unwrap();
                assert!(sender.send("more").await.is_err());
                let (reason, received) = tokio::join!(end(&mut receiver), close_code(&mut stream));
                assert!(matches!(reason, CloseReason::Protocol(_)), "{reason}");
                assert_eq!(received, Some(code), "{bytes:?}");
            } else {
                drop((sender, receiver));
                assert_eq!(close_code(&mut stream).await, Some(code), "{bytes:?}");
            }
        }
    }
}

/// Pings are sent after 10 s and 20 s; each answer may take 5 s.
#[tokio::test]
async fn a_half_open_connection_is_detected_within_25_seconds() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    let (mut stream, channel) = served.raw().await;
    let (_sender, mut receiver) = channel.split();
    let begun = Instant::now();
    let reason = match receiver.recv().await {
        Incoming::End(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert!(matches!(reason, CloseReason::TimedOut), "{reason}");
    assert_took(begun.elapsed(), Duration::from_secs(25));
    let mut pings = [0; 4];
    stream.read_exact(&mut pings).await.unwrap();
    assert_eq!(pings, [0x89, 0, 0x89, 0]);
}

/// The idle time is one second, and an answer may take longer.
#[tokio::test]
async fn ping_interval_does_not_depend_on_the_answer_timeout() {
    let _clock = FastClock::start();
    let mut config = config();
    let idle = Duration::from_secs(1);
    config.web_socket.heartbeat = Some(HeartbeatConfig { idle, ..HeartbeatConfig::default() });
    let mut served = serve(config).await;
    let (mut stream, channel) = served.raw().await;
    tokio::spawn(echo(channel));
    let begun = Instant::now();
    for _ in 0..10 {
        let mut ping = [0; 2];
        stream.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        stream.write_all(&frame(0x8a, b"")).await.unwrap();
    }
    // Each answer could take five seconds.
    assert_took(begun.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn a_peer_that_only_answers_pings_stays_connected() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let (mut client, mut from_server) = client.split();
    tokio::spawn(async move { from_server.recv().await });
    let (_sender, mut receiver) = server.split();
    let idle = tokio::time::timeout(Duration::from_secs(120), receiver.recv());
    assert!(idle.await.is_err(), "an idle line ended");
    client.send("still here").await.unwrap();
    assert_eq!(message(&mut receiver).await, "still here");
}

#[tokio::test]
async fn a_cut_connection_is_distinguished_from_a_closed_one() {
    let mut served = serve(config()).await;
    let (stream, channel) = served.raw().await;
    drop(stream);
    let (_sender, mut receiver) = channel.split();
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Io(_)), "{reason}");
    let (mut stream, channel) = served.raw().await;
    stream.write_all(&frame(0x81, b"half a message")[..10]).await.unwrap();
    drop(stream);
    let (_sender, mut receiver) = channel.split();
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Truncated(_)), "{reason}");
}
