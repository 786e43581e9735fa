//! Tests of servers that run out of descriptors, and of the memory that idle clients use.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;
use support::site::{Site, status_of};
use support::{Client, Program, Serve, Talk, request, tieline, until, usage};

/// Sets the descriptor limit of another process, and returns the previous one.
fn limit_descriptors(process: u32, most: u64) -> u64 {
    let pid = Pid::from_raw(process.try_into().unwrap());
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(most), maximum };
    prlimit(pid, Resource::Nofile, limit).unwrap().current.unwrap()
}

#[test]
fn a_server_without_descriptors_waits_without_spinning_and_then_serves_again() {
    let serve = Serve::start::<&str>([]);
    let pid = serve.program.pid();
    let mut early = serve.client();
    assert_eq!(early.call(&request(1, "add", json!([1, 1])))["result"], 2);

    // After this, no descriptor is free.
    let before = limit_descriptors(pid, 3);
    let mut late: Vec<Client> = (0..20).map(|_| serve.client()).collect();
    for client in &mut late {
        client.send(&request(1, "add", json!([2, 2])).to_string());
    }
    serve.program.wait_stderr("out of file descriptors or memory");
    serve.program.wait_stderr("retrying; raise the limit of open files (ulimit -n)");

    // For two seconds, the server serves its connected clients, and does not spin.
    let ticks = usage(pid).ticks;
    assert_eq!(early.call(&request(2, "sleep", json!([2000])))["result"]["slept"], 2000);
    for number in 0..100 {
        assert_eq!(early.call(&request(3, "echo", json!([number])))["result"], json!([number]));
    }
    let used = usage(pid).ticks - ticks;
    assert!(used < 50, "used {used} of about 200 ticks");
    let complaints = serve.program.stderr().matches("retrying").count();
    assert_eq!(complaints, 1, "more than one warning: {}", serve.program.stderr());

    limit_descriptors(pid, before);
    serve.program.wait_stderr("accepting again");
    for client in &mut late {
        assert_eq!(client.json()["result"], 4);
    }
    drop((early, late));
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn a_web_server_without_descriptors_warns_once_and_then_serves_again() {
    let mut command = tieline(["serve", "--listen", "http://127.0.0.1:0"]);
    let mut program = Program::start(command.arg("--allow-unauthenticated-web"));
    let endpoint = program.line().unwrap();
    let authority = endpoint.strip_prefix("http://").unwrap();
    let mut early = Program::start(&mut tieline(["connect", &format!("ws://{authority}/ws")]));
    assert_eq!(early.call(&request(1, "add", json!([1, 1])))["result"], 2);

    // After this, no descriptor is free.
    let before = limit_descriptors(program.pid(), 3);
    let mut late: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(authority).unwrap()).collect();
    for stream in &mut late {
        let request = format!("GET /health HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
    }
    program.wait_stderr("out of file descriptors or memory; retrying; raise the limit");
    // For a second, the server retries, and does not warn again.
    assert_eq!(early.call(&request(2, "sleep", json!([1000])))["result"]["slept"], 1000);
    let complaints = program.stderr().matches("retrying").count();
    assert_eq!(complaints, 1, "more than one warning: {}", program.stderr());

    limit_descriptors(program.pid(), before);
    for stream in &mut late {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
    early.end_input();
    assert_eq!(early.wait().code, Some(0));
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code, Some(0));
}

#[test]
fn a_server_survives_more_clients_than_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let mark = support::new_mark();
    let env = format!("TIELINE_TEST_MARK={mark}");
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 40; exec "$@""#, "sh"]);
    command
        .arg(env!("CARGO_BIN_EXE_tieline"))
        .args(["serve", "--listen", &listen, "--env", &env, "--", "cat"]);
    let serve = Serve::launch(&mut command, 1, mark, directory);

    let mut first = serve.client();
    first.send("hello");
    assert_eq!(first.line().as_deref(), Some("hello"));
    // Some are served, some are refused, and some may still wait in the backlog.
    let crowd: Vec<Client> = (0..100).map(|_| serve.client()).collect();
    serve.program.wait_stderr("out of file descriptors or memory");
    first.send("still there?");
    assert_eq!(first.line().as_deref(), Some("still there?"));
    drop((first, crowd));
    serve.wait_nothing_left();

    // All descriptors are free again: clients can be served one after another.
    for _ in 0..3 {
        let mut client = None;
        until("a client is served", || {
            let mut candidate = serve.client();
            candidate.send_refused(b"hello\n");
            let is_served = candidate.line().as_deref() == Some("hello");
            client = is_served.then_some(candidate);
            is_served
        });
    }
    serve.wait_nothing_left();
    assert!(serve.program.stderr().matches("panicked").count() == 0);
    serve.stop();
}

#[test]
fn idle_clients_use_little_memory() {
    let serve = Serve::start(["--", "cat"]);
    let mut clients: Vec<Client> = (0..100).map(|_| serve.client()).collect();
    // Each client exchanges a large message, and is then idle.
    let large = "x".repeat(1 << 20);
    for client in &mut clients {
        client.send(&large);
        assert_eq!(client.line().map(|line| line.len()), Some(large.len()));
    }
    let resident = std::fs::read_to_string(format!("/proc/{}/statm", serve.program.pid())).unwrap();
    let pages: u64 = resident.split(' ').nth(1).unwrap().parse().unwrap();
    let mebibytes = pages * 4096 / (1 << 20);
    assert!(mebibytes < 60, "{mebibytes} MiB for 100 idle clients");
}

#[test]
fn client_that_guesses_tokens_cannot_fill_the_log() {
    let site = Site::start(&[]);
    for number in 0..200 {
        let wrong = format!("Authorization: Bearer a-wrong-token-{number:04}\r\n");
        assert_eq!(status_of(&site.get("/metrics", &wrong)), "401");
    }
    assert_eq!(status_of(&site.ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")), "403");
    let log = site.stop();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert!(lines("wrong token") <= 4, "{log}");
    assert_eq!(lines("more requests were refused (token)"), 1, "{log}");
    assert!(log.contains("evil.example"), "another cause is still logged: {log}");
    assert!(!log.contains("a-wrong-token"), "{log}");
}
