//! Tests of `tieline serve` with foreign pages in a real Chromium that try to reach it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use serde_json::json;
use support::{Browser, CONNECTED, WEB_TOKEN, WebSite};

/// A script that tries every way in which a page can reach a server, and returns the results. It opens
/// WebSockets with three kinds of subprotocols and an EventSource, and sends POST requests with and
/// without a preflight request.
const REACH: &str = r#"
    const socket = (protocols) => new Promise((resolve) => {
        const it = new WebSocket(URL.replace("http", "ws") + "/ws", protocols);
        it.onopen = () => resolve("open");
        it.onclose = ({ code }) => resolve(code);
    });
    const events = new Promise((resolve) => {
        const it = new EventSource(URL + "/sse", { withCredentials: true });
        it.onopen = () => resolve("open");
        it.onerror = () => { it.close(); resolve("closed"); };
    });
    const post = (path, type) => fetch(URL + path, {
        method: "POST", credentials: "include", headers: { "content-type": type }, body: '{"id":1}',
    }).then(({ status }) => status, () => "failed");
    return [
        await socket([]), await socket(["tieline"]), await socket(["tieline.1"]), await events,
        await post("/ws", "text/plain"), await post("/rpc", "application/json"), await post("/sse", "text/plain"),
    ];
"#;

fn reach(url: &str) -> String {
    REACH.replace("URL", &json!(url).to_string())
}

/// Starts a foreign server with an empty page at `/page`. All other requests are forwarded to `target`
/// unchanged, as if the name had been rebound to it.
fn foreign(at: SocketAddr, target: Option<SocketAddr>) -> u16 {
    let listener = TcpListener::bind(at).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                let length = stream.read(&mut head).unwrap_or(0);
                let head = &head[..length];
                if let (false, Some(target)) = (head.starts_with(b"GET /page "), target) {
                    pass_on(&stream, head, target);
                    return;
                }
                let page = "<!DOCTYPE html><title>foreign</title>";
                let length = page.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\
                     Connection: close\r\n\r\n{page}"
                );
            });
        }
    });
    port
}

fn pass_on(near: &TcpStream, head: &[u8], target: SocketAddr) {
    let mut far = TcpStream::connect(target).unwrap();
    far.write_all(head).unwrap();
    let (mut far_in, mut near_out) = (far.try_clone().unwrap(), near.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut far_in, &mut near_out);
        let _ = near_out.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut &*near, &mut far);
    let _ = far.shutdown(Shutdown::Both);
}

fn loopback(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

/// The page is on the same host, so the browser sends the cookie, and only the origin shows that the
/// page is foreign.
#[test]
fn a_page_of_a_foreign_origin_starts_no_program() {
    let site = WebSite::start(&[], &["cat"]);
    let port = foreign(loopback(1, 0), None);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    browser.say("hello");
    browser.wait("document.querySelector('li.in')");
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(browser.open(&format!("http://{host}:{port}/page")), 200);
        let reached = browser.run(&reach(site.url()));
        assert_eq!(reached, json!([1006, 1006, 1006, "closed", "failed", "failed", "failed"]));
    }
    site.serve.program.wait_stderr("--allow-origin");
    assert_eq!(site.refused("origin"), 14);
    // The only client is that of the server's own page.
    site.wait_clients(1);
    browser.stop();
    site.stop();
}

#[test]
fn a_page_of_an_allowed_origin_is_admitted_with_cookie_or_token() {
    let port = foreign(loopback(1, 0), None);
    let origin = format!("http://127.0.0.1:{port}");
    let site = WebSite::start(&["--allow-origin", &origin], &["cat"]);
    let echo = |protocols: &str| {
        let url = json!(site.url().replace("http", "ws") + "/ws");
        format!(
            "return new Promise((resolve) => {{
                const socket = new WebSocket({url}, {protocols});
                socket.onopen = () => socket.send('hello');
                socket.onmessage = ({{ data }}) => resolve(data);
                socket.onclose = ({{ code }}) => resolve(code);
            }})"
        )
    };
    let mut browser = Browser::start(&[]);
    browser.open(&format!("{origin}/page"));
    assert_eq!(browser.run(&echo("[]")), 1006, "there is no cookie yet");
    assert_eq!(site.clients(), 0);
    let with_token = format!("['tieline', 'tieline.token.{WEB_TOKEN}']");
    assert_eq!(browser.run(&echo(&with_token)), "hello");
    let metrics = format!(
        "return fetch('{}/metrics', {{ headers: {{ authorization: 'Bearer {WEB_TOKEN}' }} }})
             .then((answer) => answer.text())",
        site.url()
    );
    let metrics = browser.run(&metrics);
    assert!(metrics.as_str().unwrap().contains("tieline_clients_total 1"), "{metrics}");
    browser.open(&site.key_url());
    browser.wait(CONNECTED);
    browser.open(&format!("{origin}/page"));
    assert_eq!(browser.run(&echo("[]")), "hello");
    // The page also uses events and POST. An EventSource can authenticate only with the cookie.
    let events = |url: &str| {
        let url = json!(url);
        format!(
            "return new Promise((resolve) => {{
                const events = new EventSource({url} + '/sse', {{ withCredentials: true }});
                events.addEventListener('endpoint', ({{ data }}) =>
                    fetch(new URL(data, {url} + '/sse'), {{ method: 'POST', credentials: 'include', body: 'by events' }}));
                events.onmessage = ({{ data, lastEventId }}) => {{
                    events.close();
                    resolve([data, lastEventId.split('.')[1]]);
                }};
                events.onerror = () => {{ events.close(); resolve('closed'); }};
            }})"
        )
    };
    assert_eq!(browser.run(&events(site.url())), json!(["by events", "1"]));
    let call = format!(
        "return fetch('{}/rpc', {{ method: 'POST', credentials: 'include', body: '{{' }})
             .then(({{ status }}) => status)",
        site.url()
    );
    assert_eq!(browser.run(&call), 400);
    let tool = |header: &str| {
        let headers = json!({
            "authorization": format!("Bearer {WEB_TOKEN}"), "content-type": "application/json",
            "accept": "application/json, text/event-stream", header: "north",
        });
        format!(
            "return fetch('{}/mcp', {{ method: 'POST', headers: {headers}, body: '{{' }})
                 .then(({{ status }}) => status, () => 'failed')",
            site.url()
        )
    };
    assert_eq!(browser.run(&tool("Mcp-Param-Region")), 400);
    assert_eq!(browser.run(&tool("Mcp-Region")), "failed", "the preflight does not allow it");
    // The same server under another host name is another origin.
    browser.open(&format!("http://localhost:{port}/page"));
    assert_eq!(browser.run(&echo(&with_token)), 1006);
    assert_eq!(browser.run(&events(site.url())), "closed");
    site.wait_clients(4);
    browser.stop();
    site.stop();
}

/// This is DNS rebinding: a foreign name first resolves to a server with a foreign page and then to this
/// server, and to the browser both are the same origin. The server requires no token.
#[test]
fn a_rebound_dns_name_is_refused() {
    let site = WebSite::start(&["--allow-unauthenticated-web"], &["cat"]);
    // The foreign server uses the same port on another address, and forwards all requests except the one
    // for its page.
    let port = foreign(loopback(2, site.address.port()), Some(site.address));
    let rules = "--host-resolver-rules=MAP evil.example 127.0.0.2, MAP here.example 127.0.0.1";
    let mut browser = Browser::start(&[rules]);
    let evil = format!("http://evil.example:{port}");
    assert_eq!(browser.open(&format!("{evil}/page")), 200);
    let reached = browser.run(&reach(&evil));
    assert_eq!(reached, json!([1006, 1006, 1006, "closed", 403, 403, 403]));
    assert_eq!(browser.open(&format!("{evil}/")), 403);
    assert_eq!(browser.open(&format!("http://here.example:{port}/")), 403);
    site.serve.program.wait_stderr("unrecognized Host header");
    // Besides these nine, the browser asks for icons.
    let refused = site.refused("host");
    assert!(refused >= 9, "{refused}");
    assert_eq!(site.clients(), 0);
    // Under its own name, the server accepts every client, as configured.
    assert_eq!(browser.open(site.url()), 200);
    browser.wait(CONNECTED);
    site.wait_clients(1);
    browser.stop();
    site.stop();
}
