//! Tests of `tieline status`: the reports of servers, the users that may read them, and the status
//! sockets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::site::{Site, status_of};
use support::{Finished, Program, Serve, Talk, is_running, request, sh, tieline, until};
use tempfile::TempDir;
use tieline_testkit::executable;

/// A runtime directory for one test.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Starts a server with its status socket in this directory and its own socket elsewhere.
    #[track_caller]
    fn serve<A: AsRef<str>>(&self, args: impl AsRef<[A]>) -> Serve {
        let directory = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}", directory.path().join("agent.sock").display());
        let mut command = tieline(["serve", "--listen", &listen]);
        command.env("XDG_RUNTIME_DIR", self.0.path());
        command.args(args.as_ref().iter().map(AsRef::as_ref));
        Serve::launch(&mut command, 1, support::new_mark(), directory)
    }

    #[track_caller]
    fn status(&self, args: &[&str]) -> Finished {
        let mut command = tieline(["status"]);
        Program::run(command.args(args).env("XDG_RUNTIME_DIR", self.0.path()), "")
    }

    /// Returns the response of each server.
    #[track_caller]
    fn serves(&self) -> Vec<Value> {
        let finished = self.status(&["--json"]);
        assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
        assert_eq!(finished.stdout.lines().count(), 1, "{finished:?}");
        let said: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!(said.as_object().unwrap().keys().collect::<Vec<_>>(), ["serves"]);
        said["serves"].as_array().unwrap().clone()
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("tieline")
    }

    fn socket_of(&self, serve: &Serve) -> PathBuf {
        self.directory().join(format!("{}.status", serve.program.pid()))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn pids(serves: &[Value]) -> Vec<u64> {
    serves.iter().map(|serve| serve["pid"].as_u64().unwrap()).collect()
}

/// Returns the sorted names of an object's members, none of which may be null.
fn keys(value: &Value) -> Vec<&str> {
    let members = value.as_object().unwrap();
    assert!(members.values().all(|member| !member.is_null()), "{value}");
    let mut keys: Vec<_> = members.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn time(value: &Value) -> std::time::SystemTime {
    humantime::parse_rfc3339(value.as_str().unwrap()).unwrap()
}

#[test]
fn status_shows_a_session_with_and_without_its_connection() {
    let place = Place::new();
    let serve = place.serve(["--resume", "--", "cat"]);
    let mut command = tieline(["connect", "--resume", serve.endpoint()]);
    let mut client = Program::start(&mut command);
    client.send_raw(b"hello\n");
    assert_eq!(client.line().as_deref(), Some("hello"));
    // The acknowledgment arrives a moment later.
    let session = || place.serves()[0]["lines"][0]["session"].clone();
    until("the message is acknowledged", || session()["measured"] == 1);
    let said = session();
    let known = [
        "connected",
        "epoch",
        "kept_bytes",
        "kept_messages",
        "latency_max_us",
        "latency_p50_us",
        "latency_p99_us",
        "measured",
        "waiting_messages",
    ];
    assert_eq!(keys(&said), known);
    assert_eq!((&said["connected"], &said["epoch"]), (&json!(true), &json!(1)));
    assert_eq!((&said["kept_messages"], &said["kept_bytes"]), (&json!(0), &json!(0)));
    assert!(said["latency_p50_us"].as_u64().unwrap() > 0, "{said}");
    let table = place.status(&[]).stdout;
    assert!(table.contains("connection 1, connected"), "{table}");
    assert!(table.contains(" 0 messages, 0 bytes "), "{table}");
    assert!(table.contains("p50 "), "{table}");

    client.signal(Signal::KILL);
    client.wait();
    until("the client is disconnected", || session()["connected"] == false);
    assert!(place.status(&[]).stdout.contains("connection 1, disconnected"));
    serve.stop();
}

#[test]
fn status_shows_two_clients() {
    let place = Place::new();
    let serve = place.serve::<&str>([]);
    let mut clients = [serve.client(), serve.client()];
    let answer = clients[0].call(&request(1, "add", json!([2, 3]))).to_string();
    for id in 2..=3 {
        clients[1].call(&request(id, "add", json!([2, 3])));
    }
    let serves = place.serves();
    let [said] = &serves[..] else { panic!("{serves:?}") };
    let known = [
        "command",
        "connections",
        "lines",
        "listeners",
        "memory",
        "pid",
        "since",
        "totals",
        "version",
    ];
    assert_eq!(keys(said), known);
    assert_eq!(said["pid"], serve.program.pid());
    assert_eq!(said["command"], "demo-agent");
    assert_eq!(said["listeners"], json!([serve.endpoint()]));
    assert_eq!(said["connections"], json!({ "now": 2, "ever": 2, "refused": 0 }));
    let lines = said["lines"].as_array().unwrap();
    let [first, second] = &lines[..] else { panic!("{said}") };
    let known = [
        "bytes_in",
        "bytes_out",
        "endpoint",
        "faults",
        "id",
        "kind",
        "last_activity",
        "messages_in",
        "messages_out",
        "peer",
        "program",
        "since",
    ];
    assert_eq!((keys(first), keys(second)), (known.to_vec(), known.to_vec()));
    assert_eq!((&first["id"], &second["id"]), (&json!(1), &json!(2)));
    assert_eq!((&first["kind"], &first["endpoint"]), (&json!("unix"), &json!(serve.endpoint())));
    assert_eq!(keys(&first["peer"]), ["gid", "pid", "uid"]);
    assert_eq!(first["peer"]["pid"], std::process::id());
    assert_eq!((&first["messages_in"], &first["messages_out"]), (&json!(1), &json!(1)));
    assert_eq!((&second["messages_in"], &second["messages_out"]), (&json!(2), &json!(2)));
    assert_eq!(first["bytes_out"], answer.len() + 1);
    assert!(time(&said["since"]) <= time(&first["since"]));
    assert!(time(&first["since"]) <= time(&first["last_activity"]));
    assert_eq!(keys(&first["program"]), ["pid", "restarts", "state"]);
    assert_eq!(first["program"]["state"], "running");
    let child = |line: &Value| u32::try_from(line["program"]["pid"].as_u64().unwrap()).unwrap();
    assert!(is_running(child(first)) && is_running(child(second)));
    assert_ne!(child(first), child(second));
    let totals = &said["totals"];
    assert_eq!((&totals["messages_in"], &totals["messages_out"]), (&json!(3), &json!(3)));

    // The table shows the totals after lines have ended.
    drop(clients);
    until("both lines have ended", || place.serves()[0]["connections"]["now"] == 0);
    let said = &place.serves()[0];
    assert_eq!((&said["lines"], &said["totals"]["served"]), (&json!([]), &json!(2)));
    assert_eq!((&said["totals"]["messages_in"], &said["totals"]["failed"]), (&json!(3), &json!(0)));
    let _client = serve.client();
    serve.program.wait_stderr_times("client connected", 3);
    let table = place.status(&[]).stdout;
    assert!(table.starts_with(&format!("demo-agent: pid {}, up ", serve.program.pid())), "{table}");
    assert!(table.contains("clients: 1 now, 3 in total, 0 refused"), "{table}");
    assert!(table.contains("  LINE  CLIENT") && table.contains("  3     unix pid "), "{table}");
    serve.stop();
}

#[test]
fn all_servers_are_listed_and_one_is_found_by_its_endpoint() {
    let place = Place::new();
    assert!(place.serves().is_empty() && place.names().is_empty());
    let none = place.status(&[]);
    assert!(none.stdout.contains("no server of this user found"), "{none:?}");
    let (one, two) = (place.serve::<&str>([]), place.serve(["--", "cat"]));
    let mut expected = [&one, &two].map(|serve| u64::from(serve.program.pid()));
    expected.sort_unstable();
    assert_eq!(pids(&place.serves()), expected);
    let table = place.status(&[]).stdout;
    assert!(table.contains("demo-agent: pid ") && table.contains("cat: pid "), "{table}");

    let link = place.0.path().join("link");
    std::os::unix::fs::symlink(two.path().parent().unwrap(), &link).unwrap();
    for way in [
        two.endpoint().to_owned(),
        format!("lines+{}", two.endpoint()),
        format!("unix:{}", link.join("agent.sock").display()),
    ] {
        let finished = place.status(&[&way, "--json"]);
        let said: Value = serde_json::from_str(&finished.stdout).expect(&way);
        assert_eq!(pids(said["serves"].as_array().unwrap()), [u64::from(two.program.pid())]);
    }
    let mut beside = tieline(["status", "unix:agent.sock"]);
    beside.env("XDG_RUNTIME_DIR", place.0.path()).current_dir(two.path().parent().unwrap());
    let finished = Program::run(&mut beside, "");
    assert!(finished.stdout.starts_with("cat: "), "{finished:?}");
    let finished = place.status(&["unix:/nowhere/agent.sock"]);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("`tieline status` lists"), "{finished:?}");
    for serve in [one, two] {
        serve.stop();
    }
    assert_eq!(place.names(), [""; 0], "a file is left");
}

#[test]
fn a_killed_server_is_skipped_and_the_next_one_removes_its_socket() {
    let place = Place::new();
    let (killed, lives) = (place.serve(["--", "cat"]), place.serve(["--", "cat"]));
    let left = place.socket_of(&killed);
    let mut program = killed.program;
    program.signal(Signal::KILL);
    program.wait();
    assert_eq!(pids(&place.serves()), [u64::from(lives.program.pid())]);
    assert!(left.exists(), "`tieline status` removed a socket");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&place.socket_of(&lives));
    let next = place.serve(["--", "cat"]);
    assert!(
        !left.exists()
            && !place.directory().join(format!("{}.status.lock", program.pid())).exists()
    );
    assert_eq!(inode(&place.socket_of(&lives)), before, "the socket of a live server was replaced");
    assert_eq!(place.serves().len(), 2);
    next.stop();
    lives.stop();
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn only_the_owner_can_use_the_status_socket() {
    const NOBODY: u32 = 65_534;
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root, "needs root to act as another user; run the tests as root, as CI does");
    let place = Place::new();
    let serve = place.serve(["--allow-uid", "65534"]);
    let socket = place.socket_of(&serve);
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(&place.directory())), (0o600, 0o700));
    // Other users may not be able to access the build directory.
    let elsewhere = tempfile::tempdir().unwrap();
    let program = elsewhere.path().join("tieline");
    executable::copy(Path::new(env!("CARGO_BIN_EXE_tieline")), &program);
    fs::set_permissions(elsewhere.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).env_remove("RUST_LOG");
        command.env("XDG_RUNTIME_DIR", place.0.path()).uid(NOBODY).gid(NOBODY).current_dir("/");
        Program::run(&mut command, "")
    };
    // The server checks the peer even if the directories and the socket are open to everyone.
    let open = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    open(place.0.path(), 0o755).unwrap();
    let call = ["call", &format!("unix:{}", socket.display()), "status"];
    assert_eq!(as_nobody(&call).code, Some(1));
    open(&place.directory(), 0o755).unwrap();
    open(&socket, 0o666).unwrap();
    let finished = as_nobody(&call);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    // `tieline status` does not trust sockets in another user's directory.
    let finished = as_nobody(&["status"]);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("belongs to another user"), "{finished:?}");
    open(&place.directory(), 0o700).unwrap();
    assert_eq!(place.serves().len(), 1);
    serve.stop();
}

#[test]
fn any_json_rpc_client_of_the_user_can_ask_for_the_status() {
    let place = Place::new();
    let serve = place.serve(["--", "cat"]);
    let endpoint = format!("unix:{}", place.socket_of(&serve).display());
    let finished = Program::run(&mut tieline(["call", &endpoint, "status"]), "");
    let said: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&said["command"], finished.code), (&json!("cat"), Some(0)));
    let finished = Program::run(&mut tieline(["call", &endpoint, "stop"]), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    // Clients that send nonsense or nothing do not affect other clients.
    let mut nonsense = support::Client::connect(&place.socket_of(&serve));
    nonsense.send("nonsense");
    assert_eq!(nonsense.json()["error"]["code"], -32700);
    let silent = || support::Client::connect(&place.socket_of(&serve));
    let _many: Vec<_> = std::iter::repeat_with(silent).take(50).collect();
    assert_eq!(place.serves().len(), 1);
    serve.stop();
}

#[test]
fn status_reveals_neither_environment_nor_arguments() {
    let place = Place::new();
    let mut args = vec!["--env", "TOKEN=hunter2"];
    args.extend(sh("cat # hunter3"));
    let serve = place.serve(args);
    let mut client = serve.client();
    client.send("\"hunter4\"");
    client.line().unwrap();
    for args in [&["--json"][..], &[]] {
        let finished = place.status(args);
        assert!(finished.stdout.contains("sh"), "{finished:?}");
        assert!(!finished.stdout.contains("hunter"), "{finished:?}");
    }
    serve.stop();
}

#[test]
fn status_shows_restarted_and_waiting_programs() {
    let place = Place::new();
    let fails = "echo begun; read line; exit 3";
    let mut args = vec!["--restart", "on-failure"];
    args.extend(sh(fails));
    let serve = place.serve(args);
    let mut client = serve.client();
    client.line().unwrap();
    let program = || place.serves()[0]["lines"][0]["program"].clone();
    let first = program()["pid"].clone();
    client.send("fail");
    // The next program has started.
    client.line().unwrap();
    let second = program();
    assert_eq!((&second["state"], &second["restarts"]), (&json!("running"), &json!(1)));
    assert_ne!(second["pid"], first);
    serve.stop();

    // This program always fails, until the server gives up.
    let mut args = vec!["--restart", "always"];
    args.extend(sh("echo begun; exit 4"));
    let serve = place.serve(args);
    let mut seen = Vec::new();
    let _client = serve.client();
    until("the server gives up", || {
        let serves = place.serves();
        let program = &serves[0]["lines"][0]["program"];
        seen.extend(program["state"].as_str().map(str::to_owned));
        if program["state"] == "backoff" {
            assert!(program["retry_in_ms"].is_u64() && program["restarts"].is_u64(), "{program}");
            assert!(program["cause"].as_str().unwrap().contains("exit status: 4"), "{program}");
        }
        serves[0]["totals"]["failed"] == 1
    });
    let restarts = place.serves()[0]["totals"]["restarts"].as_u64();
    assert!(restarts >= Some(5), "{restarts:?}, {seen:?}");
    serve.stop();
}

#[test]
fn the_no_status_option_hides_a_server() {
    let place = Place::new();
    let serve = place.serve(["--no-status"]);
    assert!(place.serves().is_empty() && place.names().is_empty());
    let finished = place.status(&[serve.endpoint()]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("--no-status"), "{finished:?}");
    serve.stop();
}

#[test]
fn the_url_of_a_running_server_logs_in_a_browser_once() {
    let place = Place::new();
    let plain = place.serve(["--", "cat"]);
    let finished = place.status(&["--url"]);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("--listen http://127.0.0.1:8080"), "{finished:?}");
    let start = |args: &[&str]| {
        let mut command = tieline(["serve", "--listen", "http://127.0.0.1:0"]);
        Site::of(command.args(args).args(["--", "cat"]).env("XDG_RUNTIME_DIR", place.0.path()))
    };
    let (site, open) = (start(&[]), start(&["--allow-unauthenticated-web"]));
    let all = place.status(&["--url"]);
    assert_eq!((all.code, all.stdout.lines().count(), &*all.stderr), (Some(0), 2, ""), "{all:?}");
    assert!(all.stdout.contains(&format!("{}/\n", open.endpoint)), "{all:?}");
    let finished = place.status(&["--url", &site.endpoint]);
    let url = finished.stdout.strip_suffix('\n').unwrap();
    let path = url.strip_prefix(&site.endpoint).unwrap();
    assert!(!all.stdout.contains(path), "each URL is new");
    assert_eq!(["303", "403"].map(|_| status_of(&site.get(path, "")).to_owned()), ["303", "403"]);
    let said = site.stop();
    assert!(!said.contains(path), "the URL was logged: {said}");
    open.stop();
    plain.stop();
}

#[test]
fn a_server_without_a_status_socket_warns_and_serves() {
    let place = Place::new();
    fs::create_dir(place.directory()).unwrap();
    fs::set_permissions(place.directory(), PermissionsExt::from_mode(0o755)).unwrap();
    let serve = place.serve::<&str>([]);
    serve.program.wait_stderr("tieline status cannot ask this server");
    serve.program.wait_stderr("accessible to other users");
    let answer = serve.client().call(&request(1, "add", json!([2, 3])));
    assert_eq!(answer["result"], 5);
    serve.stop();
}

#[test]
fn a_server_that_does_not_answer_delays_no_other() {
    let place = Place::new();
    let (stopped, lives) = (place.serve(["--", "cat"]), place.serve(["--", "cat"]));
    stopped.program.signal(Signal::STOP);
    let finished = place.status(&["--json"]);
    stopped.program.signal(Signal::CONT);
    let said: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(pids(said["serves"].as_array().unwrap()), [u64::from(lives.program.pid())]);
    let complaint = format!("the server with pid {} does not answer", stopped.program.pid());
    assert!(finished.stderr.contains(&complaint), "{finished:?}");
    assert_eq!(place.serves().len(), 2);
    stopped.stop();
    lives.stop();
}

#[test]
fn watch_appends_without_a_terminal_until_a_signal() {
    let place = Place::new();
    let serve = place.serve(["--", "cat"]);
    let watch = |args: &[&str]| {
        let mut command = tieline(["status", "--watch"]);
        Program::start(command.args(args).env("XDG_RUNTIME_DIR", place.0.path()))
    };
    let mut objects = watch(&["--json"]);
    for _ in 0..2 {
        assert_eq!(pids(objects.json()["serves"].as_array().unwrap()).len(), 1);
    }
    objects.signal(Signal::INT);
    let mut tables = watch(&[]);
    until("two tables", || tables.stdout().matches("cat: pid ").count() >= 2);
    tables.signal(Signal::TERM);
    let (objects, tables) = (objects.wait(), tables.wait());
    assert_eq!((objects.code, tables.code), (Some(0), Some(0)), "{objects:?} {tables:?}");
    assert!(!tables.stdout.contains('\u{1b}') && tables.stdout.contains("\n\ncat: "), "{tables:?}");
    serve.stop();
}

/// The client reads nothing for ten times the stall timeout, which does not apply to this client.
#[test]
fn messages_dropped_for_a_slow_client_are_counted_and_the_client_stays() {
    const SAID: usize = 20_000;
    let says = format!(
        "yes {} | head -n {SAID}; sleep 3; echo rested >&2; read -r line; echo heard $line",
        "y".repeat(1000)
    );
    let options = ["--slow-client", "drop-oldest", "--stall-timeout", "300ms"];
    let place = Place::new();
    let serve = place.serve([&options[..], &sh(&says)].concat());
    let mut client = serve.client();
    client.send("you");
    serve.program.wait_stderr("rested");
    serve.program.wait_stderr("a message for the client was dropped");
    let mut arrived = 0;
    while client.line().expect("the client is still connected") != "heard you" {
        arrived += 1;
    }
    drop(client);
    let totals = || place.serves()[0]["totals"].clone();
    until("the line is counted", || totals()["served"] == 1);
    assert!(arrived < SAID);
    assert_eq!(totals()["lost"], SAID - arrived);
    let stderr = serve.stop().stderr;
    let counted = format!("to_near={} lost={} ", arrived + 1, SAID - arrived);
    assert!(stderr.contains(&counted), "{counted}: {stderr}");
}
