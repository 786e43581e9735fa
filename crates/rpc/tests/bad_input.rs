//! Bad input is answered as the specification requires and affects nothing else; the line continues.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bytes::Bytes;
use serde_json::{Value, json};
use support::{Raw, peer_and_raw, within};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Notification, Request};
use tieline_proto::{ByteSize, Fault, Json, Lines};
use tieline_rpc::{Answer, ErrorObject, Handler, Outcome, Peer, PeerOptions, Router};
use tieline_transport::{Channel, ChannelConfig, SenderExt};

fn methods() -> Router {
    Router::new()
        .request("greet", |[name]: [String; 1], _| async move { Ok(format!("hello {name}")) })
        .request("fail", |_: Value, _| async move { Err::<(), _>(ErrorObject::new(-1, "no")) })
        .request("panic", |_: Value, _| async move {
            if true {
                panic!("as asked");
            }
            Ok(())
        })
        .raw_request("length", |request, _| {
            let length = request.params().map_or(0, <[u8]>::len);
            Answer::Now(Ok(Bytes::from(length.to_string())))
        })
}

async fn still_answers(raw: &mut Raw) {
    raw.send(r#"{"jsonrpc":"2.0","id":"still","method":"greet","params":["you"]}"#).await;
    let expected = json!({ "jsonrpc": "2.0", "id": "still", "result": "hello you" });
    assert_eq!(raw.recv().await, expected);
}

#[tokio::test]
async fn ids_of_every_type_and_size_are_returned_byte_for_byte() {
    let (_peer, _driver, mut raw) = peer_and_raw(methods());
    let longest = format!("\"{}\"", "i".repeat(4094));
    let digits = "9".repeat(4096);
    for id in [
        "0",
        "1",
        "-1",
        "-0",
        "1.0",
        "1.50",
        "1e3",
        "1E+03",
        "-0.0e-0",
        "9007199254740993",
        "18446744073709551616",
        "123456789012345678901234567890",
        "1E400",
        "null",
        r#""""#,
        r#"" ""#,
        r#""1""#,
        r#""null""#,
        r#""a\u0062""#,
        r#""\"\\\/\b\f\n\r\t""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""käse🧀""#,
        &longest,
        &digits,
    ] {
        for (method, params, answer) in [
            ("greet", r#"["a"]"#, r#""result":"hello a""#),
            ("fail", "[]", r#""error":{"code":-1,"#),
            ("greet", "[1]", r#""error":{"code":-32602,"#),
            ("panic", "[]", r#""error":{"code":-32603,"#),
            ("missing", "[]", r#""error":{"code":-32601,"#),
            ("missing", "1", r#""error":{"code":-32600,"#),
        ] {
            let ask =
                format!(r#"{{"jsonrpc":"2.0","id": {id} ,"method":"{method}","params":{params}}}"#);
            raw.send(&ask).await;
            let received = raw.recv_text().await;
            let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},{answer}"#);
            assert!(received.starts_with(&expected), "{ask}: {received}");
        }
    }
}

#[tokio::test]
async fn invalid_id_is_an_invalid_request_without_an_id() {
    let (_peer, _driver, mut raw) = peer_and_raw(methods());
    let too_long = format!("\"{}\"", "i".repeat(4095));
    let million = format!("\"{}\"", "i".repeat(1_000_000));
    for id in ["true", "false", "[]", "[1]", "{}", r#"{"id":1}"#, &too_long, &million] {
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"greet","params":["a"]}}"#))
            .await;
        let answer = raw.recv().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32600)));
    }
    still_answers(&mut raw).await;
}

#[tokio::test]
async fn bad_input_of_every_kind_affects_only_itself() {
    let (_peer, _driver, mut raw) = peer_and_raw(methods());
    let open = "[".repeat(1_000_000);
    let deep = format!("{open}{}", "]".repeat(1_000_000));
    let objects = r#"{"a":"#.repeat(1_000_000);
    let keys: String = (0..1_000_000).map(|n| format!("\"{n}\":0,")).collect();
    let request = |rest: &str| format!(r#"{{"jsonrpc":"2.0","id":7,"method":"length",{rest}}}"#);
    let (none, seven) = (Value::Null, json!(7));
    for (message, code, id) in [
        (request(&format!(r#""params":{deep}"#)), -32600, &seven),
        (request(&format!(r#""params":{open}"#)), -32600, &seven),
        (request(&format!(r#""params":{objects}"#)), -32600, &seven),
        (request(&format!(r#""more":{deep}"#)), -32600, &seven),
        (format!(r#"{{"params":{deep},"id":7,"method":"length"}}"#), -32600, &none),
        (deep.clone(), -32600, &none),
        (open.clone(), -32600, &none),
        (request(&format!(r#""params":{{{keys}"z":0}}"#)), -32600, &seven),
        (request(&format!(r#"{keys}"params":[]"#)), -32600, &seven),
        (request(r#""id":7"#), -32600, &seven),
        (request(r#""\u0069d":7"#), -32600, &seven),
        (request(r#""method":"length""#), -32600, &seven),
        (request(r#""params":[],"params":[]"#), -32600, &seven),
        (request(r#""jsonrpc":"2.0""#), -32600, &seven),
        (request(r#""params":"text""#), -32600, &seven),
        (request(r#""params":[1,]"#), -32700, &none),
        (request(r#""params":["\ud8"]"#), -32700, &none),
        (request(r#""params":[01]"#), -32700, &none),
        (request("\"params\":[\"\0\"]"), -32700, &none),
        (request("\"params\":[\0]"), -32700, &none),
        ("\0".into(), -32700, &none),
        ("\0".repeat(1000), -32700, &none),
        (" ".into(), -32700, &none),
        ("\u{feff}{}".into(), -32600, &none),
        ("{}{}".into(), -32700, &none),
        ("NaN".into(), -32700, &none),
        ("{}".into(), -32600, &none),
        ("[]".into(), -32600, &none),
        (r#""text""#.into(), -32600, &none),
        ("7".into(), -32600, &none),
    ] {
        raw.send(&message).await;
        let answer = raw.recv().await;
        let shown: String = message.chars().take(80).collect();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (id, &json!(code)), "{shown}");
    }
    for bytes in [&b"\xff"[..], b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"\xed\xa0\x80\"}"] {
        within(raw.sender.send(bytes)).await.unwrap();
        let answer = raw.recv().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&none, &json!(-32700)));
    }
    still_answers(&mut raw).await;
}

#[tokio::test]
async fn lone_surrogates_and_nuls_reach_raw_methods_only() {
    let (_peer, _driver, mut raw) = peer_and_raw(methods());
    for (ask, answer) in [
        // A handler may read raw parameters, but a typed parameter cannot hold a lone surrogate.
        (r#""method":"length","params":["\ud800"]"#, json!({ "result": 10 })),
        (r#""method":"greet","params":["\ud800"]"#, json!({ "code": -32602 })),
        (r#""method":"greet","params":["\u0000"]"#, json!({ "result": "hello \0" })),
        (r#""method":"greet\ud800","params":["a"]"#, json!({ "code": -32601 })),
        (r#""method":"greet\u0000","params":["a"]"#, json!({ "code": -32601 })),
        (r#""method":"","params":["a"]"#, json!({ "code": -32601 })),
        (r#""\ud800":"x","method":"gre\u0065t","params":["a"]"#, json!({ "result": "hello a" })),
    ] {
        raw.send(&format!(r#"{{"jsonrpc":"2.0","id":1,{ask}}}"#)).await;
        let received = raw.recv().await;
        let received = match received.get("error") {
            Some(error) => json!({ "code": error["code"] }),
            None => json!({ "result": received["result"] }),
        };
        assert_eq!(received, answer, "{ask}");
    }
}

#[tokio::test]
async fn member_order_does_not_matter_in_requests_and_responses() {
    let (peer, _driver, mut raw) = peer_and_raw(methods());
    raw.send(r#"{"params":["a"],"method":"greet","id":"r","jsonrpc":"2.0"}"#).await;
    assert_eq!(raw.recv().await["result"], "hello a");
    for (answer, is_right) in [
        (r#"{"result":5,"id":1,"jsonrpc":"2.0"}"#, true),
        (r#"{"error":{"message":"no","code":5},"id":2,"jsonrpc":"2.0"}"#, false),
    ] {
        let peer = peer.clone();
        let call = tokio::spawn(async move { peer.call::<u32>("m", ()).await });
        raw.recv().await;
        raw.send(answer).await;
        assert_eq!(within(call).await.unwrap().is_ok(), is_right);
    }
}

#[tokio::test]
async fn very_long_number_is_valid_and_one_of_100_mb_affects_only_its_line() {
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let channel = support::lines(ours, ChannelConfig::default());
    let (_peer, driver) = Peer::new(channel, methods(), PeerOptions::default());
    tokio::spawn(driver);
    let roomy = ChannelConfig { max_message: ByteSize::mib(200), ..Default::default() };
    let (mut sender, mut receiver) = support::lines(theirs, roomy).split();
    for (digits, answer) in [(15_000_000, json!(15_000_002)), (100_000_000, Value::Null)] {
        let number = "7".repeat(digits);
        let ask = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"length","params":[{number}]}}"#);
        let (sent, received) =
            within(async { tokio::join!(sender.send(ask), support::message(&mut receiver)) }).await;
        sent.unwrap();
        assert_eq!(received.get("result").unwrap_or(&Value::Null), &answer);
        if answer.is_null() {
            assert_eq!((&received["id"], &received["error"]["code"]), (&json!(7), &json!(-32600)));
        }
    }
    sender.send(r#"{"jsonrpc":"2.0","id":8,"method":"length"}"#).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["result"], 0);
}

/// Connects to a peer whose channel checks that messages are JSON.
fn to_checking_peer(handler: impl Handler) -> impl Channel {
    let (ours, theirs) = tokio::io::duplex(65536);
    let config = ChannelConfig::default();
    let framing = Json::new(Lines::new(config.max_message), Limits::default());
    let channel = support::framed(ours, framing, config);
    let (_peer, driver) = Peer::new(channel, handler, PeerOptions::default());
    tokio::spawn(driver);
    support::lines(theirs, config)
}

#[tokio::test]
async fn message_refused_by_the_framing_is_answered_with_the_matching_error() {
    let (mut sender, mut receiver) = to_checking_peer(methods()).split();
    for (message, code) in [("nonsense".to_owned(), -32700), ("[".repeat(200), -32600)] {
        sender.send(message).await.unwrap();
        let answer = support::message(&mut receiver).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(code)));
    }
    sender.send(r#"{"jsonrpc":"2.0","id":8,"method":"length"}"#).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["result"], 0);
}

/// Answers like [`methods`], and panics when a fault is reported.
struct PanicsOnFaults(Router);

impl Handler for PanicsOnFaults {
    fn request(&self, request: Request, peer: &Peer) -> Answer<Outcome> {
        Handler::request(&self.0, request, peer)
    }

    fn notification(&self, notification: Notification, peer: &Peer) -> Answer<()> {
        Handler::notification(&self.0, notification, peer)
    }

    fn fault(&self, fault: &Fault) {
        panic!("reported {fault}");
    }
}

#[tokio::test]
async fn panic_in_the_fault_handler_does_not_end_the_line() {
    let (mut sender, mut receiver) = to_checking_peer(PanicsOnFaults(methods())).split();
    sender.send("nonsense").await.unwrap();
    assert_eq!(support::message(&mut receiver).await["error"]["code"], -32700);
    sender.send(r#"{"jsonrpc":"2.0","id":8,"method":"length"}"#).await.unwrap();
    assert_eq!(support::message(&mut receiver).await["result"], 0);
}

#[tokio::test]
async fn default_limit_accepts_16_mib_and_not_one_byte_more() {
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let channel = support::lines(ours, ChannelConfig::default());
    let (_peer, driver) = Peer::new(channel, methods(), PeerOptions::default());
    tokio::spawn(driver);
    let roomy = ChannelConfig { max_message: ByteSize::mib(200), ..Default::default() };
    let (mut sender, mut receiver) = support::lines(theirs, roomy).split();
    let ask = r#"{"jsonrpc":"2.0","id":7,"method":"length"}"#;
    for (length, code) in [(16 << 20, Value::Null), ((16 << 20) + 1, json!(-32600))] {
        let ask = format!("{ask}{}", " ".repeat(length - ask.len()));
        let (sent, received) =
            within(async { tokio::join!(sender.send(ask), support::message(&mut receiver)) }).await;
        sent.unwrap();
        assert_eq!(received["error"]["code"], code);
    }
}
