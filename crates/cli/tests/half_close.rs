//! Tests of `connect` over the web: the end of its input reaches the program, and the answers still
//! arrive.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;

use rustix::process::Signal;
use support::site::Site;
use support::{Finished, Prefix, Program, Talk, children_of, sh, tieline, until};

/// Serves a shell script. Returns the endpoints of its WebSocket and its events.
fn server(script: &str) -> (Site, [String; 2]) {
    let site = Site::start(&sh(script));
    let endpoints = [site.web_socket(), format!("{}/sse", site.endpoint)];
    (site, endpoints)
}

#[track_caller]
fn ends(command: &mut Command, input: &str, code: i32, stdout: &str) -> Finished {
    let finished = Program::run(command, input);
    let seen = (finished.code, finished.stdout.as_str());
    assert_eq!(seen, (Some(code), stdout), "{command:?}: {}", finished.stderr);
    finished
}

#[test]
fn answers_of_a_program_that_waits_for_the_end_of_its_input_arrive() {
    let (site, endpoints) = server("sort");
    for endpoint in &endpoints {
        ends(&mut site.connect(endpoint), "c\na\nb\n", 0, "a\nb\nc\n");
        // The input is longer than one POST request or one buffer.
        let lines: Vec<_> = (0..20_000).map(|number| format!("line {number:06}\n")).collect();
        let reversed: String = lines.iter().rev().map(String::as_str).collect();
        ends(&mut site.connect(endpoint), &reversed, 0, &lines.concat());
        let mut bridge = tieline(["bridge", "stdio:", endpoint]);
        bridge.env("TIELINE_TOKEN", support::site::TOKEN);
        ends(&mut bridge, "b\na\n", 0, "a\nb\n");
    }
    site.stop();
}

/// The echo of a request is not a response to it, so the wait for a response ends only with the program.
#[test]
fn the_wait_for_a_response_ends_with_the_program() {
    let (site, endpoints) = server("cat");
    let request = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}\n";
    for endpoint in &endpoints {
        ends(&mut site.connect(endpoint), request, 0, request);
        ends(&mut site.connect(endpoint), "hello\n", 0, "hello\n");
    }
    site.stop();
}

#[test]
fn the_wait_after_text_without_an_answer_ends_with_the_program() {
    let (site, endpoints) = server("cat >/dev/null");
    for endpoint in &endpoints {
        let finished = ends(&mut site.connect(endpoint), "one\ntwo\n", 0, "");
        assert_eq!(finished.stderr, "");
        ends(&mut site.connect(endpoint), "", 0, "");
    }
    site.stop();
}

#[test]
fn output_that_a_program_writes_after_the_end_of_its_input_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let script =
        format!("cat; echo begun; until [ -e {} ]; do sleep 0.05; done; echo done", gate.display());
    let (site, endpoints) = server(&script);
    for endpoint in &endpoints {
        let mut client = Program::start(&mut site.connect(endpoint));
        client.end_input();
        assert_eq!(client.line().as_deref(), Some("begun"), "{}", client.stderr());
        std::fs::write(&gate, "").unwrap();
        assert_eq!(client.line().as_deref(), Some("done"), "{}", client.stderr());
        assert_eq!(client.wait().code, Some(0));
        std::fs::remove_file(&gate).unwrap();
    }
    site.stop();
}

/// The program runs longer after the end of its input than a program that is being stopped is allowed
/// to.
#[test]
fn output_that_a_program_writes_long_after_the_end_of_its_input_arrives() {
    let (site, endpoints) = server("cat; sleep 4; echo done");
    for endpoint in &endpoints {
        ends(&mut site.connect(endpoint), "hello\n", 0, "hello\ndone\n");
    }
    site.stop();
}

#[test]
fn a_failure_of_the_program_after_the_end_of_its_input_is_reported() {
    let (site, endpoints) = server("cat; exit 3");
    for endpoint in &endpoints {
        let finished = ends(&mut site.connect(endpoint), "hello\n", 1, "hello\n");
        assert!(finished.stderr.contains("the program has failed"), "{}", finished.stderr);
    }
    site.stop();
}

#[test]
fn a_client_killed_after_the_end_of_its_input_ends_the_program() {
    let (site, endpoints) = server("cat; echo begun; sleep 1000");
    for endpoint in &endpoints {
        let mut client = Program::start(&mut site.connect(endpoint));
        client.end_input();
        assert_eq!(client.line().as_deref(), Some("begun"), "{}", client.stderr());
        client.signal(Signal::KILL);
        client.wait();
        until("the program is gone", || children_of(site.program.pid()).is_empty());
    }
    site.stop();
}

#[test]
fn a_client_without_token_and_input_receives_output_of_a_program_that_writes_first() {
    let mut command = tieline(["serve", "--listen", "http://127.0.0.1:0"]);
    command.arg("--allow-unauthenticated-web").args(sh("echo '\"welcome\"'; exec cat"));
    let site = Site::of(&mut command);
    for endpoint in [site.web_socket(), format!("{}/sse", site.endpoint)] {
        ends(&mut tieline(["connect", &endpoint]), "", 0, "\"welcome\"\n");
        ends(&mut tieline(["connect", &endpoint]), "[1]\n", 0, "\"welcome\"\n[1]\n");
    }
    site.stop();
}

#[test]
fn the_end_of_input_passes_through_a_proxy_with_a_path_prefix() {
    let prefix = Prefix::new("/agents/one/");
    let url = prefix.url();
    let (_, authority) = url.split_once("//").unwrap();
    let (host, _) = authority.split_once('/').unwrap();
    let site = Site::start(&["--allow-host", host, "--", "sort"]);
    let _nginx = prefix.pass_to(site.authority());
    for endpoint in [format!("ws://{authority}ws"), format!("http://{authority}sse")] {
        ends(&mut site.connect(&endpoint), "b\na\n", 0, "a\nb\n");
    }
    site.stop();
}
