//! Tests of MCP over HTTP, outward: `tieline connect https://host/mcp` in front of servers of others.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use serde_json::Value;
use support::site::{Site, TOKEN};
use support::{
    Finished, Program, Talk, mcp_client, mcp_sdk, server_everything, sh, tieline, until,
};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"h","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const RESULT: &str =
    r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
const JSON: &str = "Content-Type: application/json\r\n";
const EVENTS: &str = "Content-Type: text/event-stream\r\n";

/// What a server does with a request.
enum Reply {
    /// The status, headers, and the whole body.
    Whole(&'static str, String, String),
    /// The same, but the connection is closed instead of ending the body.
    Cut(&'static str, String, String),
    /// Nothing. The client's end of the connection is reported.
    Never(Sender<()>),
}

fn whole(status: &'static str, headers: &str, body: &str) -> Reply {
    Reply::Whole(status, headers.to_owned(), body.to_owned())
}

fn cut(status: &'static str, headers: &str, body: &str) -> Reply {
    Reply::Cut(status, headers.to_owned(), body.to_owned())
}

/// A request: its head and its body.
#[derive(Debug)]
struct Asked {
    head: String,
    body: String,
}

impl Asked {
    fn is(&self, method: &str) -> bool {
        self.head.starts_with(method)
    }

    fn has(&self, method: &str) -> bool {
        self.body.contains(&format!("\"{method}\""))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let name = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&*name))
    }
}

/// A server that the test writes.
struct Fake {
    url: String,
    asked: Receiver<Asked>,
}

impl Fake {
    fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + Clone + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let (seen, asked) = channel();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (reply, seen) = (reply.clone(), seen.clone());
                thread::spawn(move || {
                    while let Some(request) = read(&stream) {
                        let reply = reply(&request);
                        let _ = seen.send(request);
                        if write(&stream, reply).is_none() {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, asked }
    }

    /// Runs `tieline connect` with these lines as its input.
    fn connect(&self, lines: &[&str]) -> Finished {
        Program::run(&mut tieline(["connect", &self.url]), lines.join("\n") + "\n")
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { head, body: String::from_utf8(body).unwrap() })
}

/// Writes a response. Returns `None` if the connection is closed then.
fn write(mut stream: &TcpStream, reply: Reply) -> Option<()> {
    let (status, headers, body, is_whole) = match reply {
        Reply::Whole(status, headers, body) => (status, headers, body, true),
        Reply::Cut(status, headers, body) => (status, headers, body, false),
        Reply::Never(closed) => {
            let _ = stream.read(&mut [0]);
            let _ = closed.send(());
            return None;
        }
    };
    let length = body.len() + usize::from(!is_whole);
    let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).ok()?;
    is_whole.then_some(())
}

/// Returns a script for an official client of the earlier versions.
fn legacy_client(url: &str) -> String {
    format!(
        r#"
        const {{ Client }} = require("{sdk}/client/index.js");
        const {{ StdioClientTransport }} = require("{sdk}/client/stdio.js");
        const {{ CreateMessageRequestSchema }} = require("{sdk}/types.js");
        const client = new Client({{ name: "test", version: "1" }}, {{ capabilities: {{ sampling: {{}} }} }});
        const text = {{ type: "text", text: "sampled" }};
        client.setRequestHandler(CreateMessageRequestSchema, () => ({{ model: "m", role: "assistant", content: text }}));
        const env = {{ ...process.env, TIELINE_TOKEN: "{TOKEN}" }};
        const transport = new StdioClientTransport({{ command: "{tieline}", args: ["connect", "{url}"], env }});
        const call = (name, args, options) => client.callTool({{ name, arguments: args }}, undefined, options);
        (async () => {{
            await client.connect(transport);
            const {{ tools }} = await client.listTools();
            console.log(tools.some((tool) => tool.name === "echo"));
            let seen = 0;
            const onprogress = () => seen++;
            // The client drops progress that it reads together with the response.
            for (let n = 0; n < 50 && !seen; n++)
                await call("trigger-long-running-operation", {{ duration: 0.4, steps: 4 }}, {{ onprogress }});
            console.log("progress", seen > 0);
            const sampled = await call("trigger-sampling-request", {{ prompt: "p", maxTokens: 5 }});
            console.log(JSON.stringify(sampled).includes("sampled"));
            const answers = await Promise.all([...Array(100).keys()].map((n) => call("echo", {{ message: "m" + n }})));
            console.log(answers.every((answer, n) => answer.content[0].text === "Echo: m" + n));
            await client.close();
        }})();"#,
        sdk = mcp_sdk().display(),
        tieline = env!("CARGO_BIN_EXE_tieline"),
    )
}

fn uses_everything(url: &str) {
    let finished = Program::run(Command::new("node").args(["-e", &legacy_client(url)]), "");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stdout, "true\nprogress true\ntrue\ntrue\n", "{finished:?}");
}

/// Starts `server-everything` as an HTTP server, which has sessions and can resume streams.
fn everything_on_http() -> (Program, String) {
    let [node, script, _] = server_everything();
    for _ in 0..10 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(&node);
        command.args([&script, "streamableHttp"]).env("PORT", port.to_string());
        let server = Program::start(&mut command);
        until("the server listens or fails", || {
            let said = server.stderr();
            said.contains("listening on port") || said.contains("in use")
        });
        if server.stderr().contains("listening on port") {
            return (server, format!("http://127.0.0.1:{port}/mcp"));
        }
    }
    panic!("no port is free");
}

#[test]
fn official_client_on_stdio_uses_a_server_of_others() {
    let (server, url) = everything_on_http();
    uses_everything(&url);
    until("the session has ended", || server.stdout().contains("Received session termination"));
}

#[test]
fn official_client_on_stdio_uses_a_tieline_server() {
    let serve = server_everything();
    let site = Site::start(&[&["--"][..], &serve.each_ref().map(|it| &**it)].concat());
    uses_everything(&format!("{}/mcp", site.endpoint));
    support::mcp::wait_none_left(&site);
    site.stop();
}

/// The second version of the SDK asks for the version of 2026-07-28 first.
#[test]
fn official_client_of_2026_07_28_on_stdio_uses_servers_of_both_eras() {
    let script = |url: &str| {
        format!(
            r#"
            const {{ Client }} = require("{client}");
            const {{ StdioClientTransport }} = require("{stdio}");
            const env = {{ ...process.env, TIELINE_TOKEN: "{TOKEN}" }};
            const transport = new StdioClientTransport({{ command: "{tieline}", args: ["connect", "{url}"], env }});
            const options = {{ versionNegotiation: {{ mode: "auto" }} }};
            const client = new Client({{ name: "test", version: "1" }}, options);
            (async () => {{
                await client.connect(transport);
                console.log(client.getNegotiatedProtocolVersion());
                let seen = 0;
                const name = "trigger-long-running-operation";
                const call = {{ name, arguments: {{ duration: 0.4, steps: 4 }} }};
                // The client drops progress that it reads together with the response.
                for (let n = 0; n < 50 && !seen; n++)
                    await client.callTool(call, {{ onprogress: () => seen++ }});
                console.log(seen > 0);
                const echo = (n) => client.callTool({{ name: "echo", arguments: {{ message: `${{n}}` }} }});
                const echoes = await Promise.all([...Array(50).keys()].map(echo));
                console.log(echoes.every((echo, n) => echo.content[0].text === `Echo: ${{n}}`));
                await client.close();
            }})();"#,
            client = mcp_client().display(),
            stdio = mcp_client().with_file_name("stdio.cjs").display(),
            tieline = env!("CARGO_BIN_EXE_tieline"),
        )
    };
    let serve = server_everything();
    let site = Site::start(&[&["--"][..], &serve.each_ref().map(|it| &**it)].concat());
    let (_server, url) = everything_on_http();
    for (url, version) in [(format!("{}/mcp", site.endpoint), "2026-07-28"), (url, "2025-11-25")] {
        let finished = Program::run(Command::new("node").args(["-e", &script(&url)]), "");
        assert_eq!(finished.stdout, format!("{version}\ntrue\ntrue\n"), "{finished:?}");
    }
    site.stop();
}

#[test]
fn unix_sockets_and_other_paths_are_reached_too() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let script = format!(
        "while read -r line; do case $line in *initialize\\\"*) echo '{RESULT}' ;; *tools*) echo '{PONG}' ;; esac; done"
    );
    let listener = format!("http-unix:{}", socket.display());
    let mut command = tieline(["serve", "--listen", &listener]);
    let server = Site::of(command.args(sh(&script)).env("TIELINE_TOKEN", TOKEN));
    for url in [format!("{listener}:/mcp"), format!("mcp+{listener}")] {
        let lines = [INITIALIZE, INITIALIZED, CALL].join("\n") + "\n";
        let mut command = tieline(["connect", &url]);
        let finished = Program::run(command.env("TIELINE_TOKEN", TOKEN), lines);
        assert_eq!(finished.stdout, format!("{RESULT}\n{PONG}\n"), "{finished:?}");
    }
    server.stop();
    // `call` uses the same endpoints, and `mcp+` makes any path one of them.
    let fake = Fake::start(|_| whole("200 OK", JSON, PONG));
    let url = fake.url.replace("http://", "mcp+http://").replace("/mcp", "/other?x=1");
    let finished = Program::run(&mut tieline(["call", "--dialect", "mcp", &url, "ping"]), "");
    assert_eq!(finished.stdout, "{}\n", "{finished:?}");
    assert!(fake.asked.recv().unwrap().is("POST /other?x=1 "));
}

#[test]
fn token_and_headers_are_sent_and_a_refusal_says_what_to_do() {
    let fake = Fake::start(|_| whole("401 Unauthorized", "", "who are you?\nsecond line"));
    let mut command = tieline(["connect", &fake.url, "--header", "X-Key: 7"]);
    let finished = Program::run(command.env("TIELINE_TOKEN", TOKEN), format!("{CALL}\n"));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["error"]["code"], -31401);
    assert_eq!(
        answer["error"]["message"],
        "the server answered with status 401: who are you?. Check the token: set TIELINE_TOKEN or pass \
         --token-file"
    );
    let asked = fake.asked.recv().unwrap();
    assert_eq!(asked.header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    assert_eq!(asked.header("x-key"), Some("7"));
    assert_eq!(asked.header("accept"), Some("application/json, text/event-stream"));
}

#[test]
fn session_has_its_headers_and_is_deleted_at_the_end() {
    let fake = Fake::start(|asked| match asked {
        _ if asked.has("initialize") => {
            whole("200 OK", &format!("{JSON}Mcp-Session-Id: s\r\n"), RESULT)
        }
        _ if asked.is("GET") => whole("405 Method Not Allowed", "", ""),
        _ if asked.has("tools/call") => whole("200 OK", EVENTS, &format!("data: {PONG}\n\n")),
        _ => whole("202 Accepted", "", ""),
    });
    let mut program = Program::start(&mut tieline(["connect", &fake.url]));
    program.send(INITIALIZE);
    program.send(INITIALIZED);
    let mut asked = Vec::new();
    while !asked.last().is_some_and(|it: &Asked| it.is("GET")) {
        asked.push(fake.asked.recv().unwrap());
    }
    program.send(CALL);
    let finished = program.finish();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stdout, format!("{RESULT}\n{PONG}\n"));
    assert_eq!(finished.stderr, "");
    asked.extend(fake.asked.try_iter());
    assert!(asked[0].header("mcp-session-id").is_none());
    for later in &asked[1..] {
        assert_eq!(later.header("mcp-session-id"), Some("s"), "{asked:?}");
        assert_eq!(later.header("mcp-protocol-version"), Some("2025-11-25"), "{asked:?}");
    }
    let order = asked[2..].iter().map(|it| it.head.split(' ').next().unwrap().to_owned());
    assert_eq!(order.collect::<Vec<_>>(), ["GET", "POST", "DELETE"], "{asked:?}");
}

#[test]
fn stream_that_is_cut_is_resumed_or_its_call_fails() {
    let resuming = Fake::start(|asked| match asked.header("last-event-id") {
        Some("e1") => whole("200 OK", EVENTS, &format!("id: e2\ndata: {PONG}\n\n")),
        _ => cut("200 OK", EVENTS, "id: e1\nretry: 10\ndata:\n\n"),
    });
    let finished = resuming.connect(&[CALL]);
    assert_eq!(finished.stdout, format!("{PONG}\n"), "{finished:?}");
    for body in ["", "data: {\"jsonrpc\":\"2.0\",\n"] {
        let fake = Fake::start(move |_| cut("200 OK", EVENTS, body));
        let finished = fake.connect(&[CALL]);
        assert!(finished.stdout.contains("may have handled the request"), "{finished:?}");
    }
    let fake = Fake::start(|_| cut("200 OK", JSON, "{\"jsonrpc\""));
    let finished = fake.connect(&[CALL]);
    assert!(finished.stdout.contains("may have handled the request"), "{finished:?}");
}

#[test]
fn session_that_the_server_has_lost_is_opened_anew() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static SESSIONS: AtomicUsize = AtomicUsize::new(0);
    let fake = Fake::start(|asked| {
        let session = asked.header("mcp-session-id");
        match asked {
            _ if asked.has("initialize") => {
                let number = SESSIONS.fetch_add(1, SeqCst);
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                let body = RESULT.replace("\"id\":0", &format!("\"id\":{}", body["id"]));
                whole("200 OK", &format!("{JSON}Mcp-Session-Id: s{number}\r\n"), &body)
            }
            _ if asked.has("tools/call") && session == Some("s0") => {
                whole("404 Not Found", "", "no such session")
            }
            _ if asked.has("tools/call") => whole("200 OK", JSON, PONG),
            _ if asked.is("GET") => whole("405 Method Not Allowed", "", ""),
            _ => whole("202 Accepted", "", ""),
        }
    });
    let finished = fake.connect(&[INITIALIZE, INITIALIZED, CALL]);
    assert_eq!(finished.stdout, format!("{RESULT}\n{PONG}\n"), "{finished:?}");
    assert!(finished.stderr.contains("no longer has the session"), "{finished:?}");
    let asked: Vec<Asked> = fake.asked.try_iter().collect();
    assert_eq!(asked.iter().filter(|it| it.has("notifications/initialized")).count(), 2);
    assert_eq!(asked.last().unwrap().header("mcp-session-id"), Some("s1"));
}

#[test]
fn hostile_responses_are_errors_and_the_line_goes_on() {
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{}"}}"#, "x".repeat(17 << 20));
    let event = format!("data: {long}\n\n");
    let foreign = format!("data: {}\n\n", PONG.replace(":1,", ":77,"));
    for (reply, says) in [
        (whole("200 OK", "Content-Type: text/html\r\n", "<p>"), "which is not MCP"),
        (
            whole("307 Temporary Redirect", "Location: http://127.0.0.1:1/mcp\r\n", ""),
            "use the URL",
        ),
        (whole("200 OK", JSON, &long), "larger than --max-message"),
        (whole("200 OK", EVENTS, &event), "larger than --max-message"),
        (whole("200 OK", EVENTS, &foreign), "may have handled the request"),
        (whole("200 OK", JSON, "[]"), "does not answer the request"),
        (whole("999 Odd", "", "\u{1b}[31m"), r"\\u001b[31m"),
        (whole("\r\n\r\n", "", ""), "not HTTP"),
    ] {
        let reply = std::sync::Arc::new(reply);
        let fake = Fake::start(move |asked| match (asked.has("tools/call"), &*reply) {
            (true, Reply::Whole(status, headers, body)) => whole(status, headers, body),
            _ => whole("200 OK", JSON, r#"{"jsonrpc":"2.0","id":2,"result":{}}"#),
        });
        let mut program = Program::start(&mut tieline(["connect", &fake.url]));
        program.send(CALL);
        let answer = program.line().unwrap();
        assert!(answer.starts_with(r#"{"jsonrpc":"2.0","id":1,"error":"#), "{says}: {answer}");
        assert!(answer.contains(says), "{says}: {answer}");
        program.send(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#);
        assert_eq!(program.line().unwrap(), r#"{"jsonrpc":"2.0","id":2,"result":{}}"#);
        program.finish();
    }
}

#[test]
fn call_that_is_never_answered_can_be_cancelled() {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    for (call, is_told) in [
        (CALL.to_owned(), true),
        (CALL.replace(r#""name":"t""#, &format!(r#""name":"t",{meta}"#)), false),
    ] {
        let (closed, is_closed) = channel();
        let fake = Fake::start(move |asked| match asked.has("tools/call") {
            true => Reply::Never(closed.clone()),
            false => whole("202 Accepted", "", ""),
        });
        let mut program = Program::start(&mut tieline(["connect", &fake.url]));
        program.send(&call);
        assert!(fake.asked.recv().unwrap().has("tools/call"));
        program.send(
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
        );
        if is_told {
            assert!(fake.asked.recv().unwrap().has("notifications/cancelled"));
        } else {
            // The connection is closed instead, while the client still runs.
            is_closed.recv().unwrap();
        }
        let finished = program.finish();
        assert_eq!((finished.code, &*finished.stdout), (Some(0), ""), "{finished:?}");
    }
}
