//! Tests of `/mcp` and of shared programs with hostile clients and broken programs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::{Value, json};
use support::mcp::{ACCEPT, Stream, bearer, post_with, wait_none_left};
use support::site::{Site, status_of};
use support::{Serve, Talk, request, until};

/// An MCP server of both versions. `long` is answered with 17 MiB in one line, `quiet` never.
const SERVER: &str = r#"
    id() { rest=${line#*'"id":'}; echo "${rest%%[,\}]*}"; }
    answer() { echo '{"jsonrpc":"2.0","id":'"$(id)"',"result":'"$1"'}'; }
    while read -r line; do
        case $line in
        *'"initialize"'*) answer '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s"}}' ;;
        *'"server/discover"'*)
            test "$legacy" || answer '{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}'
            test "$legacy" && echo '{"jsonrpc":"2.0","id":'"$(id)"',"error":{"code":-32601,"message":"no"}}' ;;
        *'"name":"long"'*)
            printf '%s' '{"jsonrpc":"2.0","id":'"$(id)"',"result":{"x":"'
            head -c 17825792 /dev/zero | tr '\0' x
            echo '"}}' ;;
        *'"name":"quiet"'*) echo "quiet began" >&2 ;;
        *'"notifications/cancelled"'*) echo "canceled" >&2 ;;
        *'"tools/call"'*) answer '{"resultType":"complete","ok":true}' ;;
        esac
    done"#;

fn program(before: &str) -> [String; 4] {
    ["--".into(), "sh".into(), "-c".into(), format!("{before}\n{SERVER}")]
}

fn site(args: &[&str], before: &str) -> Site {
    let program = program(before);
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    Site::start(&[args, &program].concat())
}

/// The two versions of the protocol, and programs of both behind them.
#[derive(Clone, Copy, Debug)]
enum Era {
    Session,
    Modern,
    ModernWithLegacyProgram,
}

const ERAS: [Era; 3] = [Era::Session, Era::Modern, Era::ModernWithLegacyProgram];

impl Era {
    fn before(self) -> &'static str {
        match self {
            Self::ModernWithLegacyProgram => "legacy=1",
            _ => "",
        }
    }

    /// Returns the headers of this client, after it has opened a session if it needs one.
    fn open(self, site: &Site) -> String {
        let headers = bearer() + ACCEPT;
        let Self::Session = self else {
            return format!(
                "{headers}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n"
            );
        };
        let initialize = request(0, "initialize", json!({})).to_string();
        let answer = site.ask(&post_with(&headers, &initialize));
        assert_eq!(status_of(&answer), "200", "{answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        format!("{headers}Mcp-Session-Id: {id}\r\n")
    }

    fn call(self, headers: &str, tool: &str) -> String {
        let mut params = json!({ "name": tool, "arguments": {} });
        let mut headers = headers.to_owned();
        if !matches!(self, Self::Session) {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
            headers += &format!("Mcp-Name: {tool}\r\n");
        }
        // Each tool has its own id, because several calls may be in flight.
        let id = tool.len().try_into().unwrap();
        post_with(&headers, &request(id, "tools/call", params).to_string())
    }
}

/// Calls a tool. Returns the status and the JSON of the response.
#[track_caller]
fn call(site: &Site, era: Era, headers: &str, tool: &str) -> (String, Value) {
    let answer = site.ask(&era.call(headers, tool));
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{era:?}: {answer}"));
    (status_of(&answer).to_owned(), body)
}

#[test]
fn response_of_17_mib_costs_only_its_own_call_in_each_era() {
    for era in ERAS {
        let site = site(&[], era.before());
        let headers = era.open(&site);
        let mut stream = Stream::open(&site, &era.call(&headers, "long"));
        stream.wait("the response was lost");
        let (status, body) = call(&site, era, &headers, "t");
        assert_eq!((&*status, &body["result"]["ok"]), ("200", &json!(true)), "{era:?}: {body}");
        site.stop();
    }
}

#[test]
fn banner_before_the_first_response_is_not_passed_on_in_each_era() {
    for era in ERAS {
        let banner = "echo 'Welcome to the server'; echo; echo '<html>'";
        let site = site(&[], &format!("{banner}\n{}", era.before()));
        let headers = era.open(&site);
        let (status, body) = call(&site, era, &headers, "t");
        assert_eq!((&*status, &body["result"]["ok"]), ("200", &json!(true)), "{era:?}: {body}");
        let log = site.stop();
        assert!(log.contains("Welcome to the server"), "{log}");
    }
}

/// A server may also have exited, or may wait for something else than its input.
#[test]
fn program_that_sends_nothing_is_ended_with_its_clients() {
    let silent = Site::start(&["--", "sleep", "1000"]);
    let opening = request(0, "initialize", json!({})).to_string();
    let stream = Stream::open(&silent, &post_with(&(bearer() + ACCEPT), &opening));
    until("the program runs", || !support::children_of(silent.program.pid()).is_empty());
    drop(stream);
    wait_none_left(&silent);
    silent.stop();
    let site = Site::start(&["--idle-timeout", "0s", "--", "sleep", "1000"]);
    let headers = Era::Modern.open(&site);
    let stream = Stream::open(&site, &Era::Modern.call(&headers, "t"));
    until("the program runs", || !support::children_of(site.program.pid()).is_empty());
    drop(stream);
    wait_none_left(&site);
    site.stop();
}

/// In the earlier era, a disconnection cancels nothing: the client may resume the stream.
#[test]
fn client_that_disconnects_in_mid_stream_costs_no_other_call_in_each_era() {
    for era in ERAS {
        let site = site(&[], era.before());
        let headers = era.open(&site);
        let stream = Stream::open(&site, &era.call(&headers, "quiet"));
        site.program.wait_stderr("quiet began");
        drop(stream);
        let is_cancelled = !matches!(era, Era::Session);
        if is_cancelled {
            site.program.wait_stderr("canceled");
        }
        let (status, body) = call(&site, era, &headers, "t");
        assert_eq!((&*status, &body["result"]["ok"]), ("200", &json!(true)), "{era:?}: {body}");
        let log = site.stop();
        assert_eq!(log.contains("canceled"), is_cancelled, "{era:?}: {log}");
    }
}

#[test]
fn session_ids_cannot_be_guessed() {
    let site = site(&[], "");
    let headers = Era::Session.open(&site);
    let id = headers.split("Mcp-Session-Id: ").nth(1).unwrap().trim_end().to_owned();
    assert!(id.len() >= 22, "{id}: less than 128 bits");
    let other = Era::Session.open(&site);
    assert!(!other.contains(&id));
    let mut guesses: Vec<String> = vec!["0".into(), "*".into(), "%00".into(), "../x".into()];
    guesses.extend([format!("{id}0"), id[1..].to_owned(), id[..id.len() - 1].to_owned()]);
    // Each character in turn is another one.
    guesses.extend((0..id.len()).map(|place| {
        let other = if id.as_bytes()[place] == b'a' { "b" } else { "a" };
        format!("{}{other}{}", &id[..place], &id[place + 1..])
    }));
    for guess in guesses {
        let guessed = headers.replace(&id, &guess);
        for method in ["POST", "GET", "DELETE"] {
            let asked = Era::Session.call(&guessed, "t").replacen("POST", method, 1);
            let answer = site.ask(&asked);
            assert_eq!(status_of(&answer), "404", "{method} {guess}: {answer}");
        }
    }
    let ended = format!("DELETE /mcp HTTP/1.1\r\nHost: @\r\n{headers}\r\n");
    assert_eq!(status_of(&site.ask(&ended)), "204");
    // An ended session is as unknown as one that never was.
    until("it has ended", || status_of(&site.ask(&Era::Session.call(&headers, "t"))) == "404");
    let (status, _) = call(&site, Era::Session, &other, "t");
    assert_eq!(status, "200");
    site.stop();
}

/// A page of another site must reach neither route, also not with a token.
#[test]
fn hosts_and_origins_of_others_reach_neither_mcp_nor_acp() {
    let site = Site::start(&["--", "cat"]);
    let port = site.authority().split_once(':').unwrap().1.to_owned();
    let own = format!("127.0.0.1:{port}");
    let hosts = [
        (own.clone(), "404"),
        (format!("localhost:{port}"), "404"),
        (format!("LOCALHOST:{port}"), "404"),
        ("127.0.0.1".into(), "403"),
        ("127.0.0.1:1".into(), "403"),
        ("localhost".into(), "403"),
        (format!("localhost.:{port}"), "403"),
        (format!("evil.example:{port}"), "403"),
        ("evil.example".into(), "403"),
        (format!("127.0.0.1.evil.example:{port}"), "403"),
        (format!("localhost.evil.example:{port}"), "403"),
        (format!("evillocalhost:{port}"), "403"),
        (format!("127.1:{port}"), "403"),
        (format!("2130706433:{port}"), "403"),
        (format!("0x7f.0.0.1:{port}"), "403"),
        (format!("0.0.0.0:{port}"), "403"),
        (format!("127.0.0.2:{port}"), "403"),
        (format!("[::ffff:127.0.0.1]:{port}"), "403"),
        (format!("user@{own}"), "400"),
        (format!("{own}@evil.example"), "400"),
        (format!("{own}, evil.example"), "400"),
        (format!("{own}\r\nHost: {own}"), "400"),
    ];
    let origins = [
        (format!("http://{own}"), "404"),
        (format!("HTTP://{own}"), "404"),
        (format!("https://{own}"), "403"),
        ("http://127.0.0.1".into(), "403"),
        ("http://127.0.0.1:1".into(), "403"),
        (format!("http://localhost:{port}"), "403"),
        (format!("http://[::1]:{port}"), "403"),
        ("http://evil.example".into(), "403"),
        (format!("http://evil.example:{port}"), "403"),
        (format!("http://{own}.evil.example"), "403"),
        (format!("http://127.0.0.1.evil.example:{port}"), "403"),
        (format!("http://user@{own}"), "403"),
        (format!("http://{own}/"), "403"),
        (format!("http://{own}, http://evil.example"), "403"),
        (format!("ws://{own}"), "403"),
        (own.clone(), "403"),
        ("null".into(), "403"),
        ("file://".into(), "403"),
        ("chrome-extension://abcdefgh".into(), "403"),
        ("data:text/html,x".into(), "403"),
    ];
    assert!(hosts.len() + origins.len() >= 40);
    let forms = hosts.iter().map(|(host, status)| (format!("Host: {host}\r\n"), *status)).chain(
        origins
            .iter()
            .map(|(origin, status)| (format!("Host: {own}\r\nOrigin: {origin}\r\n"), *status)),
    );
    for (form, status) in forms {
        for (path, id) in [("/mcp", "Mcp-Session-Id"), ("/acp", "Acp-Connection-Id")] {
            let token = bearer();
            // The answer to an admitted request is that the session is unknown.
            let asked = format!("DELETE {path} HTTP/1.1\r\n{form}{token}{id}: unknown\r\n\r\n");
            let answer = site.ask(&asked);
            assert_eq!(status_of(&answer), status, "{path} {form}: {answer}");
        }
    }
    let log = site.stop();
    assert!(!log.contains("client connected"), "{log}");
}

#[test]
fn shared_program_that_writes_a_banner_or_17_mib_is_shared_on() {
    let program = program("echo 'Welcome to the server'");
    let mut args = vec!["--dialect", "mcp", "--process", "shared"];
    args.extend(program.iter().map(String::as_str));
    let serve = Serve::start(args);
    let mut clients = [serve.client(), serve.client()];
    for client in &mut clients {
        let answer = client.call(&request(0, "initialize", json!({})));
        assert_eq!(answer["result"]["serverInfo"]["name"], "s", "{answer}");
    }
    let tool = |name: &str| request(1, "tools/call", json!({ "name": name, "arguments": {} }));
    let [one, two] = &mut clients;
    let answer = one.call(&tool("long"));
    let why = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert!(why.contains("the response was lost"), "{why}");
    for client in [one, two] {
        assert_eq!(client.call(&tool("t"))["result"]["ok"], true);
    }
    assert_eq!(serve.processes().len(), 1);
    drop(clients);
    serve.stop();
}

#[test]
fn a_hundred_clients_learn_that_their_program_was_killed() {
    let program = program("");
    let mut args = vec!["--dialect", "mcp", "--process", "shared", "--restart", "on-failure"];
    args.extend(program.iter().map(String::as_str));
    let serve = Serve::start(args);
    let tool = |name: &str| request(1, "tools/call", json!({ "name": name, "arguments": {} }));
    let mut clients: Vec<_> = (0..100).map(|_| serve.client()).collect();
    for client in &mut clients {
        client.call(&request(0, "initialize", json!({})));
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        client.send(&tool("quiet").to_string());
    }
    serve.program.wait_stderr_times("quiet began", 100);
    let [pid] = serve.processes()[..] else { panic!("{:?}", serve.processes()) };
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for client in &mut clients {
        let answer = client.json();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(-31000)));
        assert_eq!(answer["error"]["data"]["status"], "signal: 9 (SIGKILL)", "{answer}");
        assert_eq!(client.call(&tool("t"))["result"]["ok"], true);
    }
    assert_eq!(serve.processes().len(), 1);
    drop(clients);
    serve.stop();
}
