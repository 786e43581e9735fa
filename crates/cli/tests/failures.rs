//! A program that fails: how its client, and the log of its server, say so.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::site::{Site, TOKEN, status_of};
use support::{Program, Talk, request, sh};

/// Reads a line, complains and exits.
const FAILS: &str =
    "read line; echo 'first \"words\"' >&2; printf '  last \\033[1mwords\n' >&2; exit 3";

#[test]
fn every_web_client_is_told_that_the_program_failed_and_how() {
    let site = Site::start(&sh(FAILS));
    for endpoint in [site.web_socket(), format!("{}/sse", site.endpoint)] {
        let finished = Program::run(&mut site.connect(&endpoint), "hello\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
        let says = "the program has failed with exit status 3";
        assert!(finished.stderr.contains(says), "{finished:?}");
        assert!(!finished.stderr.contains("words"), "{finished:?}");
    }
    let body = request(1, "add", json!([2, 3])).to_string();
    let answer = site.ask(&format!(
        "POST /rpc HTTP/1.1\r\nHost: @\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(status_of(&answer), "502", "{answer}");
    let answer: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let expected = json!({
        "code": -32000,
        "message": "the program has failed with exit status 3",
        "data": {
            "code": 3,
            "status": "exit status: 3",
            "stderr": "first \"words\"\n  last \u{1b}[1mwords\n",
        },
    });
    assert_eq!((&answer["id"], &answer["error"]), (&json!(1), &expected));
    // An EventSource, whose session the server keeps.
    let curl = |url: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--max-time", "60", url]);
        curl.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
        curl
    };
    let mut events = Program::start(&mut curl(&format!("{}/sse", site.endpoint)));
    let mut data = || loop {
        let line = events.line().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            return data.to_owned();
        }
    };
    let mut post = curl(&format!("{}/{}", site.endpoint, data()));
    assert_eq!(Program::run(post.args(["--data", "hello"]), "").code, Some(0));
    let end = data();
    assert_eq!(end, r#"{"code":1011,"reason":"the program has failed with exit status 3"}"#);
    assert_eq!(events.wait().code, Some(0));
    site.stop();
}
