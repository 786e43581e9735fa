//! A plain client of a Unix socket, and how tests talk to anything line by line.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::LIMIT;

/// A request of JSON-RPC 2.0.
pub(crate) fn request(id: u32, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// Something to exchange lines with.
pub(crate) trait Talk {
    /// Sends the bytes as they are.
    fn send_raw(&mut self, bytes: &[u8]);

    /// The next line, without its end; `None` when no more will come.
    fn line(&mut self) -> Option<String>;

    /// Sends one line.
    fn send(&mut self, line: &str) {
        self.send_raw(format!("{line}\n").as_bytes());
    }

    /// The next line, as JSON.
    #[track_caller]
    fn json(&mut self) -> Value {
        let line = self.line().expect("the line has ended");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a request and waits for its answer, whatever else comes in between.
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

    /// Sends what a server may refuse to take to its end.
    pub(crate) fn send_refused(&mut self, bytes: &[u8]) {
        match self.0.get_mut().write_all(bytes) {
            Err(error) if is_closed(&error) => {}
            sent => sent.expect("sent"),
        }
    }

    /// Ends this direction; answers still arrive.
    pub(crate) fn end_input(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("half-closed");
    }

    /// So many bytes, which must be text.
    #[track_caller]
    pub(crate) fn exact(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("read");
        String::from_utf8(bytes).expect("text")
    }

    /// Everything that still comes, up to the end.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            // The other side went without reading all that was sent: an end all the same.
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
