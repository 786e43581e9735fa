//! Calls dropped, lines ended and answers given at every point in between.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;

use serde_json::json;
use support::{Raw, peer_and_raw, poll_once, with_options, within};
use tieline_proto::ByteSize;
use tieline_rpc::{Answer, CallError, Dialect, NotSent, Peer, PeerOptions, Router};
use tieline_transport::{Channel, SenderExt};

/// Room for one message at a time.
fn narrow() -> PeerOptions {
    PeerOptions { queue: ByteSize::kib(64), ..PeerOptions::new(Dialect::LSP) }
}

#[tokio::test]
async fn a_call_dropped_while_it_waits_for_room_takes_none() {
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
async fn a_call_dropped_in_the_queue_gives_its_room_to_the_next() {
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), narrow());
    {
        let mut queued = pin!(peer.call::<()>("given up", ()));
        assert!(poll_once(queued.as_mut()).await.is_none());
    }
    let mut next = pin!(peer.notify("next", ()));
    assert!(poll_once(next.as_mut()).await.is_some(), "there is room at once");
    tokio::spawn(driver);
    let (_keep, mut receiver) = theirs.split();
    assert_eq!(support::message(&mut receiver).await["method"], "next");
}

#[tokio::test]
async fn messages_leave_in_the_order_in_which_they_were_queued() {
    let (peer, _driver, mut raw) = with_options((), narrow());
    let sending = tokio::spawn(async move {
        for n in 0..200 {
            peer.notify("n", [n]).await.unwrap();
        }
    });
    for n in 0..200 {
        assert_eq!(raw.hear().await["params"], json!([n]));
    }
    within(sending).await.unwrap();
}

#[tokio::test]
async fn a_line_that_ends_at_any_point_of_a_call_ends_the_call() {
    // Before the call; when it is queued; when it was sent; in the middle of its answer.
    for point in 0..4 {
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
        raw.hear().await;
        if point == 3 {
            // Half an answer: the length, and less than it says.
            raw.sender.feed("x").await.unwrap();
            raw.sender.flush().await.unwrap();
        }
        drop(raw);
        let error = within(call).await.unwrap_err();
        assert!(matches!(error, CallError::Unknown(_)), "{error:?}");
        within(driver).await.unwrap();
    }
}

#[tokio::test]
async fn handlers_that_run_are_dropped_with_the_line() {
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
    // An answer to a fourth says that the three run.
    sender.send(r#"{"jsonrpc":"2.0","id":9,"method":"other"}"#).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["id"], 9);
    driver.abort();
    assert!(within(driver).await.unwrap_err().is_cancelled());
    assert_eq!(within(released.recv()).await, None, "the handlers are gone, and the router");
    assert!(peer.notify("m", ()).await.is_err());
}

#[tokio::test]
async fn an_answer_that_is_there_at_once_needs_no_task() {
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
        let answer = raw.hear().await;
        assert_eq!((&answer["id"], &answer["result"]), (&json!(n), &json!([n])));
    }
}
