//! The fate of calls that are answered, abandoned or lost, and of many calls at once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{peer_and_raw, poll_once, two_peers, with_options, within};
use tieline_proto::ByteSize;
use tieline_rpc::{CallError, Dialect, NotSent, Peer, PeerOptions, Router};
use tieline_transport::{Incoming, ReceiverExt, SenderExt};

fn answer(id: &Value, result: Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()
}

#[tokio::test]
async fn call_returns_its_result_or_error() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    let calls = tokio::spawn(async move {
        let right: String = peer.call("right", json!({ "a": 1 })).await.unwrap();
        let wrong = peer.call::<Value>("wrong", ()).await.unwrap_err();
        let other = peer.call::<u32>("other", [1]).await.unwrap_err();
        (right, wrong, other)
    });
    let question = raw.recv().await;
    assert_eq!(
        question,
        json!({ "jsonrpc": "2.0", "id": 1, "method": "right", "params": { "a": 1 } })
    );
    raw.send(&answer(&question["id"], json!("yes"))).await;
    let question = raw.recv_text().await;
    assert_eq!(question, r#"{"jsonrpc":"2.0","id":2,"method":"wrong"}"#);
    raw.send(r#"{"jsonrpc":"2.0","id":2,"error":{"code":-5,"message":"no","data":[1]}}"#).await;
    let question = raw.recv().await;
    raw.send(&answer(&question["id"], json!("not a number"))).await;
    let (right, wrong, other) = within(calls).await.unwrap();
    assert_eq!(right, "yes");
    let CallError::Remote(error) = wrong else { panic!("{wrong:?}") };
    assert_eq!((error.code, &*error.message, error.data.unwrap().get()), (-5, "no", "[1]"));
    assert!(matches!(other, CallError::BadAnswer(_)), "{other:?}");
}

#[tokio::test]
async fn null_result_is_a_result() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    let call = tokio::spawn(async move { peer.call::<Option<u32>>("m", ()).await });
    let question = raw.recv().await;
    raw.send(&answer(&question["id"], Value::Null)).await;
    assert_eq!(within(call).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn responses_to_no_call_are_dropped_and_the_line_continues() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    for stray in ["99", "\"1\"", "null", "-1", "1.0", "01e0"] {
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":{stray},"result":0}}"#)).await;
    }
    let caller = peer.clone();
    let call = tokio::spawn(async move { caller.call::<u32>("m", ()).await });
    // "01e0" is not JSON. A side that only makes calls does not answer that either.
    let question = raw.recv().await;
    raw.send(&answer(&question["id"], json!(1))).await;
    raw.send(&answer(&question["id"], json!(2))).await;
    assert_eq!(within(call).await.unwrap().unwrap(), 1);
    let unclaimed = peer.unclaimed_answers();
    assert_eq!((unclaimed.unasked, unclaimed.unreadable), (5, 1));
}

#[tokio::test]
async fn invalid_response_fails_its_call_at_once() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    for bad in [r#""result":1,"error":{}"#, r#""error":"no""#, r#""error":{"code":"x"}"#] {
        let peer = peer.clone();
        let call = tokio::spawn(async move { peer.call::<u32>("m", ()).await });
        let id = raw.recv().await["id"].clone();
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},{bad}}}"#)).await;
        let error = within(call).await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::InvalidResponse { .. }), "{bad}: {error:?}");
    }
}

#[tokio::test]
async fn params_that_are_not_an_object_or_array_are_not_sent() {
    let (peer, _driver, _raw) = peer_and_raw(());
    let error = peer.call::<()>("m", 5).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Params(_))), "{error:?}");
    let error = peer.notify("m", "text").await.unwrap_err();
    assert!(matches!(error, NotSent::Params(_)), "{error:?}");
}

#[tokio::test]
async fn oversize_message_is_not_sent_and_the_line_continues() {
    let (ours, theirs) = tokio::io::duplex(65536);
    let config =
        tieline_transport::ChannelConfig { max_message: ByteSize::new(500), ..Default::default() };
    let (peer, driver) = Peer::new(support::lines(ours, config), (), PeerOptions::default());
    tokio::spawn(driver);
    let (_keep, mut receiver) = tieline_transport::Channel::split(support::lines(theirs, config));
    let error = within(peer.call::<()>("m", ["x".repeat(1000)])).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Message(_))), "{error:?}");
    // Nothing is sent in place of a notification either, no matter what it contains.
    let deep = [vec![b'['; 1000], vec![b']'; 1000]].concat();
    peer.notify_raw("m", Some(&deep)).await.unwrap();
    peer.notify("after", ()).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["method"], "after");
}

#[tokio::test]
async fn call_dropped_before_it_is_sent_is_never_sent() {
    let (ours, theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), PeerOptions::new(Dialect::LSP));
    {
        let mut call = pin!(peer.call::<()>("given up", ()));
        assert!(poll_once(call.as_mut()).await.is_none());
    }
    peer.notify("after", ()).await.unwrap();
    tokio::spawn(driver);
    let (_keep, mut receiver) = tieline_transport::Channel::split(theirs);
    assert_eq!(support::message(&mut receiver).await["method"], "after");
}

#[tokio::test]
async fn call_dropped_after_it_is_sent_is_cancelled_as_the_dialect_defines() {
    for (dialect, cancel) in [
        (
            Dialect::LSP,
            Some(json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": 1 } })),
        ),
        (
            Dialect::MCP,
            Some(
                json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }),
            ),
        ),
        (
            Dialect::ACP,
            Some(
                json!({ "jsonrpc": "2.0", "method": "$/cancel_request", "params": { "requestId": 1 } }),
            ),
        ),
        (Dialect::STRICT, None),
        (Dialect::XI, None),
    ] {
        let (peer, _driver, mut raw) = with_options((), PeerOptions::new(dialect));
        let caller = peer.clone();
        let call = tokio::spawn(async move { caller.call::<()>("slow", ()).await });
        assert_eq!(raw.recv().await["method"], "slow");
        call.abort();
        let _ = within(call).await;
        peer.notify("after", ()).await.unwrap();
        if let Some(cancel) = cancel {
            assert_eq!(raw.recv().await, cancel);
        }
        assert_eq!(raw.recv().await["method"], "after", "{}", dialect.name);
        // A late response is harmless.
        raw.send(&answer(&json!(1), json!(0))).await;
        let call = tokio::spawn(async move { peer.call::<u32>("next", ()).await });
        let question = raw.recv().await;
        assert_ne!(question["id"], 1, "ids are never reused");
        raw.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": 3 }).to_string()).await;
        assert_eq!(within(call).await.unwrap().unwrap(), 3);
    }
}

#[tokio::test]
async fn at_the_end_of_the_line_sent_calls_are_unknown_and_later_ones_not_sent() {
    let (peer, driver, mut raw) = peer_and_raw(());
    let caller = peer.clone();
    let call = tokio::spawn(async move { caller.call::<()>("m", ()).await });
    raw.recv().await;
    drop(raw);
    let error = within(call).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Unknown(_)), "{error:?}");
    within(driver).await.unwrap();
    let error = within(peer.call::<()>("m", ())).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
    assert!(within(peer.notify("m", ())).await.is_err());
}

#[tokio::test]
async fn queued_call_is_not_sent_when_the_driver_is_dropped() {
    let (ours, _theirs) = tieline_transport::memory_pair();
    let (peer, driver) = Peer::new(ours, (), PeerOptions::default());
    let mut call = pin!(peer.call::<()>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    drop(driver);
    let error = within(call).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Closed(_))), "{error:?}");
}

#[tokio::test]
async fn ten_thousand_concurrent_calls_get_their_own_responses() {
    const CALLS: u64 = 10_000;
    let (peer, _driver, mut raw) = peer_and_raw(());
    let calls: Vec<_> = (0..CALLS)
        .map(|n| {
            let peer = peer.clone();
            tokio::spawn(async move { peer.call::<u64>("double", [n]).await })
        })
        .collect();
    let mut questions = Vec::new();
    for _ in 0..CALLS {
        questions.push(raw.recv().await);
    }
    // A fixed shuffle: 7,919 has no factor in common with 10,000.
    for n in 0..CALLS {
        let question = &questions[(n * 7919 % CALLS) as usize];
        let double = question["params"][0].as_u64().unwrap() * 2;
        raw.sender.feed(answer(&question["id"], json!(double))).await.unwrap();
    }
    raw.sender.flush().await.unwrap();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(within(call).await.unwrap().unwrap(), n as u64 * 2);
    }
}

#[tokio::test]
async fn handler_can_call_its_caller() {
    let countdown = || {
        Router::new().request("countdown", |[n]: [u32; 1], peer: Peer| async move {
            match n {
                0 => Ok(vec![0]),
                _ => {
                    let mut rest: Vec<u32> = peer.call("countdown", [n - 1]).await.unwrap();
                    rest.insert(0, n);
                    Ok(rest)
                }
            }
        })
    };
    let (one, _other) = two_peers(countdown(), countdown());
    let counted: Vec<u32> = within(one.call("countdown", [20])).await.unwrap();
    assert_eq!(counted, (0..=20).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn two_sides_flooding_each_other_do_not_deadlock() {
    let echo = || Router::new().request("echo", |text: [String; 1], _| async move { Ok(text) });
    let (one, other) = two_peers(echo(), echo());
    let flood = |peer: Peer| async move {
        let text = "x".repeat(10_000);
        let calls: Vec<_> = (0..500)
            .map(|_| {
                let (peer, text) = (peer.clone(), text.clone());
                tokio::spawn(async move { peer.call::<[String; 1]>("echo", [text]).await })
            })
            .collect();
        let mut answered = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok([text]) => answered += usize::from(text.len() == 10_000),
                // A refusal because of too many requests is a response, too.
                Err(CallError::Remote(error)) if error.code == -32000 => answered += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        answered
    };
    assert_eq!(within(async { tokio::join!(flood(one), flood(other)) }).await, (500, 500));
}

#[tokio::test]
async fn close_waits_for_work_in_progress_and_accepts_nothing_new() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let router = Router::new().request("wait", move |(): (), _| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Ok("done")
        }
    });
    let (peer, driver, mut raw) = peer_and_raw(router);
    raw.send(r#"{"jsonrpc":"2.0","id":"theirs","method":"wait"}"#).await;
    let caller = peer.clone();
    let call = tokio::spawn(async move { caller.call::<u32>("ours", ()).await });
    let question = raw.recv().await;
    let closer = peer.clone();
    let closing = tokio::spawn(async move { closer.close().await });
    let refused = loop {
        match peer.notify("new", ()).await {
            Err(refused) => break refused,
            Ok(()) => tokio::task::yield_now().await,
        }
    };
    assert!(matches!(refused, NotSent::Closing), "{refused:?}");
    go.send_replace(true);
    let mut answered = raw.recv().await;
    while answered["method"] == "new" {
        answered = raw.recv().await;
    }
    assert_eq!(answered["result"], "done");
    raw.send(&answer(&question["id"], json!(5))).await;
    assert_eq!(within(call).await.unwrap().unwrap(), 5);
    raw.recv_end().await;
    drop(raw);
    within(closing).await.unwrap();
    within(driver).await.unwrap();
}

#[tokio::test]
async fn requests_before_the_end_of_input_are_answered() {
    let router = Router::new().request("wait", |(): (), _| async move {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        Ok("done")
    });
    let (_peer, driver, mut raw) = peer_and_raw(router);
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"wait"}"#).await;
    raw.sender.close().await.unwrap();
    assert_eq!(raw.recv().await["result"], "done");
    raw.recv_end().await;
    assert!(within(driver).await.unwrap().is_clean());
}

/// The handler sends more notifications than fit into the queue.
#[tokio::test]
async fn notifications_are_sent_after_the_end_of_input_until_the_last_response() {
    const MANY: u64 = 1000;
    let router = Router::new().request("count", |(): (), peer: Peer| async move {
        // The end of input fails this call.
        let asked = peer.call::<Value>("ask", ()).await.unwrap_err();
        assert!(matches!(asked, CallError::Unknown(_)), "{asked:?}");
        let asked = peer.call::<Value>("ask", ()).await.unwrap_err();
        assert!(matches!(asked, CallError::NotSent(NotSent::Closing)), "{asked:?}");
        for n in 1..=MANY {
            peer.notify("count", [n]).await.unwrap();
        }
        Ok("counted")
    });
    let options = PeerOptions { queue: ByteSize::new(64), ..PeerOptions::default() };
    let (peer, driver, mut raw) = with_options(router, options);
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"count"}"#).await;
    assert_eq!(raw.recv().await["method"], "ask");
    raw.sender.close().await.unwrap();
    for n in 1..=MANY {
        assert_eq!(raw.recv().await["params"], json!([n]));
    }
    assert_eq!(raw.recv().await["result"], "counted");
    raw.recv_end().await;
    assert!(within(driver).await.unwrap().is_clean());
    assert!(peer.notify("more", ()).await.is_err());
}

/// Endless notifications do not hold the line open, even while the other side does not read.
#[tokio::test(start_paused = true)]
async fn notifications_are_refused_after_the_last_response() {
    let options = PeerOptions { queue: ByteSize::new(64), ..PeerOptions::default() };
    let (peer, driver, mut raw) = with_options((), options);
    let sending = tokio::spawn(async move {
        loop {
            if let Err(refused) = peer.notify("tick", ()).await {
                return refused;
            }
        }
    });
    // In paused time the clock moves only when no task can run, so the sender waits for room after this.
    tokio::time::sleep(Duration::from_millis(1)).await;
    raw.sender.close().await.unwrap();
    let refused = within(sending).await.unwrap();
    assert!(matches!(refused, NotSent::Closing), "{refused:?}");
    within(async { while let Incoming::Message(_) = raw.receiver.recv().await {} }).await;
    assert!(within(driver).await.unwrap().is_clean());
}

#[tokio::test]
async fn other_side_can_cancel_requests_as_the_dialect_defines() {
    for (dialect, cancel, code) in [
        (
            Dialect::LSP,
            r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"a"}}"#,
            Some(-32800),
        ),
        (
            Dialect::ACP,
            r#"{"jsonrpc":"2.0","method":"$/cancel_request","params":{"requestId":"a"}}"#,
            Some(-32800),
        ),
        (
            Dialect::MCP,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"reason":"x","requestId":"a"}}"#,
            None,
        ),
    ] {
        for max_in_flight in [1, 0] {
            // With a limit of 0 in flight, the request is still waiting when it is cancelled.
            let (dropped, mut is_dropped) = tokio::sync::mpsc::unbounded_channel::<()>();
            let router = Router::new().request("hang", move |(): (), _| {
                let held = dropped.clone();
                async move {
                    std::future::pending::<()>().await;
                    drop(held);
                    Ok(())
                }
            });
            let options = PeerOptions { max_in_flight, ..PeerOptions::new(dialect) };
            let (peer, driver, mut raw) = with_options(router, options);
            raw.send(r#"{"jsonrpc":"2.0","id":"a","method":"hang"}"#).await;
            raw.send(cancel).await;
            if let Some(code) = code {
                let answer = raw.recv().await;
                assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("a"), &json!(code)));
            }
            peer.notify("after", ()).await.unwrap();
            assert_eq!(raw.recv().await["method"], "after", "{}", dialect.name);
            drop(raw);
            within(driver).await.unwrap();
            assert_eq!(within(is_dropped.recv()).await, None, "the handler was dropped");
        }
    }
}

#[tokio::test]
async fn cancelling_an_unknown_request_is_ignored() {
    for dialect in [Dialect::LSP, Dialect::MCP, Dialect::ACP] {
        let (method, member) =
            dialect.cancel.map(|cancel| (cancel.method, cancel.id)).unwrap_or_default();
        let router = Router::new().request("echo", |n: [u32; 1], _| async move { Ok(n) });
        let (_peer, _driver, mut raw) = with_options(router, PeerOptions::new(dialect));
        let echo = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[5]}"#;
        raw.send(echo).await;
        assert_eq!(raw.recv().await["result"], json!([5]));
        // These are an answered id, an unknown one, an invalid one, and none at all.
        for params in
            [json!({ member: 1 }), json!({ member: "x" }), json!({ member: [] }), json!([])]
        {
            let cancel = json!({ "jsonrpc": "2.0", "method": method, "params": params });
            raw.send(&cancel.to_string()).await;
        }
        raw.send(&json!({ "jsonrpc": "2.0", "method": method }).to_string()).await;
        raw.send(echo).await;
        assert_eq!(raw.recv().await["result"], json!([5]), "{}", dialect.name);
    }
}

#[tokio::test]
async fn cancellation_affects_only_the_named_request() {
    let router = Router::new().request("hang", |(): (), _| std::future::pending::<Result<(), _>>());
    let (_peer, _driver, mut raw) = with_options(router, PeerOptions::new(Dialect::LSP));
    for id in ["1", "\"1\"", "1.0", "2"] {
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"hang"}}"#)).await;
    }
    for id in ["1.0", "2", "\"1\"", "1"] {
        let params = format!(r#"{{"id":{id}}}"#);
        raw.send(&format!(r#"{{"jsonrpc":"2.0","method":"$/cancelRequest","params":{params}}}"#))
            .await;
        let answer = raw.recv_text().await;
        assert!(answer.contains(&format!(r#""id":{id},"error":{{"code":-32800,"#)), "{answer}");
    }
}
