//! Tests of `tieline serve` with clients that violate their protocol. The answers to their earlier
//! messages arrive, and then the line ends with the reason.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use support::site::{Site, TOKEN};
use support::{Serve, children_of, until};

fn web_socket(site: &Site) -> TcpStream {
    web_socket_with(site, "")
}

/// Opens a WebSocket with additional header lines.
fn web_socket_with(site: &Site, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(site.authority()).unwrap();
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n",
        site.authority()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Returns a short client frame with a zero mask.
fn frame(first: u8, payload: &str) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload.as_bytes()].concat()
}

/// Reads a frame from the server. Returns its first byte and its payload.
fn next(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload).unwrap();
    (head[0], payload)
}

const TEXT: u8 = 0x81;

/// Runs the cases of Autobahn's test suite that send a message before a violation: 3.2 to 3.4, 4.1.3 to
/// 4.1.5, 4.2.3 to 4.2.5 and 5.15. They are sent at once, and byte by byte.
#[test]
fn a_web_socket_receives_the_echo_before_the_close_code_of_its_violation() {
    let site = Site::start(&["--framing", "length-prefix", "--", "cat"]);
    let hello = "Hello, world!";
    let reserved = [0x40, 0x20, 0x10].map(|bits| frame(TEXT | bits, hello));
    let opcodes = [3, 4, 5, 11, 12, 13].map(|code| frame(0x80 | code, ""));
    // This is a message of two fragments, followed by a continuation frame that belongs to no message.
    let stray = [frame(0x00, "three"), frame(TEXT, "four")].concat();
    let whole = [frame(0x01, "one"), frame(0x80, "two")].concat();
    let mut cases: Vec<_> =
        reserved.into_iter().chain(opcodes).map(|bad| (frame(TEXT, hello), hello, bad)).collect();
    cases.push((whole, "onetwo", stray));
    for (message, echo, violation) in cases {
        for piece in [1024, 1] {
            let mut stream = web_socket(&site);
            stream.set_nodelay(true).unwrap();
            let ping = frame(0x89, "");
            let bytes = [&message[..], &violation, &ping].concat();
            for piece in bytes.chunks(piece) {
                // The server may close the connection before everything is sent.
                let _ = stream.write_all(piece);
            }
            assert_eq!(next(&mut stream), (TEXT, echo.into()), "{violation:02x?}");
            let (first, close) = next(&mut stream);
            assert_eq!(
                (first, &close[..2]),
                (0x88, &1002_u16.to_be_bytes()[..]),
                "{violation:02x?}"
            );
        }
    }
    let said = site.stop();
    assert!(said.contains("lost=0"), "{said}");
}

#[test]
fn a_violation_after_the_end_of_input_is_logged_as_a_fault() {
    let site = Site::start(&["--", "sleep", "1000"]);
    let mut stream = web_socket_with(&site, "Sec-WebSocket-Extensions: tieline-half-close\r\n");
    stream.write_all(&[frame(0x8b, ""), frame(TEXT, "too late")].concat()).unwrap();
    let (first, close) = next(&mut stream);
    assert_eq!((first, &close[..2]), (0x88, &1002_u16.to_be_bytes()[..]));
    until("the program is gone", || children_of(site.program.pid()).is_empty());
    let said = site.stop();
    let fault = "the line has ended: the client's side has ended: broken framing: \
                 a message follows the end of input";
    assert!(said.contains(fault), "{said}");
}

/// The server waits for the program's answer after the client has ended its input.
#[test]
fn a_program_may_answer_after_the_end_of_its_input() {
    let script = "read one; read end; echo \"after all: $one\"";
    let site = Site::start(&["--", "sh", "-c", script]);
    let mut stream = web_socket(&site);
    stream.write_all(&[frame(TEXT, "asked"), frame(0x83, "")].concat()).unwrap();
    assert_eq!(next(&mut stream), (TEXT, b"after all: asked".into()));
    let (first, close) = next(&mut stream);
    assert_eq!((first, &close[..2]), (0x88, &1002_u16.to_be_bytes()[..]));
    site.stop();
}

#[test]
fn a_unix_client_receives_the_echo_before_its_line_ends() {
    let broken = u32::MAX.to_be_bytes();
    for (framing, message, violation) in [
        ("length-prefix", &b"\0\0\0\x05hello"[..], &broken[..]),
        ("content-length", b"Content-Length: 5\r\n\r\nhello", b"Content-Length: many\r\n\r\n"),
    ] {
        let listen = format!("{framing}+");
        let serve = Serve::in_framings(&[&listen], ["--framing", framing, "--", "cat"]);
        let mut client = UnixStream::connect(serve.path()).unwrap();
        // The server does not read all of these bytes, but the client must still receive its answer.
        let bytes = [message, violation, &[b'x'; 100_000]].concat();
        let mut writer = client.try_clone().unwrap();
        let writing = std::thread::spawn(move || _ = writer.write_all(&bytes));
        let mut heard = vec![0; message.len()];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, message, "{framing}");
        // The connection may end with a reset, because the server has not read everything.
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{framing}: {rest:?}");
        writing.join().unwrap();
        let said = serve.stop().stderr;
        assert!(said.contains("broken framing"), "{said}");
    }
}
