//! Tests of `tieline claude` with the real Claude CLI and a fake service on loopback.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Finished, LIMIT, Program, Talk, children_of, claude, is_running, server_everything, tieline,
    until,
};
use tieline_testkit::executable;

/// Returns a command that runs the real program with these arguments, in a temporary home directory.
fn asking(home: &Path, service: &str, args: &[&str]) -> Command {
    let program = claude();
    let mut command = tieline(["claude", "--program", &program]);
    command.args(args);
    uses(&mut command, home, service);
    command
}

/// Sets the home directory and the service of the Claude CLI.
fn uses(command: &mut Command, home: &Path, service: &str) {
    command.current_dir(home);
    command.env("HOME", home).env("CLAUDE_CONFIG_DIR", home.join("config"));
    command.env("ANTHROPIC_BASE_URL", service).env("ANTHROPIC_API_KEY", "none");
    for name in ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER"] {
        command.env(name, "1");
    }
    for name in ["DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING"] {
        command.env(name, "1");
    }
    command.env("CLAUDE_CODE_MAX_RETRIES", "0").env("NO_PROXY", "127.0.0.1");
    command.env("no_proxy", "127.0.0.1");
}

fn ask(service: &str, args: &[&str]) -> Finished {
    let home = tempfile::tempdir().unwrap();
    Program::start(&mut asking(home.path(), service, args)).finish()
}

#[test]
fn the_answer_is_printed_as_text() {
    let service = service(|asked| {
        let is_asked = asked["messages"].to_string().contains("how are you?");
        said(if is_asked { "fine, and \u{1b}[1myou" } else { "what?" }, true)
    });
    let finished = ask(&service, &["-p", "how are you?"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "fine, and \u{1b}[1myou\n"));
    let home = tempfile::tempdir().unwrap();
    let mut command = asking(home.path(), &service, &["--prompt", "-", "--model=m"]);
    let finished = Program::run(&mut command, "how are you?");
    assert_eq!((finished.code, finished.stdout.len()), (Some(0), 18), "{finished:?}");
}

#[test]
fn all_messages_are_printed_as_json() {
    let service = service(|_| said("an answer", true));
    let finished = ask(&service, &["-p", "--help", "--output", "json"]);
    let lines = finished.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let types: Vec<_> = lines.map(|line| line["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        (finished.code, types),
        (Some(0), ["system", "assistant", "result"].map(Into::into).into())
    );
}

#[test]
fn an_error_result_is_reported() {
    let service = service(|_| None);
    let finished = ask(&service, &["-p", "hello"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("tieline: claude: ") && finished.stderr.contains("it failed"));
}

#[test]
fn the_programs_own_error_for_an_unknown_option_is_shown() {
    let finished = ask("http://127.0.0.1:9", &["-p", "hello", "--", "--no-such-option"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("unknown option '--no-such-option'"), "{}", finished.stderr);
}

#[test]
fn the_program_is_searched_for_in_every_usual_directory() {
    let home = tempfile::tempdir().unwrap();
    let mut command = tieline(["claude", "-p", "hello"]);
    command.env("PATH", home.path().join("bin")).env("HOME", home.path());
    let finished = Program::start(&mut command).finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""));
    for place in ["bin/claude", ".local/bin/claude", ".claude/local/claude"] {
        let place = home.path().join(place).display().to_string();
        assert!(finished.stderr.contains(&place), "{place}: {}", finished.stderr);
    }
    assert!(finished.stderr.contains(" more\n"), "{}", finished.stderr);
    assert!(finished.stderr.contains("hint: install it"), "{}", finished.stderr);
}

#[test]
fn the_program_does_not_inherit_the_variables_that_mark_nested_runs() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("program");
    // The program prints its environment as a result message.
    let script = r#"#!/bin/sh
        printf '{"type":"result","subtype":"success","entry":"%s%s"}\n' "${CLAUDECODE+there}" "$CLAUDE_CODE_ENTRYPOINT""#;
    executable::write(&program, script);
    let program = program.to_str().unwrap();
    let mut command = tieline(["claude", "-p", "hello", "--output=json", "--program", program]);
    command.env("CLAUDECODE", "1").env("CLAUDE_CODE_ENTRYPOINT", "cli");
    let finished = Program::start(&mut command).finish();
    let said: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((finished.code, &said["entry"]), (Some(0), &json!("tieline")), "{finished:?}");
}

/// Returns a command that runs a script instead of the real program.
fn scripted(home: &Path, script: &str) -> Command {
    let program = home.join("program");
    executable::write(&program, &format!("#!/bin/sh\n{script}\n"));
    tieline(["claude", "-p", "hello", "--program", program.to_str().unwrap()])
}

#[test]
fn error_text_of_the_program_is_escaped() {
    let home = tempfile::tempdir().unwrap();
    let said = r#"{"type":"result","is_error":true,"result":"\u001b[31mred\u009b0m"}"#;
    let mut command = scripted(home.path(), &format!("printf '%s\\n' '{said}'"));
    let finished = Program::start(&mut command).finish();
    let expected = "tieline: claude: \\u001b[31mred\\u009b0m\n";
    assert!(finished.stderr.ends_with(expected), "{finished:?}");
}

#[test]
fn the_program_is_stopped_when_stdout_is_closed() {
    let home = tempfile::tempdir().unwrap();
    let said = r#"{"type":"assistant","message":{"content":"and so on\n"}}"#;
    // The program prints forever, and ignores SIGPIPE and SIGTERM.
    let script =
        format!("trap '' PIPE TERM; while :; do printf '%s\\n' '{said}'; done 2>/dev/null");
    let mut command = scripted(home.path(), &script);
    let (read, write) = std::io::pipe().unwrap();
    command.stdin(std::process::Stdio::null()).stdout(write).stderr(std::process::Stdio::piped());
    /// Kills the process when the test ends.
    struct Started(std::process::Child);
    impl Drop for Started {
        fn drop(&mut self) {
            let _ = self.0.kill().and_then(|()| self.0.wait());
        }
    }
    let mut started = Started(command.spawn().unwrap());
    // Dropping the command closes this process's copy of the writing end.
    drop(command);
    let mut read = BufReader::new(read);
    read.read_line(&mut String::new()).unwrap();
    drop(read);
    let mut status = None;
    until("it exits", || {
        status = started.0.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn an_interrupted_prompt_leaves_no_process() {
    // The service sends the beginning of an answer, and then nothing more.
    let service = service(|_| said("once upon a time\n", false));
    let home = tempfile::tempdir().unwrap();
    let mut program = Program::start(&mut asking(home.path(), &service, &["-p", "a story"]));
    assert_eq!(program.line().as_deref(), Some("once upon a time"));
    let children = children_of(program.pid());
    assert!(!children.is_empty());
    program.signal(Signal::INT);
    let finished = program.wait();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    until("its child processes have ended", || children.iter().all(|child| !is_running(*child)));
}

#[test]
fn sessions_share_a_program_of_their_configuration() {
    let service = service(|_| said("an answer", true));
    let home = tempfile::tempdir().unwrap();
    let line = ["share".into(), "--".into()].into_iter().chain(server_everything());
    let server =
        json!({ "command": env!("CARGO_BIN_EXE_tieline"), "args": line.collect::<Vec<String>>() });
    let servers = json!({ "mcpServers": { "everything": server } }).to_string();
    for _ in 0..2 {
        // Without `tieline claude`, which would end the server together with the CLI.
        let mut command = Command::new(claude());
        command.args(["-p", "hello", "--strict-mcp-config", "--mcp-config", &servers]);
        uses(&mut command, home.path(), &service);
        let finished = Program::run(command.env("XDG_RUNTIME_DIR", home.path()), "");
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    let run =
        |args: &[&str]| Program::run(tieline(args).env("XDG_RUNTIME_DIR", home.path()), "").stdout;
    let status: Value = serde_json::from_str(&run(&["status", "--json"])).unwrap();
    run(&["share", "--stop"]);
    let servers = status["serves"].as_array().unwrap();
    assert_eq!((servers.len(), &servers[0]["connections"]["ever"]), (1, &json!(2)), "{status}");
}

/// Starts a service that responds to each request with the result of `mind`, or with an error if that is
/// `None`.
fn service(mind: impl Fn(&Value) -> Option<String> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mind = std::sync::Arc::new(mind);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mind = mind.clone();
            // Writing fails if an interrupted client has closed the connection.
            std::thread::spawn(move || answer(stream, &*mind).ok());
        }
    });
    url
}

fn answer(mut stream: TcpStream, mind: impl Fn(&Value) -> Option<String>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut read = BufReader::new(stream.try_clone()?);
    let (mut length, mut line) = (0, String::new());
    while read.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body)?;
    let Some(events) = serde_json::from_slice(&body).ok().and_then(|asked| mind(&asked)) else {
        let error = r#"{"type":"error","error":{"type":"x","message":"it failed"}}"#;
        let head = "HTTP/1.1 400 X\r\nContent-Type: application/json\r\nConnection: close\r\n";
        return write!(stream, "{head}Content-Length: {}\r\n\r\n{error}", error.len());
    };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    write!(stream, "{head}{events}")?;
    if !events.contains("message_stop") {
        read.read_exact(&mut [0])?;
    }
    Ok(())
}

/// Returns the events of an answer (Anthropic API documentation, "Streaming messages"), or of its beginning.
fn said(text: &str, is_whole: bool) -> Option<String> {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 },
    });
    let block = json!({ "type": "text", "text": "" });
    let delta = json!({ "type": "text_delta", "text": text });
    let end = json!({ "stop_reason": "end_turn", "stop_sequence": null });
    let events = [
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": end, "usage": { "output_tokens": 5 } }),
        json!({ "type": "message_stop" }),
    ];
    let count = if is_whole { events.len() } else { 3 };
    let event =
        |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    Some(events[..count].iter().map(event).collect())
}
