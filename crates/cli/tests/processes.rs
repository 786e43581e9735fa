//! Tests of served programs: how they are started, the effects of their end, and that none of them
//! outlives its client.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Finished, Program, Serve, Talk, request, sh, tieline};
use tieline_testkit::executable;

/// Starts a server that must fail, and checks that it leaves no socket.
#[track_caller]
fn refused(directory: &Path, args: &[&str]) -> Finished {
    let listen = format!("unix:{}", directory.join("a.sock").display());
    let finished = Program::run(tieline(["serve", "--listen", &listen]).args(args), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(!directory.join("a.sock").exists(), "a socket was left");
    finished
}

#[test]
fn a_missing_program_is_reported_before_listening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();

    let places = format!("{}:/no/such/place:/no/such/other:/no/such/fourth", path.display());
    let listen = format!("unix:{}", path.join("a.sock").display());
    let mut command = tieline(["serve", "--listen", &listen, "--", "no-such-program"]);
    let finished = Program::run(command.env("PATH", places), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let searched = path.join("no-such-program").display().to_string();
    for words in [&*searched, "/no/such/place/no-such-program", " and 1 more\n", "hint: install it"]
    {
        assert!(finished.stderr.contains(words), "no `{words}`: {finished:?}");
    }
    assert!(!path.join("a.sock").exists(), "a socket was left");

    let finished = refused(path, &["--", "/no/such/program"]);
    assert!(finished.stderr.contains("searched /no/such/program\n"), "{finished:?}");
}

#[test]
fn a_program_that_is_not_executable_is_reported_before_listening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let file = path.join("plain");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let finished = refused(path, &["--", file.to_str().unwrap()]);
    assert!(finished.stderr.contains("is not executable"), "{finished:?}");
    assert!(finished.stderr.contains("hint: make the file executable (chmod +x)"), "{finished:?}");

    let finished = refused(path, &["--", path.to_str().unwrap()]);
    assert!(finished.stderr.contains("program not found"), "{finished:?}");
}

#[test]
fn a_missing_working_directory_is_reported_before_listening() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let command = ["serve", "--listen", &listen, "--cwd", "/no/such/place", "--", "cat"];
    let finished = Program::run(&mut tieline(command), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(2), ""), "{finished:?}");
    let says = "'/no/such/place' for '--cwd <DIR>': the directory does not exist";
    assert!(finished.stderr.contains(says), "{finished:?}");
}

#[test]
fn a_temporarily_missing_program_fails_only_the_clients_of_that_time() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    let install = || {
        // Another process copies the program, because a file that a thread of this process has open for
        // writing cannot be executed.
        let copied = Command::new("cp").arg("/bin/cat").arg(&program).status().unwrap();
        assert!(copied.success());
    };
    install();
    let serve = Serve::start(["--", program.to_str().unwrap()]);
    fs::remove_file(&program).unwrap();
    assert_eq!(serve.client().rest(), b"");
    serve.program.wait_stderr("program not found; searched");
    serve.program.wait_stderr("client refused");
    install();
    let mut client = serve.client();
    client.send("hello");
    assert_eq!(client.line().as_deref(), Some("hello"));
}

#[test]
fn arguments_arrive_unchanged() {
    let tricky = [
        "two words",
        "'single'",
        "\"double\"",
        "$(touch x)",
        "`x`",
        "$HOME",
        ";",
        "&&",
        "|",
        "*",
        "~",
        "\\",
        "%s",
        "",
        "--help",
        "-",
        "--",
        "{}",
        "ünï",
        "a\tb",
    ];
    let shown: String = tricky.iter().map(|arg| format!("[{arg}]\n")).collect();
    let serve = Serve::start([&["--", "printf", "[%s]\n"], &tricky[..]].concat());
    assert_eq!(String::from_utf8(serve.client().rest()).unwrap(), shown);

    // The same arguments are used in an endpoint.
    let argv = [&["printf", "[%s]\n"], &tricky[..]].concat();
    let finished = Program::run(&mut tieline(["connect", &format!("exec:{}", json!(argv))]), "");
    assert_eq!(finished.stdout, shown, "{finished:?}");
    let words = r#"exec:printf "[%s]\n" 'two words' "it's" """#;
    let finished = Program::run(&mut tieline(["connect", words]), "");
    assert_eq!(finished.stdout, "[two words]\n[it's]\n[]\n", "{finished:?}");
}

#[test]
fn environment_and_working_directory_reach_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().canonicalize().unwrap();
    let program = place.join("program");
    executable::write(&program, "#!/bin/sh\npwd\necho \"$A|$B|$C|$PATH\"\n");
    let cwd = place.to_str().unwrap();
    let args = ["--cwd", cwd, "--env", "A=1", "--env", "B=x y=z", "--env", "C=", "--", "./program"];
    let serve = Serve::start(args);
    let path = std::env::var("PATH").unwrap();
    let expected = format!("{cwd}\n1|x y=z||{path}\n");
    assert_eq!(String::from_utf8(serve.client().rest()).unwrap(), expected);
}

/// Returns the environment of the program of a server with these arguments and variables.
fn environment_with(args: &[&str], ours: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let mut command = tieline(["serve", "--listen", &listen]);
    command.args(args).args(["--", "env"]).envs(ours.iter().copied());
    let serve = Serve::launch(&mut command, 1, "unused".into(), directory);
    let said = String::from_utf8(serve.client().rest()).unwrap();
    let mut said: Vec<_> = said.lines().map(str::to_owned).collect();
    let Finished { stderr, .. } = serve.stop();
    assert!(!stderr.contains("hush"), "a value was logged: {stderr}");
    said.sort();
    said
}

#[test]
fn the_environment_options_decide_which_variables_a_program_gets() {
    let ours = [("A", "hush-a"), ("B", "hush-b"), ("C", "hush-c")];
    let with = |args: &[&str]| environment_with(&[&["-vv"], args].concat(), &ours);
    let has = |all: &[String], variable: &str| all.iter().any(|it| it == variable);

    let all = with(&["--unset-env", "A", "--unset-env", "no-such", "--env", "B=hush-x"]);
    assert!(!all.iter().any(|it| it.starts_with("A=")), "{all:?}");
    assert!(has(&all, "B=hush-x") && has(&all, "C=hush-c") && !has(&all, "B=hush-b"), "{all:?}");
    assert!(all.iter().any(|it| it.starts_with("PATH=")), "{all:?}");

    // The program is found in tieline's PATH, even if the program itself gets another PATH or none.
    assert_eq!(with(&["--clear-env"]), [""; 0]);
    assert_eq!(with(&["--clear-env", "--env", "B=hush-x"]), ["B=hush-x"]);
    let elsewhere = ["--pass-env", "A", "--pass-env", "Z", "--env", "PATH=/no/such/place"];
    assert_eq!(with(&elsewhere), ["A=hush-a", "PATH=/no/such/place"]);
    assert_eq!(with(&["--clear-env", "--pass-env", "C"]), ["C=hush-c"]);
    // `--env` is applied after `--unset-env`.
    assert_eq!(with(&["--pass-env", "A", "--unset-env", "A", "--env", "A=hush"]), ["A=hush"]);
}

#[test]
fn a_program_has_the_stop_timeout_to_exit() {
    // The program needs a second after SIGTERM to finish.
    let slow = "trap 'sleep 1; echo done; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    for (time, code, words) in [("60s", 0, &b"done\n"[..]), ("0s", 9, b"")] {
        let args = [&["--stop-timeout", time], &sh(slow)[..]].concat();
        let serve = Serve::start(args);
        let mut client = serve.client();
        assert_eq!(client.line().as_deref(), Some("up"));
        let reader = std::thread::spawn(move || client.rest());
        let Finished { stderr, .. } = serve.stop();
        assert_eq!(reader.join().unwrap(), words, "{stderr}");
        let end = if code == 0 { "exit status: 0" } else { "signal: 9 (SIGKILL)" };
        assert!(stderr.contains(end), "{stderr}");
    }
    let finished = Program::run(&mut tieline(["serve", "--stop-timeout", "soon"]), "");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("'--stop-timeout <TIME>'"), "{finished:?}");
    let finished = Program::run(&mut tieline(["connect", "stdio:", "--stop-timeout", "2days"]), "");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("longer than a day"), "{finished:?}");
}

#[test]
fn a_program_inherits_only_its_three_descriptors() {
    // Descriptor 3 is the directory that `ls` is reading.
    let expected = "0 1 2 3 \n";
    let serve = Serve::start(sh("ls /proc/self/fd | tr '\\n' ' '"));
    let mut others = [serve.client(), serve.client()];
    assert_eq!(String::from_utf8(serve.client().rest()).unwrap(), expected);
    for other in &mut others {
        assert_eq!(String::from_utf8(other.rest()).unwrap(), expected);
    }
}

#[test]
fn an_immediate_exit_is_explained_only_on_stderr() {
    let serve = Serve::start(sh("echo no model found >&2; echo >&2; exit 7"));
    for number in 1..=3 {
        assert_eq!(serve.client().rest(), b"");
        let reason = "exit status: 7; last line on stderr: no model found";
        serve.program.wait_stderr_times(reason, number);
    }
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("failed=3"), "{stderr}");
}

#[test]
fn a_crash_in_mid_call_ends_only_its_own_line() {
    let serve = Serve::start::<&str>([]);
    let (mut crashing, mut other) = (serve.client(), serve.client());
    assert_eq!(other.call(&request(1, "add", json!([1, 1])))["result"], 2);
    crashing.send(r#"{"jsonrpc":"2.0","id":1,"method":"sleep","params":[60000]}"#);
    crashing.send(r#"{"jsonrpc":"2.0","id":2,"method":"crash"}"#);
    assert_eq!(crashing.rest(), b"", "tieline added something to the stream");
    serve
        .program
        .wait_stderr("exit status: 3; last line on stderr: demo-agent: crashing as requested");
    assert_eq!(other.call(&request(2, "add", json!([2, 2])))["result"], 4);
    serve.wait_processes(1);
}

#[test]
fn with_a_dialect_open_requests_are_answered_after_a_crash() {
    let serve = Serve::start(["--dialect", "strict"]);
    let mut client = serve.client();
    assert_eq!(client.call(&request(1, "add", json!([1, 1])))["result"], 2);
    client.send(r#"{"jsonrpc":"2.0","id":"two","method":"sleep","params":[60000]}"#);
    client.send(r#"{"jsonrpc":"2.0","id":3,"method":"crash"}"#);
    let rest = String::from_utf8(client.rest()).unwrap();
    let answers: Vec<Value> = rest.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let ids: Vec<_> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!("two"), &json!(3)]);
    for answer in &answers {
        assert_eq!(answer["error"]["code"], -32000);
        assert_eq!(answer["error"]["data"]["code"], 3);
        assert_eq!(answer["error"]["data"]["stderr"], "demo-agent: crashing as requested\n");
    }
}

#[test]
fn a_client_continues_after_a_crash_with_restart() {
    let serve = Serve::start(["--dialect", "strict", "--restart", "on-failure"]);
    let mut client = serve.client();
    for round in 1..=3 {
        assert_eq!(client.call(&request(round, "add", json!([round, 1])))["result"], round + 1);
        let crashed = client.call(&request(round, "crash", json!(null)));
        assert_eq!((&crashed["id"], &crashed["error"]["code"]), (&json!(round), &json!(-32000)));
    }
    assert_eq!(client.call(&request(9, "add", json!([2, 2])))["result"], 4);
    serve.wait_processes(1);
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("restarting in"), "{stderr}");
    assert!(stderr.contains("restarted=3"), "{stderr}");
}

#[test]
fn a_last_line_without_newline_is_delivered_if_the_program_succeeded() {
    let serve = Serve::start(sh("echo whole; printf half; exit 0"));
    assert_eq!(serve.client().rest(), b"whole\nhalf\n");
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("failed=0 lost=0"), "{stderr}");

    let serve = Serve::start(sh("echo whole; printf half; echo out of paper >&2; exit 1"));
    assert_eq!(serve.client().rest(), b"whole\n");
    serve.program.wait_stderr("4 bytes of an unfinished message arrived");
    serve.program.wait_stderr("exit status: 1");
    serve.program.wait_stderr("last line on stderr: out of paper");
    serve.stop();

    let serve = Serve::start(sh("echo whole; printf half; kill -9 $$"));
    assert_eq!(serve.client().rest(), b"whole\n");
    serve.program.wait_stderr("signal: 9 (SIGKILL)");
    serve.stop();
}

#[test]
fn all_output_of_a_program_arrives_before_its_end_is_reported() {
    let serve = Serve::start(sh("seq 1 200000; exit 5"));
    let said = String::from_utf8(serve.client().rest()).unwrap();
    assert_eq!(said.lines().count(), 200_000);
    assert!(said.ends_with("\n200000\n"));
}

#[test]
fn background_processes_of_a_program_are_ended_with_it() {
    // A background process keeps stdout open, so the pipe does not end.
    let serve = Serve::start(sh("sleep 1000 & echo started; exit 0"));
    assert_eq!(serve.client().rest(), b"started\n");
    serve.wait_nothing_left();
    serve.stop();
}

/// A script that prints a word, and then ignores its input and its client's disconnection.
const DEAF: &str = "echo up; sleep 1000";

#[test]
fn the_program_of_a_client_that_disconnects_is_ended() {
    let serve = Serve::start(sh(DEAF));
    let mut staying = serve.client();
    assert_eq!(staying.line().as_deref(), Some("up"));

    // One client is killed. One closes its connection after sending input that is not read, and one
    // without having read its output.
    let mut killed = Program::start(&mut serve.connect());
    assert_eq!(killed.line().as_deref(), Some("up"));
    let mut closing = serve.client();
    assert_eq!(closing.line().as_deref(), Some("up"));
    closing.send("unread");
    let unread = serve.client();
    serve.wait_processes(8);
    killed.signal(Signal::KILL);
    drop((closing, unread));

    serve.wait_processes(2);
    serve.program.wait_stderr_times("the client's side has ended", 3);
    drop(staying);
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn the_program_of_a_client_that_disconnects_during_a_flood_is_ended() {
    let serve = Serve::start(["--", "yes", &"y".repeat(1000)]);
    let mut client = serve.client();
    assert_eq!(client.line(), Some("y".repeat(1000)));
    drop(client);
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn a_client_that_ends_its_input_still_receives_everything() {
    let serve = Serve::start(sh("cat > /dev/null; seq 1 50000; echo last"));
    let mut client = serve.client();
    client.end_input();
    assert!(client.rest().ends_with(b"50000\nlast\n"));
    serve.wait_nothing_left();
}

#[test]
fn a_client_that_stops_reading_is_ended_with_its_program() {
    let serve = Serve::start(["--stall-timeout", "200ms", "--", "yes", &"y".repeat(1000)]);
    let mut clients = [serve.client(), serve.client()];
    // A half-closed client is treated the same way.
    clients[1].end_input();
    serve.program.wait_stderr_times("stalled: the other side has stopped reading", 2);
    serve.wait_nothing_left();
    // The clients can still read the rest of the output.
    for client in &mut clients {
        assert!(client.rest().starts_with(b"yyyy"));
    }
}

/// With `TIELINE_SOAK=1`, the program writes 10 GiB.
#[test]
fn a_flood_on_stderr_is_limited() {
    let part = 64 << 20;
    let parts: u64 = if std::env::var_os("TIELINE_SOAK").is_some() { 160 } else { 1 };
    // The program reports each part after writing it.
    let flood = format!(
        "while read -r part; do yes 'a line of no importance' | head -c {part} >&2; echo $part; done"
    );
    let serve = Serve::start(sh(&flood));
    let mut client = serve.client();
    for at in 0..parts {
        client.send(&at.to_string());
        assert_eq!(client.line(), Some(at.to_string()));
    }
    serve.program.wait_stderr("too many lines on stderr");
    let lines = serve.program.stderr().lines().count();
    assert!(lines < 20_000 * parts as usize, "{lines} lines were logged");
    assert!(support::usage(serve.program.pid()).peak_kib < 100 * 1024);
}

/// Returns how many lines of stderr were logged, and how many were reported as suppressed.
fn stderr_lines(log: &str) -> (usize, usize) {
    let logged = log.matches("a line of no importance").count();
    let counts = log.split("suppressed=").skip(1).filter_map(|rest| {
        rest.split(|end: char| !end.is_ascii_digit()).next()?.parse::<usize>().ok()
    });
    (logged, counts.sum())
}

const BURST: &str = "yes 'a line of no importance' | head -n 300 >&2; echo done";

/// The program then writes nothing more to stderr, and keeps it open.
#[test]
fn suppressed_stderr_lines_are_reported_although_no_line_follows() {
    let serve = Serve::start(sh(&format!("{BURST}; read -r line")));
    let mut client = serve.client();
    assert_eq!(client.line().as_deref(), Some("done"));
    support::until("all lines are accounted for", || {
        let (logged, suppressed) = stderr_lines(&serve.program.stderr());
        logged + suppressed == 300 && suppressed > 0
    });
}

/// A background process keeps stderr open, and is killed when the line ends.
#[test]
fn suppressed_stderr_lines_are_reported_when_the_program_ends() {
    let script = format!("{BURST}; sleep 1000 >/dev/null & exit 0");
    let endpoint = format!("exec:sh -c \"{script}\"");
    let finished = Program::run(&mut tieline(["connect", &endpoint]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "done\n"), "{finished:?}");
    let (logged, suppressed) = stderr_lines(&finished.stderr);
    assert!(logged + suppressed == 300 && suppressed > 0, "{finished:?}");
}
