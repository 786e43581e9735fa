//! Responses without a waiting call are counted and dropped, and do no harm. Responses that arrive early
//! do no harm either.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::json;
use support::{Raw, peer_and_raw, poll_once, with_options, within};
use tieline_rpc::{CallError, Dialect, Peer, PeerOptions, UnclaimedAnswers};
use tieline_transport::{Channel, memory_pair};
use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber};

/// Returns the counts of late and unasked responses.
fn counts(peer: &Peer) -> (u64, u64) {
    let UnclaimedAnswers { late, unasked, .. } = peer.unclaimed_answers();
    (late, unasked)
}

fn result(id: impl std::fmt::Display, result: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// Waits until all earlier messages have been processed: an unknown method is answered in order.
async fn settled(raw: &mut Raw) {
    raw.send(r#"{"jsonrpc":"2.0","id":"settled","method":"settled"}"#).await;
    assert_eq!(raw.recv().await["error"]["code"], -32601);
}

/// A subscriber that collects the warnings of this crate.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Collects the warnings of the current thread until the guard is dropped.
    fn collect() -> (Self, DefaultGuard) {
        // While there is a single subscriber, tracing asks only the subscriber of the current thread
        // whether a call site is enabled. Another test, which has no subscriber, would disable it for
        // the whole process.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
        LazyLock::force(&SECOND);
        let warnings = Self::default();
        (warnings.clone(), tracing::subscriber::set_default(warnings))
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The message of an event.
struct Words(String);

impl tracing::field::Visit for Words {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("tieline_rpc") && *metadata.level() == tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut words = Words(String::new());
        event.record(&mut words);
        self.0.lock().unwrap().push(words.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn responses_with_unknown_ids_are_all_counted_and_logged_once() {
    let (warnings, _guard) = Warnings::collect();
    let (peer, _driver, mut raw) = peer_and_raw(());
    {
        let mut given_up = pin!(peer.call::<u32>("given up", ()));
        assert!(poll_once(given_up.as_mut()).await.is_none());
        assert_eq!(raw.recv().await["id"], 1);
    }
    raw.send(&result(1, 0)).await;
    settled(&mut raw).await;
    assert_eq!((counts(&peer), warnings.all().len()), ((1, 0), 0));
    let strange = ["2", "0", "99", "\"1\"", "null", "-1", "1.0", "18446744073709551616"];
    for (id, count) in strange.iter().zip(1..) {
        raw.send(&result(id, 0)).await;
        settled(&mut raw).await;
        assert_eq!(counts(&peer), (1, count), "{id}");
    }
    assert_eq!(warnings.all().len(), 1);
}

#[tokio::test]
async fn logged_response_is_escaped_and_truncated() {
    let (warnings, _guard) = Warnings::collect();
    let (_peer, _driver, mut raw) = peer_and_raw(());
    let words = format!("one\ntwo \u{1b}[31m{}", "x".repeat(1 << 20));
    let error = json!({ "code": -1, "message": words });
    raw.send(&json!({ "jsonrpc": "2.0", "id": 7, "error": error }).to_string()).await;
    settled(&mut raw).await;
    let warned = warnings.all().concat();
    assert!(warned.contains(r"one\ntwo \u{1b}[31mxxx") && warned.len() < 400, "{}", warned.len());
    assert!(!warned.contains(char::is_control), "{warned:?}");
}

#[tokio::test]
async fn late_response_to_a_cancelled_call_is_counted_and_dropped() {
    for dialect in Dialect::ALL {
        let (peer, _driver, mut raw) = with_options((), PeerOptions::new(dialect));
        {
            let mut call = pin!(peer.call::<u32>("given up", ()));
            assert!(poll_once(call.as_mut()).await.is_none());
            assert_eq!(raw.recv().await["method"], "given up");
        }
        if dialect.cancel.is_some() {
            raw.recv().await;
        }
        let call = peer.call::<u32>("next", ());
        let answering = async {
            let next = raw.recv().await["id"].clone();
            raw.send(&json!({ "jsonrpc": "2.0", "id": 1, "result": 1 }).to_string()).await;
            raw.send(&json!({ "jsonrpc": "2.0", "id": next, "result": 2 }).to_string()).await;
        };
        let (answer, ()) = within(async { tokio::join!(call, answering) }).await;
        assert_eq!((answer.unwrap(), counts(&peer)), (2, (1, 0)), "{}", dialect.name);
    }
}

#[tokio::test]
async fn only_the_first_response_to_a_call_is_delivered() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    let mut call = pin!(peer.call::<u32>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    assert_eq!(raw.recv().await["id"], 1);
    raw.send(&result(1, 1)).await;
    raw.send(&result(1, 2)).await;
    raw.send(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#).await;
    settled(&mut raw).await;
    assert_eq!(counts(&peer), (2, 0));
    assert_eq!(within(call).await.unwrap(), 1);
}

#[tokio::test]
async fn response_before_any_call_does_not_answer_the_call_that_gets_its_id() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    raw.send(&result(1, 1)).await;
    settled(&mut raw).await;
    let mut call = pin!(peer.call::<u32>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    assert_eq!(raw.recv().await["id"], 1);
    settled(&mut raw).await;
    assert!(poll_once(call.as_mut()).await.is_none());
    raw.send(&result(1, 2)).await;
    assert_eq!(within(call).await.unwrap(), 2);
    assert_eq!(counts(&peer), (0, 1));
}

/// The other side guesses the id of a call that is queued and not sent yet.
#[tokio::test]
async fn response_to_a_queued_call_ends_it_and_the_line_continues() {
    let (ours, theirs) = memory_pair();
    let (peer, driver) = Peer::new(ours, (), PeerOptions::default());
    let (sender, receiver) = theirs.split();
    let mut raw = Raw { sender, receiver };
    let mut call = pin!(peer.call::<u32>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    raw.send(&result(1, 1)).await;
    tokio::spawn(driver);
    assert_eq!(within(call).await.unwrap(), 1);
    let mut next = pin!(peer.call::<u32>("next", ()));
    assert!(poll_once(next.as_mut()).await.is_none());
    let mut asked = raw.recv().await;
    if asked["method"] == "m" {
        asked = raw.recv().await;
    }
    raw.send(&result(&asked["id"], 2)).await;
    assert_eq!(within(next).await.unwrap(), 2);
}

#[tokio::test]
async fn response_beyond_the_limits_fails_its_call_and_is_not_answered() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let keys: String = (0..100_001).map(|n| format!("\"{n}\":0,")).collect();
    for beyond in [
        format!(r#""result":{deep}"#),
        format!(r#""result":{{{keys}"z":0}}"#),
        format!(r#""error":{{"code":1,"message":"m","data":{deep}}}"#),
    ] {
        let (peer, _driver, mut raw) = peer_and_raw(());
        let mut call = pin!(peer.call::<serde_json::Value>("m", ()));
        assert!(poll_once(call.as_mut()).await.is_none());
        assert_eq!(raw.recv().await["id"], 1);
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":1,{beyond}}}"#)).await;
        let error = within(call).await.unwrap_err();
        assert!(matches!(error, CallError::InvalidResponse { .. }), "{error:?}");
        // Both sides count from 1: an error with this id would answer a call of the other side.
        peer.notify("after", ()).await.unwrap();
        assert_eq!(raw.recv().await["method"], "after");
    }
}
