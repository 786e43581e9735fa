//! Tests of programs and clients that stop reading. Some of them are ended, and others get more time.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use rustix::process::Signal;
use support::{Program, Serve, Talk, sh, tieline};

/// Far more bytes than all buffers before a program can hold.
const LONG: usize = 4 << 20;

const STALLED: &str = "stalled: the other side has stopped reading";
const SHORT: [&str; 2] = ["--program-stall-timeout", "300ms"];

/// A script that reads one byte, and then stops reading.
const STOPS_READING: &str = "head -c 1 >/dev/null; exec sleep 1000";

#[test]
fn a_program_that_stops_reading_is_ended_after_its_stall_timeout() {
    let serve = Serve::start([&SHORT[..], &sh(STOPS_READING)].concat());
    let mut client = serve.client();
    client.send_refused(&[&*vec![b'x'; LONG], b"\n"].concat());
    assert_eq!(client.rest(), b"");
    serve.program.wait_stderr(STALLED);
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn connect_to_a_program_that_stops_reading_fails_and_says_why() {
    let endpoint = format!("exec:sh -c '{STOPS_READING}'");
    let mut command = tieline(["connect", &endpoint]);
    let finished = Program::run(command.args(SHORT), [&*vec![b'x'; LONG], b"\n"].concat());
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains(STALLED), "{finished:?}");
}

#[test]
fn connect_to_a_server_that_stops_reading_has_the_limit_of_a_program() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let endpoint = format!("unix:{}", path.display());
    // The stall timeout for clients is longer than the test may take.
    let args = [&["connect", &endpoint, "--stall-timeout", "1h"][..], &SHORT].concat();
    // The socket's backlog holds the connection, which is never read.
    let finished = Program::run(&mut tieline(args), [&*vec![b'x'; LONG], b"\n"].concat());
    drop(listener);
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains(STALLED), "{finished:?}");
}

/// The program is busy for ten times the client's stall timeout. `connect` waits for a server as long as
/// for a program.
#[test]
fn all_input_reaches_a_program_that_is_busy_beyond_the_client_stall_timeout() {
    let short = ["--stall-timeout", "300ms"];
    let busy = format!("head -c 1 >/dev/null; sleep 3; head -c {LONG} | wc -c; cat");
    for scheme in ["unix", "ws", "http"] {
        let directory = tempfile::tempdir().unwrap();
        let socket = format!("unix:{}", directory.path().join("0.sock").display());
        let listen = match scheme {
            "unix" => &["--listen", &*socket][..],
            _ => &["--listen", "http://127.0.0.1:0", "--allow-unauthenticated-web"],
        };
        let mut command = tieline(["serve"]);
        command.args(listen).args(short).args(sh(&busy));
        let mut server = Program::start(&mut command);
        let endpoint = server.line().unwrap();
        let endpoint = match scheme {
            "unix" => endpoint,
            "ws" => endpoint.replace("http:", "ws:") + "/ws",
            _ => endpoint + "/sse",
        };
        let mut client = Program::start(tieline(["connect", &endpoint]).args(short));
        let long = format!("\"{}\"", "x".repeat(LONG / 4));
        for _ in 0..4 {
            client.send(&long);
        }
        let answer = client.line();
        assert_eq!(answer.as_deref(), Some("4194304"), "{scheme}: {}", client.stderr());
        drop(client);
        server.signal(Signal::TERM);
        let finished = server.wait();
        assert_eq!(finished.code, Some(0), "{scheme}: {finished:?}");
        assert!(!finished.stderr.contains(STALLED), "{scheme}: {finished:?}");
    }
}
