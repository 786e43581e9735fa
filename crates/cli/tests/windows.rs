//! End-to-end tests of serving, calling and stopping on Windows. `cargo xtask windows` runs them under
//! Wine.
#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::windows::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tieline_testkit::wait::{blocking, until};
use windows_sys::Win32::System::Console::{
    AllocConsole, CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent, GetConsoleCP,
};
use windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP;

fn tieline<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tieline"));
    command.args(args).env_remove("RUST_LOG");
    command
}

/// Returns a unique pipe endpoint.
fn endpoint() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("pipe:tieline-cli-test-{}-{number}", std::process::id())
}

/// A running server. Dropping this value kills the server.
struct Serve {
    process: Child,
    stdout: BufReader<ChildStdout>,
    endpoint: String,
}

impl Serve {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut endpoint = String::new();
        stdout.read_line(&mut endpoint).unwrap();
        assert!(endpoint.contains("pipe:"), "{endpoint:?}");
        Self { process, stdout, endpoint: endpoint.trim_end().to_owned() }
    }

    fn at(endpoint: &str) -> Self {
        Self::start(&mut tieline(["serve", "--quiet", "--listen", endpoint]))
    }

    /// Kills the server, and waits until no process keeps its stdout open.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let mut rest = std::mem::replace(&mut self.stdout, BufReader::new(empty()));
        blocking("the end of the server's child processes", move || {
            rest.read_to_end(&mut Vec::new()).unwrap();
        });
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a pipe that is at its end.
fn empty() -> ChildStdout {
    let mut none = tieline(["--version"]).stdout(Stdio::piped()).spawn().unwrap();
    none.wait().unwrap();
    none.stdout.take().unwrap()
}

/// Runs the command with this input, and waits for its exit.
fn run(command: &mut Command, stdin: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let _ = process.stdin.take().unwrap().write_all(stdin.as_bytes());
    blocking("the end of a client", move || process.wait_with_output().unwrap())
}

#[track_caller]
fn assert_says(output: &Output, said: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{stderr}");
    assert_eq!(output.status.code(), Some(0), "{stderr}");
}

#[test]
fn a_pipe_can_be_served_again_after_its_server_was_killed() {
    let endpoint = endpoint();
    for _ in 0..2 {
        let serve = Serve::at(&endpoint);
        assert_eq!(serve.endpoint, endpoint);
        assert_says(&run(&mut tieline(["call", &endpoint, "add", "[2,3]"]), ""), "5\n");
        let full = endpoint.replace("pipe:", r"\\.\pipe\");
        assert_says(&run(&mut tieline(["call", &full, "add", "[2,4]"]), ""), "6\n");
        serve.kill();
        let output = run(&mut tieline(["call", &endpoint, "add", "[2,3]"]), "");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

const TOKEN: &str = "a-token-that-is-hard-to-guess";

#[test]
fn web_clients_and_mcp_clients_use_a_pipe() {
    let endpoint = endpoint().replace("pipe:", "http-pipe:");
    let mut command = tieline(["serve", "--quiet", "--listen", &endpoint]);
    let serve = Serve::start(command.env("TIELINE_TOKEN", TOKEN));
    assert_eq!(serve.endpoint, endpoint);
    let web_socket = endpoint.replace("http-", "ws-");
    let resumed = format!("resume+{web_socket}");
    for endpoint in [&endpoint, &web_socket, &resumed] {
        let mut call = tieline(["call", endpoint, "add", "[2,3]"]);
        assert_says(&run(call.env("TIELINE_TOKEN", TOKEN), ""), "5\n");
    }
    let refused =
        run(tieline(["call", &web_socket, "add", "[2,3]"]).env_remove("TIELINE_TOKEN"), "");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && stderr.contains("401"), "{refused:?}");
    let path = endpoint.replace("http-pipe:", r"\\.\pipe\");
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    for (token, status, says) in [(TOKEN, "200", "\"id\":7"), ("wrong", "401", "token")] {
        let mut pipe = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        pipe.write_all(request.as_bytes()).unwrap();
        let answer = blocking("the response", move || {
            let mut answer = Vec::new();
            let _ = pipe.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        });
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(says), "{answer}");
    }
}

#[test]
fn the_default_endpoint_is_a_pipe_named_after_the_program() {
    let serve = Serve::start(&mut tieline(["serve", "--quiet"]));
    assert!(serve.endpoint.starts_with("pipe:tieline-demo-agent"), "{}", serve.endpoint);
    assert_says(&run(&mut tieline(["call", &serve.endpoint, "add", "[1,1]"]), ""), "2\n");
}

#[test]
fn a_pipe_with_a_name_is_found_by_its_name() {
    let name = endpoint().replace("pipe:tieline-cli-", "");
    let serve = Serve::start(&mut tieline(["serve", "--quiet", "--name", &name]));
    assert_eq!(serve.endpoint, format!("pipe:tieline-{name}"));
    assert_says(&run(&mut tieline(["call", &name, "add", "[1,1]"]), ""), "2\n");
    let says = |args: &[&str], code, text: &str| {
        let output = run(&mut tieline(args.iter().copied()), "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(text), "{stderr}");
    };
    says(&["serve", "--name", "share-a"], 2, "are reserved");
    serve.kill();
    says(&["call", &name, "add"], 1, &format!("no server with the name `{name}` is running"));
}

#[test]
fn doctor_finds_no_problem() {
    let output = run(&mut tieline(["doctor"]), "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for line in ["ok       named pipes: they work", "ok       programs: they start in a job"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn bridge_and_connect_end_when_all_requests_are_answered() {
    let serve = Serve::at(&endpoint());
    let asked = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"sleep\",\"params\":{\"ms\":300}}\n\
                 {\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"add\",\"params\":[2,3]}\n";
    let answers = [
        "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":5}\n",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"slept\":300}}\n",
    ];
    for command in [&["connect", &serve.endpoint][..], &["bridge", "stdio:", &serve.endpoint]] {
        let output = run(&mut tieline(command.iter().copied()), asked);
        assert_says(&output, &answers.concat());
    }
    let framed = format!(
        "Content-Length: 58\r\n\r\n{}",
        r#"{"jsonrpc":"2.0","id":1,"method":"add","params":[200,300]}"#
    );
    let output = run(&mut tieline(["bridge", "content-length+stdio:", &serve.endpoint]), &framed);
    assert_says(&output, "Content-Length: 37\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":500}");
    // Input that is not JSON-RPC may or may not be answered, so the client waits until the line is quiet.
    let output = run(&mut tieline(["connect", &serve.endpoint]), "no JSON\n");
    assert!(String::from_utf8_lossy(&output.stdout).contains("-32700"), "{output:?}");
}

#[test]
fn a_blocked_stdin_does_not_delay_the_exit() {
    let serve = Serve::at(&endpoint());
    let mut connect = tieline(["connect", &serve.endpoint]);
    let connect = connect.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut connect = connect.spawn().unwrap();
    let (mut stdin, stdout) = (connect.stdin.take().unwrap(), connect.stdout.take().unwrap());
    stdin
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}\n")
        .unwrap();
    let mut answer = String::new();
    BufReader::new(stdout).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"result\":5"), "{answer}");
    // The server ends while stdin stays open without input.
    serve.kill();
    let status = blocking("the end of a client", move || connect.wait().unwrap());
    assert!(status.code().is_some());
    let _still_open: ChildStdin = stdin;
}

#[test]
fn many_clients_at_once_are_all_served() {
    let serve = Serve::at(&endpoint());
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let endpoint = serve.endpoint.clone();
            std::thread::spawn(move || {
                let params = format!("[{n},1]");
                let output = run(&mut tieline(["call", &endpoint, "add", &params]), "");
                assert_says(&output, &format!("{}\n", n + 1));
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn backslashes_in_an_exec_endpoint_arrive() {
    let agent = format!("exec:{} demo-agent", env!("CARGO_BIN_EXE_tieline").replace('/', r"\"));
    assert_says(&run(&mut tieline(["call", &agent, "add", "[2,3]"]), ""), "5\n");
}

#[test]
fn a_unix_socket_is_unsupported_with_a_hint_to_use_a_pipe() {
    let output = run(&mut tieline(["call", "unix:/tmp/a", "add"]), "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("unsupported on this operating system") && stderr.contains("use pipe:"),
        "{stderr}"
    );
}

/// The server shares the console of the test, but has its own process group, so that the event does not
/// reach the test.
#[test]
#[allow(unsafe_code)]
fn ctrl_break_ends_a_server_and_its_processes() {
    // SAFETY: neither function takes a pointer.
    let has_console = unsafe { GetConsoleCP() != 0 || AllocConsole() != 0 };
    assert!(has_console, "no console is available");
    let mut command = tieline(["serve", "--quiet", "--listen", &endpoint()]);
    let mut serve = Serve::start(command.creation_flags(CREATE_NEW_PROCESS_GROUP));
    let mut connect = tieline(["connect", &serve.endpoint]);
    let connect = connect.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut connect = connect.spawn().unwrap();
    let mut stdin = connect.stdin.take().unwrap();
    stdin
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}\n")
        .unwrap();
    let mut stdout = BufReader::new(connect.stdout.take().unwrap());
    let mut answer = String::new();
    stdout.read_line(&mut answer).unwrap();
    assert!(answer.contains("\"result\":5"), "{answer}");

    // SAFETY: the function takes no pointer, and the process has not been waited for yet.
    assert_ne!(unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, serve.process.id()) }, 0);
    until("the end of the server", || serve.process.try_wait().unwrap().is_some());
    assert_eq!(serve.process.wait().unwrap().code(), Some(0), "the server did not exit cleanly");
    let status = blocking("the end of the client", move || connect.wait().unwrap());
    assert!(status.code().is_some());
}
