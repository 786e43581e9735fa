//! `serve --resume` and `connect --resume`, and what happens to the connection between them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fmt::Write as _;

use rustix::process::Signal;
use support::{Program, Serve, Talk, children_of, tieline, until};

/// A proxy in front of a server, at a place that another one can take.
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

    /// Cuts every connection. What it said of them.
    fn stop(mut self) -> String {
        self.program.signal(Signal::TERM);
        self.program.wait().stderr
    }
}

#[test]
fn all_lines_go_in_and_out_while_every_connection_is_cut() {
    const LINES: u32 = 100_000;
    let serve = Serve::start(["--resume", "--", "cat"]);
    let way = Way::to(&serve, &["--cut-every", "50ms"]);
    let lines = (0..LINES).fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "{number}");
        lines
    });
    let finished = Program::run(&mut tieline(["connect", "--resume", &way.endpoint]), &lines);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let first = finished.stdout.lines().zip(lines.lines()).find(|(came, went)| came != went);
    assert_eq!(first, None, "the first that differs");
    assert!(finished.stdout == lines, "{} of {} bytes", finished.stdout.len(), lines.len());
    let said = way.stop();
    println!("{said}");
    let cuts = said.split("cut=").nth(1).and_then(|rest| rest.split_whitespace().next());
    assert!(cuts.unwrap().parse::<u32>().unwrap() > 0, "{said}");
    serve.stop();
}

#[test]
fn who_was_stopped_while_its_connection_was_cut_resumes_once_and_has_missed_nothing() {
    let serve = Serve::start(["-v", "--resume", "--", "cat"]);
    let way = Way::to(&serve, &[]);
    let mut client = way.client();
    client.send_raw(b"before\n");
    assert_eq!(client.line().as_deref(), Some("before"));
    let program = children_of(serve.program.pid());
    client.signal(Signal::STOP);
    until("it is stopped", || state_of(client.pid()) == Some('T'));
    // What its user says meanwhile waits in the pipe.
    client.send_raw(b"meanwhile\n");
    way.stop();
    serve.program.wait_stderr("has lost its connection");
    let way = Way::to(&serve, &[]);
    client.signal(Signal::CONT);
    client.send_raw(b"after\n");
    for expected in ["meanwhile", "after"] {
        assert_eq!(client.line().as_deref(), Some(expected), "{}", client.stderr());
    }
    assert_eq!(children_of(serve.program.pid()), program, "it is the same session");
    let finished = client.finish();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stdout, "before\nmeanwhile\nafter\n");
    let said = way.stop();
    assert!(said.contains("connections=1 "), "{said}");
    serve.stop();
}

#[test]
fn the_session_of_who_was_killed_ends_after_its_grace_and_so_does_its_program() {
    let serve = Serve::start(["--resume=1s", "--", "cat"]);
    let way = Way::to(&serve, &[]);
    let mut client = way.client();
    client.send_raw(b"word\n");
    assert_eq!(client.line().as_deref(), Some("word"));
    assert_eq!(children_of(serve.program.pid()).len(), 1);
    client.signal(Signal::KILL);
    client.wait();
    until("its program is gone", || children_of(serve.program.pid()).is_empty());
    way.stop();
    serve.stop();
}

/// The letter that `/proc` has for it.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
