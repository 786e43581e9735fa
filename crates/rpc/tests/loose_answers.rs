//! Responses as other implementations write them, lost responses, and messages that are not answered
//! because they may be responses.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Raw, peer_and_raw, poll_once, with_options, within};
use tieline_proto::jsonrpc::InvalidProblem;
use tieline_proto::{ByteSize, Fault, Json, Lines, json::Limits};
use tieline_rpc::{CallError, Dialect, Peer, PeerOptions, Router};
use tieline_transport::{Channel, ChannelConfig, SenderExt};
use tokio::io::AsyncWriteExt;

/// Returns the outcome of a call with id 1 that gets this response.
async fn called(answer: &[u8]) -> Result<Value, CallError> {
    let (peer, _driver, mut raw) = peer_and_raw(());
    let mut call = pin!(peer.call::<Value>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    assert_eq!(raw.recv().await["id"], 1);
    within(raw.sender.send(answer.to_vec())).await.unwrap();
    within(call).await
}

#[tokio::test]
async fn result_is_accepted_however_its_id_and_other_members_are_written() {
    for answer in [
        r#"{"jsonrpc":"2.0","id":1,"result":5,"error":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":5,"method":null,"params":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":5,"meta":{}}"#,
        r#"{"jsonrpc":"2.0","id":"1","result":5}"#,
        r#"{"jsonrpc":"2.0","id":"\u0031","result":5}"#,
        r#"{"jsonrpc":"2.0","id":1.0,"result":5}"#,
        r#"{"jsonrpc":"2.0","id":1e0,"result":5}"#,
        r#"[{"jsonrpc":"2.0","id":"1","result":5}]"#,
    ] {
        assert_eq!(called(answer.as_bytes()).await.unwrap(), 5, "{answer}");
    }
}

#[tokio::test]
async fn error_without_an_id_fails_the_only_call() {
    for answer in [
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse"}}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"parse"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":-32700,"message":"parse"}}"#,
        r#"{"jsonrpc":"2.0","id":"1","error":{"code":-32700,"message":"parse"}}"#,
    ] {
        let error = called(answer.as_bytes()).await.unwrap_err();
        let CallError::Remote(remote) = &error else { panic!("{answer}: {error:?}") };
        assert_eq!((remote.code, &*remote.message), (-32700, "parse"), "{answer}");
    }
}

#[tokio::test]
async fn invalid_response_fails_its_call_and_is_shown() {
    use InvalidProblem::{Doubled, Missing, ResultAndError, Wrong};
    for (answer, expected) in [
        (r#"{"jsonrpc":"2.0","id":1}"#, Missing("result")),
        (r#"{"jsonrpc":"2.0","id":1,"error":null}"#, Missing("result")),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, Wrong("method")),
        (r#"{"jsonrpc":"2.0","id":"1"}"#, Missing("result")),
        (r#"{"id":1,"result":5}"#, Missing("jsonrpc")),
        (r#"{"jsonrpc":"1.0","id":1,"result":5}"#, Wrong("jsonrpc")),
        (r#"{"jsonrpc":"2.0","id":1,"error":"bad thing"}"#, Wrong("error")),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":"-1","message":"x"}}"#, Wrong("error")),
        (r#"{"jsonrpc":"2.0","id":1,"result":5,"error":{}}"#, ResultAndError),
        (r#"{"jsonrpc":"2.0","id":1,"id":1,"result":5}"#, Doubled("id")),
        (r#"{"jsonrpc":"2.0","result":5}"#, Missing("id")),
    ] {
        let error = called(answer.as_bytes()).await.unwrap_err();
        let CallError::InvalidResponse { problem, received } = &error else {
            panic!("{answer}: {error:?}")
        };
        assert_eq!((*problem, &**received), (expected, answer.as_bytes()), "{answer}");
        assert!(error.to_string().contains("received: "), "{error}");
    }
}

#[tokio::test]
async fn unparsable_text_fails_the_call_whose_id_it_contains() {
    for answer in [
        &b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"caf\xe9\"}"[..],
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":5}\0",
        b"\x1e{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":5}",
        b"{\"jsonrpc\":\"2.0\",\"method\":\"n\"}{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":5}",
        b"{\"jsonrpc\":\"2.0\",\"result\":NaN,\"id\":1}",
        b"{\"jsonrpc\":\"2.0\",\"result\":NaN",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":1}",
    ] {
        let error = called(answer).await.unwrap_err();
        let is_json =
            matches!(error, CallError::InvalidResponse { problem: InvalidProblem::Json(_), .. });
        assert!(is_json, "{}: {error:?}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn batch_in_a_dialect_without_batches_fails_each_call_in_it() {
    let (peer, _driver, mut raw) = with_options((), PeerOptions::new(Dialect::MCP));
    let (mut one, mut other) =
        (pin!(peer.call::<Value>("m", ())), pin!(peer.call::<Value>("m", ())));
    assert!(poll_once(one.as_mut()).await.is_none() && poll_once(other.as_mut()).await.is_none());
    raw.recv().await;
    raw.recv().await;
    raw.send(r#"[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":2,"result":2}]"#).await;
    for call in [one, other] {
        let error = within(call).await.unwrap_err();
        let problem = match error {
            CallError::InvalidResponse { problem, .. } => problem,
            error => panic!("{error:?}"),
        };
        assert_eq!(problem, InvalidProblem::NoBatches);
    }
}

#[tokio::test]
async fn response_that_may_belong_to_several_calls_ends_none() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    let (mut one, mut other) =
        (pin!(peer.call::<Value>("m", ())), pin!(peer.call::<Value>("m", ())));
    assert!(poll_once(one.as_mut()).await.is_none() && poll_once(other.as_mut()).await.is_none());
    raw.recv().await;
    raw.recv().await;
    raw.send(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"no"}}"#).await;
    raw.send(r#"{"jsonrpc":"2.0","id":"2","result":2}"#).await;
    assert_eq!(within(other).await.unwrap(), 2);
    assert!(poll_once(one.as_mut()).await.is_none());
    raw.send(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"no"}}"#).await;
    assert!(matches!(within(one).await.unwrap_err(), CallError::Remote(_)));
    assert_eq!(peer.unclaimed_answers().unasked, 1);
}

/// An error without an id cannot belong to a call that is still queued or was abandoned.
#[tokio::test]
async fn error_without_an_id_fails_the_only_call_that_was_sent_and_is_pending() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    {
        let mut given_up = pin!(peer.call::<Value>("m", ()));
        assert!(poll_once(given_up.as_mut()).await.is_none());
        raw.recv().await;
    }
    let mut call = pin!(peer.call::<Value>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    raw.recv().await;
    raw.send(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"no"}}"#).await;
    assert!(matches!(within(call).await.unwrap_err(), CallError::Remote(_)));
}

/// Returns a peer on lines of at most 1 KiB, which are checked to be JSON if `checked` is set, and the
/// other end.
fn small_lines(checked: bool) -> (Peer, impl Channel) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let config = ChannelConfig { max_message: ByteSize::kib(1), ..Default::default() };
    let lines = Lines::new(config.max_message);
    let channel = match checked {
        true => support::framed(ours, Json::new(lines, Limits::default()), config).boxed(),
        false => support::framed(ours, lines, config).boxed(),
    };
    let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
    tokio::spawn(driver);
    (peer, support::lines(theirs, ChannelConfig::default()))
}

#[tokio::test]
async fn lost_response_fails_its_call_with_the_fault() {
    let long = "x".repeat(2000);
    for (answer, is_oversize) in [
        (format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{long}"}}"#), true),
        (format!(r#"{{"jsonrpc":"2.0","result":"{long}","id":1}}"#), true),
        (format!(r#"{{"jsonrpc":"2.0","meta":"{long}","id":1,"result":2}}"#), true),
        (r#"{"jsonrpc":"2.0","id":1,"result":nul}"#.to_owned(), false),
        (format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}"#, "[".repeat(200)), false),
    ] {
        let (peer, channel) = small_lines(true);
        let (mut sender, mut receiver) = channel.split();
        let mut call = pin!(peer.call::<Value>("m", ()));
        assert!(poll_once(call.as_mut()).await.is_none());
        assert_eq!(support::message(&mut receiver).await["id"], 1);
        within(sender.send(answer.clone())).await.unwrap();
        let error = within(call).await.unwrap_err();
        let CallError::AnswerLost(fault) = &error else { panic!("{answer}: {error:?}") };
        assert_eq!(matches!(**fault, Fault::Oversize(_)), is_oversize, "{answer}");
        assert!(error.to_string().starts_with("the response was lost: a message "), "{error}");
        // The line continues, and nothing was sent about the response.
        let mut next = pin!(peer.call::<Value>("m", ()));
        assert!(poll_once(next.as_mut()).await.is_none());
        assert_eq!(support::message(&mut receiver).await["id"], 2);
        within(sender.send(r#"{"jsonrpc":"2.0","id":2,"result":7}"#)).await.unwrap();
        assert_eq!(within(next).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn lost_message_that_is_not_a_response_ends_no_call() {
    let long = "x".repeat(2000);
    for lost in [
        format!(r#"{{"jsonrpc":"2.0","method":"log","params":["{long}"]}}"#),
        format!(r#"{{"jsonrpc":"2.0","params":["{long}"],"method":"log"}}"#),
        format!("DEBUG {long}"),
        format!(r#"{{"jsonrpc":"2.0","id":9,"result":"{long}"}}"#),
    ] {
        let (peer, channel) = small_lines(false);
        let (mut sender, mut receiver) = channel.split();
        let mut call = pin!(peer.call::<Value>("m", ()));
        assert!(poll_once(call.as_mut()).await.is_none());
        support::message(&mut receiver).await;
        within(sender.send(lost.clone())).await.unwrap();
        within(sender.send(r#"{"jsonrpc":"2.0","id":1,"result":5}"#)).await.unwrap();
        assert_eq!(within(call).await.unwrap(), 5, "{lost}");
    }
}

#[tokio::test]
async fn lost_request_is_answered_with_its_id_even_by_a_side_that_calls() {
    let (peer, channel) = small_lines(false);
    let (mut sender, mut receiver) = channel.split();
    let mut call = pin!(peer.call::<Value>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    support::message(&mut receiver).await;
    let long = "x".repeat(2000);
    let request = format!(r#"{{"jsonrpc":"2.0","id":"q","method":"ask","params":["{long}"]}}"#);
    within(sender.send(request)).await.unwrap();
    let answer = support::message(&mut receiver).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("q"), &json!(-32600)));
}

/// Stray output that is not JSON-RPC: a banner, log lines, and half of a response.
const NOISE: [&str; 6] =
    ["Welcome to my server", "{", "7", "[]", "{}", r#"{"jsonrpc":"2.0","id":77}"#];

async fn assert_noise_is_not_answered(peer: &Peer, raw: &mut Raw) {
    for noise in NOISE {
        raw.send(noise).await;
    }
    raw.send(r#"{"jsonrpc":"2.0","id":"after","method":"none"}"#).await;
    assert_eq!(raw.recv().await["id"], "after");
    assert_eq!(peer.unclaimed_answers().unreadable, NOISE.len() as u64);
}

#[tokio::test]
async fn side_without_methods_does_not_answer_unreadable_messages() {
    let (peer, _driver, mut raw) = peer_and_raw(());
    assert_noise_is_not_answered(&peer, &mut raw).await;
    let follower = Router::new().notification("log", |_: Value, _| async {});
    let (peer, _driver, mut raw) = peer_and_raw(follower);
    assert_noise_is_not_answered(&peer, &mut raw).await;
}

#[tokio::test]
async fn side_that_has_called_does_not_answer_unreadable_messages() {
    let router = || Router::new().request("here", |(): (), _| async { Ok(()) });
    let (peer, _driver, mut raw) = peer_and_raw(router());
    // Before its first call it acts as a server.
    raw.send("7").await;
    assert_eq!(raw.recv().await["error"]["code"], -32600);
    let mut call = pin!(peer.call::<Value>("m", ()));
    assert!(poll_once(call.as_mut()).await.is_none());
    assert_eq!(raw.recv().await["method"], "m");
    assert_noise_is_not_answered(&peer, &mut raw).await;
    raw.send(r#"{"jsonrpc":"2.0","id":1,"result":5}"#).await;
    assert_eq!(within(call).await.unwrap(), 5);
}

/// The client prints a line of text about every error that it receives.
#[tokio::test(start_paused = true)]
async fn errors_that_answer_errors_are_limited() {
    let router = Router::new().request("here", |(): (), _| async { Ok(()) });
    let (_peer, _driver, mut raw) = peer_and_raw(router);
    for _ in 0..256 {
        raw.send("DEBUG unexpected message").await;
        assert_eq!(raw.recv().await["error"]["code"], -32700);
    }
    raw.send("DEBUG unexpected message").await;
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"here"}"#).await;
    assert_eq!(
        raw.recv().await["id"],
        1,
        "the last line gets no error, and requests are still answered"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    raw.send("DEBUG unexpected message").await;
    assert_eq!(raw.recv().await["error"]["code"], -32700);
}

#[tokio::test]
async fn timeout_reports_what_arrived_meanwhile() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let channel = support::lines(ours, ChannelConfig::default());
    let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
    tokio::spawn(driver);
    theirs.write_all(br#"{"jsonrpc":"2.0","id":1,"result":5}"#).await.unwrap();
    // Virtual time advances only when everything has been read and no task can run.
    tokio::time::pause();
    let call = peer.method("m").timeout(Duration::from_secs(3)).call::<Value>();
    let error = within(call).await.unwrap_err();
    let CallError::TimedOut(meanwhile) = error else { panic!("{error:?}") };
    assert_eq!(meanwhile.unfinished, 35);
    let text = error.to_string();
    assert!(text.contains("35 bytes of an incomplete message arrived"), "{text}");
}
