//! A person with a browser, and pages that are none of ours: a real Chromium against `tieline serve`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{LIMIT, Program, Serve, Talk, browser_driver, new_mark, tieline};

const TOKEN: &str = "the-token-of-these-tests";

/// A server on the web.
struct Site {
    serve: Serve,
    address: SocketAddr,
}

impl Site {
    fn start(options: &[&str], program: &[&str]) -> Self {
        Self::at(0, options, program)
    }

    fn at(port: u16, options: &[&str], program: &[&str]) -> Self {
        let mark = new_mark();
        let mut command = tieline(["serve", "--listen", &format!("http://127.0.0.1:{port}")]);
        command.args(["--env", &format!("{}={mark}", support::MARK)]).args(options);
        command.arg("--").args(program);
        if !options.contains(&"--allow-unauthenticated-web") {
            command.env("TIELINE_TOKEN", TOKEN);
        }
        let serve = Serve::launch(&mut command, 1, mark, tempfile::tempdir().unwrap());
        let address = serve.endpoint().strip_prefix("http://").unwrap().parse().unwrap();
        Self { serve, address }
    }

    fn url(&self) -> &str {
        self.serve.endpoint()
    }

    /// The URL that it has printed.
    fn key_url(&self) -> String {
        self.serve.program.wait_stderr("?key=");
        let said = self.serve.program.stderr();
        let line = said.lines().find(|line| line.contains("?key=")).unwrap();
        line[line.find("http://").unwrap()..].to_owned()
    }

    /// How many clients have come so far, by its own account.
    fn clients(&self) -> u32 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let host = self.address;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Connection: close\r\n\r\n"
        )
        .unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).unwrap();
        let count = metrics.lines().find_map(|line| line.strip_prefix("tieline_clients_total "));
        count.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    }

    fn stop(mut self) {
        self.serve.program.signal(Signal::TERM);
        let finished = self.serve.program.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_eq!(self.serve.processes(), [0; 0], "processes are left");
    }
}

/// Chromium, with a page.
struct Browser(Program);

impl Browser {
    fn start(flags: &[&str]) -> Self {
        let [node, driver] = browser_driver();
        let mut driven = Command::new(node);
        Self(Program::start(driven.arg(driver).args(flags)))
    }

    #[track_caller]
    fn ask(&mut self, command: Value) -> Value {
        self.0.send(&command.to_string());
        let Some(answer) = self.0.line() else { panic!("it has ended: {}", self.0.stderr()) };
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["value"].take()
    }

    /// Loads a page; the status.
    #[track_caller]
    fn open(&mut self, url: &str) -> Value {
        self.ask(json!(["open", url]))
    }

    #[track_caller]
    fn reload(&mut self) {
        assert_eq!(self.ask(json!(["reload"])), 200);
    }

    /// What an async function with this body returns, in the page.
    #[track_caller]
    fn run(&mut self, script: &str) -> Value {
        self.ask(json!(["run", script]))
    }

    #[track_caller]
    fn wait(&mut self, condition: &str) {
        self.run(&format!("await until(() => {condition})"));
    }

    /// Types into the page and sends it.
    #[track_caller]
    fn say(&mut self, message: &str) {
        self.wait(CONNECTED);
        let message = json!(message);
        self.run(&format!("text.value = {message}; form.requestSubmit()"));
    }

    /// What the page shows of this kind: `in`, `out`, `note` or `bad`.
    #[track_caller]
    fn shown(&mut self, kind: &str) -> Vec<String> {
        let script = format!(
            "return [...document.querySelectorAll('li.{kind} pre')].map((it) => it.textContent)"
        );
        serde_json::from_value(self.run(&script)).unwrap()
    }

    fn stop(self) {
        let finished = self.0.finish();
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    }
}

const CONNECTED: &str = "document.querySelector('#state.connected')";

/// What a page can do to reach a server, and how each ends: WebSockets of all three kinds, an EventSource,
/// and POST, with and without asking first.
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

/// A server of somebody else's, with an empty page at `/page`. All else it passes on to `target`, as it came:
/// what a browser sends to a name that leads there now, and led here before.
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

#[test]
fn the_one_time_url_lets_one_browser_in_and_the_page_talks_to_the_program() {
    let site = Site::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    let key_url = site.key_url();
    assert_eq!(browser.open(&key_url), 200);
    assert_eq!(browser.run("return location.href"), format!("{}/", site.url()));
    let messages = ["hello", "<img src=x onerror=alert(1)>", &"ü".repeat(3000), r#"{"a":[1]}"#];
    for message in messages {
        browser.say(message);
    }
    browser.wait("document.querySelectorAll('li.in').length === 4");
    let cut = format!("{}… (3000 characters)", "ü".repeat(2000));
    let expected = [messages[0], messages[1], &cut, messages[3]];
    assert_eq!(browser.shown("out"), expected);
    assert_eq!(browser.shown("in"), expected);
    assert_eq!(browser.run("return document.querySelectorAll('#log img').length"), 0);
    // JSON can be indented, and what was said before comes back with the arrow keys.
    browser.run("pretty.click()");
    assert_eq!(browser.shown("in")[3], "{\n  \"a\": [\n    1\n  ]\n}");
    let up =
        "text.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowUp', cancelable: true }));";
    let down = up.replace("Up", "Down");
    assert_eq!(browser.run(&format!("{up}{up}{up}{up}{up} return text.value")), "hello");
    assert_eq!(browser.run(&format!("{down}{down}{down} return text.value")), messages[3]);
    assert_eq!(browser.run(&format!("{down} return text.value")), "");
    // Its owner may open it again. For everybody else it is used.
    assert_eq!(browser.open(&key_url), 200);
    browser.wait(CONNECTED);
    browser.ask(json!(["stranger"]));
    assert_eq!(browser.open(&key_url), 403);
    let said = browser.run("return document.body.innerText");
    assert!(said.as_str().unwrap().contains("used before"), "{said}");
    assert_eq!(browser.open(site.url()), 401);
    let said = browser.run("return document.body.innerText");
    assert!(said.as_str().unwrap().contains("tieline serve has printed"), "{said}");
    assert_eq!(site.clients(), 1);
    browser.stop();
    site.stop();
}

#[test]
fn a_page_that_is_loaded_again_finds_its_process_where_it_left_it() {
    let site = Site::start(&[], &["sh", "-c", "while read x; do echo $$ $x; done"]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    for round in 0..3 {
        browser.say(&format!("round {round}"));
        if round > 0 {
            // The answer comes to this page or to the next.
            browser.reload();
        }
    }
    browser.wait("document.querySelectorAll('li.in').length === 3");
    let answers = browser.shown("in");
    let pid = answers[0].split(' ').next().unwrap();
    let expected: Vec<_> = (0..3).map(|round| format!("{pid} round {round}")).collect();
    assert_eq!(answers, expected);
    assert_eq!(browser.shown("out"), ["round 0", "round 1", "round 2"]);
    assert_eq!(site.clients(), 1);
    // It ends when its owner says so, and so does the process; the next page begins another.
    browser.run("end.click()");
    browser.wait("document.querySelector('#state.ended')");
    site.serve.wait_nothing_left();
    browser.reload();
    browser.say("again");
    browser.wait("document.querySelectorAll('li.in').length === 4");
    assert!(!browser.shown("in")[3].starts_with(&format!("{pid} ")));
    assert_eq!(site.clients(), 2);
    browser.stop();
    site.stop();
}

#[test]
fn the_page_shows_the_last_thousand_lines_also_when_it_is_loaded_again() {
    let program = "i=0; while [ $i -lt 1500 ]; do echo line $i; i=$((i+1)); done; cat";
    let site = Site::start(&[], &["sh", "-c", program]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    let last = "document.querySelector('#log li:last-child pre')?.textContent === 'line 1499'";
    browser.wait(last);
    let expected: Vec<_> = (500..1500).map(|number| format!("line {number}")).collect();
    assert_eq!(browser.shown("in"), expected);
    browser.reload();
    browser.wait(CONNECTED);
    assert_eq!(browser.shown("in"), expected);
    browser.stop();
    site.stop();
}

/// The page stops to listen in mid-stream, at whatever has come by then.
#[test]
fn a_page_that_is_loaded_again_in_mid_stream_lacks_no_line_and_has_none_twice() {
    const LINES: u32 = 10_000;
    let program = format!("i=0; while [ $i -lt {LINES} ]; do echo $$ $i; i=$((i+1)); done; cat");
    let site = Site::start(&[], &["sh", "-c", &program]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    // A page of our own beside the usual one, with another session.
    browser.open(&format!("{}/page.css", site.url()));
    let listen = r#"
        const { connect } = await import("/tieline.js");
        const line = connect("/ws", { storage: sessionStorage, key: "here" });
        const seen = sessionStorage;
        return new Promise((resolve, reject) => {
            line.onreset = line.onclose = reject;
            line.onmessage = (message) => {
                const [pid, number] = message.split(" ");
                seen.pid ??= pid;
                if (pid !== seen.pid || number !== (seen.next ?? "0")) reject(new Error(`${message} for ${seen.next}`));
                seen.next = Number(number) + 1;
                if (seen.next % 2000 === 0) resolve([number, pid]);
            };
        });
    "#;
    let mut pids = Vec::new();
    for round in 1..=LINES / 2000 {
        let came = browser.run(listen);
        assert_eq!(came[0], (round * 2000 - 1).to_string());
        pids.push(came[1].clone());
        browser.reload();
    }
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    let next = browser.run("return sessionStorage.next");
    assert_eq!(next, LINES.to_string());
    assert_eq!(site.clients(), 2);
    browser.stop();
    site.stop();
}

#[test]
fn a_page_whose_server_was_started_again_says_what_to_do() {
    let site = Site::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    browser.say("hello");
    browser.wait("document.querySelector('li.in')");
    let port = site.address.port();
    site.serve.program.signal(Signal::KILL);
    browser.wait("document.title === 'tieline: away'");
    drop(site);
    let site = Site::at(port, &[], &["cat"]);
    browser.wait("state.textContent.startsWith('not let in any more')");
    // The new URL, in the same tab: another process, and it says so.
    assert_eq!(browser.open(&site.key_url()), 200);
    browser.say("again");
    browser.wait("document.querySelectorAll('li.in').length === 2");
    let bad = browser.shown("bad");
    assert!(bad.len() == 1 && bad[0].starts_with("the session was lost"), "{bad:?}");
    browser.stop();
    site.stop();
}

/// It is on the same host, so the browser sends the cookie along: nothing but the origin tells it.
#[test]
fn a_page_of_a_foreign_origin_starts_nothing() {
    let site = Site::start(&[], &["cat"]);
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
    site.serve.program.wait_stderr_times("pages of this origin may not talk to it", 14);
    // The one there was before, for the page that is ours.
    assert_eq!(site.clients(), 1);
    browser.stop();
    site.stop();
}

#[test]
fn a_page_of_an_origin_that_is_allowed_gets_in_with_cookie_or_token() {
    let port = foreign(loopback(1, 0), None);
    let origin = format!("http://127.0.0.1:{port}");
    let site = Site::start(&["--allow-origin", &origin], &["cat"]);
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
    let with_token = format!("['tieline', 'tieline.token.{TOKEN}']");
    assert_eq!(browser.run(&echo(&with_token)), "hello");
    let metrics = format!(
        "return fetch('{}/metrics', {{ headers: {{ authorization: 'Bearer {TOKEN}' }} }})
             .then((answer) => answer.text())",
        site.url()
    );
    let metrics = browser.run(&metrics);
    assert!(metrics.as_str().unwrap().contains("tieline_clients_total 1"), "{metrics}");
    browser.open(&site.key_url());
    browser.wait(CONNECTED);
    browser.open(&format!("{origin}/page"));
    assert_eq!(browser.run(&echo("[]")), "hello");
    // The same server by another name is another origin.
    browser.open(&format!("http://localhost:{port}/page"));
    assert_eq!(browser.run(&echo(&with_token)), 1006);
    assert_eq!(site.clients(), 3);
    browser.stop();
    site.stop();
}

/// DNS rebinding: a name of somebody else's led to their page, and leads here now. To the browser all is of
/// one origin. There is no token to hide behind.
#[test]
fn a_name_that_was_made_to_lead_here_leads_nowhere() {
    let site = Site::start(&["--allow-unauthenticated-web"], &["cat"]);
    // The same port, as it must be, on another address; what comes behind its page is passed on.
    let port = foreign(loopback(2, site.address.port()), Some(site.address));
    let rules = "--host-resolver-rules=MAP evil.example 127.0.0.2, MAP here.example 127.0.0.1";
    let mut browser = Browser::start(&[rules]);
    let evil = format!("http://evil.example:{port}");
    assert_eq!(browser.open(&format!("{evil}/page")), 200);
    let reached = browser.run(&reach(&evil));
    assert_eq!(reached, json!([1006, 1006, 1006, "closed", 403, 403, 403]));
    assert_eq!(browser.open(&format!("{evil}/")), 403);
    assert_eq!(browser.open(&format!("http://here.example:{port}/")), 403);
    site.serve.program.wait_stderr_times("this server is not called so", 9);
    assert_eq!(site.clients(), 0);
    // By its own name it is there for everybody, as it was told.
    assert_eq!(browser.open(site.url()), 200);
    browser.wait(CONNECTED);
    assert_eq!(site.clients(), 1);
    browser.stop();
    site.stop();
}
