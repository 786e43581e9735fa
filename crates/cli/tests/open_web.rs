//! Tests of the messages that a client without a token may send with `tieline serve
//! --allow-unauthenticated-web`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;

use support::{Program, children_of, site::Site, tieline, ws};

/// Runs a WebSocket script in Node against the server, and returns its output.
fn node(site: &Site, script: &str) -> String {
    // This uses the `ws` package, because Node.js before version 22 has no built-in WebSocket client.
    let socket = format!("new (require('{}'))('{}')", ws(), site.web_socket());
    let script = format!("const socket = {socket}; {script}");
    let finished = Program::run(Command::new("node").args(["-e", &script]), "");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.stdout
}

fn open_site(args: &[&str]) -> Site {
    let mut command = tieline(["serve", "--listen", "http://127.0.0.1:0"]);
    Site::of(command.arg("--allow-unauthenticated-web").args(args))
}

#[test]
fn web_socket_messages_pass_unchanged_to_a_length_prefix_program() {
    let site = open_site(&["--framing", "length-prefix", "--", "cat"]);
    let said = node(
        &site,
        "socket.binaryType = 'arraybuffer';
         const sent = ['1', '', ' two\\nlines ', 'text', new Uint8Array(0), new TextEncoder().encode('{ }'),
                       new Uint8Array([255, 0, 10]), 'text'];
         const show = (data) => typeof data === 'string' ? data : 'binary ' + new Uint8Array(data);
         let next = 0;
         const send = () => next < sent.length ? socket.send(sent[next++]) : socket.close();
         socket.onopen = send;
         socket.onmessage = ({ data }) => { console.log(JSON.stringify(show(data))); send(); };",
    );
    let expected = [
        "1",
        "",
        " two\nlines ",
        "text",
        "binary ",
        "binary 123,32,125",
        "binary 255,0,10",
        // After the client's first binary message, all answers are binary.
        "binary 116,101,120,116",
    ];
    let said: Vec<String> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said, expected);
    site.stop();
}

#[test]
fn an_unauthenticated_client_receives_output_of_a_program_that_writes_first() {
    let site = open_site(&["--", "sh", "-c", "echo '\"welcome\"'; exec cat"]);
    let said = node(
        &site,
        "socket.onmessage = ({ data }) => { console.log(data); data === '[1]' ? socket.close() : socket.send('[1]'); };",
    );
    assert_eq!(said, "\"welcome\"\n[1]\n");
    site.stop();
}

#[test]
fn the_first_message_of_an_unauthenticated_client_must_be_json() {
    let site = open_site(&["--", "cat"]);
    let closing = "socket.onclose = ({ code, reason }) => console.log(code, reason);";
    // A first message that is not JSON is refused both before and after the program's first output.
    let said =
        node(&site, &format!("socket.onopen = () => socket.send('GET / HTTP/1.1'); {closing}"));
    assert!(said.starts_with("1008 the first message is not JSON"), "{said}");
    assert_eq!(children_of(site.program.pid()), [0; 0], "a program was started");
    let greeting = open_site(&["--", "sh", "-c", "echo '\"welcome\"'; exec cat"]);
    let late = format!("socket.onmessage = () => socket.send('GET / HTTP/1.1'); {closing}");
    let said = node(&greeting, &late);
    assert!(said.starts_with("1008 the first message is not JSON"), "{said}");
    // A first message that is JSON may be as long as any other message.
    let long = "'\"' + 'x'.repeat(1 << 20) + '\"'";
    let said = node(
        &site,
        &format!(
            "socket.onopen = () => socket.send({long}); socket.onmessage = ({{ data }}) => {{ console.log(data.length); socket.close(); }};"
        ),
    );
    assert_eq!(said, "1048578\n");
    greeting.stop();
    site.stop();
}
