//! What `tieline` takes over from the process that started it, and what its programs get of that.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::{Client, Program, Serve, Talk, path_of, tieline};

/// Prints the variables of the program, and then those of its guardian.
const VARIABLES: &str = "env; echo guardian; tr '\\0' '\\n' < /proc/$PPID/environ; echo end";

/// A command in whose environment there is a token, and another variable.
fn with_token<const N: usize>(args: [&str; N]) -> std::process::Command {
    let mut command = tieline(args);
    command.env("TIELINE_TOKEN", "a-token-of-more-than-twenty").env("OTHER", "is-kept");
    command
}

#[track_caller]
fn assert_has_no_token(variables: &str) {
    let (program, guardian) = variables.split_once("\nguardian\n").expect(variables);
    assert!(program.contains("OTHER=is-kept"), "{variables}");
    assert!(guardian.ends_with("end\n"), "{variables}");
    assert!(!variables.contains("TIELINE_TOKEN"), "{variables}");
    assert!(!guardian.contains("OTHER"), "the guardian needs no variables: {variables}");
}

#[test]
fn no_command_hands_the_token_to_a_program_or_its_guardian() {
    let exec = format!("exec:{}", serde_json::json!(["sh", "-c", VARIABLES]));
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("a.sock").display());

    assert_has_no_token(&Program::run(&mut with_token(["connect", &exec]), "").stdout);
    assert_has_no_token(&Program::run(&mut with_token(["bridge", "stdio:", &exec]), "").stdout);

    let mut chaos = Program::start(&mut with_token(["chaos", &socket, &exec]));
    let endpoint = chaos.line().unwrap();
    assert_has_no_token(&String::from_utf8(Client::connect(&path_of(&endpoint)).rest()).unwrap());
    drop(chaos);

    let mut command = with_token(["serve", "--listen", &socket, "--", "sh", "-c", VARIABLES]);
    let serve = Serve::launch(&mut command, 1, "unused".into(), tempfile::tempdir().unwrap());
    assert_has_no_token(&String::from_utf8(serve.client().rest()).unwrap());
    serve.stop();

    // These two commands print something else than what the program says: it leaves a file.
    let (script, left) = (directory.path().join("script"), directory.path().join("left"));
    fs::write(&script, format!("#!/bin/sh\n({VARIABLES}) > {}\n", left.display())).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();
    let script = script.to_str().unwrap();
    let call = ["call", &format!("exec:{script}"), "method"];
    let claude = ["claude", "-p", "hello", "--program", script];
    for mut command in [with_token(call), with_token(claude)] {
        Program::run(&mut command, "");
        assert_has_no_token(&taken(&left));
    }
}

/// What is in the file, which is removed.
fn taken(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    fs::remove_file(file).unwrap();
    text
}
