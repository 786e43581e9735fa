//! Tests of `tieline mcp`: tools, resources and prompts for people and scripts.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::{Value, json};
use support::site::{Site, TOKEN};
use support::{Finished, Program, server_everything, tieline};

fn run(args: &[&str]) -> Finished {
    let mut command = tieline(["mcp"]);
    Program::run(command.args(args).env("TIELINE_TOKEN", TOKEN), "")
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let finished = run(args);
    assert_eq!(finished.code, Some(0), "{args:?}: {finished:?}");
    finished.stdout
}

#[track_caller]
fn fails(args: &[&str], code: i32, says: &str) {
    let finished = run(args);
    assert_eq!(finished.code, Some(code), "{args:?}: {finished:?}");
    assert!(finished.stderr.contains(says), "{says}: {finished:?}");
    assert_eq!(finished.stdout, "", "{args:?}");
}

/// Returns an endpoint of a server in a few lines, which answers with `cases`.
fn script(cases: &str) -> String {
    let script = format!(
        r#"answer() {{ echo '{{"jsonrpc":"2.0","id":'"$id"',"'$1'":'"$2"'}}'; }}
        while read -r line; do
            id=${{line#*'"id":'}}; id=${{id%%,*}}
            case $line in
            {cases}
            *'"initialize"'*) answer result '{{"protocolVersion":"2025-11-25"}}' ;;
            *'"id"'*) answer error '{{"code":-32601,"message":"no such method"}}' ;;
            esac
        done"#
    );
    format!("exec:{}", json!(["sh", "-c", script]))
}

/// The same commands work on a program and on a URL.
#[test]
fn real_server_is_used_on_stdio_and_over_http() {
    let serve = server_everything();
    let serve = serve.each_ref().map(|it| &**it);
    let site = Site::start(&[&["--"][..], &serve].concat());
    for endpoint in [format!("exec:{}", json!(serve)), format!("{}/mcp", site.endpoint)] {
        let endpoint = &*endpoint;
        let tools = succeeds(&["tools", endpoint]);
        let echo = "echo\n  Echoes back the input string\n    message: string (required) - Message to echo\n";
        assert!(tools.contains(echo), "{tools}");
        let tools: Value = serde_json::from_str(&succeeds(&["tools", endpoint, "--json"])).unwrap();
        assert!(tools.as_array().unwrap().iter().any(|tool| tool["name"] == "get-sum"), "{tools}");
        // The schema says that this is a string, and these are numbers.
        assert_eq!(succeeds(&["call", endpoint, "echo", "message=5"]), "Echo: 5\n");
        let sum = "The sum of 2 and 3 is 5.\n";
        assert_eq!(succeeds(&["call", endpoint, "get-sum", "a=2", "b=3"]), sum);
        assert_eq!(succeeds(&["call", endpoint, "get-sum", r#"{"a":2,"b":3}"#]), sum);
        let result = succeeds(&["call", endpoint, "get-sum", "a=2", "b=3", "--json"]);
        let result: Value = serde_json::from_str(&result).unwrap();
        assert_eq!(result["content"][0]["text"], sum.trim_end());
        fails(&["call", endpoint, "get-sum", "a=x"], 1, "the tool get-sum has failed: ");
        let resources = succeeds(&["resources", endpoint]);
        assert!(resources.contains("demo://resource/static/document/features.md\n"), "{resources}");
        assert!(resources.contains("demo://resource/dynamic/text/{resourceId}\n"), "{resources}");
        let uri = "demo://resource/static/document/features.md";
        assert!(succeeds(&["resources", endpoint, uri]).starts_with("# "));
        assert!(succeeds(&["prompts", endpoint]).contains("args-prompt\n"));
        let prompt = succeeds(&["prompts", endpoint, "args-prompt", "city=Rome"]);
        assert_eq!(prompt, "user: What's weather in Rome?\n");
    }
    let finished =
        Program::run(&mut tieline(["mcp", "tools", &format!("{}/mcp", site.endpoint)]), "");
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("set TIELINE_TOKEN or pass --token-file"), "{finished:?}");
    site.stop();
}

#[test]
fn all_pages_of_a_list_are_read() {
    let pages = r#"
        *'"cursor":"2"'*) answer result '{"tools":[{"name":"c"}],"nextCursor":null}' ;;
        *'"cursor":"1"'*) answer result '{"tools":[{"name":"b"}],"nextCursor":"2"}' ;;
        *'"tools/list"'*) answer result '{"tools":[{"name":"a"}],"nextCursor":"1"}' ;;"#;
    assert_eq!(succeeds(&["tools", &script(pages)]), "a\nb\nc\n");
    let json = succeeds(&["tools", &script(pages), "--json"]);
    assert_eq!(json, "[{\"name\":\"a\"},{\"name\":\"b\"},{\"name\":\"c\"}]\n");
    for (answer, says) in [
        (r#"{"tools":[],"nextCursor":"1"}"#, "the cursor of the next page is that of this page"),
        (r#"{"tools":7}"#, "the result has no list \"tools\""),
    ] {
        let cases = format!(r#"*'"tools/list"'*) answer result '{answer}' ;;"#);
        fails(&["tools", &script(&cases)], 1, says);
    }
    // A server can go on forever.
    let endless = r#"*'"tools/list"'*)
        n=$((n + 1)); answer result '{"tools":[],"nextCursor":"'$n'"}' ;;"#;
    fails(&["tools", &script(endless)], 1, "more than 1000 pages");
}

#[test]
fn failures_of_tools_and_of_servers_have_exit_status_1() {
    let cases = r#"
        *'"name":"bad"'*) answer result '{"isError":true,"content":[{"type":"text","text":"it broke"}]}' ;;
        *'"name":"wrong"'*) answer error '{"code":-32602,"message":"unknown tool"}' ;;
        *'"name":"exit"'*) echo 'last words' >&2; exit 3 ;;"#;
    let endpoint = script(cases);
    fails(&["call", &endpoint, "bad"], 1, "the tool bad has failed: it broke");
    fails(&["call", &endpoint, "wrong"], 1, "tools/call: error -32602: unknown tool");
    fails(&["call", &endpoint, "exit"], 1, "last words");
    fails(&["resources", &endpoint], 1, "no such method");
    // Scripts get the result of a tool that has failed, too.
    let finished = run(&["call", &endpoint, "bad", "--json"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.starts_with(r#"{"isError":true"#), "{finished:?}");
    fails(&["tools", "exec:cat"], 1, "exec:cat: initialize: error -32601");
    let silent = r#"exec:["sh","-c","while read -r line; do :; done"]"#;
    fails(&["tools", silent, "--timeout", "50ms"], 1, "not finished within --timeout");
    for (args, says) in [
        (&["call", "exec:cat"][..], "call needs the name of a tool"),
        (&["tools", "exec:cat", "echo"], "to use a tool, write call"),
        (&["resources", "exec:cat", "a:b", "c=d"], "takes only an ENDPOINT and a URI"),
        (&["call", "exec:cat", "t", "word"], "write NAME=VALUE"),
        (&["call", "exec:cat", "t", "{"], "not a JSON object"),
        (&["list", "exec:cat"], "tools, call, resources, prompts"),
    ] {
        fails(args, 2, says);
    }
}

#[test]
fn server_that_only_speaks_2026_07_28_is_used() {
    let cases = r#"
        *'"initialize"'*) answer error '{"code":-32601,"message":"removed"}' ;;
        *'"server/discover"'*) answer result '{"supportedVersions":["2026-07-28"]}' ;;
        *'"name":"ask"'*) answer result '{"resultType":"input_required"}' ;;
        *'protocolVersion":"2026-07-28"'*) answer result '{"resultType":"complete","content":[{"type":"text","text":"yes"}]}' ;;"#;
    assert_eq!(succeeds(&["call", &script(cases), "t"]), "yes\n");
    fails(&["call", &script(cases), "ask"], 1, "the server asks for input");
}
