//! Tests of `tcp:` endpoints. They are refused without the option, and no program is started before the
//! client has sent a whole message.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::{Program, children_of, closed_port, tieline};

const ADD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}"#;

/// A server on a free port.
struct Served {
    program: Program,
    endpoint: String,
}

impl Served {
    fn start(framing: &str) -> Self {
        use support::Talk;
        let endpoint = format!("{framing}tcp:127.0.0.1:0");
        let args = ["serve", "--allow-unauthenticated-tcp", "--listen", &endpoint];
        let mut program = Program::start(&mut tieline(args));
        let endpoint = program.line().expect("an endpoint");
        Self { program, endpoint }
    }

    fn address(&self) -> &str {
        self.endpoint.split_once("tcp:").unwrap().1
    }

    /// Sends `bytes`, ends the input, and reads until the other side ends.
    fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(bytes).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no end within 30 s")
            }
            _ => answer,
        }
    }
}

#[test]
fn listening_on_tcp_requires_the_option() {
    let finished = Program::run(&mut tieline(["serve", "--listen", "tcp:127.0.0.1:0"]), "");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("--allow-unauthenticated-tcp"), "{finished:?}");
}

#[test]
fn connect_call_and_plain_sockets_reach_a_tcp_server() {
    let served = Served::start("");
    let finished = Program::run(&mut tieline(["connect", &served.endpoint]), format!("{ADD}\n"));
    assert_eq!((finished.code, finished.stdout.contains("5")), (Some(0), true), "{finished:?}");
    let finished = Program::run(&mut tieline(["call", &served.endpoint, "add", "[2,3]"]), "");
    assert_eq!(finished.stdout, "5\n", "{finished:?}");
    let answer = served.exchange(format!("{ADD}\n").as_bytes());
    assert!(String::from_utf8(answer).unwrap().contains(r#""result":5"#));
}

#[test]
fn a_web_page_that_posts_to_the_port_starts_no_process_and_sends_no_message() {
    let body = format!("{ADD}\n");
    let post = format!(
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for framing in ["", "content-length+"] {
        let served = Served::start(framing);
        let answer = served.exchange(post.as_bytes());
        assert_eq!(answer, b"", "{}", String::from_utf8_lossy(&answer));
        served.program.wait_stderr("client refused");
        assert_eq!(children_of(served.program.pid()), [0; 0]);
        assert!(!served.program.stderr().contains("to_far"), "a line was started");
    }
}

#[test]
fn a_client_without_a_valid_message_starts_no_process() {
    let served = Served::start("");
    for nonsense in [&b""[..], b"\n\n", b"GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(served.exchange(nonsense), b"", "{}", nonsense.escape_ascii());
    }
    for nonsense in [&b"hello\n"[..], b"\xff\xfe\n", b"{\"half\":"] {
        let answer = String::from_utf8(served.exchange(nonsense)).unwrap();
        assert!(answer.contains("the first message is not JSON"), "{answer:?}");
        assert!(answer.ends_with('\n'), "{answer:?}");
    }
    served.program.wait_stderr_times("client refused", 6);
    assert_eq!(children_of(served.program.pid()), [0; 0]);
    let answer = served.exchange(format!("{ADD}\n").as_bytes());
    assert!(!answer.is_empty(), "the next client is not served");
}

#[test]
fn connect_fails_with_the_reason_if_its_first_message_is_not_json() {
    for framing in ["", "content-length+", "length-prefix+"] {
        let served = Served::start(framing);
        // The near side uses the same framing, because only JSON can be converted.
        let near = format!("{framing}stdio:");
        let input = match framing {
            "" => "hello\n{}\n",
            "content-length+" => "Content-Length: 5\r\n\r\nhello",
            _ => "\0\0\0\x05hello",
        };
        let mut bridge = tieline(["bridge", &near, &served.endpoint]);
        let check = |finished: support::Finished| {
            assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
            let why = "refused: the first message is not JSON";
            assert!(finished.stderr.contains(why), "{finished:?}");
            assert!(finished.stderr.contains("hint: send JSON"), "{finished:?}");
        };
        check(Program::run(&mut bridge, input));
        assert_eq!(children_of(served.program.pid()), [0; 0]);
        // A client that was silent at first has a program.
        let mut silent = Program::start(&mut bridge);
        support::until("the program is started", || !children_of(served.program.pid()).is_empty());
        support::Talk::send_raw(&mut silent, input.as_bytes());
        check(silent.finish());
    }
}

#[test]
fn a_port_in_use_and_a_port_without_a_server_are_reported() {
    let served = Served::start("");
    let args = ["serve", "--allow-unauthenticated-tcp", "--listen", &served.endpoint];
    let finished = Program::run(&mut tieline(args), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("another process is listening there"), "{finished:?}");
    let (_closed, address) = closed_port();
    let finished = Program::run(&mut tieline(["connect", &format!("tcp:{address}")]), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("start the server first"), "{finished:?}");
}

#[test]
fn a_fetch_from_a_page_gets_no_answer_and_starts_no_process() {
    for framing in ["", "content-length+", "length-prefix+"] {
        let served = Served::start(framing);
        let page = format!(
            "fetch('http://{}', {{ method: 'POST', body: '{ADD}\\n' }})
                .then(() => process.exit(1), () => process.exit(0))",
            served.address()
        );
        let page = Program::run(Command::new("node").args(["-e", &page]), "");
        assert_eq!(page.code, Some(0), "{framing}: the page got an answer: {page:?}");
        served.program.wait_stderr("client refused");
        assert_eq!(children_of(served.program.pid()), [0; 0]);
    }
}

#[test]
fn a_silent_client_does_not_delay_the_exit() {
    let mut served = Served::start("");
    let mut silent = TcpStream::connect(served.address()).unwrap();
    served.program.wait_stderr("client connected");
    served.program.signal(Signal::TERM);
    let finished = served.program.wait();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(
        !finished.stderr.contains("no message in"),
        "the exit waited for the client: {finished:?}"
    );
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn client_that_is_refused_because_the_server_stops_is_logged() {
    let mut served = Served::start("");
    let mut client = TcpStream::connect(served.address()).unwrap();
    // No program is started before the message is complete.
    client.write_all(b"{").unwrap();
    served.program.wait_stderr("client connected");
    served.program.signal(Signal::TERM);
    let finished = served.program.wait();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("client refused: the server is stopping"), "{finished:?}");
}
