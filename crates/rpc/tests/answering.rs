//! What a peer answers, to what is right and to what is wrong.

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
async fn the_specifications_own_examples_are_answered_as_it_says() {
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
        raw.say(question).await;
        assert_eq!(raw.hear().await, answer, "{question}");
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
        raw.say(question).await;
        let answer = raw.hear().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&Value::Null, &json!(code)),
            "{question}"
        );
    }
    raw.say("[1,2,3]").await;
    let answers = raw.hear().await;
    assert_eq!(answers.as_array().unwrap().len(), 3);
    assert!(answers.as_array().unwrap().iter().all(|it| it["error"]["code"] == -32600));
}

#[tokio::test]
async fn a_batch_is_answered_as_one_message_and_a_batch_of_notifications_not_at_all() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    raw.say(
        r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#,
    )
    .await;
    raw.say(
        r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]"#,
    )
    .await;
    let answers = raw.hear().await;
    let answer = |id: Value| answers.as_array().unwrap().iter().find(|it| it["id"] == id).unwrap();
    assert_eq!(answers.as_array().unwrap().len(), 5);
    assert_eq!(answer(json!("1"))["result"], 7);
    assert_eq!(answer(json!("2"))["result"], 19);
    assert_eq!(answer(Value::Null)["error"]["code"], -32600);
    assert_eq!(answer(json!("5"))["error"]["code"], -32601);
    assert_eq!(answer(json!("9"))["result"], json!(["hello", 5]));
}

#[tokio::test]
async fn ids_go_back_byte_for_byte() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    for id in
        ["9007199254740993", "1.50", "-0", "null", r#""a\u0062""#, "123456789012345678901234567890"]
    {
        raw.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"sum","params":[1]}}"#)).await;
        assert_eq!(raw.hear_text().await, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":1}}"#));
    }
}

#[tokio::test]
async fn what_breaks_a_limit_or_doubles_a_member_costs_itself_alone() {
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
        raw.say(&question).await;
        let answer = raw.hear().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&json!(7), &json!(-32600)),
            "{question}"
        );
    }
    raw.say(r#"{"jsonrpc":"2.0","id":8,"method":"sum","params":[1,2]}"#).await;
    assert_eq!(raw.hear().await["result"], 3);
}

#[tokio::test]
async fn parameters_that_do_not_fit_are_answered_as_such() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    raw.say(r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":["x"]}"#).await;
    assert_eq!(raw.hear().await["error"]["code"], -32602);
    raw.say(r#"{"jsonrpc":"2.0","id":2,"method":"sum"}"#).await;
    assert_eq!(raw.hear().await["error"]["code"], -32602);
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_request() {
    let (_peer, _driver, mut raw) = peer_and_raw(examples());
    for method in ["panic", "later_panic"] {
        raw.say(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#)).await;
        assert_eq!(raw.hear().await["error"]["code"], -32603, "{method}");
    }
    raw.say(r#"{"jsonrpc":"2.0","id":2,"method":"sum","params":[2]}"#).await;
    assert_eq!(raw.hear().await["result"], 2);
}

#[tokio::test]
async fn a_notifications_panic_is_nobodys_answer_and_the_next_is_handled() {
    let (said, mut heard) = mpsc::unbounded_channel();
    let router = Router::new()
        .notification("panic", |_: Value, _| async move { panic!("as asked") })
        .notification("say", move |text: Value, _| {
            let said = said.clone();
            async move { said.send(text).unwrap() }
        });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    raw.say(r#"{"jsonrpc":"2.0","method":"panic","params":[1]}"#).await;
    raw.say(r#"{"jsonrpc":"2.0","method":"say","params":["still here"]}"#).await;
    assert_eq!(within(heard.recv()).await, Some(json!(["still here"])));
}

#[tokio::test]
async fn an_answer_that_the_line_does_not_carry_is_an_error_and_not_silence() {
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
async fn a_message_above_the_limit_is_answered_without_an_id_and_the_line_goes_on() {
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
async fn notifications_are_handled_in_order_and_a_request_after_those_before_it() {
    let (said, mut heard) = mpsc::unbounded_channel();
    let (go, gate) = tokio::sync::watch::channel(false);
    let requests = said.clone();
    let router = Router::new()
        .notification("note", move |[n]: [u32; 1], _| {
            let (said, mut gate) = (said.clone(), gate.clone());
            async move {
                if n == 1 {
                    gate.wait_for(|open| *open).await.unwrap();
                }
                said.send(n).unwrap();
            }
        })
        .request("ask", move |[n]: [u32; 1], _| {
            requests.send(n).unwrap();
            async move { Ok(n) }
        });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    raw.say(r#"{"jsonrpc":"2.0","id":0,"method":"ask","params":[0]}"#).await;
    assert_eq!(raw.hear().await["result"], 0);
    raw.say(r#"{"jsonrpc":"2.0","method":"note","params":[1]}"#).await;
    raw.say(r#"{"jsonrpc":"2.0","method":"note","params":[2]}"#).await;
    raw.say(r#"{"jsonrpc":"2.0","id":3,"method":"ask","params":[3]}"#).await;
    raw.say("[]").await;
    // The bad message is answered while the request still waits for the notifications before it.
    assert_eq!(raw.hear().await["error"]["code"], -32600);
    go.send_replace(true);
    assert_eq!(raw.hear().await["result"], 3);
    let mut order = Vec::new();
    while let Ok(n) = heard.try_recv() {
        order.push(n);
    }
    assert_eq!(order, [0, 1, 2, 3]);
}

#[tokio::test]
async fn requests_beyond_the_limits_are_answered_overloaded_and_answers_get_through() {
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
        raw.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"wait"}}"#)).await;
    }
    for id in [6, 7] {
        let answer = raw.hear().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32000)));
    }
    let call = tokio::spawn(async move { peer.call::<u32>("question", ()).await });
    let question = raw.hear().await;
    raw.say(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": 42 }).to_string()).await;
    assert_eq!(within(call).await.unwrap().unwrap(), 42);
    go.send_replace(true);
    let mut answered = Vec::new();
    for _ in 1..=5 {
        answered.push(raw.hear().await["id"].as_u64().unwrap());
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn errors_of_a_handler_travel_with_their_data() {
    let router = Router::new().request("fail", |(): (), _| async move {
        let data = serde_json::value::to_raw_value(&json!({ "why": 1 })).unwrap();
        Err::<(), _>(ErrorObject { data: Some(data), ..ErrorObject::new(7, "no \"luck\"") })
    });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    raw.say(r#"{"jsonrpc":"2.0","id":1,"method":"fail"}"#).await;
    let expected = json!({ "code": 7, "message": "no \"luck\"", "data": { "why": 1 } });
    assert_eq!(raw.hear().await["error"], expected);
}

fn lines(stream: tokio::io::DuplexStream, limit: usize) -> impl Channel {
    let config = ChannelConfig { max_message: ByteSize::new(limit), ..Default::default() };
    support::lines(stream, config)
}
