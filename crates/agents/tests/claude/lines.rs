//! Lines that are none, many at once, more than anybody takes, and the end of them.

use std::time::Duration;

use serde_json::{Value, json};
use tieline_agents::claude::{Cli, Error, Message, Options, Session};
use tieline_proto::Fault;
use tieline_testkit::wait::until_ended;
use tieline_transport::{CloseReason, StopTimeouts};
use tokio::task::JoinSet;

use crate::scripted::scripted;
use crate::support::within;

#[tokio::test]
async fn what_is_not_json_costs_its_line_and_is_counted() {
    let (_directory, options) = scripted(
        r#"say 'Warning: not JSON'; say ''; say '{"type":"a"}'; say '{"type":'; say '{"type":"b"}'
        printf '\377\n'; say '{"type":"c"}'"#,
    );
    let cli = Cli::connect(&options).await.unwrap();
    let mut messages = cli.messages();
    let mut seen = Vec::new();
    while let Some(message) = within("a message", messages.next()).await {
        seen.push(match message {
            Ok(message) => message["type"].as_str().unwrap().to_owned(),
            Err(Error::Fault(Fault::NotJson(_))) => "not JSON".to_owned(),
            Err(error) => panic!("{error}"),
        });
    }
    assert_eq!(seen, ["not JSON", "a", "not JSON", "b", "not JSON", "c"]);
    assert_eq!(cli.control().info().faults, 3);
    // It went by itself, and well.
    let end = cli.end().unwrap();
    assert!(!end.by_us && !end.is_failure(), "{end}");
    assert!(within("a write", cli.write(&json!({}))).await.is_err() && !cli.is_ready());
}

#[tokio::test]
async fn a_value_that_nobody_can_hold_costs_its_line() {
    let (_directory, options) = scripted(r#"say '{"type":"a","n":1e999}'; say '{"type":"b"}'"#);
    let (_session, mut inbox) = Session::connect(&options).await.unwrap();
    let first = within("a message", inbox.next()).await.unwrap();
    assert!(matches!(first, Err(Error::Unreadable(_))), "{first:?}");
    let second = within("a message", inbox.next()).await.unwrap().unwrap();
    assert_eq!(second, Message::Other(json!({ "type": "b" })));
    assert!(within("the end", inbox.next()).await.is_none());
}

#[tokio::test]
async fn a_sign_of_life_is_no_message() {
    let (_directory, options) = scripted(r#"say '{"type":"keep_alive"}'; say '{"type":"a"}'"#);
    let (_session, mut inbox) = Session::connect(&options).await.unwrap();
    let first = within("a message", inbox.next()).await.unwrap().unwrap();
    assert_eq!(first, Message::Other(json!({ "type": "a" })));
}

#[tokio::test]
async fn a_failure_that_nobody_noticed_is_not_ours_to_have_closed() {
    let (_directory, options) = scripted("exit 3");
    let cli = Cli::connect(&options).await.unwrap();
    within("its end", async { while cli.control().ended().await.is_none() {} }).await;
    assert!(!cli.is_ready());
    let end = within("the close", cli.close()).await;
    assert!(!end.by_us && end.is_failure(), "{end}");
    // Whoever still takes messages learns of it.
    let last = within("the failure", cli.messages().next()).await;
    assert!(matches!(last, Some(Err(Error::Closed(_)))), "{last:?}");
}

#[tokio::test]
async fn a_line_in_pieces_is_one_message() {
    let (_directory, options) =
        scripted(r#"printf '{"ty'; hear; printf 'pe":"whole"'; hear; printf '}\n'"#);
    let cli = Cli::connect(&options).await.unwrap();
    let mut messages = cli.messages();
    for _ in 0..2 {
        cli.write(&json!({})).await.unwrap();
    }
    let message = within("the message", messages.next()).await.unwrap().unwrap();
    assert_eq!(message, json!({ "type": "whole" }));
}

#[tokio::test]
async fn a_torn_last_line_is_no_message_and_the_exit_says_why() {
    let (_directory, options) =
        scripted(r#"say '{"type":"a"}'; echo 'out of luck' >&2; printf '{"type":"assist'; exit 3"#);
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    assert!(within("a message", inbox.next()).await.unwrap().is_ok());
    let last = within("the failure", inbox.next()).await.unwrap();
    let Err(Error::Closed(CloseReason::ChildExited(exit))) = last else { panic!("{last:?}") };
    assert_eq!(exit.status.code(), Some(3));
    assert!(exit.truncated.is_some() && exit.to_string().contains("out of luck"), "{exit}");
    assert!(within("the end", inbox.next()).await.is_none());
    assert!(session.end().unwrap().is_failure());
}

#[tokio::test]
async fn many_write_at_once_and_no_line_is_torn() {
    const WRITERS: usize = 16;
    const EACH: usize = 40;
    let (_directory, options) = scripted("exec cat");
    let cli = Cli::connect(&options).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let cli = cli.clone();
        writers.spawn(async move {
            for n in 0..EACH {
                // Some are longer than a pipe.
                let pad = "x".repeat((writer * 7919 + n * 104_729) % 100_000);
                let message = json!({ "writer": writer, "n": n, "pad": pad });
                cli.write(&message).await.unwrap();
            }
        });
    }
    let mut messages = cli.messages();
    let mut next = [0; WRITERS];
    for _ in 0..WRITERS * EACH {
        let message = within("a message", messages.next()).await.unwrap().unwrap();
        let writer = usize::try_from(message["writer"].as_u64().unwrap()).unwrap();
        // Those of one writer keep their order.
        assert_eq!(message["n"], json!(next[writer]));
        next[writer] += 1;
    }
    cli.end_input().await.unwrap();
    assert!(within("the end", messages.next()).await.is_none());
    assert_eq!(cli.control().info().faults, 0);
}

/// Says 40 MB, a thousand bytes a line.
const FLOOD: &str = r#"pad=$(printf '%0970d' 0)
    yes "{\"type\":\"flood\",\"pad\":\"$pad\"}" | head -n 40000; say '{"type":"last"}'"#;

#[tokio::test]
async fn what_nobody_takes_is_bounded_and_not_lost() {
    let (_directory, options) = scripted(FLOOD);
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    let (mut taken, mut messages) = (0_u64, 0);
    while let Some(message) = within("a message", inbox.next()).await {
        taken += message.unwrap().raw().to_string().len() as u64 + 1;
        messages += 1;
        let read = session.control().info().bytes_in;
        assert!(read.saturating_sub(taken) < 18 << 20, "{read} read and {taken} taken");
    }
    assert_eq!((messages, session.counts().lost), (40_001, 0));
}

#[tokio::test]
async fn a_close_needs_nobody_who_takes() {
    let (_directory, options) = scripted("yes '{\"type\":\"flood\"}'");
    let stop = StopTimeouts { end_of_input: Duration::from_millis(100), ..options.stop };
    let options = Options { stop, ..options };
    let (session, _inbox) = Session::connect(&options).await.unwrap();
    let end = within("the close", session.close()).await;
    assert!(end.by_us && !end.is_failure(), "{end}");
    let cli = Cli::connect(&options).await.unwrap();
    let end = within("the close", cli.close()).await;
    assert!(end.by_us && !end.is_failure(), "{end}");
}

#[tokio::test]
async fn a_program_that_still_writes_when_it_is_closed_ends_by_itself() {
    let (_directory, options) = scripted(&format!("while read -r line; do :; done; {FLOOD}"));
    let patient = StopTimeouts { end_of_input: Duration::from_secs(60), ..options.stop };
    let options = Options { stop: patient, ..options };
    let cli = Cli::connect(&options).await.unwrap();
    let end = within("the close", cli.close()).await;
    assert!(end.by_us && end.reason.is_clean(), "{end}");
    let (session, _inbox) = Session::connect(&options).await.unwrap();
    let end = within("the close", session.close()).await;
    assert!(end.by_us && end.reason.is_clean(), "{end}");
    assert!(session.counts().lost > 0);
}

#[tokio::test]
async fn messages_that_nobody_wants_hold_up_no_answer() {
    let (_directory, options) = scripted(&format!("{FLOOD}; hear; answer \"$id\" 1; tell_all"));
    let (session, inbox) = Session::connect(&options).await.unwrap();
    drop(inbox);
    let answer = within("an answer", session.request(json!({ "subtype": "any" }))).await;
    assert_eq!(answer.unwrap(), json!({ "ok": 1 }));
}

/// Its process id and that of a child, neither of which ends by itself.
const STUBBORN: &str = r#"trap '' TERM
    sleep 100000 & say "{\"type\":\"pids\",\"pids\":[$$,$!]}"
    while :; do wait; done"#;

fn pids(message: &Value) -> [u32; 2] {
    let pid = |n: usize| u32::try_from(message["pids"][n].as_u64().unwrap()).unwrap();
    [pid(0), pid(1)]
}

#[tokio::test]
async fn a_close_ends_also_what_does_not_want_to() {
    let (_directory, options) = scripted(STUBBORN);
    let short = Duration::from_millis(50);
    let stop = StopTimeouts { end_of_input: short, terminate: short, drain: short };
    let options = Options { stop, ..options };
    let cli = Cli::connect(&options).await.unwrap();
    let message = within("a message", cli.messages().next()).await.unwrap().unwrap();
    let end = within("the close", cli.close()).await;
    assert!(end.by_us && !cli.is_ready(), "{end}");
    for pid in pids(&message) {
        until_ended(pid);
    }
}

#[tokio::test]
async fn what_is_dropped_is_ended_at_once() {
    let (_directory, options) = scripted(STUBBORN);
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    let message = within("a message", inbox.next()).await.unwrap().unwrap();
    drop(session);
    drop(inbox);
    for pid in pids(message.raw()) {
        // Blocks the runtime: nothing needs it to end.
        until_ended(pid);
    }
}

#[tokio::test]
async fn a_program_that_is_missing_is_an_error_with_the_place() {
    let (directory, options) = scripted("");
    let missing = directory.path().join("no-such-claude");
    let options = Options { program: Some(missing.clone()), ..options };
    let error = Session::connect(&options).await.unwrap_err();
    assert!(matches!(error, Error::Launch(_)));
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
}
