//! Tests of `tieline doctor` on this machine, and with limits and directories that cause problems.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Finished, Program, copied, tieline};

/// Returns a `tieline doctor` command with its own runtime directory.
fn doctor(runtime: &Path, args: &[&str]) -> Command {
    let mut command = tieline(["doctor"]);
    command.args(args).env("XDG_RUNTIME_DIR", runtime);
    command
}

/// Returns the state of a check, and its line.
#[track_caller]
fn finding<'a>(finished: &'a Finished, check: &str) -> (&'a str, &'a str) {
    let of = |line: &'a str| {
        let (state, rest) = line.split_once(' ')?;
        rest.trim_start().strip_prefix(check)?.starts_with(": ").then_some((state, line))
    };
    let found = finished.stdout.lines().find_map(of);
    found.unwrap_or_else(|| panic!("no check of {check}: {finished:?}"))
}

#[test]
fn a_working_machine_gets_one_line_for_each_check() {
    let runtime = tempfile::tempdir().unwrap();
    let finished = Program::run(&mut doctor(runtime.path(), &[]), "");
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
    for check in ["runtime directory", "Unix sockets", "abstract sockets", "programs", "orphans"] {
        assert_eq!(finding(&finished, check).0, "ok", "{finished:?}");
    }
    // The results of these checks depend on the machine.
    for check in
        ["open files", "threads", "cgroups", "isolation", "memory", "TLS roots", "terminal"]
    {
        assert_ne!(finding(&finished, check).0, "problem", "{finished:?}");
    }
    assert_eq!(finished.stdout.lines().count(), 12, "{finished:?}");
    // Only the directory itself remains.
    let left = fs::read_dir(runtime.path().join("tieline")).unwrap().count();
    assert_eq!(left, 0, "something is left in the runtime directory");
}

#[test]
fn json_has_the_same_checks() {
    let runtime = tempfile::tempdir().unwrap();
    fs::write(runtime.path().join("tieline"), "").unwrap();
    let finished = Program::run(&mut doctor(runtime.path(), &["--json"]), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let bad = checks.iter().find(|it| it["state"] == "problem").unwrap();
    assert_eq!(bad["check"], "runtime directory");
    assert!(bad["advice"].as_str().unwrap().contains("XDG_RUNTIME_DIR"), "{bad}");
    assert!(checks.iter().any(|it| it["state"] == "ok" && it["advice"].is_null()), "{report}");
    assert!(finished.stderr.contains("1 check found a problem"), "{finished:?}");
}

#[test]
fn an_unusable_runtime_directory_is_a_problem() {
    let base = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    let runtime = |name: &str| {
        let path = base.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (file, shared) = (runtime("file"), runtime("shared"));
    fs::write(file.join("tieline"), "").unwrap();
    fs::create_dir(shared.join("tieline")).unwrap();
    open(&shared.join("tieline"), 0o755).unwrap();
    for (runtime, says) in
        [(&file, "is not a directory"), (&shared, "accessible to other users; run chmod 700")]
    {
        let finished = Program::run(&mut doctor(runtime, &[]), "");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let (state, line) = finding(&finished, "runtime directory");
        assert!(state == "problem" && line.contains(says), "{line}");
        // The other checks still run.
        assert_eq!(finding(&finished, "programs").0, "ok", "{finished:?}");
    }
    // This path is too long for a socket.
    let long = runtime(&"x".repeat(80));
    let finished = Program::run(&mut doctor(&long, &[]), "");
    let (state, line) = finding(&finished, "Unix sockets");
    assert!(state == "problem" && line.contains("short path"), "{line}");
    // The user may not write in this directory, unless the user is root.
    let closed = runtime("closed");
    open(&closed, 0o555).unwrap();
    let mut command = doctor(&closed, &[]);
    if rustix::process::geteuid().is_root() {
        let program = copied(base.path());
        command = Command::new(program);
        command.arg("doctor").env("XDG_RUNTIME_DIR", &closed).uid(65_534).gid(65_534);
    }
    let finished = Program::run(&mut command, "");
    let (state, line) = finding(&finished, "runtime directory");
    assert!(state == "problem" && line.contains("cannot create"), "{line}");
}

/// Runs `tieline doctor` in a shell that first lowers a limit.
fn limited(limit: &str) -> Finished {
    let runtime = tempfile::tempdir().unwrap();
    let script = format!("{limit} && exec \"$0\" doctor");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tieline")]);
    Program::run(command.env("XDG_RUNTIME_DIR", runtime.path()), "")
}

#[test]
fn low_limits_are_found_without_a_crash() {
    let few = limited("ulimit -n 200");
    let (state, line) = finding(&few, "open files");
    assert!(state == "warning" && line.contains("administrator can raise"), "{line}");
    assert_eq!(few.code, Some(0), "{few:?}");
    let soft = limited("ulimit -S -n 200");
    assert!(finding(&soft, "open files").1.contains("raise it with ulimit -n"), "{soft:?}");
    // With so few descriptors, nothing can be started, so the checks that need descriptors are skipped.
    let none = limited("ulimit -n 8");
    assert_eq!(none.code, Some(1), "{none:?}");
    assert_eq!(finding(&none, "open files").0, "problem");
    assert_eq!(finding(&none, "threads").0, "problem");
    assert!(!none.stdout.contains("programs: ") && !none.stderr.contains("panic"), "{none:?}");
}

#[test]
fn missing_root_certificates_and_little_memory_are_warnings() {
    let runtime = tempfile::tempdir().unwrap();
    let mut command = doctor(runtime.path(), &[]);
    let missing = runtime.path().join("no-such-file");
    command.env("SSL_CERT_FILE", &missing).env("SSL_CERT_DIR", &missing);
    let finished = Program::run(&mut command, "");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let (state, line) = finding(&finished, "TLS roots");
    assert!(state == "warning" && line.contains("--tls-ca"), "{line}");
    let little = limited("ulimit -v 240000");
    let (state, line) = finding(&little, "memory");
    assert!(state == "warning" && line.contains("--max-message"), "{little:?}");
}
