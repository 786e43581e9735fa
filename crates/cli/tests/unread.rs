//! Tests that input that is still waiting when the other side ends is counted, in a pipe, a file or a
//! buffer, and that the command then fails.
#![cfg(target_os = "linux")]
#![allow(clippy::incompatible_msrv, reason = "only what is published builds with the oldest Rust")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use support::*;
use tieline_link::{SessionOptions, listen};
use tieline_testkit::wait::block_on;
use tieline_transport::{Channel, Endpoint, Options, Receiver, Registry, SenderExt};

const TWO: &str = "{\"a\":1}\n{\"b\":2}\n";

/// The error if a program has read none of [`TWO`].
const NOTHING_READ: &str =
    "tieline: exec:true: the other side ended without reading the last 16 bytes of its input\n";

#[track_caller]
fn connected(args: &[&str], stdin: impl Into<Stdio>) -> (Option<i32>, String) {
    let finished = Program::start_with(&mut tieline(args), stdin).wait();
    (finished.code, finished.stderr)
}

/// Returns a pipe that contains `text`, with its writing end still open.
fn pipe(text: &str) -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    (reader, writer)
}

#[test]
fn input_that_a_program_never_reads_is_always_an_error() {
    let expected = (Some(1), NOTHING_READ.to_owned());
    for near in [&["connect"][..], &["bridge", "stdio:"]] {
        for _ in 0..10 {
            let (reader, writer) = pipe(TWO);
            drop(writer);
            assert_eq!(connected(&[near, &["exec:true"]].concat(), reader), expected, "{near:?}");
        }
    }
}

#[test]
fn waiting_input_of_every_kind_is_counted_as_unread() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    fs::write(&path, TWO).unwrap();
    let expected = (Some(1), NOTHING_READ.to_owned());
    let exec = &["connect", "exec:true"];

    assert_eq!(connected(exec, File::open(&path).unwrap()), expected, "a file");

    let (ours, theirs) = UnixStream::pair().unwrap();
    (&ours).write_all(TWO.as_bytes()).unwrap();
    assert_eq!(connected(exec, OwnedFd::from(theirs)), expected, "a socket");

    let (reader, _still_open) = pipe(TWO);
    assert_eq!(connected(exec, reader), expected, "a pipe that may get more");

    let (reader, _still_open) = pipe("{\"a\":1}");
    let (code, said) = connected(exec, reader);
    assert!(code == Some(1) && said.contains("the last 7 bytes"), "half a line: {said}");

    let (reader, _still_open) = pipe("1");
    let (code, said) = connected(exec, reader);
    assert!(code == Some(1) && said.contains("the last 1 byte of"), "a digit: {said}");
}

#[test]
fn nothing_is_unread_if_no_input_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    fs::write(&path, TWO).unwrap();
    let mut at_its_end = File::open(&path).unwrap();
    at_its_end.seek(SeekFrom::End(0)).unwrap();
    let exec = &["connect", "exec:true"];
    let clean = (Some(0), String::new());

    assert_eq!(connected(exec, at_its_end), clean, "a file that was read before");
    assert_eq!(connected(exec, Stdio::null()), clean, "the null device");
    let (reader, _still_open) = pipe("");
    assert_eq!(connected(exec, reader), clean, "an open pipe with nothing in it");
    let (reader, writer) = pipe(TWO);
    drop(writer);
    assert_eq!(connected(&["connect", "exec:cat"], reader), clean, "all was read");
}

#[test]
fn a_long_input_read_only_in_part_is_always_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    fs::write(&path, TWO.repeat(20_000)).unwrap();
    for _ in 0..5 {
        let exec = "exec:sh -c 'read -r line; echo answer'";
        let (code, said) = connected(&["connect", exec], File::open(&path).unwrap());
        assert!(code == Some(1) && said.contains("without reading the last"), "{said}");
    }
}

/// Checks that the error names the endpoint and a remedy.
#[track_caller]
fn names_place_and_hint(finished: &Finished, endpoint: &str) {
    let place = format!("tieline: {endpoint}: ");
    assert!(finished.stderr.contains(&place), "{finished:?}");
    assert!(finished.stderr.contains("\n  hint: "), "{finished:?}");
}

#[test]
fn web_and_session_clients_learn_of_unread_input() {
    // The program reads one of two messages, answers it, and succeeds.
    let program = ["--", "sh", "-c", "read -r line; echo \"$line\""];
    let site = WebSite::start(&[], &program[1..]);
    let address = site.address;
    let told = "the last 8 bytes sent were not read before the program ended";
    for url in [format!("ws://{address}/ws"), format!("http://{address}/sse")] {
        let mut connect = tieline(["connect", &url]);
        let finished = Program::run(connect.env("TIELINE_TOKEN", WEB_TOKEN), TWO);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), "{\"a\":1}\n"), "{finished:?}");
        assert!(finished.stderr.contains(told), "{url}: {finished:?}");
    }
    site.serve.program.wait_stderr_times("unread=8", 2);
    site.stop();

    let serve = Serve::start([&["--resume"][..], &program].concat());
    let finished = Program::run(&mut serve.connect(), TWO);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), "{\"a\":1}\n"), "{finished:?}");
    let told = "the far side ended without reading the last 8 bytes of its input";
    assert!(finished.stderr.contains(told), "{finished:?}");
    names_place_and_hint(&finished, serve.endpoint());
    serve.stop();

    // This program does the same, but fails, which is the better reason.
    let failing = [&["--resume"][..], &["--", "sh", "-c", "read -r line; echo \"$line\"; exit 3"]];
    let serve = Serve::start(failing.concat());
    let finished = Program::run(&mut serve.connect(), TWO);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), "{\"a\":1}\n"), "{finished:?}");
    let failed = "the program has failed with exit status 3";
    assert!(finished.stderr.contains(failed), "{finished:?}");
    serve.stop();

    let serve = Serve::start(["--resume", "--", "true"]);
    for args in [&["connect"][..], &["bridge", "stdio:"], &["call"]] {
        let args =
            [args, &[serve.endpoint()], if args[0] == "call" { &["m"] } else { &[] }].concat();
        let finished = Program::run(&mut tieline(&args), TWO);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{args:?}: {finished:?}");
        // There is a hint only if the input was sent before the program ended.
        let place = format!("tieline: {}: ", serve.endpoint());
        assert!(finished.stderr.contains(&place), "{args:?}: {finished:?}");
    }
    serve.stop();
}

/// The server is stopped while the program is busy.
#[test]
fn acknowledged_input_that_a_stopped_server_leaves_unread_fails_the_command() {
    let program = ["--resume", "--", "sh", "-c", "read -r line; echo \"$line\"; exec sleep 100"];
    let serve = Serve::start(program);
    let mut connect = Program::start(&mut serve.connect());
    connect.send_raw(TWO.as_bytes());
    assert_eq!(connect.line().as_deref(), Some("{\"a\":1}"));
    serve.stop();
    let finished = connect.wait();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    // The second message may not have been acknowledged yet.
    let told = ["without reading the last 8 bytes of its input", "messages sent were acknowledged"];
    assert!(told.iter().any(|words| finished.stderr.contains(words)), "{finished:?}");
}

/// The server's program can end between the arrival of a message and the check for unread input. The
/// server's session then ends without reporting the message.
#[test]
fn a_message_that_is_never_acknowledged_fails_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::unix(directory.path().join("s")).resumable();
    let finished = block_on(async {
        let (registry, options) = (Registry::new(), Options::default());
        let session = SessionOptions::default();
        let mut acceptor = listen(&registry, &endpoint, &options, session).await.unwrap();
        let mut connect = Program::start(&mut tieline(["connect", &endpoint.to_string()]));
        let (mut sender, receiver) = acceptor.accept().await.unwrap().split();
        connect.send_raw(b"{\"a\":1}\n");
        while !receiver.holds_part() {
            tokio::task::yield_now().await;
        }
        drop(receiver);
        sender.close().await.unwrap();
        drop(sender);
        tokio::task::spawn_blocking(move || connect.wait()).await.unwrap()
    });
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let told = "; 0 of 1 messages sent were acknowledged";
    assert!(finished.stderr.contains(told), "{finished:?}");
    names_place_and_hint(&finished, &endpoint.to_string());
}

#[test]
fn unread_input_of_a_plain_socket_is_logged() {
    // Unread input cannot be reported over a plain socket, so the server logs it.
    let serve = Serve::start(["--", "sh", "-c", "read -r line; echo \"$line\""]);
    let mut client = serve.client();
    client.send_raw(TWO.as_bytes());
    assert_eq!(client.line().as_deref(), Some("{\"a\":1}"));
    serve.program.wait_stderr("unread=8");
    let ended = serve.stop();
    let said = ended.stderr.lines().find(|line| line.contains("unread=8")).unwrap();
    assert!(said.contains(" WARN the line has ended"), "{said}");
}
