//! Tests of the command line: options, help, exit status, log lines and the tap.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::{Finished, Program, Serve, Talk, request, sh, tieline, until};

#[test]
fn usage_errors_exit_with_status_2_and_say_what_is_wrong() {
    for (line, complaint) in [
        (&[][..], "Usage: tieline"),
        (&["--no-such-option"], "--no-such-option"),
        (&["no-such-command"], "no-such-command"),
        (&["serve", "--no-such-option"], "--no-such-option"),
        (&["serve", "cat"], "Usage: tieline serve [OPTIONS] [-- <COMMAND>...]"),
        (&["serve", "cat"], "write `--` before the program and its arguments: -- cat"),
        (
            &["serve", "--resume", "--listen", "content-length+unix:/a"],
            "leave out `content-length+`",
        ),
        (&["connect", "--resume", "lines+unix:/a"], "leave out `lines+`, or --resume"),
        (&["connect"], "<ENDPOINT>"),
        (&["connect", "a.sock"], "write it like unix:"),
        (&["connect", "unix:"], "`unix:` needs a path"),
        (&["connect", "exec:"], "`exec:` needs a program"),
        (&["connect", "exec:a 'b"], "a quote is not closed"),
        (&["connect", "exec:[\"a\""], "not a JSON array"),
        (&["connect", "mem:a"], "`mem:` connects parts of one process"),
        (&["connect", "morse+unix:/a"], "framing"),
        (&["connect", "morse:a"], "unknown scheme; the known schemes are"),
        (&["connect", "pipe:a"], "named pipes exist only on Windows; use unix: here"),
        (&["serve", "--listen", "stdio:"], "stdin and stdout are one line; connect to it"),
        (&["serve", "--listen", "exec:cat"], "connect to it"),
        (&["serve", "--listen", "unix:@a"], "listen on a path"),
        (&["bridge", "stdio:"], "<ENDPOINT>"),
        (&["serve", "--max-message", "12XB"], "not a size in bytes; write"),
        (&["serve", "--max-message", "-1"], "'-1'"),
        (
            &["connect", "exec:cat", "--max-message", "0"],
            "'--max-message <SIZE>': must be between 1 B and",
        ),
        (
            &["claude", "-p", "a", "--max-message", "5GiB"],
            "'--max-message <SIZE>': must be between 1 B and",
        ),
        (&["serve", "--stall-timeout", "5"], "time unit needed"),
        (
            &["connect", "exec:cat", "--stall-timeout", "0s"],
            "'--stall-timeout <TIME>': must be longer than zero",
        ),
        (&["serve", "--max-connections", "0"], "not a whole number above 0"),
        (&["serve", "--env", "=a"], "not of the form NAME=VALUE"),
        (
            &["serve", "--framing", "morse"],
            "the framings are lines, content-length and length-prefix",
        ),
        (&["serve", "--framing", "content-length"], "the built-in agent uses lines"),
        (&["serve", "--allow-uid", "root"], "--allow-uid"),
        (&["serve", "-q", "-v"], "cannot be used with"),
        (&["completions", "morse"], "possible values: bash"),
    ] {
        let finished = Program::run(&mut tieline(line), "");
        assert_eq!((finished.code, &*finished.stdout), (Some(2), ""), "{line:?}: {finished:?}");
        assert!(finished.stderr.contains(complaint), "{line:?}: {finished:?}");
    }
}

#[test]
fn every_subcommand_has_help_with_examples() {
    let help = |line: &[&str]| {
        let finished = Program::run(&mut tieline(line), "");
        assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{line:?}: {finished:?}");
        assert!(finished.stdout.contains("\nExamples:\n"), "{line:?}: {finished:?}");
        let widest = finished.stdout.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(120), "{line:?}: {widest:?}");
        finished.stdout
    };
    let all = help(&["--help"]);
    let (_, commands) = all.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 5 && names.contains(&"serve"), "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        assert_eq!(help(&["help", name]), help(&[name, "--help"]));
        for flag in ["--help", "-h"] {
            let usage = format!("Usage: tieline {name}");
            assert!(help(&[name, flag]).contains(&usage), "{name}");
        }
    }
    let version = Program::run(&mut tieline(["--version"]), "");
    assert_eq!(version.stdout, concat!("tieline ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn completions_are_scripts_for_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = Program::run(&mut tieline(["completions", shell]), "");
        assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
        for word in ["tieline", "serve", "max-connections"] {
            assert!(finished.stdout.contains(word), "no {word} for {shell}");
        }
        for hidden in ["start-as", "serve-as", "hold"] {
            let is_offered = finished.stdout.contains(&format!("-{hidden}"))
                || finished.stdout.contains(&format!("-l {hidden} "));
            assert!(!is_offered, "{hidden} for {shell}");
        }
        if shell == "bash" {
            // Only bash is installed on every machine that runs the tests.
            let check = Program::run(std::process::Command::new("bash").arg("-n"), finished.stdout);
            assert_eq!((check.code, &*check.stderr), (Some(0), ""), "{check:?}");
        }
    }
}

/// Serves two messages. The second one makes the program fail, so that there is something to log.
fn serve_and_fail(serve: Serve) -> Finished {
    let mut client = serve.client();
    client.send("ok");
    assert_eq!(client.line().as_deref(), Some("ok"));
    client.send("fail");
    assert_eq!(client.line(), None);
    drop(client);
    serve.stop()
}

const OBEDIENT: &str =
    r#"while read -r word; do [ "$word" = fail ] && exit 7; echo "$word"; echo "$word" >&2; done"#;

#[test]
fn quiet_prints_only_errors() {
    let serve = Serve::start([&["-q"][..], &sh("cat")].concat());
    assert_eq!(Program::run(serve.connect().arg("-q"), "hello\n").stderr, "");
    assert_eq!(serve.stop().stderr, "");

    let finished = Program::run(&mut tieline(["connect", "-q", "unix:/no/such.sock"]), "");
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("the directory /no does not exist"), "{finished:?}");
}

#[test]
fn log_lines_are_json_objects_with_log_format_json() {
    let objects = |stderr: &str| -> Vec<Value> {
        stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    let args = [&["--log-format", "json", "-vv"][..], &sh(OBEDIENT)].concat();
    let finished = serve_and_fail(Serve::start(args));
    let log = objects(&finished.stderr);
    for level in ["INFO", "WARN"] {
        assert!(log.iter().any(|line| line["level"] == level), "no {level}: {finished:?}");
    }
    for line in &log {
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        assert!(line["message"].is_string() && line["target"].is_string(), "{line}");
    }
    let ended = log.iter().find(|line| line["level"] == "WARN").unwrap();
    assert_eq!((&ended["line"], &ended["to_far"]), (&json!(1), &json!(2)));
    let word = log.iter().find(|line| line["target"] == "tieline::child").unwrap();
    assert_eq!((&word["message"], &word["child"]), (&json!("ok"), &json!("sh")));

    // The error of a command that fails is a JSON line, too.
    let args = ["connect", "--log-format", "json", "unix:/no/such.sock"];
    let failed = Program::run(&mut tieline(args), "");
    assert_eq!(failed.code, Some(1));
    let log = objects(&failed.stderr);
    assert_eq!(log.len(), 1, "{failed:?}");
    assert_eq!(log[0]["level"], "ERROR");
    assert!(log[0]["message"].as_str().unwrap().contains("unix:/no/such.sock"), "{failed:?}");
    assert!(log[0]["hint"].is_string(), "{failed:?}");
}

#[test]
fn rust_log_selects_what_is_logged() {
    let with = |directives: &str| {
        let path = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}", path.path().join("a.sock").display());
        let args = [&["serve", "--listen", &listen][..], &sh(OBEDIENT)].concat();
        let mut command = tieline(args);
        let serve = Serve::launch(command.env("RUST_LOG", directives), 1, "unused".into(), path);
        serve_and_fail(serve).stderr
    };
    let said = with("error");
    assert!(!said.contains("INFO") && !said.contains("WARN"), "{said}");
    let said = with("tieline_gateway=warn");
    assert!(!said.contains("INFO") && said.contains("WARN"), "{said}");
    let said = with("off,tieline::child=info");
    assert!(said.contains("ok") && !said.contains("WARN"), "{said}");
    let said = with("trace");
    assert!(said.contains("INFO") && said.contains("WARN"), "{said}");
    let said = with("a=b=c");
    assert!(said.contains("ignoring RUST_LOG, which is invalid"), "{said}");
    assert!(said.contains("INFO"), "{said}");
}

#[test]
fn no_escape_sequences_are_printed_without_a_terminal() {
    let script = r"printf '\033[31mred\033[0m\007\n' >&2; cat; exit 1";
    let serve = Serve::start([&["-vv"][..], &sh(script)].concat());
    let finished = Program::run(serve.connect().arg("-vv"), "hello\n");
    assert!(!finished.stderr.contains('\u{1b}'), "{finished:?}");
    let finished = serve.stop();
    assert!(finished.stderr.contains(r"\u001b[31mred"), "{finished:?}");
    assert!(!finished.stderr.contains('\u{1b}'), "{finished:?}");
    for line in [&["--help"][..], &["serve", "--nonsense"], &["connect", "unix:/no/such.sock"]] {
        let finished = Program::run(&mut tieline(line), "");
        let said = finished.stdout + &finished.stderr;
        assert!(!said.is_empty() && !said.contains('\u{1b}'), "{said}");
    }
}

#[test]
fn a_server_whose_output_is_not_read_still_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let listen = format!("unix:{}", path.display());
    let mut command = tieline(["serve", "-vv", "--listen", &listen, "--", "cat"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdin(std::process::Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut serve = command.spawn().unwrap();
    until("it listens", || path.exists());
    for _ in 0..3 {
        let finished = Program::run(&mut tieline(["connect", &listen]), "hello\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "hello\n"), "{finished:?}");
    }
    let pid = rustix::process::Pid::from_child(&serve);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(serve.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn the_tap_records_both_directions_and_only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tap.ndjson");
    let tap = ["--tap", file.to_str().unwrap()];
    let records = || -> Vec<Value> {
        let text = fs::read_to_string(&file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    let serve = Serve::start(tap);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let mut client = serve.client();
    let question = request(1, "add", json!([2, 3]));
    let answer = client.call(&question);
    // The file can be read while it is written.
    until("the tap has both", || records().len() == 2);
    client.send_raw(b"nonsense\n\xff\n");
    assert_eq!(
        (client.json()["id"].clone(), client.json()["id"].clone()),
        (json!(null), json!(null))
    );
    let mut second = serve.client();
    second.call(&question);
    serve.stop();

    let records = records();
    assert_eq!(records.len(), 8);
    for record in &records {
        let time = record["time"].as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{record}");
    }
    let first_line = |from: &str| {
        let is_it = |r: &&Value| r["line"] == 1 && r["from"] == from;
        records.iter().filter(is_it).cloned().collect::<Vec<_>>()
    };
    let [asked, nonsense, bytes] = &first_line("client")[..] else { panic!("{records:?}") };
    assert_eq!(asked["message"], question);
    assert_eq!((&nonsense["text"], &bytes["hex"]), (&json!("nonsense"), &json!("ff")));
    assert_eq!(first_line("server")[0]["message"], answer);
    assert_eq!(records.iter().filter(|record| record["line"] == 2).count(), 2);

    // Another run appends to the file.
    let args = [&["connect", "exec:cat"][..], &tap].concat();
    let finished = Program::run(&mut tieline(args), "{\"a\":1}\n");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 10);

    let finished = Program::run(&mut tieline(["serve", "--tap", "/no/such/tap"]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("/no/such/tap"), "{finished:?}");
}
