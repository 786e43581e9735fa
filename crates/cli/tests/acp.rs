//! Tests of `/acp`: ACP clients over HTTP and WebSockets, with an agent on stdio for each connection.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;
use support::mcp::{Stream, bearer, wait_none_left};
use support::site::{Site, TOKEN, status_of};
use support::{Program, acp_agent, acp_client, acp_crate_client, children_of, until};

/// An agent in a few lines. It has the session `s`, asks for permission during a prompt, and exits on `exit`.
const AGENT: &str = r#"
    say() { printf '{"jsonrpc":"2.0",%s}\n' "$1"; }
    while read -r line; do
        case $line in
        *'"initialize"'*) say '"id":0,"result":{"protocolVersion":1}' ;;
        *'"session/new"'*) say '"id":1,"result":{"sessionId":"s"}' ;;
        *'"session/load"'*)
            say '"method":"session/update","params":{"sessionId":"old","update":"replayed"}'
            say '"id":2,"result":null' ;;
        *'"session/prompt"'*)
            say '"method":"session/update","params":{"sessionId":"s","update":"working"}'
            say '"method":"session/request_permission","id":90,"params":{"sessionId":"s"}' ;;
        *'"allowed"'*) say '"id":3,"result":{"stopReason":"end_turn"}' ;;
        *'"big"'*) head -c 300000 /dev/zero | tr '\0' x | sed 's/.*/{"method":"_big","params":{"sessionId":"s","x":"&"}}/'
            echo ;;
        *'"exit"'*) echo 'some last words' >&2; exit 3 ;;
        esac
    done"#;

const INITIALIZE: &str =
    r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}"#;
const NEW: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"session/new","params":{"cwd":"/","mcpServers":[]}}"#;
const PROMPT: &str =
    r#"{"jsonrpc":"2.0","id":3,"method":"session/prompt","params":{"sessionId":"s","prompt":[]}}"#;
const ALLOWED: &str = r#"{"jsonrpc":"2.0","id":90,"result":{"outcome":"allowed"}}"#;

fn extension(method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{}}}}"#)
}

fn site(args: &[&str]) -> Site {
    Site::start(&[args, &["--", "sh", "-c", AGENT]].concat())
}

fn post_with(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /acp HTTP/1.1\r\nHost: @\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

const OF_SESSION: &str = "Acp-Session-Id: s\r\n";
const EVENTS: &str = "Accept: text/event-stream\r\n";

/// A client of one connection.
struct Connection<'a> {
    site: &'a Site,
    headers: String,
}

impl<'a> Connection<'a> {
    #[track_caller]
    fn open(site: &'a Site) -> Self {
        let answer = site.ask(&post_with(&bearer(), INITIALIZE));
        assert_eq!(status_of(&answer), "200", "{answer}");
        assert!(answer.contains("\r\ncontent-type: application/json\r\n"), "{answer}");
        assert!(answer.ends_with(r#""id":0,"result":{"protocolVersion":1}}"#), "{answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("acp-connection-id: ")).unwrap();
        Self { site, headers: format!("{}Acp-Connection-Id: {id}\r\n", bearer()) }
    }

    /// Opens a connection with the stream of its session.
    #[track_caller]
    fn with_session(site: &'a Site) -> (Self, Stream) {
        let connection = Self::open(site);
        let mut general = connection.get("");
        connection.post("", NEW);
        general.wait(r#""result":{"sessionId":"s"}"#);
        let session = connection.get(OF_SESSION);
        (connection, session)
    }

    #[track_caller]
    fn post(&self, more: &str, body: &str) {
        let answer = self.try_post(more, body);
        assert_eq!(status_of(&answer), "202", "{answer}");
    }

    fn try_post(&self, more: &str, body: &str) -> String {
        self.site.ask(&post_with(&format!("{}{more}", self.headers), body))
    }

    fn ask(&self, method: &str, more: &str) -> String {
        let headers = &self.headers;
        self.site.ask(&format!("{method} /acp HTTP/1.1\r\nHost: @\r\n{headers}{more}\r\n"))
    }

    fn get(&self, more: &str) -> Stream {
        let headers = &self.headers;
        let request = format!("GET /acp HTTP/1.1\r\nHost: @\r\n{headers}{EVENTS}{more}\r\n");
        let mut stream = Stream::open(self.site, &request);
        stream.wait("retry: 1000\n\n");
        assert!(stream.text.starts_with("HTTP/1.1 200"), "{}", stream.text);
        stream
    }

    /// Waits until the connection is gone.
    #[track_caller]
    fn wait_gone(&self) {
        until("the connection is gone", || status_of(&self.try_post("", NEW)) == "404");
    }
}

/// Starts a server of the agent on the official SDK.
fn site_of_sdk() -> Site {
    let agent = acp_agent();
    let agent = agent.each_ref().map(|word| &**word);
    Site::start(&[&["--dialect", "acp", "--"][..], &agent].concat())
}

/// What the clients on the official SDKs print.
const OF_SDK: &str = "initialized 1 fixture\nprompted end_turn 1\nat once true 33\ncanceled cancelled\nloaded\n\
                      refused -32602\nclosed\n";

/// Runs a client on an SDK through HTTP and through a WebSocket.
#[track_caller]
fn use_agent_through_both(client: &[String]) {
    let site = site_of_sdk();
    let web_socket = site.web_socket().replace("/ws", "/acp");
    for url in [format!("{}/acp", site.endpoint), web_socket] {
        let mut command = Command::new(&client[0]);
        let finished = Program::run(command.args(&client[1..]).args([&url, TOKEN]), "");
        assert_eq!((finished.code, &*finished.stdout), (Some(0), OF_SDK), "{url}: {finished:?}");
        wait_none_left(&site);
    }
    site.stop();
}

#[test]
fn the_typescript_client_uses_an_agent_through_http_and_web_sockets() {
    use_agent_through_both(&acp_client());
}

/// With HTTP, this client uses version 2.
#[test]
fn the_rust_client_uses_an_agent_through_http_and_web_sockets() {
    use_agent_through_both(&[acp_crate_client()]);
}

#[test]
fn a_client_creates_a_session_and_answers_the_agent() {
    let site = site(&[]);
    let connection = Connection::open(&site);
    let mut general = connection.get("");
    connection.post("", NEW);
    general
        .wait("id: 0.1\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"sessionId\":\"s\"}}\n\n");
    let mut session = connection.get(OF_SESSION);
    assert!(session.text.contains("acp-session-id: s\r\n"), "{}", session.text);
    connection.post(OF_SESSION, PROMPT);
    session.wait(r#""update":"working""#);
    session.wait(r#""method":"session/request_permission""#);
    connection.post(OF_SESSION, ALLOWED);
    session.wait(r#""stopReason":"end_turn""#);
    assert!(!general.text.contains("working"), "{}", general.text);
    // A client that loads a session opens its stream first, because its messages come before the response.
    let mut old = connection.get("Acp-Session-Id: old\r\n");
    let load = NEW
        .replace("session/new", "session/load")
        .replace(r#""cwd""#, r#""sessionId":"old","cwd""#);
    connection.post("Acp-Session-Id: old\r\n", &load.replace("\"id\":1", "\"id\":2"));
    old.wait("replayed");
    general.wait(r#""id":2,"result":null"#);
    assert_eq!(status_of(&connection.ask("DELETE", "")), "202");
    for stream in [&mut general, &mut session, &mut old] {
        stream.wait("\r\n0\r\n\r\n");
    }
    connection.wait_gone();
    wait_none_left(&site);
    site.stop();
}

#[test]
fn each_request_gets_the_status_that_the_transport_defines() {
    let site = site(&[]);
    let connection = Connection::open(&site);
    let (bearer, own) = (bearer(), &*connection.headers);
    let unknown = format!("{bearer}Acp-Connection-Id: unknown\r\n");
    let get = |headers: &str| format!("GET /acp HTTP/1.1\r\nHost: @\r\n{headers}\r\n");
    let delete = |headers: &str| get(headers).replace("GET", "DELETE");
    let ping = extension("_ping");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (what, request, status) in [
        ("a response", post_with(own, ALLOWED), "202"),
        ("a notification", post_with(own, r#"{"jsonrpc":"2.0","method":"_n"}"#), "202"),
        ("no connection", post_with(&bearer, &ping), "400"),
        ("unknown connection", post_with(&unknown, &ping), "404"),
        ("initialize again", post_with(own, INITIALIZE), "400"),
        ("initialize of an unknown connection", post_with(&unknown, INITIALIZE), "400"),
        ("no session", post_with(own, PROMPT), "400"),
        ("another session", post_with(&format!("{own}Acp-Session-Id: t\r\n"), PROMPT), "400"),
        ("two sessions", post_with(&format!("{own}{OF_SESSION}{OF_SESSION}"), PROMPT), "400"),
        ("a batch", post_with(own, &format!("[{ping}]")), "501"),
        ("a batch without a connection", post_with(&bearer, &format!("[{INITIALIZE}]")), "501"),
        ("no JSON", post_with(own, "{"), "400"),
        ("other content", post_with(own, &ping).replace("application/json", "text/plain"), "415"),
        ("no type", post_with(own, &ping).replace("Content-Type: application/json\r\n", ""), "415"),
        ("too long", post_with(own, "").replace("Length: 0", "Length: 99999999"), "413"),
        ("no token", post_with(&own.replace(&bearer, ""), &ping), "401"),
        ("initialize without a token", post_with("", INITIALIZE), "401"),
        (
            "foreign host",
            post_with(&bearer, INITIALIZE).replace("Host: @", "Host: evil.example"),
            "403",
        ),
        (
            "foreign origin",
            post_with(&format!("{bearer}Origin: http://evil.example\r\n"), INITIALIZE),
            "403",
        ),
        ("PUT", post_with(own, &ping).replace("POST", "PUT"), "405"),
        ("GET without a connection", get(&format!("{bearer}{EVENTS}")), "400"),
        ("GET of an unknown connection", get(&format!("{unknown}{EVENTS}")), "404"),
        ("GET without Accept", get(own), "406"),
        ("GET of JSON", get(&format!("{own}Accept: application/json\r\n")), "406"),
        ("GET of an unknown event", get(&format!("{own}{EVENTS}Last-Event-ID: 0.9\r\n")), "400"),
        ("DELETE without a connection", delete(&bearer), "400"),
        ("DELETE of an unknown connection", delete(&unknown), "404"),
        ("DELETE without a token", delete(&own.replace(&bearer, "")), "401"),
        ("WebSocket without a token", get(upgrade), "401"),
        (
            "WebSocket without a key",
            get(&format!("{bearer}{upgrade}Sec-WebSocket-Version: 13\r\n")),
            "400",
        ),
        (
            "other version of WebSocket",
            get(&format!("{bearer}{upgrade}Sec-WebSocket-Version: 12\r\n")),
            "426",
        ),
    ] {
        let answer = site.ask(&request);
        assert_eq!(status_of(&answer), status, "{what}: {answer}");
    }
    let general = connection.get("");
    assert_eq!(status_of(&connection.ask("GET", EVENTS)), "409");
    // Sessions that the agent has not named.
    let streams: Vec<_> =
        (0..16).map(|n| connection.get(&format!("Acp-Session-Id: unknown-{n}\r\n"))).collect();
    let answer = connection.ask("GET", &format!("{EVENTS}Acp-Session-Id: one-more\r\n"));
    assert_eq!(status_of(&answer), "404", "{answer}");
    drop((general, streams));
    let log = site.stop();
    assert_eq!(log.matches("client connected").count(), 1, "{log}");
}

#[test]
fn a_connection_belongs_to_the_client_that_opened_it() {
    let site = site(&[]);
    let connection = Connection::open(&site);
    site.program.wait_stderr("?key=");
    let stderr = site.program.stderr();
    let key = stderr.split("?key=").nth(1).unwrap().split_whitespace().next().unwrap();
    let answer = site.get(&format!("/?key={key}"), "");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let foreign = connection.headers.replace(&bearer(), &cookie);
    assert_eq!(status_of(&site.ask(&post_with(&foreign, NEW))), "404");
    for method in ["GET", "DELETE"] {
        let request = format!("{method} /acp HTTP/1.1\r\nHost: @\r\n{foreign}{EVENTS}\r\n");
        assert_eq!(status_of(&site.ask(&request)), "404");
    }
    connection.post("", NEW);
    site.stop();
}

#[test]
fn a_stream_is_resumed_after_the_last_event_that_the_client_has_received() {
    let site = site(&[]);
    let (connection, mut session) = Connection::with_session(&site);
    connection.post(OF_SESSION, PROMPT);
    session.wait(r#""method":"session/request_permission""#);
    let id = session.text.rsplit("id: ").next().unwrap().split('\n').next().unwrap().to_owned();
    let first = id.replace(".2", ".1");
    assert_ne!(id, first, "{}", session.text);
    drop(session);
    connection.post(OF_SESSION, ALLOWED);
    // The connection that it replaces may be there still, as far as the server knows.
    let mut resumed = connection.get(&format!("{OF_SESSION}Last-Event-ID: {first}\r\n"));
    resumed.wait(r#""stopReason":"end_turn""#);
    assert!(resumed.text.contains("session/request_permission"), "{}", resumed.text);
    assert!(!resumed.text.contains("working"), "{}", resumed.text);
    site.stop();
}

#[test]
fn a_refused_or_abandoned_initialization_leaves_no_program() {
    let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"no"}}"#;
    let script = format!("read -r line; echo '{error}'; exec sleep 1000");
    let site = Site::start(&["--", "sh", "-c", &script]);
    let answer = site.ask(&post_with(&bearer(), INITIALIZE));
    assert_eq!(status_of(&answer), "200", "{answer}");
    assert!(answer.ends_with(error) && !answer.contains("acp-connection-id"), "{answer}");
    wait_none_left(&site);
    site.stop();

    let site = Site::start(&["--", "sh", "-c", "read -r line; exec sleep 1000"]);
    let mut socket = TcpStream::connect(site.authority()).unwrap();
    let opening = post_with(&bearer(), INITIALIZE);
    socket.write_all(opening.replace('@', site.authority()).as_bytes()).unwrap();
    until("the program has started", || !children_of(site.program.pid()).is_empty());
    drop(socket);
    wait_none_left(&site);
    site.stop();

    let site = Site::start(&["--", "sh", "-c", "read -r line; echo banner; exit 3"]);
    let answer = site.ask(&opening);
    assert_eq!(status_of(&answer), "200", "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["id"], 0, "{body}");
    assert!(body["error"].to_string().contains("exit status: 3"), "{body}");
    wait_none_left(&site);
    site.stop();
}

#[test]
fn requests_in_flight_are_answered_when_the_agent_exits() {
    let site = site(&[]);
    let (connection, mut session) = Connection::with_session(&site);
    let exit = extension("exit").replace("{}", r#"{"sessionId":"s"}"#);
    connection.post(OF_SESSION, &exit);
    session.wait("exit status: 3");
    session.wait("\r\n0\r\n\r\n");
    connection.wait_gone();
    site.stop();
}

#[test]
fn abandoned_connections_make_room_for_new_ones() {
    let site = site(&["--max-connections", "3"]);
    let (used, mut stream) = Connection::with_session(&site);
    let oldest = Connection::open(&site);
    let next = Connection::open(&site);
    for _ in 0..20 {
        Connection::open(&site);
    }
    for gone in [&oldest, &next] {
        assert_eq!(status_of(&gone.try_post("", NEW)), "404");
    }
    used.post(OF_SESSION, PROMPT);
    stream.wait("working");
    until("there are three programs", || children_of(site.program.pid()).len() == 3);
    let log = site.stop();
    assert!(log.contains("it was idle, and another client needed its place"), "{log}");
}

/// The agent writes messages for a stream that no client opens: the oldest are dropped and counted.
#[test]
fn messages_that_no_client_reads_are_bounded() {
    let site = site(&[]);
    let connection = Connection::open(&site);
    for _ in 0..30 {
        let big = r#"{"jsonrpc":"2.0","method":"big"}"#;
        connection.post("", big);
    }
    connection.post("", NEW);
    let mut general = connection.get("");
    general.wait(r#""sessionId":"s""#);
    drop(general);
    assert_eq!(status_of(&connection.ask("DELETE", "")), "202");
    connection.wait_gone();
    let log = site.stop();
    assert!(log.contains("their ACP connection did not deliver them"), "{log}");
}

#[test]
fn a_web_socket_is_a_connection() {
    let site = site(&[]);
    let url = site.web_socket().replace("/ws", "/acp");
    let input = format!("{INITIALIZE}\n{NEW}\n{PROMPT}\n{ALLOWED}\n");
    let finished = Program::run(&mut site.connect(&url), input);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for text in [r#""protocolVersion":1"#, r#""sessionId":"s""#, "working", "end_turn"] {
        assert!(finished.stdout.contains(text), "{finished:?}");
    }
    wait_none_left(&site);
    // The response to the upgrade names the connection. A binary message is ignored.
    let script = format!(
        r#"
        const {{ WebSocket }} = require("{ws}");
        const socket = new WebSocket("{url}", {{ headers: {{ Authorization: "Bearer {TOKEN}" }} }});
        socket.on("upgrade", ({{ headers }}) => console.log(headers["acp-connection-id"].length > 20));
        socket.on("open", () => {{
            socket.send(Buffer.from('{NEW}'));
            socket.send('{INITIALIZE}');
        }});
        socket.on("message", (data, isBinary) => {{
            console.log(isBinary, String(data));
            socket.close();
        }});"#,
        ws = support::ws(),
    );
    let finished = Program::run(Command::new("node").args(["-e", &script]), "");
    let expected =
        "true\nfalse {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"protocolVersion\":1}}\n";
    assert_eq!((finished.code, &*finished.stdout), (Some(0), expected), "{finished:?}");
    wait_none_left(&site);
    site.stop();
}

/// All requests and streams share one connection.
#[test]
fn a_client_uses_http2() {
    let site = site(&[]);
    let script = format!(
        r#"
        const http2 = require("node:http2");
        const connection = http2.connect("{url}");
        const own = {{ ":path": "/acp", authorization: "Bearer {TOKEN}" }};
        const ask = (headers, body) => new Promise((resolve) => {{
            const stream = connection.request({{ ...own, ...headers }}, {{ endStream: body === undefined }});
            let text = "";
            stream.setEncoding("utf8").on("data", (data) => (text += data));
            stream.on("response", (answer) => (headers = answer)).on("end", () => resolve([headers, text]));
            if (body !== undefined) stream.end(body);
        }});
        const post = (headers, body) =>
            ask({{ ":method": "POST", "content-type": "application/json", ...headers }}, body);
        const open = (headers, parts) => {{
            const stream = connection.request({{ ...own, accept: "text/event-stream", ...headers }});
            let [text, found] = ["", () => {{}}];
            stream.setEncoding("utf8").on("data", (data) => {{ text += data; found(); }});
            const wait = (part) => new Promise((resolve) => {{
                found = () => text.includes(part) && resolve();
                found();
            }});
            return {{ wait, ended: new Promise((resolve) => stream.on("end", resolve)) }};
        }};
        (async () => {{
            const [head, text] = await post({{}}, '{INITIALIZE}');
            console.log(head[":status"], text);
            const id = {{ "acp-connection-id": head["acp-connection-id"] }};
            const general = open(id);
            console.log((await post(id, '{NEW}'))[0][":status"]);
            await general.wait('"sessionId":"s"');
            const of = {{ ...id, "acp-session-id": "s" }};
            const session = open(of);
            await post(of, '{PROMPT}');
            await session.wait("session/request_permission");
            await post(of, '{ALLOWED}');
            await session.wait("end_turn");
            console.log((await ask({{ ":method": "DELETE", ...id }}))[0][":status"]);
            await Promise.all([general.ended, session.ended]);
            connection.close();
        }})();"#,
        url = site.endpoint,
    );
    let finished = Program::run(Command::new("node").args(["-e", &script]), "");
    let expected =
        "200 {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"protocolVersion\":1}}\n202\n202\n";
    assert_eq!((finished.code, &*finished.stdout), (Some(0), expected), "{finished:?}");
    wait_none_left(&site);
    site.stop();
}

#[test]
fn the_route_exists_for_programs_that_may_speak_acp() {
    for (args, has_acp, has_mcp) in [
        (&[][..], true, true),
        (&["--dialect", "acp"], true, false),
        (&["--dialect", "mcp"], false, true),
        (&["--dialect", "strict"], false, false),
        (&["--framing", "content-length"], false, false),
    ] {
        let site = site(args);
        let answer = site.ask(&post_with(&bearer(), NEW));
        assert_eq!(status_of(&answer), if has_acp { "400" } else { "404" }, "{args:?}");
        // This line is the last one.
        site.program.wait_stderr("or in a browser");
        let invitation = site.program.stderr();
        let line = format!(
            "  ACP clients: {}/acp (HTTP or WebSocket, header Authorization: Bearer TOKEN)\n",
            site.endpoint
        );
        assert_eq!(invitation.contains(&line), has_acp && !has_mcp, "{args:?} {invitation}");
        assert_eq!(invitation.contains("MCP clients:"), has_mcp, "{args:?} {invitation}");
        site.stop();
    }
}
