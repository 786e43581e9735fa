//! A hand-written client for event streams, which writes HTTP to a socket and parses the events of the
//! response.

use std::time::Duration;

use bytes::BytesMut;
use tieline_proto::sse::{Event, Item, Parser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LIMIT, TOKEN, head, status_of};

/// An open event stream.
pub struct Stream {
    socket: TcpStream,
    pub head: String,
    parser: Parser,
    chunks: Chunks,
    events: std::collections::VecDeque<Event>,
    /// The URL for POST requests, as the server sent it.
    pub endpoint: String,
    /// The request path for POST requests.
    pub uri: String,
    /// The id of the event with the URL for POST requests.
    pub first: String,
    pub port: u16,
}

/// Decodes a chunked response body (RFC 9112, section 7.1).
#[derive(Default)]
struct Chunks {
    raw: BytesMut,
    left: usize,
    is_over: bool,
}

impl Chunks {
    /// Returns the next available part of the body.
    fn take(&mut self) -> Option<BytesMut> {
        if self.is_over {
            return None;
        }
        if self.left > 2 {
            let length = self.raw.len().min(self.left - 2);
            self.left -= length;
            return (length > 0).then(|| self.raw.split_to(length));
        }
        if self.left > 0 {
            if self.raw.len() < self.left {
                return None;
            }
            let _ = self.raw.split_to(self.left);
            self.left = 0;
        }
        let end = self.raw.windows(2).position(|it| it == b"\r\n")?;
        let size = self.raw.split_to(end + 2);
        let size = usize::from_str_radix(std::str::from_utf8(&size[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            self.is_over = true;
            return None;
        }
        self.left = size + 2;
        self.take()
    }
}

impl Stream {
    /// Opens a stream with additional header lines. Returns the response head if the status is not 200.
    pub async fn open(port: u16, more: &str) -> Result<Self, String> {
        Self::open_as(port, &format!("Authorization: Bearer {TOKEN}\r\n{more}")).await
    }

    pub async fn open_as(port: u16, more: &str) -> Result<Self, String> {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET /sse HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut socket).await;
        if !head.ends_with("\r\n\r\n") {
            return Err("cut off".into());
        }
        if status_of(&head) != 200 {
            return Err(head);
        }
        let (parser, chunks, events) = (Parser::default(), Chunks::default(), Default::default());
        let (endpoint, uri, first) = Default::default();
        let mut stream = Self { socket, head, parser, chunks, events, endpoint, uri, first, port };
        let Some(first) = stream.event().await else { return Err("cut off".into()) };
        assert_eq!(first.event, "endpoint");
        stream.endpoint = String::from_utf8(first.data.to_vec()).unwrap();
        stream.uri = format!("/{}", stream.endpoint);
        stream.first = first.id;
        Ok(stream)
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Returns the next event, or `None` if the stream has ended or was cut off.
    pub async fn event(&mut self) -> Option<Event> {
        timeout(LIMIT, self.next()).await.expect("timed out waiting for an event")
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            while let Some(mut bytes) = self.chunks.take() {
                while let Some(item) = self.parser.parse(&mut bytes) {
                    if let Item::Event(event) = item {
                        self.events.push_back(event);
                    }
                }
            }
            if !self.events.is_empty() {
                continue;
            }
            if self.chunks.is_over {
                return None;
            }
            match self.socket.read_buf(&mut self.chunks.raw).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
    }

    /// Returns the next message as text.
    pub async fn message(&mut self) -> String {
        let event = self.event().await.expect("the stream has ended");
        assert_eq!(event.event, "", "{event:?}");
        String::from_utf8(event.data.to_vec()).unwrap()
    }

    /// Asserts that the stream ends without another event.
    pub async fn end(&mut self) {
        if let Some(event) = self.event().await {
            panic!("{event:?}");
        }
    }

    pub async fn post(&self, body: impl AsRef<[u8]>, more: &str) -> String {
        post(self.port, &self.uri, body, more).await
    }
}

/// Sends a POST request over a new connection. Returns the response head.
pub async fn post(port: u16, uri: &str, body: impl AsRef<[u8]>, more: &str) -> String {
    let more = format!("Authorization: Bearer {TOKEN}\r\n{more}");
    post_as(port, uri, body, &more).await
}

pub async fn post_as(port: u16, uri: &str, body: impl AsRef<[u8]>, more: &str) -> String {
    ask("POST", port, uri, body, more).await.0
}

/// Sends a request over a new connection. Returns the head and body of the response.
pub async fn ask(
    method: &str,
    port: u16,
    uri: &str,
    body: impl AsRef<[u8]>,
    more: &str,
) -> (String, String) {
    let body = body.as_ref();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "{method} {uri} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\n\
         Connection: close\r\n{more}\r\n",
        body.len()
    );
    let _ = socket.write_all(&[request.as_bytes(), body].concat()).await;
    let head = head(&mut socket).await;
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(60), socket.read_to_end(&mut rest))
        .await
        .expect("timed out waiting for the end of the response");
    (head, String::from_utf8_lossy(&rest).into_owned())
}

/// Forwards connections and cuts each one after a number of response bytes. For each connection, `after`
/// returns this number, or `None` for no cut. Returns the port to connect to.
pub async fn shears(to: u16, mut after: impl FnMut() -> Option<usize> + Send + 'static) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let left = after();
            tokio::spawn(async move {
                let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                    (near.into_split(), far.into_split());
                let up = tokio::io::copy(&mut near_in, &mut far_out);
                let down = async {
                    let mut left = left.unwrap_or(usize::MAX);
                    let mut bytes = vec![0; 16 * 1024];
                    while left > 0 {
                        let most = bytes.len().min(left);
                        match far_in.read(&mut bytes[..most]).await {
                            Ok(read @ 1..) => {
                                left -= read;
                                if near_out.write_all(&bytes[..read]).await.is_err() {
                                    return;
                                }
                            }
                            _ => return,
                        }
                    }
                };
                let up = async {
                    let _ = up.await;
                    std::future::pending::<()>().await;
                };
                // When one direction ends, both are closed.
                tokio::select! {
                    () = down => {}
                    () = up => {}
                }
            });
        }
    });
    port
}

/// A pseudo-random number generator (xorshift); the seed determines its output.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
