//! Races: calls are dropped, lines end and responses arrive at every possible point.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;

use serde_json::json;
use support::{Raw, peer_and_raw, poll_once, with_options, within};
use tieline_proto::ByteSize;
use tieline_rpc::{Answer, CallError, Dialect, NotSent, Peer, PeerOptions, Router};
use tieline_transport::{Channel, ChannelConfig, SenderExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

/// Returns options with room for one message at a time.
fn narrow() -> PeerOptions {
    PeerOptions { queue: ByteSize::kib(64), ..PeerOptions::new(Dialect::LSP) }
}

#[tokio::test]
async fn call_dropped_while_waiting_for_room_takes_none() {
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), narrow());
    peer.notify("first", ()).await.unwrap();
    for _ in 0..10 {
        let mut waiting = pin!(peer.call::<()>("given up", ()));
        assert!(poll_once(waiting.as_mut()).await.is_none());
    }
    tokio::spawn(driver);
    let (_keep, mut receiver) = theirs.split();
    assert_eq!(support::message(&mut receiver).await["method"], "first");
    within(peer.notify("second", ())).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["method"], "second");
}

#[tokio::test]
async fn call_dropped_in_the_queue_frees_its_room() {
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), narrow());
    {
        let mut queued = pin!(peer.call::<()>("given up", ()));
        assert!(poll_once(queued.as_mut()).await.is_none());
    }
    let mut next = pin!(peer.notify("next", ()));
    assert!(poll_once(next.as_mut()).await.is_some(), "there is room immediately");
    tokio::spawn(driver);
    let (_keep, mut receiver) = theirs.split();
    assert_eq!(support::message(&mut receiver).await["method"], "next");
}

#[tokio::test]
async fn messages_are_sent_in_the_order_they_were_queued() {
    let (peer, _driver, mut raw) = with_options((), narrow());
    let sending = tokio::spawn(async move {
        for n in 0..200 {
            peer.notify("n", [n]).await.unwrap();
        }
    });
    for n in 0..200 {
        assert_eq!(raw.recv().await["params"], json!([n]));
    }
    within(sending).await.unwrap();
}

#[tokio::test]
async fn call_fails_when_the_line_ends_at_any_point() {
    // The line ends before the call, while the call is queued, or after it was sent.
    for point in 0..3 {
        let (ours, theirs) = tieline_transport::memory_pair();
        let (peer, driver) = Peer::new(ours, (), PeerOptions::default());
        let (sender, receiver) = theirs.split();
        let mut raw = Raw { sender, receiver };
        let caller = peer.clone();
        let driver = if point == 0 {
            drop(raw);
            within(driver).await;
            let error = within(caller.call::<()>("m", ())).await.unwrap_err();
            assert!(matches!(error, CallError::NotSent(NotSent::Closed(_))), "{error:?}");
            continue;
        } else {
            driver
        };
        let mut call = pin!(caller.call::<()>("m", ()));
        assert!(poll_once(call.as_mut()).await.is_none());
        if point == 1 {
            drop(driver);
            let error = within(call).await.unwrap_err();
            assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
            continue;
        }
        let driver = tokio::spawn(driver);
        raw.recv().await;
        drop(raw);
        let error = within(call).await.unwrap_err();
        assert!(matches!(error, CallError::Unknown(_)), "{error:?}");
        within(driver).await.unwrap();
    }
}

#[tokio::test]
async fn call_fails_when_the_line_ends_within_a_request_or_response() {
    for half in ["", "\n", "{", r#"{"jsonrpc":"2.0","id":1,"result":1"#] {
        // The stream is too narrow for the request, which is therefore never sent completely unless it
        // is read.
        let (ours, theirs) = tokio::io::duplex(16);
        let (peer, driver) =
            Peer::new(support::lines(ours, ChannelConfig::default()), (), PeerOptions::default());
        let driver = tokio::spawn(driver);
        let (read, mut write) = tokio::io::split(theirs);
        let mut read = tokio::io::BufReader::new(read);
        let mut call = pin!(peer.call::<u32>("m", ["x".repeat(100)]));
        assert!(poll_once(call.as_mut()).await.is_none());
        match half {
            "" => assert_eq!(within(read.read_u8()).await.unwrap(), b'{'),
            half => {
                within(read.read_line(&mut String::new())).await.unwrap();
                within(write.write_all(half.as_bytes())).await.unwrap();
            }
        }
        drop((read, write));
        let error = within(call).await.unwrap_err();
        match half.len() {
            ..2 => assert!(matches!(error, CallError::Unknown(_)), "{half}: {error:?}"),
            _ => assert!(matches!(error, CallError::InvalidResponse { .. }), "{error:?}"),
        }
        within(driver).await.unwrap();
    }
}

#[tokio::test]
async fn response_that_arrived_before_the_line_ended_is_delivered() {
    let (peer, driver, mut raw) = peer_and_raw(());
    let mut call = pin!(peer.call::<u32>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    raw.recv().await;
    raw.send(r#"{"jsonrpc":"2.0","id":1,"result":5}"#).await;
    drop(raw);
    within(driver).await.unwrap();
    assert_eq!(within(call).await.unwrap(), 5);
}

#[tokio::test]
async fn call_is_unknown_as_soon_as_the_other_side_ends_its_direction() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    let mut call = pin!(peer.call::<u32>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    raw.recv().await;
    raw.sender.close().await.unwrap();
    let error = within(call).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(_)), "{error:?}");
}

#[tokio::test]
async fn message_waiting_for_room_at_the_end_of_the_line_is_not_sent() {
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), narrow());
    peer.notify("fills the queue", ()).await.unwrap();
    let mut call = pin!(peer.call::<()>("m", ()));
    let mut notification = pin!(peer.notify("n", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    assert!(poll_once(notification.as_mut()).await.is_none());
    drop((theirs, driver));
    let error = within(call).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Closed(_))), "{error:?}");
    let error = within(notification).await.unwrap_err();
    assert!(matches!(error, NotSent::Closed(_)), "{error:?}");
}

#[tokio::test]
async fn call_dropped_after_its_response_arrived_cancels_nothing() {
    let (peer, _driver, mut raw) = with_options((), PeerOptions::new(Dialect::LSP));
    {
        let mut call = pin!(peer.call::<u32>("m", ()));
        assert!(poll_once(call.as_mut()).await.is_none());
        raw.recv().await;
        raw.send(r#"{"jsonrpc":"2.0","id":1,"result":5}"#).await;
        raw.send(r#"{"jsonrpc":"2.0","id":"after","method":"x"}"#).await;
        assert_eq!(raw.recv().await["id"], "after", "the response before it was read");
    }
    peer.notify("after", ()).await.unwrap();
    assert_eq!(raw.recv().await["method"], "after");
}

#[tokio::test]
async fn abandoned_request_that_waits_for_the_line_is_not_sent() {
    let (ours, theirs) = tokio::io::duplex(64);
    let options = PeerOptions::new(Dialect::LSP);
    let (peer, mut driver) = Peer::new(support::lines(ours, ChannelConfig::default()), (), options);
    peer.notify("fills the line", ["x".repeat(1_000_000)]).await.unwrap();
    {
        let mut call = pin!(peer.call::<()>("given up", ()));
        assert!(poll_once(call.as_mut()).await.is_none());
        assert!(poll_once(pin!(&mut driver)).await.is_none());
    }
    tokio::spawn(driver);
    peer.notify("after it", ()).await.unwrap();
    let (_keep, mut receiver) = support::lines(theirs, ChannelConfig::default()).split();
    for method in ["fills the line", "after it"] {
        assert_eq!(support::message(&mut receiver).await["method"], method);
    }
}

#[tokio::test]
async fn notification_dropped_while_waiting_for_room_is_not_sent() {
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), narrow());
    peer.notify("first", ()).await.unwrap();
    {
        let mut waiting = pin!(peer.notify("given up", ()));
        assert!(poll_once(waiting.as_mut()).await.is_none());
    }
    tokio::spawn(driver);
    within(peer.notify("second", ())).await.unwrap();
    let (_keep, mut receiver) = theirs.split();
    for method in ["first", "second"] {
        assert_eq!(support::message(&mut receiver).await["method"], method);
    }
}

/// Each call is dropped after a different number of polls: while it waits for room, is queued, is in
/// transit, or is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_dropped_at_any_moment_leave_the_queue_with_all_its_room() {
    let options = PeerOptions { queue: ByteSize::kib(128), ..PeerOptions::new(Dialect::MCP) };
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), options);
    tokio::spawn(driver);
    let echo = Router::new().request("echo", |[n]: [u32; 1], _| async move {
        tokio::task::yield_now().await;
        Ok(n)
    });
    let (_their_peer, their_driver) = Peer::new(theirs, echo, options);
    tokio::spawn(their_driver);
    let mut calls = Vec::new();
    for n in 0..5000_u32 {
        let peer = peer.clone();
        calls.push(tokio::spawn(async move {
            let mut call = pin!(peer.call::<u32>("echo", [n]));
            for _ in 0..n % 40 {
                if let Some(answer) = poll_once(call.as_mut()).await {
                    return assert_eq!(answer.unwrap(), n);
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for call in calls {
        within(call).await.unwrap();
    }
    assert_eq!(within(peer.call::<u32>("echo", [7])).await.unwrap(), 7);
    assert_eq!(peer.unclaimed_answers().unasked, 0);
    within(peer.close()).await;
}

#[tokio::test]
async fn running_handlers_are_dropped_with_the_line() {
    let (held, mut released) = tokio::sync::mpsc::channel::<()>(1);
    let router = Router::new().request("hang", move |(): (), _| {
        let held = held.clone();
        async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(())
        }
    });
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, router, PeerOptions::default());
    let driver = tokio::spawn(driver);
    let (mut sender, mut receiver) = theirs.split();
    for id in 0..3 {
        let hang = json!({ "jsonrpc": "2.0", "id": id, "method": "hang" });
        sender.send(hang.to_string()).await.unwrap();
    }
    // The response to a fourth request shows that the three are running.
    sender.send(r#"{"jsonrpc":"2.0","id":9,"method":"other"}"#).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["id"], 9);
    driver.abort();
    assert!(within(driver).await.unwrap_err().is_cancelled());
    assert_eq!(within(released.recv()).await, None, "the handlers and the router were dropped");
    assert!(peer.notify("m", ()).await.is_err());
}

#[tokio::test]
async fn immediate_answer_needs_no_task() {
    let router = Router::new().raw_request("now", |request, _| {
        Answer::Now(Ok(bytes::Bytes::copy_from_slice(request.params().unwrap_or(b"null"))))
    });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    for n in 0..1000 {
        let ask = json!({ "jsonrpc": "2.0", "id": n, "method": "now", "params": [n] });
        raw.sender.feed(ask.to_string()).await.unwrap();
    }
    raw.sender.flush().await.unwrap();
    for n in 0..1000 {
        let answer = raw.recv().await;
        assert_eq!((&answer["id"], &answer["result"]), (&json!(n), &json!([n])));
    }
}
