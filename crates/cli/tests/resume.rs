//! Tests of `serve --resume` and `connect --resume` with connections that break.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Program, Serve, Talk, children_of, tieline, until, usage};

/// A proxy in front of a server that can be replaced by another one on the same socket.
struct Way {
    program: Program,
    endpoint: String,
}

impl Way {
    #[track_caller]
    fn to(serve: &Serve, faults: &[&str]) -> Self {
        let endpoint = format!("unix:{}", serve.directory.path().join("way.sock").display());
        let target = format!("unix:{}", serve.path().display());
        let mut program = Program::start(tieline(["chaos", &endpoint, &target]).args(faults));
        assert!(program.line().is_some(), "{}", program.stderr());
        Self { program, endpoint }
    }

    fn client(&self) -> Program {
        Program::start(tieline(["connect", "--resume", &self.endpoint]).arg("-v"))
    }

    /// Cuts every connection, and returns the log.
    fn stop(mut self) -> String {
        self.program.signal(Signal::TERM);
        self.program.wait().stderr
    }
}

#[test]
fn no_line_is_lost_while_every_connection_is_cut() {
    const LINES: u32 = 100_000;
    let serve = Serve::start(["--resume", "--", "cat"]);
    let lines = (0..LINES).fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "{number}");
        lines
    });
    let (way, finished) = support::through_cuts(|every| {
        let way = Way::to(&serve, &["--cut-every", every]);
        let finished = Program::run(&mut tieline(["connect", "--resume", &way.endpoint]), &lines);
        (way, finished)
    });
    let first = finished.stdout.lines().zip(lines.lines()).find(|(came, went)| came != went);
    assert_eq!(first, None, "the first difference");
    assert!(finished.stdout == lines, "{} of {} bytes", finished.stdout.len(), lines.len());
    let said = way.stop();
    println!("{said}");
    let cuts = said.split("cut=").nth(1).and_then(|rest| rest.split_whitespace().next());
    assert!(cuts.unwrap().parse::<u32>().unwrap() > 0, "{said}");
    serve.stop();
}

#[test]
fn a_client_stopped_during_a_cut_resumes_once_and_loses_nothing() {
    let serve = Serve::start(["-v", "--resume", "--", "cat"]);
    let way = Way::to(&serve, &[]);
    let mut client = way.client();
    client.send_raw(b"before\n");
    assert_eq!(client.line().as_deref(), Some("before"));
    let program = children_of(serve.program.pid());
    client.signal(Signal::STOP);
    until("the process is stopped", || state_of(client.pid()) == Some('T'));
    // Input that is sent while the client is stopped waits in the pipe.
    client.send_raw(b"meanwhile\n");
    way.stop();
    serve.program.wait_stderr("has lost its connection");
    let way = Way::to(&serve, &[]);
    client.signal(Signal::CONT);
    client.send_raw(b"after\n");
    for expected in ["meanwhile", "after"] {
        assert_eq!(client.line().as_deref(), Some(expected), "{}", client.stderr());
    }
    assert_eq!(children_of(serve.program.pid()), program, "another session was started");
    let finished = client.finish();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stdout, "before\nmeanwhile\nafter\n");
    let said = way.stop();
    assert!(said.contains("connections=1 "), "{said}");
    serve.stop();
}

#[test]
fn a_server_stopped_during_a_cut_is_resumed_once_and_loses_nothing() {
    let serve = Serve::start(["-v", "--resume", "--", "cat"]);
    let way = Way::to(&serve, &[]);
    let mut client = way.client();
    client.send_raw(b"before\n");
    assert_eq!(client.line().as_deref(), Some("before"));
    let program = children_of(serve.program.pid());
    serve.program.signal(Signal::STOP);
    until("the process is stopped", || state_of(serve.program.pid()) == Some('T'));
    client.send_raw(b"meanwhile\n");
    way.stop();
    client.wait_stderr("has lost its connection");
    // The client reconnects, and receives the answer when the server continues.
    let way = Way::to(&serve, &["-v"]);
    serve.program.signal(Signal::CONT);
    client.send_raw(b"after\n");
    for expected in ["meanwhile", "after"] {
        assert_eq!(client.line().as_deref(), Some(expected), "{}", client.stderr());
    }
    assert_eq!(children_of(serve.program.pid()), program, "another session was started");
    assert_eq!(client.stderr().matches("has lost its connection").count(), 1);
    let finished = client.finish();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stdout, "before\nmeanwhile\nafter\n");
    way.stop();
    serve.stop();
}

/// Stops first the client and then the server while their connection stays open. With `TIELINE_SOAK=1`,
/// each is stopped for a minute. Otherwise, each is stopped for a moment, which must have no effect.
#[test]
fn a_side_stopped_for_a_minute_is_resumed_once_at_most() {
    let is_long = std::env::var_os("TIELINE_SOAK").is_some();
    let serve = Serve::start(["-v", "--resume", "--", "cat"]);
    let mut client = Program::start(tieline(["connect", "--resume", serve.endpoint()]).arg("-v"));
    client.send_raw(b"before\n");
    assert_eq!(client.line().as_deref(), Some("before"));
    let program = children_of(serve.program.pid());
    let resumed = |by: &Program| by.stderr().matches("has lost its connection").count();
    let mut expected = String::from("before\n");
    for (round, who) in [client.pid(), serve.program.pid()].into_iter().enumerate() {
        let before = [resumed(&client), resumed(&serve.program)];
        let signal = |signal| {
            let pid = Pid::from_raw(who.try_into().unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
        };
        signal(Signal::STOP);
        until("the process is stopped", || state_of(who) == Some('T'));
        client.send_raw(format!("meanwhile {round}\n").as_bytes());
        if is_long {
            std::thread::sleep(Duration::from_secs(60));
        }
        signal(Signal::CONT);
        let begun = Instant::now();
        client.send_raw(format!("after {round}\n").as_bytes());
        for word in ["meanwhile", "after"] {
            let word = format!("{word} {round}");
            assert_eq!(client.line().as_deref(), Some(&*word), "{}", client.stderr());
            let _ = writeln!(expected, "{word}");
        }
        let lost = [resumed(&client) - before[0], resumed(&serve.program) - before[1]];
        let name = ["client", "server"][round];
        println!(
            "{name}: everything arrived {:?} after it continued; connections lost: {lost:?}",
            begun.elapsed()
        );
        assert_eq!(lost[0], usize::from(is_long), "{}", client.stderr());
    }
    assert_eq!(children_of(serve.program.pid()), program, "another session was started");
    let finished = client.finish();
    assert_eq!((finished.code, finished.stdout), (Some(0), expected), "{}", finished.stderr);
    serve.stop();
}

#[test]
fn a_client_whose_stdout_is_not_read_does_not_affect_others() {
    const FLOOD: usize = 256 << 20;
    let serve = Serve::start(["--resume=1s", "--", "cat"]);
    let mut deaf = tieline(["connect", "--resume", serve.endpoint()]);
    let mut deaf = deaf.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The client sends more than all queues can hold, and the program echoes everything.
    let said = Arc::new(AtomicUsize::new(0));
    let (mut stdin, saying) = (deaf.stdin.take().unwrap(), said.clone());
    let flood = std::thread::spawn(move || {
        let line = [&[b'x'; (64 << 10) - 1][..], b"\n"].concat();
        while saying.load(Ordering::Relaxed) < FLOOD && stdin.write_all(&line).is_ok() {
            saying.fetch_add(line.len(), Ordering::Relaxed);
        }
    });
    let mut last = (0, Instant::now());
    until("no more of its input is read", || {
        let now = said.load(Ordering::Relaxed);
        if now != last.0 || now == 0 {
            last = (now, Instant::now());
        }
        now >= FLOOD || last.1.elapsed() > Duration::from_secs(1)
    });
    let lines = (0..10_000).fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "{number}");
        lines
    });
    for _ in 0..3 {
        let mut other = tieline(["connect", "--resume", serve.endpoint()]);
        let finished = Program::run(&mut other, &lines);
        assert!(finished.code == Some(0) && finished.stdout == lines, "{}", finished.stderr);
    }
    let said = said.load(Ordering::Relaxed);
    let peaks = [serve.program.pid(), deaf.id()].map(|pid| usage(pid).peak_kib >> 10);
    println!("{} MiB were read; peaks of serve and connect: {peaks:?} MiB", said >> 20);
    assert!(said < FLOOD / 2, "{said} bytes are queued");
    assert!(peaks.into_iter().all(|peak| peak < 100), "{peaks:?} MiB");
    deaf.kill().unwrap();
    deaf.wait().unwrap();
    flood.join().unwrap();
    until("its program has ended", || children_of(serve.program.pid()).is_empty());
    serve.stop();
}

#[test]
fn the_session_and_program_of_a_killed_client_end_after_the_grace_period() {
    let serve = Serve::start(["--resume=1s", "--", "cat"]);
    let way = Way::to(&serve, &[]);
    let mut client = way.client();
    client.send_raw(b"word\n");
    assert_eq!(client.line().as_deref(), Some("word"));
    assert_eq!(children_of(serve.program.pid()).len(), 1);
    client.signal(Signal::KILL);
    client.wait();
    until("its program has ended", || children_of(serve.program.pid()).is_empty());
    way.stop();
    serve.stop();
}

/// Returns the state letter of a process in `/proc`.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
