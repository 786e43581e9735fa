//! How a peer answers valid and invalid messages.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bytes::Bytes;
use serde_json::{Value, json};
use support::{peer_and_raw, with_options, within};
use tieline_proto::ByteSize;
use tieline_proto::json::Limits;
use tieline_rpc::{Answer, ErrorObject, Peer, PeerOptions, Router};
use tieline_transport::{Channel, ChannelConfig, SenderExt};
use tokio::sync::mpsc;

/// The methods of the specification's examples.
fn examples() -> Router {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Subtract {
        ByPosition(i64, i64),
        ByName { minuend: i64, subtrahend: i64 },
    }
    Router::new()
        .request("subtract", |params: Subtract, _| async move {
            Ok(match params {
                Subtract::ByPosition(minuend, subtrahend)
                | Subtract::ByName { minuend, subtrahend } => minuend - subtrahend,
            })
        })
        .request("sum", |terms: Vec<i64>, _| async move { Ok(terms.iter().sum::<i64>()) })
        .request("get_data", |(): (), _| async move { Ok(("hello", 5)) })
        .request("panic", |(): (), _| async move {
            if true {
                panic!("as asked");
            }
            Ok(())
        })
        .request("later_panic", |(): (), _| async move {
            tokio::task::yield_now().await;
            if true {
                panic!("as asked");
            }
            Ok(())
        })
}

#[tokio::test]
async fn examples_from_the_specification_are_answered_as_specified() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    for (question, answer) in [
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
            json!({"jsonrpc": "2.0", "result": 19, "id": 1}),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
            json!({"jsonrpc": "2.0", "result": 19, "id": 3}),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
            json!({"jsonrpc": "2.0", "error": {"code": -32601, "message": "method not found: foobar"}, "id": "1"}),
        ),
    ] {
        raw.send(question).await;
        assert_eq!(raw.recv().await, answer, "{question}");
    }
    for (question, code) in [
        (r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#, -32700),
        (r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, -32600),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]"#,
            -32700,
        ),
        ("[]", -32600),
    ] {
        raw.send(question).await;
        let answer = raw.recv().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&Value::Null, &json!(code)),
            "{question}"
        );
    }
    raw.send("[1,2,3]").await;
    let answers = raw.recv().await;
    assert_eq!(answers.as_array().unwrap().len(), 3);
    assert!(answers.as_array().unwrap().iter().all(|it| it["error"]["code"] == -32600));
}

#[tokio::test]
async fn batch_gets_one_response_and_batch_of_notifications_none() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    raw.send(
        r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#,
    )
    .await;
    raw.send(
        r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]"#,
    )
    .await;
    let answers = raw.recv().await;
    let answer = |id: Value| answers.as_array().unwrap().iter().find(|it| it["id"] == id).unwrap();
    assert_eq!(answers.as_array().unwrap().len(), 5);
    assert_eq!(answer(json!("1"))["result"], 7);
    assert_eq!(answer(json!("2"))["result"], 19);
    assert_eq!(answer(Value::Null)["error"]["code"], -32600);
    assert_eq!(answer(json!("5"))["error"]["code"], -32601);
    assert_eq!(answer(json!("9"))["result"], json!(["hello", 5]));
}

#[tokio::test]
async fn ids_are_returned_byte_for_byte() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    for id in
        ["9007199254740993", "1.50", "-0", "null", r#""a\u0062""#, "123456789012345678901234567890"]
    {
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"sum","params":[1]}}"#)).await;
        assert_eq!(raw.recv_text().await, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":1}}"#));
    }
}

#[tokio::test]
async fn exceeded_limit_or_duplicate_member_affects_only_that_message() {
    let limits = Limits { depth: 8, keys: 10 };
    let (_peer, _driver, mut raw) =
        with_options(examples(), PeerOptions { limits, ..Default::default() });
    for question in [
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"sum","params":{}{}}}"#,
            "[".repeat(9),
            "]".repeat(9)
        ),
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"sum","params":{{{}"z":1}}}}"#,
            r#""k":1,"#.repeat(10)
        ),
        r#"{"jsonrpc":"2.0","id":7,"method":"sum","method":"sum","params":[]}"#.into(),
        r#"{"jsonrpc":"2.0","id":7,"id":7,"method":"sum","params":[]}"#.into(),
    ] {
        raw.send(&question).await;
        let answer = raw.recv().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&json!(7), &json!(-32600)),
            "{question}"
        );
    }
    raw.send(r#"{"jsonrpc":"2.0","id":8,"method":"sum","params":[1,2]}"#).await;
    assert_eq!(raw.recv().await["result"], 3);
}

#[tokio::test]
async fn parameters_of_the_wrong_type_are_invalid_params() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":["x"]}"#).await;
    assert_eq!(raw.recv().await["error"]["code"], -32602);
    raw.send(r#"{"jsonrpc":"2.0","id":2,"method":"sum"}"#).await;
    assert_eq!(raw.recv().await["error"]["code"], -32602);
}

#[tokio::test]
async fn panicking_handler_affects_only_its_request() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    for method in ["panic", "later_panic"] {
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#)).await;
        assert_eq!(raw.recv().await["error"]["code"], -32603, "{method}");
    }
    raw.send(r#"{"jsonrpc":"2.0","id":2,"method":"sum","params":[2]}"#).await;
    assert_eq!(raw.recv().await["result"], 2);
}

#[tokio::test]
async fn panicking_notification_handler_does_not_affect_the_next() {
    let (log, mut logged) = mpsc::unbounded_channel();
    let router = Router::new()
        .notification("panic", |_: Value, _| async move { panic!("as asked") })
        .notification("say", move |text: Value, _| {
            let log = log.clone();
            async move { log.send(text).unwrap() }
        });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    raw.send(r#"{"jsonrpc":"2.0","method":"panic","params":[1]}"#).await;
    raw.send(r#"{"jsonrpc":"2.0","method":"say","params":["still here"]}"#).await;
    assert_eq!(within(logged.recv()).await, Some(json!(["still here"])));
}

#[tokio::test]
async fn response_too_large_for_the_line_is_replaced_by_an_error() {
    let router = Router::new()
        .request("long", |(): (), _| async move { Ok("x".repeat(2000)) })
        .raw_request("newline", |_, _| Answer::Now(Ok(Bytes::from_static(b"[\n]"))));
    let (ours, theirs) = tokio::io::duplex(65536);
    let channel = lines(ours, 1000);
    let (mut sender, mut receiver) = lines(theirs, 1000).split();
    let (_peer, driver) = Peer::new(channel, router, PeerOptions::default());
    tokio::spawn(driver);
    for method in ["long", "newline"] {
        let question = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
        sender.send(question).await.unwrap();
        let answer = support::message(&mut receiver).await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&json!(1), &json!(-32603)),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn oversize_message_is_answered_without_an_id_and_the_line_continues() {
    let (ours, theirs) = tokio::io::duplex(65536);
    let (_peer, driver) = Peer::new(lines(ours, 1000), examples(), PeerOptions::default());
    tokio::spawn(driver);
    let (mut sender, mut receiver) = lines(theirs, 10_000).split();
    sender.send(vec![b'x'; 2000]).await.unwrap();
    let answer = support::message(&mut receiver).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32600)));
    sender.send(r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":[1]}"#).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["result"], 1);
}

#[tokio::test]
async fn notifications_run_in_order_and_before_later_requests() {
    let (log, mut logged) = mpsc::unbounded_channel();
    let (go, gate) = tokio::sync::watch::channel(false);
    let requests = log.clone();
    let router = Router::new()
        .notification("note", move |[n]: [u32; 1], _| {
            let (log, mut gate) = (log.clone(), gate.clone());
            async move {
                if n == 1 {
                    gate.wait_for(|open| *open).await.unwrap();
                }
                log.send(n).unwrap();
            }
        })
        .request("ask", move |[n]: [u32; 1], _| {
            requests.send(n).unwrap();
            async move { Ok(n) }
        });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    raw.send(r#"{"jsonrpc":"2.0","id":0,"method":"ask","params":[0]}"#).await;
    assert_eq!(raw.recv().await["result"], 0);
    raw.send(r#"{"jsonrpc":"2.0","method":"note","params":[1]}"#).await;
    raw.send(r#"{"jsonrpc":"2.0","method":"note","params":[2]}"#).await;
    raw.send(r#"{"jsonrpc":"2.0","id":3,"method":"ask","params":[3]}"#).await;
    raw.send("[]").await;
    // The bad message is answered while the request still waits for the notifications before it.
    assert_eq!(raw.recv().await["error"]["code"], -32600);
    go.send_replace(true);
    assert_eq!(raw.recv().await["result"], 3);
    let mut order = Vec::new();
    while let Ok(n) = logged.try_recv() {
        order.push(n);
    }
    assert_eq!(order, [0, 1, 2, 3]);
}

#[tokio::test]
async fn excess_requests_are_overloaded_and_responses_still_arrive() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let router = Router::new().request("wait", move |(): (), _| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Ok(())
        }
    });
    let options = PeerOptions { max_in_flight: 2, max_waiting: 3, ..Default::default() };
    let (peer, _driver, mut raw) = with_options(router, options);
    for id in 1..=7 {
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"wait"}}"#)).await;
    }
    for id in [6, 7] {
        let answer = raw.recv().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32000)));
    }
    let call = tokio::spawn(async move { peer.call::<u32>("question", ()).await });
    let question = raw.recv().await;
    raw.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": 42 }).to_string()).await;
    assert_eq!(within(call).await.unwrap().unwrap(), 42);
    go.send_replace(true);
    let mut answered = Vec::new();
    for _ in 1..=5 {
        answered.push(raw.recv().await["id"].as_u64().unwrap());
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn handler_errors_are_sent_with_their_data() {
    let router = Router::new().request("fail", |(): (), _| async move {
        let data = serde_json::value::to_raw_value(&json!({ "why": 1 })).unwrap();
        Err::<(), _>(ErrorObject { data: Some(data), ..ErrorObject::new(7, "no \"luck\"") })
    });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"fail"}"#).await;
    let expected = json!({ "code": 7, "message": "no \"luck\"", "data": { "why": 1 } });
    assert_eq!(raw.recv().await["error"], expected);
}

fn lines(stream: tokio::io::DuplexStream, limit: usize) -> impl Channel {
    let config = ChannelConfig { max_message: ByteSize::new(limit), ..Default::default() };
    support::lines(stream, config)
}
