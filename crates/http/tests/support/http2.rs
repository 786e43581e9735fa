//! Clients of HTTP/2: one that behaves, and one that writes frames.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::ReadBufCursor;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LIMIT, Served, TOKEN};

/// A stream with hyper's traits.
pub struct Io(TcpStream);

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = bytes.len().min(into.remaining());
        let mut buffer = ReadBuf::new(&mut bytes[..room]);
        std::task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        into.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[derive(Clone)]
pub struct Executor;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}

/// A body in one piece.
pub struct Whole(pub Bytes);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A client that behaves.
pub struct Client {
    pub requests: SendRequest<Whole>,
    pub port: u16,
}

impl Client {
    pub async fn connect(served: &Served) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        let (requests, connection) = http2::handshake(Executor, Io(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { requests, port: served.port }
    }

    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let authority = format!("127.0.0.1:{}", self.port);
        self.ask_at(&authority, method, path, headers, body).await.unwrap()
    }

    pub async fn ask_at(
        &mut self,
        authority: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request =
            Request::builder().method(method).uri(format!("http://{authority}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sending = self.requests.send_request(request.body(Whole(body.into())).unwrap());
        timeout(LIMIT, sending).await.expect("timed out")
    }
}

pub async fn data(body: &mut Incoming) -> Option<Bytes> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    let frame = timeout(LIMIT, frame).await.expect("timed out")?;
    Some(frame.unwrap().into_data().unwrap())
}

pub async fn whole(mut response: Response<Incoming>) -> Bytes {
    let mut whole = Vec::new();
    while let Some(data) = data(response.body_mut()).await {
        whole.extend_from_slice(&data);
    }
    whole.into()
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub struct RawFrame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A client that writes frames.
pub struct Raw {
    pub stream: TcpStream,
    pub port: u16,
}

impl Raw {
    pub async fn connect(served: &Served) -> Self {
        Self::connect_with(served, &[]).await
    }

    /// Connects with these settings.
    pub async fn connect_with(served: &Served, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut raw = Self { stream, port: served.port };
        raw.send(SETTINGS, 0, 0, settings).await;
        raw
    }

    /// Sends a frame. Errors are ignored, because the server may have closed the connection.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        let _ = self.stream.write_all(&frame).await;
    }

    /// Encodes the headers of a request, without compression.
    pub fn head(&self, method: &str, path: &str) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", &format!("127.0.0.1:{}", self.port)),
            ("authorization", &format!("Bearer {TOKEN}")),
        ] {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        block
    }

    pub async fn ask(&mut self, stream: u32, method: &str, path: &str, is_whole: bool) {
        let flags = END_HEADERS | if is_whole { END_STREAM } else { 0 };
        let head = self.head(method, path);
        self.send(HEADERS, flags, stream, &head).await;
    }

    pub async fn reset(&mut self, stream: u32) {
        self.send(RST_STREAM, 0, stream, &[0, 0, 0, 8]).await;
    }

    /// Returns the next frame, or `None` if the connection is closed.
    pub async fn next(&mut self) -> Option<RawFrame> {
        let mut head = [0; 9];
        let read = timeout(LIMIT, self.stream.read_exact(&mut head)).await.expect("timed out");
        read.ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(RawFrame { kind, stream: u32::from_be_bytes(stream), payload })
    }

    /// Returns the next frame of this kind.
    pub async fn wait(&mut self, kind: u8) -> RawFrame {
        loop {
            let frame = self.next().await.expect("the connection is open");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Waits until the connection is closed. Returns the error code of the last GOAWAY frame.
    pub async fn closed(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if let (GOAWAY, [_, _, _, _, rest @ ..]) = (frame.kind, &*frame.payload) {
                code = Some(u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]));
            }
        }
        code
    }
}
