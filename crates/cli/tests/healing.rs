//! Tests of `serve --restart` with MCP servers that crash: for every process model, and over `/mcp`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::{Value, json};
use support::mcp::{ACCEPT, bearer, post_with};
use support::site::{Site, status_of};
use support::{Serve, Talk, request};

/// An MCP server of 2025-11-25 that refuses every request before `initialize`. The tool `exit` ends it.
const SERVER: &str = r#"
    id() { rest=${line#*'"id":'}; echo "${rest%%[,\}]*}"; }
    answer() { echo '{"jsonrpc":"2.0","id":'"$(id)"','"$1"'}'; }
    while read -r line; do
        case $line in
        *'"initialize"'*)
            is_open=1
            answer '"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s"}}' ;;
        *'"notifications/'*) ;;
        *'"name":"exit"'*) echo 'first of the last lines' >&2; echo 'out of luck' >&2; exit 3 ;;
        *'"id"'*)
            test "$is_open" && answer '"result":{"pid":'$$'}'
            test "$is_open" || answer '"error":{"code":1,"message":"not initialized"}' ;;
        esac
    done"#;

const PROGRAM: [&str; 4] = ["--", "sh", "-c", SERVER];
const MODELS: [&str; 4] = ["per-client", "shared", "per-user", "pool:2"];

fn call(id: u32, tool: &str) -> Value {
    request(id, "tools/call", json!({ "name": tool, "arguments": {} }))
}

/// Checks the response to a call whose program has crashed.
fn assert_crashed(answer: &Value) {
    let error = &answer["error"];
    assert_eq!(error["code"], -31000, "{answer}");
    let why = error["message"].as_str().unwrap();
    assert!(why.contains("exit status: 3; last line on stderr: out of luck"), "{answer}");
    assert_eq!(error["data"]["code"], 3, "{answer}");
    assert_eq!(error["data"]["stderr"], "first of the last lines\nout of luck\n", "{answer}");
}

#[test]
fn crashed_program_is_initialized_again_before_its_clients_are_served() {
    for model in MODELS {
        let options = ["--dialect", "mcp", "--restart", "on-failure", "--process", model];
        let serve = Serve::start([&options[..], &PROGRAM[..]].concat());
        let mut client = serve.client();
        client.call(&request(0, "initialize", json!({})));
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        let before = client.call(&call(1, "t"));
        assert_crashed(&client.call(&call(2, "exit")));
        let after = client.call(&call(3, "t"));
        assert!(after["result"]["pid"].is_u64(), "{model}: {after}");
        assert_ne!(before["result"]["pid"], after["result"]["pid"], "{model}");
        drop(client);
        serve.stop();
    }
}

/// Posts a message. Returns the JSON of the response.
#[track_caller]
fn post(site: &Site, headers: &str, message: &Value) -> Value {
    let answer = site.ask(&post_with(headers, &message.to_string()));
    assert_eq!(status_of(&answer), "200", "{answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

#[test]
fn mcp_session_continues_with_a_program_that_was_initialized_again() {
    for model in MODELS {
        let options = ["--dialect", "mcp", "--restart", "on-failure", "--process", model];
        let site = Site::start(&[&options[..], &PROGRAM[..]].concat());
        let headers = bearer() + ACCEPT;
        let initialize = request(0, "initialize", json!({})).to_string();
        let answer = site.ask(&post_with(&headers, &initialize));
        let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        let headers = format!("{headers}Mcp-Session-Id: {id}\r\n");
        let before = post(&site, &headers, &call(1, "t"));
        assert_crashed(&post(&site, &headers, &call(2, "exit")));
        let after = post(&site, &headers, &call(3, "t"));
        assert!(after["result"]["pid"].is_u64(), "{model}: {after}");
        assert_ne!(before["result"]["pid"], after["result"]["pid"], "{model}");
        site.stop();
    }
}

#[test]
fn client_without_a_session_continues_with_a_program_that_was_initialized_again() {
    let modern = |tool: &str| {
        let mut message = call(1, tool);
        let meta = &mut message["params"]["_meta"];
        meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        let headers = format!(
            "{}{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n",
            bearer()
        );
        (headers, message)
    };
    for model in MODELS {
        let options = ["--dialect", "mcp", "--restart", "on-failure", "--process", model];
        let site = Site::start(&[&options[..], &PROGRAM[..]].concat());
        let ask = |tool: &str| {
            let (headers, message) = modern(tool);
            post(&site, &headers, &message)
        };
        let before = ask("t");
        assert!(before["result"]["pid"].is_u64(), "{model}: {before}");
        assert_crashed(&ask("exit"));
        let after = ask("t");
        assert!(after["result"]["pid"].is_u64(), "{model}: {after}");
        assert_ne!(before["result"]["pid"], after["result"]["pid"], "{model}");
        site.stop();
    }
}
