//! Messages of version 2026-07-28, and servers that only speak it.

use tieline_proto::{Exchange, ExchangeEvent};

use super::{EVENTS, INITIALIZE, INITIALIZED, JSON, Line, META, RESULT, result};

fn request(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{META}}}}}"#)
}

const TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"good","inputSchema":{"properties":{"a":{"type":"string","x-mcp-header":"Region"},"b":{"type":"integer","x-mcp-header":"n"}}}},{"name":"bad","inputSchema":{"properties":{"a":{"type":"object","x-mcp-header":"A"}}}}],"ttlMs":0}}"#;

#[test]
fn requests_repeat_parts_of_their_body_in_headers() {
    let mut line = Line::new();
    line.send(&request("1", "tools/list", ""));
    assert_eq!(line.steps(), ["POST 1 tools/list 2026-07-28 tools/list"]);
    line.answer(1, 200, JSON, TOOLS);
    let steps = line.steps();
    assert!(steps[0].starts_with("warn the tool \"bad\" was removed"), "{steps:?}");
    let kept = TOOLS.find(",{\"name\":\"bad\"").unwrap();
    let rest = TOOLS.find("],\"ttlMs\"").unwrap();
    assert_eq!(steps[1], format!("deliver {}{}", &TOOLS[..kept], &TOOLS[rest..]));
    for (name, arguments, headers) in [
        ("good", r#"{"a":"x y","b":42}"#, "good 42 x y"),
        ("good", r#"{"a":"é","b":null}"#, "good =?base64?w6k=?="),
        ("é", r#"{"a":"x"}"#, "=?base64?w6k=?="),
    ] {
        let params = format!(r#""name":"{name}","arguments":{arguments},"#);
        line.send(&request("2", "tools/call", &params));
        let steps = line.steps();
        let mut words: Vec<&str> = steps[0].split(' ').skip(3).collect();
        let mut expected: Vec<&str> = "2026-07-28 tools/call".split(' ').collect();
        expected.extend(headers.split(' '));
        words.sort_unstable();
        expected.sort_unstable();
        assert_eq!(words, expected);
        let number = line.remote.next;
        line.answer(number, 200, JSON, &result("2"));
        line.steps();
    }
    line.send(&request("3", "resources/read", r#""uri":"a:b","#));
    let steps = line.steps();
    assert!(steps[0].ends_with("resources/read 2026-07-28 resources/read a:b"), "{steps:?}");
}

#[test]
fn closing_the_connection_cancels() {
    let mut line = Line::new();
    line.send(&request("1", "tools/call", r#""name":"t","#));
    line.steps();
    line.head(1, 200, EVENTS);
    line.send(&format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":1,{META}}}}}"#
    ));
    assert_eq!(line.steps(), ["stop 1"]);
    line.remote.end_input(line.now);
    assert_eq!(line.steps(), ["end"]);
}

#[test]
fn stream_that_was_cut_is_lost_and_requests_of_the_server_are_dropped() {
    let mut line = Line::new();
    line.send(&request("1", "tools/call", r#""name":"t","#));
    line.steps();
    line.head(1, 200, EVENTS);
    line.body(1, "id: 7\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"roots/list\"}\n\n");
    assert!(line.steps()[0].contains("which protocol version 2026-07-28 does not allow"));
    line.fail(1, true);
    assert!(line.error("1").contains("may have handled"));
}

#[test]
fn error_of_a_server_of_an_earlier_version_reaches_the_host() {
    let mut line = Line::new();
    line.send(&request("1", "server/discover", ""));
    line.steps();
    let error = r#""code":-32000,"message":"Bad Request: Server not initialized"}"#;
    let body = format!(r#"{{"jsonrpc":"2.0","error":{{{error},"id":null}}"#);
    line.answer(1, 400, JSON, &body);
    assert_eq!(line.error("1"), format!("{error}}}"));
    // The host then begins a session.
    line.send(INITIALIZE);
    assert_eq!(line.steps(), ["POST 2 initialize"]);
}

#[test]
fn host_of_an_earlier_version_can_use_a_server_of_2026_07_28() {
    let mut line = Line::new();
    line.send(INITIALIZE);
    line.steps();
    let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no such method"}}"#;
    line.answer(1, 404, JSON, error);
    assert_eq!(line.steps(), ["POST 2 server/discover 2026-07-28 server/discover"]);
    let discovered = r#"{"jsonrpc":"2.0","id":"tieline-discover","result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}"#;
    line.answer(2, 200, JSON, discovered);
    let steps = line.steps();
    assert!(steps[0].contains(r#""protocolVersion":"2025-11-25""#), "{steps:?}");
    line.send(INITIALIZED);
    assert_eq!(line.steps(), [""; 0]);
    line.send(&super::call("1"));
    assert_eq!(line.steps(), ["POST 3 tools/call 2026-07-28 tools/call t"]);
    line.answer(3, 200, JSON, r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#);
    assert!(line.steps()[0].starts_with(r#"deliver {"jsonrpc":"2.0","id":1,"result""#));
    assert_eq!(line.remote.farewell(), None);
}

#[test]
fn open_subscription_does_not_delay_the_end() {
    let mut line = Line::new();
    line.send(&request("1", "subscriptions/listen", r#""notifications":{},"#));
    line.steps();
    line.head(1, 200, EVENTS);
    line.remote.end_input(line.now);
    assert_eq!(line.steps(), ["stop 1", "end"]);
}

#[test]
fn session_is_not_affected_by_events_after_a_stop() {
    let mut line = Line::opened();
    line.event(99, ExchangeEvent::Ended);
    line.body(99, RESULT);
    assert_eq!(line.steps(), [""; 0]);
}
