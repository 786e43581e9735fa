//! Tests of server names that are used in place of endpoints, and of default names.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use support::{Finished, Program, Serve, Talk, sh, tieline};
use tempfile::TempDir;

/// A runtime directory for one test.
struct Runtime(TempDir);

impl Runtime {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tieline(args);
        command.env("XDG_RUNTIME_DIR", self.0.path()).current_dir(self.0.path());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Finished {
        Program::run(&mut self.command(args), "")
    }

    /// Starts a server with one endpoint.
    #[track_caller]
    fn serve(&self, args: &[&str]) -> Serve {
        let mut command = self.command(&["serve"]);
        let directory = tempfile::tempdir().unwrap();
        Serve::launch(command.args(args), 1, support::new_mark(), directory)
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("tieline")
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.sock"))
    }

    /// Runs a command that must fail because no server has the name, and returns the error.
    #[track_caller]
    fn not_running(&self, args: &[&str]) -> String {
        let finished = self.run(args);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{args:?}: {finished:?}");
        let says = "no server with the name `agent` is running: ";
        assert!(finished.stderr.contains(says), "{args:?}: {finished:?}");
        let socket = format!("unix:{}: ", self.socket("agent").display());
        assert!(finished.stderr.contains(&socket), "{args:?}: {finished:?}");
        finished.stderr
    }
}

#[test]
fn commands_find_a_server_by_its_name() {
    let runtime = Runtime::new();
    let serve = runtime.serve(&["--name", "agent"]);
    assert_eq!(serve.endpoint(), format!("unix:{}", runtime.socket("agent").display()));
    assert_eq!(runtime.run(&["call", "agent", "add", "[2,3]"]).stdout, "5\n");
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}"#;
    for command in
        [&["connect", "agent"][..], &["connect", "lines+agent"], &["bridge", "stdio:", "agent"]]
    {
        let finished = Program::run(&mut runtime.command(command), request);
        assert_eq!(finished.code, Some(0), "{command:?}: {finished:?}");
        assert!(finished.stdout.contains(r#""result":5"#), "{command:?}: {finished:?}");
    }
    let finished = runtime.run(&["status", "agent", "--json"]);
    let said: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(said["serves"][0]["name"], "agent");
    assert_eq!(said["serves"][0]["pid"], serve.program.pid());
    let table = runtime.run(&["status"]).stdout;
    assert!(table.contains("\n  name: agent\n  listening on unix:"), "{table}");

    // A proxy has a name, too.
    let mut chaos = runtime.command(&["chaos", "bad", "agent"]);
    let mut chaos = Program::start(&mut chaos);
    assert_eq!(chaos.line(), Some(format!("unix:{}", runtime.socket("bad").display())));
    assert_eq!(runtime.run(&["call", "bad", "add", "[3,4]"]).stdout, "7\n");
    drop(chaos);
    serve.stop();
}

#[test]
fn sessions_are_resumed_by_name() {
    let runtime = Runtime::new();
    let serve = runtime.serve(&["--resume", "--name", "agent", "--", "cat"]);
    for command in [&["connect", "--resume", "agent"][..], &["connect", "resume+agent"]] {
        let finished = Program::run(&mut runtime.command(command), "hello\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "hello\n"), "{finished:?}");
    }
    serve.program.wait_stderr("tieline connect resume+agent\n");
    serve.stop();
}

#[test]
fn a_name_is_added_to_other_endpoints() {
    let runtime = Runtime::new();
    let other = format!("unix:{}", runtime.0.path().join("other.sock").display());
    let mut command = runtime.command(&["serve", "--name", "agent", "--listen", &other]);
    let directory = tempfile::tempdir().unwrap();
    let serve = Serve::launch(&mut command, 2, support::new_mark(), directory);
    let named = format!("unix:{}", runtime.socket("agent").display());
    assert_eq!(serve.endpoints, [named, other.clone()]);
    for endpoint in ["agent", &other] {
        assert_eq!(runtime.run(&["call", endpoint, "add", "[2,3]"]).stdout, "5\n", "{endpoint}");
    }
    serve.stop();
}

#[test]
fn the_error_for_a_missing_name_lists_the_running_servers_and_how_to_start_one() {
    let runtime = Runtime::new();
    let start = "start one with `tieline serve --name agent -- COMMAND`";
    let commands: &[&[&str]] = &[
        &["connect", "agent"],
        &["connect", "--resume", "agent"],
        &["call", "agent", "add"],
        &["status", "agent"],
        &["bridge", "stdio:", "agent"],
        &["chaos", "bad", "agent"],
    ];
    for command in commands {
        let stderr = runtime.not_running(command);
        assert!(stderr.contains(start) && !stderr.contains("running servers"), "{stderr}");
    }
    let serves = ["d", "b", "c", "a"].map(|name| runtime.serve(&["--name", name, "--", "cat"]));
    for command in commands {
        let stderr = runtime.not_running(command);
        let says = format!("{start}; running servers: `a`, `b`, `c` and 1 more\n");
        assert!(stderr.contains(&says), "{stderr}");
    }
    for serve in serves {
        serve.stop();
    }
    // `tieline serve` would refuse the name.
    let stderr = runtime.run(&["connect", "bus"]).stderr;
    assert!(
        stderr.contains("no server with the name `bus`") && !stderr.contains("--name"),
        "{stderr}"
    );
}

#[test]
fn the_error_for_a_word_that_may_not_be_a_name_suggests_an_endpoint() {
    let runtime = Runtime::new();
    fs::write(runtime.0.path().join("file"), "").unwrap();
    for (word, says) in [
        ("stdio", "if you mean an endpoint, write `stdio:`"),
        ("8080", "if you mean a port, write tcp:127.0.0.1:8080 or ws://127.0.0.1:8080/ws"),
        ("file", "if you mean the file in this directory, write unix:file"),
    ] {
        let finished = runtime.run(&["connect", word]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(says), "{word}: {finished:?}");
    }
}

#[test]
fn the_error_for_a_name_in_use_shows_its_process() {
    let runtime = Runtime::new();
    let named = |serve: &Serve, program: &str| {
        format!("the name `agent` is in use by {program} (pid {})", serve.program.pid())
    };
    #[track_caller]
    fn assert_refused(runtime: &Runtime, says: &str) {
        let endpoint = format!("unix:{}", runtime.socket("agent").display());
        for command in [
            &["serve", "--name", "agent"][..],
            &["serve", "--listen", &endpoint],
            &["chaos", "agent", "exec:cat"],
        ] {
            let finished = runtime.run(command);
            assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
            assert!(finished.stderr.contains(says), "{command:?}: {finished:?}");
            assert!(finished.stderr.contains("or use another name"), "{command:?}: {finished:?}");
        }
    }
    let serve = runtime.serve(&["--name", "agent", "--", "cat"]);
    assert_refused(&runtime, &named(&serve, "a server of cat"));
    serve.stop();
    // A server without a status socket is found by its lock.
    let serve = runtime.serve(&["--no-status", "--name", "agent", "--", "cat"]);
    assert_refused(&runtime, &named(&serve, "tieline"));
    let stderr = runtime.run(&["status", "agent"]).stderr;
    assert!(
        stderr.contains(&format!("tieline (pid {}) uses the name", serve.program.pid())),
        "{stderr}"
    );
    assert_eq!(
        Program::run(&mut runtime.command(&["connect", "agent"]), "hello\n").stdout,
        "hello\n"
    );
    serve.stop();
    let _foreign = UnixListener::bind(runtime.socket("agent")).unwrap();
    assert_refused(&runtime, "the name `agent` is in use by another process");
}

#[test]
fn the_name_of_a_killed_server_is_free_again() {
    let runtime = Runtime::new();
    let killed = runtime.serve(&["--name", "agent", "--", "cat"]);
    let mut program = killed.program;
    program.signal(Signal::KILL);
    program.wait();
    assert!(runtime.socket("agent").exists());
    let stderr = runtime.not_running(&["connect", "agent"]);
    assert!(stderr.contains("no process is listening there"), "{stderr}");
    let serve = runtime.serve(&["--name", "agent", "--", "cat"]);
    assert_eq!(
        Program::run(&mut runtime.command(&["connect", "agent"]), "hello\n").stdout,
        "hello\n"
    );
    serve.stop();
}

#[test]
fn names_in_a_directory_that_others_can_change_are_not_used() {
    let runtime = Runtime::new();
    let serve = runtime.serve(&["--name", "agent"]);
    fs::set_permissions(runtime.directory(), PermissionsExt::from_mode(0o777)).unwrap();
    for command in [
        &["connect", "agent"][..],
        &["call", "agent", "add", "[2,3]"],
        &["status", "agent"],
        &["chaos", "unix:bad.sock", "agent"],
    ] {
        let finished = runtime.run(command);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
        assert!(
            finished.stderr.contains("accessible to other users; run chmod 700"),
            "{finished:?}"
        );
    }
    serve.stop();
}

#[test]
fn servers_are_named_after_the_script_and_not_its_interpreter() {
    let runtime = Runtime::new();
    fs::write(runtime.0.path().join("echo.sh"), "exec cat").unwrap();
    let command = ["--", "env", "X=1", "sh", "./echo.sh"];
    let (first, second) = (runtime.serve(&command), runtime.serve(&command));
    assert_eq!([&first, &second].map(Serve::path), ["echo", "echo-2"].map(|it| runtime.socket(it)));
    first.program.wait_stderr("serving echo, one process per client");
    first.program.wait_stderr("tieline connect echo\n");
    second.program.wait_stderr("serving echo as echo-2, one process per client");
    second.program.wait_stderr("the name echo is in use by another server; this one is echo-2");
    second.program.wait_stderr("tieline connect echo-2\n");
    for name in ["echo", "echo-2"] {
        let finished = Program::run(&mut runtime.command(&["connect", name]), "hello\n");
        assert_eq!(finished.stdout, "hello\n", "{finished:?}");
    }
    first.stop();
    second.stop();
    let serve = runtime.serve(&sh("cat"));
    assert_eq!(serve.path(), runtime.socket("sh"));
    serve.stop();
}
