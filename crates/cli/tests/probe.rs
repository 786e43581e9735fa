//! Tests of `tieline serve --probe` with programs that run but no longer answer.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::{Value, json};
use support::mcp::{ACCEPT, Stream, bearer, post_with};
use support::site::{Site, status_of};
use support::{Program, Serve, Talk, request, server_everything, tieline};

/// An MCP server that reads nothing more after the method `hang`.
const SERVER: &str = r#"
    id() { rest=${line#*'"id":'}; echo "${rest%%[,\}]*}"; }
    answer() { echo '{"jsonrpc":"2.0","id":'"$(id)"',"result":'"$1"'}'; }
    while read -r line; do
        case $line in
        *'"initialize"'*) answer '{"protocolVersion":"2025-11-25","capabilities":{},"pid":'$$'}' ;;
        *'"hang"'*) echo 'waiting for a lock' >&2; exec sleep 1000 ;;
        *'"ping"'*) answer '{}' ;;
        *'"id"'*) answer '{"pid":'$$'}' ;;
        esac
    done"#;

const PROGRAM: [&str; 4] = ["--", "sh", "-c", SERVER];

fn open(client: &mut impl Talk) -> Value {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" } });
    let answer = client.call(&request(0, "initialize", params));
    client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    answer["result"]["pid"].clone()
}

fn assert_unresponsive(answer: &Value) {
    let error = &answer["error"];
    let why = error["message"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert!(why.starts_with("the program did not answer 3 pings and was stopped: "), "{why}");
    assert!(why.ends_with("; last line on stderr: waiting for a lock"), "{why}");
    // The program ignores the end of its input.
    assert_eq!(error["data"]["status"], "signal: 15 (SIGTERM)", "{answer}");
    assert_eq!(error["data"]["stderr"], "waiting for a lock\n", "{answer}");
}

#[test]
fn a_program_that_hangs_is_restarted_for_its_clients_whatever_the_model() {
    // Each takes several seconds, so they run side by side.
    std::thread::scope(|scope| {
        for model in ["per-client", "shared", "per-user", "pool:1"] {
            scope.spawn(move || {
                let options = ["--dialect", "mcp", "--probe=2s", "--restart", "on-failure"];
                let model = ["--process", model];
                let serve = Serve::start([&options[..], &model[..], &PROGRAM[..]].concat());
                let mut client = serve.client();
                let before = open(&mut client);
                assert_unresponsive(&client.call(&request(1, "hang", json!({}))));
                let answer = client.call(&request(2, "who", json!({})));
                let after = &answer["result"]["pid"];
                assert!(after.is_u64() && *after != before, "{model:?}: {answer}");
                drop(client);
                let finished = serve.stop();
                assert!(finished.stderr.contains("restarted=1"), "{finished:?}");
            });
        }
    });
}

#[test]
fn without_restarts_the_line_of_a_program_that_hangs_ends_with_the_reason() {
    let serve = Serve::start([&["--dialect", "mcp", "--probe=2s"][..], &PROGRAM[..]].concat());
    let mut client = serve.client();
    open(&mut client);
    assert_unresponsive(&client.call(&request(1, "hang", json!({}))));
    assert_eq!(client.line(), None);
    serve.program.wait_stderr("the line has ended: the program did not answer 3 pings");
    serve.stop();
}

#[test]
fn a_call_of_an_mcp_session_learns_that_its_program_hangs() {
    let site = Site::start(&[&["--probe=2s"][..], &PROGRAM[..]].concat());
    let headers = bearer() + ACCEPT;
    let initialize = request(0, "initialize", json!({})).to_string();
    let answer = site.ask(&post_with(&headers, &initialize));
    assert_eq!(status_of(&answer), "200", "{answer}");
    let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    let headers = format!("{headers}Mcp-Session-Id: {id}\r\n");
    let hang = request(1, "hang", json!({})).to_string();
    let mut stream = Stream::open(&site, &post_with(&headers, &hang));
    stream.wait("the program did not answer 3 pings and was stopped: ");
    stream.wait("waiting for a lock");
    site.stop();
}

/// Real servers answer pings, and their clients do not see the answers.
#[test]
fn a_server_that_works_is_left_alone() {
    let program = server_everything();
    let mut args = vec!["--dialect", "mcp", "--probe=1s", "--"];
    args.extend(program.iter().map(String::as_str));
    let serve = Serve::start(args);
    let mut client = serve.client();
    open(&mut client);
    // More than three pings are due meanwhile.
    let arguments = json!({ "duration": 5, "steps": 1 });
    let params = json!({ "name": "trigger-long-running-operation", "arguments": arguments });
    client.send(&request(1, "tools/call", params).to_string());
    loop {
        let message = client.json();
        assert!(!message.to_string().contains("tieline-probe"), "{message}");
        if message["id"] == 1 {
            assert!(message.get("result").is_some(), "{message}");
            break;
        }
    }
    drop(client);
    let finished = serve.stop();
    assert!(!finished.stderr.contains("did not answer"), "{finished:?}");
}

#[test]
fn probes_that_are_not_possible_are_refused_with_a_remedy() {
    for (args, why) in [
        (&["--probe"][..], "Add --dialect mcp if the program is an MCP server"),
        (&["--probe", "--dialect", "lsp"], "--probe: the dialect lsp has no ping"),
        (&["--probe", "--dialect", "xi"], "Leave out --probe"),
        (&["--probe=1m", "--dialect", "acp", "--listen", "http://127.0.0.1:0"], "acp has no ping"),
        (&["--probe", "--framing", "content-length", "--listen", "http://127.0.0.1:0"], "protocol"),
        (&["--probe=0s", "--dialect", "mcp"], "shorter than a second"),
        (&["--probe=often", "--dialect", "mcp"], "--probe"),
    ] {
        let finished = Program::run(tieline(["serve"]).args(args).args(["--", "cat"]), "");
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(why), "{args:?}: {finished:?}");
    }
}
