//! Tests of the environment, signals, limits and descriptors that `tieline` inherits, and of those that
//! it passes on to its programs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use support::{Client, Finished, Program, Serve, Talk, copied, path_of, sh, tieline};
use tieline_testkit::executable;

/// Prints the environment of the program, and then that of its guardian.
const VARIABLES: &str = "env; echo guardian; tr '\\0' '\\n' < /proc/$PPID/environ; echo end";

/// Returns a command with a token and another variable in its environment.
fn with_token<const N: usize>(args: [&str; N]) -> Command {
    let mut command = tieline(args);
    command.env("TIELINE_TOKEN", "a-token-of-more-than-twenty").env("OTHER", "is-kept");
    command
}

#[track_caller]
fn assert_has_no_token(variables: &str) {
    let (program, guardian) = variables.split_once("\nguardian\n").expect(variables);
    assert!(program.contains("OTHER=is-kept"), "{variables}");
    assert!(guardian.ends_with("end\n"), "{variables}");
    assert!(!variables.contains("TIELINE_TOKEN"), "{variables}");
    assert!(!guardian.contains("OTHER"), "the guardian has variables: {variables}");
}

#[test]
fn no_command_passes_the_token_to_a_program_or_its_guardian() {
    let exec = format!("exec:{}", serde_json::json!(["sh", "-c", VARIABLES]));
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("a.sock").display());

    assert_has_no_token(&Program::run(&mut with_token(["connect", &exec]), "").stdout);
    assert_has_no_token(&Program::run(&mut with_token(["bridge", "stdio:", &exec]), "").stdout);

    let mut chaos = Program::start(&mut with_token(["chaos", &socket, &exec]));
    let endpoint = chaos.line().unwrap();
    assert_has_no_token(&String::from_utf8(Client::connect(&path_of(&endpoint)).rest()).unwrap());
    drop(chaos);

    let mut command = with_token(["serve", "--listen", &socket, "--", "sh", "-c", VARIABLES]);
    let serve = Serve::launch(&mut command, 1, "unused".into(), tempfile::tempdir().unwrap());
    assert_has_no_token(&String::from_utf8(serve.client().rest()).unwrap());
    serve.stop();

    // These two commands do not print the program's output, so the program writes it to a file.
    let (script, left) = (directory.path().join("script"), directory.path().join("left"));
    executable::write(&script, &format!("#!/bin/sh\n({VARIABLES}) > {}\n", left.display()));
    let script = script.to_str().unwrap();
    let call = ["call", &format!("exec:{script}"), "method"];
    let claude = ["claude", "-p", "hello", "--program", script];
    for mut command in [with_token(call), with_token(claude)] {
        Program::run(&mut command, "");
        assert_has_no_token(&taken(&left));
    }
}

/// Removes a file, and returns its content.
fn taken(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    fs::remove_file(file).unwrap();
    text
}

/// Starts a server of `program` from a script, which runs it as `"$@"`.
fn serve_below(language: &[&str], script: &str, program: &str) -> Serve {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let mut command = Command::new(language[0]);
    command.args(&language[1..]).arg(script).args((language[0] == "sh").then_some("sh"));
    command.args([env!("CARGO_BIN_EXE_tieline"), "serve", "--no-status", "--listen", &listen]);
    command.args(sh(program)).current_dir(directory.path()).env_remove("RUST_LOG");
    Serve::launch(&mut command, 1, "unused".into(), directory)
}

#[test]
fn exit_statuses_are_known_even_if_the_parent_process_ignored_sigchld() {
    let program = "grep SigIgn /proc/self/status; echo $PPID; exit 7";
    let serve = serve_below(&["perl", "-e"], r#"$SIG{CHLD} = "IGNORE"; exec @ARGV"#, program);
    let mut client = serve.client();
    assert_eq!(signals(&client.line().unwrap()) & bit(Signal::CHILD), 0, "ignored by the program");
    let guardian = format!("/proc/{}", client.line().unwrap());
    serve.program.wait_stderr("exit status: 7");
    assert_eq!(client.rest(), b"");
    support::until("the guardian is reaped", || !Path::new(&guardian).exists());
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("no processes left started=1 by_itself=1"), "{stderr}");
}

#[test]
fn signals_that_the_parent_process_blocked_still_end_the_server() {
    let block = "use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTERM, SIGINT, SIGHUP)); \
                 $SIG{$_} = 'DEFAULT' for qw(TERM INT HUP); exec @ARGV";
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let program = "grep SigBlk /proc/self/status; cat";
        let mut serve = serve_below(&["perl", "-e"], block, program);
        assert_eq!(signals(&serve.client().line().unwrap()), 0, "blocked in the program");
        serve.program.signal(signal);
        assert_eq!(serve.program.wait().code, Some(0));
    }
}

#[test]
fn a_signal_that_the_parent_process_ignored_stays_ignored() {
    let ignored = [("INT", Signal::INT), ("HUP", Signal::HUP)];
    for (name, signal) in ignored {
        let script = format!(r#"trap "" {name}; exec "$@""#);
        let serve = serve_below(&["sh", "-c"], &script, "grep SigIgn /proc/self/status; cat");
        serve.program.signal(signal);
        let mut client = serve.client();
        let said = client.line().unwrap();
        assert_ne!(signals(&said) & bit(signal), 0, "not ignored by the program: {said}");
        client.send("still here");
        assert_eq!(client.line().as_deref(), Some("still here"));
        serve.stop();
    }
}

#[test]
fn signals_that_the_c_library_ignores_are_not_ignored_in_programs() {
    let serve = Serve::start(sh("grep -E 'SigIgn|SigBlk' /proc/self/status"));
    let mut client = serve.client();
    let [blocked, ignored] = [client.line().unwrap(), client.line().unwrap()];
    assert_eq!(signals(&blocked), 0, "{blocked}");
    assert_eq!(signals(&ignored) & (1 << 31 | 1 << 32), 0, "{ignored}");
    serve.stop();
}

#[test]
fn neither_a_program_nor_its_guardian_inherits_descriptors_of_the_parent_process() {
    // The guardian has some descriptors of its own, but none of them refers to the file.
    let program = "ls /proc/self/fd | tr '\n' ' '; echo; readlink /proc/$PPID/fd/* | grep -c lock";
    let serve = serve_below(&["sh", "-c"], r#"exec 7>lock 8>lock; exec "$@""#, program);
    let mut client = serve.client();
    // Descriptor 3 is the directory that `ls` is reading.
    assert_eq!(client.line().as_deref(), Some("0 1 2 3 "));
    assert_eq!(client.line().as_deref(), Some("0"));
    serve.stop();

    let exec = format!("exec:{}", serde_json::json!(["sh", "-c", program]));
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec 7>lock 8>lock; exec "$@""#, "sh", env!("CARGO_BIN_EXE_tieline")]);
    command.args(["connect", &exec]).current_dir(directory.path());
    assert_eq!(Program::run(&mut command, "").stdout, "0 1 2 3 \n0\n");
}

#[test]
fn a_file_size_limit_fails_the_tap_and_not_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let tap = directory.path().join("tap");
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -f 64; exec "$@""#, "sh", env!("CARGO_BIN_EXE_tieline")]);
    command.args(["serve", "--no-status", "--listen", &listen, "--tap", tap.to_str().unwrap()]);
    command.args(sh("grep -E 'SigIgn|SigCgt' /proc/self/status; cat"));
    let mut serve = Serve::launch(&mut command, 1, "unused".into(), directory);
    let mut client = serve.client();
    for _ in 0..2 {
        let mask = client.line().unwrap();
        assert_eq!(signals(&mask) & bit(Signal::XFSZ), 0, "not the default action: {mask}");
    }
    // A large message is echoed, although the size limit keeps it out of the tap file.
    let large = "x".repeat(200_000);
    client.send(&large);
    assert_eq!(client.line().as_deref(), Some(&*large));
    serve.program.wait_stderr("File too large");
    serve.program.signal(Signal::TERM);
    let finished = serve.program.wait();
    assert!(finished.code.is_some(), "killed by a signal: {finished:?}");
}

#[test]
fn limits_that_are_too_small_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let program = copied(directory.path());
    let program = program.to_str().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    for (limit, hint) in [
        ("--nproc=1", "ulimit -u"),
        ("--nofile=7", "ulimit -n"),
        ("--stack=65536", "ulimit -s"),
        ("--stack=262144", "ulimit -s"),
    ] {
        for args in [["connect", "exec:cat"], ["serve", "--no-status"]] {
            let mut command = Command::new("prlimit");
            // The environment is cleared, because it uses stack space.
            command.args([limit, program]).args(args).env_clear().current_dir("/");
            if is_root {
                // The process limit does not apply to root.
                command.uid(65_534).gid(65_534);
            }
            let finished = Program::run(&mut command, "");
            assert_eq!(finished.code, Some(1), "{limit}: {finished:?}");
            assert!(finished.stderr.contains(hint), "{limit}: {finished:?}");
            assert_eq!(finished.stderr.lines().count(), 1, "{limit}: {finished:?}");
        }
    }
}

#[test]
fn the_smallest_accepted_stack_is_enough() {
    let mut command = Command::new("prlimit");
    command.args(["--stack=524288", env!("CARGO_BIN_EXE_tieline"), "connect", "exec:cat"]);
    let finished = Program::run(&mut command, "{}\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "{}\n"), "{finished:?}");
}

/// Parses the signals of a line such as `SigIgn: 0000000000001000`.
fn signals(line: &str) -> u64 {
    let (_, bits) = line.split_once(':').expect(line);
    u64::from_str_radix(bits.trim(), 16).expect(line)
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}
