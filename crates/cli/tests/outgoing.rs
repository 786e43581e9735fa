//! Tests of outgoing web lines: headers, passwords, proxies and certificates.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use support::site::{Site, TOKEN};
use support::{Finished, Program, tieline};

/// A text that occurs nowhere else in the program's output, arguments or environment.
const SECRET: &str = "Xyzzy-7";

/// Returns the head of a request, and the reader, which may hold bytes after the head.
fn head(stream: &TcpStream) -> (String, BufReader<TcpStream>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
    (head, reader)
}

/// Starts a server that refuses every request, and returns its port and the heads of the requests.
fn refusing(status: &str) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, heads) = channel();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (head, _) = head(&stream);
            let _ = stream.write_all(answer.as_bytes());
            if seen.send(head).is_err() {
                return;
            }
        }
    });
    (port, heads)
}

/// Starts a proxy that connects every tunnel to the server at `to`, and returns its port and the heads
/// of the requests.
fn proxy(to: String) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, heads) = channel();
    thread::spawn(move || {
        while let Ok((mut near, _)) = listener.accept() {
            let (head, mut from_near) = head(&near);
            if seen.send(head).is_err() {
                return;
            }
            let mut far = TcpStream::connect(&to).unwrap();
            near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
            let mut back = far.try_clone().unwrap();
            thread::spawn(move || {
                let _ = copy(&mut back, &mut near);
                let _ = near.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let _ = copy(&mut from_near, &mut far);
                let _ = far.shutdown(Shutdown::Both);
            });
        }
    });
    (port, heads)
}

#[track_caller]
fn fails(finished: &Finished, code: i32, says: &str) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert!(finished.stderr.contains(says), "{says}: {finished:?}");
    assert!(!finished.stderr.contains(SECRET), "{finished:?}");
}

#[test]
fn headers_and_passwords_come_from_options_files_and_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let headers = file("headers", &format!("X-Api-Key: {SECRET}\n\r\nX-Two: 2\r\n"));
    let password = file("password", &format!("{SECRET}\n"));
    let (port, heads) = refusing("418 Teapot");
    let key = format!("x-api-key: {SECRET}");
    // me:Xyzzy-7, me: and me:abc
    let basic = "authorization: Basic bWU6WHl6enktNw==";
    let (empty, other) = ("authorization: Basic bWU6", "authorization: Basic bWU6YWJj");
    let (token, bearer) = (("TIELINE_TOKEN", TOKEN), format!("authorization: Bearer {TOKEN}"));
    let in_environment = format!("X-Api-Key: {SECRET}\nX-Two: 2");
    for (args, variables, lines) in [
        (
            &["--header", "X-Two: 2", "--header", "X-Three:3"][..],
            &[][..],
            &["x-two: 2", "x-three: 3"][..],
        ),
        (&["--header-file", &headers], &[token], &[&key, "x-two: 2", &bearer]),
        (&[], &[("TIELINE_HEADERS", &*in_environment)], &[&key, "x-two: 2"]),
        (&["--basic", "me", "--password-file", &password], &[token], &[basic]),
        (&["--basic", "me"], &[("TIELINE_PASSWORD", SECRET)], &[basic]),
        (&["--basic", "me"], &[("TIELINE_PASSWORD", "")], &[empty]),
        (&["--header", "Authorization: Basic bWU6YWJj"], &[token], &[other]),
    ] {
        for command in
            [&["connect", "URL"][..], &["call", "URL", "add"], &["bridge", "stdio:", "URL"]]
        {
            for url in [format!("ws://127.0.0.1:{port}/ws"), format!("http://127.0.0.1:{port}/sse")]
            {
                let command = command.iter().map(|it| it.replace("URL", &url));
                let mut command = tieline(["-vv"].map(str::to_owned).into_iter().chain(command));
                command.args(args).envs(variables.iter().copied()).env("RUST_LOG", "trace");
                fails(&Program::run(&mut command, ""), 1, "status 418");
                let head = heads.recv().unwrap();
                for line in lines {
                    let line = format!("\r\n{line}\r\n");
                    assert!(head.contains(&line), "{line}: {head}");
                }
                assert!(head.matches("uthorization: ").count() <= 1, "{head}");
            }
        }
    }
}

#[test]
fn credentials_that_cannot_be_used_are_refused_without_printing_them() {
    let directory = tempfile::tempdir().unwrap();
    let headers = directory.path().join("headers");
    std::fs::write(&headers, format!("X-Fine: 1\nX-Wrong {SECRET}\n")).unwrap();
    let headers = headers.to_str().unwrap();
    let missing = directory.path().join("missing");
    let missing = missing.to_str().unwrap();
    let secret = format!("X-Api-Key: {SECRET}");
    let authorization = format!("Authorization: {SECRET}");
    let (ws, unix) = ("ws://127.0.0.1:1/ws", "unix:/no/such/socket");
    for (endpoint, args, code, says) in [
        (ws, &["--header", "Host: example.org"][..], 2, "follows from the endpoint"),
        (ws, &["--header", SECRET], 2, "a header must be NAME: VALUE"),
        (ws, &["--header-file", headers], 2, "line 2: a header must be NAME: VALUE"),
        (ws, &["--header-file", missing], 1, "--header-file"),
        (ws, &["--basic", "me"], 2, "--password-file, or set TIELINE_PASSWORD"),
        (ws, &["--basic", &format!("me:{SECRET}")], 2, "--password-file"),
        (ws, &["--basic", "me", "--password-file", missing], 1, "--password-file"),
        (ws, &["--password-file", missing], 2, "--basic"),
        (ws, &["--basic", "me", "--token", TOKEN], 2, "cannot be used with"),
        (ws, &["--header", &authorization, "--token", TOKEN], 2, "can be set only once"),
        (ws, &["--header", &authorization, "--header", &authorization], 2, "can be set only once"),
        ("ws://0.0.0.0:1/ws", &["--header", &secret], 1, "in clear text"),
        ("http://0.0.0.0:1/sse", &["--header", &authorization], 1, "in clear text"),
        (unix, &["--header", &secret], 2, "--header has no effect"),
        (unix, &["--token", TOKEN], 2, "--token has no effect"),
        (unix, &["--subprotocol", "mcp"], 2, "--subprotocol has no effect"),
        (ws, &["--tls-ca", missing], 2, "--tls-ca has no effect: it needs a wss: or https:"),
        (ws, &["--accept-any-certificate"], 2, "--accept-any-certificate has no effect"),
        (
            "wss://127.0.0.1:1/ws",
            &["--accept-any-certificate", "--tls-ca", missing],
            2,
            "cannot be used",
        ),
    ] {
        let finished = Program::run(tieline(["connect", endpoint]).args(args), "");
        fails(&finished, code, says);
        assert!(!finished.stderr.contains(TOKEN), "{finished:?}");
    }
    let mut command = tieline(["connect", ws]);
    fails(&Program::run(command.env("TIELINE_HEADERS", SECRET), ""), 2, "TIELINE_HEADERS, line 1");
    let mut command = tieline(["connect", ws, "--basic", "me"]);
    let password = OsStr::from_bytes(b"Xyzzy-7\xff");
    let finished = Program::run(command.env("TIELINE_PASSWORD", password), "");
    fails(&finished, 2, "TIELINE_PASSWORD is not UTF-8");
}

#[test]
fn a_proxy_from_the_environment_is_used_only_for_other_machines() {
    let site = Site::start(&["--allow-host", "agent.invalid", "--", "cat"]);
    let (port, heads) = proxy(site.authority().to_owned());
    let url = format!("http://me:{SECRET}@127.0.0.1:{port}");
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        for endpoint in ["ws://agent.invalid/ws", "resume+ws://agent.invalid/ws"] {
            let mut connect = site.connect(endpoint);
            connect.args(["--send-token-without-tls", "-vv"]).env(variable, &url);
            let finished = Program::run(&mut connect, "1\n");
            assert_eq!((finished.code, &*finished.stdout), (Some(0), "1\n"), "{finished:?}");
            assert!(!finished.stderr.contains(SECRET), "{finished:?}");
            let head = heads.recv().unwrap();
            assert!(head.starts_with("CONNECT agent.invalid:80 HTTP/1.1\r\n"), "{head}");
            // me:Xyzzy-7
            assert!(head.contains("proxy-authorization: Basic bWU6WHl6enktNw==\r\n"), "{head}");
            assert!(!head.contains(TOKEN), "{head}");
        }
        let finished = Program::run(site.connect(&site.web_socket()).env(variable, &url), "1\n");
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "1\n"), "{finished:?}");
        let mut connect = site.connect("wss://agent.invalid/ws");
        let finished = Program::run(connect.env(variable, &url).env("no_proxy", ".invalid"), "");
        fails(&finished, 1, "wss://agent.invalid/ws");
    }
    assert!(heads.try_recv().is_err(), "a server on this machine was reached through the proxy");
}

#[test]
fn errors_name_the_proxy_and_what_to_do() {
    let (port, _heads) = refusing("407 Proxy Authentication Required");
    for (url, says) in [
        (format!("http://me:{SECRET}@127.0.0.1:{port}"), "answered with status 407"),
        (format!("http://me:{SECRET}@127.0.0.1:{port}"), "(HTTPS_PROXY)"),
        (format!("http://me:{SECRET}@127.0.0.1:1"), "127.0.0.1:1 (HTTPS_PROXY) cannot be reached"),
        (format!("socks5://me:{SECRET}@127.0.0.1:1"), "HTTPS_PROXY must begin with http://"),
        (format!("http://{SECRET} "), "the proxy in HTTPS_PROXY must be http://HOST:PORT"),
    ] {
        for endpoint in ["wss://agent.invalid/ws", "https://agent.invalid/sse"] {
            let mut connect = tieline(["-vv", "connect", endpoint]);
            fails(
                &Program::run(connect.env("HTTPS_PROXY", &url).env("RUST_LOG", "trace"), ""),
                1,
                says,
            );
        }
    }
}

#[test]
fn any_certificate_is_accepted_with_a_warning() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../http/tests/tls");
    let mut serve = tieline(["serve", "--listen", "https://127.0.0.1:0"]);
    serve.arg("--tls-cert").arg(folder.join("server.pem"));
    serve.arg("--tls-key").arg(folder.join("server.key.pem"));
    let site = Site::of(serve.args(["--", "cat"]).env("TIELINE_TOKEN", TOKEN));
    let endpoint = format!("wss://{}/ws", site.authority());
    fails(&Program::run(&mut site.connect(&endpoint), ""), 1, "the TLS handshake failed");
    let finished = Program::run(site.connect(&endpoint).arg("--accept-any-certificate"), "1\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "1\n"), "{finished:?}");
    assert!(finished.stderr.contains("TLS certificates are not checked"), "{finished:?}");
    let mut with_its_issuer = site.connect(&endpoint);
    let finished =
        Program::run(with_its_issuer.arg("--tls-ca").arg(folder.join("root.pem")), "1\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "1\n"), "{finished:?}");
    assert!(!finished.stderr.contains("not checked"), "{finished:?}");
}
