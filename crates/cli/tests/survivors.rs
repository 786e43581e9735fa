//! Tests that no process is left of programs that try to outlive their line.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use support::{
    Client, Finished, Program, Serve, Talk, children_of, copied, is_running, path_of, tieline,
    until,
};
use tieline_testkit::executable;
use tieline_testkit::misbehave::{self, survivors};

/// Starts a server whose program does this. Returns the server and the mark of the program's processes.
fn serve(to_do: &[&str]) -> (Serve, String) {
    let mark = misbehave::new_mark();
    let command = misbehave::command(&mark, to_do);
    let args = ["--"].into_iter().chain(command.iter().map(String::as_str));
    (Serve::start(args.collect::<Vec<_>>()), mark)
}

#[track_caller]
fn up(serve: &Serve) -> Client {
    let mut client = serve.client();
    assert_eq!(client.line().as_deref(), Some("up"));
    client
}

/// The program that is hardest to end. It starts three more processes, and only SIGKILL ends any of
/// them.
const WORST: [&str; 6] = ["ignore", "daemon", "holder", "child", "say=up", "stay"];

#[test]
fn a_client_that_disconnects_leaves_no_process() {
    let (serve, mark) = serve(&WORST);
    let clients = [up(&serve), up(&serve), up(&serve)];
    assert_eq!(survivors(&mark).len(), 12);
    drop(clients);
    until("no process is left", || survivors(&mark).is_empty());
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn a_killed_server_leaves_no_process() {
    for _ in 0..5 {
        let (mut serve, mark) = serve(&WORST);
        let _clients = [up(&serve), up(&serve), up(&serve)];
        assert_eq!(survivors(&mark).len(), 12);
        let guardians = children_of(serve.program.pid());
        assert_eq!(guardians.len(), 3);
        serve.program.signal(Signal::KILL);
        serve.program.wait();
        until("no process is left", || survivors(&mark).is_empty());
        until("no guardian is left", || !guardians.iter().any(|pid| is_running(*pid)));
    }
}

#[test]
fn no_process_is_left_when_the_server_has_exited() {
    // The server exits after one signal, or at once after a second one.
    for signals in 1..=2 {
        let (mut serve, mark) = serve(&WORST);
        let _clients = [up(&serve), up(&serve), up(&serve)];
        let guardians = children_of(serve.program.pid());
        serve.program.signal(Signal::TERM);
        until("the first signal was handled", || !serve.path().exists());
        if signals == 2 {
            serve.program.signal(Signal::TERM);
        }
        let finished = serve.program.wait();
        assert_eq!(finished.code, Some(signals - 1), "{finished:?}");
        assert_eq!(survivors(&mark), [0; 0]);
        assert!(guardians.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    }
}

/// Returns the options of every containment that works here.
fn holds() -> &'static [&'static [&'static str]] {
    let all: &[&[&str]] = &[&["--hold=descent"], &["--isolate"], &["--hold=cgroup"]];
    match rustix::process::geteuid().is_root() {
        true => all,
        false => {
            eprintln!("not root: --hold=cgroup is skipped, as ordinary users often have no cgroup");
            &all[..2]
        }
    }
}

#[test]
fn no_process_is_left_by_any_containment_and_the_summary_confirms_it() {
    for hold in holds() {
        let mark = misbehave::new_mark();
        let command = misbehave::command(&mark, &WORST);
        let args = hold.iter().copied().chain(["--stop-timeout=0s", "--"]);
        let args: Vec<_> = args.chain(command.iter().map(String::as_str)).collect();

        let serve = Serve::start(&args);
        let (_one, gone) = (up(&serve), up(&serve));
        assert_eq!(survivors(&mark).len(), 8);
        drop(gone);
        until("only the other client's processes are left", || survivors(&mark).len() == 4);
        let Finished { stderr, .. } = serve.stop();
        assert_eq!(survivors(&mark), [0; 0]);
        let account = "programs: no processes left started=2 by_itself=0 asked=0 terminated=0 \
                       killed=2 others_killed=6";
        assert!(stderr.contains(account), "{hold:?}: {stderr}");

        let mut serve = Serve::start(&args);
        let _clients = [up(&serve), up(&serve)];
        serve.program.signal(Signal::KILL);
        serve.program.wait();
        until("no process is left", || survivors(&mark).is_empty());
    }
}

#[test]
fn the_summary_is_logged_also_after_a_second_signal() {
    let (mut serve, mark) = serve(&WORST);
    let _client = up(&serve);
    serve.program.signal(Signal::TERM);
    until("the first signal was handled", || !serve.path().exists());
    serve.program.signal(Signal::TERM);
    let Finished { stderr, .. } = serve.program.wait();
    assert_eq!(survivors(&mark), [0; 0]);
    assert!(stderr.contains("no processes left started=1"), "{stderr}");
}

#[test]
fn the_summary_counts_how_each_program_ended() {
    let script = "echo up; read -r word; case $word in end) exit 3;; esac; exec cat > /dev/null";
    let serve = Serve::start(support::sh(script));
    let mut clients = [up(&serve), up(&serve), up(&serve)];
    clients[0].send("end");
    assert_eq!(clients[0].rest(), b"");
    clients[1].end_input();
    assert_eq!(clients[1].rest(), b"");
    let Finished { stderr, .. } = serve.stop();
    let account = "no processes left started=3 by_itself=1 asked=2 terminated=0 killed=0 \
                   others_killed=0";
    assert!(stderr.contains(account), "{stderr}");
}

#[test]
fn isolation_without_effect_or_permission_is_refused_before_listening() {
    let finished = Program::run(&mut tieline(["connect", "--isolate", "unix:/no/such"]), "");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("it needs an exec: endpoint"), "{finished:?}");
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: only root can set up an environment that refuses namespaces");
        return;
    }
    let script = "echo 0 > /proc/sys/user/max_pid_namespaces && exec \"$0\" \"$@\"";
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script, env!("CARGO_BIN_EXE_tieline")]);
    let serve = ["serve", "--isolate", "--listen", &listen, "--", "cat"];
    let finished = Program::run(command.args(serve), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    let said = "cannot launch exec:cat: the operating system does not allow the namespaces";
    assert!(finished.stderr.contains(said), "{finished:?}");
    assert!(finished.stderr.contains("hint: allow namespaces"), "{finished:?}");
    assert!(!directory.path().join("a.sock").exists(), "a socket was left");
}

#[test]
fn a_program_that_kills_its_guardian_ends_only_its_own_line() {
    let to_do = ["ignore", "daemon", "child", "say=up", "read", "guardian=KILL", "stay"];
    let (serve, mark) = serve(&to_do);
    let (mut attacker, _other) = (up(&serve), up(&serve));
    attacker.send("now");
    assert_eq!(attacker.rest(), b"");
    serve.program.wait_stderr("because its guardian was killed");
    until("its own processes are gone", || survivors(&mark).len() == 3);
    until("no zombie is left", || children_of(serve.program.pid()).len() == 1);
    serve.stop();
    assert_eq!(survivors(&mark), [0; 0]);
}

#[test]
fn pid_1_of_a_container_reaps_foreign_processes_and_kills_none() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: namespaces cannot be created");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("a.sock").display());
    let (mark, strangers) = (misbehave::new_mark(), misbehave::new_mark());
    let to_do = ["ignore", "daemon", "child", "say=up", "read", "guardian=KILL", "stay"];
    // The entrypoint starts a daemon and a background process, and then executes the server.
    let stranger = misbehave::command(&strangers, &["daemon", "exit=0"]);
    let entrypoint =
        "my $n = shift; my @a = splice @ARGV, 0, $n; system @a; fork or exec @a; exec @ARGV";
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "perl",
        "-e",
        entrypoint,
        "--",
    ]);
    command.arg(stranger.len().to_string()).args(&stranger);
    command.args([
        env!("CARGO_BIN_EXE_tieline"),
        "serve",
        "--no-status",
        "--listen",
        &listen,
        "--",
    ]);
    command.args(misbehave::command(&mark, &to_do)).env_remove("RUST_LOG");
    let serve = Serve::launch(&mut command, 1, "unused".into(), directory);
    let [server] = children_of(serve.program.pid())[..] else { panic!("not one server") };
    until("both foreign processes are running", || survivors(&strangers).len() == 2);

    let (mut attacker, other) = (up(&serve), up(&serve));
    attacker.send("now");
    assert_eq!(attacker.rest(), b"");
    until("the program's processes are gone", || survivors(&mark).len() == 3);
    assert_eq!(survivors(&strangers).len(), 2, "a foreign process was killed");

    // The server reaps foreign processes that end.
    for stranger in survivors(&strangers) {
        let stranger = rustix::process::Pid::from_raw(stranger as i32).unwrap();
        rustix::process::kill_process(stranger, Signal::KILL).unwrap();
    }
    drop(other);
    until("the server has no child", || children_of(server).is_empty());
    let pid = rustix::process::Pid::from_raw(server as i32).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let mut serve = serve;
    let finished = serve.program.wait();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("no processes left started=2"), "{finished:?}");
}

#[test]
fn a_guardian_blocks_signals_and_its_program_does_not() {
    let masks = "grep -E 'SigBlk|SigIgn' /proc/self/status";
    let signals = "kill -TERM $PPID; kill -HUP $PPID; kill -INT $PPID; kill -USR1 $PPID";
    let serve = Serve::start(support::sh(&format!("{signals}; {masks}; read -r word; echo $word")));
    let mut client = serve.client();
    let expected = Program::run(Command::new("sh").args(["-c", masks]), "").stdout;
    for mask in expected.lines() {
        let said = client.line().unwrap_or_default();
        assert_eq!(not_taken(&said), not_taken(mask), "{said} and {mask}");
    }
    client.send("still");
    assert_eq!(client.line().as_deref(), Some("still"));
    serve.stop();
}

/// Returns the name and the bits of a mask. The bits exclude the signals that `serve` handles itself,
/// and the two signals of the C library that `posix_spawn` may leave ignored in the shell that is
/// compared.
fn not_taken(mask: &str) -> (&str, u64) {
    let (name, bits) = mask.split_once(':').unwrap_or_default();
    let taken = [1, 2, 15, 32, 33].map(|signal| 1 << (signal - 1));
    let bits = u64::from_str_radix(bits.trim(), 16).expect("bits");
    (name, taken.into_iter().fold(bits, |bits, taken: u64| bits & !taken))
}

#[test]
fn a_killed_connect_leaves_no_process() {
    let mark = misbehave::new_mark();
    let command = serde_json::to_string(&misbehave::command(&mark, &WORST)).unwrap();
    let mut connect = Program::start(&mut tieline(["connect", &format!("exec:{command}")]));
    assert_eq!(connect.line().as_deref(), Some("up"));
    assert_eq!(survivors(&mark).len(), 4);
    connect.signal(Signal::KILL);
    connect.wait();
    until("no process is left", || survivors(&mark).is_empty());
}

#[test]
fn an_interrupted_or_killed_claude_command_leaves_no_process() {
    for signal in [Signal::INT, Signal::KILL] {
        let mark = misbehave::new_mark();
        let home = tempfile::tempdir().unwrap();
        let text = r#"{"type":"assistant","message":{"content":"up"}}"#;
        let say = format!("say={text}");
        let to_do = ["ignore", "daemon", "holder", "child", &say, "stay"];
        let words = misbehave::command(&mark, &to_do);
        let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
        let script = format!("#!/bin/sh\nexec {}\n", quoted.collect::<Vec<_>>().join(" "));
        let program = home.path().join("claude");
        executable::write(&program, &script);
        let args = ["claude", "-p", "hello", "--program", program.to_str().unwrap()];
        let mut asked = Program::start(&mut tieline(args));
        // The output is not a whole line, because the answer may continue.
        until("it prints the answer", || asked.stdout() == "up");
        assert_eq!(survivors(&mark).len(), 4);
        asked.signal(signal);
        asked.wait();
        until("no process is left", || survivors(&mark).is_empty());
    }
}

#[test]
fn no_process_is_left_if_proc_belongs_to_another_namespace() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: namespaces cannot be created");
        return;
    }
    let mark = misbehave::new_mark();
    let to_do = ["ignore", "daemon", "child", "say=up", "exit=0"];
    let command = serde_json::to_string(&misbehave::command(&mark, &to_do)).unwrap();
    let mut namespace = Command::new("unshare");
    namespace.args(["--pid", "--fork", "--kill-child", "sh", "-c"]);
    // The namespace still exists after the line has ended.
    namespace.arg("\"$0\" connect \"$1\"; echo over; read -r _");
    namespace.args([env!("CARGO_BIN_EXE_tieline"), &format!("exec:{command}")]);
    let mut namespace = Program::start(&mut namespace);
    assert_eq!(namespace.line().as_deref(), Some("up"));
    assert_eq!(namespace.line().as_deref(), Some("over"));
    until("no process is left", || survivors(&mark).is_empty());
    namespace.finish();
}

#[test]
fn no_process_is_left_when_an_ordinary_user_runs_tieline() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: all tests of this file have run as an ordinary user");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(copied(directory.path()));
    let socket = directory.path().join("a.sock");
    let mark = misbehave::new_mark();
    command.args(["serve", "--allow-uid", "0", "--listen", &format!("unix:{}", socket.display())]);
    command.arg("--").args(misbehave::command(&mark, &WORST)).uid(NOBODY).gid(NOBODY);
    let mut serve = Serve::launch(&mut command, 1, "unused".into(), directory);
    let _clients = [up(&serve), up(&serve)];
    assert_eq!(survivors(&mark).len(), 8);
    serve.program.signal(Signal::KILL);
    serve.program.wait();
    until("no process is left", || survivors(&mark).is_empty());
}

#[test]
fn a_replaced_executable_still_starts_guardians() {
    let directory = tempfile::tempdir().unwrap();
    let program = copied(directory.path());
    let mut command = Command::new(&program);
    let socket = directory.path().join("a.sock");
    command.args(["serve", "--listen", &format!("unix:{}", socket.display()), "--", "cat"]);
    let serve = Serve::launch(&mut command, 1, "unused".into(), directory);
    fs::remove_file(&program).unwrap();
    fs::write(&program, "something else").unwrap();
    let mut client = Client::connect(&path_of(serve.endpoint()));
    client.send("hello");
    assert_eq!(client.line().as_deref(), Some("hello"));
    serve.stop();
}

#[test]
fn a_guardian_started_by_hand_explains_its_purpose() {
    let finished = Program::run(&mut tieline(["tieline-guard"]), "");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("guardian"), "{finished:?}");
    let help = Program::run(&mut tieline(["--help"]), "");
    assert!(!help.stdout.contains("guard"), "{help:?}");
}
