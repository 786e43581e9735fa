//! Batches: which members are answered, and how bad members affect the others.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;

use bytes::Bytes;
use serde_json::{Value, json};
use support::{poll_once, with_options, within};
use tieline_proto::ByteSize;
use tieline_rpc::{Answer, CallError, Dialect, Peer, PeerOptions, Router};
use tieline_transport::{Channel, ChannelConfig, SenderExt};
use tokio::sync::mpsc;

fn methods() -> (Router, mpsc::UnboundedReceiver<Value>) {
    let (log, logged) = mpsc::unbounded_channel();
    let router = Router::new()
        .request("echo", |params: Value, _| async move { Ok(params) })
        .request("long", |(): (), _| async move { Ok("x".repeat(2000)) })
        .request("hang", |(): (), _| std::future::pending::<Result<(), _>>())
        .request("panic", |(): (), _| async move {
            if true {
                panic!("as asked");
            }
            Ok(())
        })
        .raw_request("deep", |_, _| {
            let deep = [vec![b'['; 1000], vec![b']'; 1000]].concat();
            Answer::Now(Ok(Bytes::from(deep)))
        })
        .raw_request("keys", |_, _| {
            let keys: String = (0..100_001).map(|n| format!("\"{n}\":0,")).collect();
            Answer::Now(Ok(Bytes::from(format!("{{{keys}\"z\":0}}"))))
        })
        .notification("say", move |params: Value, _| {
            let log = log.clone();
            async move { log.send(params).unwrap() }
        });
    (router, logged)
}

/// The batch has one member of each kind. Each affects only itself, and responses are not answered.
#[tokio::test]
async fn mixed_batch_answers_requests_and_invalid_members_only() {
    let (router, mut logged) = methods();
    let (peer, _driver, mut raw) = with_options(router, PeerOptions::default());
    let mut right = pin!(peer.call::<u32>("right", ()));
    let mut wrong = pin!(peer.call::<u32>("wrong", ()));
    let mut broken = pin!(peer.call::<u32>("broken", ()));
    for _ in 0..3 {
        assert!(poll_once(right.as_mut()).await.is_none());
        assert!(poll_once(wrong.as_mut()).await.is_none());
        assert!(poll_once(broken.as_mut()).await.is_none());
    }
    for id in 1..=3 {
        assert_eq!(raw.recv().await["id"], id);
    }
    let batch = [
        r#"{"jsonrpc":"2.0","method":"say","params":["first"]}"#,
        r#"{"jsonrpc":"2.0","id":"a","method":"echo","params":[1]}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":11}"#,
        r#"{"jsonrpc":"2.0","id":2,"error":{"code":22,"message":"no"}}"#,
        r#"{"jsonrpc":"2.0","id":3,"result":1,"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":99,"result":0}"#,
        r#"{"jsonrpc":"2.0","id":1.50,"method":"missing"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"echo","params":[2]}"#,
        r#"{"jsonrpc":"2.0","id":"b","method":"panic"}"#,
        r#"{"jsonrpc":"2.0","id":"c","method":"echo","method":"echo"}"#,
        r#"{"jsonrpc":"2.0","id":[],"method":"echo"}"#,
        r#"{"id":"d","method":"echo"}"#,
        r#"[{"jsonrpc":"2.0","id":"e","method":"echo"}]"#,
        "[]",
        "1",
        "null",
        r#"{"jsonrpc":"2.0","method":"say","params":["last"]}"#,
    ];
    raw.send(&format!("[{}]", batch.join(","))).await;
    let answers = raw.recv().await;
    let mut shown: Vec<String> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|it| format!("{} {} {}", it["id"], it["result"], it["error"]["code"]))
        .collect();
    shown.sort();
    let mut expected = vec![
        r#""a" [1] null"#,
        "1.5 null -32601",
        "null [2] null",
        r#""b" null -32603"#,
        r#""c" null -32600"#,
        "null null -32600",
        r#""d" null -32600"#,
    ];
    // A member without a method may be the response to one of the calls, so it is not answered.
    expected.sort_unstable();
    assert_eq!(shown, expected);
    assert_eq!(within(right).await.unwrap(), 11);
    let error = within(wrong).await.unwrap_err();
    assert!(matches!(&error, CallError::Remote(error) if error.code == 22), "{error:?}");
    let error = within(broken).await.unwrap_err();
    assert!(matches!(error, CallError::InvalidResponse { .. }), "{error:?}");
    assert_eq!(within(logged.recv()).await, Some(json!(["first"])));
    assert_eq!(within(logged.recv()).await, Some(json!(["last"])));
    assert_eq!(peer.unclaimed_answers().unasked, 1);
}

#[tokio::test]
async fn batch_of_responses_and_notifications_gets_no_response() {
    let (router, mut logged) = methods();
    let (peer, _driver, mut raw) = with_options(router, PeerOptions::default());
    raw.send(
        r#"[{"jsonrpc":"2.0","id":7,"result":0},{"jsonrpc":"2.0","id":8,"result":0,"error":{}},
            {"jsonrpc":"2.0","method":"say","params":[]}]"#,
    )
    .await;
    assert_eq!(within(logged.recv()).await, Some(json!([])));
    peer.notify("after", ()).await.unwrap();
    assert_eq!(raw.recv().await["method"], "after");
}

/// The limits apply to the whole message, because the end of the member is unknown.
#[tokio::test]
async fn batch_with_a_member_beyond_the_limits_is_answered_with_one_error() {
    let (router, _logged) = methods();
    let (_peer, _driver, mut raw) = with_options(router, PeerOptions::default());
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    raw.send(&format!(
        r#"[{{"jsonrpc":"2.0","id":1,"method":"echo"}},{{"jsonrpc":"2.0","id":2,"method":"echo","params":{deep}}}]"#
    ))
    .await;
    let answer = raw.recv().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32600)));
    raw.send(r#"[{"jsonrpc":"2.0","id":3,"method":"echo","params":[3]}]"#).await;
    assert_eq!(raw.recv().await, json!([{ "jsonrpc": "2.0", "id": 3, "result": [3] }]));
}

#[tokio::test]
async fn batch_is_refused_in_dialects_without_batches() {
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}"#;
    for dialect in Dialect::ALL {
        let (router, _logged) = methods();
        let (_peer, _driver, mut raw) = with_options(router, PeerOptions::new(dialect));
        raw.send(&format!("[{request}]")).await;
        let answer = raw.recv().await;
        match ["strict", "mcp-2025-03-26"].contains(&dialect.name) {
            true => assert_eq!(answer[0]["result"], json!([1]), "{}", dialect.name),
            false => {
                assert_eq!(answer["error"]["code"], -32600, "{}", dialect.name);
                assert_eq!(answer["id"], Value::Null, "{}", dialect.name);
            }
        }
        raw.send(request).await;
        assert_eq!(raw.recv().await["result"], json!([1]), "{}", dialect.name);
    }
}

/// In this dialect a cancelled request gets no response.
#[tokio::test]
async fn batch_is_answered_when_its_last_request_is_cancelled() {
    let (router, _logged) = methods();
    let (peer, _driver, mut raw) = with_options(router, PeerOptions::new(Dialect::MCP_2025_03_26));
    let hang = r#"{"jsonrpc":"2.0","id":"h","method":"hang"}"#;
    let cancel =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"h"}}"#;
    let echo = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}"#;
    raw.send(&format!("[{hang},{echo}]")).await;
    raw.send(cancel).await;
    assert_eq!(raw.recv().await, json!([{ "jsonrpc": "2.0", "id": 1, "result": [1] }]));
    raw.send(&format!("[{hang}]")).await;
    raw.send(cancel).await;
    peer.notify("after", ()).await.unwrap();
    assert_eq!(raw.recv().await["method"], "after", "a batch without responses is not answered");
}

#[tokio::test]
async fn response_too_large_for_the_line_is_an_error_in_a_batch() {
    let id = "i".repeat(300);
    for (batch, expected) in [
        (vec![("1", "long"), ("2", "echo")], vec![json!(1), json!(2)]),
        (vec![("3", "keys"), ("4", "keys")], vec![json!(3), json!(4)]),
        // If even the errors are too large, there is one error without an id.
        (vec![(&*id, "long"), (&*id, "long"), ("6", "long")], vec![Value::Null]),
        (vec![("5", "deep")], vec![Value::Null]),
    ] {
        let (router, _logged) = methods();
        let (ours, theirs) = tokio::io::duplex(65536);
        let config = ChannelConfig { max_message: ByteSize::new(1000), ..Default::default() };
        let (_peer, driver) =
            Peer::new(support::lines(ours, config), router, PeerOptions::default());
        tokio::spawn(driver);
        let roomy = ChannelConfig::default();
        let (mut sender, mut receiver) = support::lines(theirs, roomy).split();
        let requests: Vec<_> = batch
            .iter()
            .map(|(id, method)| match id.len() {
                1 => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#),
                _ => format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}"}}"#),
            })
            .collect();
        let requests = format!("[{}]", requests.join(","));
        sender.send(requests).await.unwrap();
        let answer = support::message(&mut receiver).await;
        let answers = match answer {
            Value::Array(answers) => answers,
            one => vec![one],
        };
        let ids: Vec<_> = answers.iter().map(|it| it["id"].clone()).collect();
        assert_eq!(ids, expected, "{answers:?}");
        assert!(answers.iter().all(|it| it["error"]["code"] == -32603), "{answers:?}");
    }
}

#[tokio::test]
async fn response_of_any_structure_too_large_for_the_line_is_an_error() {
    for method in ["long", "keys", "deep"] {
        let (router, _logged) = methods();
        let (ours, theirs) = tokio::io::duplex(65536);
        let config = ChannelConfig { max_message: ByteSize::new(1000), ..Default::default() };
        let (_peer, driver) =
            Peer::new(support::lines(ours, config), router, PeerOptions::default());
        tokio::spawn(driver);
        let (mut sender, mut receiver) = support::lines(theirs, config).split();
        let ask = json!({ "jsonrpc": "2.0", "id": "x", "method": method });
        sender.send(ask.to_string()).await.unwrap();
        let answer = support::message(&mut receiver).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("x"), &json!(-32603)));
    }
}
