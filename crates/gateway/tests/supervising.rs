//! A far side that is restarted while its client stays connected.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::pending;
use std::sync::Arc;

use serde_json::{Value, json};
use support::{ended, message};
use tieline_gateway::{Bridge, BridgeEnd, BridgeReport, bridge_supervised};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, Endpoint, Incoming, MemoryChannel,
    Options, ReceiverExt, Registry, SenderExt, TransportError, memory_pair,
};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// A program that prints its PID, exits on `fail` and `leave`, and answers anything else.
const PROGRAM: &str = r#"echo "begun $$"
while read line; do
    case $line in fail) exit 3;; leave) exit 0;; *) echo "received $line";; esac
done"#;

fn start(
    program: &str,
    policy: RestartPolicy,
    dialect: Option<Dialect>,
) -> (MemoryChannel, oneshot::Sender<()>, JoinHandle<BridgeReport>) {
    let (client, near) = memory_pair();
    let endpoint = Endpoint::exec("sh", ["-c", program]);
    let (stop, stopped) = oneshot::channel();
    let report = tokio::spawn(async move {
        let target = Registry::new().connector(&endpoint, &Options::default()).unwrap();
        let target: Arc<dyn DynConnector> = target.into();
        let options = Bridge { dialect, ..Bridge::default() };
        let stopped = async {
            if stopped.await.is_err() {
                pending::<()>().await;
            }
        };
        bridge_supervised(near.boxed(), target, policy, options, stopped).await.unwrap()
    });
    (client, stop, report)
}

#[tokio::test]
async fn client_continues_with_a_new_process_after_a_failure() {
    let (client, _stop, report) = start(PROGRAM, RestartPolicy::OnFailure, None);
    let (mut to_server, mut from_server) = client.split();
    let mut last = message(&mut from_server).await;
    for _ in 0..3 {
        to_server.send("one").await.unwrap();
        assert_eq!(message(&mut from_server).await, "received one");
        to_server.send("fail").await.unwrap();
        let begun = message(&mut from_server).await;
        assert!(begun.starts_with("begun ") && begun != last, "{begun}, {last}");
        last = begun;
    }
    to_server.send("leave").await.unwrap();
    ended(&mut from_server).await;
    let report = report.await.unwrap();
    assert_eq!((report.restarted, report.lost), (3, 0));
    assert!(report.end.is_clean(), "{}", report.end);
}

#[tokio::test]
async fn program_is_not_restarted_with_policy_never() {
    let (client, _stop, report) = start(PROGRAM, RestartPolicy::Never, None);
    let (mut to_server, mut from_server) = client.split();
    message(&mut from_server).await;
    to_server.send("fail").await.unwrap();
    ended(&mut from_server).await;
    assert_eq!(report.await.unwrap().restarted, 0);
}

#[tokio::test]
async fn restarts_of_a_failing_program_are_given_up_with_its_last_exit_status() {
    let (client, _stop, report) = start("echo begun; exit 4", RestartPolicy::OnFailure, None);
    let (_to_server, mut from_server) = client.split();
    for _ in 0..6 {
        assert_eq!(message(&mut from_server).await, "begun");
    }
    ended(&mut from_server).await;
    let report = report.await.unwrap();
    assert_eq!(report.restarted, 5);
    let BridgeEnd::Far(reason @ CloseReason::GivenUp(_)) = report.end else {
        panic!("{}", report.end)
    };
    let exit = reason.child_exit().unwrap();
    assert_eq!(exit.status.code(), Some(4));
}

#[tokio::test]
async fn program_is_not_restarted_after_the_client_has_ended_its_input() {
    let (client, _stop, report) = start(PROGRAM, RestartPolicy::Always, None);
    let (mut to_server, mut from_server) = client.split();
    message(&mut from_server).await;
    to_server.send("last").await.unwrap();
    to_server.close().await.unwrap();
    assert_eq!(message(&mut from_server).await, "received last");
    ended(&mut from_server).await;
    assert_eq!(report.await.unwrap().restarted, 0);
}

#[tokio::test]
async fn stop_during_a_restart_pause_ends_the_line() {
    let (client, stop, report) = start("echo begun; exit 4", RestartPolicy::Always, None);
    let (_to_server, mut from_server) = client.split();
    // There is a pause before the second restart.
    assert_eq!(message(&mut from_server).await, "begun");
    assert_eq!(message(&mut from_server).await, "begun");
    stop.send(()).unwrap();
    loop {
        match from_server.recv().await {
            Incoming::Message(message) => assert_eq!(message, "begun"),
            Incoming::End(_) => break,
            other => panic!("{other:?}"),
        }
    }
    report.await.unwrap();
}

/// A connector that connects once. Further attempts never complete.
struct Once {
    target: Arc<dyn DynConnector>,
    attempts: watch::Sender<u32>,
}

impl DynConnector for Once {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async move {
            self.attempts.send_modify(|attempts| *attempts += 1);
            if *self.attempts.borrow() > 1 {
                pending::<()>().await;
            }
            self.target.connect().await
        })
    }
}

#[tokio::test]
async fn client_that_ends_its_input_during_a_restart_receives_the_exit_status_of_the_program() {
    let (client, near) = memory_pair();
    let endpoint = Endpoint::exec("sh", ["-c", "read line; echo sorry >&2; exit 9"]);
    let target = Registry::new().connector(&endpoint, &Options::default()).unwrap().into();
    let attempts = watch::Sender::new(0);
    let mut attempted = attempts.subscribe();
    let target = Arc::new(Once { target, attempts });
    let bridge = Bridge { dialect: Some(Dialect::STRICT), ..Bridge::default() };
    let report = tokio::spawn(bridge_supervised(
        near.boxed(),
        target,
        RestartPolicy::OnFailure,
        bridge,
        pending(),
    ));
    let (mut to_server, mut from_server) = client.split();
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "m"});
    to_server.send(request.to_string()).await.unwrap();
    attempted.wait_for(|attempts| *attempts == 2).await.unwrap();
    to_server.close().await.unwrap();
    let answer: Value = serde_json::from_str(&message(&mut from_server).await).unwrap();
    assert_eq!((&answer["id"], &answer["error"]["data"]["code"]), (&json!(1), &json!(9)));
    ended(&mut from_server).await;
    let report = report.await.unwrap().unwrap();
    assert!(!report.end.is_clean(), "{}", report.end);
}

#[tokio::test]
async fn requests_in_flight_are_answered_before_messages_of_the_new_process() {
    let program = "echo '\"begun\"'; read line; read line; exit 9";
    let (client, _stop, report) = start(program, RestartPolicy::OnFailure, Some(Dialect::STRICT));
    let (mut to_server, mut from_server) = client.split();
    assert_eq!(message(&mut from_server).await, "\"begun\"");
    for id in [1, 2] {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": "m"});
        to_server.send(request.to_string()).await.unwrap();
    }
    for id in [1, 2] {
        let answer: Value = serde_json::from_str(&message(&mut from_server).await).unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32000)));
        assert_eq!(answer["error"]["data"]["code"], 9);
    }
    assert_eq!(message(&mut from_server).await, "\"begun\"");
    drop((to_server, from_server));
    report.await.unwrap();
}

#[tokio::test]
async fn each_request_is_answered_once_whichever_process_it_reaches() {
    let program = r#"while read -r line; do
        case $line in *fail*) exit 3;; esac
        id=${line#*'"id":'}; id=${id%%,*}
        echo '{"jsonrpc":"2.0","id":'$id',"result":1}'
    done"#;
    let (client, _stop, report) = start(program, RestartPolicy::OnFailure, Some(Dialect::STRICT));
    let (mut to_server, mut from_server) = client.split();
    let mut answered = Vec::new();
    for round in 0..5 {
        for (id, method) in [(2 * round, "fail"), (2 * round + 1, "m")] {
            let request = json!({"jsonrpc": "2.0", "id": id, "method": method}).to_string();
            to_server.send(request).await.unwrap();
        }
        for _ in 0..2 {
            let answer: Value = serde_json::from_str(&message(&mut from_server).await).unwrap();
            answered.push(answer["id"].as_i64().unwrap());
        }
    }
    to_server.close().await.unwrap();
    // Nothing follows the last response, so no request was answered twice.
    ended(&mut from_server).await;
    answered.sort_unstable();
    assert_eq!(answered, (0..10).collect::<Vec<_>>());
    report.await.unwrap();
}
