//! The real program at its limits: lines that are too long, and an end in the middle of a response.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tieline_agents::claude::{Error, Message, Options, Session, query};
use tieline_proto::ByteSize;
use tieline_transport::{ChannelConfig, CloseReason};

use crate::first_piece;
use crate::support::within;
use crate::world::{ModelRequest, Reply, World};

fn a_lot(_: &ModelRequest) -> Reply {
    Reply::Text("x".repeat(20_000_000))
}

#[tokio::test]
async fn only_the_oversize_line_is_lost() {
    let world = World::new(a_lot).await;
    let (session, mut inbox) = Session::connect(&world.options()).await.unwrap();
    session.say("a lot").await.unwrap();
    // The text is sent in the message and again in the result.
    let mut faults = 0;
    while faults < 2 {
        match within("a message", inbox.next()).await.unwrap() {
            Err(Error::Fault(_)) => faults += 1,
            other => drop(other.unwrap()),
        }
    }
    assert_eq!(session.counts().faults, 2);
    let status = session.request(json!({ "subtype": "mcp_status" }));
    within("the status after the faults", status).await.unwrap();
    within("the close", session.close()).await;
}

#[tokio::test]
async fn line_within_a_raised_limit_arrives() {
    let world = World::new(a_lot).await;
    let channel = ChannelConfig { max_message: ByteSize::mib(64), ..ChannelConfig::default() };
    let options = Options { channel, ..world.options() };
    let mut answer = within("the start", query("a lot", &options)).await.unwrap();
    let mut length = 0;
    while let Some(message) = within("a message", answer.next()).await {
        if let Message::Assistant(assistant) = message.unwrap() {
            length += assistant.text().len();
        }
    }
    assert_eq!(length, 20_000_000);
}

#[tokio::test]
async fn killed_program_is_a_failure_with_its_status() {
    let world = World::new(|_| Reply::Endless("on and")).await;
    let options = Options { include_partial_messages: true, ..world.options() };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    session.say("go on").await.unwrap();
    first_piece(&mut inbox).await;
    kill_process(Pid::from_raw(world.pid()).unwrap(), Signal::KILL).unwrap();
    let closed = within("the failure", async {
        loop {
            match inbox.next().await.expect("the failure is reported") {
                Err(Error::Closed(reason)) => return reason,
                other => drop(other.unwrap()),
            }
        }
    });
    let CloseReason::ChildExited(exit) = closed.await else { panic!("expected an exit") };
    assert!(exit.status.to_string().contains("9"), "{exit}");
    assert!(within("the end", inbox.next()).await.is_none());
    assert!(!session.is_ready());
    let refused = within("a call", session.interrupt()).await.unwrap_err();
    assert!(matches!(refused, Error::Closed(_)), "{refused}");
    let end = within("the close", session.close()).await;
    assert!(end.is_failure() && !end.by_us, "{end}");
}

#[tokio::test]
async fn close_during_a_response_is_by_us() {
    let world = World::new(|_| Reply::Endless("on and")).await;
    let options = Options { include_partial_messages: true, ..world.options() };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    session.say("go on").await.unwrap();
    first_piece(&mut inbox).await;
    let end = within("the close", session.close()).await;
    assert!(end.by_us && !end.is_failure(), "{end}");
    while let Some(message) = within("the rest", inbox.next()).await {
        message.unwrap();
    }
}

#[tokio::test]
async fn refusal_by_the_service_is_a_result_with_its_message() {
    let world = World::new(|_| Reply::Fails(400)).await;
    let mut answer = within("the start", query("anything", &world.options())).await.unwrap();
    let mut results = Vec::new();
    while let Some(message) = within("a message", answer.next()).await {
        match message {
            Ok(Message::Result(result)) => results.push(result),
            // After an error, the program exits with status 1.
            Err(Error::Closed(CloseReason::ChildExited(exit))) => {
                assert_eq!(exit.status.code(), Some(1), "{exit}");
            }
            other => drop(other.unwrap()),
        }
    }
    assert!(
        results[0].is_error() && results[0].text().unwrap().contains("it failed"),
        "{results:?}"
    );
}
