//! Tests of what a client of a server without a dialect gets when its program ends: each way in, and each kind of
//! end.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;
use support::site::{Site, TOKEN};
use support::{Finished, Program, Talk, sh, tieline};

/// A way in: what the server listens on, and what its client connects to, where `@` stands for the address.
const SESSIONS: [(&str, &str); 4] = [
    ("resume+unix:DIRECTORY/s", "resume+unix:@"),
    ("resume+tcp:127.0.0.1:0", "resume+tcp:@"),
    ("http://127.0.0.1:0", "resume+ws://@/ws"),
    ("http://127.0.0.1:0", "resume+http://@/sse"),
];
const WEB: [(&str, &str); 2] =
    [("http://127.0.0.1:0", "ws://@/ws"), ("http://127.0.0.1:0", "http://@/sse")];
const SOCKETS: [(&str, &str); 2] = [("unix:DIRECTORY/s", "unix:@"), ("tcp:127.0.0.1:0", "tcp:@")];

/// What the program reads, and what it answers before it ends.
const INPUT: &str = "{\"a\":1}\n";
const OUTPUT: &str = "{\"b\":2}\n";

/// Serves `program`, runs one client of the way, and returns what it printed, and the server's log.
#[track_caller]
fn run((listen, connect): (&str, &str), program: &[&str], input: &str) -> (Finished, String) {
    let directory = tempfile::tempdir().unwrap();
    let listen = listen.replace("DIRECTORY", directory.path().to_str().unwrap());
    let mut serve = tieline(["serve", "--listen", &listen]);
    if listen.contains("tcp:") {
        serve.arg("--allow-unauthenticated-tcp");
    }
    if listen.contains("http:") {
        serve.env("TIELINE_TOKEN", TOKEN);
    }
    let mut serve = Program::start(serve.args(program));
    let Some(endpoint) = serve.line() else { panic!("{}", serve.stderr()) };
    let address = ["unix:", "tcp:", "http://"].iter().find_map(|it| endpoint.split_once(it));
    let endpoint = connect.replace('@', address.unwrap().1);
    let client = Program::run(&mut connecting(&endpoint), input);
    serve.signal(Signal::TERM);
    (client, serve.wait().stderr)
}

fn connecting(endpoint: &str) -> Command {
    let mut command = tieline(["connect", "--quiet", endpoint]);
    if endpoint.contains("//") {
        command.env("TIELINE_TOKEN", TOKEN);
    }
    command
}

/// Checks the exit status, the output, and the error of the only client of a server.
#[track_caller]
fn ends(way: (&str, &str), program: &[&str], input: &str, output: &str, error: Option<&str>) {
    let (client, log) = run(way, program, input);
    let code = Some(i32::from(error.is_some()));
    assert_eq!((client.code, &*client.stdout), (code, output), "{way:?}: {client:?}\n{log}");
    assert!(!client.stderr.contains("secret"), "{way:?}: {client:?}");
    match error {
        Some(error) => {
            assert!(client.stderr.contains(error), "{way:?}: {client:?}\n{log}");
            assert_eq!(client.stderr.matches(error).count(), 1, "{way:?}: {client:?}");
        }
        None => assert_eq!(client.stderr, "", "{way:?}\n{log}"),
    }
}

#[test]
fn clients_of_sessions_and_of_the_web_learn_how_the_program_failed_after_its_last_message() {
    for way in SESSIONS.into_iter().chain(WEB) {
        let program = sh("read -r line; echo '{\"b\":2}'; echo secret >&2; exit 3");
        ends(way, &program, INPUT, OUTPUT, Some("the program has failed with exit status 3"));
        let program = sh("read -r line; echo '{\"b\":2}'; kill -KILL $$");
        let error = "the program has failed with signal 9 (SIGKILL)";
        ends(way, &program, INPUT, OUTPUT, Some(error));
    }
}

/// More output than a connection holds.
#[test]
fn everything_that_a_program_sends_before_it_fails_arrives_before_the_failure() {
    let program = sh("read -r line; seq 200000; exit 3");
    let output: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    for way in SESSIONS.into_iter().chain(WEB) {
        ends(way, &program, INPUT, &output, Some("the program has failed with exit status 3"));
    }
}

#[test]
fn clients_of_sessions_and_of_the_web_learn_that_the_program_cannot_be_started() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    fs::write(&program, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = ["--", program.to_str().unwrap()];
    for way in SESSIONS.into_iter().chain(WEB) {
        ends(way, &program, INPUT, "", Some("the program cannot be started"));
    }
}

#[test]
fn a_clean_end_stays_clean_on_every_way() {
    let program = sh("read -r line; echo '{\"b\":2}'");
    for way in SESSIONS.into_iter().chain(WEB).chain(SOCKETS) {
        ends(way, &program, INPUT, OUTPUT, None);
    }
}

#[test]
fn clients_of_sessions_and_of_the_web_learn_of_unread_input_after_a_clean_end() {
    let program = sh("read -r line; echo '{\"b\":2}'");
    let input = INPUT.repeat(2);
    for (ways, error) in [
        (&SESSIONS[..], "the far side ended without reading the last 8 bytes of its input"),
        (&WEB[..], "the last 8 bytes sent were not read before the program ended"),
    ] {
        for way in ways {
            ends(*way, &program, &input, OUTPUT, Some(error));
        }
    }
}

/// The server keeps an EventSource's session, which ends before the last events are acknowledged.
#[test]
fn an_event_source_gets_the_reason_in_its_last_event() {
    for (messages, script, reason) in [
        (1, "exit 3", r#"{"code":1011,"reason":"the program has failed with exit status 3"}"#),
        (
            2,
            "exit 0",
            r#"{"code":1011,"reason":"the last 8 bytes sent were not read before the program ended"}"#,
        ),
    ] {
        let site = Site::start(&sh(&format!("read -r line; echo bye; {script}")));
        let curl = |url: &str| {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--no-buffer", "--max-time", "60", url]);
            curl.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
            curl
        };
        let mut events = Program::start(&mut curl(&format!("{}/sse", site.endpoint)));
        let mut data = || loop {
            let line = events.line().unwrap();
            if let Some(data) = line.strip_prefix("data: ") {
                return data.to_owned();
            }
        };
        let mut post = curl(&format!("{}/{}", site.endpoint, data()));
        let input = INPUT.repeat(messages);
        assert_eq!(Program::run(post.args(["--data-binary", &input]), "").code, Some(0));
        assert_eq!([data(), data()], ["bye", reason]);
        assert_eq!(events.wait().code, Some(0));
        site.stop();
    }
}

/// docs/web-protocol.md says so.
#[test]
fn a_plain_socket_cannot_say_that_the_program_failed() {
    let program = sh("read -r line; echo '{\"b\":2}'; exit 3");
    for way in SOCKETS {
        ends(way, &program, INPUT, OUTPUT, None);
    }
}
