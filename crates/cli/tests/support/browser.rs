//! `tieline serve` on the web, and a headless Chromium as its client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::proc::MARK;
use super::{LIMIT, Program, Serve, Talk, browser_driver, new_mark, tieline, until};

pub(crate) const TOKEN: &str = "the-token-of-these-tests";

/// A web server.
pub(crate) struct WebSite {
    pub(crate) serve: Serve,
    pub(crate) address: SocketAddr,
}

impl WebSite {
    pub(crate) fn start(options: &[&str], program: &[&str]) -> Self {
        Self::at(0, options, program)
    }

    pub(crate) fn at(port: u16, options: &[&str], program: &[&str]) -> Self {
        let mark = new_mark();
        let mut command = tieline(["serve", "--listen", &format!("http://127.0.0.1:{port}")]);
        command.args(["--env", &format!("{}={mark}", MARK)]).args(options);
        command.arg("--").args(program);
        if !options.contains(&"--allow-unauthenticated-web") {
            command.env("TIELINE_TOKEN", TOKEN);
        }
        let serve = Serve::launch(&mut command, 1, mark, tempfile::tempdir().unwrap());
        let address = serve.endpoint().strip_prefix("http://").unwrap().parse().unwrap();
        Self { serve, address }
    }

    pub(crate) fn url(&self) -> &str {
        self.serve.endpoint()
    }

    /// Returns the one-time URL that the server printed.
    pub(crate) fn key_url(&self) -> String {
        self.serve.program.wait_stderr("?key=");
        let said = self.serve.program.stderr();
        let line = said.lines().find(|line| line.contains("?key=")).unwrap();
        line[line.find("http://").unwrap()..].to_owned()
    }

    /// Returns how many clients have connected, according to `/metrics`.
    pub(crate) fn clients(&self) -> u32 {
        self.metric("tieline_clients_total")
    }

    /// Returns how many requests were refused because of `cause`, according to `/metrics`. The log does not
    /// show each of them.
    pub(crate) fn refused(&self, cause: &str) -> u32 {
        self.metric(&format!("tieline_web_refused_total{{cause=\"{cause}\"}}"))
    }

    fn metric(&self, name: &str) -> u32 {
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
        let count = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        count.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    }

    /// Waits until this many clients have connected. The server counts a client after answering its
    /// request.
    #[track_caller]
    pub(crate) fn wait_clients(&self, count: u32) {
        until("the clients are counted", || self.clients() >= count);
        assert_eq!(self.clients(), count);
    }

    pub(crate) fn stop(mut self) {
        self.serve.program.signal(Signal::TERM);
        let finished = self.serve.program.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_eq!(self.serve.processes(), [0; 0], "processes are left");
    }
}

/// Chromium, with a page.
pub(crate) struct Browser(Program);

impl Browser {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let [node, driver] = browser_driver();
        let mut driven = Command::new(node);
        Self(Program::start(driven.arg(driver).args(flags)))
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, command: Value) -> Value {
        let mut answer = self.answer(&command);
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["value"].take()
    }

    #[track_caller]
    fn answer(&mut self, command: &Value) -> Value {
        self.0.send(&command.to_string());
        let Some(answer) = self.0.line() else {
            panic!("the browser has exited: {}", self.0.stderr())
        };
        serde_json::from_str(&answer).unwrap()
    }

    /// Runs a script that opens another page, and waits until that page is loaded.
    #[track_caller]
    pub(crate) fn follow(&mut self, script: &str) {
        let page = json!(["run", "return [performance.timeOrigin, document.readyState]"]);
        let before = self.ask(page.clone())[0].take();
        // The timer lets the script return before the browser leaves the page.
        self.run(&format!("setTimeout(() => {{ {script} }})"));
        until("the next page is loaded", || {
            // The command fails while one page replaces the other.
            let now = &self.answer(&page)["value"];
            now[1] == "complete" && now[0] != before
        });
    }

    /// Loads a page and returns the HTTP status.
    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) -> Value {
        self.ask(json!(["open", url]))
    }

    #[track_caller]
    pub(crate) fn reload(&mut self) {
        assert_eq!(self.ask(json!(["reload"])), 200);
    }

    /// Runs an async function with this body in the page, and returns its result.
    #[track_caller]
    pub(crate) fn run(&mut self, script: &str) -> Value {
        self.ask(json!(["run", script]))
    }

    #[track_caller]
    pub(crate) fn wait(&mut self, condition: &str) {
        self.run(&format!("await until(() => {condition})"));
    }

    /// Types a message into the page and sends it.
    #[track_caller]
    pub(crate) fn say(&mut self, message: &str) {
        self.wait(CONNECTED);
        let message = json!(message);
        self.run(&format!("text.value = {message}; form.requestSubmit()"));
    }

    /// Returns the entries of this kind that the page shows: `in`, `out`, `note` or `bad`.
    #[track_caller]
    pub(crate) fn shown(&mut self, kind: &str) -> Vec<String> {
        let script = format!(
            "return [...document.querySelectorAll('li.{kind} pre')].map((it) => it.textContent)"
        );
        serde_json::from_value(self.run(&script)).unwrap()
    }

    pub(crate) fn stop(self) {
        let finished = self.0.finish();
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    }
}

pub(crate) const CONNECTED: &str = "document.querySelector('#state.connected')";
