//! Tests of a busy side that does not read for a while. The other side waits for it, but detects a side
//! that is lost. The tests use real sockets and a fast clock, on Linux, where the kernel reports its
//! queued bytes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use support::events::Stream;
use support::{Served, config, end, message, registry, serve};
use tieline_http::{ServerConfig, WebChannel};
use tieline_testkit::clock::{FastClock, assert_took};
use tieline_transport::{
    Acceptor, BoxChannel, Channel, ChannelConfig, CloseReason, Incoming, Options, ReceiverExt,
    Sender, SenderExt,
};
use tokio::time::{Instant, sleep, timeout};

const MIB: usize = 1 << 20;
/// The number of messages of 1 MiB: more than all buffers of a connection hold.
const MESSAGES: usize = 24;
/// How long a side is busy: longer than the 25 s after which a silent peer is considered lost.
const BUSY: Duration = Duration::from_secs(50);
/// How long a write may make no progress.
const STALL: Duration = Duration::from_secs(60);

fn patient() -> ServerConfig {
    let mut config = config();
    config.web_socket.channel.stall_timeout = STALL;
    config
}

/// Connects a client with the stall timeout of [`patient`]. Returns both ends.
async fn pair(served: &mut Served) -> (BoxChannel, WebChannel) {
    let channel = ChannelConfig { stall_timeout: STALL, ..ChannelConfig::default() };
    let (registry, url) = (registry(), served.url());
    let options = Options { channel, ..Options::default() };
    let connecting = registry.connect(&url, &options);
    let (client, server) = tokio::join!(connecting, served.plain.accept());
    (client.unwrap(), server.unwrap().into_web_socket().unwrap())
}

/// Flushes repeatedly, as a gateway with nothing to send does.
async fn flush_for(duration: Duration, sender: &mut impl Sender) {
    let flushing = poll_fn(|cx| match sender.poll_flush(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error),
        _ => Poll::Pending,
    });
    if let Ok(error) = timeout(duration, flushing).await {
        panic!("the line has ended: {error}");
    }
}

/// Sends all messages and receives one, both at once.
async fn sends_and_receives(line: impl Channel) {
    let (mut sender, mut receiver) = line.split();
    let send = async {
        for _ in 0..MESSAGES {
            let sent = sender.send(vec![b'x'; MIB]).await;
            sent.unwrap_or_else(|error| panic!("cannot send: {:?}", error.close_reason()));
        }
    };
    let (answer, ()) = tokio::join!(message(&mut receiver), send);
    assert_eq!(answer, "done");
}

/// Receives one message, is busy for a while, receives the other messages, and responds.
async fn is_busy(line: impl Channel, flushes: bool) {
    let (mut sender, mut receiver) = line.split();
    message(&mut receiver).await;
    match flushes {
        true => flush_for(BUSY, &mut sender).await,
        false => sleep(BUSY).await,
    }
    for _ in 1..MESSAGES {
        assert_eq!(message(&mut receiver).await.len(), MIB);
    }
    sender.send("done").await.unwrap();
    let _ = receiver.recv().await;
}

async fn all_arrives(
    client: impl Channel,
    server: impl Channel,
    client_is_busy: bool,
    flushes: bool,
) {
    match client_is_busy {
        true => tokio::select! {
            () = sends_and_receives(server) => {}
            () = async { is_busy(client, flushes).await; pending().await } => {}
        },
        false => tokio::select! {
            () = sends_and_receives(client) => {}
            () = async { is_busy(server, flushes).await; pending().await } => {}
        },
    }
}

#[tokio::test]
async fn everything_arrives_at_a_side_that_was_busy() {
    let _clock = FastClock::start();
    for client_is_busy in [false, true] {
        let mut served = serve(patient()).await;
        let (client, server) = pair(&mut served).await;
        all_arrives(client, server, client_is_busy, true).await;
    }
}

/// Some implementations neither read nor ping while they are busy. A blocked write may wait up to the
/// stall timeout.
#[tokio::test]
async fn everything_arrives_at_a_side_that_was_busy_and_sent_no_pings() {
    let _clock = FastClock::start();
    for client_is_busy in [false, true] {
        let mut served = serve(patient()).await;
        let (client, server) = pair(&mut served).await;
        all_arrives(client, server, client_is_busy, false).await;
    }
}

/// The few bytes fit into the buffers, so no write blocks; only the pings show that the server is still
/// connected.
#[tokio::test]
async fn a_busy_side_pings_when_little_was_sent_to_it() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let ((mut to_server, mut from_server), (mut to_client, mut from_client)) =
        (client.split(), server.split());
    let busy = async {
        assert_eq!(message(&mut from_client).await, "first");
        flush_for(Duration::from_secs(100), &mut to_client).await;
        assert_eq!(message(&mut from_client).await, "second");
        to_client.send("done").await.unwrap();
        pending().await
    };
    let client = async {
        to_server.send("first").await.unwrap();
        to_server.send("second").await.unwrap();
        let answer = from_server.recv().await;
        assert!(matches!(&answer, Incoming::Message(text) if text == "done"), "{answer:?}");
    };
    tokio::select! { () = client => {}, () = busy => {} }
}

/// The server's kernel accepts sent bytes, but the server sends nothing.
#[tokio::test]
async fn a_server_that_does_nothing_times_out_after_25_seconds() {
    let _clock = FastClock::start();
    let mut served = serve(patient()).await;
    let (client, _server) = pair(&mut served).await;
    let (mut sender, mut receiver) = client.split();
    sender.send("hello").await.unwrap();
    let begun = Instant::now();
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::TimedOut), "{reason}");
    assert_took(begun.elapsed(), Duration::from_secs(25));
}

#[tokio::test]
async fn a_write_without_progress_stalls_after_its_limit() {
    let _clock = FastClock::start();
    let mut served = serve(patient()).await;
    let (client, _server) = pair(&mut served).await;
    let (mut sender, mut receiver) = client.split();
    let begun = Instant::now();
    let flood = async {
        loop {
            if let Err(error) = sender.send(vec![b'x'; MIB]).await {
                break error.close_reason().cloned().unwrap();
            }
        }
    };
    let receiving = async {
        match receiver.recv().await {
            Incoming::End(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    let ended = async {
        tokio::select! { reason = flood => reason, reason = receiving => reason }
    };
    // The limit starts with the last byte that the kernel accepted, not with the first one.
    let reason = timeout(3 * STALL, ended).await.expect("the line did not end");
    assert!(matches!(reason, CloseReason::Stalled), "{reason}");
    let took = begun.elapsed();
    assert!((STALL..2 * STALL).contains(&took), "{took:?}");
}

/// Shrinks the receive buffer, so that most of the bytes that the other end sends are not acknowledged.
fn shrink(stream: &tokio::net::TcpStream) {
    rustix::net::sockopt::set_socket_recv_buffer_size(stream, 4096).unwrap();
}

/// A number of bytes that fits into a connection's send buffer, but not into the receive buffer after
/// [`shrink`], which accepts at most the 64 KiB of the window that was announced before.
const UNREAD: usize = 384 * 1024;

/// The server does not read either, so it cannot see whether its pings are answered.
#[tokio::test]
async fn a_busy_side_detects_that_nothing_is_acknowledged() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    let (stream, server) = served.raw().await;
    shrink(&stream);
    let (mut sender, _receiver) = server.split();
    sender.send(vec![b'x'; UNREAD]).await.unwrap();
    let begun = Instant::now();
    let reason = poll_fn(|cx| match sender.poll_flush(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error.close_reason().cloned()),
        _ => Poll::Pending,
    });
    let reason = timeout(Duration::from_secs(60), reason).await.expect("the line did not end");
    assert!(matches!(reason, Some(CloseReason::Stalled)), "{reason:?}");
    // The sender checks every 10 s, and gives up after 20 s without progress.
    assert_took(begun.elapsed(), Duration::from_secs(30));
}

#[tokio::test]
async fn an_unacknowledged_event_stream_stalls() {
    let _clock = FastClock::start();
    let mut served = serve(config()).await;
    // The server has no sessions, so the line ends with its connection.
    served.resumable = None;
    let (stream, server) = tokio::join!(Stream::open(served.port, ""), served.plain.accept());
    let stream = stream.unwrap();
    shrink(stream.socket());
    let (mut sender, mut receiver) = server.unwrap().split();
    let begun = Instant::now();
    sender.send(vec![b'x'; UNREAD]).await.unwrap();
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Stalled), "{reason}");
    // The limit of 10 s applies only to a blocked write. The kernel may acknowledge some bytes late.
    let took = begun.elapsed().as_secs();
    assert!((20..30).contains(&took), "{took}");
}
