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
        assert!(why.contains("--listen content-length+unix:PATH"), "{why}");
        assert_eq!(client.rest(), b"");
        serve.program.wait_stderr("sends Content-Length headers");
        serve.program.wait_stderr("--listen content-length+unix:PATH");
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
        assert!(why.contains("leave out content-length+"), "{why}");
        assert_eq!(client.rest(), b"");
        serve.program.wait_stderr("without Content-Length headers");
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
    // With an explicit lines+, the framing is not detected.
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
    assert!(finished.stderr.contains("sends Content-Length headers"), "{finished:?}");
    let serve = Serve::start(sh(script));
    assert_eq!(serve.client().rest(), b"");
    serve.program.wait_stderr("--framing content-length");
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
