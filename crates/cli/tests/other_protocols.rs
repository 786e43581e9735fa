//! Clients that use another protocol than the server: HTTP, TLS, plain sockets, sessions. Each exits with status 1
//! and says what to check or to write instead.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::PathBuf;

use support::{Program, Talk, tieline};

const TOKEN: &str = "a-token-that-is-hard-to-guess";

#[test]
fn every_client_at_a_server_of_another_protocol_gets_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let unix = directory.path().join("plain").display().to_string();
    let web_unix = directory.path().join("web").display().to_string();
    let keys = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../http/tests/tls");
    let start = |endpoints: &[String], options: &[&str]| {
        let mut serve = tieline(["serve", "--no-status"]);
        for endpoint in endpoints {
            serve.args(["--listen", endpoint]);
        }
        let mut server =
            Program::start(serve.args(options).args(["--", "cat"]).env("TIELINE_TOKEN", TOKEN));
        let line = |_| server.line().unwrap_or_else(|| panic!("{}", server.stderr()));
        let lines: Vec<_> = (0..endpoints.len()).map(line).collect();
        (server, lines)
    };
    let tcp = ["", "content-length+", "length-prefix+"].map(|it| format!("{it}tcp:127.0.0.1:0"));
    let [lines, headers, lengths] = tcp;
    let (plain, plains) =
        start(&[format!("unix:{unix}"), lines, headers, lengths], &["--allow-unauthenticated-tcp"]);
    let (web, webs) = start(&["http://127.0.0.1:0".into(), format!("http-unix:{web_unix}")], &[]);
    let (cert, key) = (keys.join("server.pem"), keys.join("server.key.pem"));
    let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let (secure, secures) = start(&["https://127.0.0.1:0".into()], &tls);
    let port = |endpoint: &String| endpoint.rsplit(':').next().unwrap().to_owned();
    let [http, https] = [port(&webs[0]), port(&secures[0])];

    let mut cases: Vec<(String, &str)> = Vec::new();
    for port in plains[1..].iter().map(port) {
        let no_web = "whether a web server listens there";
        for endpoint in ["ws://@/ws", "http://@/sse", "wss://@/ws", "https://@/sse"] {
            cases.push((endpoint.replace('@', &format!("127.0.0.1:{port}")), no_web));
        }
    }
    cases.push((format!("ws-unix:{unix}"), "whether a web server listens there"));
    cases.push((format!("http-unix:{unix}"), "whether a web server listens there"));
    for framing in ["", "content-length+", "length-prefix+", "resume+"] {
        let uses_http = "the other side uses HTTP, but this line does not; a client writes ws://";
        cases.push((format!("{framing}tcp:127.0.0.1:{http}"), uses_http));
        cases.push((format!("{framing}unix:{web_unix}"), uses_http));
        let uses_tls = "the other side uses TLS, but this line does not; a client writes wss://";
        cases.push((format!("{framing}tcp:127.0.0.1:{https}"), uses_tls));
    }
    for (endpoint, says) in [
        ("wss://@/ws", "does not use TLS there: write ws:// or http://"),
        ("https://@/sse", "does not use TLS there: write ws:// or http://"),
    ] {
        cases.push((endpoint.replace('@', &format!("127.0.0.1:{http}")), says));
    }
    for (endpoint, says) in [
        ("ws://@/ws", "whether the server expects TLS there"),
        ("http://@/sse", "whether it expects TLS"),
    ] {
        cases.push((endpoint.replace('@', &format!("127.0.0.1:{https}")), says));
    }
    for (endpoint, says) in cases {
        let mut connect = tieline(["connect", &endpoint]);
        let finished = Program::run(connect.env("TIELINE_TOKEN", TOKEN), "{\"a\":1}\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{endpoint}: {finished:?}");
        assert!(finished.stderr.contains(says), "{endpoint}: {finished:?}");
    }
    for mut server in [plain, web, secure] {
        server.signal(rustix::process::Signal::TERM);
        let finished = server.wait();
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
}
