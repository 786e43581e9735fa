//! A plain Unix socket client, and a trait for exchanging lines.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::LIMIT;

/// Returns a JSON-RPC 2.0 request.
pub(crate) fn request(id: u32, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// A process or connection that exchanges lines.
pub(crate) trait Talk {
    /// Sends bytes unchanged.
    fn send_raw(&mut self, bytes: &[u8]);

    /// Returns the next line without its newline, or `None` at the end.
    fn line(&mut self) -> Option<String>;

    /// Sends one line.
    fn send(&mut self, line: &str) {
        self.send_raw(format!("{line}\n").as_bytes());
    }

    /// Returns the next line as JSON.
    #[track_caller]
    fn json(&mut self) -> Value {
        let line = self.line().expect("a line before the end");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a request and waits for its response, ignoring other messages.
    #[track_caller]
    fn call(&mut self, request: &Value) -> Value {
        self.send(&request.to_string());
        loop {
            let message = self.json();
            if message["id"] == request["id"] && message.get("method").is_none() {
                return message;
            }
        }
    }
}

/// A connection to a Unix socket. Each read is bounded by [`LIMIT`].
pub(crate) struct Client(BufReader<UnixStream>);

impl Client {
    #[track_caller]
    pub(crate) fn connect(path: &Path) -> Self {
        Self::try_connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn try_connect(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends bytes to a server that may close the connection before reading all of them.
    pub(crate) fn send_refused(&mut self, bytes: &[u8]) {
        match self.0.get_mut().write_all(bytes) {
            Err(error) if is_closed(&error) => {}
            sent => sent.expect("sent"),
        }
    }

    /// Closes the sending side of the connection. Answers still arrive.
    pub(crate) fn end_input(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("half-closed");
    }

    /// Reads `length` bytes, which must be text.
    #[track_caller]
    pub(crate) fn exact(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("read");
        String::from_utf8(bytes).expect("text")
    }

    /// Reads everything up to the end.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            // The other side has closed the connection without reading everything. That is also an end.
            Err(error) if is_closed(&error) => {}
            read => drop(read.expect("read to the end")),
        }
        rest
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl Talk for Client {
    #[track_caller]
    fn send_raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("sent");
    }

    #[track_caller]
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Err(error) if is_closed(&error) => return None,
            read => drop(read.expect("read a line")),
        }
        if line.is_empty() { None } else { Some(line.trim_end_matches('\n').to_owned()) }
    }
}
