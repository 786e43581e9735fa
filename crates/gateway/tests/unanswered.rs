//! Requests that a program leaves unanswered get an error response if the dialect is known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::pending;

use serde_json::{Value, json};
use tieline_gateway::{Bridge, BridgeReport, bridge};
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    Channel, Incoming, MemoryChannel, Receiver, ReceiverExt, SenderExt, memory_pair,
};
use tokio::task::JoinHandle;

fn line(dialect: Option<Dialect>) -> (MemoryChannel, MemoryChannel, JoinHandle<BridgeReport>) {
    let (client, near) = memory_pair();
    let (far, server) = memory_pair();
    let options = Bridge { dialect, ..Bridge::default() };
    let report = tokio::spawn(bridge(near.boxed(), far.boxed(), options, pending()));
    (client, server, report)
}

/// Receives messages until the end.
async fn receive_all(receiver: &mut impl Receiver) -> Vec<Value> {
    let mut received = Vec::new();
    loop {
        match receiver.recv().await {
            Incoming::Message(message) => received.push(serde_json::from_slice(&message).unwrap()),
            Incoming::End(_) => return received,
            other => panic!("{other:?}"),
        }
    }
}

/// Returns the messages that the client receives if it sends `sent`, and the server sends `answers` and
/// ends.
async fn after(dialect: Option<Dialect>, sent: &[Value], answers: &[Value]) -> Vec<Value> {
    let (client, server, report) = line(dialect);
    let (mut to_server, mut from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    for message in sent {
        to_server.send(message.to_string()).await.unwrap();
        let Incoming::Message(arrived) = from_client.recv().await else { panic!("no message") };
        assert_eq!(arrived, message.to_string());
    }
    for answer in answers {
        to_client.send(answer.to_string()).await.unwrap();
    }
    drop((to_client, from_client));
    let received = receive_all(&mut from_server).await;
    report.await.unwrap();
    received
}

fn request(id: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "m"})
}

fn ids(messages: &[Value]) -> Vec<Value> {
    messages.iter().map(|message| message["id"].clone()).collect()
}

#[tokio::test]
async fn unanswered_requests_get_error_responses_in_the_order_they_were_sent() {
    let sent: Vec<_> = (0..50).rev().map(|id| request(json!(id))).collect();
    let received = after(Some(Dialect::STRICT), &sent, &[]).await;
    assert_eq!(ids(&received), (0..50).rev().map(|id| json!(id)).collect::<Vec<_>>());
    for answer in &received {
        assert_eq!(answer["error"]["code"], -32000);
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.starts_with("the program has ended: closed by the other side"), "{text}");
    }
}

#[tokio::test]
async fn answered_requests_are_not_answered_again() {
    let sent = [request(json!("a")), request(json!(1)), request(json!(2)), request(json!("b"))];
    let answers = [
        json!({"jsonrpc": "2.0", "id": 1, "result": null}),
        json!({"jsonrpc": "2.0", "id": "a", "error": {"code": 1, "message": "no"}}),
        // This response has an unknown id.
        json!({"jsonrpc": "2.0", "id": "3", "result": null}),
    ];
    let received = after(Some(Dialect::STRICT), &sent, &answers).await;
    assert_eq!(ids(&received), [json!(1), json!("a"), json!("3"), json!(2), json!("b")]);
    assert_eq!(received[..3], answers);
}

#[tokio::test]
async fn response_with_another_spelling_of_its_id_or_none_gets_the_id_of_its_request() {
    let result = |id: Value| json!({"jsonrpc": "2.0", "id": id, "result": [5]});
    let error =
        |id: Value| json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": "no"}});
    for (asked, answer, expected) in [
        (json!(1), result(json!("1")), result(json!(1))),
        (json!("1"), result(json!(1)), result(json!("1"))),
        (json!(1), result(json!(1.0)), result(json!(1))),
        (json!("a"), error(Value::Null), error(json!("a"))),
    ] {
        let received =
            after(Some(Dialect::STRICT), &[request(asked)], std::slice::from_ref(&answer)).await;
        assert_eq!(received, [expected], "{answer}");
    }
    // The response may belong to either request, so it is passed on unchanged, and both are answered at
    // the end.
    let sent = [request(json!(1)), request(json!("1"))];
    let received =
        after(Some(Dialect::STRICT), &sent, &[result(json!(1.0)), error(Value::Null)]).await;
    assert_eq!(received[..2], [result(json!(1.0)), error(Value::Null)]);
    assert_eq!(ids(&received[2..]), [json!(1), json!("1")]);
    // Without a dialect, nothing is changed.
    let received = after(None, &[request(json!(1))], &[result(json!("1"))]).await;
    assert_eq!(received, [result(json!("1"))]);
}

#[tokio::test]
async fn notifications_and_responses_from_the_client_get_no_response() {
    let sent = [
        json!({"jsonrpc": "2.0", "method": "m"}),
        json!({"jsonrpc": "2.0", "id": 4, "result": 1}),
        json!("not JSON-RPC"),
    ];
    assert_eq!(after(Some(Dialect::STRICT), &sent, &[]).await, Vec::<Value>::new());
}

#[tokio::test]
async fn each_request_of_a_batch_is_answered() {
    let batch = json!([request(json!(1)), {"jsonrpc": "2.0", "method": "m"}, request(json!(2))]);
    let answered = json!([{"jsonrpc": "2.0", "id": 2, "result": 0}]);
    let received = after(Some(Dialect::STRICT), &[batch], std::slice::from_ref(&answered)).await;
    assert_eq!((&received[0], ids(&received[1..])), (&answered, vec![json!(1)]));
}

#[tokio::test]
async fn cancelled_request_is_answered_only_if_the_dialect_requires_it() {
    let cancel =
        |method: &str, id: &str| json!({"jsonrpc": "2.0", "method": method, "params": {id: 1}});
    let sent = [request(json!(1)), cancel("notifications/cancelled", "requestId")];
    assert_eq!(after(Some(Dialect::MCP), &sent, &[]).await, Vec::<Value>::new());
    let sent = [request(json!(1)), cancel("$/cancelRequest", "id")];
    assert_eq!(ids(&after(Some(Dialect::LSP), &sent, &[]).await), [json!(1)]);
}

#[tokio::test]
async fn nothing_is_added_without_a_dialect_or_with_xi() {
    for dialect in [None, Some(Dialect::XI)] {
        let sent = [request(json!(1)), json!({"id": 2, "method": "new_view", "params": {}})];
        assert_eq!(after(dialect, &sent, &[]).await, Vec::<Value>::new(), "{dialect:?}");
    }
}

/// The client sends far more than the program's pipe holds, so that most of it is in flight when the
/// program ends.
#[cfg(unix)]
#[tokio::test]
async fn requests_that_the_program_has_not_read_are_answered_and_counted() {
    let (client, near) = memory_pair();
    let endpoint = tieline_transport::Endpoint::exec("sh", ["-c", "read line; exit 3"]);
    let far = tieline_transport::Registry::new()
        .connect(&endpoint, &tieline_transport::Options::default())
        .await
        .unwrap();
    let (mut to_server, mut from_server) = client.split();
    let padding = "x".repeat(1000);
    let asking = tokio::spawn(async move {
        for id in 0..2000 {
            let request = json!({"jsonrpc": "2.0", "id": id, "method": "m", "params": [padding]});
            if to_server.send(request.to_string()).await.is_err() {
                break;
            }
        }
    });
    let options = Bridge { dialect: Some(Dialect::STRICT), ..Bridge::default() };
    let report = tokio::spawn(bridge(near.boxed(), far, options, pending()));
    let received = receive_all(&mut from_server).await;
    let report = report.await.unwrap();
    asking.await.unwrap();
    let answered = ids(&received);
    assert_eq!(answered, (0..answered.len()).map(|id| json!(id)).collect::<Vec<_>>());
    assert_eq!(report.to_far + report.lost, answered.len() as u64);
    assert!(report.lost > 0, "the program has read everything");
}

#[cfg(unix)]
#[tokio::test]
async fn error_response_says_how_the_child_process_ended() {
    let (client, near) = memory_pair();
    let script =
        "read line; echo first >&2; head -c 9000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 7";
    let endpoint = tieline_transport::Endpoint::exec("sh", ["-c", script]);
    let far = tieline_transport::Registry::new()
        .connect(&endpoint, &tieline_transport::Options::default())
        .await
        .unwrap();
    let options = Bridge { dialect: Some(Dialect::MCP), ..Bridge::default() };
    let report = tokio::spawn(bridge(near.boxed(), far, options, pending()));
    let (mut to_server, mut from_server) = client.split();
    to_server.send(request(json!(1)).to_string()).await.unwrap();
    let received = receive_all(&mut from_server).await;
    report.await.unwrap();
    assert_eq!(ids(&received), [json!(1)]);
    let data = &received[0]["error"]["data"];
    assert_eq!((&data["code"], &data["status"]), (&json!(7), &json!("exit status: 7")));
    let stderr = data["stderr"].as_str().unwrap();
    assert!(stderr.ends_with("xlast\n") && stderr.len() == 4096, "{} bytes", stderr.len());
}
