//! Tests of `/mcp` with protocol version 2026-07-28: requests without sessions, with programs of both
//! eras.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;
use std::thread;

use serde_json::{Value, json};
use support::mcp::{ACCEPT, Stream, bearer, post_with, wait_none_left};
use support::site::{Site, TOKEN, status_of};
use support::{mcp_client, server_everything, until};

/// The beginning of both programs. `id` is the id of the request as the client wrote it.
const LOOP: &str = r#"
    answer() { echo '{"jsonrpc":"2.0","id":'"$1"',"result":'"$2"'}'; }
    while read -r line; do
        id=${line#*'"id":'}; id=${id%%,*}
        case $line in"#;

/// An MCP server of 2026-07-28 in a few lines. `wait` sends progress, but no response. The client that
/// listens is notified when `wait` has begun and when it was canceled.
const MODERN: &str = r#"
        *'"server/discover"'*)
            answer $id '{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}' ;;
        *'"subscriptions/listen"'*)
            listening='"params":{"_meta":{"io.modelcontextprotocol/subscriptionId":'$id'}}'
            echo '{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged",'$listening'}' ;;
        *'"notifications/cancelled"'*)
            echo '{"jsonrpc":"2.0","method":"notifications/tools/list_changed",'$listening'}' ;;
        *'"name":"wait"'*)
            echo '{"jsonrpc":"2.0","method":"notifications/prompts/list_changed",'$listening'}'
            echo '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":'$id',"progress":1}}' ;;
        *'"name":"exit"'*) exit 3 ;;
        *'"tools/call"'*) answer $id '{"resultType":"complete","pid":'$$'}' ;;
        *'"method":"notifications/'*) ;;
        *) echo '{"jsonrpc":"2.0","id":'$id',"error":{"code":-32601,"message":"unknown"}}' ;;
        esac
    done"#;

/// An MCP server of 2025-11-25 that ends if its first request is not `initialize`, as some servers do.
/// `ask` asks the client, and returns the answer.
const LEGACY: &str = r#"
        *'"initialize"'*)
            is_open=1
            answer $id '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"old"}}' ;;
        *'"notifications/'*) ;;
        *'"id":"question"'*) answer $asked '{"pid":'$$',"answer":'"${line#*'"result":'}" ;;
        *) test "$is_open" || exit 1 ;;
        esac
        case $line in
        *'"name":"ask"'*)
            asked=$id
            echo '{"jsonrpc":"2.0","id":"question","method":"elicitation/create","params":{"message":"?"}}' ;;
        *'"tools/call"'*) answer $id '{"pid":'$$'}' ;;
        esac
    done"#;

fn site(program: &str) -> Site {
    Site::start(&["--", "sh", "-c", &format!("{LOOP}{program}")])
}

/// Returns a request, and the headers that belong to it.
fn request(id: Value, method: &str, params: Value) -> (String, String) {
    let mut params = params;
    let name = params.get("name").and_then(Value::as_str).map(str::to_owned);
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": {} });
    let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let name = name.map_or_else(String::new, |name| format!("Mcp-Name: {name}\r\n"));
    let headers =
        format!("{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}");
    (headers, body.to_string())
}

fn post(id: Value, method: &str, params: Value) -> String {
    let (headers, body) = request(id, method, params);
    post_with(&(bearer() + &headers), &body)
}

fn call(id: Value, tool: &str) -> String {
    post(id, "tools/call", json!({ "name": tool, "arguments": {} }))
}

/// Sends a request. Returns the status and the body of the response.
#[track_caller]
fn ask(site: &Site, request: &str) -> (String, Value) {
    let answer = site.ask(request);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    (status_of(&answer).to_owned(), body)
}

#[test]
fn each_request_gets_the_status_that_the_specification_requires() {
    let site = site(MODERN);
    let own = call(json!("a"), "t");
    let with = |from: &str, to: &str| {
        assert!(own.contains(from), "{from}");
        own.replace(from, to)
    };
    let posted = |from: &str, to: &str| {
        let (headers, body) = request(json!("a"), "tools/call", json!({ "name": "t" }));
        assert!(body.contains(from), "{from}");
        post_with(&(bearer() + &headers), &body.replace(from, to))
    };
    let (headers, body) = request(json!("a"), "tools/call", json!({ "name": "t" }));
    let headers = bearer() + &headers;
    for (what, request, status, code) in [
        ("a request", own.clone(), "200", None),
        (
            "another method in the header",
            with("Mcp-Method: tools/call", "Mcp-Method: x"),
            "400",
            Some(-32020),
        ),
        ("no method in a header", with("Mcp-Method: tools/call\r\n", ""), "400", Some(-32020)),
        ("another name in the header", with("Mcp-Name: t", "Mcp-Name: x"), "400", Some(-32020)),
        (
            "no version in a header",
            with("MCP-Protocol-Version: 2026-07-28\r\n", ""),
            "400",
            Some(-32020),
        ),
        (
            "two versions",
            with("Mcp-Name", "MCP-Protocol-Version: 2026-07-28\r\nMcp-Name"),
            "400",
            Some(-32020),
        ),
        ("another version", own.replace("2026-07-28", "2099-01-01"), "400", Some(-32022)),
        ("no capabilities", posted("clientCapabilities", "other"), "400", Some(-32602)),
        ("no version in the body", posted("protocolVersion", "other"), "400", Some(-32602)),
        ("no _meta", posted("_meta", "other"), "400", Some(-32602)),
        (
            "another type of _meta",
            posted(r#""_meta":{"#, r#""_meta":[],"other":{"#),
            "400",
            Some(-32602),
        ),
        ("_meta twice", posted(r#""_meta":{"#, r#""_meta":{},"_meta":{"#), "400", Some(-32602)),
        (
            "another version in the body",
            posted(r#"protocolVersion":"2026-07-28""#, r#"protocolVersion":"2025-11-25""#),
            "400",
            Some(-32020),
        ),
        ("no name", posted(r#""name""#, r#""other""#), "400", Some(-32602)),
        ("a method that was removed", post(json!("a"), "ping", json!({})), "404", Some(-32601)),
        ("initialize", post(json!("a"), "initialize", json!({})), "404", Some(-32601)),
        ("an unknown method", post(json!("a"), "other", json!({})), "404", Some(-32601)),
        ("a batch", post_with(&headers, &format!("[{body}]")), "400", Some(-32600)),
        (
            "a response",
            post_with(&headers, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
            "400",
            Some(-32600),
        ),
        ("no JSON", post_with(&headers, "{"), "400", Some(-32700)),
        ("no Accept", own.replace(ACCEPT, ""), "406", Some(-31406)),
        (
            "other content",
            own.replace("application/json\r\nC", "text/plain\r\nC"),
            "415",
            Some(-31415),
        ),
    ] {
        let (found, body) = ask(&site, &request);
        assert_eq!(found, status, "{what}: {body}");
        assert_eq!(body["error"]["code"].as_i64(), code, "{what}: {body}");
        if code.is_none() || code < Some(-32600) && code != Some(-32700) {
            assert_eq!(body["id"], "a", "{what}: {body}");
        }
    }
    for (what, request, status) in [
        ("a notification", posted(r#""id":"a","#, ""), "202"),
        ("no token", own.replace(&bearer(), ""), "401"),
        ("foreign host", own.replace("Host: @", "Host: evil.example"), "403"),
        ("foreign origin", own.replace(ACCEPT, "Origin: http://evil.example\r\n"), "403"),
    ] {
        let answer = site.ask(&request);
        assert_eq!(status_of(&answer), status, "{what}: {answer}");
    }
    let log = site.stop();
    assert_eq!(log.matches("client connected").count(), 1, "{log}");
}

#[test]
fn closing_a_stream_cancels_its_request() {
    let site = site(MODERN);
    let mut listening = Stream::open(&site, &post(json!("l"), "subscriptions/listen", json!({})));
    listening.wait("notifications/subscriptions/acknowledged");
    listening.wait(r#""io.modelcontextprotocol/subscriptionId":"l""#);
    let waiting = json!({ "name": "wait", "_meta": { "progressToken": "p" } });
    let mut stream = Stream::open(&site, &post(json!(7), "tools/call", waiting));
    stream.wait(r#""progressToken":"p""#);
    assert!(stream.text.contains("content-type: text/event-stream"), "{}", stream.text);
    assert!(!listening.text.contains("list_changed"));
    drop(stream);
    listening.wait("notifications/tools/list_changed");
    // A client that disconnects before it has received anything also cancels its request.
    listening.text.clear();
    let stream = Stream::open(&site, &call(json!(8), "wait"));
    listening.wait("notifications/prompts/list_changed");
    drop(stream);
    listening.wait("notifications/tools/list_changed");
    drop(listening);
    site.stop();
}

#[test]
fn clients_of_one_principal_share_a_program_and_others_do_not() {
    let site = site(MODERN);
    let own = call(json!(1), "t");
    let pid = ask(&site, &own).1["result"]["pid"].clone();
    thread::scope(|scope| {
        for id in 0..20 {
            let (site, pid) = (&site, &pid);
            scope.spawn(move || {
                let (status, body) = ask(site, &call(json!(id % 3), "t"));
                assert_eq!(status, "200");
                assert_eq!(body, json!({ "jsonrpc": "2.0", "id": id % 3, "result": { "resultType": "complete", "pid": pid } }));
            });
        }
    });
    let stderr = site.program.stderr();
    let key = stderr.split("?key=").nth(1).unwrap().split_whitespace().next().unwrap();
    let answer = site.get(&format!("/?key={key}"), "");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let (_, foreign) = ask(&site, &own.replace(&bearer(), &cookie));
    assert_ne!(foreign["result"]["pid"], pid);
    assert!(foreign["result"]["pid"].is_number(), "{foreign}");
    site.stop();
}

#[test]
fn a_program_that_ends_is_started_again_for_the_next_request() {
    let site = site(MODERN);
    let pid = ask(&site, &call(json!(1), "t")).1["result"]["pid"].clone();
    let (_, body) = ask(&site, &call(json!(2), "exit"));
    assert_eq!((&body["id"], body["error"]["code"].as_i64()), (&json!(2), Some(-31000)), "{body}");
    wait_none_left(&site);
    // A request that arrives before the end is known gets 502.
    until("the program has been started again", || {
        let (status, body) = ask(&site, &call(json!(3), "t"));
        assert!(status == "502" || status == "200", "{body}");
        status == "200" && body["result"]["pid"].is_number() && body["result"]["pid"] != pid
    });
    site.stop();
}

#[test]
fn a_program_of_an_earlier_version_asks_the_client_in_its_result() {
    let site = site(LEGACY);
    let (status, body) = ask(&site, &post(json!(1), "server/discover", json!({})));
    assert_eq!(status, "200", "{body}");
    let server = &body["result"]["_meta"]["io.modelcontextprotocol/serverInfo"];
    assert_eq!(server["name"], "old", "{body}");
    let pid = ask(&site, &call(json!(2), "t")).1["result"]["pid"].clone();

    let (_, body) = ask(&site, &call(json!(3), "ask"));
    let result = &body["result"];
    assert_eq!(result["resultType"], "input_required", "{body}");
    assert_eq!(result["inputRequests"]["input-1"]["method"], "elicitation/create", "{body}");
    // Another call does not wait for the answer of a person.
    let (_, other) = ask(&site, &call(json!(4), "t"));
    assert!(other["result"]["pid"].is_number(), "{other}");
    assert_ne!(other["result"]["pid"], pid);

    let state = &result["requestState"];
    let continued = |state: &Value| {
        let answers = json!({ "input-1": { "action": "accept" } });
        let params = json!({ "name": "ask", "arguments": {}, "requestState": state, "inputResponses": answers });
        ask(&site, &post(json!("again"), "tools/call", params)).1
    };
    let changed = json!(format!("{}x", state.as_str().unwrap()));
    assert_eq!(continued(&changed)["error"]["code"], -32602);
    let body = continued(state);
    let expected =
        json!({ "resultType": "complete", "pid": pid, "answer": { "action": "accept" } });
    assert_eq!((&body["id"], &body["result"]), (&json!("again"), &expected));
    assert_eq!(continued(state)["error"]["code"], -32602);
    let log = site.stop();
    assert_eq!(log.matches("the program speaks MCP up to 2025-11-25").count(), 1, "{log}");
}

/// The program has no `initialize`.
#[test]
fn clients_with_sessions_can_use_a_program_without_them() {
    let site = site(MODERN);
    let headers = bearer() + ACCEPT;
    let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "c" } });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    let answer = site.ask(&post_with(&headers, &body.to_string()));
    assert_eq!(status_of(&answer), "200", "{answer}");
    assert!(answer.contains(r#""protocolVersion":"2025-06-18""#), "{answer}");
    let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    let headers = format!("{headers}Mcp-Session-Id: {id}\r\n");
    let body =
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "t" } });
    let (status, body) = ask(&site, &post_with(&headers, &body.to_string()));
    assert_eq!((&*status, &body["id"]), ("200", &json!(2)), "{body}");
    assert!(body["result"]["pid"].is_number(), "{body}");
    let (_, body) = ask(&site, &post_with(&headers, r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#));
    assert_eq!(body, json!({ "jsonrpc": "2.0", "id": 3, "result": {} }));
    site.stop();
}

/// The official client negotiates 2026-07-28 by itself, although the program is of an earlier version. It is asked
/// for a form and for a sample during two calls.
#[test]
fn typescript_client_uses_a_server_of_an_earlier_version() {
    let serve = server_everything();
    let site = Site::start(&[&["--"][..], &serve.each_ref().map(|it| &**it)].concat());
    let script = format!(
        r#"
        const {{ Client, StreamableHTTPClientTransport }} = require("{client}");
        const capabilities = {{ elicitation: {{}}, sampling: {{}} }};
        const client = new Client({{ name: "test", version: "1" }}, {{ capabilities, versionNegotiation: {{ mode: "auto" }} }});
        client.setRequestHandler("elicitation/create", () => ({{ action: "decline" }}));
        const content = {{ type: "text", text: "sampled" }};
        client.setRequestHandler("sampling/createMessage", () => ({{ model: "m", role: "assistant", content }}));
        const requestInit = {{ headers: {{ Authorization: "Bearer {TOKEN}" }} }};
        const call = (name, args, options) => client.callTool({{ name, arguments: args }}, options);
        const text = async (...parts) => (await call(...parts)).content.map((it) => it.text).join(" ");
        (async () => {{
            await client.connect(new StreamableHTTPClientTransport(new URL("{url}/mcp"), {{ requestInit }}));
            console.log(client.getNegotiatedProtocolVersion());
            let seen = 0;
            const onprogress = () => seen++;
            await call("trigger-long-running-operation", {{ duration: 0.4, steps: 4 }}, {{ onprogress }});
            console.log(seen);
            console.log((await text("trigger-elicitation-request", {{}})).includes("decline"));
            console.log((await text("trigger-sampling-request", {{ prompt: "?", maxTokens: 9 }})).includes("sampled"));
            const echoes = Array.from({{ length: 100 }}, (_, n) => text("echo", {{ message: `${{n}}` }}));
            console.log((await Promise.all(echoes)).every((echo, n) => echo === `Echo: ${{n}}`));
            await client.close();
        }})();"#,
        client = mcp_client().display(),
        url = site.endpoint,
    );
    let output = Command::new("node").args(["-e", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "2026-07-28\n4\ntrue\ntrue\ntrue\n", "{errors}");
    site.stop();
}

/// This is a real server of an earlier version.
#[test]
fn server_everything_is_used_without_a_session() {
    let serve = server_everything();
    let site = Site::start(&[&["--"][..], &serve.each_ref().map(|it| &**it)].concat());
    let (_, tools) = ask(&site, &post(json!(1), "tools/list", json!({})));
    assert_eq!(tools["result"]["cacheScope"], "private", "{tools}");
    let params = json!({ "name": "echo", "arguments": { "message": "through" } });
    let (_, body) = ask(&site, &post(json!(2), "tools/call", params));
    assert_eq!(body["result"]["content"][0]["text"], "Echo: through", "{body}");
    let params = json!({
        "name": "trigger-long-running-operation",
        "arguments": { "duration": 0.4, "steps": 4 },
        "_meta": { "progressToken": "p" },
    });
    let mut stream = Stream::open(&site, &post(json!(3), "tools/call", params));
    stream.wait(r#""resultType":"complete""#);
    assert_eq!(stream.text.matches(r#""progressToken":"p""#).count(), 4, "{}", stream.text);
    site.stop();
}
