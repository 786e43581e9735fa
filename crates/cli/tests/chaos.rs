//! Tests of `tieline chaos` between clients and servers: without faults, when it is transparent, and
//! with each fault.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::PathBuf;

use rustix::process::Signal;
use support::{
    Client, Finished, Program, Serve, Talk, children_of, path_of, request, tieline, until,
};
use tempfile::TempDir;

/// A running proxy, by default on a Unix socket.
struct Chaos {
    program: Program,
    endpoint: String,
    _directory: TempDir,
}

impl Chaos {
    #[track_caller]
    fn start(target: &str, faults: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}", directory.path().join("chaos.sock").display());
        Self::at(&listen, target, faults, directory)
    }

    #[track_caller]
    fn at(listen: &str, target: &str, faults: &[&str], directory: TempDir) -> Self {
        let mut program = Program::start(tieline(["chaos", listen, target]).args(faults));
        let Some(endpoint) = program.line() else { panic!("{}", program.stderr()) };
        Self { program, endpoint, _directory: directory }
    }

    fn path(&self) -> PathBuf {
        path_of(&self.endpoint)
    }

    #[track_caller]
    fn client(&self) -> Client {
        Client::connect(&self.path())
    }

    #[track_caller]
    fn call(&self) -> Finished {
        Program::run(&mut tieline(["call", &self.endpoint, "add", "[2,3]"]), "")
    }

    /// Stops the proxy with this signal, and checks that its socket is removed.
    #[track_caller]
    fn stop(mut self, signal: Signal) -> Finished {
        self.program.signal(signal);
        let finished = self.program.wait();
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(!self.endpoint.starts_with("unix:") || !self.path().exists(), "{finished:?}");
        finished
    }
}

#[test]
fn calls_pass_through_to_a_server_over_unix_and_tcp() {
    let serve = Serve::start::<&str>([]);
    let unix = Chaos::start(serve.endpoint(), &["-v"]);
    let tcp = ["--allow-unauthenticated-tcp"];
    let tcp = Chaos::at("tcp:127.0.0.1:0", &unix.endpoint, &tcp, tempfile::tempdir().unwrap());
    assert!(!tcp.endpoint.ends_with(":0"), "{}", tcp.endpoint);
    for (chaos, calls) in [(&unix, 1), (&tcp, 2)] {
        let finished = chaos.call();
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "5\n"), "{finished:?}");
        unix.program.wait_stderr_times(" ended", calls);
    }
    let said = unix.program.stderr();
    assert!(said.contains("no faults are configured") && said.contains("connection=2"), "{said}");
    let finished = tcp.stop(Signal::INT);
    for count in ["connections=1", "refused=0", "cut=0", "to_client=", "dropped=0", "corrupted=0"] {
        assert!(finished.stderr.contains(count), "{count}: {finished:?}");
    }
    assert!(
        !finished.stderr.contains("connection=1"),
        "connections are logged without -v: {finished:?}"
    );
    unix.stop(Signal::TERM);
    serve.stop();
}

#[test]
fn a_half_close_passes_through_and_the_answers_come_back() {
    let chaos = Chaos::start("exec:sort", &[]);
    let mut client = chaos.client();
    client.send_raw(b"b\nc\na\n");
    client.end_input();
    assert_eq!(client.rest(), b"a\nb\nc\n");
    chaos.stop(Signal::TERM);
}

#[test]
fn a_cut_ends_both_sides_of_each_new_connection() {
    let chaos = Chaos::start("exec:cat", &["--cut-every", "100ms", "-v"]);
    for round in 1..=3 {
        let mut client = chaos.client();
        client.send_raw(b"half a mess");
        // The echo may arrive before the cut.
        assert!(b"half a mess".starts_with(&client.rest()));
        chaos.program.wait_stderr_times(" cut ", round);
        until("the program is gone", || children_of(chaos.program.pid()).is_empty());
    }
    let finished = chaos.stop(Signal::TERM);
    assert!(finished.stderr.contains("cut after 100ms"), "{finished:?}");
    assert!(finished.stderr.contains("connections=3 refused=0 cut=3"), "{finished:?}");
}

#[test]
fn the_same_seed_flips_the_same_bits() {
    let sent = vec![0; 20_000];
    let through = |more: &[&str]| {
        let chaos = Chaos::start("exec:cat", &[&["--corrupt", "0.01"], more].concat());
        let mut client = chaos.client();
        client.send_raw(&sent);
        client.end_input();
        let arrived = client.rest();
        (arrived, chaos.stop(Signal::TERM).stderr)
    };
    let (first, said) = through(&[]);
    assert!(first.len() == sent.len() && first != sent);
    assert!(!said.contains("corrupted=0"), "{said}");
    let (_, seed) = said.split_once("in one of 100 bytes with seed ").expect("the seed is printed");
    let seed = seed.split_whitespace().next().unwrap();
    assert!(through(&["--seed", seed]).0 == first, "seed {seed}");
    assert!(through(&[]).0 != first, "two random seeds are equal");
}

#[test]
fn a_call_into_a_black_hole_times_out() {
    let serve = Serve::start::<&str>([]);
    let chaos = Chaos::start(serve.endpoint(), &["--blackhole"]);
    let call = ["call", &chaos.endpoint, "add", "[2,3]", "--timeout", "200ms"];
    let finished = Program::run(&mut tieline(call), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    serve.program.wait_stderr("client connected");
    let finished = chaos.stop(Signal::TERM);
    assert!(finished.stderr.contains("to_target=0 to_client=0"), "{finished:?}");
}

#[test]
fn messages_arrive_over_a_delayed_and_throttled_line() {
    let serve = Serve::start::<&str>([]);
    let chaos = Chaos::start(serve.endpoint(), &["--delay", "20ms", "--throttle", "64K"]);
    let mut client = chaos.client();
    let data = "x".repeat(10_000);
    let answer = client.call(&request(1, "echo", serde_json::json!([data])));
    assert_eq!(answer["result"][0], data);
    chaos.stop(Signal::TERM);
}

#[test]
fn the_proxy_reports_a_missing_server_and_keeps_running() {
    let chaos = Chaos::start("unix:/nowhere/agent.sock", &[]);
    for n in 1..=2 {
        assert_eq!(chaos.client().rest(), b"");
        chaos.program.wait_stderr_times("client refused", n);
    }
    let finished = chaos.stop(Signal::TERM);
    assert!(finished.stderr.contains("connections=2 refused=2"), "{finished:?}");
}

#[test]
fn a_second_proxy_on_the_same_socket_is_refused_and_the_first_keeps_running() {
    let chaos = Chaos::start("exec:cat", &[]);
    let finished = Program::run(&mut tieline(["chaos", &chaos.endpoint, "exec:cat"]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    let mut client = chaos.client();
    client.send("hello");
    assert_eq!(client.line().unwrap(), "hello");
    chaos.stop(Signal::TERM);
}

#[test]
fn invalid_faults_and_endpoints_are_refused_with_the_reason() {
    let refused = |line: &[&str], status, complaint: &str| {
        let finished = Program::run(tieline(["chaos"]).args(line), "");
        assert_eq!(
            (finished.code, &*finished.stdout),
            (Some(status), ""),
            "{line:?}: {finished:?}"
        );
        assert!(finished.stderr.contains(complaint), "{line:?}: {finished:?}");
    };
    let directory = tempfile::tempdir().unwrap();
    let here = &*format!("unix:{}", directory.path().join("never.sock").display());
    let there = "exec:cat";
    for (fault, value, complaint) in [
        ("--cut-every", "0s", "cut_every must be longer than zero"),
        ("--cut-every", "2days", "at most a day"),
        ("--cut-every", "5", "time unit needed"),
        ("--delay", "25h", "delay must be at most a day"),
        ("--throttle", "0", "throttle must be at least 1 B a second"),
        ("--throttle", "fast", "not a size in bytes"),
        ("--corrupt", "1.5", "must be between 0 and 1"),
        ("--corrupt", "-1", "must be between 0 and 1"),
        ("--corrupt", "NaN", "must be between 0 and 1"),
        ("--corrupt", "much", "must be between 0 and 1"),
        ("--seed", "seven", "invalid digit"),
    ] {
        refused(&[here, there, fault, value], 2, complaint);
    }
    refused(&[here], 2, "<TARGET>");
    refused(&[here, here], 2, "target must differ from the listener");
    refused(&[here, "stdio:"], 2, "cannot proxy stdin and stdout");
    refused(&["content-length+unix:/a", there], 2, "leave out `content-length+`");
    refused(&["exec:cat", there], 2, "connect to it");
    refused(&["unix:@abstract", there], 2, "listen on a path");
    refused(&["tcp:127.0.0.1:0", there], 1, "--allow-unauthenticated-tcp");
}
