//! Overload: requests wait or are refused, and two sides never deadlock.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::{with_options, within};
use tieline_proto::ByteSize;
use tieline_rpc::{CallError, Peer, PeerOptions, Router};
use tieline_transport::{Channel, ChannelConfig, CloseReason, SenderExt, memory_pair};
use tokio::sync::{Semaphore, mpsc};

/// Small requests with large responses: each side has far more to send than fits into its queue, and has
/// to wait for the other to read.
#[tokio::test]
async fn responses_larger_than_both_queues_all_arrive() {
    const CALLS: usize = 1000;
    const LENGTH: usize = 10_000;
    let long = || Router::new().request("long", |(): (), _| async move { Ok("x".repeat(LENGTH)) });
    let options = PeerOptions { queue: ByteSize::kib(256), ..PeerOptions::default() };
    let (ours, theirs) = memory_pair();
    let (one, driver) = Peer::new(ours, long(), options);
    let (other, other_driver) = Peer::new(theirs, long(), options);
    tokio::spawn(driver);
    tokio::spawn(other_driver);
    let flood = |peer: Peer| async move {
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let peer = peer.clone();
                tokio::spawn(async move { peer.call::<String>("long", ()).await })
            })
            .collect();
        let mut answered = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(text) => answered += usize::from(text.len() == LENGTH),
                // A refusal because of too many requests is a response, too.
                Err(CallError::Remote(error)) if error.code == -32000 => answered += 1,
                Err(error) => panic!("after {answered}: {error:?}"),
            }
        }
        answered
    };
    assert_eq!(within(async { tokio::join!(flood(one), flood(other)) }).await, (CALLS, CALLS));
}

/// Records how many of its requests are running, and the maximum so far.
#[derive(Clone)]
struct Gate {
    go: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    started: mpsc::UnboundedSender<Value>,
}

fn gated() -> (Gate, mpsc::UnboundedReceiver<Value>, Router) {
    let (started, has_started) = mpsc::unbounded_channel();
    let gate = Gate {
        go: Arc::new(Semaphore::new(0)),
        running: Arc::default(),
        most: Arc::default(),
        started,
    };
    let handler = gate.clone();
    let router = Router::new().request("wait", move |params: Value, _| {
        let gate = handler.clone();
        async move {
            let running = gate.running.fetch_add(1, Ordering::Relaxed) + 1;
            gate.most.fetch_max(running, Ordering::Relaxed);
            gate.started.send(params).unwrap();
            gate.go.acquire().await.unwrap().forget();
            gate.running.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        }
    });
    (gate, has_started, router)
}

#[tokio::test]
async fn waiting_requests_start_in_order_and_never_exceed_the_limit() {
    let (gate, mut started, router) = gated();
    let options = PeerOptions { max_in_flight: 2, max_waiting: 3, ..PeerOptions::default() };
    let (_peer, _driver, mut raw) = with_options(router, options);
    for n in 1..=6 {
        let ask = json!({ "jsonrpc": "2.0", "id": n, "method": "wait", "params": [n] });
        raw.send(&ask.to_string()).await;
    }
    let refused = raw.recv().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(6), &json!(-32000)));
    for n in 1..=5 {
        assert_eq!(within(started.recv()).await, Some(json!([n])));
        gate.go.add_permits(1);
    }
    for _ in 1..=5 {
        assert_eq!(raw.recv().await["result"], Value::Null);
    }
    assert_eq!(gate.most.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn by_default_256_requests_run_256_wait_and_the_next_is_overloaded() {
    let (gate, mut started, router) = gated();
    let (_peer, _driver, mut raw) = support::peer_and_raw(router);
    for n in 0..513 {
        let ask = json!({ "jsonrpc": "2.0", "id": n, "method": "wait", "params": [n] });
        raw.sender.feed(ask.to_string()).await.unwrap();
    }
    raw.sender.flush().await.unwrap();
    let refused = raw.recv().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(512), &json!(-32000)));
    let mut begun = 0;
    while started.try_recv().is_ok() {
        begun += 1;
    }
    assert_eq!(begun, 256);
    gate.go.add_permits(512);
    for _ in 0..512 {
        assert_eq!(raw.recv().await["result"], Value::Null);
    }
}

/// The requests are carried out until the send queue is full. Then they wait, and then they are refused.
/// When the refusals are not read either, reading stops and the line ends.
#[tokio::test(start_paused = true)]
async fn line_ends_if_the_other_side_sends_but_never_reads() {
    let router =
        Router::new().request("long", |_: Value, _| async move { Ok("x".repeat(100_000)) });
    let options = PeerOptions { queue: ByteSize::mib(1), ..PeerOptions::default() };
    let (_peer, driver, raw) = with_options(router, options);
    let mut sender = raw.sender;
    let flood = tokio::spawn(async move {
        let id = "i".repeat(4000);
        let ask = json!({ "jsonrpc": "2.0", "id": id, "method": "long", "params": [] });
        let ask = ask.to_string();
        let mut sent = 0;
        while sender.send(ask.clone()).await.is_ok() {
            sent += ask.len();
        }
        sent
    });
    let reason = tokio::time::timeout(Duration::from_secs(60), driver).await.unwrap().unwrap();
    assert!(matches!(reason, CloseReason::Stalled), "{reason:?}");
    drop(raw.receiver);
    let sent = within(flood).await.unwrap();
    // The limit covers the waiting requests, as many refusals, and the data in transit.
    assert!(sent < 6 * 1024 * 1024, "{sent} bytes were taken");
}

/// The size of a pipe that takes everything that is waiting at once.
const WIDE: usize = 4 * 1024 * 1024;

/// Sends `count` requests, reads nothing until no task makes progress any more, and then reads
/// everything. A driver that went to sleep with work left would never be woken.
async fn ask_first_and_read_later(options: PeerOptions, count: usize, id_length: usize) {
    let router = Router::new().request("long", |(): (), _| async move { Ok("x".repeat(4096)) });
    let (ours, theirs) = tokio::io::duplex(WIDE);
    // With unlimited timeouts a missed wakeup hangs, and a slow machine does not end the line.
    let endless = Duration::from_secs(100_000);
    let config = ChannelConfig { stall_timeout: endless, ..ChannelConfig::default() };
    let options = PeerOptions { grace: endless, ..options };
    let (_peer, driver) = Peer::new(support::lines(ours, config), router, options);
    tokio::spawn(driver);
    let (mut sender, mut receiver) = support::lines(theirs, config).split();
    let asking = tokio::spawn(async move {
        for n in 0..count {
            let ask = format!(r#"{{"jsonrpc":"2.0","id":"{n:0>id_length$}","method":"long"}}"#);
            sender.send(ask).await.unwrap();
        }
        sender
    });
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    for _ in 0..count {
        support::message(&mut receiver).await;
    }
    drop(within(asking).await.unwrap());
}

#[tokio::test]
async fn reading_resumes_as_soon_as_refusals_are_read() {
    let options = PeerOptions {
        max_in_flight: 0,
        max_waiting: 0,
        queue: ByteSize::new(1000),
        ..PeerOptions::default()
    };
    ask_first_and_read_later(options, 2500, 4000).await;
}

#[tokio::test]
async fn held_back_requests_run_as_soon_as_responses_are_read() {
    let options = PeerOptions { queue: ByteSize::new(4000), ..PeerOptions::default() };
    // These are as many responses as the pipe and the queue hold, plus forty.
    let count = (WIDE + 256 * 1024) / 4136 + 40;
    ask_first_and_read_later(options, count, 4).await;
}
