//! Tests that programs do not get the terminal of tieline, and that a stopped program is reported.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use support::*;

/// A script that prints its process ID, session and controlling terminal, and whether it can open that
/// terminal.
const WHERE: &str = "set -- $(cat /proc/$$/stat); echo $$ session $6 terminal $7; \
                     if (: </dev/tty) 2>/dev/null; then echo asks; else echo asks no terminal; fi; read -r line";

/// Runs tieline on a new terminal until it has written a line with each of these texts. Returns the
/// lines. stdout and stderr are written independently, so the lines can appear in any order.
fn at_a_terminal(args: &[&str], texts: &[&str]) -> Vec<String> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let line = ioctl_tiocgptpeer(&terminal, flags).unwrap();
    let mut terminal = File::from(terminal);
    // The tests may run with ignored signals, for example in the background of a shell.
    let mut command = Command::new("/usr/bin/env");
    command.args(["--default-signal=HUP,INT", "setsid", "--ctty", "--wait"]);
    command.arg(env!("CARGO_BIN_EXE_tieline")).args(args);
    let ends = [(); 3].map(|()| Stdio::from(line.try_clone().unwrap()));
    let [stdin, stdout, stderr] = ends;
    let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
    drop((command, line));
    let mut lines = Vec::new();
    for said in BufReader::new(terminal.try_clone().unwrap()).lines() {
        let said = said.unwrap_or_else(|error| panic!("{error}, after {lines:?}"));
        lines.push(said.trim().to_owned());
        if texts.iter().all(|text| lines.iter().any(|line| line.contains(text))) {
            break;
        }
    }
    // This is Ctrl-C: the terminal sends SIGINT to its foreground process group, which is that of
    // tieline.
    terminal.write_all(b"\x03").unwrap();
    until("tieline ends", || child.try_wait().unwrap().is_some());
    lines
}

#[track_caller]
fn is_detached(said: &str) {
    let words: Vec<_> = said.split_whitespace().collect();
    let [pid, "session", session, "terminal", terminal] = words[..] else { panic!("{said}") };
    assert_eq!((session, terminal), (pid, "0"), "not a session leader without a terminal: {said}");
}

#[test]
fn programs_have_no_controlling_terminal() {
    let exec = format!("exec:sh -c '{WHERE}'");
    let holds = ["auto", "descent"].map(|hold| format!("--hold={hold}"));
    for hold in &holds {
        for args in [&["connect", &exec, hold][..], &["bridge", "stdio:", &exec, hold]] {
            // `connect` warns about a program without a terminal when input is typed.
            let warns = args[0] == "connect";
            let texts = ["asks no terminal", "has no terminal"];
            let lines = at_a_terminal(args, if warns { &texts } else { &texts[..1] });
            is_detached(lines.iter().find(|line| line.contains(" session ")).unwrap());
            assert!(warns || !lines.iter().any(|line| line.contains(texts[1])), "{lines:?}");
        }
    }
}

#[test]
fn stderr_of_a_program_is_passed_on_to_a_terminal_with_control_characters_escaped() {
    let script = "printf \"say 'it'\\n\\033[1mbold\\n\" >&2; read -r line";
    let exec = format!("exec:{}", serde_json::json!(["sh", "-c", script]));
    let lines = at_a_terminal(&["bridge", "stdio:", &exec], &["bold"]);
    assert_eq!(lines, ["say 'it'", "\\u001b[1mbold"]);
}

#[test]
fn served_programs_lead_their_own_session() {
    let serve = Serve::start(sh(WHERE));
    let mut client = serve.client();
    is_detached(&client.line().unwrap());
    drop(client);
    serve.stop();
}

#[test]
fn a_stopped_program_is_logged_and_shown_in_status() {
    let runtime = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("s").display());
    let with_runtime = |mut command: Command| {
        command.env("XDG_RUNTIME_DIR", runtime.path());
        command
    };
    let serve = ["serve", "--listen", &listen, "--", "sh", "-c", "echo $$; cat"];
    let mut serve = Program::start(&mut with_runtime(tieline(serve)));
    serve.line().unwrap();
    let mut client = Client::connect(&path_of(&listen));
    let pid: i32 = client.line().unwrap().parse().unwrap();
    let signal = |signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    let shown = || Program::run(&mut with_runtime(tieline(["status", "--json"])), "").stdout;
    for times in [1, 2] {
        signal(Signal::STOP);
        until("the state is shown", || shown().contains(r#""state":"stopped""#));
        signal(Signal::CONT);
        serve.wait_stderr_times("continues: it received SIGCONT", times);
        until("the state is shown", || shown().contains(r#""state":"running""#));
    }
    serve.wait_stderr("was stopped by SIGSTOP");
    client.send("still there");
    assert_eq!(client.line().as_deref(), Some("still there"));
}

/// Without SIGCONT, SIGTERM would stay pending, and the stopped program would be killed.
#[test]
fn a_stopped_program_can_end_within_its_stop_timeout() {
    let holds: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["--hold=auto", "--hold=descent", "--isolate"],
        false => &["--hold=auto", "--hold=descent"],
    };
    for hold in holds {
        let script = "trap 'echo bye >&2; exit 0' TERM; sh -c 'echo $$; exec sleep 1000' & wait";
        let serve = Serve::start([&[*hold, "--stop-timeout=1h"], &sh(script)[..]].concat());
        let mut client = serve.client();
        client.line().unwrap();
        // The test stops all processes, like a container engine that freezes them.
        for pid in serve.processes() {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                kill_process(pid, Signal::STOP).unwrap();
            }
        }
        serve.program.wait_stderr("was stopped by SIGSTOP");
        let finished = serve.stop();
        assert!(finished.stderr.contains("bye"), "{hold}: {}", finished.stderr);
        assert!(finished.stderr.contains("killed=0"), "{hold}: {}", finished.stderr);
    }
}
