mod bounds;
mod modern;
mod random;

use std::time::Duration;

use bytes::Bytes;
use tieline_proto::{Exchange, ExchangeEvent, ExchangeFailure, ExchangeMethod, ExchangeStep};

use super::{Remote, RemoteLimits};

/// A machine with a server that the test plays.
struct Line {
    remote: Remote,
    now: Duration,
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"h","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const RESULT: &str =
    r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}"#;
const EVENTS: &[(&str, &str)] = &[("content-type", "text/event-stream; charset=utf-8")];
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn call(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t"}}}}"#)
}

fn result(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
}

impl Line {
    fn new() -> Self {
        Self { remote: Remote::new(RemoteLimits::default()), now: Duration::ZERO }
    }

    /// A line whose session is open: POSTs 1 and 2, and 3, the general stream, which the server does not have.
    fn opened() -> Self {
        let mut line = Self::new();
        line.send(INITIALIZE);
        assert_eq!(line.steps(), ["POST 1 initialize"]);
        line.answer(1, 200, &[JSON[0], ("mcp-session-id", "s1")], RESULT);
        line.send(INITIALIZED);
        let initialized = "POST 2 notifications/initialized s1 2025-06-18";
        assert_eq!(line.steps(), [format!("deliver {RESULT}"), initialized.into()]);
        line.answer(2, 202, &[], "");
        assert_eq!(line.steps(), ["GET 3 s1 2025-06-18"]);
        line.answer(3, 405, &[], "");
        assert_eq!(line.steps(), [""; 0]);
        line
    }

    fn send(&mut self, message: &str) {
        self.remote.send(self.now, Bytes::copy_from_slice(message.as_bytes()));
    }

    fn event(&mut self, number: u64, event: ExchangeEvent) {
        self.remote.receive(self.now, number, event);
    }

    fn head(&mut self, number: u64, status: u16, headers: &[(&str, &str)]) {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        self.event(number, ExchangeEvent::Head(status, headers.collect()));
    }

    fn body(&mut self, number: u64, text: &str) {
        self.event(number, ExchangeEvent::Body(Bytes::copy_from_slice(text.as_bytes())));
    }

    fn answer(&mut self, number: u64, status: u16, headers: &[(&str, &str)], body: &str) {
        self.head(number, status, headers);
        self.body(number, body);
        self.event(number, ExchangeEvent::Ended);
    }

    fn fail(&mut self, number: u64, is_sent: bool) {
        let failure = ExchangeFailure { text: "gone".into(), is_sent, is_temporary: true };
        self.event(number, ExchangeEvent::Failed(failure));
    }

    fn wait(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// Returns what there is to do, as text.
    fn steps(&mut self) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some(step) = self.remote.step(self.now, 0.0) {
            steps.push(match step {
                ExchangeStep::Start(number, request) => {
                    let method = match request.method {
                        ExchangeMethod::Get => "GET",
                        ExchangeMethod::Post => "POST",
                        ExchangeMethod::Delete => "DELETE",
                    };
                    let body = String::from_utf8_lossy(&request.body);
                    let what =
                        body.split(r#""method":""#).nth(1).and_then(|it| it.split('"').next());
                    let what = what.unwrap_or(&body).to_owned();
                    let ours = |name: &str| name.starts_with("mcp-") || name == "last-event-id";
                    let headers = request.headers.into_iter().filter(|(name, _)| ours(name));
                    let headers = headers.map(|(_, value)| value);
                    let parts = [method.to_owned(), number.to_string(), what].into_iter();
                    let parts = parts.chain(headers).filter(|part| !part.is_empty());
                    parts.collect::<Vec<_>>().join(" ")
                }
                ExchangeStep::Stop(number) => format!("stop {number}"),
                ExchangeStep::Deliver(message) => {
                    format!("deliver {}", String::from_utf8_lossy(&message))
                }
                ExchangeStep::Fault(fault) => format!("fault {fault}"),
                ExchangeStep::Warn(text) => format!("warn {text}"),
                ExchangeStep::End => {
                    steps.push("end".to_owned());
                    break;
                }
            });
        }
        steps
    }

    /// Returns the only step, which must be an error for this id, without the parts that are always the same.
    fn error(&mut self, id: &str) -> String {
        let steps = self.steps();
        let [step] = &steps[..] else { panic!("not one step: {steps:?}") };
        let start = format!(r#"deliver {{"jsonrpc":"2.0","id":{id},"error":{{"#);
        step.strip_prefix(&start).unwrap_or_else(|| panic!("{step}")).to_owned()
    }
}

#[test]
fn session_begins_and_its_requests_name_it() {
    let mut line = Line::opened();
    line.send(&call("1"));
    line.send(&call(r#""b""#));
    assert_eq!(
        line.steps(),
        ["POST 4 tools/call s1 2025-06-18", "POST 5 tools/call s1 2025-06-18"]
    );
    // The answers come in any order, as JSON or as events, and in several lines.
    line.head(5, 200, EVENTS);
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
    line.body(5, &format!("data: {progress}\n\ndata: {}\n\n", result(r#""b""#)));
    line.answer(4, 200, JSON, "{\"jsonrpc\":\"2.0\",\n \"id\":1,\n \"result\":{}}\n");
    assert_eq!(
        line.steps(),
        [
            format!("deliver {progress}"),
            format!("deliver {}", result(r#""b""#)),
            r#"deliver {"jsonrpc":"2.0",  "id":1,  "result":{}}"#.into(),
        ]
    );
    let farewell = line.remote.farewell().unwrap();
    assert_eq!(farewell.method, ExchangeMethod::Delete);
    assert_eq!(farewell.headers[0], ("mcp-session-id".into(), "s1".into()));
    assert_eq!(line.remote.farewell(), None);
}

#[test]
fn messages_wait_for_initialize_and_for_the_notification_before_them() {
    let mut line = Line::new();
    line.send(INITIALIZE);
    line.send(INITIALIZED);
    line.send(&call("1"));
    line.send(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#);
    assert_eq!(line.steps(), ["POST 1 initialize"]);
    line.answer(1, 200, JSON, RESULT);
    // A response need not wait for the notification.
    assert_eq!(
        line.steps()[1..],
        [
            "POST 2 notifications/initialized 2025-06-18",
            r#"POST 3 {"jsonrpc":"2.0","id":9,"result":{}} 2025-06-18"#
        ]
    );
    // A server that does not accept it in time does not hold everything up.
    line.wait(30.0);
    let steps = line.steps();
    assert_eq!(steps[0], "stop 2");
    assert!(steps.contains(&"POST 5 tools/call 2025-06-18".into()), "{steps:?}");
}

#[test]
fn every_kind_of_refusal_is_an_error_that_says_what_to_do() {
    let html = ("content-type", "text/html");
    for (status, headers, body, says) in [
        (
            401,
            &[][..],
            r#"{"error":"invalid_token"}"#,
            r#""code":-31401,"message":"the server answered with status 401: {\"error\":\"invalid_token\"}. Check the token: set TIELINE_TOKEN or pass --token-file""#,
        ),
        (
            401,
            &[("www-authenticate", "Bearer resource_metadata=\"https://a/x\"")],
            "",
            "uses OAuth",
        ),
        (403, &[], "no\nmore", "status 403: no. The token may lack"),
        (307, &[("location", "https://other/mcp")], "", "use the URL https://other/mcp"),
        (404, &[html], "<h1>", "status 404: <h1>. Check the path"),
        (405, &[], "", "Check the path"),
        (503, &[("retry-after", "7")], "", "Try again in 7 s"),
        (500, &[], "", "Check the server's log"),
        // The server's own error is passed on.
        (
            400,
            JSON,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no session"}}"#,
            r#""code":-32000,"message":"no session"}"#,
        ),
        (200, &[html], "<p>", "content of the type \\\"text/html\\\""),
        (202, &[], "", "status 202 and without a message"),
        (200, JSON, "<p>", "does not answer the request: <p>"),
        (200, JSON, "", "does not answer the request"),
        (200, EVENTS, "data: x\n\n", ""),
    ] {
        let mut line = Line::new();
        line.send(&call("1"));
        assert_eq!(line.steps(), ["POST 1 tools/call"]);
        line.answer(1, status, headers, body);
        let steps = line.steps();
        let step = steps.last().unwrap();
        assert!(step.starts_with(r#"deliver {"jsonrpc":"2.0","id":1,"error":"#), "{steps:?}");
        assert!(step.contains(says), "{status}: {step}");
        line.remote.end_input(line.now);
        assert_eq!(line.steps(), ["end"], "{status}");
    }
}

#[test]
fn responses_to_other_requests_and_invalid_messages_are_dropped_visibly() {
    let mut line = Line::opened();
    line.send(&call("1"));
    line.steps();
    line.head(4, 200, EVENTS);
    line.body(4, &format!("data: {}\n\ndata: what\n\n", result("77")));
    let steps = line.steps();
    assert!(steps[0].contains("no request has its id 77"), "{steps:?}");
    assert!(steps[1].starts_with("fault "), "{steps:?}");
    // The id may be written in another way.
    line.body(4, &format!("event: message\ndata: {}\n\n", result("1.0")));
    assert_eq!(line.steps(), [format!("deliver {}", result("1"))]);
    line.body(4, &format!("data: {}\n\n", result("1")));
    assert!(line.steps()[0].contains("no request has its id 1"));
}

#[test]
fn stream_that_was_cut_is_resumed_from_its_last_event() {
    let mut line = Line::opened();
    line.send(&call("1"));
    line.steps();
    line.head(4, 200, EVENTS);
    line.body(4, "id: e1\nretry: 500\ndata:\n\n");
    line.fail(4, true);
    assert_eq!(line.steps(), [""; 0]);
    assert_eq!(line.remote.wake_at(), Some(Duration::from_millis(500)));
    line.wait(0.5);
    assert_eq!(line.steps(), ["GET 4 s1 2025-06-18 e1"]);
    // A server that is away for a moment is asked again.
    line.answer(4, 503, &[], "");
    line.wait(1.0);
    assert_eq!(line.steps(), ["GET 4 s1 2025-06-18 e1"]);
    line.head(4, 200, EVENTS);
    line.body(4, &format!("id: e2\ndata: {}\n\n", result("1")));
    assert_eq!(line.steps(), [format!("deliver {}", result("1"))]);
    line.event(4, ExchangeEvent::Ended);
    line.remote.end_input(line.now);
    assert_eq!(line.steps(), ["end"]);
}

#[test]
fn stream_that_cannot_be_resumed_is_an_error() {
    for (events, status, says) in [
        ("", 0, "gone before the response; the server may have handled the request"),
        ("id: e1\ndata:\n\n", 405, "cannot be resumed"),
        ("id: e1\ndata:\n\n", 404, "cannot be resumed"),
    ] {
        let mut line = Line::opened();
        line.send(&call("1"));
        line.steps();
        line.head(4, 200, EVENTS);
        line.body(4, events);
        line.fail(4, true);
        if status > 0 {
            line.wait(1.5);
            assert_eq!(line.steps().len(), 1);
            line.answer(4, status, &[], "");
        }
        let error = line.error("1");
        assert!(error.contains(says), "{error}");
    }
    // A server that only ever ends the stream.
    let mut line = Line::opened();
    line.send(&call("1"));
    line.steps();
    line.head(4, 200, EVENTS);
    line.body(4, "id: e1\ndata:\n\n");
    for attempt in 0.. {
        line.event(4, ExchangeEvent::Ended);
        line.wait(60.0);
        let steps = line.steps();
        if steps[0].starts_with("deliver") {
            assert!(steps[0].contains("resuming it failed 8 times"), "{steps:?}");
            assert_eq!(attempt, 8);
            break;
        }
        assert_eq!(steps, ["GET 4 s1 2025-06-18 e1"]);
        line.head(4, 200, EVENTS);
    }
}

#[test]
fn message_that_did_not_reach_the_server_is_sent_again() {
    let mut line = Line::opened();
    line.send(&call("1"));
    line.steps();
    for _ in 0..5 {
        line.fail(4, false);
        assert_eq!(line.steps(), [""; 0]);
        line.wait(5.0);
        assert_eq!(line.steps(), ["POST 4 tools/call s1 2025-06-18"]);
    }
    line.fail(4, false);
    assert_eq!(line.error("1"), r#""code":-31000,"message":"gone"}}"#);
    line.send(&call("1"));
    line.steps();
    line.fail(5, true);
    assert!(line.error("1").contains("may have handled the request"));
}

#[test]
fn lost_session_is_opened_anew_and_the_request_is_repeated_once() {
    let mut line = Line::opened();
    let level = r#"{"jsonrpc":"2.0","id":5,"method":"logging/setLevel","params":{"level":"info"}}"#;
    let subscribe =
        r#"{"jsonrpc":"2.0","id":6,"method":"resources/subscribe","params":{"uri":"a:b"}}"#;
    line.send(level);
    line.send(subscribe);
    assert_eq!(line.steps().len(), 2);
    line.answer(4, 200, JSON, &result("5"));
    line.answer(5, 200, JSON, &result("6"));
    assert_eq!(line.steps().len(), 2);

    line.send(&call("1"));
    line.send(&call("2"));
    line.send(&call("3"));
    assert_eq!(line.steps().len(), 3);
    line.answer(6, 404, &[], "gone");
    let steps = line.steps();
    assert!(steps[0].starts_with("warn the server no longer has the session"), "{steps:?}");
    let [_, opening] = &steps[..] else { panic!("{steps:?}") };
    // Our own requests take numbers, too.
    let number: u64 = opening.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(*opening, format!("POST {number} initialize"));
    // The others find out later; a new message waits.
    line.answer(7, 404, &[], "gone");
    line.send(&call("4"));
    assert_eq!(line.steps(), [""; 0]);
    let id = format!("\"tieline-own-{}\"", number - 3);
    line.answer(
        number,
        200,
        &[JSON[0], ("mcp-session-id", "s2")],
        &RESULT.replace(":0,", &format!(":{id},")),
    );
    let steps = line.steps();
    assert_eq!(steps, [format!("POST {} notifications/initialized s2 2025-06-18", number + 1)]);
    line.answer(number + 1, 202, &[], "");
    let steps = line.steps();
    let expected = |at: u64, what: &str| format!("POST {} {what} s2 2025-06-18", number + at);
    assert_eq!(
        steps,
        [
            format!("GET {} s2 2025-06-18", number + 2),
            expected(3, "logging/setLevel"),
            expected(4, "resources/subscribe"),
            expected(5, "tools/call"),
            expected(6, "tools/call"),
            expected(7, "tools/call"),
        ]
    );
}
