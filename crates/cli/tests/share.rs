//! Tests of `tieline share`: clients with the same command line share a program.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{
    Finished, Program, Talk, is_running, mcp_sdk, request, server_everything, tieline, until,
};

/// A user's runtime directory, and a program that notes each start. Dropping it ends all servers.
struct Place {
    directory: tempfile::TempDir,
    /// A script that runs the built-in agent.
    script: String,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        let starts = directory.path().join("starts");
        let tieline = env!("CARGO_BIN_EXE_tieline");
        let script = format!("echo start $$ >> {}; exec {tieline} demo-agent", starts.display());
        Self { directory, script }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tieline(args);
        let (run, here) = (self.directory.path().join("run"), self.directory.path());
        command.env("XDG_RUNTIME_DIR", run).current_dir(here);
        command
    }

    /// Returns the command of a client of the script.
    fn share(&self, options: &[&str]) -> Command {
        let line = ["--dialect", "strict", "--", "sh", "-c", &self.script];
        self.command(&[&["share"], options, &line].concat())
    }

    /// Starts a client, which has got a first answer.
    #[track_caller]
    fn client(&self, options: &[&str]) -> Program {
        opened(&mut self.share(options))
    }

    fn starts(&self) -> usize {
        let starts = fs::read_to_string(self.directory.path().join("starts"));
        starts.unwrap_or_default().lines().count()
    }

    /// Returns the status of the servers.
    #[track_caller]
    fn servers(&self) -> Vec<Value> {
        let finished = Program::run(&mut self.command(&["status", "--json"]), "");
        let status: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        status["serves"].as_array().unwrap().clone()
    }

    /// Returns the process ID of the only server.
    #[track_caller]
    fn server(&self) -> Pid {
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "{servers:?}");
        Pid::from_raw(servers[0]["pid"].as_i64().unwrap().try_into().unwrap()).unwrap()
    }

    /// Returns the files of the runtime directory with this ending.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(self.directory.path().join("run/tieline")).unwrap().flatten();
        let files = files.map(|it| it.path());
        files.filter(|it| it.to_str().unwrap().ends_with(ending)).collect()
    }

    #[track_caller]
    fn stop(&self) {
        let finished = Program::run(&mut self.command(&["share", "--stop"]), "");
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        Program::run(&mut self.command(&["share", "--stop"]), "");
    }
}

/// Starts a client, which has got a first answer.
#[track_caller]
fn opened(command: &mut Command) -> Program {
    let mut client = Program::start(command);
    // Like MCP's `initialize`, this may be sent again if the server is just ending.
    client.send(&request(1, "ping", json!([])).to_string());
    let answer = client.line().unwrap_or_else(|| panic!("{}", client.stderr()));
    assert!(answer.contains("\"id\":1"), "{answer}");
    works(&mut client);
    client
}

#[track_caller]
fn works(client: &mut Program) {
    client.send(&request(7, "add", json!([2, 3])).to_string());
    let answer: Value =
        serde_json::from_str(&client.line().unwrap_or_else(|| panic!("{}", client.stderr())))
            .unwrap();
    assert_eq!((&answer["id"], &answer["result"]), (&json!(7), &json!(5)), "{answer}");
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

#[test]
fn fifty_clients_at_once_start_one_program() {
    let place = Place::new();
    let clients: Vec<_> = (0..50).map(|_| Program::start(&mut place.share(&[]))).collect();
    for mut client in clients {
        works(&mut client);
        let finished = client.finish();
        assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
    }
    assert_eq!((place.starts(), place.servers().len()), (1, 1));
}

#[test]
fn killed_client_costs_neither_the_program_nor_its_other_clients() {
    let place = Place::new();
    let mut first = place.client(&[]);
    let mut second = place.client(&[]);
    first.signal(Signal::KILL);
    // The server holds neither end of the client's pipes, or waiting for their end would fail.
    assert_eq!(first.wait().code, None);
    works(&mut second);
    works(&mut place.client(&[]));
    assert_eq!(place.starts(), 1);
}

#[test]
fn server_has_a_session_of_its_own_and_a_log_for_its_user_only() {
    let place = Place::new();
    let client = place.client(&[]);
    let server = place.server();
    assert_eq!(rustix::process::getsid(Some(server)).unwrap(), server);
    let stat = fs::read_to_string(format!("/proc/{}/stat", number(server))).unwrap();
    let parent: u32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(parent != client.pid() && parent != std::process::id(), "{parent}");
    let logs = place.files(".log");
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(logs[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&logs[0]).unwrap().contains("started a shared program"));
    let name = place.servers()[0]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("share-") && logs[0].ends_with(format!("{name}.log")), "{name}");
}

#[test]
fn killed_server_ends_its_clients_and_the_next_client_starts_another() {
    let place = Place::new();
    let mut client = place.client(&[]);
    let server = place.server();
    kill_process(server, Signal::KILL).unwrap();
    let finished = client.wait();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("sh: the line has ended"), "{finished:?}");
    works(&mut place.client(&[]));
    assert!(place.server() != server && place.starts() == 2);
}

/// Returns the server of this script while it starts, or `None` if there is none.
fn starting(script: &str) -> Option<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
    let pid = numbers.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.contains(&&b"--serve-as"[..]) && words.contains(&script.as_bytes())
    });
    pid.and_then(Pid::from_raw)
}

#[test]
fn server_that_is_killed_while_it_starts_costs_its_clients_nothing() {
    for _ in 0..8 {
        let place = Place::new();
        let mut client = Program::start(&mut place.share(&[]));
        let mut server = None;
        until("the server starts", || {
            server = starting(&place.script);
            server.is_some()
        });
        kill_process(server.unwrap(), Signal::KILL).unwrap();
        client.send(&request(1, "ping", json!([])).to_string());
        let answer = client.line().unwrap_or_else(|| panic!("{}", client.stderr()));
        assert!(answer.contains("\"id\":1"), "{answer}");
        works(&mut client);
    }
}

#[test]
fn requests_that_cannot_be_passed_on_get_an_error_response() {
    let place = Place::new();
    let mut client = place.client(&[]);
    let long = "x".repeat(17 * 1024 * 1024);
    client.send(&request(2, "echo", json!([long])).to_string());
    let answer: Value = serde_json::from_str(&client.line().unwrap()).unwrap();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(2), &json!(-32600)));
    works(&mut client);
    client.send(&request(3, "sleep", json!({ "ms": 3_600_000 })).to_string());
    works(&mut client);
    kill_process(place.server(), Signal::KILL).unwrap();
    let answer: Value = serde_json::from_str(&client.line().unwrap()).unwrap();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(3), &json!(-32000)), "{answer}");
    assert_eq!(client.wait().code, Some(1));
}

#[test]
fn client_of_a_server_that_dies_before_it_answers_starts_another() {
    let place = Place::new();
    let mut first = place.client(&[]);
    let server = place.server();
    kill_process(server, Signal::STOP).unwrap();
    let socket = place.files(".sock").remove(0);
    let connections = || {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        sockets.lines().filter(|line| line.ends_with(socket.to_str().unwrap())).count()
    };
    let before = connections();
    let mut second = Program::start(&mut place.share(&[]));
    second.send(&request(1, "ping", json!([])).to_string());
    until("the client has connected", || connections() > before);
    kill_process(server, Signal::KILL).unwrap();
    let answer: Value = serde_json::from_str(&second.line().unwrap()).unwrap();
    assert_eq!(answer["id"], 1, "{answer}");
    works(&mut second);
    assert_eq!((first.wait().code, place.starts()), (Some(1), 2));
}

#[test]
fn only_clients_with_the_same_directory_and_environment_share() {
    let place = Place::new();
    let _first = place.client(&[]);
    let other = |change: &dyn Fn(&mut Command)| {
        let mut command = place.share(&["--ignore-env", "IGNORED"]);
        change(&mut command);
        let before = place.starts();
        works(&mut opened(&mut command));
        place.starts() - before
    };
    assert_eq!(other(&|_| ()), 0);
    for ignored in ["SHLVL", "SSH_CONNECTION", "TRACEPARENT", "PWD", "TIELINE_TOKEN", "IGNORED"] {
        assert_eq!(other(&|command| _ = command.env(ignored, "another")), 0, "{ignored}");
    }
    assert_eq!(other(&|command| _ = command.env("A", "1")), 1);
    assert_eq!(other(&|command| _ = command.env("A", "2")), 1);
    assert_eq!(other(&|command| _ = command.env("A", "1")), 0);
    let directory = place.directory.path().join("other");
    assert_eq!(other(&|command| _ = command.current_dir(&directory)), 1);
    assert_eq!(place.servers().len(), 4);
}

#[test]
fn idle_server_ends_and_leaves_only_an_empty_lock_file_and_the_key() {
    let place = Place::new();
    let client = place.client(&["--idle-timeout", "10ms"]);
    let server = number(place.server());
    assert_eq!(client.finish().code, Some(0));
    until("the server has ended", || !is_running(server));
    let lock = place.files(".lock");
    assert!(lock.len() == 1 && lock[0].metadata().unwrap().len() == 0, "{lock:?}");
    assert_eq!((place.files("").len(), place.files("share.key").len()), (2, 1));
    works(&mut place.client(&[]));
    assert_eq!(place.starts(), 2);
}

#[test]
fn stop_ends_the_servers_of_a_command_in_any_directory_or_all_servers() {
    let place = Place::new();
    let mut stopped = place.client(&[]);
    let mut other = opened(&mut place.command(&[
        "share",
        "--dialect",
        "strict",
        "--",
        env!("CARGO_BIN_EXE_tieline"),
        "demo-agent",
    ]));
    let mut stop = place.share(&["--stop"]);
    let directory = place.directory.path().join("other");
    let finished = Program::run(stop.env("A", "1").current_dir(directory), "");
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
    assert_eq!(stopped.wait().code, Some(1));
    works(&mut other);
    let server = number(place.server());
    place.stop();
    assert!(!is_running(server));
    assert_eq!(other.wait().code, Some(1));
    let finished = Program::run(&mut place.command(&["share", "--stop"]), "");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("no shared program is running"), "{finished:?}");
}

#[test]
fn stop_leaves_ordinary_servers_alone() {
    let place = Place::new();
    let mut serve = Program::start(&mut place.command(&["serve", "--name", "x", "--", "cat"]));
    assert!(serve.line().is_some());
    place.stop();
    assert_eq!(place.servers().len(), 1);
}

#[test]
fn every_client_of_a_program_that_fails_gets_the_reason() {
    let place = Place::new();
    let failing = ["share", "--", "sh", "-c", "echo bad configuration >&2; exit 3"];
    let check = |Finished { code, stderr, .. }| {
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("bad configuration"), "{stderr}");
    };
    let initialize = request(1, "initialize", json!({})).to_string() + "\n";
    for _ in 0..2 {
        check(Program::run(&mut place.command(&failing), &initialize));
    }
    let silent: Vec<_> = (0..2).map(|_| Program::start(&mut place.command(&failing))).collect();
    silent.into_iter().for_each(|mut client| check(client.wait()));
    // Most of them find that the program is not started again, because it keeps failing.
    let many: Vec<_> = (0..50).map(|_| Program::start(&mut place.command(&failing))).collect();
    for mut client in many {
        client.send(initialize.trim_end());
        check(client.wait());
    }
    place.stop();
    let missing = ["share", "--", "no-such-program"];
    let Finished { code, stderr, .. } = Program::run(&mut place.command(&missing), "");
    assert!(code == Some(1) && stderr.contains("program not found"), "{stderr}");
    assert!(stderr.contains("hint: install it"), "{stderr}");
    assert!(place.files(".log").is_empty());
}

#[test]
fn lock_that_is_no_regular_file_is_refused_without_waiting() {
    let place = Place::new();
    works(&mut place.client(&[]));
    place.stop();
    let lock = place.files(".lock").remove(0);
    fs::remove_file(&lock).unwrap();
    let mut mkfifo = Command::new("mkfifo");
    assert!(mkfifo.args(["-m", "600"]).arg(&lock).status().unwrap().success());
    let Finished { code, stderr, .. } = Program::run(&mut place.share(&[]), "");
    assert!(code == Some(1) && stderr.contains("cannot lock"), "{stderr}");
    assert!(stderr.contains("Remove it"), "{stderr}");
}

#[test]
fn dialects_that_cannot_be_shared_are_refused_with_the_reason() {
    let place = Place::new();
    let line = ["share", "--dialect", "lsp", "--", "cat"];
    let Finished { code, stderr, .. } = Program::run(&mut place.command(&line), "");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("clients cannot share a program of the dialect lsp"), "{stderr}");
}

#[test]
fn typescript_sdk_clients_share_a_program_after_a_short_lived_first_process() {
    let place = Place::new();
    let script = format!(
        "const {{ Client }} = require('{sdk}/client/index.js');
         const {{ StdioClientTransport }} = require('{sdk}/client/stdio.js');
         const args = JSON.parse(process.argv[1]);
         const open = async () => {{
           const client = new Client({{ name: 'test', version: '1' }});
           await client.connect(new StdioClientTransport({{ command: args[0], args: args.slice(1), env: process.env }}));
           return client;
         }};
         (async () => {{
           await (await open()).close();
           const clients = await Promise.all([open(), open(), open()]);
           for (const [index, client] of clients.entries()) {{
             const result = await client.callTool({{ name: 'echo', arguments: {{ message: `hello ${{index}}` }} }});
             console.log(result.content[0].text);
             await client.close();
           }}
         }})();",
        sdk = mcp_sdk().display()
    );
    let tieline = env!("CARGO_BIN_EXE_tieline").to_owned();
    let line = [tieline, "share".into(), "--".into()].into_iter().chain(server_everything());
    let mut node = Command::new("node");
    node.args(["-e", &script, &json!(line.collect::<Vec<_>>()).to_string()]);
    node.env("XDG_RUNTIME_DIR", place.directory.path().join("run")).env_remove("RUST_LOG");
    let finished = Program::run(&mut node, "");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stdout, "Echo: hello 0\nEcho: hello 1\nEcho: hello 2\n", "{finished:?}");
    let servers = place.servers();
    assert_eq!((servers.len(), &servers[0]["programs"]["running"]), (1, &json!(1)), "{servers:?}");
    assert_eq!(servers[0]["connections"]["ever"], 4, "{servers:?}");
}
