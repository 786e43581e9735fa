//! Tests of how `serve` and `connect` stop after a first and a second signal.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;
use support::{Program, Serve, Talk, is_running, request, sh, tieline, until};

#[test]
fn each_stop_signal_ends_everything_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut serve = Serve::in_framings(&["", "content-length+"], ["--", "cat"]);
        let mut clients = [serve.client(), serve.client()];
        for client in &mut clients {
            client.send("hello");
            assert_eq!(client.line().as_deref(), Some("hello"));
        }
        assert_eq!(serve.processes().len(), 2);

        serve.program.signal(signal);
        let finished = serve.program.wait();
        assert_eq!(finished.code, Some(0), "{signal:?}: {finished:?}");
        assert!(finished.stderr.contains("served=2 refused=0 failed=0"), "{finished:?}");
        serve.assert_nothing_left();
        for client in &mut clients {
            assert_eq!(client.line(), None);
        }
    }
}

#[test]
fn a_server_under_nohup_survives_sighup() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" HUP; exec "$@""#, "sh", env!("CARGO_BIN_EXE_tieline")]);
    command.args(["serve", "--listen", &listen, "--", "cat"]);
    let serve = Serve::launch(&mut command, 1, "unused".into(), directory);
    serve.program.signal(Signal::HUP);
    assert_eq!(Program::run(&mut serve.connect(), "hello\n").stdout, "hello\n");
    serve.stop();
}

#[test]
fn a_signal_also_ends_a_server_without_a_client() {
    Serve::start(["--", "cat"]).stop();
}

#[test]
fn no_client_is_accepted_after_the_signal() {
    // The program ends only when the test writes to the pipe.
    let script = r#"trap "" TERM; echo up; cat; read -r word < "$0"; echo "$word""#;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let serve = Serve::start([&sh(script)[..], &[pipe.to_str().unwrap()]].concat());
    let mut client = serve.client();
    assert_eq!(client.line().as_deref(), Some("up"));

    serve.program.signal(Signal::TERM);
    until("the socket is gone", || !serve.path().exists());
    std::fs::write(&pipe, "goodbye\n").unwrap();
    assert_eq!(client.line().as_deref(), Some("goodbye"), "pending output was lost");
    assert_eq!(client.line(), None);
    let mut serve = serve;
    assert_eq!(serve.program.wait().code, Some(0));
    serve.assert_nothing_left();
}

#[test]
fn output_after_the_end_of_input_is_delivered() {
    let script = "echo up; cat > /dev/null; seq 1 100000; echo last";
    let mut serve = Serve::start(sh(script));
    let mut client = serve.client();
    assert_eq!(client.line().as_deref(), Some("up"));
    serve.program.signal(Signal::TERM);
    let said = String::from_utf8(client.rest()).unwrap();
    assert_eq!(said.lines().count(), 100_001);
    assert!(said.ends_with("100000\nlast\n"));
    assert_eq!(serve.program.wait().code, Some(0));
    serve.assert_nothing_left();
}

#[test]
fn calls_in_flight_are_answered_after_a_signal() {
    let mut serve = Serve::start::<&str>([]);
    let mut client = serve.client();
    client.send(&request(1, "sleep", json!([300])).to_string());
    // When the second call is answered, the agent has already read the first one.
    assert_eq!(client.call(&request(2, "echo", json!([1])))["result"], json!([1]));
    serve.program.signal(Signal::TERM);
    assert_eq!(client.json()["result"], json!({ "slept": 300 }));
    assert_eq!(client.line(), None);
    assert_eq!(serve.program.wait().code, Some(0));
    serve.assert_nothing_left();
}

/// A script that ignores SIGTERM, SIGINT and SIGHUP, as does its child.
const STUBBORN: &str = r#"trap "" TERM INT HUP; echo up; while :; do sleep 1000; done"#;

#[test]
fn a_second_signal_ends_everything_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut serve = Serve::start(sh(STUBBORN));
        let mut client = serve.client();
        assert_eq!(client.line().as_deref(), Some("up"));
        serve.wait_processes(2);

        serve.program.signal(first);
        until("the first signal was handled", || !serve.path().exists());
        serve.program.signal(second);
        let finished = serve.program.wait();
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("stopped at once by a second signal"), "{finished:?}");
        // The init process reaps the killed processes.
        until("no process is left", || serve.processes().is_empty());
        serve.assert_nothing_left();
        assert_eq!(client.line(), None);
    }
}

#[test]
fn a_program_that_ignores_all_signals_is_killed() {
    let mut serve = Serve::start(sh(STUBBORN));
    let mut client = serve.client();
    assert_eq!(client.line().as_deref(), Some("up"));
    serve.wait_processes(2);
    serve.program.signal(Signal::TERM);
    let finished = serve.program.wait();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("signal: 9 (SIGKILL)"), "{finished:?}");
    serve.assert_nothing_left();
}

#[test]
fn a_signal_ends_connect_and_the_program_it_started() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let script = "exec:[\"sh\",\"-c\",\"echo $$; cat; echo bye\"]";
        let mut connect = Program::start(&mut tieline(["connect", script]));
        let pid: u32 = connect.line().unwrap().parse().unwrap();
        assert!(is_running(pid));
        connect.signal(signal);
        let finished = connect.wait();
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("stopped by a signal"), "{finished:?}");
        assert!(finished.stdout.ends_with("bye\n"), "{finished:?}");
        assert!(!is_running(pid));
    }
}

#[test]
fn a_second_signal_ends_connect_at_once() {
    let endpoint = format!("exec:{}", json!(["sh", "-c", STUBBORN.replace("up", "$$")]));
    let mut connect = Program::start(&mut tieline(["connect", &endpoint]));
    let pid: u32 = connect.line().unwrap().parse().unwrap();
    connect.signal(Signal::TERM);
    // Closing the program's input is the first step of stopping, and it can be observed.
    let stdin = format!("/proc/{pid}/fd/0");
    until("the first signal was handled", || !has_writer(&stdin, connect.pid()));
    connect.signal(Signal::TERM);
    let finished = connect.wait();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("stopped at once by a second signal"), "{finished:?}");
    until("the program is gone", || !is_running(pid));
}

/// Returns whether `process` holds a writing end of this pipe. The process also keeps a reading end,
/// which is not counted.
fn has_writer(pipe: &str, process: u32) -> bool {
    let pipe = std::fs::read_link(pipe).unwrap();
    let fds = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    fds.into_iter().any(|fd| {
        // The mode of the link shows the descriptor's access mode.
        let can_write = fd.metadata().is_ok_and(|link| link.permissions().mode() & 0o200 != 0);
        can_write && std::fs::read_link(fd.path()).is_ok_and(|link| link == pipe)
    })
}
