//! Tests of every kind of message over every pair of lines: the message arrives unchanged, or its loss
//! is visible.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Program, Talk, tieline, until};

const TOKEN: &str = "a-token-that-is-hard-to-guess";
const LIMIT: usize = 16 << 20;

/// How messages travel between the client and the server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    Lines,
    ContentLength,
    LengthPrefix,
    WebSocket,
    Events,
    Session,
}

use Line::{ContentLength, Events, LengthPrefix, Lines, Session, WebSocket};

impl Line {
    fn is_framing(self) -> bool {
        matches!(self, Lines | ContentLength | LengthPrefix)
    }

    fn name(self) -> &'static str {
        match self {
            ContentLength => "content-length",
            LengthPrefix => "length-prefix",
            _ => "lines",
        }
    }
}

fn is_json(message: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(message).is_ok()
}

/// Returns a message as it is passed on from one line to another, or `None` if that is impossible.
fn passed(message: &[u8], from: Line, to: Line) -> Option<Vec<u8>> {
    let text = message.strip_prefix(b"\xef\xbb\xbf").filter(|text| is_json(text));
    let message = text.unwrap_or(message);
    let converts = from.is_framing() && to.is_framing() && from != to;
    let is_broken = message.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
    let is_refused = match to {
        _ if message.len() > LIMIT => true,
        _ if converts => !is_json(message),
        Lines => message.trim_ascii().is_empty() || is_broken && !is_json(message),
        Events => message.is_empty(),
        // A WebSocket carries any bytes if the other side does.
        ContentLength | LengthPrefix | WebSocket | Session => false,
    };
    (!is_refused).then(|| message.to_vec())
}

/// Returns whether both messages are the same bytes or the same JSON.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let value = |text| serde_json::from_slice::<Value>(text).ok();
    one == other || value(one).is_some_and(|one| value(other) == Some(one))
}

/// Messages that framings often mishandle.
fn messages() -> Vec<Vec<u8>> {
    vec![
        b"{\r\n  \"a\": [\n1,\r2]\n}".to_vec(),
        b"".to_vec(),
        b" \t ".to_vec(),
        "{\"s\":\"a\u{2028}b\"}".into(),
        b"nul \0 byte".to_vec(),
        "\u{feff}{\"mark\":1}".into(),
        "\u{feff}plain words".into(),
        b"{\"last\":true}".to_vec(),
    ]
}

fn of_length(length: usize) -> Vec<u8> {
    [b"\"", &vec![b'x'; length - 2][..], b"\""].concat()
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let frame = |message: &Vec<u8>| [&(message.len() as u32).to_be_bytes(), &message[..]].concat();
    messages.iter().flat_map(frame).collect()
}

/// Returns the next message, or `None` at the end.
fn next(stdout: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stdout.read_exact(&mut length).ok()?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stdout.read_exact(&mut message).unwrap();
    Some(message)
}

/// The output of a client that has exited.
struct Ended {
    code: Option<i32>,
    messages: Vec<Vec<u8>>,
    stderr: String,
}

/// Sends messages through `tieline bridge`, ends the input after `expected` answers, and reads the rest.
fn exchange(endpoint: &str, messages: &[Vec<u8>], expected: usize) -> Ended {
    // `timeout` ends a client that hangs, and the test then fails.
    let mut bridge = Command::new("timeout");
    bridge.args(["300", env!("CARGO_BIN_EXE_tieline"), "bridge", "length-prefix+stdio:", endpoint]);
    bridge.env("TIELINE_TOKEN", TOKEN);
    bridge.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = bridge.spawn().unwrap();
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), framed(messages));
    // The client may exit without reading everything.
    let writing = std::thread::spawn(move || stdin.write_all(&bytes).map(|()| stdin));
    let mut stderr = child.stderr.take().unwrap();
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut came: Vec<_> = (0..expected).map_while(|_| next(&mut stdout)).collect();
    drop(writing.join().unwrap());
    came.extend(std::iter::from_fn(|| next(&mut stdout)));
    let code = child.wait().unwrap().code();
    let stderr = complaints.join().unwrap().unwrap();
    Ended { code, messages: came, stderr }
}

/// A server of `cat` in this framing, with an endpoint for each kind of line.
struct Server {
    program: Program,
    framing: Line,
    lines: Vec<(Line, String)>,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(framing: Line) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut command = tieline(["serve", "--no-status", "--framing", framing.name()]);
        let sockets = [
            (Lines, format!("lines+unix:{}", at("l"))),
            (ContentLength, format!("content-length+unix:{}", at("c"))),
            (LengthPrefix, format!("length-prefix+unix:{}", at("p"))),
            (Session, format!("resume+unix:{}", at("s"))),
        ];
        for (_, socket) in &sockets {
            command.args(["--listen", socket]);
        }
        command.args(["--listen", "http://127.0.0.1:0", "--", "cat"]).env("TIELINE_TOKEN", TOKEN);
        let mut program = Program::start(&mut command);
        let mut web = String::new();
        for _ in 0..=sockets.len() {
            web = program.line().unwrap_or_else(|| panic!("{}", program.stderr()));
        }
        let (_, authority) = web.split_once("//").unwrap();
        let mut lines = sockets.to_vec();
        for (kind, endpoint) in [(WebSocket, "ws://@/ws"), (Events, "http://@/sse")] {
            let endpoint = endpoint.replace('@', authority);
            lines.push((Session, format!("resume+{endpoint}")));
            lines.push((kind, endpoint));
        }
        Self { program, framing, lines, _directory: directory }
    }

    /// Runs `each` for every kind of line in parallel.
    fn each(&self, each: impl Fn(Line, &str) + Sync) {
        std::thread::scope(|scope| {
            for (line, endpoint) in &self.lines {
                let each = &each;
                scope.spawn(move || each(*line, endpoint));
            }
        });
    }

    fn stop(mut self) -> String {
        self.program.signal(rustix::process::Signal::TERM);
        self.program.wait().stderr
    }
}

/// Returns the echo of a message that has passed through the client, the server and the program in both
/// directions.
fn echoed(message: &[u8], line: Line, program: Line) -> Option<Vec<u8>> {
    if line == WebSocket && program != LengthPrefix && message.trim_ascii().is_empty() {
        // In lines framing it is a blank line, which is not a message.
        return None;
    }
    let hops = [(LengthPrefix, line), (line, program), (program, line), (line, LengthPrefix)];
    hops.iter().try_fold(message.to_vec(), |message, (from, to)| passed(&message, *from, *to))
}

#[test]
fn every_message_arrives_over_every_pair_of_lines_or_its_loss_is_visible() {
    for framing in [Lines, ContentLength, LengthPrefix] {
        let server = Server::start(framing);
        server.each(|line, endpoint| {
            let mut sent = messages();
            if line == Session {
                // A message that cannot be passed on ends a session.
                sent.retain(|message| passed(message, Session, server.framing).is_some());
            }
            let at = |message: &[u8]| echoed(message, line, framing);
            let expected: Vec<_> = sent.iter().filter_map(|message| at(message)).collect();
            let ended = exchange(endpoint, &sent, expected.len());
            let what = format!("{endpoint} to a program that speaks {}", framing.name());
            let lengths: Vec<_> = ended.messages.iter().map(Vec::len).collect();
            assert_eq!(
                ended.messages.len(),
                expected.len(),
                "{what}: {lengths:?} {}",
                ended.stderr
            );
            for (came, expected) in ended.messages.iter().zip(&expected) {
                let show = |text: &[u8]| text[..text.len().min(60)].escape_ascii().to_string();
                assert!(is_same(came, expected), "{what}: {} for {}", show(came), show(expected));
            }
            let lost_here = sent.iter().any(|it| passed(it, LengthPrefix, line).is_none());
            let code = if lost_here { Some(1) } else { Some(0) };
            assert_eq!(ended.code, code, "{what}: {}", ended.stderr);
        });
        server.stop();
    }
}

#[test]
fn a_session_ends_with_an_error_that_names_the_message_that_cannot_be_passed_on() {
    let server = Server::start(Lines);
    server.each(|line, endpoint| {
        if line != Session {
            return;
        }
        for bad in [&b""[..], b" \t ", b"two\nlines"].map(<[u8]>::to_vec) {
            let good = b"{\"first\":1}".to_vec();
            // The echo of the first message may or may not arrive before the session ends.
            let ended = exchange(endpoint, &[good.clone(), bad.clone(), good.clone()], 3);
            let what = format!("{} over {endpoint}: {}", bad.escape_ascii(), ended.stderr);
            assert_eq!(ended.code, Some(1), "{what}");
            let length = bad.len();
            let named = format!("message 2 of the session ({length} bytes) cannot be passed on");
            assert!(ended.stderr.contains(&named), "{what}");
            assert!(ended.messages.len() <= 1, "later messages were passed on: {what}");
        }
    });
    let said = server.stop();
    assert_eq!(
        said.matches("the line has ended: the client's side has ended: message 2 of").count(),
        9,
        "{said}"
    );
}

#[test]
fn messages_up_to_the_limit_arrive_and_one_above_it_is_lost_visibly() {
    let server = Server::start(Lines);
    server.each(|line, endpoint| {
        // A longer message would break the client's own framing.
        let sent = [of_length(LIMIT - 1), of_length(LIMIT)];
        let ended = exchange(endpoint, &sent, 2);
        assert!(ended.messages == sent, "{endpoint}: {}", ended.stderr);
        assert_eq!(ended.code, Some(0), "{endpoint}: {}", ended.stderr);
        if matches!(line, ContentLength | LengthPrefix) {
            return;
        }
        let mut client = tieline(["connect", endpoint]);
        client.env("TIELINE_TOKEN", TOKEN);
        let lines = [&of_length(LIMIT + 1)[..], b"\n{\"next\":1}\n"].concat();
        let finished = Program::run(&mut client, lines);
        assert_eq!(finished.stdout, "{\"next\":1}\n", "{endpoint}: {}", finished.stderr);
        assert_eq!(finished.code, Some(1), "{endpoint}: {}", finished.stderr);
        assert!(finished.stderr.contains("a message was not passed on"), "{}", finished.stderr);
    });
    server.stop();
}

#[test]
fn with_a_dialect_the_client_gets_an_error_response_and_its_session_continues() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("resume+unix:{}", directory.path().join("s").display());
    let serve = ["serve", "--no-status", "--dialect", "strict", "--listen", &socket, "--", "cat"];
    let mut serve = Program::start(&mut tieline(serve));
    assert_eq!(serve.line().as_deref(), Some(&*socket));
    let request = b"{\n\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}".to_vec();
    let sent = [vec![], b"two\nlines".to_vec(), b" ".to_vec(), request];
    let ended = exchange(&socket, &sent, sent.len());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let values: Vec<Value> =
        ended.messages.iter().map(|it| serde_json::from_slice(it).unwrap()).collect();
    // The program echoes the request and does not answer it.
    assert!(values.iter().any(|value| value["method"] == "m"), "{values:?}");
    let refusals: Vec<_> = values.iter().filter(|value| value["id"].is_null()).collect();
    assert_eq!(refusals.len(), 3, "{values:?}");
    for refusal in refusals {
        assert_eq!(refusal["error"]["code"], -32700);
        let text = refusal["error"]["message"].as_str().unwrap();
        assert!(text.starts_with("the message cannot be passed on: "), "{text}");
    }
    serve.signal(rustix::process::Signal::TERM);
    serve.wait();
}

/// The program's messages go through a session to a client with lines framing.
#[test]
fn a_session_client_ends_with_an_error_if_its_own_framing_cannot_carry_a_message() {
    let directory = tempfile::tempdir().unwrap();
    for (bad, why) in [("", "empty"), ("  ", "empty"), ("two\nlines", "not JSON")] {
        let file = directory.path().join("said");
        let first = b"{\n\"first\":1}".to_vec();
        std::fs::write(&file, framed(&[first, bad.into(), b"{\"third\":1}".to_vec()])).unwrap();
        let socket = format!("resume+unix:{}", directory.path().join("s").display());
        let serve = ["serve", "--no-status", "--framing", "length-prefix", "--resume=1s"];
        let mut serve = tieline(serve);
        serve.args(["--listen", &socket]);
        let mut serve = Program::start(serve.args(["--", "cat"]).arg(&file));
        assert_eq!(serve.line().as_deref(), Some(&*socket));
        let finished = Program::run(&mut tieline(["connect", &socket]), "");
        assert_eq!(finished.stdout, "{ \"first\":1}\n", "{finished:?}");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let named = format!("message 2 of the session ({} bytes) cannot be passed on", bad.len());
        assert!(finished.stderr.contains(&named), "{finished:?}");
        assert!(finished.stderr.contains(why), "{finished:?}");
        // The server learns of the error from the client's last frame. If the connection breaks before
        // that, the session expires.
        until("the server logs the end of the session", || {
            let said = serve.stderr();
            said.contains(&named) || said.contains("a session has expired")
        });
        serve.signal(rustix::process::Signal::TERM);
        serve.wait();
    }
}
