#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod random;

use super::*;

const ZERO: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(1);

/// A session and its client, with the client's clock.
struct Client {
    session: Session,
    now: Duration,
}

fn posted(body: &str) -> Posted {
    Posted::read(body.to_owned().into(), Limits::default()).unwrap()
}

fn head(lines: &[(&str, &str)]) -> Head {
    Head::of(lines.iter().map(|(name, value)| (*name, value.as_bytes()))).unwrap()
}

fn get(last: Option<&str>) -> Head {
    let mut lines = vec![("accept", "text/event-stream")];
    lines.extend(last.map(|last| ("last-event-id", last)));
    head(&lines)
}

fn request(id: &str, method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#)
}

fn call_with_token(id: &str, token: &str) -> String {
    let params = format!(r#"{{"_meta":{{"progressToken":{token}}}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#)
}

fn result(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
}

fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
}

fn progress(token: &str) -> String {
    notification("notifications/progress", &format!(r#"{{"progressToken":{token},"progress":1}}"#))
}

fn cancel(id: &str) -> String {
    notification("notifications/cancelled", &format!(r#"{{"requestId":{id}}}"#))
}

impl Client {
    fn open_with(limits: SessionLimits, version: &str) -> Self {
        let opening = posted(&request("0", "initialize"));
        let session = Session::new(ZERO, opening.opening().unwrap(), limits);
        let mut client = Self { session, now: ZERO };
        let place = client.post(&request("0", "initialize")).unwrap();
        let answer =
            format!(r#"{{"jsonrpc":"2.0","id":0,"result":{{"protocolVersion":"{version}"}}}}"#);
        client.program(&answer);
        assert_eq!(client.session.answer(ZERO, place), Answer::Json(answer.into()));
        client
    }

    fn open() -> Self {
        Self::open_with(SessionLimits::default(), "2025-11-25")
    }

    fn try_post(&mut self, head: &Head, body: &str) -> Result<Accepted, Refusal> {
        self.session.post(self.now, head, &posted(body))
    }

    fn post(&mut self, body: &str) -> Option<Place> {
        self.try_post(&Head::default(), body).unwrap().place
    }

    /// Posts a request whose response becomes an event stream.
    fn stream(&mut self, body: &str) -> Place {
        let place = self.post(body).unwrap();
        let Answer::Wait(until) = self.session.answer(self.now, place) else { panic!() };
        self.now = until;
        assert_eq!(self.session.answer(self.now, place), Answer::Events);
        place
    }

    fn get(&mut self, last: Option<&str>) -> Place {
        self.session.get(self.now, &get(last)).unwrap().0
    }

    fn program(&mut self, message: &str) -> Vec<u64> {
        self.session.from_program(self.now, message.to_owned().into())
    }

    /// Returns the stream's pending events, and whether it ends after them.
    fn read(&mut self, place: Place) -> (String, bool) {
        let mut out = BytesMut::new();
        loop {
            match self.session.next(place, &mut out) {
                Next::Event => {}
                ended => return (String::from_utf8(out.to_vec()).unwrap(), ended == Next::End),
            }
        }
    }
}

fn event(id: &str, data: &str) -> String {
    format!("event: message\nid: {id}\ndata: {data}\n\n")
}

const PRIMING: &str = "id: 2.0\nretry: 1000\ndata: \n\n";

#[test]
fn early_response_is_json_and_late_response_is_a_stream() {
    let mut client = Client::open();
    let place = client.post(&request("1", "ping")).unwrap();
    assert_eq!(client.session.answer(ZERO, place), Answer::Wait(Duration::from_millis(250)));
    client.program(&result("1"));
    assert_eq!(client.session.answer(ZERO, place), Answer::Json(result("1").into()));
    assert_eq!(client.session.held_bytes(), 0);
    let place = client.stream(&request("2", "ping"));
    assert_eq!(client.read(place), ("id: 3.0\nretry: 1000\ndata: \n\n".into(), false));
    client.program(&result("2"));
    assert_eq!(client.read(place), (event("3.1", &result("2")), true));
    // A message before the response makes the response a stream at once.
    let place = client.post(&request("3", "tools/call")).unwrap();
    client.program(&notification("notifications/message", "{}"));
    assert_eq!(client.session.answer(client.now, place), Answer::Events);
}

#[test]
fn priming_event_is_only_sent_to_clients_that_can_parse_it() {
    for (version, first) in [
        ("2024-11-05", ""),
        ("2025-03-26", ""),
        ("2025-06-18", ""),
        ("2025-11-25", PRIMING),
        ("2099-01-01", PRIMING),
    ] {
        let mut client = Client::open_with(SessionLimits::default(), version);
        let place = client.stream(&request("1", "tools/call"));
        assert_eq!(client.read(place), (first.into(), false), "{version}");
        client.program(&result("1"));
        let expected = match first {
            "" => format!("event: message\nid: 2.1\nretry: 1000\ndata: {}\n\n", result("1")),
            _ => event("2.1", &result("1")),
        };
        assert_eq!(client.read(place), (expected, true), "{version}");
    }
}

/// Stream 0 is the general one. Stream 2 belongs to the request `1` with the token `"t"`, and stream 3
/// belongs to the request `"x"`.
#[test]
fn every_message_of_the_program_goes_to_one_stream() {
    let list_changed = notification("notifications/tools/list_changed", "{}");
    let log = notification("notifications/message", "{}");
    let sampling = request("9", "sampling/createMessage");
    // Each row has a message, and its stream with no request, with one, with both, and with both and a
    // GET.
    for (message, expected) in [
        (&result("1"), [None, Some(2), Some(2), Some(2)]),
        (&result("\"x\""), [None, None, Some(3), Some(3)]),
        (&result("77"), [None, None, None, None]),
        (&progress("\"t\""), [Some(0), Some(2), Some(2), Some(2)]),
        (&progress("\"other\""), [Some(0), Some(0), Some(0), Some(0)]),
        (&list_changed, [Some(0), Some(0), Some(0), Some(0)]),
        (&log, [Some(0), Some(2), Some(3), Some(0)]),
        (&sampling, [Some(0), Some(2), Some(3), Some(0)]),
        (&cancel("9"), [Some(0), Some(0), Some(0), Some(0)]),
        (&"{\"id\":1,\"result\":1,\"error\":{}}".to_owned(), [None, Some(2), Some(2), Some(2)]),
        (&"a banner".to_owned(), [None, None, None, None]),
    ] {
        for (open, expected) in expected.into_iter().enumerate() {
            let mut client = Client::open();
            if open > 0 {
                client.stream(&call_with_token("1", "\"t\""));
            }
            if open > 1 {
                client.stream(&request("\"x\"", "tools/call"));
            }
            if open > 2 {
                client.get(None);
            }
            let touched = client.program(message);
            assert_eq!(touched, Vec::from_iter(expected), "{message} with {open}");
        }
    }
}

#[test]
fn cancellation_by_the_program_goes_to_the_stream_of_its_request() {
    let mut client = Client::open();
    client.stream(&request("1", "tools/call"));
    assert_eq!(client.program(&request("9", "elicitation/create")), [2]);
    client.stream(&request("2", "tools/call"));
    assert_eq!(client.program(&cancel("9")), [2]);
    assert_eq!(client.program(&cancel("9")), [0], "the request is no longer known");
    // An answered request is no longer known, either.
    assert_eq!(client.program(&request("10", "elicitation/create")), [3]);
    client.post(&result("10"));
    assert_eq!(client.program(&cancel("10")), [0]);
}

#[test]
fn canceled_request_ends_its_stream_without_a_response() {
    let mut client = Client::open();
    let place = client.stream(&request("1", "tools/call"));
    let accepted = client.try_post(&Head::default(), &cancel("1")).unwrap();
    assert_eq!((accepted.touched, accepted.place), (vec![2], None));
    assert_eq!(accepted.messages, [cancel("1")]);
    assert_eq!(client.read(place), (PRIMING.into(), true));
    assert!(client.program(&result("1")).is_empty(), "a late response is dropped");
    client.post(&request("1", "ping")).unwrap();
}

#[test]
fn response_with_another_spelling_of_the_id_is_rewritten() {
    let mut client = Client::open();
    let place = client.post(&request("1", "ping")).unwrap();
    client.program(&result("\"1\""));
    assert_eq!(client.session.answer(ZERO, place), Answer::Json(result("1").into()));
}

#[test]
fn refused_posts_change_nothing() {
    let version = |version| head(&[("mcp-protocol-version", version)]);
    let mut client = Client::open();
    client.post(&request("1", "tools/call")).unwrap();
    let batch = format!("[{},{}]", request("2", "a"), request("3", "b"));
    for (head, body, status, code) in [
        (version("2025-06-19"), request("2", "ping"), 400, -31400),
        (version("2026-07-28"), request("2", "ping"), 400, -31400),
        (version(""), request("2", "ping"), 400, -31400),
        (Head::default(), request("1", "ping"), 400, -32600),
        (Head::default(), request("2", "initialize"), 400, -32600),
        (Head::default(), batch, 400, -32600),
    ] {
        let refusal = client.try_post(&head, &body).unwrap_err();
        assert_eq!((refusal.status, refusal.code), (status, code), "{body}: {refusal:?}");
    }
    for known in ["2025-11-25", "2025-06-18", "2025-03-26"] {
        client.try_post(&version(known), &notification("n", "{}")).unwrap();
    }
    client.program(&result("1"));
    client.session.end(Ending::Deleted);
    let refusal = client.try_post(&Head::default(), &request("2", "ping")).unwrap_err();
    assert_eq!(refusal.status, 404);
    assert_eq!(client.session.get(ZERO, &get(None)).unwrap_err().status, 404);
}

#[test]
fn batch_is_split_and_its_stream_ends_after_the_last_response() {
    let mut client = Client::open_with(SessionLimits::default(), "2025-03-26");
    let batch =
        format!("[{},\n{},{}]", request("1", "a"), notification("n", "{}"), request("2", "b"));
    let accepted = client.try_post(&Head::default(), &batch).unwrap();
    assert_eq!(accepted.messages, [request("1", "a"), notification("n", "{}"), request("2", "b")]);
    let place = accepted.place.unwrap();
    assert_eq!(client.program(&format!("[{},{}]", result("2"), result("1"))), [2, 2]);
    assert_eq!(client.session.answer(ZERO, place), Answer::Events);
    let (text, is_end) = client.read(place);
    assert!(is_end && text.contains(&result("1")) && text.contains(&result("2")), "{text}");
    let twice = format!("[{},{}]", request("5", "a"), request("5", "b"));
    assert_eq!(client.try_post(&Head::default(), &twice).unwrap_err().code, -32600);
}

#[test]
fn stream_of_a_post_is_resumed_by_a_get() {
    let mut client = Client::open();
    let place = client.stream(&call_with_token("1", "1"));
    client.program(&progress("1"));
    client.read(place);
    // The connection is lost, and the response arrives in the meantime.
    client.session.detach(client.now, place);
    client.program(&result("1"));
    for (last, expected) in [
        ("2.0", event("2.1", &progress("1")) + &event("2.2", &result("1"))),
        ("2.1", event("2.2", &result("1"))),
        ("2.2", String::new()),
    ] {
        let resumed = client.get(Some(last));
        assert_eq!(resumed.stream(), 2);
        let (text, is_end) = client.read(resumed);
        let priming = format!("id: {last}\nretry: 1000\ndata: \n\n");
        assert_eq!((text, is_end), (priming + &expected, true), "{last}");
        client.session.detach(client.now, resumed);
    }
    for unknown in ["2.3", "9.1", "2", "2.", ".1", "2.+1", "2.1.1", "x", "2.18446744073709551616"] {
        let refusal = client.session.get(client.now, &get(Some(unknown))).unwrap_err();
        assert_eq!(refusal.status, 400, "{unknown}");
    }
}

#[test]
fn newer_connection_replaces_an_older_one_of_the_same_stream() {
    let mut client = Client::open();
    let first = client.get(None);
    client.program(&notification("notifications/tools/list_changed", "{}"));
    client.read(first);
    let refusal = client.session.get(ZERO, &get(None)).unwrap_err();
    assert_eq!((refusal.status, refusal.code), (409, -31409));
    let second = client.get(Some("0.0"));
    assert_eq!(client.session.next(first, &mut BytesMut::new()), Next::End);
    client.session.detach(LATER, first);
    assert!(client.read(second).0.contains("list_changed"), "the event was not received before");
    assert_eq!(client.session.get(ZERO, &get(None)).unwrap_err().status, 409);
    client.session.detach(LATER, second);
    client.get(None);
}

#[test]
fn kept_messages_are_bounded_and_losses_are_counted() {
    let limits = SessionLimits { kept_bytes: 1_000, finished: 2, ..SessionLimits::default() };
    let mut client = Client::open_with(limits, "2025-11-25");
    for _ in 0..100 {
        client.program(&notification("notifications/tools/list_changed", "{}"));
    }
    assert!(client.session.held_bytes() <= 1_000);
    let kept = client.session.held_bytes() / (64 + 72);
    assert!(client.session.lost() >= 100 - kept as u64 - 1, "{}", client.session.lost());
    let place = client.get(None);
    assert!(client.read(place).0.contains("list_changed"));
    client.session.detach(ZERO, place);
    for id in 1..10 {
        let place = client.stream(&request(&id.to_string(), "tools/call"));
        client.session.detach(ZERO, place);
        client.program(&result(&id.to_string()));
    }
    assert!(client.session.held_bytes() <= 1_000);
    assert!(client.session.streams.len() <= 3);
    // A single message above the limit is kept until messages for resumptions are dropped.
    let long = format!("\"{}\"", "x".repeat(5_000));
    client.program(&notification("notifications/tools/list_changed", &format!("{{\"a\":{long}}}")));
    let place = client.get(None);
    assert!(client.read(place).0.contains(&long));
    client.session.detach(ZERO, place);
    client.program(&notification("notifications/tools/list_changed", "{}"));
    client.session.forget();
    assert!(client.session.held_bytes() < 200, "{}", client.session.held_bytes());
}

#[test]
fn program_waits_only_for_slow_connections() {
    let limits = SessionLimits { waiting_bytes: 500, ..SessionLimits::default() };
    let mut client = Client::open_with(limits, "2025-11-25");
    let fill = |client: &mut Client| {
        for _ in 0..10 {
            client.program(&notification("notifications/tools/list_changed", "{}"));
        }
    };
    fill(&mut client);
    assert!(client.session.has_room(), "no connection");
    let place = client.get(None);
    assert!(!client.session.has_room());
    client.read(place);
    assert!(client.session.has_room());
    fill(&mut client);
    assert!(!client.session.has_room());
    client.session.detach(ZERO, place);
    assert!(client.session.has_room());
}

#[test]
fn idle_session_and_finished_streams_expire() {
    let mut client = Client::open();
    let limits = SessionLimits::default();
    assert_eq!(client.session.deadline(), Some(limits.idle));
    let place = client.stream(&request("1", "tools/call"));
    assert_eq!(client.session.deadline(), None, "a stream is open");
    client.program(&result("1"));
    client.read(place);
    client.session.detach(client.now, place);
    let finished = client.now + limits.finished_for;
    assert_eq!(client.session.deadline(), Some(finished));
    assert!(!client.session.expire(finished));
    assert_eq!(client.session.held_bytes(), 0);
    let idle = client.now + limits.idle;
    assert_eq!(client.session.deadline(), Some(idle));
    assert!(!client.session.expire(idle - Duration::from_nanos(1)));
    assert!(client.session.expire(idle) && client.session.is_over());
}

/// The task of a session sleeps until the deadline. A deadline that is never removed would keep the task
/// busy.
#[test]
fn finished_stream_expires_only_after_its_connection_has_ended() {
    let mut client = Client::open();
    let limits = SessionLimits::default();
    let place = client.stream(&request("1", "tools/call"));
    client.program(&result("1"));
    assert_eq!(client.session.deadline(), None, "the client has not received the whole stream yet");
    client.now += limits.finished_for * 2;
    assert!(!client.session.expire(client.now));
    assert_eq!(client.session.deadline(), None);
    client.session.detach(client.now, place);
    let finished = client.now + limits.finished_for;
    assert_eq!(client.session.deadline(), Some(finished));
    let resumed = client.get(Some("2.0"));
    assert_eq!(client.session.deadline(), None);
    assert!(client.read(resumed).0.contains(&result("1")), "the stream is kept for a resumption");
    client.session.detach(finished, resumed);
    assert!(!client.session.expire(finished + limits.finished_for));
    assert_eq!(client.session.held_bytes(), 0);
}

#[test]
fn too_many_open_requests_are_refused() {
    let limits = SessionLimits { calls: 2, ..SessionLimits::default() };
    let mut client = Client::open_with(limits, "2025-11-25");
    client.post(&request("1", "a"));
    client.post(&request("2", "a"));
    let refusal = client.try_post(&Head::default(), &request("3", "a")).unwrap_err();
    assert_eq!((refusal.status, refusal.id.as_deref()), (503, Some(&b"3"[..])));
    client.program(&result("1"));
    client.post(&request("3", "a"));
}

#[test]
fn ids_and_progress_tokens_are_counted_and_bounded() {
    let mut client = Client::open();
    let limits = SessionLimits::default();
    let long = |number: usize| format!("\"{number}{}\"", "x".repeat(4_000));
    let (mut number, mut refusal) = (0, None);
    while refusal.is_none() {
        number += 1;
        assert!(number <= limits.calls, "nothing is refused");
        let call = call_with_token(&long(number), &long(number));
        refusal = client.try_post(&Head::default(), &call).err();
    }
    let refusal = refusal.unwrap();
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(refusal.text.contains("262144 bytes"), "{refusal:?}");
    assert_eq!(number, limits.id_bytes / (3 * 4_002) + 1);
    let held = client.session.held_bytes();
    assert!((limits.id_bytes / 2..2 * limits.id_bytes).contains(&held), "{held}");
    // The ids of the program's requests are bounded in the same way, but these requests are never refused.
    for number in 0..2 * limits.calls {
        assert!(!client.program(&request(&long(number), "roots/list")).is_empty());
    }
    let messages = client.session.kept;
    let held = client.session.held_bytes() - held - messages;
    assert!((limits.id_bytes / 2..2 * limits.id_bytes).contains(&held), "{held}");
    client.session.requests.check_exact();
    client.program(&result(&long(1)));
    client.post(&call_with_token(&long(number), &long(number)));
    let token = format!("\"{}\"", "x".repeat(4_096));
    let refusal = client.try_post(&Head::default(), &call_with_token("1", &token)).unwrap_err();
    assert_eq!(
        (refusal.status, &*refusal.text),
        (400, "the progress token is longer than 4096 bytes")
    );
}

/// MCP, "Progress": tokens must be unique across all active requests.
#[test]
fn progress_token_that_is_in_use_is_refused() {
    let mut client = Client::open_with(SessionLimits::default(), "2025-03-26");
    let place = client.stream(&call_with_token("1", "7"));
    let same = call_with_token("2", "7");
    let two = format!("[{},{}]", call_with_token("3", "8"), call_with_token("4", "8"));
    for body in [&same, &two] {
        let refusal = client.try_post(&Head::default(), body).unwrap_err();
        assert_eq!(refusal.status, 400);
        assert!(refusal.text.contains("progress token has no response yet"), "{refusal:?}");
    }
    client.post(&call_with_token("5", "\"7\"")).unwrap();
    assert_eq!(client.program(&progress("7")), [2], "the first request still gets its progress");
    client.program(&result("1"));
    assert!(client.read(place).1);
    client.post(&same).unwrap();
    // A value that is not a valid token is ignored, even if it is repeated.
    for id in ["10", "11"] {
        client.post(&call_with_token(id, "null")).unwrap();
    }
}

#[test]
fn session_is_abandoned_when_no_connection_and_no_request_is_left() {
    let mut client = Client::open();
    let kept = SessionLimits::default().finished_for;
    client.now = LATER;
    assert_eq!(client.session.abandoned_since(client.now), Some(ZERO));
    let place = client.get(None);
    assert_eq!(client.session.abandoned_since(client.now * 100), None, "it has a stream");
    client.session.detach(client.now, place);
    assert_eq!(client.session.abandoned_since(client.now), Some(LATER));
    let place = client.stream(&request("1", "tools/call"));
    let left = client.now;
    client.session.detach(left, place);
    let soon = left + kept - Duration::from_nanos(1);
    assert_eq!(client.session.abandoned_since(soon), None, "its response can be resumed");
    assert_eq!(client.session.abandoned_since(left + kept), Some(left));
    client.program(&result("1"));
    assert_eq!(client.session.abandoned_since(soon), Some(left));
    client.session.end(Ending::Evicted);
    assert_eq!(client.session.abandoned_since(soon), None);
}

#[test]
fn requests_are_refused_with_the_reason_why_their_session_has_ended() {
    for (ending, status, text) in [
        (Ending::Deleted, 404, "the session was ended by a DELETE"),
        (Ending::Program, 502, "the program ended without a response"),
        (Ending::Idle, 404, "does not exist or has ended"),
        (Ending::Evicted, 404, "does not exist or has ended"),
        (Ending::Memory, 503, "too much memory"),
        (Ending::Resumed, 409, "another connection"),
    ] {
        let mut client = Client::open();
        let place = client.post(&request("1", "tools/call")).unwrap();
        match ending {
            Ending::Resumed => _ = client.get(Some("2.0")),
            ending => {
                client.session.end(ending);
                client.session.end(Ending::Idle);
            }
        }
        assert_eq!(client.session.answer(ZERO, place), Answer::Ended(ending));
        let refusal = ending.refusal();
        assert_eq!(refusal.status, status);
        assert!(refusal.text.contains(text), "{refusal:?}");
    }
}

#[test]
fn refused_initialization_ends_the_session_after_its_response() {
    let opening = posted(&request("0", "initialize"));
    for answer in [
        r#"{"jsonrpc":"2.0","id":0,"error":{"code":-1,"message":"no"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"result":{}}"#,
    ] {
        let session = Session::new(ZERO, opening.opening().unwrap(), SessionLimits::default());
        let mut client = Client { session, now: ZERO };
        let place = client.post(&request("0", "initialize")).unwrap();
        client.program(answer);
        assert!(client.session.is_over());
        assert_eq!(client.session.answer(ZERO, place), Answer::Json(answer.into()));
    }
}
