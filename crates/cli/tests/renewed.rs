//! Tests of programs and sessions that are replaced by new ones, with and without a dialect.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Program, Serve, Talk, tieline};
use tieline_testkit::executable;

/// A program that requires a handshake before other requests. It never answers `hang`, and fails on
/// `fail`.
const PROGRAM: &str = r#"ready=no
while read -r line; do
    id=${line#*'"id":'}; id=${id%%[,\}]*}
    case $line in
    *'"initialize"'*) echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"protocolVersion":"1","capabilities":{}}}';;
    *'"notifications/initialized"'*) ready=yes;;
    *'"hang"'*) echo "it hangs" >&2;;
    *'"fail"'*) exit 3;;
    *) if [ $ready = yes ]; then
        echo '{"jsonrpc":"2.0","id":'"$id"',"result":"works"}'
    else
        echo '{"jsonrpc":"2.0","id":'"$id"',"error":{"code":-32602,"message":"not initialized"}}'
    fi;;
    esac
done"#;

/// An endpoint whose server can be replaced by another.
struct Place {
    directory: tempfile::TempDir,
    proxy: Option<Program>,
}

impl Place {
    fn of(serve: &Serve) -> Self {
        let mut place = Self { directory: tempfile::tempdir().unwrap(), proxy: None };
        place.lead_to(serve);
        place
    }

    fn endpoint(&self) -> String {
        format!("unix:{}", self.directory.path().join("place.sock").display())
    }

    fn lead_to(&mut self, serve: &Serve) {
        self.close();
        let target = format!("unix:{}", serve.path().display());
        let mut proxy = Program::start(&mut tieline(["chaos", &self.endpoint(), &target]));
        assert!(proxy.line().is_some(), "{}", proxy.stderr());
        self.proxy = Some(proxy);
    }

    fn close(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            proxy.signal(Signal::TERM);
            proxy.wait();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve() -> Serve {
    Serve::start(["--resume", "--", "sh", "-c", PROGRAM])
}

fn say(client: &mut Program, mut message: Value) {
    message["jsonrpc"] = json!("2.0");
    client.send_raw(format!("{message}\n").as_bytes());
}

#[track_caller]
fn hear(client: &mut Program) -> Value {
    let line = client.line().unwrap_or_else(|| panic!("no line: {}", client.stderr()));
    serde_json::from_str(&line).unwrap()
}

#[track_caller]
fn open(client: &mut Program) {
    say(client, json!({"id": 1, "method": "initialize", "params": {}}));
    assert_eq!(hear(client)["result"]["protocolVersion"], "1");
    say(client, json!({"method": "notifications/initialized"}));
    say(client, json!({"id": 2, "method": "work"}));
    assert_eq!(hear(client)["result"], "works");
}

#[test]
fn a_lost_session_without_a_dialect_ends_the_command_and_reports_what_was_delivered() {
    for command in ["connect", "bridge"] {
        let (first, second) = (serve(), serve());
        let mut place = Place::of(&first);
        let mut args = match command {
            "connect" => tieline(["connect", "--resume", &place.endpoint()]),
            _ => tieline(["bridge", "stdio:", &format!("resume+{}", place.endpoint())]),
        };
        let mut client = Program::start(&mut args);
        say(&mut client, json!({"id": 1, "method": "hang"}));
        first.program.wait_stderr("it hangs");
        place.lead_to(&second);
        let finished = client.wait();
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{}", finished.stderr);
        for words in ["the session was not resumed", "of 1 messages sent were acknowledged"] {
            assert!(finished.stderr.contains(words), "{}", finished.stderr);
        }
        place.close();
        first.stop();
        second.stop();
    }
}

#[test]
fn with_a_dialect_the_handshake_is_replayed_after_a_lost_session() {
    for command in ["connect", "bridge"] {
        let (first, second) = (serve(), serve());
        let mut place = Place::of(&first);
        let mut args = match command {
            "connect" => tieline(["connect", "--resume", "--dialect", "mcp", &place.endpoint()]),
            _ => tieline([
                "bridge",
                "--dialect",
                "mcp",
                "stdio:",
                &format!("resume+{}", place.endpoint()),
            ]),
        };
        let mut client = Program::start(&mut args);
        open(&mut client);
        say(&mut client, json!({"id": 3, "method": "hang"}));
        first.program.wait_stderr("it hangs");
        place.lead_to(&second);
        let lost = hear(&mut client);
        assert_eq!((&lost["id"], &lost["error"]["code"]), (&json!(3), &json!(-31000)));
        let text = lost["error"]["message"].as_str().unwrap();
        assert!(text.contains("the session was not resumed"), "{text}");
        say(&mut client, json!({"id": 4, "method": "work"}));
        let answer = hear(&mut client);
        assert_eq!((&answer["id"], &answer["result"]), (&json!(4), &json!("works")), "{answer}");
        client.finish();
        place.close();
        first.stop();
        second.stop();
    }
}

#[test]
fn a_bridge_ends_when_its_client_session_is_lost() {
    let near = || Serve::start(["--resume", "--", "sh", "-c", "echo hello; cat >&2"]);
    let (first, second) = (near(), near());
    let mut place = Place::of(&first);
    let near = format!("resume+{}", place.endpoint());
    let mut bridge = Program::start(&mut tieline(["bridge", &near, "exec:cat"]));
    first.program.wait_stderr("hello child=sh");
    place.lead_to(&second);
    let finished = bridge.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let words = "the client's side has ended: the session was not resumed";
    assert!(finished.stderr.contains(words), "{}", finished.stderr);
    place.close();
    first.stop();
    second.stop();
}

#[test]
fn the_recorded_handshake_is_sent_to_a_restarted_program() {
    let serve =
        Serve::start(["--dialect", "mcp", "--restart", "on-failure", "--", "sh", "-c", PROGRAM]);
    let mut client = Program::start(&mut serve.connect());
    open(&mut client);
    for round in 0..3 {
        say(&mut client, json!({"id": "fails", "method": "fail"}));
        let failed = hear(&mut client);
        assert_eq!((&failed["id"], &failed["error"]["data"]["code"]), (&json!("fails"), &json!(3)));
        say(&mut client, json!({"id": 10 + round, "method": "work"}));
        assert_eq!(hear(&mut client)["result"], "works", "after restart {round}");
    }
    assert_eq!(client.finish().code, Some(0));
    serve.stop();
}

#[test]
fn a_client_gets_an_error_if_its_program_cannot_be_started() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    let text = program.to_str().unwrap();
    for dialect in ["mcp", "lsp"] {
        executable::write(&program, "#!/bin/sh\n");
        let serve = Serve::start(["--dialect", dialect, "--", text]);
        std::fs::remove_file(&program).unwrap();
        let request = json!({"jsonrpc": "2.0", "id": "a", "method": "initialize"});
        let finished = Program::run(&mut serve.connect(), format!("{request}\n"));
        let error: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!(error["id"], "a");
        let words = error["error"]["message"].as_str().unwrap();
        assert!(words.starts_with("the program could not be started: "), "{words}");
        serve.stop();
    }
}
