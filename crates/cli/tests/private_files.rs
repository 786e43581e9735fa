//! Tests of the files that the program creates or reads: recordings and secrets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Program, Talk, tieline};

/// Number of messages. Each has a record of about 100 bytes, so far more are sent than fit within the
/// limit.
const MESSAGES: usize = 3000;

/// Returns a `tieline` command with a file size limit of 16 KiB. As on a full disk, the last write is
/// partial.
fn with_small_files(args: &[&str]) -> Command {
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 32; exec \"$@\"";
    limited.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tieline")]).args(args);
    limited
}

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn a_full_disk_leaves_whole_records_in_the_tap_and_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let tap = directory.path().join("tap");
    let args = ["connect", "--tap", tap.to_str().unwrap(), "exec:cat"];
    let input = "{\"x\":\"0123456789\"}\n".repeat(MESSAGES);
    let finished = Program::run(&mut with_small_files(&args), &input);
    // The line itself is not affected.
    assert_eq!(finished.stdout, input);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let said = finished.stderr.lines().last().unwrap();
    let missing = said.strip_prefix("tieline: the --tap file is incomplete: ").expect(said);
    let (missing, _) = missing.split_once(" messages could not be written: ").expect(said);
    let recorded = records(&tap);
    assert!(!recorded.is_empty());
    assert_eq!(recorded.len() + missing.parse::<usize>().unwrap(), 2 * MESSAGES);

    // The next run appends to the file.
    let finished = Program::run(&mut tieline(args), "{\"n\":1}\n");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(records(&tap).len(), recorded.len() + 2);
}

#[test]
fn a_server_whose_tap_is_incomplete_ends_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("s").display());
    let args = ["serve", "--no-status", "--tap", "/dev/full", "--listen", &socket, "--", "cat"];
    let mut serve = Program::start(&mut tieline(args));
    assert_eq!(serve.line().as_deref(), Some(&*socket));
    let finished = Program::run(&mut tieline(["connect", &socket]), "{\"n\":1}\n");
    assert_eq!(finished.stdout, "{\"n\":1}\n");
    serve.signal(rustix::process::Signal::TERM);
    let finished = serve.finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("the --tap file is incomplete: 2 messages"), "{finished:?}");
}

#[test]
fn the_tap_is_private_and_never_written_to_a_file_of_another_user() {
    let directory = tempfile::tempdir().unwrap();
    let tap = directory.path().join("tap");
    let args = ["connect", "--tap", tap.to_str().unwrap(), "exec:cat"];
    let mut careless = Command::new("sh");
    careless.args(["-c", "umask 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_tieline")]).args(args);
    assert_eq!(Program::run(&mut careless, "1\n").code, Some(0));
    assert_eq!(tap.metadata().unwrap().mode() & 0o777, 0o600);

    // An existing file that others can read is accepted with a warning.
    std::fs::set_permissions(&tap, PermissionsExt::from_mode(0o644)).unwrap();
    let finished = Program::run(&mut tieline(args), "1\n");
    assert_eq!(finished.code, Some(0));
    assert!(finished.stderr.contains("can be read by every user"), "{finished:?}");

    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&tap, &link).unwrap();
    let finished =
        Program::run(&mut tieline(["connect", "--tap", link.to_str().unwrap(), "exec:cat"]), "1\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""));
    assert!(finished.stderr.contains("a symbolic link"), "{finished:?}");

    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root, "needs root to change a file's owner; run the tests as root, as CI does");
    std::os::unix::fs::chown(&tap, Some(65_534), None).unwrap();
    let finished = Program::run(&mut tieline(args), "1\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""));
    assert!(finished.stderr.contains("belongs to another user"), "{finished:?}");
}

#[test]
fn a_warning_names_token_and_key_files_that_others_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123\n").unwrap();
    let key = directory.path().join("key");
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("../http/tests/tls");
    std::fs::copy(tls.join("server.key.pem"), &key).unwrap();
    let certificate = tls.join("server.pem");
    let web = format!("http-unix:{}", directory.path().join("web").display());
    for (mode, is_warned_of) in [(0o600, false), (0o640, false), (0o644, true), (0o666, true)] {
        for file in [&token, &key] {
            std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut serve = tieline(["serve", "--no-status", "--listen", &web, "--token-file"]);
        serve.arg(&token).arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
        serve.args(["--", "cat"]);
        let mut serve = Program::start(&mut serve);
        assert_eq!(serve.line().as_deref(), Some(&*web));
        serve.signal(rustix::process::Signal::TERM);
        let finished = serve.finish();
        for file in [&token, &key] {
            let warned = format!("{} can be ", file.display());
            assert_eq!(finished.stderr.contains(&warned), is_warned_of, "{mode:o}: {finished:?}");
        }
    }
}
