//! How long a call waits: until its response, its timeout (extended by progress), or its total limit.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{peer_and_raw, poll_once, with_options, within};
use tieline_proto::ByteSize;
use tieline_rpc::{CallError, Dialect, Peer, PeerOptions, Router};
use tieline_transport::{Channel, memory_pair};

#[tokio::test(start_paused = true)]
async fn call_that_times_out_is_cancelled() {
    let options = PeerOptions {
        call_timeout: Some(Duration::from_secs(5)),
        ..PeerOptions::new(Dialect::MCP)
    };
    let (peer, _driver, mut raw) = with_options((), options);
    let call = tokio::spawn(async move { peer.call::<()>("slow", ()).await });
    assert_eq!(raw.recv().await["method"], "slow");
    assert_eq!(raw.recv().await["method"], "notifications/cancelled");
    let error = within(call).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_extends_the_timeout() {
    let (peer, _driver, mut raw) = with_options((), PeerOptions::new(Dialect::MCP));
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let call = tokio::spawn(async move {
        peer.method("slow")
            .params(json!({ "a": 1 }))
            .timeout(Duration::from_secs(10))
            .total(Duration::from_secs(35))
            .on_progress(move |progress| report.send(progress.to_vec()).unwrap())
            .call::<()>()
            .await
    });
    let question = raw.recv().await;
    let token = question["params"]["_meta"]["progressToken"].clone();
    assert_eq!(token, question["id"]);
    for step in 1..=4 {
        let progress = json!({ "progressToken": token, "progress": step });
        raw.send(
            &json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": progress })
                .to_string(),
        )
        .await;
        let received: Value =
            serde_json::from_slice(&within(reported.recv()).await.unwrap()).unwrap();
        assert_eq!(received["progress"], step);
        assert!(!call.is_finished(), "after {step} steps");
        tokio::time::advance(Duration::from_secs(8)).await;
    }
    let error = within(call).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error:?}");
    assert_eq!(raw.recv().await["method"], "notifications/cancelled");
}

#[tokio::test(start_paused = true)]
async fn unrequested_progress_is_a_notification_and_extends_nothing() {
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().notification("notifications/progress", move |params: Value, _| {
        let report = report.clone();
        async move { report.send(params).unwrap() }
    });
    let (peer, _driver, mut raw) = with_options(router, PeerOptions::new(Dialect::MCP));
    let begun = tokio::time::Instant::now();
    let mut call = pin!(peer.method("slow").timeout(Duration::from_secs(10)).call::<()>());
    assert!(poll_once(call.as_mut()).await.is_none());
    let question = raw.recv().await;
    assert_eq!(question["params"], Value::Null, "no token is sent");
    tokio::time::advance(Duration::from_secs(6)).await;
    let progress = json!({ "progressToken": question["id"], "progress": 1 });
    let notification =
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": progress });
    raw.send(&notification.to_string()).await;
    assert_eq!(within(reported.recv()).await, Some(progress));
    let error = call.await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 10, "in virtual time");
}

#[tokio::test(start_paused = true)]
async fn progress_does_not_extend_a_call_beyond_its_total_limit() {
    let (peer, _driver, mut raw) = with_options((), PeerOptions::new(Dialect::MCP));
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let begun = tokio::time::Instant::now();
    let call = tokio::spawn(async move {
        peer.method("slow")
            .timeout(Duration::from_secs(10))
            .total(Duration::from_secs(35))
            .on_progress(move |_| report.send(()).unwrap())
            .call::<()>()
            .await
    });
    let token = raw.recv().await["params"]["_meta"]["progressToken"].clone();
    let progress = json!({ "progressToken": token, "progress": 1 });
    let progress =
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": progress });
    // The last progress arrives at 32 s and would extend the call to 42 s.
    for step in 0..=8 {
        raw.send(&progress.to_string()).await;
        within(reported.recv()).await.unwrap();
        assert!(!call.is_finished(), "after {step} steps");
        tokio::time::advance(Duration::from_secs(4)).await;
    }
    let error = within(call).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 36, "in virtual time");
    assert_eq!(raw.recv().await["method"], "notifications/cancelled");
}

#[tokio::test(start_paused = true)]
async fn call_without_a_timeout_waits_as_long_as_the_line_lasts() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    let mut call = pin!(peer.call::<u32>("slow", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    let question = raw.recv().await;
    tokio::time::advance(Duration::from_secs(1_000_000)).await;
    assert!(poll_once(call.as_mut()).await.is_none());
    raw.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": 1 }).to_string()).await;
    assert_eq!(call.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_timeout_covers_the_wait_for_room_and_for_the_response() {
    let options = PeerOptions { queue: ByteSize::kib(64), ..PeerOptions::new(Dialect::MCP) };
    let (ours, theirs) = memory_pair();
    let (peer, driver) = Peer::new(ours, (), options);
    peer.notify("fills the queue", ()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut call = pin!(peer.method("slow").timeout(Duration::from_secs(10)).call::<()>());
    assert!(poll_once(call.as_mut()).await.is_none());
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::spawn(driver);
    let (_keep, mut receiver) = theirs.split();
    assert_eq!(support::message(&mut receiver).await["method"], "fills the queue");
    let error = call.await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 10, "in virtual time");
    for method in ["slow", "notifications/cancelled"] {
        assert_eq!(support::message(&mut receiver).await["method"], method);
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_never_finds_room_times_out_and_is_never_sent() {
    let options = PeerOptions { queue: ByteSize::kib(64), ..PeerOptions::new(Dialect::MCP) };
    let (ours, theirs) = memory_pair();
    let (peer, driver) = Peer::new(ours, (), options);
    peer.notify("fills the queue", ()).await.unwrap();
    let call = peer.method("slow").timeout(Duration::from_secs(10)).call::<()>();
    let error = within(call).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error:?}");
    tokio::spawn(driver);
    within(peer.notify("after", ())).await.unwrap();
    let (_keep, mut receiver) = theirs.split();
    for method in ["fills the queue", "after"] {
        assert_eq!(support::message(&mut receiver).await["method"], method);
    }
}
