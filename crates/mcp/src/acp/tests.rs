#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod random;

use std::time::Duration;

use bytes::BytesMut;
use tieline_proto::json::Limits;

use super::*;
use crate::{Ending, Next, Place, Refusal};

const ZERO: Duration = Duration::ZERO;

/// A connection and its client, with the client's clock.
struct Client {
    acp: AcpConnection,
    now: Duration,
}

fn posted(body: &str) -> AcpPosted {
    AcpPosted::read(body.to_owned().into(), Limits::default()).unwrap()
}

fn head(lines: &[(&str, &str)]) -> AcpHead {
    AcpHead::of(lines.iter().map(|(name, value)| (*name, value.as_bytes()))).unwrap()
}

fn of_session(session: Option<&str>) -> AcpHead {
    session.map_or_else(AcpHead::default, |session| head(&[(ACP_SESSION_ID, session)]))
}

fn request(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
}

fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn error(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"no"}}}}"#)
}

fn in_session(session: &str) -> String {
    format!(r#"{{"sessionId":"{session}"}}"#)
}

fn update(session: &str) -> String {
    notification("session/update", &in_session(session))
}

impl Client {
    fn starting(limits: AcpLimits) -> Self {
        let opening = posted(&request("0", "initialize", "{}"));
        Self { acp: AcpConnection::new(ZERO, opening.opening().unwrap(), limits), now: ZERO }
    }

    fn open_with(limits: AcpLimits) -> Self {
        let mut client = Self::starting(limits);
        let response = result("0", r#"{"protocolVersion":1}"#);
        assert_eq!(client.program(&response), []);
        assert_eq!(client.acp.initialized(ZERO), Initialized::Accepted(response.into()));
        client
    }

    fn open() -> Self {
        Self::open_with(AcpLimits::default())
    }

    fn try_post(&mut self, session: Option<&str>, body: &str) -> Result<(), Refusal> {
        let text = self.acp.post(self.now, &of_session(session), &posted(body))?;
        assert_eq!(text, body, "messages are passed on unchanged");
        Ok(())
    }

    fn post(&mut self, session: Option<&str>, body: &str) {
        self.try_post(session, body).unwrap();
    }

    fn try_get(
        &mut self,
        session: Option<&str>,
        last: Option<&str>,
    ) -> Result<(Place, u64), Refusal> {
        let mut lines = vec![("accept", "text/event-stream")];
        lines.extend(session.map(|it| (ACP_SESSION_ID, it)));
        lines.extend(last.map(|it| ("last-event-id", it)));
        self.acp.get(self.now, &head(&lines))
    }

    fn get(&mut self, session: Option<&str>) -> Place {
        self.try_get(session, None).unwrap().0
    }

    fn program(&mut self, message: &str) -> Vec<u64> {
        let touched = self.acp.from_program(message.to_owned().into());
        self.acp.check_exact();
        touched
    }

    /// Creates a session through `session/new`, and opens its stream.
    fn session(&mut self, session: &str) -> Place {
        self.post(None, &request("1000", "session/new", "{}"));
        assert_eq!(self.program(&result("1000", &in_session(session))), [0]);
        self.get(Some(session))
    }

    /// Returns the stream's pending events, and whether it ends after them.
    fn read(&mut self, place: Place) -> (String, bool) {
        let mut out = BytesMut::new();
        loop {
            match self.acp.next(place, &mut out) {
                Next::Event => {}
                ended => return (String::from_utf8(out.to_vec()).unwrap(), ended == Next::End),
            }
        }
    }
}

fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

/// What a connection to a stream begins with.
fn opening(id: &str) -> String {
    format!("id: {id}\nretry: 1000\n\n")
}

#[test]
fn initialize_is_answered_on_its_post() {
    let mut client = Client::starting(AcpLimits::default());
    let until = Duration::from_secs(120);
    assert_eq!(client.acp.initialized(ZERO), Initialized::Wait(until));
    // Messages before the response wait for the stream of the connection.
    assert_eq!(client.program(&notification("hello", "{}")), [0]);
    let response = result("0", "{}");
    client.program(&response);
    assert_eq!(client.acp.initialized(until), Initialized::Accepted(response.into()));
    let place = client.get(None);
    let expected = opening("0.0") + &event("0.1", &notification("hello", "{}"));
    assert_eq!(client.read(place), (expected, false));
}

#[test]
fn connection_ends_if_initialize_fails() {
    let mut client = Client::starting(AcpLimits::default());
    client.program(&error("0"));
    assert_eq!(client.acp.initialized(ZERO), Initialized::Rejected(error("0").into()));
    assert!(client.acp.is_over());

    let mut client = Client::starting(AcpLimits::default());
    client.acp.end(Ending::Program);
    let Initialized::Ended(refusal) = client.acp.initialized(ZERO) else { panic!() };
    assert_eq!(refusal.status, 502);

    let mut client = Client::starting(AcpLimits::default());
    let Initialized::Ended(refusal) = client.acp.initialized(Duration::from_secs(120)) else {
        panic!()
    };
    assert_eq!((refusal.status, client.acp.is_over()), (504, true));

    // An invalid response is an error, too.
    let mut client = Client::starting(AcpLimits::default());
    client.program(r#"{"id":0,"result":{},"error":{}}"#);
    assert!(matches!(client.acp.initialized(ZERO), Initialized::Rejected(_)));
}

#[test]
fn each_message_goes_to_one_stream() {
    let mut client = Client::open();
    client.session("a");
    let (general, a, b) = (0, 1, 2);
    let prompt = |id, session| request(id, "session/prompt", &in_session(session));
    client.post(Some("a"), &prompt("1", "a"));
    client.post(Some("b"), &prompt("2", "b"));
    client.post(None, &request("3", "session/list", "{}"));
    client.post(None, &request("4", "authenticate", "{}"));
    client.post(Some("b"), &request("5", "session/load", &in_session("b")));
    client.post(Some("a"), &request("6", "session/fork", &in_session("a")));
    client.post(Some("d"), &request("7", "session/resume", &in_session("d")));
    client.post(None, &request("8", "_extension", "{}"));
    for (what, message, stream) in [
        ("an update", update("a"), a),
        ("a request", request("90", "session/request_permission", &in_session("a")), a),
        ("its cancellation", notification("$/cancel_request", r#"{"requestId":90}"#), a),
        ("a request without a session", request("91", "_ask", "{}"), general),
        ("its cancellation", notification("$/cancel_request", r#"{"requestId":91}"#), general),
        ("another cancellation", notification("$/cancel_request", r#"{"requestId":1}"#), general),
        ("a request about a request", request("92", "elicitation/create", r#"{"requestId":1}"#), a),
        (
            "a request about another",
            request("93", "elicitation/create", r#"{"requestId":4}"#),
            general,
        ),
        ("another notification", notification("_hello", "{}"), general),
        ("an error for an unknown session", error("2"), general),
        ("an update of a session that is loaded", update("b"), b),
        ("the response to session/load", result("5", "{}"), general),
        ("a response of a session", result("1", "{}"), a),
        ("a response without a session", result("3", "{}"), general),
        ("a response of the connection", error("4"), general),
        ("a forked session", result("6", &in_session("c")), a),
        ("an update of the forked session", update("c"), 3),
        ("a resumed session", result("7", "null"), 4),
        ("an update of the resumed session", update("d"), 4),
        ("an invalid response", r#"{"jsonrpc":"2.0","id":8}"#.into(), general),
    ] {
        assert_eq!(client.program(&message), [stream], "{what}");
    }
    for unknown in [result("1", "{}"), result("77", "{}"), "no JSON".into(), "[]".into()] {
        assert_eq!(client.program(&unknown), [], "{unknown}");
    }
    let batch = format!("[{},{}]", update("a"), notification("_hello", "{}"));
    assert_eq!(client.program(&batch), [a, general]);
}

#[test]
fn ids_are_answered_as_the_client_wrote_them() {
    let mut client = Client::open();
    for (id, answered) in [("1", "1"), (r#""\u0061""#, r#""a""#), ("1.0", "1"), ("-7", "-7")] {
        client.post(None, &request(id, "_call", "{}"));
        assert_eq!(client.program(&result(answered, "{}")), [0], "{id}");
        let place = client.get(None);
        let (text, _) = client.read(place);
        assert!(text.ends_with(&format!("data: {}\n\n", result(id, "{}"))), "{text}");
        client.acp.detach(ZERO, place);
    }
}

#[test]
fn messages_of_a_session_need_its_header() {
    let mut client = Client::open();
    client.session("a");
    let prompt = request("1", "session/prompt", &in_session("a"));
    let cancel = notification("session/cancel", &in_session("a"));
    let status = |client: &mut Client, session, body: &str| {
        client.try_post(session, body).err().map(|refusal| refusal.status)
    };
    for (session, body, expected) in [
        (None, &*prompt, Some(400)),
        (Some("b"), &prompt, Some(400)),
        (None, &cancel, Some(400)),
        (Some("b"), &cancel, Some(400)),
        (None, &request("2", "session/prompt", "{}"), Some(400)),
        (None, &request("2", "_extension", &in_session("a")), Some(400)),
        (None, &request("2", "initialize", "{}"), Some(400)),
        (Some("a"), &prompt, None),
        (Some("a"), &prompt, Some(400)), // The id is in use.
        (Some("a"), &cancel, None),
        (None, &notification("$/cancel_request", r#"{"requestId":1}"#), None),
        (Some("x"), &notification("$/cancel_request", r#"{"requestId":1}"#), None),
        (Some("a"), &request("2", "_extension", "[1]"), None),
    ] {
        assert_eq!(status(&mut client, session, body), expected, "{session:?} {body}");
    }
    client.program(&request("7", "session/request_permission", &in_session("a")));
    let permission = result("7", "{}");
    assert_eq!(status(&mut client, Some("b"), &permission), Some(400));
    assert_eq!(status(&mut client, Some("a"), &permission), None);
    // The official client for Rust sends no session with responses.
    client.program(&request("8", "session/request_permission", &in_session("a")));
    assert_eq!(status(&mut client, None, &result("8", "{}")), None);
    assert_eq!(status(&mut client, None, &result("unknown", "{}").replace("unknown", "9")), None);
    client.acp.check_exact();
}

#[test]
fn bodies_that_are_not_one_message_are_refused() {
    for (body, status, code) in [
        ("", 400, -32700),
        ("{", 400, -32700),
        ("[{}", 400, -32700),
        ("[]", 501, -32600),
        (&*format!("[{}]", request("1", "a", "{}")), 501, -32600),
        ("1", 400, -32600),
        (r#"{"jsonrpc":"2.0"}"#, 400, -32600),
        (r#"{"id":1,"method":"a"}"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"initialize"}"#, 400, -32600),
    ] {
        let read = AcpPosted::read(body.to_owned().into(), Limits::default());
        let refusal = read.unwrap_err();
        assert_eq!((refusal.status, refusal.code), (status, code), "{body}");
    }
}

#[test]
fn stream_is_resumed_after_the_last_event() {
    let mut client = Client::open();
    let first = client.session("a");
    for _ in 0..3 {
        client.program(&update("a"));
    }
    let all = |from: u64| (from..=3).map(|n| event(&format!("1.{n}"), &update("a"))).collect();
    let events: String = all(1);
    assert_eq!(client.read(first), (opening("1.0") + &events, false));
    // Without an id, what was written is not repeated, as in ACP without resumption.
    assert_eq!(client.try_get(Some("a"), None).unwrap_err().status, 409);
    client.acp.detach(ZERO, first);
    let again = client.get(Some("a"));
    assert_eq!(client.read(again), (opening("1.3"), false));
    // A client that has received nothing resumes from the first event, too.
    for last in ["1.0", "1.1", "1.3"] {
        let (place, missing) = client.try_get(Some("a"), Some(last)).unwrap();
        let events: String = all(last[2..].parse::<u64>().unwrap() + 1);
        assert_eq!(client.read(place), (opening(last) + &events, false));
        assert_eq!(missing, 0);
    }
    assert_eq!(client.read(again), (String::new(), true), "another connection has the stream");
    client.acp.detach(ZERO, again);
    client.acp.check_exact();
    for (session, last) in [
        (Some("a"), "1.4"),
        (Some("a"), "0.0"),
        (Some("a"), "1"),
        (Some("a"), "1.x"),
        (None, "1.1"),
        (Some("b"), "1.1"),
        (Some("b"), "2.0"),
        (Some("a"), "1.18446744073709551615"),
    ] {
        let refusal = client.try_get(session, Some(last)).unwrap_err();
        assert_eq!(refusal.status, 400, "{session:?} {last}");
    }
}

#[test]
fn client_may_open_streams_of_some_sessions_that_it_is_about_to_load() {
    let limits = AcpLimits { unknown_sessions: 2, sessions: 3, ..AcpLimits::default() };
    let mut client = Client::open_with(limits);
    let (a, _) = (client.get(Some("a")), client.get(Some("b")));
    assert_eq!(client.try_get(Some("c"), None).unwrap_err().status, 404);
    client.acp.detach(ZERO, a);
    let c = client.get(Some("c"));
    assert_eq!(client.try_get(Some("a"), None).unwrap_err().status, 404);
    // The agent names it, so that it is known, and its stream stays.
    client.program(&update("c"));
    client.acp.detach(ZERO, c);
    let place = client.get(Some("c"));
    assert!(client.read(place).0.ends_with(&event("3.1", &update("c"))));
    client.get(Some("d"));
    client.acp.check_exact();
    // There is room for three. A session without a stream uses that of the connection.
    assert_eq!(client.program(&update("e")), [0]);
    assert_eq!(client.program(&update("e")), [0]);
}

#[test]
fn stream_of_a_closed_session_is_removed_when_its_client_leaves() {
    let mut client = Client::open();
    let place = client.session("a");
    let close = request("1", "session/close", &in_session("a"));
    client.post(Some("a"), &close);
    assert_eq!(client.program(&result("1", "{}")), [1]);
    let (text, is_over) = client.read(place);
    assert!(text.ends_with(&event("1.1", &result("1", "{}"))) && !is_over, "{text}");
    client.acp.detach(ZERO, place);
    assert_eq!(client.try_get(Some("a"), Some("1.1")).unwrap_err().status, 400);
    // Without a reader, the response goes to the stream of the connection.
    let place = client.session("b");
    client.acp.detach(ZERO, place);
    client.post(Some("b"), &request("1", "session/delete", &in_session("b")));
    assert_eq!(client.program(&result("1", "{}")), [0]);
    // A refused one exists as before.
    let place = client.session("c");
    client.acp.detach(ZERO, place);
    client.post(Some("c"), &request("1", "session/close", &in_session("c")));
    assert_eq!(client.program(&error("1")), [3]);
}

#[test]
fn streams_end_after_their_messages_when_the_agent_ends() {
    let mut client = Client::open();
    let place = client.session("a");
    client.program(&update("a"));
    client.program(&update("b"));
    client.acp.end(Ending::Program);
    assert_eq!(client.read(place), (opening("1.0") + &event("1.1", &update("a")), true));
    // That of session b, and the response to session/new.
    assert_eq!(client.acp.lost(), 2);
    assert_eq!(client.try_get(None, None).unwrap_err().status, 404);
    assert_eq!(client.try_post(None, &request("1", "_a", "{}")).unwrap_err().status, 404);
}

#[test]
fn bytes_are_bounded() {
    let limits = AcpLimits { kept_bytes: 1000, waiting_bytes: 1000, ..AcpLimits::default() };
    let mut client = Client::open_with(limits);
    let place = client.session("a");
    let held = client.acp.held_bytes();
    for _ in 0..100 {
        client.program(&update("b"));
    }
    assert!(client.acp.held_bytes() < held + 3000, "{}", client.acp.held_bytes());
    let lost = client.acp.lost();
    assert!(lost > 80, "{lost}");
    let mut sent = 0;
    while client.acp.has_room() {
        client.program(&update("a"));
        sent += 1;
    }
    assert!((5..20).contains(&sent), "{sent}");
    client.read(place);
    assert!(client.acp.has_room());
    let (_, missing) = client.try_get(Some("b"), Some("2.0")).map_or((place, 0), |it| it);
    assert!(missing > 80, "{missing}");
    client.acp.forget();
    client.acp.check_exact();
}

#[test]
fn requests_are_bounded() {
    let limits = AcpLimits { calls: 2, id_bytes: 100, ..AcpLimits::default() };
    let mut client = Client::open_with(limits);
    let long = |n: u32| format!("\"{n}{}\"", "x".repeat(60));
    client.post(None, &request(&long(1), "_a", "{}"));
    let refusal = client.try_post(None, &request(&long(2), "_a", "{}")).unwrap_err();
    assert_eq!((refusal.status, refusal.id.as_deref()), (503, Some(long(2).as_bytes())));
    client.post(None, &request("2", "_a", "{}"));
    assert_eq!(client.try_post(None, &request("3", "_a", "{}")).unwrap_err().status, 503);
    client.program(&result("2", "{}"));
    client.post(None, &request("3", "_a", "{}"));
    for id in 10..20 {
        client.program(&request(&id.to_string(), "_ask", "{}"));
    }
    client.acp.check_exact();
}

#[test]
fn connection_without_a_stream_expires() {
    let mut client = Client::open();
    let idle = Duration::from_secs(30 * 60);
    assert_eq!(client.acp.deadline(), Some(idle));
    let place = client.get(None);
    assert_eq!((client.acp.deadline(), client.acp.abandoned_since(idle)), (None, None));
    assert!(!client.acp.expire(idle * 2));
    let left = Duration::from_secs(100);
    client.acp.detach(left, place);
    assert_eq!(client.acp.deadline(), Some(left + idle));
    assert_eq!(client.acp.abandoned_since(left), Some(left));
    client.now = left;
    client.post(None, &request("1", "_a", "{}"));
    assert_eq!(client.acp.abandoned_since(left), None, "a response may still be read");
    assert_eq!(client.acp.abandoned_since(left + Duration::from_secs(60)), Some(left));
    assert!(!client.acp.expire(left + idle - Duration::from_secs(1)));
    assert!(client.acp.expire(left + idle));
    assert!(client.acp.is_over());
    // A connection that starts has a client.
    let client = Client::starting(AcpLimits::default());
    assert_eq!((client.acp.deadline(), client.acp.abandoned_since(idle)), (None, None));
}

#[test]
fn headers_are_checked() {
    const LONG: &str = match std::str::from_utf8(&[b'x'; 257]) {
        Ok(long) => long,
        Err(_) => "",
    };
    for name in [ACP_CONNECTION_ID, ACP_SESSION_ID, "last-event-id"] {
        for lines in [&[(name, "a"), (name, "a")][..], &[(name, LONG)], &[(name, "é")]] {
            let lines = lines.iter().map(|(name, value)| (*name, value.as_bytes()));
            assert_eq!(AcpHead::of(lines).unwrap_err().status, 400, "{name}");
        }
    }
    let json = [("content-type", "application/json")];
    assert_eq!(head(&json).check_post(), Ok(()));
    assert_eq!(head(&[("content-type", "text/plain")]).check_post().unwrap_err().status, 415);
    assert_eq!(head(&[]).check_post().unwrap_err().status, 415);
    assert_eq!(head(&json).check_get().unwrap_err().status, 406);
    assert_eq!(head(&[]).need_connection().unwrap_err().status, 400);
}
