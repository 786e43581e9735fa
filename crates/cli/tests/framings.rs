//! Tests of clients and programs with different framings: both get an error, or the server detects the
//! framing.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Client, Program, Serve, Talk, sh, tieline};

const REQUEST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}"#;

fn with_length(message: &str) -> String {
    format!("Content-Length: {}\r\n\r\n{message}", message.len())
}

/// Returns the next message in Content-Length framing.
fn next(client: &mut Client) -> String {
    let header = client.line().expect("a header");
    let length = header.strip_prefix("Content-Length: ").expect(&header).trim();
    assert_eq!(client.line(), Some("\r".into()));
    client.exact(length.parse().unwrap())
}

#[test]
fn a_content_length_client_on_a_lines_socket_gets_an_error_in_its_own_framing() {
    for framing in ["", "lines+"] {
        let serve = Serve::in_framings(&[framing], ["--", "cat"]);
        let mut client = serve.client();
        client.send_raw(with_length(REQUEST).as_bytes());
        let answer: serde_json::Value = serde_json::from_str(&next(&mut client)).unwrap();
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&serde_json::Value::Null, &(-32700).into())
        );
        let why = answer["error"]["message"].as_str().unwrap();
        assert!(why.contains("connect without content-length+"), "{why}");
        assert!(why.contains("--listen content-length+unix:PATH"), "{why}");
        assert_eq!(answer["error"]["data"]["framing"], "lines", "{answer}");
        assert_eq!(client.rest(), b"");
        serve.program.wait_stderr("the other side uses the framing content-length");
        serve.program.wait_stderr("put content-length+ in front of the endpoint");
        // The same request is sent byte by byte.
        let mut slow = serve.client();
        for byte in with_length(REQUEST).bytes() {
            slow.send_raw(&[byte]);
        }
        assert!(next(&mut slow).contains("-32700"));
        drop(slow);
        serve.wait_nothing_left();
    }
}

#[test]
fn a_lines_client_on_a_content_length_socket_gets_an_error() {
    for dialect in [&[][..], &["--dialect", "mcp"]] {
        let serve = Serve::in_framings(&["content-length+"], [dialect, &["--", "cat"]].concat());
        let mut client = serve.client();
        client.send(REQUEST);
        let answer: serde_json::Value = serde_json::from_str(&next(&mut client)).unwrap();
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&serde_json::Value::Null, &(-32700).into())
        );
        let why = answer["error"]["message"].as_str().unwrap();
        assert!(why.contains("connect to content-length+unix:PATH"), "{why}");
        assert!(why.contains("--listen unix:PATH"), "{why}");
        assert_eq!(client.rest(), b"");
        serve.program.wait_stderr("leave out content-length+ in front of the endpoint");
        let plain = format!("unix:{}", serve.path().display());
        let finished = Program::run(&mut tieline(["connect", &plain]), format!("{REQUEST}\n"));
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
        assert!(finished.stderr.contains("put content-length+ in front"), "{finished:?}");
        serve.wait_nothing_left();
    }
}

#[test]
fn the_error_names_a_program_that_sends_lines_instead_of_content_length() {
    let program = "content-length+exec:echo {}";
    let finished = Program::run(&mut tieline(["connect", program]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("uses the framing lines"), "{finished:?}");
    assert!(finished.stderr.contains("--framing lines"), "{finished:?}");
}

#[test]
fn the_socket_of_a_content_length_program_detects_the_framing_of_its_client() {
    let serve = Serve::start(["--framing", "content-length", "--", "cat"]);
    let (mut one, mut other) = (serve.client(), serve.client());
    one.send_raw(with_length("{\n\"a\":1}").as_bytes());
    assert_eq!(next(&mut one), "{\n\"a\":1}", "the message was changed");
    other.send("{\"b\":2}");
    assert_eq!(other.line().as_deref(), Some("{\"b\":2}"));
    one.send_raw(with_length("[2]").as_bytes());
    assert_eq!(next(&mut one), "[2]");
    drop((one, other));
    // With an explicit `lines+` prefix, the framing is not detected.
    let serve = Serve::in_framings(&["lines+"], ["--framing", "content-length", "--", "cat"]);
    let mut client = serve.client();
    client.send_raw(with_length("{}").as_bytes());
    assert!(next(&mut client).contains("-32700"));
}

#[test]
fn the_error_names_a_program_that_sends_content_length_instead_of_lines() {
    let script = "printf 'Content-Length: 2\\r\\n\\r\\n{}'";
    let finished = Program::run(&mut tieline(["connect", &format!("exec:sh -c \"{script}\"")]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("uses the framing content-length"), "{finished:?}");
    let serve = Serve::start(sh(script));
    assert_eq!(serve.client().rest(), b"");
    serve.program.wait_stderr("--framing content-length");
}

/// A server of `cat` that listens with every framing, and for sessions, on Unix sockets and TCP ports.
struct Listeners {
    program: Program,
    /// The prefix of each listener, and its endpoint without it.
    listeners: Vec<(&'static str, String)>,
    _directory: tempfile::TempDir,
}

const PREFIXES: [&str; 5] = ["", "lines+", "content-length+", "length-prefix+", "resume+"];

impl Listeners {
    fn start(framing: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = tieline(["serve", "--no-status", "--allow-unauthenticated-tcp"]);
        for (number, prefix) in PREFIXES.iter().enumerate() {
            let path = directory.path().join(number.to_string());
            command.args(["--listen", &format!("{prefix}unix:{}", path.display())]);
            command.args(["--listen", &format!("{prefix}tcp:127.0.0.1:0")]);
        }
        let mut program = Program::start(command.args(["--framing", framing, "--", "cat"]));
        let listeners = PREFIXES.iter().flat_map(|prefix| [prefix, prefix]).map(|prefix| {
            let endpoint = program.line().unwrap_or_else(|| panic!("{}", program.stderr()));
            (*prefix, endpoint.strip_prefix(prefix).unwrap().to_owned())
        });
        let listeners = listeners.collect();
        Self { program, listeners, _directory: directory }
    }
}

/// Returns the texts that the error of a client must contain, or none if the client is served.
fn error_texts(listener: &str, client: &str, program: &str) -> Vec<String> {
    let name = |prefix: &'static str| match prefix.trim_end_matches('+') {
        "" => "lines",
        name => name,
    };
    let [listens, speaks] = [listener, client]
        .map(|prefix| name(PREFIXES.into_iter().find(|it| *it == prefix).unwrap()));
    let is_detected = listener.is_empty() && program == speaks && speaks == "content-length";
    match (listens, speaks) {
        _ if listens == speaks || is_detected => vec![],
        ("resume", _) => vec!["put resume+ in front of the endpoint, or add --resume".into()],
        (_, "resume") => vec!["has no sessions".into(), "omit `resume+`".into()],
        _ => vec![
            format!("the other side uses the framing {listens}, but this line uses {speaks}; "),
            match listens {
                "lines" => format!("leave out {speaks}+ in front of the endpoint"),
                _ => format!("put {listens}+ in front of the endpoint"),
            },
        ],
    }
}

#[test]
fn every_client_is_served_or_gets_an_error_with_a_remedy() {
    let small = "{\"a\":1}\n{\"b\":2}\n".to_owned();
    // This is more than fits into a socket's buffers.
    let large = format!("[\"{}\"]\n", "x".repeat(1 << 20));
    for framing in ["lines", "content-length", "length-prefix"] {
        let mut server = Listeners::start(framing);
        std::thread::scope(|scope| {
            for (listener, plain) in &server.listeners {
                let (small, large) = (&small, &large);
                scope.spawn(move || {
                    for client in ["", "content-length+", "length-prefix+", "resume+"] {
                        for input in [small, large] {
                            let endpoint = format!("{client}{plain}");
                            let case = format!("{endpoint} at {listener} for {framing}");
                            let finished =
                                Program::run(&mut tieline(["connect", &endpoint]), input);
                            let texts = error_texts(listener, client, framing);
                            let stderr = &finished.stderr;
                            if texts.is_empty() {
                                assert_eq!(finished.code, Some(0), "{case}: {stderr}");
                                assert!(finished.stdout == *input, "{case}: {stderr}");
                            } else {
                                assert_eq!(finished.code, Some(1), "{case}: {stderr}");
                                assert_eq!(finished.stdout, "", "{case}");
                            }
                            for text in texts {
                                assert!(stderr.contains(&text), "{case}: {stderr}");
                            }
                        }
                    }
                });
            }
        });
        server.program.signal(rustix::process::Signal::TERM);
        assert_eq!(server.program.wait().code, Some(0));
    }
}

/// Returns the bytes of this message in a framing.
fn framed(framing: &str, message: &str) -> Vec<u8> {
    match framing {
        "content-length" => with_length(message).into(),
        "length-prefix" => prefixed(message.as_bytes()),
        _ => format!("{message}\n").into(),
    }
}

#[test]
fn the_error_names_the_framing_of_the_program_or_host() {
    let directory = tempfile::tempdir().unwrap();
    let frameworks = ["lines", "content-length", "length-prefix"];
    for (theirs, ours) in frameworks.iter().flat_map(|one| frameworks.map(|other| (*one, other))) {
        for message in [REQUEST, "5"] {
            let file = directory.path().join("said");
            std::fs::write(&file, framed(theirs, message)).unwrap();
            let said =
                format!("the other side uses the framing {theirs}, but this line uses {ours}");
            let far = format!("{ours}+exec:cat {}", file.display());
            let near = format!("{ours}+stdio:");
            let input = std::fs::read(&file).unwrap();
            for (near, far, input) in
                [("stdio:", &*far, &b""[..]), (&near, "length-prefix+exec:cat", &input)]
            {
                let finished = Program::run(&mut tieline(["bridge", near, far]), input);
                let case = format!("{near} {far}: {finished:?}");
                assert_eq!(finished.code, Some(i32::from(theirs != ours)), "{case}");
                assert_eq!(finished.stderr.contains(&said), theirs != ours, "{case}");
                let has_answer = finished.stdout.contains("\"id\":null");
                let is_text = theirs != "length-prefix" && ours != "length-prefix";
                assert_eq!(has_answer, near != "stdio:" && theirs != ours && is_text, "{case}");
            }
        }
    }
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

#[test]
fn a_length_prefix_socket_answers_any_text_with_a_readable_line() {
    let serve = Serve::in_framings(&["length-prefix+"], ["--", "cat"]);
    for text in [format!("{REQUEST}\n"), with_length(REQUEST), "5\n".into(), "hello\r\n".into()] {
        let mut client = serve.client();
        client.send_raw(text.as_bytes());
        let answer = String::from_utf8(client.rest()[4..].to_vec()).unwrap();
        assert!(answer.starts_with("\x03\x01\x0fthis listener uses the framing length-prefix"));
        assert!(answer.contains("connect to length-prefix+unix:PATH, or "), "{answer}");
        assert!(answer.ends_with("unix:PATH\n"), "{answer}");
    }
}

/// Only the first bytes of a line can be a refusal.
#[test]
fn refusals_that_follow_a_message_are_messages() {
    let text = "\x03\x01\x0fthis is what a listener says";
    let refusal = prefixed(text.as_bytes());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("said");
    for (framing, bytes) in [
        ("lines", [b"{}\n", &refusal[..], b"\n{}\n"].concat()),
        ("length-prefix", [prefixed(b"{}"), refusal.clone(), prefixed(b"{}")].concat()),
    ] {
        std::fs::write(&file, &bytes).unwrap();
        let (near, far) =
            (format!("{framing}+stdio:"), format!("{framing}+exec:cat {}", file.display()));
        let finished = Program::run(&mut tieline(["bridge", &near, &far]), "");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert_eq!(finished.stdout.as_bytes(), bytes, "{finished:?}");
        let serve =
            Serve::in_framings(&[&format!("{framing}+")], ["--framing", framing, "--", "cat"]);
        let bridge = ["bridge", &near, serve.endpoint()];
        let finished = Program::run(&mut tieline(bridge), &bytes);
        assert_eq!(
            (finished.code, finished.stdout.as_bytes()),
            (Some(0), &bytes[..]),
            "{finished:?}"
        );
    }
}

#[test]
fn a_plain_client_on_a_session_socket_gets_a_hint() {
    let serve = Serve::start(["--resume", "--", "cat"]);
    let plain = format!("unix:{}", serve.path().display());
    for framing in ["", "lines+", "content-length+", "length-prefix+"] {
        for input in ["", "{\"jsonrpc\":\"2.0\"}\n"] {
            let finished =
                Program::run(&mut tieline(["connect", &format!("{framing}{plain}")]), input);
            assert_eq!(
                (finished.code, &*finished.stdout),
                (Some(1), ""),
                "{framing}: {finished:?}"
            );
            assert!(finished.stderr.contains("add --resume"), "{framing}: {finished:?}");
        }
    }
    let finished = Program::run(&mut tieline(["connect", "--resume", &plain]), "{}\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "{}\n"), "{finished:?}");
    serve.stop();
}
