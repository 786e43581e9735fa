//! Tests of programs of earlier versions, and of how their era is determined.

use super::*;

const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true},"logging":{},"tasks":{}},"serverInfo":{"name":"s","version":"1"},"instructions":"Do."}"#;

/// Returns a program of an earlier version that is initialized.
pub(super) fn bench() -> Bench {
    let mut bench = Bench::new(Some(ProgramEra::Legacy));
    let sent = bench.sent();
    assert!(sent[0].contains(r#""id":1,"method":"initialize""#), "{sent:?}");
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{INITIALIZED}}}"#));
    assert_eq!(bench.sent(), [r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#]);
    bench
}

/// Returns a call whose client can be asked.
fn asking(id: &str, more: &str) -> ModernRequest {
    let more = format!(r#","name":"t","arguments":{{}}{more}"#);
    read(&text(id, "tools/call", ALL_CAPABILITIES, &more, ""))
}

fn asks(id: &str, method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"p":{id}}}}}"#)
}

fn result(id: u64, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// The time during which questions of a program are collected.
const GATHERED: Duration = Duration::from_millis(20);

#[test]
fn era_is_found_out_with_discover_first() {
    const NOT_FOUND: &str = r#""error":{"code":-32601,"message":"m"}"#;
    const MODERN: &str = r#""result":{"supportedVersions":["2026-07-28"]}"#;
    const OTHER: &str =
        r#""error":{"code":-32022,"message":"m","data":{"supported":["2099-01-01"]}}"#;
    const TOLD: &str =
        r#""error":{"code":-32022,"message":"m","data":{"supported":["2026-07-28"]}}"#;
    const OLD: &str = r#""result":{"supportedVersions":["2025-11-25"]}"#;
    const OPENED: &str = r#""result":{"protocolVersion":"2025-11-25","capabilities":{}}"#;
    use ProgramEra::{Legacy, Modern};
    for (discover, initialize, era, is_over) in [
        (Some(MODERN), None, Some(Modern), false),
        (Some(NOT_FOUND), Some(OPENED), Some(Legacy), false),
        (Some(OLD), Some(OPENED), Some(Legacy), false),
        (None, Some(OPENED), Some(Legacy), false),
        (Some(OTHER), None, None, true),
        // The next program is initialized at once.
        (Some(NOT_FOUND), Some(NOT_FOUND), Some(Legacy), true),
        (None, Some(TOLD), Some(Modern), true),
    ] {
        let mut bench = Bench::new(None);
        let call = bench.post(&request("7", "ping-like", ""));
        let sent = bench.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert!(sent[0].contains(r#""id":1,"method":"server/discover""#), "{sent:?}");
        match discover {
            Some(outcome) => bench.says(&format!(r#"{{"jsonrpc":"2.0","id":1,{outcome}}}"#)),
            None => bench.later(Duration::from_secs(10)),
        }
        if let Some(outcome) = initialize {
            let sent = bench.sent();
            assert!(sent[0].contains(r#""id":3,"method":"initialize""#), "{sent:?}");
            bench.says(&format!(r#"{{"jsonrpc":"2.0","id":3,{outcome}}}"#));
        }
        assert_eq!(bench.program.era(), era, "{discover:?} {initialize:?}");
        assert_eq!(bench.program.is_over(), is_over, "{discover:?} {initialize:?}");
        match (era, is_over) {
            (Some(_), true) => assert_eq!(bench.answer(call), ModernAnswer::Elsewhere),
            (None, true) => assert_eq!(bench.json(call).0, 502),
            _ => assert!(bench.sent().last().unwrap().contains("ping-like")),
        }
    }
}

#[test]
fn program_that_answers_late_is_of_the_modern_era() {
    let mut bench = Bench::new(None);
    bench.later(Duration::from_secs(10));
    bench.says(r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"]}}"#);
    bench.says(r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"m"}}"#);
    assert_eq!(bench.program.era(), Some(ProgramEra::Modern));
}

#[test]
fn program_that_ends_when_it_is_asked_is_of_an_earlier_version() {
    let mut bench = Bench::new(None);
    let call = bench.post(&call("1", "t"));
    bench.program.ended();
    assert_eq!(bench.answer(call), ModernAnswer::Elsewhere);
    assert_eq!(bench.program.era(), Some(ProgramEra::Legacy));
    // The next program is not asked with `server/discover`, so its end is its own failure.
    let mut next = Bench::new(Some(ProgramEra::Legacy));
    let call = next.post(&super::call("1", "t"));
    next.program.ended();
    assert_eq!(next.json(call).0, 502);
}

#[test]
fn discover_is_answered_from_the_initialization() {
    let mut bench = bench();
    let call = bench.post(&request("5", "server/discover", ""));
    assert_eq!(bench.sent(), Vec::<String>::new());
    let expected = r#"{"jsonrpc":"2.0","id":5,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"logging":{},"resources":{"subscribe":true},"tools":{"listChanged":true}},"ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"instructions":"Do."}}"#;
    assert_eq!(bench.json(call), (200, expected.into()));
}

#[test]
fn requests_and_results_are_translated() {
    for (method, more, result, expected) in [
        (
            "tools/list",
            "",
            r#"{"tools":[]}"#,
            r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[]}"#,
        ),
        (
            "resources/read",
            r#","uri":"u""#,
            r#"{"ttlMs":5}"#,
            r#"{"resultType":"complete","cacheScope":"private","ttlMs":5}"#,
        ),
        ("completion/complete", "", "{}", r#"{"resultType":"complete"}"#),
    ] {
        let mut bench = bench();
        let call = bench.post(&request("1", method, more));
        let params = format!("{{{}}}", more.trim_start_matches(','));
        let sent =
            format!(r#"{{"jsonrpc":"2.0","id":{call},"method":"{method}","params":{params}}}"#);
        assert_eq!(bench.sent(), [sent]);
        bench.says(&super::legacy::result(call, result));
        let expected = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{expected}}}"#);
        assert_eq!(bench.json(call), (200, expected));
    }
    let mut bench = bench();
    let call = bench.post(&request("1", "resources/read", r#","uri":"u""#));
    bench.says(&format!(
        r#"{{"jsonrpc":"2.0","id":{call},"error":{{"code":-32002,"message":"m","data":{{"uri":"u"}}}}}}"#
    ));
    let error =
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"m","data":{"uri":"u"}}}"#;
    assert_eq!(bench.json(call), (200, error.into()));
    let tasks = bench.post(&request("1", "tasks/other", ""));
    assert_eq!(bench.json(tasks).0, 404);
}

#[test]
fn only_the_envelope_is_removed_from_the_parameters() {
    let mut bench = bench();
    let in_meta = r#","traceparent":"00-1","progressToken":"t""#;
    let more = r#","name":"t","inputResponses":{},"arguments":{"a":[1.0]}"#;
    let call = bench.post(&read(&text("1", "tools/call", NO_CAPABILITIES, more, in_meta)));
    let expected = format!(
        r#"{{"jsonrpc":"2.0","id":{call},"method":"tools/call","params":{{"_meta":{{"traceparent":"00-1","progressToken":{call}}},"name":"t","arguments":{{"a":[1.0]}}}}}}"#
    );
    assert_eq!(bench.sent(), [expected]);
}

#[test]
fn program_asks_the_client_whose_turn_it_is() {
    let mut bench = bench();
    let first = bench.post(&asking("1", ""));
    bench.sent();
    bench.says(&asks(r#""e""#, "elicitation/create"));
    bench.says(&asks("8", "roots/list"));
    bench.later(GATHERED);
    let (status, body) = bench.json(first);
    let expected = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"input-1":{"method":"elicitation/create","params":{"p":"e"}},"input-2":{"method":"roots/list","params":{"p":8}}},"requestState":"state-1"}}"#;
    assert_eq!((status, &*body), (200, expected));

    // One answer is missing, so the client is asked for it again.
    let responses =
        r#","requestState":"state-1","inputResponses":{"input-1":{"action":"accept"},"x":{}}"#;
    let second = bench.post(&asking("2", responses));
    assert_eq!(bench.sent(), [r#"{"jsonrpc":"2.0","id":"e","result":{"action":"accept"}}"#]);
    let (_, body) = bench.json(second);
    assert!(body.contains(r#""inputRequests":{"input-2":"#), "{body}");

    let responses = r#","requestState":"state-2","inputResponses":{"input-2":{"roots":[]}}"#;
    let third = bench.post(&asking("3", responses));
    assert_eq!(bench.sent(), [r#"{"jsonrpc":"2.0","id":8,"result":{"roots":[]}}"#]);
    bench.says(&result(first, r#"{"done":true}"#));
    let expected = r#"{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","done":true}}"#;
    assert_eq!(bench.json(third), (200, expected.into()));
    assert!(bench.program.legacy.turn.is_none());
}

#[test]
fn state_is_checked() {
    let continued = |state: &str| format!(r#","requestState":"{state}","inputResponses":{{}}"#);
    for (state, time, other_arguments) in [
        ("state-2", Duration::ZERO, false),
        ("", Duration::ZERO, false),
        ("state-1", Duration::from_secs(5 * 60), false),
        ("state-1", Duration::ZERO, true),
    ] {
        let mut bench = bench();
        let call = bench.post(&asking("1", ""));
        bench.says(&asks("8", "roots/list"));
        bench.later(GATHERED);
        bench.json(call);
        assert!(bench.program.has_state("state-1"));
        bench.now += time;
        let more = continued(state);
        let request = match other_arguments {
            true => read(&text(
                "2",
                "prompts/get",
                ALL_CAPABILITIES,
                &format!(r#","name":"t"{more}"#),
                "",
            )),
            false => asking("2", &more),
        };
        let refusal = bench.program.post(bench.now, &request).unwrap_err();
        assert_eq!((refusal.status, refusal.code), (200, -32602), "{state} {time:?}");
        bench.check();
        // The call is still waiting, unless its time is over.
        bench.later(Duration::ZERO);
        assert_eq!(bench.program.has_state("state-1"), time.is_zero());
    }
    // This request is posted before it is known that the program is new.
    let mut bench = Bench::new(Some(ProgramEra::Legacy));
    let call = bench.post(&asking("1", &continued("of another program")));
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{INITIALIZED}}}"#));
    assert!(bench.json(call).1.contains("-32602"));
}

#[test]
fn call_whose_client_does_not_return_is_cancelled() {
    let mut bench = bench();
    let call = bench.post(&asking("1", ""));
    bench.says(&asks("8", "roots/list"));
    bench.later(GATHERED);
    bench.json(call);
    bench.sent();
    bench.later(Duration::from_secs(5 * 60));
    let sent = bench.sent();
    assert!(sent[0].starts_with(r#"{"jsonrpc":"2.0","id":8,"error":"#), "{sent:?}");
    let cancelled = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{call}}}}}"#
    );
    assert_eq!(sent[1], cancelled);
    assert!(!bench.program.is_occupied(&asking("2", "")));
}

#[test]
fn questions_of_a_call_that_has_ended_are_refused() {
    let refused = r#"{"jsonrpc":"2.0","id":8,"error":{"code":-32601,"message":"the call that needed this has ended"}}"#;
    for is_cancelled in [true, false] {
        let mut bench = bench();
        let call = bench.post(&asking("1", ""));
        bench.sent();
        bench.says(&asks("8", "roots/list"));
        match is_cancelled {
            true => bench.close(call),
            false => bench.says(&result(call, "{}")),
        }
        assert!(bench.sent().contains(&refused.to_owned()), "{is_cancelled}");
        assert!(bench.program.legacy.turn.is_none());
    }
    let mut bench = bench();
    let call = bench.post(&asking("1", ""));
    bench.says(&asks("8", "roots/list"));
    bench.later(GATHERED);
    bench.json(call);
    bench.says(&result(call, "{}"));
    assert!(bench.sent().contains(&refused.to_owned()));
}

#[test]
fn repeated_request_that_declares_less_is_not_asked_again() {
    let mut bench = bench();
    let call = bench.post(&asking("1", ""));
    bench.says(&asks("8", "roots/list"));
    bench.later(GATHERED);
    bench.json(call);
    bench.sent();
    let more = r#","name":"t","arguments":{},"requestState":"state-1""#;
    let next = bench.post(&request("2", "tools/call", more));
    let sent = bench.sent();
    assert!(
        sent.len() == 1 && sent[0].starts_with(r#"{"jsonrpc":"2.0","id":8,"error":"#),
        "{sent:?}"
    );
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{call},"error":{{"code":-1,"message":"no"}}}}"#));
    let (status, body) = bench.json(next);
    assert!(status == 400 && body.contains(r#""code":-32021"#), "{status} {body}");
}

#[test]
fn resources_that_requests_listen_to_count_as_memory() {
    let mut bench = bench();
    let before = bench.program.held_bytes();
    let uri = "u".repeat(4000);
    let filter = format!(r#","notifications":{{"resourceSubscriptions":["{uri}","short"]}}"#);
    let call = bench.post(&request("1", "subscriptions/listen", &filter));
    bench.sent();
    bench.events(call);
    assert!(bench.program.held_bytes() >= before + 8000);
    bench.close(call);
    bench.sent();
    assert_eq!(bench.program.held_bytes(), before);
}

#[test]
fn response_that_comes_while_the_client_is_asked_is_kept() {
    let mut bench = bench();
    let call = bench.post(&asking("1", ""));
    bench.says(&asks("8", "roots/list"));
    bench.later(GATHERED);
    bench.json(call);
    bench.says(&result(call, r#"{"gave":"up"}"#));
    let next = bench.post(&asking("2", r#","requestState":"state-1","inputResponses":{}"#));
    assert!(
        bench.json(next).1.contains(r#""id":2,"result":{"resultType":"complete","gave":"up"}"#)
    );
    assert!(bench.program.legacy.turn.is_none());
}

#[test]
fn calls_whose_clients_can_be_asked_run_one_at_a_time() {
    let mut bench = bench();
    let (one, two) = (bench.post(&call("1", "a")), bench.post(&call("2", "a")));
    let first = bench.post(&asking("3", ""));
    let second = bench.post(&asking("4", ""));
    let list = bench.post(&request("5", "tools/list", ""));
    let sent = |bench: &mut Bench| -> Vec<u64> {
        let id = |text: &String| text.split(r#""id":"#).nth(1)?.split(',').next()?.parse().ok();
        bench.sent().iter().filter_map(id).collect()
    };
    // A list request needs no turn.
    assert_eq!(sent(&mut bench), [one, two, list]);
    bench.says(&result(two, "{}"));
    assert_eq!(sent(&mut bench), [0; 0]);
    bench.says(&result(one, "{}"));
    assert_eq!(sent(&mut bench), [first]);
    bench.close(first);
    let messages = bench.sent();
    assert!(messages[0].contains("notifications/cancelled"), "{messages:?}");
    assert!(messages[1].contains(&format!(r#""id":{second}"#)), "{messages:?}");
}

#[test]
fn calls_that_would_wait_for_a_person_go_elsewhere() {
    let mut bench = bench();
    let first = bench.post(&asking("1", ""));
    let second = bench.post(&asking("2", ""));
    bench.says(&asks("8", "roots/list"));
    assert!(!bench.program.is_occupied(&asking("3", "")));
    bench.later(GATHERED);
    bench.json(first);
    assert_eq!(bench.answer(second), ModernAnswer::Elsewhere);
    bench.close(second);
    assert!(bench.program.is_occupied(&asking("3", "")));
    assert!(!bench.program.is_occupied(&request("3", "tools/list", "")));
}

#[test]
fn program_is_refused_what_the_client_has_not_declared() {
    let mut bench = bench();
    let call = bench.post(&call("1", "t"));
    bench.sent();
    bench.says(&asks("8", "sampling/createMessage"));
    bench.says(&asks("9", "ping"));
    let sent = bench.sent();
    assert!(sent[0].starts_with(r#"{"jsonrpc":"2.0","id":8,"error":{"code":-32601"#), "{sent:?}");
    assert_eq!(sent[1], r#"{"jsonrpc":"2.0","id":9,"result":{}}"#);
    bench.says(&result(call, r#"{"isError":true}"#));
    let (status, body) = bench.json(call);
    assert_eq!(status, 400);
    assert!(body.contains(r#""code":-32021"#), "{body}");
    assert!(body.contains(r#""data":{"requiredCapabilities":{"sampling":{}}}"#), "{body}");

    // A program that does not depend on the answer is not affected.
    let call = bench.post(&super::call("1", "t"));
    bench.says(&asks("8", "sampling/createMessage"));
    bench.says(&result(call, r#"{"content":[]}"#));
    assert_eq!(bench.json(call).0, 200);
}

#[test]
fn log_level_is_set_when_a_request_asks_for_it() {
    let mut bench = bench();
    let with_level = |level: &str| {
        let level = format!(r#","io.modelcontextprotocol/logLevel":"{level}""#);
        read(&text("1", "tools/call", NO_CAPABILITIES, r#","name":"t""#, &level))
    };
    bench.post(&with_level("warning"));
    let sent = bench.sent();
    assert!(
        sent[0].contains(r#""method":"logging/setLevel","params":{"level":"warning"}"#),
        "{sent:?}"
    );
    assert_eq!(sent.len(), 2);
    // The level is the most verbose one of the requests in flight.
    bench.post(&with_level("error"));
    assert_eq!(bench.sent().len(), 1);
    bench.post(&with_level("debug"));
    assert!(bench.sent()[0].contains(r#"{"level":"debug"}"#));
}

#[test]
fn changes_are_announced_to_those_who_listen() {
    let mut bench = bench();
    let listen = |id: &str, filter: &str| {
        request(id, "subscriptions/listen", &format!(r#","notifications":{filter}"#))
    };
    let tools = bench.post(&listen("1", r#"{"toolsListChanged":true,"promptsListChanged":true}"#));
    let (uris, more) =
        (r#"{"resourceSubscriptions":["u","v"]}"#, r#"{"resourceSubscriptions":["u"]}"#);
    let first = bench.post(&listen(r#""a""#, uris));
    let second = bench.post(&listen(r#""b""#, more));
    let sent = bench.sent();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent[0].contains(r#""method":"resources/subscribe","params":{"uri":"u"}"#), "{sent:?}");

    let tagged = |method: &str, tag: &str, more: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{tag}}}{more}}}}}"#
        )
    };
    let acknowledged = |tag: &str, granted: &str| {
        tagged("subscriptions/acknowledged", tag, &format!(r#","notifications":{granted}"#))
    };
    // The program has no prompts.
    assert_eq!(
        bench.events(tools),
        (vec![acknowledged("1", r#"{"toolsListChanged":true}"#)], false)
    );
    assert_eq!(bench.events(first), (vec![acknowledged(r#""a""#, uris)], false));
    assert_eq!(bench.events(second), (vec![acknowledged(r#""b""#, more)], false));

    bench.says(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    bench.says(
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"v"}}"#,
    );
    assert_eq!(bench.events(tools), (vec![tagged("tools/list_changed", "1", "")], false));
    let updated = tagged("resources/updated", r#""a""#, r#","uri":"v""#);
    assert_eq!(bench.events(first), (vec![updated], false));
    assert_eq!(bench.events(second), (vec![], false));

    bench.close(first);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(
        sent[0].contains(r#""method":"resources/unsubscribe","params":{"uri":"v"}"#),
        "{sent:?}"
    );
    bench.program.ended();
    let (events, is_over) = bench.events(second);
    assert!(events[0].contains(r#""id":"b","result":{"resultType":"complete""#), "{events:?}");
    assert!(is_over);
}

#[test]
fn idle_program_is_kept_while_a_person_is_asked() {
    let limits = ModernLimits { idle: Duration::from_secs(1), ..ModernLimits::default() };
    let mut bench = Bench::within(Some(ProgramEra::Legacy), limits);
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{INITIALIZED}}}"#));
    let call = bench.post(&asking("1", ""));
    bench.says(&asks("8", "roots/list"));
    bench.later(GATHERED);
    bench.json(call);
    // There is nothing to do before the person is given up.
    assert_eq!(bench.program.deadline(), Some(GATHERED + Duration::from_secs(5 * 60)));
    bench.later(Duration::from_secs(60));
    assert!(!bench.program.is_over());
    bench.later(Duration::from_secs(4 * 60));
    assert!(bench.program.is_over());
}

#[test]
fn calls_that_the_program_has_not_received_go_elsewhere_when_it_ends() {
    let mut bench = bench();
    let first = bench.post(&asking("1", ""));
    let second = bench.post(&asking("2", ""));
    bench.program.ended();
    assert_eq!(bench.json(first).0, 502);
    assert_eq!(bench.answer(second), ModernAnswer::Elsewhere);
}

#[test]
fn requests_that_wait_for_the_program_are_bounded() {
    let limits = ModernLimits { outgoing_bytes: 1000, ..ModernLimits::default() };
    let mut bench = Bench::within(None, limits);
    let mut posted = Vec::new();
    while bench.program.may_post() {
        bench.sent();
        posted.push(bench.post(&call("1", "t")));
    }
    assert!(posted.len() < 10, "{posted:?}");
    // Messages of the program are still taken.
    assert!(bench.program.has_room());
    bench.close(posted[0]);
    assert!(bench.program.may_post());
}
