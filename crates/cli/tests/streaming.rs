//! Tests that many messages through `serve` over a WebSocket arrive once and in order, with constant
//! memory.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::Stdio;

use rustix::process::Signal;
use support::{Program, Talk, tieline};

/// Returns the resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

fn message(number: usize) -> String {
    format!("{{\"number\":{number},\"more\":\"{}\"}}", "x".repeat(200))
}

/// The memory must not grow after the first tenth of the messages. With `TIELINE_SOAK=1`, there are a
/// million messages.
#[test]
fn a_long_stream_arrives_complete_with_constant_memory() {
    let many = if std::env::var_os("TIELINE_SOAK").is_some() { 1_000_000 } else { 50_000 };
    let mut server = tieline(["serve", "--listen", "http://127.0.0.1:0"]);
    let mut server = Program::start(server.args(["--allow-unauthenticated-web", "--", "cat"]));
    let endpoint = server.line().unwrap();
    for resume in ["", "resume+"] {
        let url = format!("{resume}{}/ws", endpoint.replace("http:", "ws:"));
        let mut client = tieline(["connect", &url]);
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = BufWriter::new(client.stdin.take().unwrap());
        let writing = std::thread::spawn(move || {
            for number in 0..many {
                writeln!(input, "{}", message(number)).unwrap();
            }
        });
        let output = BufReader::new(client.stdout.take().unwrap());
        let (pids, mut early, mut came) = ([server.pid(), client.id()], [0; 2], 0);
        let mut late = [0; 2];
        for line in output.lines() {
            assert_eq!(line.unwrap(), message(came));
            came += 1;
            if came == many / 10 {
                early = pids.map(resident);
            } else if came == many - many / 100 {
                late = pids.map(resident);
            }
        }
        writing.join().unwrap();
        assert!(client.wait().unwrap().success());
        assert_eq!(came, many, "{url}");
        println!(
            "{url}: {came} messages; resident KiB of server and client: {early:?}, then {late:?}"
        );
        for (early, late) in early.into_iter().zip(late) {
            assert!(late < early + 4 * 1024, "{url}: {early} KiB, then {late} KiB");
        }
    }
    server.signal(Signal::TERM);
    let finished = server.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("served=2 refused=0 failed=0 lost=0"), "{}", finished.stderr);
}
