//! Tests of `tieline serve`: its endpoints, and many clients at once.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{Client, Finished, Program, Serve, Talk, path_of, sh, tieline};

const ADD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}"#;

#[test]
fn the_built_in_agent_answers_through_a_socket() {
    let serve = Serve::start::<&str>([]);
    let finished = Program::run(&mut serve.connect(), format!("{ADD}\n"));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(answer, json!({ "jsonrpc": "2.0", "id": 1, "result": 5 }));
    assert_eq!(finished.stderr, "");
    serve.stop();
}

#[test]
fn stdout_contains_only_messages_and_endpoints() {
    let serve = Serve::start(["-vv"]);
    let finished = Program::run(serve.connect().arg("-vv"), format!("{ADD}\n"));
    assert_eq!(finished.stdout.lines().count(), 1, "{finished:?}");
    assert!(finished.stdout.starts_with('{') && finished.stdout.ends_with("}\n"), "{finished:?}");
    assert!(finished.stderr.contains("DEBUG"), "{finished:?}");
    let endpoint = serve.endpoint().to_owned();
    assert_eq!(serve.stop().stdout, format!("{endpoint}\n"));
}

#[test]
fn the_printed_example_can_be_pasted_into_a_shell() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it's here.sock");
    let mut command = tieline(["serve", "--listen", &format!("unix:{}", path.display())]);
    let serve = Serve::launch(&mut command, 1, String::new(), directory);
    serve.program.wait_stderr_times("\n", 3);
    let said = serve.program.stderr();
    let line = said.lines().find(|line| line.trim_start().starts_with("echo ")).unwrap();
    let finished = Program::run(Command::new("sh").args(["-c", line]), "");
    assert!(finished.stdout.contains(r#""result":5"#), "{line}: {finished:?}");
}

#[test]
fn one_server_listens_on_several_endpoints() {
    let serve = Serve::in_framings(&["", "lines+", "content-length+"], ["--", "cat"]);
    for endpoint in &serve.endpoints {
        let finished = Program::run(&mut tieline(["connect", endpoint]), "{\"a\":1}\n");
        assert_eq!(finished.stdout, "{\"a\":1}\n", "{endpoint}: {finished:?}");
    }
    serve.stop();
}

/// Starts a server without `--listen`, with its runtime directory set by an environment variable.
fn serve_by_default(place: &Path, variable: &str, program: &[&str]) -> Serve {
    let mut command = by_default(place, variable, program);
    Serve::launch(&mut command, 1, String::new(), tempfile::tempdir().unwrap())
}

fn by_default(place: &Path, variable: &str, program: &[&str]) -> Command {
    let mut command = tieline(["serve"]);
    command.args(program).env(variable, place);
    command
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_default_socket_is_private_and_named_after_the_program() {
    let place = tempfile::tempdir().unwrap();
    let uid = fs::metadata(place.path()).unwrap().uid();
    for (variable, folder) in
        [("XDG_RUNTIME_DIR", "tieline".to_owned()), ("TMPDIR", format!("tieline-{uid}"))]
    {
        let folder = place.path().join(folder);
        let serve = serve_by_default(place.path(), variable, &["--", "/usr/bin/env", "cat"]);
        let socket = folder.join("cat.sock");
        assert_eq!(serve.endpoint(), format!("unix:{}", socket.display()));
        assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(Program::run(&mut serve.connect(), "hello\n").stdout, "hello\n");
        serve.stop();

        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_second_server_with_the_same_name_adds_the_next_number_to_it() {
    let place = tempfile::tempdir().unwrap();
    let start = || serve_by_default(place.path(), "XDG_RUNTIME_DIR", &["--", "cat"]);
    let name = |serve: &Serve| serve.path().file_name().unwrap().to_owned();
    let (first, second, third) = (start(), start(), start());
    assert_eq!([&first, &second, &third].map(name), ["cat.sock", "cat-2.sock", "cat-3.sock"]);
    second.stop();
    assert_eq!(name(&start()), "cat-2.sock");
    assert_eq!(Program::run(&mut first.connect(), "still there\n").stdout, "still there\n");
}

#[test]
fn a_runtime_directory_that_is_not_private_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("tieline");
    let refused = || {
        let mut command = by_default(place.path(), "XDG_RUNTIME_DIR", &["--", "cat"]);
        let finished = Program::run(&mut command, "");
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
        assert!(finished.stderr.contains("--listen"), "{finished:?}");
        assert_eq!(fs::read_dir(&folder).map_or(0, Iterator::count), 0, "a file was created");
        finished.stderr
    };

    fs::create_dir(&folder).unwrap();
    for open in [0o750, 0o707, 0o777] {
        fs::set_permissions(&folder, PermissionsExt::from_mode(open)).unwrap();
        let stderr = refused();
        assert!(stderr.contains("accessible to other users; run chmod 700"), "{open:o}: {stderr}");
    }
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    // Only root can change a directory's owner.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
        let stderr = refused();
        assert!(stderr.contains("belongs to another user"), "{stderr}");
    }
    fs::remove_dir(&folder).unwrap();

    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), &folder).unwrap();
    let stderr = refused();
    assert!(stderr.contains("not a directory"), "{stderr}");
    fs::remove_file(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    let stderr = refused();
    assert!(stderr.contains("not a directory"), "{stderr}");
}

#[test]
fn two_hundred_clients_each_have_their_own_program() {
    let serve = Serve::start(["--", "cat"]);
    let mut clients: Vec<Client> = (0..200).map(|_| serve.client()).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&format!("{number} says {round}"));
        }
    }
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.line().unwrap(), format!("{number} says {round}"));
        }
    }
    assert_eq!(serve.processes().len(), clients.len());

    // Half of the clients end their input first, and the others just disconnect.
    let gone = clients.split_off(100);
    drop(gone);
    for client in &mut clients {
        client.end_input();
        assert_eq!(client.rest(), b"");
    }
    serve.wait_nothing_left();
    serve.program.wait_stderr_times("the line has ended", 200);
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("served=200 refused=0"), "{stderr}");
}

#[test]
fn clients_above_the_limit_are_refused_until_one_disconnects() {
    let serve = Serve::start(["--max-connections", "2", "--", "cat"]);
    let talk = |client: &mut Client| {
        client.send("hello");
        assert_eq!(client.line().as_deref(), Some("hello"));
    };
    let (mut first, mut second) = (serve.client(), serve.client());
    talk(&mut first);
    talk(&mut second);
    assert_eq!(serve.client().rest(), b"");
    serve.program.wait_stderr("client refused: too many clients: the limit of 2 is reached");
    talk(&mut second);

    drop(first);
    serve.program.wait_stderr("the line has ended");
    talk(&mut serve.client());
    talk(&mut second);
    drop(second);
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("refused=1"), "{stderr}");
}

#[test]
fn a_live_socket_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("foreign.sock");
    let endpoint = format!("unix:{}", path.display());
    let serve = || tieline(["serve", "--listen", &endpoint, "--", "cat"]);
    let inode = || fs::metadata(&path).unwrap().ino();

    let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let before = inode();
    let finished = Program::run(&mut serve(), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    for words in [&*endpoint, "another process is listening there", "hint: stop that process"] {
        assert!(finished.stderr.contains(words), "{finished:?}");
    }
    assert_eq!(inode(), before);
    std::os::unix::net::UnixStream::connect(&path).unwrap();

    // The socket is stale after its owner has closed it without removing it.
    drop(foreign);
    let serving = Serve::launch(&mut serve(), 1, String::new(), tempfile::tempdir().unwrap());
    assert_eq!(Program::run(&mut serving.connect(), "hello\n").stdout, "hello\n");

    // The new server listens on the socket, so it is not stale anymore.
    let finished = Program::run(&mut serve(), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("another process is listening there"), "{finished:?}");
    assert_eq!(Program::run(&mut serving.connect(), "hello\n").stdout, "hello\n");
    serving.stop();
}

#[test]
fn a_file_that_is_not_a_socket_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "data").unwrap();
    let endpoint = format!("unix:{}", path.display());
    let finished = Program::run(&mut tieline(["serve", "--listen", &endpoint]), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("not a socket"), "{finished:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a file was left");
}

#[test]
fn a_replaced_socket_is_not_removed_at_exit() {
    let serve = Serve::start(sh("cat"));
    let path = path_of(serve.endpoint());
    fs::remove_file(&path).unwrap();
    let _foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
    serve.program.signal(rustix::process::Signal::TERM);
    let mut program = serve.program;
    assert_eq!(program.wait().code, Some(0));
    std::os::unix::net::UnixStream::connect(&path).unwrap();
}
