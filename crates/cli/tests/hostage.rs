//! Tests that programs, clients and readers that do not cooperate cannot delay the exit.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::{Program, Serve, Talk, sh, tieline, until};

fn is_over(child: &mut std::process::Child) -> bool {
    matches!(child.try_wait(), Ok(Some(_)))
}

fn signal(child: &std::process::Child, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn unread_stderr_blocks_neither_lines_nor_the_exit() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("unix:{}/socket", directory.path().display());
    let flood = "while :; do echo eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee >&2; done & exec cat";
    let mut command = tieline(["serve", "-vv", "--listen", &endpoint, "--", "sh", "-c", flood]);
    let mut serve = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut announced = String::new();
    BufReader::new(serve.stdout.take().unwrap()).read_line(&mut announced).unwrap();
    let mut client = support::Client::connect(&directory.path().join("socket"));
    for n in 0..2000 {
        client.send(&n.to_string());
        assert_eq!(client.line(), Some(n.to_string()));
    }
    signal(&serve, Signal::TERM);
    until("it has exited", || is_over(&mut serve));
    assert!(!directory.path().join("socket").exists());
}

#[test]
fn a_signal_ends_a_call_that_reads_parameters() {
    for with in [Signal::INT, Signal::TERM] {
        let mut command = tieline(["call", "exec:cat", "m", "-"]);
        let mut call = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = call.stdin.take();
        // `call` handles signals before it starts its reading thread.
        let tasks = format!("/proc/{}/task", call.id());
        until("it reads", || std::fs::read_dir(&tasks).is_ok_and(|tasks| tasks.count() > 1));
        signal(&call, with);
        until("it has exited", || is_over(&mut call));
        drop(stdin);
    }
}

#[test]
fn a_signal_ends_a_call_whose_stdout_is_not_read() {
    let agent = format!(r#"exec:["{}","demo-agent"]"#, env!("CARGO_BIN_EXE_tieline"));
    let mut command = tieline(["call", &agent, "flood", r#"{"bytes":10000000}"#, "--follow"]);
    let mut call = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(call.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    signal(&call, Signal::TERM);
    until("it has exited", || is_over(&mut call));
}

#[test]
fn a_tap_into_a_pipe_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let finished = Program::run(&mut tieline(["serve", "--tap", fifo.to_str().unwrap()]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("it is a pipe or a device"), "{finished:?}");
}

#[test]
fn children_that_leave_their_group_end_with_their_line() {
    // The program leads its own session, which it cannot leave. Its children can leave both its process
    // group and its session.
    let leave = "
import os, time
for leave in (os.setpgrp, os.setsid):
    if os.fork() == 0:
        leave()
        os.write(1, b'left\\n')
        time.sleep(1000)
time.sleep(1000)
";
    let serve = Serve::start(["--", "python3", "-c", leave]);
    let mut client = serve.client();
    for _ in 0..2 {
        assert_eq!(client.line().as_deref(), Some("left"));
    }
    drop(client);
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn messages_of_a_disconnected_client_still_arrive() {
    // The program writes output before it reads, and by then its client has usually disconnected.
    let directory = tempfile::tempdir().unwrap();
    let heard = directory.path().join("heard");
    let script =
        format!("echo 1; echo 2; while read -r l; do echo \"$l\" >> {}; done", heard.display());
    let serve = Serve::start(sh(&script));
    for n in 1..=30 {
        let args = ["call", serve.endpoint(), "note", "[1]", "--notify"];
        let finished = Program::run(&mut tieline(args), "");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        until(&format!("{n} messages have arrived"), || {
            std::fs::read_to_string(&heard).is_ok_and(|heard| heard.matches("note").count() == n)
        });
    }
    serve.stop();
}
