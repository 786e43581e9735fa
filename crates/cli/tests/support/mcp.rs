//! Requests to `/mcp`.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::site::{Site, TOKEN};
use super::{LIMIT, children_of, until};

pub(crate) const ACCEPT: &str = "Accept: application/json, text/event-stream\r\n";

pub(crate) fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

/// Returns a POST request with this body.
pub(crate) fn post_with(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /mcp HTTP/1.1\r\nHost: @\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A response that is read while it arrives.
pub(crate) struct Stream {
    socket: TcpStream,
    pub(crate) text: String,
}

impl Stream {
    /// Sends a request in which `@` stands for the authority.
    pub(crate) fn open(site: &Site, request: &str) -> Self {
        let mut socket = TcpStream::connect(site.authority()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.write_all(request.replace('@', site.authority()).as_bytes()).unwrap();
        Self { socket, text: String::new() }
    }

    /// Reads until the text has arrived.
    #[track_caller]
    pub(crate) fn wait(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.text.contains(text) {
            let read = self.socket.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "no {text:?} in {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }
}

/// Waits until no program is left.
pub(crate) fn wait_none_left(site: &Site) {
    until("the program has ended", || children_of(site.program.pid()).is_empty());
}
