//! Tests of how the failure of a program is reported to its client and in the log of its server.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::site::{Site, TOKEN, status_of};
use support::{Finished, Program, Serve, Talk, request, sh, tieline};

/// A script that reads a line, writes to stderr and fails.
const FAILS: &str =
    "read line; echo 'first \"words\"' >&2; printf '  last \\033[1mwords\n' >&2; exit 3";

#[test]
fn every_web_client_learns_how_the_program_failed() {
    let site = Site::start(&sh(FAILS));
    for endpoint in [site.web_socket(), format!("{}/sse", site.endpoint)] {
        let finished = Program::run(&mut site.connect(&endpoint), "hello\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
        let says = "the program has failed with exit status 3";
        assert!(finished.stderr.contains(says), "{finished:?}");
        assert!(!finished.stderr.contains("words"), "{finished:?}");
    }
    let body = request(1, "add", json!([2, 3])).to_string();
    let answer = site.ask(&format!(
        "POST /rpc HTTP/1.1\r\nHost: @\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(status_of(&answer), "502", "{answer}");
    let answer: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let expected = json!({
        "code": -32000,
        "message": "the program has failed with exit status 3",
        "data": {
            "code": 3,
            "status": "exit status: 3",
            "stderr": "first \"words\"\n  last \u{1b}[1mwords\n",
        },
    });
    assert_eq!((&answer["id"], &answer["error"]), (&json!(1), &expected));
    // An EventSource reads the end of a session that the server keeps.
    let curl = |url: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--max-time", "60", url]);
        curl.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
        curl
    };
    let mut events = Program::start(&mut curl(&format!("{}/sse", site.endpoint)));
    let mut data = || loop {
        let line = events.line().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            return data.to_owned();
        }
    };
    let mut post = curl(&format!("{}/{}", site.endpoint, data()));
    assert_eq!(Program::run(post.args(["--data", "hello"]), "").code, Some(0));
    let end = data();
    assert_eq!(end, r#"{"code":1011,"reason":"the program has failed with exit status 3"}"#);
    assert_eq!(events.wait().code, Some(0));
    site.stop();
}

/// Runs `tieline ARGS` with the endpoint of a failing program and a line of input. A method is added for
/// `call`.
fn fails(args: &[&str]) -> Finished {
    let endpoint = json!(["sh", "-c", FAILS]);
    let mut command = tieline(args);
    command.arg(format!("exec:{endpoint}"));
    if args[0] == "call" {
        command.arg("add");
    }
    let finished = Program::run(&mut command, "hello\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    finished
}

const LAST_LINES: &str =
    "  last lines on stderr:\n    first \"words\"\n      last \\u001b[1mwords\n";

#[test]
fn the_error_of_a_failed_program_has_its_status_and_its_last_lines() {
    for args in [
        &["connect", "--stderr", "off"][..],
        &["connect", "--quiet"],
        &["bridge", "--quiet", "stdio:"],
        &["call", "--quiet"],
    ] {
        let stderr = fails(args).stderr;
        let (sentence, lines) = stderr.split_once('\n').unwrap();
        assert!(sentence.ends_with("the child process ended with exit status: 3"), "{stderr}");
        assert_eq!(lines, LAST_LINES, "{args:?}");
    }
    let stderr = fails(&["connect", "--quiet", "--log-format", "json"]).stderr;
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["stderr"], "first \"words\"\n  last \\u001b[1mwords");
    assert!(error["message"].as_str().unwrap().ends_with("exit status: 3"), "{error}");
}

#[test]
fn stderr_of_a_program_is_logged_unless_it_goes_to_a_terminal_or_is_passed_on_unchanged() {
    for args in [&["connect"][..], &["connect", "--stderr", "log"], &["call"]] {
        let stderr = fails(args).stderr;
        assert!(stderr.contains(" INFO first \"words\" child=sh pid="), "{stderr}");
        assert!(
            stderr.contains("\\u001b[1mwords child=sh") && stderr.ends_with(LAST_LINES),
            "{stderr}"
        );
    }
    for args in [&["connect", "-q"][..], &["call"], &["bridge", "stdio:"]] {
        let stderr = fails(&[args, &["--stderr", "passthrough"]].concat()).stderr;
        let error = stderr.strip_prefix("first \"words\"\n  last \u{1b}[1mwords\n").unwrap();
        // The error does not repeat the lines.
        assert!(error.ends_with("ended with exit status: 3\n"), "{stderr}");
        assert_eq!(error.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn lines_of_several_programs_begin_with_their_names() {
    let script = "echo begun >&2; read line; echo ended >&2";
    let serve = Serve::start([&["--stderr", "passthrough"], &sh(script)[..]].concat());
    let mut first = serve.client();
    serve.program.wait_stderr("\nbegun\n");
    let mut second = serve.client();
    serve.program.wait_stderr("]: begun\n");
    second.send("go on");
    serve.program.wait_stderr("]: ended\n");
    // The test does not check when the names disappear, because the end of the second program is noticed
    // a moment later.
    first.send("go on");
    serve.program.wait_stderr_times("ended\n", 2);
}

#[test]
fn a_quiet_server_logs_only_failures_of_programs_with_their_last_lines() {
    let serve = Serve::start([&["--quiet"], &sh(FAILS)[..]].concat());
    let mut client = serve.client();
    client.send("hello");
    assert_eq!(client.rest(), b"");
    serve.program.wait_stderr("words\u{20}line=1");
    let stderr = serve.stop().stderr;
    let lines: Vec<_> = stderr.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(lines.len(), 3, "{stderr}");
    let failure = " WARN the line has ended: the child process ended with exit status: 3 line=1 ";
    assert!(lines[0].starts_with(failure), "{stderr}");
    let last =
        [" WARN stderr: first \"words\" line=1", " WARN stderr:   last \\u001b[1mwords line=1"];
    assert_eq!(lines[1..], last);
}

#[test]
fn a_quiet_server_logs_that_its_program_is_restarted() {
    let options = ["--quiet", "--restart", "on-failure"];
    let serve = Serve::start([&options, &sh(FAILS)[..]].concat());
    let mut client = serve.client();
    client.send("hello");
    serve.program.wait_stderr("restarting in 0 ms: the child process ended with exit status: 3");
    let stderr = serve.stop().stderr;
    assert!(!stderr.contains("INFO"), "{stderr}");
}

#[test]
fn stderr_option_is_refused_where_no_program_is_started() {
    for args in [&["connect", "unix:/nowhere"][..], &["call", "unix:/nowhere", "add"]] {
        let finished = Program::run(tieline(args).args(["--stderr", "off"]), "");
        assert_eq!((finished.code, &*finished.stdout), (Some(2), ""), "{finished:?}");
        assert!(finished.stderr.contains("--stderr has no effect"), "{finished:?}");
    }
}
