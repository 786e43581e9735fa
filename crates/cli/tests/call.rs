//! Tests of the results and failures of `tieline call`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use support::{Finished, Program, Serve, tieline};

/// Calls the built-in agent as a child process.
fn call(args: &[&str]) -> Finished {
    call_with(args, "")
}

fn call_with(args: &[&str], stdin: &str) -> Finished {
    let agent = format!(r#"exec:["{}","demo-agent"]"#, env!("CARGO_BIN_EXE_tieline"));
    Program::run(tieline(["call", &agent]).args(args), stdin)
}

#[test]
fn only_the_result_is_printed_to_stdout() {
    for (args, result) in [
        (&["add", "[2,3]"][..], "5\n"),
        (
            &["echo", r#"{"b":[1.50,9007199254740993],"a":"é"}"#],
            "{\"b\":[1.50,9007199254740993],\"a\":\"é\"}\n",
        ),
        (&["echo", "[\n1,\n2]"], "[ 1, 2]\n"),
        (&["echo"], "null\n"),
    ] {
        let finished = call(args);
        assert_eq!((finished.code, &*finished.stdout, &*finished.stderr), (Some(0), result, ""));
    }
}

#[test]
fn an_output_error_fails_the_call() {
    let agent = format!(r#"exec:["{}","demo-agent"]"#, env!("CARGO_BIN_EXE_tieline"));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = tieline(["call", &agent, "add", "[2,3]"]).stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write all output to stdout: No space left"), "{said}");
}

#[test]
fn parameters_may_come_from_stdin() {
    let finished = call_with(&["echo", "-"], "{\n\"a\": 1\n}\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "{ \"a\": 1 }\n"), "{finished:?}");
}

#[test]
fn an_error_response_is_printed_with_its_code_and_exits_with_status_1() {
    let finished = call(&["no-such-method"]);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""));
    assert!(finished.stderr.contains("error -32601: method not found"), "{finished:?}");
    let finished = call(&["add", r#"["x"]"#]);
    assert!(finished.stderr.contains("-32602"), "{finished:?}");
}

#[test]
fn invalid_parameters_are_a_usage_error() {
    // The message around PARAMS needs one level of nesting.
    let too_deep = "[".repeat(128) + &"]".repeat(128);
    for params in ["5", "\"text\"", "{", "[1,]", "null", &too_deep] {
        let finished = call(&["add", params]);
        assert_eq!((finished.code, &*finished.stdout), (Some(2), ""), "{params}");
        assert!(finished.stderr.contains("PARAMS"), "{finished:?}");
    }
    let deepest = "[".repeat(127) + &"]".repeat(127);
    let finished = call(&["echo", &deepest]);
    assert_eq!(
        (finished.code, finished.stdout.trim()),
        (Some(0), &*deepest),
        "{}",
        finished.stderr
    );
    let finished = call(&["add", "[1]", "--dialect", "esperanto"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("strict, lsp, mcp"), "{finished:?}");
}

#[test]
fn notifications_are_printed_before_the_result_with_follow() {
    let finished = call(&["count", r#"{"to":3}"#, "--follow"]);
    let lines: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{finished:?}");
    for (n, line) in lines[..3].iter().enumerate() {
        assert_eq!(
            *line,
            format!(r#"{{"jsonrpc":"2.0","method":"count","params":{{"n":{}}}}}"#, n + 1)
        );
    }
    assert_eq!(lines[3], r#"{"counted":3}"#);
    let finished = call(&["count", r#"{"to":3}"#]);
    assert_eq!(finished.stdout, "{\"counted\":3}\n");
}

#[test]
fn a_notification_does_not_wait_for_a_response() {
    let serve = Serve::start(["--", "cat"]);
    let finished =
        Program::run(&mut tieline(["call", serve.endpoint(), "note", "[1]", "--notify"]), "");
    assert_eq!((finished.code, &*finished.stdout, &*finished.stderr), (Some(0), "", ""));
    serve.stop();
}

#[test]
fn a_call_fails_after_its_timeout() {
    let finished = call(&["sleep", "[600000]", "--timeout", "500ms"]);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("no response arrived in time"), "{finished:?}");
}

/// A Unix socket whose server does not answer.
struct Silent {
    endpoint: String,
    listener: UnixListener,
    _folder: tempfile::TempDir,
}

impl Silent {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("silent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self { endpoint: format!("unix:{}", path.display()), listener, _folder: folder }
    }
}

#[test]
fn an_abandoned_call_sends_the_cancellation_of_its_dialect() {
    for (dialect, signal, cancel) in [
        ("lsp", false, r#""method":"$/cancelRequest","params":{"id":1}"#),
        ("mcp", true, r#""method":"notifications/cancelled","params":{"requestId":1}"#),
        ("acp", true, r#""method":"$/cancel_request","params":{"requestId":1}"#),
    ] {
        let silent = Silent::listen();
        let mut command = tieline(["call", &silent.endpoint, "m", "--dialect", dialect]);
        if !signal {
            command.args(["--timeout", "500ms"]);
        }
        let calling = Program::start(&mut command);
        let mut heard = BufReader::new(silent.listener.accept().unwrap().0);
        let mut line = String::new();
        heard.read_line(&mut line).unwrap();
        assert!(line.contains(r#""method":"m""#), "{line}");
        if signal {
            calling.signal(Signal::INT);
        }
        let mut rest = String::new();
        heard.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("{{\"jsonrpc\":\"2.0\",{cancel}}}\n"), "{dialect}");
        assert_eq!(calling.finish().code, Some(1));
    }
}

#[test]
fn an_unusable_response_is_explained() {
    for (said, told) in [
        (
            "starting up",
            "dropped a message that is not JSON-RPC: unexpected `s` at byte 0: \"starting up\"",
        ),
        (
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}"#,
            ": m: error -32700: what?",
        ),
        (r#"{"jsonrpc":"2.0","id":1}"#, "`result` is missing; received: \"{"),
        (r#"{"id":1,"result":3}"#, "For programs that leave it out, use --dialect xi"),
        (r#"{"jsonrpc":"2.0","id":1,"result":3,"error":{}}"#, "both a result and an error"),
    ] {
        let silent = Silent::listen();
        let calling = Program::start(&mut tieline(["call", &silent.endpoint, "m"]));
        let (mut stream, _) = silent.listener.accept().unwrap();
        stream.write_all(format!("{said}\n").as_bytes()).unwrap();
        calling.wait_stderr(told);
        drop(stream);
        assert_eq!(calling.finish().code, Some(1));
    }
}

#[test]
fn a_crash_in_mid_call_is_distinguished_from_a_program_that_cannot_start() {
    let finished = call(&["crash"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("sent, but no response arrived"), "{finished:?}");
    assert!(finished.stderr.contains("exit status: 3"), "{finished:?}");
    let finished = Program::run(&mut tieline(["call", "exec:no-such-program", "m"]), "");
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("program not found"), "{finished:?}");
}

#[test]
fn xi_core_accepts_a_notification_in_its_dialect() {
    let core = support::xi_core();
    let endpoint = format!(r#"exec:["{core}"]"#);
    // The core answers nothing before its handshake, which starts with a notification.
    let args = ["call", &endpoint, "client_started", "{}", "--notify", "--dialect", "xi"];
    let finished = Program::run(&mut tieline(args), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), ""), "{finished:?}");
}

/// The call does not wait for a server that keeps the line open after its response.
#[test]
fn the_call_ends_with_the_response_although_the_line_stays_open() {
    let silent = Silent::listen();
    let calling = Program::start(&mut tieline(["call", &silent.endpoint, "m"]));
    let mut stream = BufReader::new(silent.listener.accept().unwrap().0);
    stream.read_line(&mut String::new()).unwrap();
    stream.get_mut().write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":5}\n").unwrap();
    // The call ends while the line is still open here.
    let finished = calling.finish();
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "5\n"), "{finished:?}");
    drop(stream);
}

/// A program that keeps running after its response, and writes to the file `$1` on SIGTERM.
const STAYS: &str = r#"
    trap 'echo stopped > "$1"; exit 0' TERM
    read line
    echo '{"jsonrpc":"2.0","id":1,"result":5}'
    while :; do sleep 0.05; done"#;

#[test]
fn a_program_that_stays_after_its_response_is_stopped_within_the_stop_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let endpoint = format!("exec:{}", serde_json::json!(["sh", "-c", STAYS, "sh", note]));
    let args = ["call", &endpoint, "m", "--stop-timeout", "1h"];
    // SIGTERM is sent after 2 s, and not after half of the hour.
    let finished = Program::run(&mut tieline(args), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "5\n"), "{finished:?}");
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "stopped\n");
    let deaf = STAYS.replace("trap 'echo stopped > \"$1\"; exit 0' TERM", "trap '' TERM");
    let endpoint = format!("exec:{}", serde_json::json!(["sh", "-c", deaf]));
    let args = ["call", &endpoint, "m", "--stop-timeout", "100ms"];
    let finished = Program::run(&mut tieline(args), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "5\n"), "{finished:?}");
}

/// Lines that are not JSON-RPC are not answered, because a program that prints such lines would print
/// another one about each answer.
#[test]
fn a_program_that_prints_a_banner_can_be_called() {
    const CHATTY: &str = r#"
        echo 'Welcome to my server'
        while read line; do
            case $line in
                *'"method":"hello"'*)
                    echo 'DEBUG: handling hello'
                    echo '{"jsonrpc":"2.0","id":1,"result":"ok"}' ;;
                *) echo "unexpected: $line" >&2; echo "DEBUG: unexpected message" ;;
            esac
        done"#;
    let endpoint = format!("exec:{}", serde_json::json!(["sh", "-c", CHATTY]));
    for dialect in ["strict", "mcp", "acp", "lsp"] {
        let finished =
            Program::run(&mut tieline(["call", &endpoint, "hello", "--dialect", dialect]), "");
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "\"ok\"\n"), "{finished:?}");
        assert!(!finished.stderr.contains("unexpected:"), "{finished:?}");
        let warnings = finished.stderr.matches("dropped a message that is not JSON-RPC");
        assert_eq!(warnings.count(), 1, "{finished:?}");
    }
}

#[test]
fn a_timeout_mentions_a_response_without_a_newline() {
    let silent = Silent::listen();
    let args = ["call", &silent.endpoint, "m", "--timeout", "2s"];
    let calling = Program::start(&mut tieline(args));
    let mut stream = BufReader::new(silent.listener.accept().unwrap().0);
    stream.get_mut().write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":5}").unwrap();
    let finished = calling.finish();
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("35 bytes of an incomplete message"), "{finished:?}");
}
