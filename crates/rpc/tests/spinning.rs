//! A driver without work must sleep and not spin.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use serde_json::json;
use support::{poll_once, within};
use tieline_proto::ByteSize;
use tieline_rpc::{CallError, Dialect, Peer, PeerOptions, Router};
use tieline_transport::{Channel, CloseReason, Incoming, ReceiverExt, SenderExt, memory_pair};

/// Lets all tasks run until the driver is no longer polled.
async fn settled(polls: &AtomicUsize) {
    for _ in 0..1000 {
        let before = polls.load(Ordering::Relaxed);
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        if polls.load(Ordering::Relaxed) == before {
            return;
        }
    }
    panic!("the driver is spinning");
}

/// Requests are held back because the other side does not read, and then cancelled.
#[tokio::test]
async fn driver_sleeps_after_held_back_requests_are_cancelled() {
    let router = Router::new().request("long", |(): (), _| async move { Ok("x".repeat(100_000)) });
    let options = PeerOptions { queue: ByteSize::kib(64), ..PeerOptions::new(Dialect::MCP) };
    let (ours, theirs) = memory_pair();
    let (_peer, driver) = Peer::new(ours, router, options);
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let mut driver = Box::pin(driver);
    let driver = tokio::spawn(std::future::poll_fn(move |cx| {
        counted.fetch_add(1, Ordering::Relaxed);
        driver.as_mut().poll(cx)
    }));
    let (mut sender, mut receiver) = theirs.split();
    const ASKED: usize = 100;
    let requests = async {
        for id in 1..=ASKED {
            let request = json!({"jsonrpc": "2.0", "id": id, "method": "long"});
            sender.send(request.to_string()).await.unwrap();
        }
        settled(&polls).await;
        for id in 1..=ASKED {
            let params = json!({"requestId": id});
            let method = "notifications/cancelled";
            let cancel = json!({"jsonrpc": "2.0", "method": method, "params": params});
            sender.send(cancel.to_string()).await.unwrap();
        }
        settled(&polls).await;
    };
    within(requests).await;
    let reader = tokio::spawn(async move {
        let mut answers = 0;
        while let Incoming::Message(_) = receiver.recv().await {
            answers += 1;
        }
        answers
    });
    settled(&polls).await;
    within(sender.close()).await.unwrap();
    within(driver).await.unwrap();
    let answers = within(reader).await.unwrap();
    assert!((1..ASKED).contains(&answers), "none of {ASKED} requests was held back: {answers}");
}

type Later = Pin<Box<dyn Future<Output = Result<(), CallError>> + Send>>;

/// A waker that makes another call when it is woken, on the thread that wakes it.
struct CallsAgain(Mutex<Option<Later>>);

impl Wake for CallsAgain {
    fn wake(self: Arc<Self>) {
        let mut next = self.0.lock().unwrap();
        let polled =
            next.as_mut().map(|it| it.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        if polled.is_some_and(|polled| polled.is_ready()) {
            *next = None;
        }
    }
}

/// The other side has ended its direction and waits for the end of ours. No call may be queued in
/// between and then wait for a response that cannot arrive.
#[tokio::test]
async fn call_made_while_waking_callers_at_the_end_does_not_block_the_line() {
    let (ours, theirs) = memory_pair();
    let (peer, driver) = Peer::new(ours, (), PeerOptions::default());
    let (mut sender, mut receiver) = theirs.split();
    let driver = tokio::spawn(driver);
    let second = peer.clone();
    let later: Later = Box::pin(async move { second.call::<()>("second", ()).await });
    let again = Arc::new(CallsAgain(Mutex::new(Some(later))));
    let mut first = pin!(peer.call::<()>("first", ()));
    let waker = Waker::from(again.clone());
    assert!(matches!(first.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending));
    assert_eq!(support::message(&mut receiver).await["method"], "first");
    within(sender.close()).await.unwrap();
    assert!(matches!(within(driver).await.unwrap(), CloseReason::ByPeer));
    assert!(matches!(poll_once(first.as_mut()).await, Some(Err(CallError::Unknown(_)))));
}
