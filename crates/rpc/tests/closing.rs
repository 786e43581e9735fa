//! Closing is immediate if nothing is in progress, and otherwise takes at most the grace period.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::json;
use support::{peer_and_raw, poll_once, with_options, within};
use tieline_proto::FramingKind;
use tieline_rpc::{CallError, Peer, PeerOptions, Router};
use tieline_transport::{
    Channel, CloseReason, Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt,
    memory_pair,
};

fn hanging() -> Router {
    Router::new().request("hang", |(): (), _| async move {
        std::future::pending::<()>().await;
        Ok(())
    })
}

/// Receives until the other side has ended its direction, and drops the channel.
async fn until_the_end(channel: impl Channel) {
    let (_sender, mut receiver) = channel.split();
    while !matches!(receiver.recv().await, Incoming::End(_)) {}
}

/// The many runs detect a wakeup that is lost only once in tens of thousands of runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn close_always_completes_despite_races() {
    for _ in 0..20_000 {
        let (ours, theirs) = memory_pair();
        let (peer, driver) = Peer::new(ours, (), PeerOptions::default());
        let driver = tokio::spawn(driver);
        tokio::spawn(until_the_end(theirs));
        peer.notify("last message", ()).await.unwrap();
        within(peer.close()).await;
        within(driver).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_handler_delays_close_by_the_grace_period_at_most() {
    for input_ends_first in [false, true] {
        let (peer, driver, mut raw) = peer_and_raw(hanging());
        raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"hang"}"#).await;
        raw.send("[]").await;
        raw.recv().await;
        if input_ends_first {
            raw.sender.close().await.unwrap();
        }
        let begun = tokio::time::Instant::now();
        within(peer.close()).await;
        within(driver).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 10, "in virtual time");
    }
}

#[tokio::test(start_paused = true)]
async fn close_completes_when_the_call_it_waits_for_is_abandoned() {
    let options = PeerOptions {
        call_timeout: Some(Duration::from_secs(3)),
        grace: Duration::from_secs(1000),
        ..PeerOptions::default()
    };
    let (peer, driver, mut raw) = with_options((), options);
    let caller = peer.clone();
    let call = tokio::spawn(async move { caller.call::<()>("never answered", ()).await });
    raw.recv().await;
    tokio::spawn(async move { raw.recv_end().await });
    within(peer.close()).await;
    within(driver).await.unwrap();
    assert!(matches!(within(call).await.unwrap(), Err(CallError::TimedOut(_))));
}

/// Earlier requests are still carried out; another test covers that.
#[tokio::test]
async fn requests_during_a_close_are_refused() {
    let (peer, driver, mut raw) = peer_and_raw(hanging());
    let mut waiting = pin!(peer.call::<u32>("keeps the line open", ()));
    assert!(poll_once(waiting.as_mut()).await.is_none());
    assert_eq!(raw.recv().await["id"], 1);
    assert!(poll_once(pin!(peer.close())).await.is_none());
    raw.send(r#"{"jsonrpc":"2.0","id":"new","method":"hang"}"#).await;
    let refused = raw.recv().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("new"), &json!(-32000)));
    raw.send(r#"{"jsonrpc":"2.0","id":1,"result":5}"#).await;
    assert_eq!(within(waiting).await.unwrap(), 5);
    raw.recv_end().await;
    drop(raw);
    within(driver).await.unwrap();
}

#[tokio::test]
async fn close_continues_when_its_future_is_dropped() {
    let (peer, driver, mut raw) = peer_and_raw(());
    assert!(poll_once(pin!(peer.close())).await.is_none());
    assert!(poll_once(pin!(peer.closed())).await.is_none());
    raw.recv_end().await;
    drop(raw);
    within(driver).await.unwrap();
    within(peer.closed()).await;
}

#[tokio::test(start_paused = true)]
async fn unhandled_notifications_end_the_line_with_overrun() {
    let router =
        Router::new().notification("n", |_: serde_json::Value, _| std::future::pending::<()>());
    let (_peer, driver, raw) = peer_and_raw(router);
    let mut sender = raw.sender;
    let flood = tokio::spawn(async move {
        while sender.send(r#"{"jsonrpc":"2.0","method":"n","params":[]}"#).await.is_ok() {}
    });
    let reason = driver.await.unwrap();
    assert!(matches!(reason, CloseReason::Overrun), "{reason:?}");
    drop(raw.receiver);
    within(flood).await.unwrap();
}

#[tokio::test]
async fn notification_handlers_that_make_calls_get_their_responses() {
    let router = Router::new().notification("n", |[n]: [u32; 1], peer: Peer| async move {
        assert_eq!(peer.call::<u32>("back", [n]).await.unwrap(), n);
    });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    for n in 0..1000 {
        let notification = json!({ "jsonrpc": "2.0", "method": "n", "params": [n] });
        raw.sender.feed(notification.to_string()).await.unwrap();
    }
    raw.sender.flush().await.unwrap();
    for n in 0..1000 {
        let question = raw.recv().await;
        assert_eq!(question["params"], json!([n]));
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": n });
        raw.send(&answer.to_string()).await;
    }
}

async fn ask(raw: &mut support::Raw) {
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"here"}"#).await;
    assert_eq!(raw.recv().await["id"], 1);
}

/// The other side keeps its direction open throughout.
#[tokio::test(start_paused = true)]
async fn close_waits_for_the_other_side_only_after_possibly_unread_messages() {
    #[derive(Debug)]
    enum Last {
        Call,
        NotificationBeforeCall,
        Notification,
        Answer,
        AnswerBeforeCall,
    }
    for (last, seconds) in [
        (Last::Call, 0),
        (Last::NotificationBeforeCall, 0),
        (Last::Notification, 10),
        (Last::Answer, 10),
        (Last::AnswerBeforeCall, 0),
    ] {
        let router = Router::new().request("here", |(): (), _| async move { Ok(()) });
        let (peer, driver, mut raw) = peer_and_raw(router);
        if matches!(last, Last::NotificationBeforeCall) {
            peer.notify("n", ()).await.unwrap();
            raw.recv().await;
        }
        let caller = peer.clone();
        let call = tokio::spawn(async move { caller.call::<u32>("m", ()).await });
        let id = raw.recv().await["id"].clone();
        if matches!(last, Last::AnswerBeforeCall) {
            ask(&mut raw).await;
        }
        raw.send(&json!({ "jsonrpc": "2.0", "id": id, "result": 5 }).to_string()).await;
        assert_eq!(within(call).await.unwrap().unwrap(), 5);
        if matches!(last, Last::Answer) {
            ask(&mut raw).await;
        }
        if matches!(last, Last::Notification) {
            peer.notify("n", ()).await.unwrap();
            raw.recv().await;
        }
        let begun = tokio::time::Instant::now();
        within(peer.close()).await;
        within(driver).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), seconds, "{last:?}, in virtual time");
        raw.recv_end().await;
    }
}

/// A client with another framing receives an error before it is disconnected.
#[tokio::test]
async fn peer_tells_a_client_with_another_framing_why_it_is_refused() {
    let registry = Registry::new();
    let endpoint: Endpoint = "mem:other".parse().unwrap();
    let lines = endpoint.clone().with_framing(FramingKind::Lines);
    let mut acceptor = registry.listen(&lines, &Options::default()).await.unwrap();
    for speaks in [FramingKind::ContentLength, FramingKind::LengthPrefix] {
        let endpoint = endpoint.clone().with_framing(speaks);
        let client = async { registry.connect(&endpoint, &Options::default()).await };
        let (client, server) = tokio::join!(client, acceptor.accept());
        let (_peer, driver) = Peer::new(server.unwrap(), hanging(), PeerOptions::default());
        let driver = tokio::spawn(driver);
        let (client, client_driver) = Peer::new(client.unwrap(), (), PeerOptions::default());
        let client_driver = tokio::spawn(client_driver);
        let error = within(client.call::<()>("hang", ())).await.unwrap_err();
        assert!(error.to_string().contains("the other side uses the framing lines"), "{error}");
        within(driver).await.unwrap();
        within(client_driver).await.unwrap();
    }
}
