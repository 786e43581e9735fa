//! A web server, and plain HTTP requests to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;

use super::{Program, Talk, tieline};

pub(crate) const TOKEN: &str = "a-token-that-is-hard-to-guess";

/// A web server.
pub(crate) struct Site {
    pub(crate) program: Program,
    /// For example `http://127.0.0.1:12345`.
    pub(crate) endpoint: String,
}

impl Site {
    #[track_caller]
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut program = Program::start(command);
        let Some(endpoint) = program.line() else { panic!("{}", program.stderr()) };
        Self { program, endpoint }
    }

    /// Starts a server that requires [`TOKEN`].
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = tieline(["serve", "--listen", "http://127.0.0.1:0"]);
        Self::of(command.args(args).env("TIELINE_TOKEN", TOKEN))
    }

    pub(crate) fn authority(&self) -> &str {
        self.endpoint.split_once("//").unwrap().1
    }

    pub(crate) fn web_socket(&self) -> String {
        format!("ws://{}/ws", self.authority())
    }

    /// Sends a request in which `@` stands for the authority, and returns the whole response.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.authority()).unwrap();
        let request = request.replace('@', self.authority());
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut answer).unwrap(), 0, "{answer}");
        }
        let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).unwrap();
        answer + &String::from_utf8(body).unwrap()
    }

    pub(crate) fn get(&self, path: &str, headers: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: @\r\n{headers}\r\n"))
    }

    pub(crate) fn connect(&self, endpoint: &str) -> Command {
        let mut command = tieline(["connect", endpoint]);
        command.env("TIELINE_TOKEN", TOKEN);
        command
    }

    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.program.signal(Signal::TERM);
        let finished = self.program.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished.stderr
    }
}

pub(crate) fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}
