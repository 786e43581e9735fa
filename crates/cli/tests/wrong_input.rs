//! Tests that the error for wrong input says what to write instead.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;

use support::{Finished, Program, Talk, tieline};

/// Runs a command in an empty directory, which is also its home and runtime directory.
fn run(line: &[&str]) -> Finished {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let mut command = tieline(line);
    for variable in ["HOME", "XDG_RUNTIME_DIR"] {
        command.env(variable, directory.path());
    }
    let finished = Program::run(command.current_dir(directory.path()), "");
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "file" || name == "tieline"), "{line:?}: {left:?}");
    finished
}

#[test]
fn usage_errors_say_what_to_write_instead() {
    for (line, says) in [
        (
            &["serve", "--listen", "localhost:8080"][..],
            "write http://localhost:8080, or tcp:localhost:8080",
        ),
        (&["serve", "--listen", ":8080"], "write http://127.0.0.1:8080, or tcp:127.0.0.1:8080"),
        (&["serve", "--listen", "8080"], "write http://127.0.0.1:8080, or tcp:127.0.0.1:8080"),
        (&["serve", "--listen", "[::1]:8080"], "write http://[::1]:8080, or tcp:[::1]:8080"),
        (&["serve", "--listen", "tcp:8080"], "write tcp:127.0.0.1:8080"),
        (&["serve", "--listen", "agent"], "use --name agent"),
        (&["serve", "--listen", "ws://127.0.0.1:8080"], "listen on http:// or https://"),
        (
            &["serve", "--listen", "http://127.0.0.1:80999"],
            "80999 is not a port; the largest is 65535",
        ),
        (
            &["serve", "--listen", "tcp:127.0.0.1:80999"],
            "80999 is not a port; the largest is 65535",
        ),
        (&["serve", "--listen", "http://"], "write it like"),
        (&["connect", "ws://127.0.0.1:80999/ws"], "80999 is not a port; the largest is 65535"),
        (&["connect", "127.0.0.1:8080"], "write ws://127.0.0.1:8080/ws, or tcp:127.0.0.1:8080"),
        (&["connect", "localhost:8080/ws"], "write ws://localhost:8080/ws, or tcp:localhost:8080"),
        (&["status", "localhost:8080"], "write ws://localhost:8080/ws"),
        (&["bridge", "stdio:", ":8080"], "write ws://127.0.0.1:8080/ws"),
        (&["chaos", ":8080", "unix:/a"], "write http://127.0.0.1:8080"),
        (&["chaos", "unix:/a", "localhost:8080"], "write ws://localhost:8080/ws"),
        (
            &["chaos", "unix:/a", "unix:/b", "--corrupt", "5"],
            "between 0 and 1, for example 0.05 for 5 %",
        ),
        (&["chaos", "share-a", "unix:/b"], "are reserved"),
        (&["serve", "--name", "a/b"], "for a path use --listen unix:PATH"),
        (&["serve", "--name", ""], "a name consists of"),
        (
            &["serve", "--", "python3 agent.py"],
            "write them without quotes around them: -- python3 agent.py",
        ),
        (
            &["serve", "--cwd", "no/such", "--", "cat"],
            "the directory does not exist; create it first",
        ),
        (&["serve", "--cwd", "file", "--", "cat"], "not a directory"),
        (
            &["claude", "-p", "a", "--cwd", "no/such"],
            "the directory does not exist; create it first",
        ),
        (&["call", "exec:cat", ""], "the name of the method is empty; write it after the endpoint"),
        (
            &["call", "exec:cat", "add", "2", "3"],
            "write the parameters as one JSON value, for example '[2,3]'",
        ),
        (&["call", "exec:cat", "add", "2"], "Write, for example, '[1,2]'"),
        (&["serve", "--resume", "5m", "--", "cat"], "--resume=5m"),
        (&["serve", "--port", "8080"], "--listen http://127.0.0.1:8080"),
        (&["serve", "--config", "x"], "there is no configuration file"),
        (&["serve", "cat"], "write `--` before the program"),
        (&["help", "nope"], "unrecognized subcommand 'nope'"),
    ] {
        let finished = run(line);
        assert_eq!((finished.code, &*finished.stdout), (Some(2), ""), "{line:?}: {finished:?}");
        assert!(finished.stderr.contains(says), "{line:?}: {finished:?}");
    }
}

#[test]
fn secrets_in_a_command_of_one_word_are_not_printed() {
    for word in ["agent --token hunter2", "agent --token=hunter2", "agent token=hunter2 x"] {
        let finished = run(&["serve", "--", word]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains("write them without quotes"), "{finished:?}");
        assert!(!finished.stderr.contains("hunter2"), "{finished:?}");
    }
}

#[test]
fn other_failures_say_what_is_missing() {
    for (line, says) in [
        (
            &["serve", "--tap", "no/such/tap", "--", "cat"][..],
            "cannot record to no/such/tap: the directory no/such does not exist; create it first",
        ),
        (
            &["serve", "--tap", ".", "--", "cat"],
            "cannot record to .: it is a directory; name a file in it",
        ),
        (&["connect", "unix:@nope"], "check the name: after `@` it is that of an abstract socket"),
        (
            &["serve", "--", "no-such-program"],
            "cannot launch exec:no-such-program: program not found",
        ),
        (
            &["claude", "-p", "a", "--program", "no/such"],
            "cannot launch exec:no/such: program not found",
        ),
    ] {
        let finished = run(line);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{line:?}: {finished:?}");
        assert!(finished.stderr.contains(says), "{line:?}: {finished:?}");
    }
    let mut claude = tieline(["claude", "-p", "a"]);
    let finished = Program::run(claude.env("PATH", "/nowhere").env("HOME", "/nowhere"), "");
    // The Claude CLI may be installed for all users.
    if finished.code == Some(1) && finished.stderr.contains("program not found") {
        assert!(
            finished.stderr.contains("cannot launch exec:claude: program not found"),
            "{finished:?}"
        );
        assert!(finished.stderr.contains("npm install -g"), "{finished:?}");
    }
}

#[test]
fn a_server_on_all_addresses_prints_an_address_that_clients_can_connect_to() {
    let options = ["--allow-unauthenticated-web", "--expose-without-token-and-tls"];
    for (listen, local) in [("http://0.0.0.0:0", "127.0.0.1"), ("http://[::]:0", "[::1]")] {
        let mut command = tieline(["serve", "--listen", listen]);
        let mut serve = Program::start(command.args(options));
        let endpoint = serve.line().unwrap();
        let port = endpoint.rsplit(':').next().unwrap();
        serve.wait_stderr("need a name of this machine, allowed with --allow-host NAME");
        let said = serve.stderr();
        let url = format!("ws://{local}:{port}/ws");
        // Brackets are quoted for the shell.
        assert!(said.replace('\'', "").contains(&format!(" connect {url}\n")), "{said}");
        assert!(said.contains(&format!("or in a browser: http://{local}:{port}/\n")), "{said}");
        assert_eq!(Program::run(&mut tieline(["call", &url, "add", "[2,3]"]), "").stdout, "5\n");
    }
}

/// `-h` prints one line for each common option, and `--help` describes all options in detail.
#[test]
fn short_help_is_shorter_than_the_long_one() {
    let lines = |args: &[&str]| Program::run(&mut tieline(args), "").stdout.lines().count();
    for (command, most) in [
        ("serve", 60),
        ("connect", 50),
        ("call", 50),
        ("bridge", 45),
        ("chaos", 50),
        ("claude", 40),
        ("status", 30),
    ] {
        let (short, long) = (lines(&[command, "-h"]), lines(&[command, "--help"]));
        assert!(short <= most && short < long, "{command}: {short} and {long} lines");
    }
    let chaos = Program::run(&mut tieline(["chaos", "--help"]), "").stdout;
    assert!(!chaos.contains("--allow-uid"), "an option that does not exist is mentioned");
}
