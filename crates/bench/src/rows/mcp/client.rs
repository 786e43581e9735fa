//! The MCP client of the rows: HTTP over one connection that is kept, with no library on either side of
//! the comparison.

use std::net::Ipv4Addr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::compare::Result;

const VERSION: &str = "2025-11-25";

pub(in crate::rows) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
pub(in crate::rows) const INITIALIZED: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A connection to an MCP endpoint.
pub(in crate::rows) struct Client {
    stream: TcpStream,
    /// What has been read and not consumed.
    input: Vec<u8>,
    port: u16,
    session: Option<String>,
    next: u32,
}

impl Client {
    /// Connects and opens a session.
    pub(in crate::rows) async fn initialize(port: u16) -> Result<Self> {
        let mut client = Self::connect(port, None).await?;
        client.post(INITIALIZE).await?;
        client.post(INITIALIZED).await?;
        Ok(client)
    }

    /// Opens another connection for requests of the same session.
    pub(in crate::rows) async fn another(&self) -> Result<Self> {
        Self::connect(self.port, self.session.clone()).await
    }

    async fn connect(port: u16, session: Option<String>) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::with_capacity(4096), port, session, next: 0 })
    }

    /// Calls the tool `echo`, and checks that the response has the id of the request. `ids` distinguishes
    /// the connections of a session.
    pub(in crate::rows) async fn call(&mut self, ids: u32) -> Result<()> {
        self.next += 1;
        let id = format!(r#""id":"{ids}-{}""#, self.next);
        let body = format!(
            r#"{{"jsonrpc":"2.0",{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"message":"as an agent says a word"}}}}}}"#
        );
        let response = self.post(&body).await?;
        match memmem::find(&response, id.as_bytes()).and(memmem::find(&response, b"a word")) {
            Some(_) => Ok(()),
            None => {
                Err(format!("unexpected response: {}", String::from_utf8_lossy(&response)).into())
            }
        }
    }

    /// Opens the session's general event stream and returns after the head of the response.
    pub(in crate::rows) async fn listen(&mut self) -> Result<()> {
        let head = self.head("GET", "text/event-stream", "");
        self.stream.write_all(head.as_bytes()).await?;
        self.response_head().await?;
        Ok(())
    }

    /// Sends a message and returns the body of the response.
    async fn post(&mut self, message: &str) -> Result<Vec<u8>> {
        let more =
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", message.len());
        let mut request = self.head("POST", "application/json, text/event-stream", &more);
        request.push_str(message);
        self.stream.write_all(request.as_bytes()).await?;
        let head = self.response_head().await?;
        if let Some(session) = head.session {
            self.session = Some(session);
        }
        match head.length {
            Some(length) => self.take(length).await,
            None => self.chunks().await,
        }
    }

    fn head(&self, method: &str, accept: &str, more: &str) -> String {
        let session = self.session.as_ref().map(|session| {
            format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: {VERSION}\r\n")
        });
        format!(
            "{method} /mcp HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: {accept}\r\n{}{more}\r\n",
            self.port,
            session.unwrap_or_default(),
        )
    }

    async fn response_head(&mut self) -> Result<Head> {
        loop {
            if let Some(end) = memmem::find(&self.input, b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..end + 4).collect();
                return Head::parse(&String::from_utf8(head)?);
            }
            self.read().await?;
        }
    }

    /// Reads a chunked body.
    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match memmem::find(&self.input, b"\r\n") {
                    Some(end) => break self.take(end + 2).await?,
                    None => self.read().await?,
                }
            };
            let length = usize::from_str_radix(std::str::from_utf8(&line)?.trim_end(), 16)?;
            let mut chunk = self.take(length + 2).await?;
            if length == 0 {
                return Ok(body);
            }
            chunk.truncate(length);
            body.append(&mut chunk);
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.input.len() < length {
            self.read().await?;
        }
        Ok(self.input.drain(..length).collect())
    }

    async fn read(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err("the gateway closed the connection".into()),
            _ => Ok(()),
        }
    }
}

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    session: Option<String>,
    /// The length of the body, unless it is chunked.
    length: Option<usize>,
}

impl Head {
    /// Parses the head of a successful response.
    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|it| it.split(' ').nth(1)).unwrap_or_default();
        if !matches!(status, "200" | "202") {
            return Err(format!("unexpected response: {text:?}").into());
        }
        let (mut head, mut is_chunked) = (Self { session: None, length: Some(0) }, false);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match name.to_ascii_lowercase().as_str() {
                "mcp-session-id" => head.session = Some(value.trim().to_owned()),
                "content-length" => head.length = Some(value.trim().parse()?),
                "transfer-encoding" => is_chunked = true,
                _ => {}
            }
        }
        if is_chunked {
            head.length = None;
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed() {
        for (text, session, length) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nMcp-Session-Id: a\r\n\r\n",
                Some("a"),
                Some(12),
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", None, None),
            ("HTTP/1.1 202 Accepted\r\n\r\n", None, Some(0)),
        ] {
            let expected = Head { session: session.map(str::to_owned), length };
            assert_eq!(Head::parse(text).unwrap(), expected);
        }
        assert!(Head::parse("HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }
}
