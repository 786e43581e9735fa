//! Tests of programs of the modern era.

use super::*;

fn bench() -> Bench {
    let mut bench = Bench::new(Some(ProgramEra::Modern));
    assert_eq!(bench.sent(), Vec::<String>::new());
    bench
}

#[test]
fn ids_and_progress_tokens_are_replaced_and_restored() {
    let mut bench = bench();
    for id in [r#""a""#, r#""a""#, "9007199254740993", "1.50", r#""é""#] {
        let params = r#","name":"t","arguments":{"x":1.0}"#;
        let token = r#","progressToken":"tok""#;
        let call = bench.post(&read(&text(id, "tools/call", NO_CAPABILITIES, params, token)));
        let expected = text(&call.to_string(), "tools/call", NO_CAPABILITIES, params, "");
        let token = format!(r#","progressToken":{call}}}"#);
        assert_eq!(bench.sent(), [expected.replacen("{}}", &format!("{{}}{token}"), 1)]);
        let progress = |token: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
            )
        };
        bench.says(&progress(&call.to_string()));
        bench.says(&progress("999"));
        bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{call},"result":{{"id":{call}}}}}"#));
        let response = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"id":{call}}}}}"#);
        assert_eq!(bench.events(call), (vec![progress(r#""tok""#), response], true));
        bench.close(call);
    }
    assert!(bench.program.calls.is_empty());
    assert_eq!(bench.program.lost(), 0);
}

#[test]
fn status_follows_from_the_error() {
    let mut bench = bench();
    for (code, status) in
        [(-32601, 404), (-32020, 400), (-32021, 400), (-32022, 400), (-32602, 200), (-1, 200)]
    {
        let call = bench.post(&call("7", "t"));
        let error = |id: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"m"}}}}"#)
        };
        bench.says(&error(&call.to_string()));
        assert_eq!(bench.json(call), (status, error("7")));
    }
}

#[test]
fn closed_connection_cancels_its_request_and_no_other() {
    let mut bench = bench();
    let (one, other) = (bench.post(&call("1", "a")), bench.post(&call("1", "b")));
    bench.sent();
    bench.close(one);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert!(sent[0].contains(r#""method":"notifications/cancelled""#), "{sent:?}");
    assert!(sent[0].contains(&format!(r#""requestId":{one}"#)), "{sent:?}");
    assert!(sent[0].contains("io.modelcontextprotocol/protocolVersion"), "{sent:?}");
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{one},"result":{{}}}}"#));
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{other},"result":{{}}}}"#));
    assert_eq!(bench.json(other), (200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into()));
    assert_eq!(bench.sent(), Vec::<String>::new());
}

#[test]
fn log_messages_only_go_to_requests_with_a_level() {
    let mut bench = bench();
    let log = |level: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
        )
    };
    let silent = bench.post(&call("1", "a"));
    let level = r#","io.modelcontextprotocol/logLevel":"warning""#;
    let params = r#","name":"b""#;
    let loud = bench.post(&read(&text("2", "tools/call", NO_CAPABILITIES, params, level)));
    for level in ["info", "warning", "alert", "unknown"] {
        bench.says(&log(level));
    }
    assert_eq!(bench.events(loud), (vec![log("warning"), log("alert")], false));
    assert_eq!(bench.answer(silent), ModernAnswer::Wait(Duration::from_secs(15)));
}

#[test]
fn subscription_has_the_tag_of_its_client_until_it_ends() {
    let tagged = |method: &str, tag: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{tag}}}}}}}"#
        )
    };
    let result = |id: &str, tag: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{tag}}}}}}}"#
        )
    };
    for is_cancelled in [false, true] {
        let mut bench = bench();
        let listen = request(r#""s""#, "subscriptions/listen", r#","notifications":{}"#);
        let call = bench.post(&listen);
        let number = call.to_string();
        bench.says(&tagged("subscriptions/acknowledged", &number));
        bench.says(&tagged("tools/list_changed", &number));
        bench.says(&tagged("tools/list_changed", "77"));
        bench.says(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
        let expected = ["subscriptions/acknowledged", "tools/list_changed"];
        let expected = expected.map(|method| tagged(method, r#""s""#)).to_vec();
        assert_eq!(bench.events(call), (expected, false));
        if is_cancelled {
            bench.says(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number}}}}}"#
            ));
        }
        bench.says(&result(&number, &number));
        assert_eq!(bench.events(call), (vec![result(r#""s""#, r#""s""#)], true));
    }
}

#[test]
fn subscription_ends_with_a_result_if_the_program_ends() {
    let mut bench = bench();
    let call = bench.post(&request("1", "subscriptions/listen", ""));
    bench.says(&format!(
        r#"{{"jsonrpc":"2.0","id":{call},"error":{{"code":-31000,"message":"m"}}}}"#
    ));
    assert!(bench.json(call).1.contains(r#""resultType":"complete""#));
}

#[test]
fn slow_client_only_loses_its_own_request() {
    let limits = ModernLimits { waiting_bytes: 1000, ..ModernLimits::default() };
    let mut bench = Bench::within(Some(ProgramEra::Modern), limits);
    let token = r#","progressToken":1"#;
    let slow =
        bench.post(&read(&text("1", "tools/call", NO_CAPABILITIES, r#","name":"a""#, token)));
    let other = bench.post(&call("2", "b"));
    bench.sent();
    for _ in 0..20 {
        bench.says(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{slow}}}}}"#
        ));
    }
    assert_eq!(bench.events(slow), (vec![], true));
    assert_eq!(bench.sent().len(), 1);
    assert!(bench.program.lost() > 0);
    // A response may be longer than the limit.
    let long = "x".repeat(5000);
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{other},"result":{{"long":"{long}"}}}}"#));
    assert_eq!(bench.json(other).0, 200);
}

#[test]
fn requests_beyond_the_limit_are_refused() {
    let limits = ModernLimits { calls: 2, ..ModernLimits::default() };
    let mut bench = Bench::within(None, limits);
    bench.post(&call("1", "a"));
    let second = bench.post(&call("2", "a"));
    let refusal = bench.program.post(bench.now, &call("3", "a")).unwrap_err();
    assert_eq!((refusal.status, refusal.id.as_deref()), (503, Some(&b"3"[..])));
    bench.close(second);
    bench.post(&call("3", "a"));
}

#[test]
fn arguments_in_headers_are_checked_once_the_tools_are_known() {
    let mut bench = bench();
    let call_with = |header: Option<&str>, arguments: &str| {
        let more = format!(r#","name":"t","arguments":{arguments}"#);
        let text = text("1", "tools/call", NO_CAPABILITIES, &more, "");
        let body = Bytes::from(text);
        let posted = Posted::read(body, Limits::default()).unwrap();
        let headers = [(PROTOCOL_VERSION, "2026-07-28"), (METHOD, "tools/call"), (NAME, "t")];
        let headers = headers.into_iter().chain(header.map(|it| ("mcp-param-region", it)));
        let head = ModernHead::of(headers.map(|(name, value)| (name, value.as_bytes())));
        match Era::of(head, posted) {
            Ok(Era::Modern(request)) => request,
            other => panic!("{other:?}"),
        }
    };
    bench.post(&call_with(None, r#"{"place":{"region":"é"}}"#));
    let list = bench.post(&request("1", "tools/list", ""));
    bench.says(&format!(
        r#"{{"jsonrpc":"2.0","id":{list},"result":{{"tools":[{{"name":"t","inputSchema":{{"properties":{{"place":{{"type":"object","properties":{{"region":{{"type":"string","x-mcp-header":"Region"}}}}}}}}}}}}]}}}}"#
    ));
    for (header, arguments, code) in [
        (Some("x"), r#"{"place":{"region":"x"}}"#, None),
        (Some("=?base64?w6k=?="), r#"{"place":{"region":"\u00e9"}}"#, None),
        (None, r#"{"place":{}}"#, None),
        (None, r#"{"place":{"region":null}}"#, None),
        (Some("x"), "{}", None),
        (None, r#"{"place":{"region":"x"}}"#, Some(-32020)),
        (Some("y"), r#"{"place":{"region":"x"}}"#, Some(-32020)),
        (Some("x"), r#"{"place":{"region":"x","region":"y"}}"#, Some(-32602)),
        (Some("x"), r#"{"place":{"region":"x"},"place":{}}"#, Some(-32602)),
        (Some("=?base64?w6k?="), r#"{"place":{"region":"é"}}"#, Some(-32020)),
    ] {
        let posted = bench.program.post(bench.now, &call_with(header, arguments));
        let expected = code.map(|code| (400, code));
        let refused = posted.err().map(|refusal| (refusal.status, refusal.code));
        assert_eq!(refused, expected, "{header:?} {arguments}");
    }
}

#[test]
fn response_becomes_a_stream_after_a_while() {
    let mut bench = bench();
    let call = bench.post(&call("1", "a"));
    bench.later(Duration::from_secs(14));
    assert_eq!(bench.answer(call), ModernAnswer::Wait(Duration::from_secs(15)));
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.events(call), (vec![], false));
    bench.program.ended();
    let (events, is_over) = bench.events(call);
    assert!(events[0].contains(r#""id":1,"error":{"code":-31000"#), "{events:?}");
    assert!(is_over && bench.program.is_over());
}

#[test]
fn program_that_ends_leaves_no_request_without_a_response() {
    let mut bench = bench();
    let one = bench.post(&call("1", "a"));
    let listen = bench.post(&request("2", "subscriptions/listen", ""));
    bench.program.ended();
    let (status, body) = bench.json(one);
    assert_eq!(status, 502);
    assert!(body.contains("-31000"), "{body}");
    assert!(bench.json(listen).1.contains(r#""resultType":"complete""#));
    assert_eq!(bench.program.post(bench.now, &call("3", "a")).unwrap_err().status, 502);
}

#[test]
fn invalid_response_of_the_program_answers_its_request() {
    let mut bench = bench();
    let call = bench.post(&call("1", "a"));
    bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{call},"result":1,"error":{{"code":1}}}}"#));
    let (status, body) = bench.json(call);
    assert_eq!(status, 200);
    assert!(body.starts_with(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-31001"#), "{body}");
}

#[test]
fn result_that_is_not_an_object_becomes_an_error() {
    for bench in [bench, super::legacy::bench] {
        for result in ["5", "null", "[{}]", r#""{}""#, "true"] {
            let mut bench = bench();
            let call = bench.post(&call("1", "a"));
            bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{call},"result": {result} }}"#));
            let message = "the program's response is not valid: the result is not an object";
            let message = crate::modern::json::quoted(&format!("{message}; received: {result:?}"));
            let error = format!(r#"{{"code":-31001,"message":{message}}}"#);
            let expected = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#);
            assert_eq!(bench.json(call), (200, expected), "{result}");
            bench.check();
        }
    }
}

#[test]
fn program_without_requests_ends_when_it_has_been_idle() {
    let mut bench = bench();
    let call = bench.post(&call("1", "a"));
    bench.later(Duration::from_secs(1000));
    assert!(!bench.program.is_over());
    bench.close(call);
    assert_eq!(bench.program.deadline(), Some(Duration::from_secs(1300)));
    bench.later(Duration::from_secs(300));
    assert!(bench.program.is_over());
    assert_eq!(bench.program.era(), Some(ProgramEra::Modern));
}

#[test]
fn requests_of_a_program_are_refused() {
    let mut bench = bench();
    bench.says(r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}"#);
    assert!(bench.sent()[0].starts_with(r#"{"jsonrpc":"2.0","id":"q","error":{"code":-32601"#));
}

#[test]
fn memory_is_freed_by_ending_the_largest_request() {
    let mut bench = bench();
    let (small, large) = (bench.post(&call("1", "a")), bench.post(&call("2", "a")));
    for (call, size) in [(small, 10), (large, 1000)] {
        let text = "x".repeat(size);
        bench.says(&format!(r#"{{"jsonrpc":"2.0","id":{call},"result":{{"text":"{text}"}}}}"#));
    }
    assert!(bench.program.shed());
    bench.check();
    assert_eq!(bench.events(large), (vec![], true));
    assert_eq!(bench.json(small).0, 200);
    assert!(!bench.program.shed());
}
