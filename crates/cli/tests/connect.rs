//! Tests of `tieline connect` and `tieline bridge` in shell pipelines.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Program, Serve, Talk, closed_port, request, tieline, until};

#[test]
fn answers_after_the_end_of_stdin_are_printed() {
    let serve = Serve::start::<&str>([]);
    let questions: String =
        (1..=50).map(|id| format!("{}\n", request(id, "sleep", json!([300 - id])))).collect();
    for mut connect in [serve.connect(), tieline(["connect", &demo_agent()])] {
        let finished = Program::run(&mut connect, &questions);
        assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
        let mut answered: Vec<u64> = finished
            .stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64().unwrap())
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, (1..=50).collect::<Vec<_>>());
    }
}

#[test]
fn a_last_line_without_newline_is_sent() {
    let serve = Serve::start(["--", "cat"]);
    let finished = Program::run(&mut serve.connect(), "one\r\n\ntwo");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "one\ntwo\n"), "{finished:?}");
}

#[test]
fn the_error_for_an_address_without_a_server_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("unix:{}", directory.path().join(name).display());
    tieline_testkit::wait::leave_dead_socket(&directory.path().join("dead"));
    std::fs::write(directory.path().join("file"), "").unwrap();
    for (endpoint, problem, hint) in [
        (at("none"), "nothing exists at this address", "start the server first"),
        (at("dead"), "no process is listening there", "start it again"),
        (at("file"), "not a socket", "check the path"),
        (at("no/such"), "does not exist", "hint: "),
        (at(&"x".repeat(200)), "the limit for sockets is", "use a shorter path"),
        ("unix:@tieline-no-such".into(), "nothing exists", "start the server first"),
        ("exec:no-such-program".into(), "program not found; searched /", "install it"),
    ] {
        let finished = Program::run(&mut tieline(["connect", &endpoint]), "unsent\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{endpoint}: {finished:?}");
        for words in [problem, hint] {
            assert!(finished.stderr.contains(words), "{endpoint}: no `{words}`: {finished:?}");
        }
    }
}

#[test]
fn the_exit_status_reports_how_the_program_ended() {
    for (script, code, said) in [
        ("exit 0", 0, ""),
        ("exit 3", 1, "exit status: 3"),
        ("echo no >&2; exit 1", 1, "last line on stderr: no"),
        ("kill -9 $$", 1, "signal: 9 (SIGKILL)"),
        ("cat; exit 4", 1, "exit status: 4"),
    ] {
        let finished =
            Program::run(&mut tieline(["connect", &format!("exec:sh -c '{script}'")]), "");
        assert_eq!(finished.code, Some(code), "{script}: {finished:?}");
        assert!(finished.stderr.contains(said), "{script}: {finished:?}");
    }
}

#[test]
fn connect_ends_when_the_server_stops() {
    let serve = Serve::start(["--", "cat"]);
    let mut connect = Program::start(&mut serve.connect());
    connect.send("hello");
    assert_eq!(connect.line().as_deref(), Some("hello"));
    serve.stop();
    // The stdin of `connect` is still open.
    let finished = connect.wait();
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "hello\n"), "{finished:?}");
}

#[test]
fn closing_stdout_early_ends_connect_without_a_panic() {
    for endpoint in [demo_agent(), format!("exec:yes {}", "y".repeat(1000))] {
        let mut connect = tieline(["connect", &endpoint]);
        connect.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut connect = connect.spawn().unwrap();
        // `connect` may exit before it has read everything.
        let _ = std::io::Write::write_all(
            connect.stdin.as_mut().unwrap(),
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"count\",\"params\":[1000000]}\n",
        );
        let mut head = Command::new("head");
        let said = head.arg("-1").stdin(connect.stdout.take().unwrap()).output().unwrap();
        assert!(!said.stdout.is_empty());
        // The command keeps its end of the pipe open until it is dropped.
        drop(head);
        // The stdin of `connect` is still open, so only the closed stdout can end it.
        let mut stderr = String::new();
        let pipe = connect.stderr.as_mut().unwrap();
        std::io::Read::read_to_string(pipe, &mut stderr).unwrap();
        assert_eq!(connect.wait().unwrap().code(), Some(1), "{stderr}");
        assert!(stderr.contains("the client's side has ended"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn error_says_how_much_was_written_to_a_stdout_that_was_closed() {
    // The output does not fit into the pipe, and fits into the queues before it.
    let mut connect = tieline(["connect", "exec:seq 60000"]);
    connect.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut connect = connect.spawn().unwrap();
    let mut read = [0; 10_000];
    std::io::Read::read_exact(connect.stdout.as_mut().unwrap(), &mut read).unwrap();
    drop(connect.stdout.take());
    let output = connect.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let number = |after: &str| -> u64 {
        let text = stderr.split_once(after).unwrap_or_else(|| panic!("{stderr}")).1;
        text.split_once(' ').unwrap().0.parse().unwrap()
    };
    let (written, lost) = (number("; written to stdout: "), number(", not written: at least "));
    let all: u64 = (1..=60_000).map(|number: u64| number.to_string().len() as u64 + 1).sum();
    assert!(written >= read.len() as u64 && lost > 0 && written + lost <= all, "{stderr}");
}

#[test]
fn an_output_error_on_stdout_is_named_as_the_reason() {
    let mut connect = Command::new("sh");
    connect.args(["-c", r#"exec "$0" connect "$1" > /dev/full"#]);
    connect.args([env!("CARGO_BIN_EXE_tieline"), "exec:cat"]);
    let finished = Program::run(&mut connect, "hello\n");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("no storage space"), "{finished:?}");
}

#[test]
fn stdio_can_be_only_one_of_the_two_sides() {
    for line in [&["bridge", "stdio:", "stdio:"][..], &["connect", "stdio:"]] {
        // stdin stays open, so the test would hang if the command waited for its end.
        let mut program = Program::start(&mut tieline(line));
        let finished = program.wait();
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{line:?}: {finished:?}");
        let says = "stdio: stdin and stdout are already in use";
        assert!(finished.stderr.contains(says), "{finished:?}");
    }
}

#[test]
fn stdin_is_not_read_before_the_other_side_is_connected() {
    let finished = Program::run(
        Command::new("sh")
            .args(["-c", r#"printf 'a\nb\n' | { "$0" connect unix:/no/such 2> /dev/null; cat; }"#])
            .arg(env!("CARGO_BIN_EXE_tieline")),
        "",
    );
    assert_eq!(finished.stdout, "a\nb\n");
}

#[test]
fn a_stopped_bridge_ends_the_input_of_both_servers() {
    let near = Serve::in_framings(&["length-prefix+"], ["--", "cat"]);
    let far = Serve::in_framings(&["content-length+"], ["--", "cat"]);
    for _ in 0..5 {
        // No message is sent, because both servers echo, so it would circulate forever.
        let mut bridge = Program::start(&mut tieline(["bridge", near.endpoint(), far.endpoint()]));
        near.wait_processes(1);
        far.wait_processes(1);
        bridge.signal(rustix::process::Signal::TERM);
        assert_eq!(bridge.wait().code, Some(1));
        near.wait_nothing_left();
        far.wait_nothing_left();
    }
    // No program failed, so each one received the end of its input, and its client did not just
    // disconnect.
    let finished = far.stop();
    assert!(finished.stderr.contains("served=5 refused=0 failed=0"), "{finished:?}");
}

#[test]
fn lines_pass_through_a_chain_of_framings_unchanged() {
    let serve =
        Serve::in_framings(&["length-prefix+"], ["--framing", "content-length", "--", "cat"]);
    let message = json!({ "text": "ünï\n\"x\"\u{7f}", "n": 12345678901234567890u64, "e": 1e-7 });
    let raw = format!("{message}\n{}\n", r#"{"a":1,  "a":2, "b":0.10000000000000000555}"#);
    let finished = Program::run(&mut serve.connect(), &raw);
    assert_eq!(finished.stdout, raw, "{finished:?}");
    assert_eq!(finished.code, Some(0));
}

#[test]
fn a_message_of_the_largest_size_passes() {
    let serve = Serve::start(["--", "cat"]);
    let line = format!("\"{}\"\n", "x".repeat((16 << 20) - 2));
    let finished = Program::run(&mut serve.connect(), &line);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout == line, "{} bytes came back", finished.stdout.len());
}

#[test]
fn a_slow_reader_loses_nothing() {
    // The client reads slowly, and far more output is waiting than all buffers can hold.
    let serve = Serve::start(["--", "seq", "1", "300000"]);
    let mut client = serve.client();
    for number in 1..=1000 {
        assert_eq!(client.line(), Some(number.to_string()));
    }
    until("the program waits for its reader", || {
        serve.processes().iter().any(|pid| is_waiting_to_write(*pid))
    });
    for number in 1001..=300_000 {
        assert_eq!(client.line(), Some(number.to_string()));
    }
    assert_eq!(client.line(), None);
}

/// Returns whether a process is blocked writing to a full pipe.
fn is_waiting_to_write(pid: u32) -> bool {
    let place = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    place.contains("pipe_write")
}

fn demo_agent() -> String {
    format!("exec:{}", json!([env!("CARGO_BIN_EXE_tieline"), "demo-agent"]))
}

/// The errors of endpoints without a listener name them as the user wrote them.
#[test]
fn errors_name_the_endpoint_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().join("nothing.sock");
    let (_closed, address) = closed_port();
    let port = address.port();
    for endpoint in [
        format!("unix:{}", nothing.display()),
        format!("tcp:127.0.0.1:{port}"),
        format!("ws://127.0.0.1:{port}/ws"),
        format!("http://127.0.0.1:{port}/sse"),
        format!("ws-unix:{}", nothing.display()),
    ] {
        for front in ["", "resume+", "content-length+"] {
            let is_web = !endpoint.starts_with("unix:") && !endpoint.starts_with("tcp:");
            if is_web && front == "content-length+" {
                continue;
            }
            let written = format!("{front}{endpoint}");
            let finished = Program::run(&mut tieline(["connect", &written]), "");
            assert_eq!(finished.code, Some(1), "{written}: {finished:?}");
            let said = format!(" {written}:");
            assert!(finished.stderr.contains(&said), "{written}: {}", finished.stderr);
            assert!(!finished.stderr.contains("length-prefix"), "{written}: {}", finished.stderr);
        }
    }
    let nowhere = format!("unix:{}/none/agent.sock", directory.path().display());
    for front in ["", "resume+", "content-length+"] {
        let written = format!("{front}{nowhere}");
        let serve = ["serve", "--listen", &written, "--", "cat"];
        let finished = Program::run(&mut tieline(serve), "");
        assert_eq!(finished.code, Some(1), "{written}: {finished:?}");
        let said = format!(" {written}:");
        assert!(finished.stderr.contains(&said), "{written}: {}", finished.stderr);
    }
}

/// The program exits only on SIGTERM, long after the end of its output.
#[test]
fn status_is_1_if_the_program_fails_after_closing_stdout() {
    let script = "trap 'exit 5' TERM; echo answer; exec >&-; sleep 1000 & wait";
    for input in ["", "question\n"] {
        let finished = Program::run(&mut tieline(["connect", &sh(script)]), input);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), "answer\n"), "{finished:?}");
        assert!(finished.stderr.contains("exit status: 5"), "{finished:?}");
    }
    // A last line without a newline is delivered, and does not change the exit status.
    let script = "trap 'exit 5' TERM; printf answer; exec >&-; sleep 1000 & wait";
    let finished = Program::run(&mut tieline(["connect", &sh(script)]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), "answer\n"), "{finished:?}");
    assert!(finished.stderr.contains("exit status: 5"), "{finished:?}");
}

#[test]
fn status_is_0_if_the_program_succeeds_after_closing_stdout() {
    let script = "trap 'exit 0' TERM; echo answer; exec >&-; sleep 1000 & wait";
    let finished = Program::run(&mut tieline(["connect", &sh(script)]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "answer\n"), "{finished:?}");
}

#[test]
fn status_is_1_if_the_program_left_input_unread() {
    let reads_one_line = sh("read -r line; echo answer; exit 0");
    for input in ["one\ntwo\n".to_owned(), format!("{}\n", "x".repeat(99)).repeat(20_000)] {
        let finished = Program::run(&mut tieline(["connect", &reads_one_line]), &input);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), "answer\n"), "{finished:?}");
    }
    // Every byte of the input was read by the program, is in its pipe, is waiting to be written, or was
    // not passed on.
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&input, format!("{}\n", "x".repeat(99)).repeat(20_000)).unwrap();
    let mut connect = tieline(["-v", "connect", &reads_one_line]);
    let finished = Program::start_with(&mut connect, input.reopen().unwrap()).wait();
    let number = |name: &str| {
        let (_, rest) = finished.stderr.rsplit_once(name).unwrap_or_else(|| panic!("{finished:?}"));
        rest.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(100 + number("unread=") + 100 * number("lost="), 2_000_000, "{finished:?}");
    let words = "and the other side ended without reading the last";
    assert!(number("lost=") == 0 || finished.stderr.contains(words), "{finished:?}");
    let finished = Program::run(&mut tieline(["connect", &reads_one_line]), "one\ntwo\n");
    let words = "without reading the last 4 bytes of its input";
    assert!(finished.stderr.contains(words), "{finished:?}");
    // The pipe is checked even if the input ended long before the program.
    let waits = sh("read -r line; cat <&0 >/dev/null & wait; read -r line; echo answer");
    let finished = Program::run(&mut tieline(["connect", &waits]), "one\ntwo\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "answer\n"), "{finished:?}");
    let all = sh("cat >/dev/null; echo answer");
    let finished = Program::run(&mut tieline(["connect", &all]), "one\ntwo\n");
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
}

fn sh(script: &str) -> String {
    format!("exec:sh -c \"{script}\"")
}

#[test]
fn commands_that_write_to_stdout_fail_if_it_is_closed_from_the_start() {
    let program = env!("CARGO_BIN_EXE_tieline");
    let run = |args: &str, redirected: &str| {
        let script = format!("exec {program} {args} {redirected}");
        Program::run(Command::new("sh").args(["-c", &script]), "{\"a\":1}\n")
    };
    for args in [
        "connect exec:cat",
        "bridge stdio: exec:cat",
        "bridge exec:cat stdio:",
        "call exec:cat m",
        "status --json",
        "completions bash",
        "demo-agent",
    ] {
        let finished = run(args, ">&-");
        assert_eq!(finished.code, Some(1), "{args}: {finished:?}");
        assert!(finished.stderr.contains("stdout is closed"), "{args}: {finished:?}");
    }
    // The null device accepts output, even if it was opened for reading and writing.
    for redirected in [">/dev/null", "1<>/dev/null"] {
        let finished = run("connect exec:cat", redirected);
        assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
    }
    let notified = run("call --notify exec:cat m", ">&-");
    assert_eq!(notified.code, Some(0), "{notified:?}");
}
