//! Batches: what each member costs, what is answered, and what is not.

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
    let (said, heard) = mpsc::unbounded_channel();
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
            let said = said.clone();
            async move { said.send(params).unwrap() }
        });
    (router, heard)
}

/// One of each kind; each costs itself, and what answers something is not answered.
#[tokio::test]
async fn a_batch_of_everything_is_answered_for_what_asks_and_for_what_is_invalid() {
    let (router, mut heard) = methods();
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
        assert_eq!(raw.hear().await["id"], id);
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
    raw.say(&format!("[{}]", batch.join(","))).await;
    let answers = raw.hear().await;
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
    // What has no method may be an answer to one of the calls, and is not answered.
    expected.sort_unstable();
    assert_eq!(shown, expected);
    assert_eq!(within(right).await.unwrap(), 11);
    let error = within(wrong).await.unwrap_err();
    assert!(matches!(&error, CallError::Remote(error) if error.code == 22), "{error:?}");
    let error = within(broken).await.unwrap_err();
    assert!(matches!(error, CallError::InvalidResponse { .. }), "{error:?}");
    assert_eq!(within(heard.recv()).await, Some(json!(["first"])));
    assert_eq!(within(heard.recv()).await, Some(json!(["last"])));
    assert_eq!(peer.unclaimed_answers().unasked, 1);
}

#[tokio::test]
async fn a_batch_of_answers_and_notifications_gets_no_answer() {
    let (router, mut heard) = methods();
    let (peer, _driver, mut raw) = with_options(router, PeerOptions::default());
    raw.say(
        r#"[{"jsonrpc":"2.0","id":7,"result":0},{"jsonrpc":"2.0","id":8,"result":0,"error":{}},
            {"jsonrpc":"2.0","method":"say","params":[]}]"#,
    )
    .await;
    assert_eq!(within(heard.recv()).await, Some(json!([])));
    peer.notify("after", ()).await.unwrap();
    assert_eq!(raw.hear().await["method"], "after");
}

/// Its limits are the whole message's: nobody can tell where the member ends.
#[tokio::test]
async fn a_member_beyond_the_limits_costs_its_batch_one_error() {
    let (router, _heard) = methods();
    let (_peer, _driver, mut raw) = with_options(router, PeerOptions::default());
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    raw.say(&format!(
        r#"[{{"jsonrpc":"2.0","id":1,"method":"echo"}},{{"jsonrpc":"2.0","id":2,"method":"echo","params":{deep}}}]"#
    ))
    .await;
    let answer = raw.hear().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32600)));
    raw.say(r#"[{"jsonrpc":"2.0","id":3,"method":"echo","params":[3]}]"#).await;
    assert_eq!(raw.hear().await, json!([{ "jsonrpc": "2.0", "id": 3, "result": [3] }]));
}

#[tokio::test]
async fn a_batch_is_refused_where_the_dialect_has_none() {
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}"#;
    for dialect in Dialect::ALL {
        let (router, _heard) = methods();
        let (_peer, _driver, mut raw) = with_options(router, PeerOptions::new(dialect));
        raw.say(&format!("[{request}]")).await;
        let answer = raw.hear().await;
        match ["strict", "mcp-2025-03-26"].contains(&dialect.name) {
            true => assert_eq!(answer[0]["result"], json!([1]), "{}", dialect.name),
            false => {
                assert_eq!(answer["error"]["code"], -32600, "{}", dialect.name);
                assert_eq!(answer["id"], Value::Null, "{}", dialect.name);
            }
        }
        raw.say(request).await;
        assert_eq!(raw.hear().await["result"], json!([1]), "{}", dialect.name);
    }
}

/// In this dialect a cancelled request has no answer.
#[tokio::test]
async fn a_batch_is_answered_when_the_last_of_it_is_cancelled() {
    let (router, _heard) = methods();
    let (peer, _driver, mut raw) = with_options(router, PeerOptions::new(Dialect::MCP_2025_03_26));
    let hang = r#"{"jsonrpc":"2.0","id":"h","method":"hang"}"#;
    let cancel =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"h"}}"#;
    let echo = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}"#;
    raw.say(&format!("[{hang},{echo}]")).await;
    raw.say(cancel).await;
    assert_eq!(raw.hear().await, json!([{ "jsonrpc": "2.0", "id": 1, "result": [1] }]));
    raw.say(&format!("[{hang}]")).await;
    raw.say(cancel).await;
    peer.notify("after", ()).await.unwrap();
    assert_eq!(raw.hear().await["method"], "after", "a batch without answers has none");
}

#[tokio::test]
async fn answers_that_the_line_does_not_carry_are_errors_in_a_batch_too() {
    let id = "i".repeat(300);
    for (batch, expected) in [
        (vec![("1", "long"), ("2", "echo")], vec![json!(1), json!(2)]),
        (vec![("3", "keys"), ("4", "keys")], vec![json!(3), json!(4)]),
        // Where not even the errors can be told, one says so, to nobody by name.
        (vec![(&*id, "long"), (&*id, "long"), ("6", "long")], vec![Value::Null]),
        (vec![("5", "deep")], vec![Value::Null]),
    ] {
        let (router, _heard) = methods();
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
async fn an_answer_of_any_structure_that_the_line_does_not_carry_is_an_error() {
    for method in ["long", "keys", "deep"] {
        let (router, _heard) = methods();
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
