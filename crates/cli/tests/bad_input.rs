//! Tests of `tieline serve` and `tieline connect` with invalid, incomplete and oversize messages.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::{Value, json};
use support::{Client, Finished, Program, Serve, Talk, request, sh, tieline, usage};

#[test]
fn the_agent_answers_invalid_messages_and_the_line_stays_open() {
    let serve = Serve::start::<&str>([]);
    let mut client = serve.client();
    let parse_error = |answer: &Value| answer["error"]["code"] == -32700 && answer["id"].is_null();
    for nonsense in
        ["nonsense", "{", r#"{"id":1,"method":"add" "params":[]}"#, "\u{1}", "{\"a\":1,}"]
    {
        client.send(nonsense);
        let answer = client.json();
        assert!(parse_error(&answer), "{nonsense}: {answer}");
    }
    client.send_raw(b"{\"id\":1,\"method\":\"\xff\"}\n");
    let answer = client.json();
    assert!(parse_error(&answer), "{answer}");
    // The answer to JSON that is not a request, or that exceeds a limit, has the ID of that message if
    // there is one.
    let bomb =
        format!(r#"{{"jsonrpc":"2.0","id":9,"method":"echo","params":{}"#, "[".repeat(100_000));
    for (request, code, id) in [
        ("1", -32600, json!(null)),
        ("[]", -32600, json!(null)),
        (&bomb, -32600, json!(9)),
        (r#"{"id":"a","method":"echo"}"#, -32600, json!("a")),
        (r#"{"jsonrpc":"2.0","id":12345678901234567890}"#, -32600, json!(12345678901234567890u64)),
        (r#"{"jsonrpc":"2.0","id":5,"method":"no"}"#, -32601, json!(5)),
    ] {
        client.send(request);
        let answer = client.json();
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), &id), "{answer}");
    }
    // Blank lines are not messages.
    client.send_raw(b"\n\r\n  \n");
    assert_eq!(client.call(&request(7, "add", json!([2, 3])))["result"], 5);
    serve.stop();
}

#[test]
fn an_unterminated_line_at_the_end_of_the_input_is_a_message() {
    let serve = Serve::start::<&str>([]);
    let mut client = serve.client();
    client.send_raw(br#"{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}"#);
    client.end_input();
    assert_eq!(client.json()["result"], 5);
    assert_eq!(client.line(), None);

    let mut client = serve.client();
    client.send_raw(br#"{"id":1,"meth"#);
    client.end_input();
    assert_eq!(client.json()["error"]["code"], -32700);
    assert_eq!(client.line(), None);
    serve.stop();
}

#[test]
fn an_incomplete_frame_at_the_end_of_the_input_is_reported_as_lost() {
    let serve = Serve::in_framings(&["content-length+"], ["--", "cat"]);
    for half in ["Content-Length: 10\r\n\r\n{\"a\"", "Content-Length: 10\r\n", "Conten"] {
        let mut client = serve.client();
        client.send_raw(half.as_bytes());
        client.end_input();
        assert_eq!(client.rest(), b"", "{half}");
    }
    serve.program.wait_stderr("a message from the client was lost: 4 of 10 bytes");
    let mut client = serve.client();
    client.send_raw(b"Content-Length: 2\r\n\r\n{}");
    client.end_input();
    assert_eq!(client.rest(), b"Content-Length: 2\r\n\r\n{}");
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("lost=3"), "{stderr}");
}

#[test]
fn a_line_of_a_gibibyte_is_discarded_without_using_memory() {
    let serve = Serve::start(["--", "cat"]);
    let mut client = serve.client();
    client.send("before");
    assert_eq!(client.line().as_deref(), Some("before"));
    let mebibyte = vec![b'x'; 1 << 20];
    for _ in 0..1024 {
        client.send_raw(&mebibyte);
    }
    client.send("");
    client.send("after");
    assert_eq!(client.line().as_deref(), Some("after"), "the program received part of it");
    let peak = usage(serve.program.pid()).peak_kib;
    assert!(peak < 150 * 1024, "{peak} KiB");
    client.end_input();
    assert_eq!(client.rest(), b"");
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("a message above the limit of 16MiB was discarded"), "{stderr}");
    assert!(stderr.contains("to_far=2 to_near=2 lost=1"), "{stderr}");
}

#[test]
fn announced_gibibyte_is_refused_without_allocating_it() {
    let serve = Serve::in_framings(&["content-length+", "length-prefix+"], ["--", "cat"]);
    for (endpoint, announced) in
        [(0, &b"Content-Length: 1073741824\r\n\r\n"[..]), (1, &[0x40, 0, 0, 0][..])]
    {
        let mut client = Client::connect(&support::path_of(&serve.endpoints[endpoint]));
        client.send_raw(announced);
        assert_eq!(client.rest(), b"");
        let reason = "announced a message of 1073741824 bytes, above the limit of 16MiB";
        serve.program.wait_stderr_times(reason, endpoint + 1);
    }
    // Sixteen clients announce a message of the largest size, and send one byte of it.
    let mut waiting: Vec<Client> = (0..16).map(|_| serve.client()).collect();
    for client in &mut waiting {
        client.send_raw(b"Content-Length: 16777216\r\n\r\n{");
    }
    assert_eq!(call_in_content_length(&mut serve.client(), "{}"), "{}");
    assert!(usage(serve.program.pid()).peak_kib < 100 * 1024);
}

#[test]
fn the_limit_is_exact_in_both_directions() {
    let serve = Serve::start(["--max-message", "1000", "--", "cat"]);
    let mut client = serve.client();
    for length in [999, 1000, 1001, 999] {
        let line = length.to_string().repeat(1000)[..length].to_owned();
        client.send(&line);
        if length <= 1000 {
            assert_eq!(client.line(), Some(line));
        }
    }
    let finished = serve.stop();
    assert!(finished.stderr.contains("above the limit of 1000B was discarded"), "{finished:?}");
    assert!(finished.stderr.contains("lost=1"), "{finished:?}");

    let script = "for n in 999 1000 1001 999; do printf \"%0${n}d\\n\" 7; done";
    let serve = Serve::start([&["--max-message", "1000"], &sh(script)[..]].concat());
    let said = String::from_utf8(serve.client().rest()).unwrap();
    assert_eq!(said.lines().map(str::len).collect::<Vec<_>>(), [999, 1000, 999]);
    serve.program.wait_stderr("a message from the server was lost");
    serve.stop();
}

#[test]
fn the_limit_is_exact_with_announced_lengths() {
    let args = ["--max-message", "1000", "--framing", "content-length", "--", "cat"];
    let serve = Serve::in_framings(&["content-length+", ""], args);
    let mut client = serve.client();
    for length in [999, 1000] {
        let message = "7".repeat(length);
        assert_eq!(call_in_content_length(&mut client, &message), message);
    }
    client.send_raw(format!("Content-Length: 1001\r\n\r\n{}", "7".repeat(1001)).as_bytes());
    assert_eq!(client.rest(), b"");
    serve.program.wait_stderr("announced a message of 1001 bytes, above the limit of 1000B");
    assert_eq!(call_in_content_length(&mut serve.client(), "{}"), "{}");
}

/// Sends one message in Content-Length framing to an echo server, and returns the echo.
fn call_in_content_length(client: &mut Client, message: &str) -> String {
    let length = message.len();
    client.send_raw(format!("Content-Length: {length}\r\n\r\n{message}").as_bytes());
    assert_eq!(client.line(), Some(format!("Content-Length: {length}\r")));
    assert_eq!(client.line(), Some("\r".into()));
    client.exact(length)
}

#[test]
fn any_bytes_pass_between_equal_framings() {
    let serve = Serve::start(["--", "cat"]);
    let mut client = serve.client();
    let line: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n' && *byte != b'\r').collect();
    client.send_raw(&[&line[..], b"\n\xff\xfe{\n\xc3\n"].concat());
    client.end_input();
    assert_eq!(client.rest(), [&line[..], b"\n\xff\xfe{\n\xc3\n"].concat());
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains("lost=0"), "{stderr}");
}

#[test]
fn message_that_is_not_json_is_reported_as_lost_when_converted() {
    let serve = Serve::start(["--framing", "content-length", "--", "cat"]);
    let mut client = serve.client();
    for bad in [&b"\xff\xfe{"[..], b"{\"a\":\"\xc3\"}", b"not json", b"{\"a\":1,\"a\":2}}"] {
        client.send_raw(&[bad, b"\n"].concat());
    }
    client.send("{\"good\":true}");
    assert_eq!(client.line().as_deref(), Some("{\"good\":true}"));
    client.end_input();
    assert_eq!(client.rest(), b"");
    let Finished { stderr, .. } = serve.stop();
    assert!(stderr.contains(r"is not JSON"), "{stderr}");
    assert!(stderr.contains(r"\xff\xfe{"), "the message is not shown: {stderr}");
    assert!(stderr.contains("to_far=1 to_near=1 lost=4"), "{stderr}");

    let bad = "Content-Length: 3\r\n\r\n{a}Content-Length: 3\r\n\r\n[\n]";
    let serve =
        Serve::start([&["--framing", "content-length"], &sh("printf \"$0\"")[..], &[bad]].concat());
    assert_eq!(serve.client().rest(), b"[ ]\n");
    serve.program.wait_stderr("a message from the server was lost");
}

#[test]
fn a_broken_header_ends_only_its_own_line_with_the_reason() {
    let serve = Serve::in_framings(&["content-length+"], ["--", "cat"]);
    let mut other = serve.client();
    assert_eq!(call_in_content_length(&mut other, "{}"), "{}");
    let invalid = "not a plain decimal number";
    let malformed = "a header line is not";
    let cases = [
        ("Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", "more than one Content-Length"),
        ("Content-Length: 2\r\ncontent-length: 3\r\n\r\n{}", "more than one Content-Length"),
        ("Content-Length: +5\r\n\r\nhello", invalid),
        ("Content-Length: -5\r\n\r\nhello", invalid),
        ("Content-Length: 18446744073709551616\r\n\r\n{}", invalid),
        ("Content-Length: 18446744073709551615\r\n\r\n{}", "above the limit"),
        ("Content-Length: 0x10\r\n\r\n{}", invalid),
        ("Content-Length: 1e1\r\n\r\n{}", invalid),
        ("Content-Length: 5 5\r\n\r\n{}", invalid),
        ("Content-Length: \r\n\r\n{}", invalid),
        ("Content-Type: application/json\r\n\r\n{}", "has no Content-Length"),
        ("\r\n{}", "has no Content-Length"),
        ("Content-Length: 2\n\n{}", malformed),
        ("Content Length: 2\r\n\r\n{}", malformed),
    ];
    for (position, (bad, reason)) in cases.iter().enumerate() {
        let mut client = serve.client();
        client.send_raw(bad.as_bytes());
        assert_eq!(client.rest(), b"", "{bad}");
        serve.program.wait_stderr_times("broken framing", position + 1);
        let said = serve.program.stderr();
        let last = said.lines().rfind(|line| line.contains("broken framing")).unwrap();
        assert!(last.contains(reason), "{bad}: {last}");
    }
    assert_eq!(call_in_content_length(&mut other, "[1]"), "[1]");
    assert_eq!(call_in_content_length(&mut serve.client(), "[2]"), "[2]");
    drop(other);
    serve.wait_nothing_left();
}

#[test]
fn a_mebibyte_of_headers_is_refused() {
    let serve = Serve::in_framings(&["content-length+"], ["--", "cat"]);
    for header in ["X-Header: y\r\n", "X-Header: y"] {
        let mut client = serve.client();
        client.send_refused(header.repeat((1 << 20) / header.len()).as_bytes());
        assert_eq!(client.rest(), b"");
    }
    serve.program.wait_stderr_times("a header block is longer than 8KiB", 2);
    assert_eq!(call_in_content_length(&mut serve.client(), "{}"), "{}");
    drop(serve.client());
    serve.wait_nothing_left();
}

#[test]
fn an_answer_with_broken_framing_ends_the_line_and_the_program() {
    let script = "printf 'Content-Length: 2\\r\\n\\r\\n{}oops, a stray print\\n'; exec cat";
    let serve = Serve::start([&["--framing", "content-length"], &sh(script)[..]].concat());
    assert_eq!(serve.client().rest(), b"{}\n");
    serve.program.wait_stderr("broken framing: a header line is not");
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn connect_reports_messages_that_were_not_passed_on() {
    let exec = "content-length+exec:cat";
    let finished = Program::run(&mut tieline(["connect", exec]), "nonsense\n{\"a\":1}\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(1), "{\"a\":1}\n"), "{finished:?}");
    assert!(finished.stderr.contains("a message was not passed on"), "{finished:?}");
}
