//! Tests that text from other processes is escaped on a terminal.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use support::tieline;
use tieline_testkit::executable;

/// Runs the command with stdout on a terminal. Returns its output there and on stderr.
fn on_a_terminal(command: &mut Command) -> (String, String) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let stdout = ioctl_tiocgptpeer(&terminal, flags).unwrap();
    let child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
    // This drops the parent's copy of the terminal's other end, so that only the child process keeps it
    // open.
    command.stdout(Stdio::null());
    let mut printed = Vec::new();
    // Reading a terminal whose other end is closed fails with EIO.
    let _ = File::from(terminal).read_to_end(&mut printed);
    let said = child.wait_with_output().unwrap().stderr;
    (String::from_utf8_lossy(&printed).replace("\r\n", "\n"), String::from_utf8(said).unwrap())
}

fn program(script: &str) -> String {
    format!("exec:{}", serde_json::json!(["sh", "-c", script]))
}

const TITLE: &str = r#"printf '\033]0;PWNED\007plain \302\2331m \2331m\n'"#;

#[test]
fn connect_escapes_control_characters_only_on_a_terminal() {
    let escaped = "\\u001b]0;PWNED\\u0007plain \\u009b1m \\x9b1m\n";
    let raw = b"\x1b]0;PWNED\x07plain \xc2\x9b1m \x9b1m\n";
    let endpoint = program(TITLE);
    for command in [&["connect", &endpoint][..], &["bridge", "stdio:", &endpoint]] {
        let (printed, said) = on_a_terminal(&mut tieline(command));
        assert_eq!(printed, escaped, "{said}");
        let (printed, _) = on_a_terminal(tieline(command).arg("--raw"));
        assert!(printed.contains("\u{1b}]0;PWNED\u{7}"), "{printed:?}");
        let output = tieline(command).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.stdout, raw);
    }
}

#[test]
fn a_call_escapes_results_and_errors_on_a_terminal() {
    let endpoint = program(
        r#"read line
        printf '{"jsonrpc":"2.0","method":"n","params":["\302\2350;PWNED\302\234"]}\n'
        printf '{"jsonrpc":"2.0","id":1,"result":["\302\2350;PWNED\177"]}\n'"#,
    );
    let (printed, said) = on_a_terminal(&mut tieline(["call", "--follow", &endpoint, "m"]));
    let notification = r#"{"jsonrpc":"2.0","method":"n","params":["\u009d0;PWNED\u009c"]}"#;
    assert_eq!(printed, format!("{notification}\n[\n  \"\\u009d0;PWNED\\u007f\"\n]\n"), "{said}");

    let endpoint = program(
        r#"read line
        printf '{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x\\n2026-01-01T00:00:00Z  INFO all is well"}}\n'"#,
    );
    let (_, said) = on_a_terminal(&mut tieline(["call", &endpoint, "m"]));
    let expected = ": m: error -1: x\\n2026-01-01T00:00:00Z  INFO all is well\n";
    assert!(said.ends_with(expected) && said.lines().count() == 1, "{said}");
}

#[test]
fn the_text_of_an_answer_is_escaped_on_a_terminal() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("program");
    let said = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"\u001b[1mone\ntwo\u009b"}]}}"#;
    let result = r#"{"type":"result","subtype":"success","result":""}"#;
    executable::write(&path, &format!("#!/bin/sh\nprintf '%s\\n' '{said}' '{result}'\n"));
    let mut command = tieline(["claude", "-p", "hello", "--program", path.to_str().unwrap()]);
    let (printed, said) = on_a_terminal(&mut command);
    assert_eq!(printed, "\\u001b[1mone\ntwo\\u009b\n", "{said}");
}
