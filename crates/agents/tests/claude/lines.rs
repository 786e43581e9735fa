//! Invalid lines, many writers, unread messages, and the end of the line.

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
async fn only_a_line_that_is_not_json_is_lost_and_it_is_counted() {
    let (_directory, options) = scripted(
        r#"write_line 'Warning: not JSON'; write_line ''; write_line '{"type":"a"}'; write_line '{"type":'; write_line '{"type":"b"}'
        printf '\377\n'; write_line '{"type":"c"}'"#,
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
    // The program exited successfully, by itself.
    let end = cli.end().unwrap();
    assert!(!end.by_us && !end.is_failure(), "{end}");
    assert!(within("a write", cli.write(&json!({}))).await.is_err() && !cli.is_ready());
}

#[tokio::test]
async fn only_the_line_of_an_unrepresentable_value_is_lost() {
    let (_directory, options) =
        scripted(r#"write_line '{"type":"a","n":1e999}'; write_line '{"type":"b"}'"#);
    let (_session, mut inbox) = Session::connect(&options).await.unwrap();
    let first = within("a message", inbox.next()).await.unwrap();
    assert!(matches!(first, Err(Error::Unreadable(_))), "{first:?}");
    let second = within("a message", inbox.next()).await.unwrap().unwrap();
    assert_eq!(second, Message::Other(json!({ "type": "b" })));
    assert!(within("the end", inbox.next()).await.is_none());
}

#[tokio::test]
async fn keep_alive_is_not_a_message() {
    let (_directory, options) =
        scripted(r#"write_line '{"type":"keep_alive"}'; write_line '{"type":"a"}'"#);
    let (_session, mut inbox) = Session::connect(&options).await.unwrap();
    let first = within("a message", inbox.next()).await.unwrap().unwrap();
    assert_eq!(first, Message::Other(json!({ "type": "a" })));
}

#[tokio::test]
async fn unnoticed_failure_is_not_reported_as_closed_by_us() {
    let (_directory, options) = scripted("exit 3");
    let cli = Cli::connect(&options).await.unwrap();
    within("its end", async { while cli.control().ended().await.is_none() {} }).await;
    assert!(!cli.is_ready());
    let end = within("the close", cli.close()).await;
    assert!(!end.by_us && end.is_failure(), "{end}");
    // A remaining receiver still receives the failure.
    let last = within("the failure", cli.messages().next()).await;
    assert!(matches!(last, Some(Err(Error::Closed(_)))), "{last:?}");
}

#[tokio::test]
async fn line_sent_in_pieces_is_one_message() {
    let (_directory, options) =
        scripted(r#"printf '{"ty'; read_line; printf 'pe":"whole"'; read_line; printf '}\n'"#);
    let cli = Cli::connect(&options).await.unwrap();
    let mut messages = cli.messages();
    for _ in 0..2 {
        cli.write(&json!({})).await.unwrap();
    }
    let message = within("the message", messages.next()).await.unwrap().unwrap();
    assert_eq!(message, json!({ "type": "whole" }));
}

#[tokio::test]
async fn torn_last_line_is_not_a_message_and_the_exit_says_why() {
    let (_directory, options) = scripted(
        r#"write_line '{"type":"a"}'; echo 'out of luck' >&2; printf '{"type":"assist'; exit 3"#,
    );
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
async fn many_writers_never_tear_a_line() {
    const WRITERS: usize = 16;
    const EACH: usize = 40;
    let (_directory, options) = scripted("exec cat");
    let cli = Cli::connect(&options).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let cli = cli.clone();
        writers.spawn(async move {
            for n in 0..EACH {
                // Some messages are longer than a pipe buffer.
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
        // The messages of each writer stay in order.
        assert_eq!(message["n"], json!(next[writer]));
        next[writer] += 1;
    }
    cli.end_input().await.unwrap();
    assert!(within("the end", messages.next()).await.is_none());
    assert_eq!(cli.control().info().faults, 0);
}

/// Writes 40 MB in lines of 1,000 bytes.
const FLOOD: &str = r#"pad=$(printf '%0970d' 0)
    yes "{\"type\":\"flood\",\"pad\":\"$pad\"}" | head -n 40000; write_line '{"type":"last"}'"#;

#[tokio::test]
async fn unread_messages_are_bounded_and_not_lost() {
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
async fn close_needs_no_reader() {
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
async fn program_still_writing_at_close_exits_by_itself() {
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
async fn unwanted_messages_do_not_block_responses() {
    let (_directory, options) =
        scripted(&format!("{FLOOD}; read_line; answer \"$id\" 1; report_all"));
    let (session, inbox) = Session::connect(&options).await.unwrap();
    drop(inbox);
    let answer = within("an answer", session.request(json!({ "subtype": "any" }))).await;
    assert_eq!(answer.unwrap(), json!({ "ok": 1 }));
}

/// Reports its process id and that of a child. Neither exits by itself.
const STUBBORN: &str = r#"trap '' TERM
    sleep 100000 & write_line "{\"type\":\"pids\",\"pids\":[$$,$!]}"
    while :; do wait; done"#;

fn pids(message: &Value) -> [u32; 2] {
    let pid = |n: usize| u32::try_from(message["pids"][n].as_u64().unwrap()).unwrap();
    [pid(0), pid(1)]
}

#[tokio::test]
async fn close_kills_a_program_that_ignores_sigterm() {
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
async fn dropping_kills_the_program_at_once() {
    let (_directory, options) = scripted(STUBBORN);
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    let message = within("a message", inbox.next()).await.unwrap().unwrap();
    drop(session);
    drop(inbox);
    for pid in pids(message.raw()) {
        // This blocks the runtime, because killing must not depend on it.
        until_ended(pid);
    }
}

#[tokio::test]
async fn missing_program_is_an_error_with_its_path() {
    let (directory, options) = scripted("");
    let missing = directory.path().join("no-such-claude");
    let options = Options { program: Some(missing.clone()), ..options };
    let error = Session::connect(&options).await.unwrap_err();
    assert!(matches!(error, Error::Launch(_)));
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
}
