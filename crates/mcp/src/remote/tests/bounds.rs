//! Cancellation, limits, the general stream, sessions that cannot be opened anew, and the end.

use std::time::Duration;

use bytes::Bytes;
use tieline_proto::{ByteSize, Exchange, ExchangeEvent};

use super::super::{Remote, RemoteLimits};
use super::{EVENTS, INITIALIZE, INITIALIZED, JSON, Line, RESULT, call, result};

const CANCEL: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;

fn limited(limits: RemoteLimits) -> Line {
    Line { remote: Remote::new(limits), now: Duration::ZERO }
}

#[test]
fn cancellation_is_passed_on_and_the_request_is_given_up() {
    let mut line = Line::opened();
    line.send(&call("1"));
    line.steps();
    line.send(CANCEL);
    assert_eq!(line.steps(), ["POST 5 notifications/cancelled s1 2025-06-18"]);
    line.answer(5, 202, &[], "");
    line.wait(10.0);
    assert_eq!(line.steps(), ["stop 4"]);
    // The id can be used again.
    line.send(&call("1"));
    assert_eq!(line.steps().len(), 1);
}

#[test]
fn request_that_is_not_sent_yet_is_cancelled_here() {
    let mut line = Line::new();
    line.send(INITIALIZE);
    line.send(&call("1"));
    line.send(CANCEL);
    assert_eq!(line.steps(), ["POST 1 initialize"]);
    line.answer(1, 200, JSON, RESULT);
    assert_eq!(line.steps().len(), 1, "only the result of initialize");
}

#[test]
fn response_above_the_limit_is_an_error() {
    let max_message = ByteSize::new(100);
    let limits = RemoteLimits { max_message, ..RemoteLimits::default() };
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{}"}}"#, "x".repeat(100));
    for (headers, body, is_stopped) in
        [(JSON, long.clone(), true), (EVENTS, format!("data: {long}\n\n"), false)]
    {
        let mut line = limited(limits);
        line.send(&call("1"));
        line.steps();
        line.head(1, 200, headers);
        line.body(1, &body);
        let steps = line.steps();
        assert_eq!(steps[0], "fault a message above the limit of 100B was discarded");
        assert_eq!(steps.contains(&"stop 1".into()), is_stopped);
        let last = steps.last().unwrap();
        assert!(last.contains("larger than --max-message (100B)"), "{steps:?}");
    }
    // Another message of this length does not end the request.
    let mut line = limited(limits);
    line.send(&call("1"));
    line.steps();
    line.head(1, 200, EVENTS);
    line.body(1, &format!("data: {{\"method\":\"x\",\"params\":\"{}\"}}\n\n", "x".repeat(100)));
    assert_eq!(line.steps().len(), 1);
    line.body(1, &format!("data: {}\n\n", result("1")));
    assert_eq!(line.steps(), [format!("deliver {}", result("1"))]);
}

#[test]
fn endless_body_of_an_error_is_cut_off() {
    let mut line = Line::new();
    line.send(&call("1"));
    line.steps();
    line.head(1, 500, &[]);
    for _ in 0..64 {
        line.body(1, &"x".repeat(1024));
    }
    let steps = line.steps();
    assert_eq!(steps[0], "stop 1");
    assert!(steps[1].contains("status 500: xxx"), "{steps:?}");
    // So is one that does not end in time.
    line.send(&call("1"));
    line.steps();
    line.head(2, 500, &[]);
    line.wait(10.0);
    assert_eq!(line.steps().len(), 2);
}

#[test]
fn requests_beyond_the_limit_and_ids_in_use_get_an_error() {
    let mut line = limited(RemoteLimits { requests: 2, queued: 1, ..RemoteLimits::default() });
    line.send(&call("1"));
    assert!(!line.remote.has_room());
    line.send(&call("2"));
    line.send(&call("3"));
    let steps = line.steps();
    assert!(steps[0].contains(r#""id":3,"error":{"code":-31503"#), "{steps:?}");
    line.send(&call("2"));
    assert!(line.error("2").starts_with(r#""code":-32600,"message":"another request"#));
    line.send("what");
    assert!(line.error("null").starts_with(r#""code":-32700"#));
    assert!(line.remote.held_bytes() > 2 * call("1").len());
}

#[test]
fn general_stream_comes_back() {
    let mut line = Line::new();
    line.send(INITIALIZE);
    line.send(INITIALIZED);
    line.steps();
    line.answer(1, 200, &[JSON[0], ("mcp-session-id", "s1")], RESULT);
    line.steps();
    line.answer(2, 202, &[], "");
    assert_eq!(line.steps(), ["GET 3 s1 2025-06-18"]);
    line.head(3, 200, EVENTS);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    line.body(3, &format!("id: g1\ndata: {ping}\n\n"));
    assert_eq!(line.steps(), [format!("deliver {ping}")]);
    line.fail(3, true);
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push((line.remote.wake_at().unwrap() - line.now).as_secs());
        line.now = line.remote.wake_at().unwrap();
        assert_eq!(line.steps(), ["GET 3 s1 2025-06-18 g1"]);
        line.fail(3, false);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    // A server that has forgotten the session says so.
    line.now = line.remote.wake_at().unwrap();
    line.steps();
    line.answer(3, 404, &[], "");
    let steps = line.steps();
    assert!(steps[0].starts_with("warn the server no longer has the session"), "{steps:?}");
    assert_eq!(steps[1].split(' ').next_back(), Some("initialize"));
}

#[test]
fn session_that_cannot_be_opened_anew_fails_what_waits_and_is_tried_again() {
    let mut line = Line::opened();
    for id in ["1", "2"] {
        line.send(&call(id));
        let steps = line.steps();
        let number: u64 = match id {
            "1" => {
                line.answer(4, 404, &[], "");
                let steps = line.steps();
                steps[1].split(' ').nth(1).unwrap().parse().unwrap()
            }
            _ => steps[1].split(' ').nth(1).unwrap().parse().unwrap(),
        };
        line.answer(number, 503, &[], "starting");
        let steps = line.steps();
        let [warning, error] = &steps[..] else { panic!("{steps:?}") };
        assert!(warning.starts_with("warn the session was lost"), "{steps:?}");
        assert!(error.contains(&format!(r#""id":{id},"error":{{"code":-31503"#)), "{error}");
        assert!(error.contains("a new one could not be opened"), "{error}");
        assert!(error.contains("starting"), "{error}");
    }
}

#[test]
fn request_of_the_server_is_refused_after_the_end_of_input() {
    let mut line = Line::opened();
    line.send(&call("1"));
    line.steps();
    line.head(4, 200, EVENTS);
    let ask = |id: &str| {
        let ask = r#""method":"elicitation/create","params":{}"#;
        format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},{ask}}}\n\n")
    };
    line.body(4, &ask("7"));
    line.steps();
    line.remote.end_input(line.now);
    let steps = line.steps();
    assert!(steps[0].contains(r#""id":7,"error":"#), "{steps:?}");
    line.body(4, &ask("8"));
    let steps = line.steps();
    assert!(steps[0].contains(r#""id":8,"error":"#), "{steps:?}");
    line.answer(5, 202, &[], "");
    line.answer(6, 202, &[], "");
    line.body(4, &format!("data: {}\n\n", result("1")));
    assert_eq!(line.steps(), [format!("deliver {}", result("1")), "end".into()]);
}

#[test]
fn batch_is_sent_whole_and_each_request_is_answered() {
    let mut line = Line::opened();
    line.send(&format!("[{},{}]", call("1"), call("2")));
    assert_eq!(line.steps().len(), 1);
    let answers = format!("[{}]", result("2"));
    line.event(
        4,
        ExchangeEvent::Head(200, vec![("content-type".into(), Bytes::from("application/json"))]),
    );
    line.body(4, &answers);
    line.event(4, ExchangeEvent::Ended);
    let steps = line.steps();
    assert_eq!(steps[0], format!("deliver {}", result("2")));
    assert!(steps[1].contains(r#""id":1,"error""#), "{steps:?}");
}
