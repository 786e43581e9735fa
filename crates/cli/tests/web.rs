//! Tests of `tieline serve --listen http://…`: the clients that are admitted and refused, and the
//! reports about them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::site::{Site, TOKEN, status_of};
use support::{Program, Talk, children_of, request, tieline, until};

#[test]
fn lines_pass_over_web_socket_and_events_with_and_without_a_session() {
    let site = Site::start(&["--", "cat"]);
    let events = format!("{}/sse", site.endpoint);
    let resumed = [format!("resume+{}", site.web_socket()), format!("resume+{events}")];
    for endpoint in [site.web_socket(), events].into_iter().chain(resumed) {
        let lines = "{\"id\":1}\nplain words\n";
        let finished = Program::run(&mut site.connect(&endpoint), lines);
        assert_eq!((finished.code, &*finished.stdout), (Some(0), lines), "{finished:?}");
    }
    let said = site.stop();
    assert!(said.contains("served=4 refused=0 failed=0"), "{said}");
    assert!(!said.contains(TOKEN), "{said}");
}

#[test]
fn call_and_bridge_reach_a_web_server() {
    let site = Site::start(&[]);
    for endpoint in [site.web_socket(), format!("{}/sse", site.endpoint)] {
        let mut call = tieline(["call", &endpoint, "add", "[2,3]"]);
        let finished = Program::run(call.env("TIELINE_TOKEN", TOKEN), "");
        assert_eq!((finished.code, finished.stdout.trim()), (Some(0), "5"), "{finished:?}");
        let mut bridge = tieline(["bridge", "stdio:", &endpoint]);
        let mut bridge = Program::start(bridge.env("TIELINE_TOKEN", TOKEN));
        let answer: Value = bridge.call(&request(1, "add", json!([20, 22])));
        assert_eq!(answer["result"], 42);
        bridge.end_input();
        assert_eq!(bridge.wait().code, Some(0));
    }
    site.stop();
}

/// These are the commands of the guide.
#[test]
fn curl_can_read_events_post_and_call() {
    let site = Site::start(&[]);
    let curl = |args: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--max-time", "60"]);
        curl.args(["--header", &format!("Authorization: Bearer {TOKEN}")]).args(args);
        curl
    };
    let mut events = Program::start(&mut curl(&[&format!("{}/sse", site.endpoint)]));
    let mut line = || loop {
        let line = events.line().unwrap();
        if !line.is_empty() && !line.starts_with(':') && !line.starts_with("id: ") {
            return line;
        }
    };
    assert_eq!(line(), "event: endpoint");
    let uri = line();
    let post_to = format!("{}/{}", site.endpoint, uri.strip_prefix("data: ").unwrap());
    let body = request(1, "add", json!([2, 3])).to_string();
    let posted = Program::run(&mut curl(&["--data", &body, &post_to]), "");
    assert_eq!((posted.code, &*posted.stdout), (Some(0), "\n"), "{posted:?}");
    let answer: Value = serde_json::from_str(line().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&answer["id"], &answer["result"]), (&json!(1), &json!(5)));
    let done = Program::run(&mut curl(&["--request", "DELETE", &post_to]), "");
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(line(), "event: end");
    assert_eq!(line(), r#"data: {"code":1000,"reason":""}"#);
    assert_eq!(events.wait().code, Some(0));
    let called = Program::run(&mut curl(&["--data", &body, &format!("{}/rpc", site.endpoint)]), "");
    let answer: Value = serde_json::from_str(&called.stdout).unwrap();
    assert_eq!(answer["result"], 5);
    let said = site.stop();
    assert!(said.contains("failed=0"), "{said}");
}

#[test]
fn a_generated_token_is_in_the_start_up_text_and_never_logged() {
    for logging in ["-v", "--quiet", "--log-format=json"] {
        let mut command = tieline(["serve", logging, "--listen", "http://127.0.0.1:0"]);
        let site = Site::of(command.args(["--", "cat"]));
        site.program.wait_stderr("/?key=");
        let invited = site.program.stderr();
        let token = invited.split("TIELINE_TOKEN=").nth(1).unwrap();
        // In JSON, the newline after the token is escaped.
        let token = token.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap().to_owned();
        let mut connect = tieline(["connect", &site.web_socket(), "--token", &token]);
        let finished = Program::run(&mut connect, "hello\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "hello\n"), "{finished:?}");
        assert_eq!(status_of(&site.get(&format!("/?token={token}"), "")), "401");
        let said = site.stop();
        // The token is printed once as a variable, and in each configuration for an MCP client.
        assert_eq!(
            (invited.matches(&token).count(), said.matches(&token).count()),
            (4, 4),
            "{said}"
        );
        if logging.ends_with("json") {
            let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
            assert!(said.lines().all(is_json), "{said}");
        }
    }
}

#[test]
fn the_one_time_url_works_once() {
    let site = Site::start(&["--", "cat"]);
    site.program.wait_stderr("/?key=");
    let url = site.program.stderr();
    let key = url.split("/?key=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let path = format!("/?key={key}");
    let answer = site.get(&path, "");
    assert_eq!(status_of(&answer), "303", "{answer}");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(status_of(&site.get("/", &format!("Cookie: {cookie}\r\n"))), "200");
    assert_eq!(status_of(&site.get(&path, "")), "403", "a used URL was accepted");
    site.stop();
}

#[test]
fn a_missing_or_wrong_token_starts_no_program() {
    let site = Site::start(&["--", "cat"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a-token-that-is-not-the-one\n").unwrap();
    let wrong = file.path().to_str().unwrap();
    for args in [&[][..], &["--token", "another-that-is-wrong"], &["--token-file", wrong]] {
        let mut connect = tieline(["connect", &site.web_socket()]);
        let finished = Program::run(connect.args(args), "hello\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
        assert!(finished.stderr.contains("401"), "{finished:?}");
        assert!(finished.stderr.contains("hint: "), "{finished:?}");
    }
    assert_eq!(children_of(site.program.pid()), [0; 0]);
    let said = site.stop();
    assert!(said.contains("served=0"), "{said}");
}

#[test]
fn a_foreign_page_starts_no_program() {
    let site = Site::start(&["--allow-origin", "https://friend.example", "--", "cat"]);
    let upgrade = |host: &str, origin: &str| {
        site.ask(&format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
    };
    for (host, origin) in [
        ("@", "https://evil.example"),
        ("@", "null"),
        ("evil.example", "http://evil.example"),
        ("@", "https://friend.example.evil.example"),
    ] {
        let answer = upgrade(host, origin);
        assert_eq!(status_of(&answer), "403", "{host} {origin}: {answer}");
    }
    assert_eq!(children_of(site.program.pid()), [0; 0]);
    // A page with an allowed origin is served.
    let mut stream = TcpStream::connect(site.authority()).unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: @\r\nOrigin: https://friend.example\r\n";
    let head = head.replace('@', site.authority());
    let rest = format!(
        "Authorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all((head + &rest).as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    until("its program runs", || children_of(site.program.pid()).len() == 1);
    drop(stream);
    until("its program is gone", || children_of(site.program.pid()).is_empty());
    site.stop();
}

#[test]
fn health_and_metrics_are_served() {
    let site = Site::start(&["--", "cat"]);
    assert_eq!(status_of(&site.get("/health", "")), "200");
    assert_eq!(status_of(&site.get("/health/ready", "")), "200");
    assert_eq!(status_of(&site.get("/metrics", "")), "401");
    let finished = Program::run(&mut site.connect(&site.web_socket()), "one\ntwo\n");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let counted = || site.get("/metrics", &format!("Authorization: Bearer {TOKEN}\r\n"));
    until("the line is over", || counted().contains("\ntieline_lines_ended_total 1\n"));
    let counted = counted();
    for line in [
        "# TYPE tieline_messages_total counter",
        "tieline_messages_total{direction=\"in\"} 2",
        "tieline_messages_total{direction=\"out\"} 2",
        "tieline_clients_total 1",
        // The web server's own counters follow in the same format.
        "# TYPE tieline_web_refused_total counter",
        "tieline_web_refused_total{cause=\"token\"} 1",
        "tieline_web_sockets_total 1",
    ] {
        assert!(counted.lines().any(|it| it.trim_end() == line), "{line}: {counted}");
    }
    site.stop();
}

#[test]
fn the_token_is_not_sent_to_other_machines_in_clear_text() {
    // This is not a loopback address, but connections to it reach this machine, so the test needs no
    // network.
    for endpoint in ["ws://0.0.0.0:1/ws", "resume+ws://0.0.0.0:1/ws", "http://0.0.0.0:1/sse"] {
        let mut connect = tieline(["connect", endpoint]);
        let finished = Program::run(connect.env("TIELINE_TOKEN", TOKEN), "");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        for says in ["in clear text (no TLS)", "wss://", "--send-token-without-tls"] {
            assert!(finished.stderr.contains(says), "{says}: {finished:?}");
        }
        assert!(!finished.stderr.contains(TOKEN), "{finished:?}");
        let finished = Program::run(connect.arg("--send-token-without-tls"), "");
        assert!(finished.stderr.contains("no process is listening there"), "{finished:?}");
    }
}

#[test]
fn unsafe_and_invalid_web_listeners_are_refused_before_listening() {
    for (args, says) in [
        (&["--listen", "http://0.0.0.0:0"][..], "or set a token and a TLS certificate"),
        (&["--listen", "http://127.0.0.1:0", "--token", "short"], "16 to 512"),
        (&["--listen", "https://127.0.0.1:0"], "--tls-cert"),
        (&["--listen", "http://127.0.0.1:0/path"], "a host and a port"),
        (&["--listen", "ws://127.0.0.1:0/ws"], "http://"),
        (&["--listen", "http://127.0.0.1:0", "--allow-origin", "friend"], "https://example.org"),
    ] {
        let mut command = tieline(["serve"]);
        let finished = Program::run(command.args(args).args(["--", "cat"]), "");
        assert!(matches!(finished.code, Some(1 | 2)), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(says), "{args:?}: {finished:?}");
        assert_eq!(finished.stdout, "", "{args:?}");
    }
}

#[test]
fn a_session_on_the_web_outlives_its_connection() {
    let site = Site::start(&["-v", "--", "sh", "-c", "echo $$; cat"]);
    let mut client = Program::start(&mut site.connect(&format!("resume+{}", site.web_socket())));
    let pid: u32 = client.line().unwrap().parse().unwrap();
    client.signal(Signal::KILL);
    client.wait();
    site.program.wait_stderr("has lost its connection");
    assert!(support::is_running(pid), "its program has ended");
    let said = site.stop();
    assert!(said.contains("no processes left"), "{said}");
}

/// Opens a WebSocket. Returns it with a function that reads the code of the close frame.
fn close_code(site: &Site) -> (TcpStream, impl FnOnce(TcpStream) -> u16 + use<>) {
    let mut stream = TcpStream::connect(site.authority()).unwrap();
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        site.authority()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let hear = |mut stream: TcpStream| {
        let mut frame = [0; 4];
        stream.read_exact(&mut frame).unwrap();
        assert_eq!(frame[0], 0x88, "not a close frame: {frame:?}");
        u16::from_be_bytes([frame[2], frame[3]])
    };
    (stream, hear)
}

#[test]
fn the_close_code_reports_how_the_program_ended() {
    for (script, code) in [("exit 0", 1000), ("exit 3", 1011)] {
        let site = Site::start(&["--", "sh", "-c", script]);
        let (stream, hear) = close_code(&site);
        assert_eq!(hear(stream), code, "{script}");
        site.stop();
    }
    let mut site = Site::start(&["--", "cat"]);
    let (stream, hear) = close_code(&site);
    until("its program runs", || children_of(site.program.pid()).len() == 1);
    site.program.signal(Signal::TERM);
    assert_eq!(hear(stream), 1001, "the server stops");
    assert_eq!(site.program.wait().code, Some(0));
}

#[test]
fn a_message_of_the_largest_size_passes_with_and_without_a_session() {
    let site = Site::start(&["--max-message", "64KiB", "--", "cat"]);
    let line = "x".repeat(64 * 1024) + "\n";
    for endpoint in [site.web_socket(), format!("resume+{}", site.web_socket())] {
        let mut connect = site.connect(&endpoint);
        let finished = Program::run(connect.args(["--max-message", "64KiB"]), &line);
        assert_eq!(finished.code, Some(0), "{endpoint}: {}", finished.stderr);
        assert!(finished.stdout == line, "{endpoint}: {} bytes", finished.stdout.len());
    }
    site.stop();
}

#[test]
fn the_token_is_passed_to_programs_only_by_name() {
    let site = Site::start(&["--", "env"]);
    let mut client = Program::start(&mut site.connect(&site.web_socket()));
    let variables = client.wait().stdout;
    assert!(variables.contains("PATH=") && !variables.contains("TIELINE_TOKEN"), "{variables}");
    site.stop();
    let mut connect = tieline(["connect", "exec:env"]);
    let variables = Program::run(connect.env("TIELINE_TOKEN", TOKEN), "").stdout;
    assert!(variables.contains("PATH=") && !variables.contains("TIELINE_TOKEN"), "{variables}");
    // `--pass-env` with the name of the variable passes the token on.
    let site = Site::start(&["--pass-env", "TIELINE_TOKEN", "--", "/usr/bin/env"]);
    let mut client = Program::start(&mut site.connect(&site.web_socket()));
    assert!(client.wait().stdout.contains(TOKEN));
    site.stop();
}

#[test]
fn a_client_refused_for_the_limit_gets_close_code_1013() {
    let site = Site::start(&["--max-connections", "1", "--", "cat"]);
    let (first, _) = close_code(&site);
    until("its program runs", || children_of(site.program.pid()).len() == 1);
    let (second, hear) = close_code(&site);
    assert_eq!(hear(second), 1013);
    let mut connect = site.connect(&format!("resume+{}", site.web_socket()));
    let finished = Program::run(&mut connect, "one\ntwo\n");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    drop(first);
    site.stop();
}

#[test]
fn a_silent_client_is_not_counted_as_a_failure_of_the_program() {
    let script = "read line || exit 3; echo \"$line\"; cat";
    let serve = support::Serve::start(["--", "sh", "-c", script]);
    for _ in 0..6 {
        let finished = Program::run(&mut serve.connect(), "");
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    let finished = Program::run(&mut serve.connect(), "hello\n");
    assert_eq!(&*finished.stdout, "hello\n", "{finished:?}");
    serve.stop();
}

#[test]
fn a_session_over_a_web_socket_that_is_cut_loses_and_repeats_nothing() {
    const LINES: usize = 10_000;
    // Clients of the proxy send the proxy's address in their Host header.
    let site = Site::start(&["--allow-host", "127.0.0.1", "--", "cat"]);
    let lines: String = (0..LINES).map(|number| format!("{number}\n")).collect();
    let (way, finished) = support::through_cuts(|every| {
        let mut way = tieline(["chaos", "ws://127.0.0.1:0", &site.web_socket()]);
        let way = Site::of(way.args(["--cut-every", every]));
        assert!(way.endpoint.starts_with("ws://127.0.0.1:") && way.endpoint.ends_with("/ws"));
        let endpoint = format!("resume+{}", way.endpoint);
        let finished = Program::run(&mut site.connect(&endpoint), &lines);
        (way, finished)
    });
    let first = finished.stdout.lines().zip(lines.lines()).find(|(came, went)| came != went);
    assert_eq!(first, None, "the first difference");
    assert!(finished.stdout == lines, "{} of {} bytes", finished.stdout.len(), lines.len());
    let said = way.stop();
    let cuts = said.split("cut=").nth(1).and_then(|rest| rest.split_whitespace().next());
    assert!(cuts.unwrap().parse::<u32>().unwrap() > 0, "{said}");
    site.stop();
}

#[test]
fn printed_urls_begin_with_the_public_url() {
    let directory = tempfile::tempdir().unwrap();
    let on_unix = format!("http-unix:{}", directory.path().join("a.sock").display());
    for listen in ["http://127.0.0.1:0", &on_unix] {
        let mut command = tieline(["serve", "--listen", listen, "--public-url"]);
        command.args(["https://Agent.example.org/agents/one", "--", "cat"]);
        let site = Site::of(command.env("TIELINE_TOKEN", TOKEN));
        // stdout names the endpoint that it listens on.
        assert!(site.endpoint.starts_with(listen.trim_end_matches('0')), "{}", site.endpoint);
        let url = "https://agent.example.org/agents/one/";
        site.program.wait_stderr("?key=");
        let said = site.stop();
        assert!(said.contains("connect wss://agent.example.org/agents/one/ws\n"), "{said}");
        assert!(said.contains(&format!("events: {url}sse\n")), "{said}");
        assert!(said.contains(&format!("curl {url}rpc -H \"Authorization: Bearer $")), "{said}");
        assert!(said.contains(&format!("status --url prints another): {url}?key=")), "{said}");
    }
}

#[test]
fn a_public_url_and_a_subprotocol_are_checked() {
    for (args, says) in [
        (&["--public-url", "example.org"][..], "must be a URL like https://"),
        (&["--public-url", "https://example.org/?a"], "without a query"),
        (&["--subprotocol", "tieline.1"], "a subprotocol must"),
        (&["--subprotocol", "a b"], "a subprotocol must"),
        (&["--public-url", "https://example.org/"], "--listen http://127.0.0.1:8080"),
        (&["--token-file", "token"], "--token-file has no effect"),
        (&["--session-grace", "5m"], "--session-grace has no effect"),
        (&["--tls-cert", "a", "--tls-key", "b"], "--tls-cert has no effect"),
    ] {
        let mut command = tieline(["serve"]);
        let finished = Program::run(command.args(args).args(["--", "cat"]), "");
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(says), "{finished:?}");
    }
}

#[test]
fn subprotocols_are_negotiated_by_name() {
    let site = Site::start(&["--subprotocol", "agent.v2", "--", "cat"]);
    for offered in
        [&["--subprotocol", "mcp"][..], &["--subprotocol", "x", "--subprotocol", "agent.v2"]]
    {
        let finished = Program::run(site.connect(&site.web_socket()).args(offered), "{}\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "{}\n"), "{finished:?}");
    }
    let mut command = site.connect(&site.web_socket());
    let finished = Program::run(command.args(["--subprotocol", "other"]), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let says = "the server accepted none of the subprotocols offered: other";
    assert!(finished.stderr.contains(says), "{finished:?}");
    assert!(finished.stderr.contains("without --subprotocol"), "{finished:?}");
    site.stop();
}

/// Returns the value of a metric.
fn metric(site: &Site, name: &str) -> u64 {
    let metrics = site.get("/metrics", &format!("Authorization: Bearer {TOKEN}\r\n"));
    let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().unwrap()
}

/// Clients on sockets and on the web share one limit, and each line that is ended because of it is
/// logged.
#[test]
fn unfinished_messages_of_all_clients_share_one_memory_limit() {
    const LENGTH: usize = 2 << 20;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    let unix = format!("unix:{}", socket.display());
    let mut site = Site::start(&["--max-memory", "8MiB", "--listen", &unix, "--", "cat"]);
    assert!(site.program.line().unwrap().starts_with("unix:"));
    assert_eq!(metric(&site, "tieline_memory_limit_bytes"), 8 << 20);
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            let writer = client.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                // The client may be refused before it has sent everything.
                let _ = client.write_all(&[b'x'; LENGTH]);
            });
            (writer, writing)
        })
        .collect();
    let body = "x".repeat(6 << 20);
    let posting = format!(
        "POST /rpc HTTP/1.1\r\nHost: @\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = site.ask(&posting);
    assert!(["400", "503"].contains(&status_of(&answer)), "{answer}");
    let clients: Vec<_> = clients
        .into_iter()
        .map(|(client, writing)| {
            writing.join().unwrap();
            client
        })
        .collect();
    assert!(metric(&site, "tieline_memory_bytes") <= 10 << 20);
    // At most four messages of 2 MiB fit within the limit.
    until("the others are refused", || metric(&site, "tieline_memory_refused_total") >= 6);
    assert!(metric(&site, "tieline_memory_bytes") <= 10 << 20);
    // Small messages are still passed on.
    let finished = Program::run(&mut site.connect(&site.web_socket()), "{}\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "{}\n"), "{finished:?}");
    drop(clients);
    until("all memory is released", || metric(&site, "tieline_memory_bytes") == 0);
    let said = site.stop();
    assert!(said.contains("out of memory: the line needed"), "{said}");
}
