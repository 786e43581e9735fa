//! Tests of `/mcp`: MCP clients over HTTP, with a program on stdio for each session.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;
use support::mcp::{ACCEPT, Stream, bearer, post_with, wait_none_left};
use support::site::{Site, TOKEN, status_of};
use support::{Program, children_of, mcp_sdk, server_everything, tieline, until, usage};

/// An MCP server in a few lines. It answers `ping`, exits on `exit`, answers `slow` after it has received
/// `go`, and never answers `quiet`.
const SERVER: &str = r#"
    while read -r line; do
        case $line in
        *'"initialize"'*) echo '{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}' ;;
        *'"ping"'*) echo '{"jsonrpc":"2.0","id":1,"result":{}}' ;;
        *'"slow"'*) echo '{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"began"}}' ;;
        *'"go"'*) echo '{"jsonrpc":"2.0","id":5,"result":{"slow":true}}' ;;
        *'"quiet"'*) echo 'got quiet' >&2 ;;
        *'"exit"'*) echo 'some last words' >&2; exit 3 ;;
        esac
    done"#;

fn request(id: u32, method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#)
}

fn notification(method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#)
}

fn site(args: &[&str]) -> Site {
    Site::start(&[args, &["--", "sh", "-c", SERVER]].concat())
}

/// A client of one session.
struct Session<'a> {
    site: &'a Site,
    headers: String,
}

impl<'a> Session<'a> {
    #[track_caller]
    fn open(site: &'a Site) -> Self {
        let headers = bearer() + ACCEPT;
        let answer = site.ask(&post_with(&headers, &request(0, "initialize")));
        assert_eq!(status_of(&answer), "200", "{answer}");
        assert!(answer.ends_with(r#""result":{"protocolVersion":"2025-11-25"}}"#), "{answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        Self { site, headers: format!("{headers}Mcp-Session-Id: {id}\r\n") }
    }

    fn post(&self, body: &str) -> String {
        self.site.ask(&post_with(&self.headers, body))
    }

    fn ask(&self, method: &str, more: &str) -> String {
        let headers = &self.headers;
        self.site.ask(&format!("{method} /mcp HTTP/1.1\r\nHost: @\r\n{headers}{more}\r\n"))
    }

    fn get(&self, more: &str) -> Stream {
        let headers = &self.headers;
        Stream::open(self.site, &format!("GET /mcp HTTP/1.1\r\nHost: @\r\n{headers}{more}\r\n"))
    }
}

/// The official client makes calls to `server-everything`, with progress and sampling, and many calls at
/// once.
#[test]
fn the_typescript_client_uses_a_server_through_http() {
    let serve = server_everything();
    let site = Site::start(&[&["--"][..], &serve.each_ref().map(|it| &**it)].concat());
    let script = format!(
        r#"
        const {{ Client }} = require("{sdk}/client/index.js");
        const {{ StreamableHTTPClientTransport }} = require("{sdk}/client/streamableHttp.js");
        const {{ CreateMessageRequestSchema }} = require("{sdk}/types.js");
        const client = new Client({{ name: "test", version: "1" }}, {{ capabilities: {{ sampling: {{}} }} }});
        const text = {{ type: "text", text: "sampled" }};
        client.setRequestHandler(CreateMessageRequestSchema, () => ({{ model: "m", role: "assistant", content: text }}));
        const requestInit = {{ headers: {{ Authorization: "Bearer {TOKEN}" }} }};
        const transport = new StreamableHTTPClientTransport(new URL("{url}/mcp"), {{ requestInit }});
        const call = (name, args, options) => client.callTool({{ name, arguments: args }}, undefined, options);
        (async () => {{
            await client.connect(transport);
            const {{ tools }} = await client.listTools();
            console.log(transport.protocolVersion, tools.some((tool) => tool.name === "echo"));
            let seen = 0;
            const onprogress = () => seen++;
            await call("trigger-long-running-operation", {{ duration: 0.4, steps: 4 }}, {{ onprogress }});
            console.log("progress", seen);
            const sampled = await call("trigger-sampling-request", {{ prompt: "p", maxTokens: 5 }});
            console.log(JSON.stringify(sampled).includes("sampled"));
            const answers = await Promise.all([...Array(100).keys()].map((n) => call("echo", {{ message: "m" + n }})));
            console.log(answers.every((answer, n) => answer.content[0].text === "Echo: m" + n));
            await transport.terminateSession();
            await client.close();
        }})();"#,
        sdk = mcp_sdk().display(),
        url = site.endpoint,
    );
    let finished = Program::run(Command::new("node").args(["-e", &script]), "");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stdout, "2025-11-25 true\nprogress 4\ntrue\ntrue\n");
    wait_none_left(&site);
    site.stop();
}

#[test]
fn each_request_gets_the_status_that_the_specification_requires() {
    let site = site(&[]);
    let session = Session::open(&site);
    let ping = request(1, "ping");
    let (bearer, version) = (bearer(), "MCP-Protocol-Version: 2025-11-25\r\n");
    let unknown = format!("{bearer}{ACCEPT}Mcp-Session-Id: unknown\r\n");
    let own = &session.headers;
    for (what, request, status) in [
        ("a request", post_with(own, &ping), "200"),
        ("with a version", post_with(&format!("{own}{version}"), &ping), "200"),
        ("a notification", post_with(own, &notification("n")), "202"),
        ("a response", post_with(own, r#"{"jsonrpc":"2.0","id":9,"result":{}}"#), "202"),
        (
            "another version",
            post_with(&format!("{own}{}", version.replace("11", "12")), &ping),
            "400",
        ),
        ("no session", post_with(&format!("{bearer}{ACCEPT}"), &ping), "400"),
        ("unknown session", post_with(&unknown, &ping), "404"),
        ("initialize again", post_with(own, &request(0, "initialize")), "400"),
        ("a batch", post_with(own, &format!("[{ping}]")), "400"),
        ("no JSON", post_with(own, "{"), "400"),
        ("no Accept", post_with(&own.replace(ACCEPT, ""), &ping), "406"),
        (
            "other content",
            post_with(own, &ping).replace("application/json\r\nC", "text/plain\r\nC"),
            "415",
        ),
        ("too long", post_with(own, "").replace("Length: 0", "Length: 99999999"), "413"),
        ("no token", post_with(&own.replace(&bearer, ""), &ping), "401"),
        ("foreign host", post_with(own, &ping).replace("Host: @", "Host: evil.example"), "403"),
        (
            "foreign origin",
            post_with(&format!("{own}Origin: http://evil.example\r\n"), &ping),
            "403",
        ),
        ("PUT", post_with(own, &ping).replace("POST", "PUT"), "405"),
        (
            "GET without a session",
            format!("GET /mcp HTTP/1.1\r\nHost: @\r\n{bearer}{ACCEPT}\r\n"),
            "400",
        ),
        ("GET of unknown session", format!("GET /mcp HTTP/1.1\r\nHost: @\r\n{unknown}\r\n"), "404"),
    ] {
        let answer = site.ask(&request);
        assert_eq!(status_of(&answer), status, "{what}: {answer}");
    }
    assert_eq!(status_of(&session.ask("GET", "Last-Event-ID: x\r\n")), "400");
    let mut first = session.get("");
    first.wait("id: 0.0");
    assert_eq!(status_of(&session.ask("GET", "")), "409");
    assert_eq!(status_of(&session.ask("DELETE", "")), "204");
    // The stream ends with its session.
    first.wait("\r\n0\r\n\r\n");
    for _ in 0..2 {
        until("the session is gone", || status_of(&session.post(&ping)) == "404");
    }
    wait_none_left(&site);
    let log = site.stop();
    assert_eq!(log.matches("client connected").count(), 1, "{log}");
}

#[test]
fn a_session_belongs_to_the_client_that_opened_it() {
    let site = site(&[]);
    let session = Session::open(&site);
    let stderr = site.program.stderr();
    let key = stderr.split("?key=").nth(1).unwrap().split_whitespace().next().unwrap();
    let answer = site.get(&format!("/?key={key}"), "");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let foreign = session.headers.replace(&bearer(), &cookie);
    let answer = site.ask(&post_with(&foreign, &request(1, "ping")));
    assert_eq!(status_of(&answer), "404", "{answer}");
    let headers = format!("DELETE /mcp HTTP/1.1\r\nHost: @\r\n{foreign}\r\n");
    assert_eq!(status_of(&site.ask(&headers)), "404");
    assert_eq!(status_of(&session.post(&request(1, "ping"))), "200");
    site.stop();
}

/// The client never learns the ID of such a session, so it could not end the session.
#[test]
fn a_refused_or_abandoned_initialization_leaves_no_program() {
    let site = Site::start(&["--", "sh", "-c", "read -r line; exec sleep 1000"]);
    let headers = bearer() + ACCEPT;
    let wrong = format!("{headers}MCP-Protocol-Version: 1\r\n");
    let answer = site.ask(&post_with(&wrong, &request(0, "initialize")));
    assert_eq!(status_of(&answer), "400", "{answer}");
    wait_none_left(&site);
    let mut socket = TcpStream::connect(site.authority()).unwrap();
    let opening = post_with(&headers, &request(0, "initialize"));
    socket.write_all(opening.replace('@', site.authority()).as_bytes()).unwrap();
    until("the program has started", || !children_of(site.program.pid()).is_empty());
    drop(socket);
    wait_none_left(&site);
    site.stop();
}

#[test]
fn a_call_in_flight_is_answered_when_its_program_exits() {
    let site = site(&[]);
    let session = Session::open(&site);
    let answer = session.post(&request(7, "exit"));
    assert_eq!(status_of(&answer), "200", "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&body["id"], &body["error"]["code"]), (&7.into(), &(-31000).into()), "{body}");
    assert!(body.to_string().contains("exit status: 3"), "{body}");
    until("the session is gone", || status_of(&session.post(&request(1, "ping"))) == "404");
    site.stop();
}

#[test]
fn a_stream_is_resumed_on_a_new_connection() {
    let site = site(&[]);
    let session = Session::open(&site);
    let mut stream = Stream::open(session.site, &post_with(&session.headers, &request(5, "slow")));
    stream.wait("began");
    assert!(stream.text.contains("content-type: text/event-stream"), "{}", stream.text);
    assert!(stream.text.contains("id: 2.0\nretry: 1000\ndata: \n\n"), "{}", stream.text);
    assert!(stream.text.contains("id: 2.1\n"), "{}", stream.text);
    drop(stream);
    assert_eq!(status_of(&session.post(&notification("go"))), "202");
    let mut resumed = session.get("Last-Event-ID: 2.1\r\n");
    resumed.wait("\"slow\":true");
    resumed.wait("\r\n0\r\n\r\n");
    assert!(!resumed.text.contains("began"), "{}", resumed.text);
    site.stop();
}

#[test]
fn request_in_flight_is_told_that_its_session_was_ended() {
    let site = site(&[]);
    let session = Session::open(&site);
    // If the DELETE comes later than 250 ms after it, the response is a stream.
    let mut waiting = Stream::open(&site, &post_with(&session.headers, &request(5, "quiet")));
    site.program.wait_stderr("got quiet");
    assert_eq!(status_of(&session.ask("DELETE", "")), "204");
    waiting.wait("\r\n\r\n");
    if waiting.text.starts_with("HTTP/1.1 404") {
        waiting.wait("the session was ended by a DELETE");
        assert!(waiting.text.contains(r#""id":5"#), "{}", waiting.text);
    } else {
        assert!(waiting.text.contains("text/event-stream"), "{}", waiting.text);
        waiting.wait("\r\n0\r\n\r\n");
    }
    site.stop();
}

/// The number of sessions that [`abandoned_sessions_make_room_for_new_ones`] opens. For a soak, set
/// `TIELINE_MCP_SESSIONS=10000`.
fn many_sessions() -> usize {
    std::env::var("TIELINE_MCP_SESSIONS").map_or(40, |number| number.parse().unwrap())
}

#[test]
fn abandoned_sessions_make_room_for_new_ones() {
    const PLACES: usize = 6;
    let site = site(&["--max-connections", &PLACES.to_string()]);
    let pid = site.program.pid();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // One session has a stream, and one has a request without a response.
    let streaming = Session::open(&site);
    let mut stream = streaming.get("");
    stream.wait("id: 0.0");
    let asking = Session::open(&site);
    let mut slow = Stream::open(&site, &post_with(&asking.headers, &request(5, "slow")));
    slow.wait("began");
    let oldest = Session::open(&site);
    let next = Session::open(&site);
    for _ in 4..PLACES {
        Session::open(&site);
    }
    assert_eq!(status_of(&oldest.post(&request(1, "ping"))), "200", "it is now the newest");
    let before = (children_of(pid).len(), descriptors(), usage(pid).peak_kib);
    Session::open(&site);
    assert_eq!(status_of(&next.post(&request(1, "ping"))), "404", "it was idle the longest");
    for _ in 0..many_sessions() {
        Session::open(&site);
    }
    assert_eq!(status_of(&oldest.post(&request(1, "ping"))), "404");
    // There may have been a connection more before, because the server notices later that it is closed.
    until("there are no more processes and descriptors than before", || {
        children_of(pid).len() == before.0 && descriptors() <= before.1
    });
    let peak = usage(pid).peak_kib;
    assert!(peak < before.2 + 16 * 1024, "{peak} KiB, and {} before", before.2);
    assert_eq!(status_of(&asking.post(&notification("go"))), "202", "it was in use");
    slow.wait("\"slow\":true");
    assert_eq!(status_of(&streaming.post(&request(1, "ping"))), "200", "it was in use");
    // An ended client opens a new session.
    Session::open(&site);
    let log = site.stop();
    assert!(log.contains("it was idle, and another client needed its place"), "{log}");
    assert!(!log.contains("too many clients"), "{log}");
}

#[test]
fn sessions_in_use_are_not_ended_for_new_ones() {
    let site = site(&["--max-connections", "2"]);
    let sessions = [(); 2].map(|()| Session::open(&site));
    let mut streams = sessions.each_ref().map(|session| session.get(""));
    streams.iter_mut().for_each(|stream| stream.wait("id: 0.0"));
    let opening = post_with(&(bearer() + ACCEPT), &request(0, "initialize"));
    let answer = site.ask(&opening);
    assert_eq!(status_of(&answer), "503", "{answer}");
    let mut web_socket = site.connect(&site.web_socket());
    let finished = Program::run(&mut web_socket, request(1, "ping"));
    assert_ne!(finished.code, Some(0), "{finished:?}");
    let [first, _] = streams;
    drop(first);
    // As soon as the server has noticed that.
    until("a session is opened", || status_of(&site.ask(&opening)) == "200");
    assert_eq!(status_of(&sessions[0].post(&request(1, "ping"))), "404");
    assert_eq!(status_of(&sessions[1].post(&request(1, "ping"))), "200");
    site.stop();
}

#[test]
fn client_of_another_kind_gets_the_place_of_an_abandoned_session() {
    let site = site(&["--max-connections", "1"]);
    let session = Session::open(&site);
    let mut web_socket = site.connect(&site.web_socket());
    let finished = Program::run(&mut web_socket, request(1, "ping"));
    assert_eq!(finished.stdout.trim(), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "{finished:?}");
    assert_eq!(status_of(&session.post(&request(1, "ping"))), "404");
    site.stop();
}

#[test]
fn mcp_is_served_unless_the_program_uses_another_framing_or_dialect() {
    for (args, is_served) in [
        (&[][..], true),
        (&["--dialect", "mcp"], true),
        (&["--dialect", "mcp-2025-03-26"], true),
        (&["--dialect", "lsp"], false),
        (&["--dialect", "strict"], false),
        (&["--framing", "content-length"], false),
    ] {
        let site = site(args);
        let answer = site.ask(&post_with(&(bearer() + ACCEPT), &request(1, "ping")));
        assert_eq!(status_of(&answer), if is_served { "400" } else { "404" }, "{args:?}");
        let text = site.stop();
        assert_eq!(text.contains("MCP clients:"), is_served, "{text}");
        assert!(!text.contains("client connected"), "{text}");
    }
}

/// The printed configuration can be pasted into a client.
#[test]
fn printed_configuration_works() {
    let mut command =
        tieline(["serve", "--listen", "http://127.0.0.1:0", "--", "sh", "-c", SERVER]);
    let site = Site::of(command.env_remove("TIELINE_TOKEN"));
    site.program.wait_stderr("other clients: ");
    let stderr = site.program.stderr();
    let json = stderr.lines().find_map(|line| line.trim().strip_prefix("other clients: ")).unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    let server = &json["mcpServers"]["sh"];
    assert_eq!(server["url"], format!("{}/mcp", site.endpoint));
    let authorization = server["headers"]["Authorization"].as_str().unwrap();
    let headers = format!("Authorization: {authorization}\r\n{ACCEPT}");
    let answer = site.ask(&post_with(&headers, &request(0, "initialize")));
    assert_eq!(status_of(&answer), "200", "{answer}");
    let claude = format!("--header 'Authorization: {authorization}'");
    assert!(stderr.contains(&claude), "{stderr}");
    site.stop();
}
