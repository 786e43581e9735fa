//! A client's POSTs: one at a time, in order, over a persistent connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tieline_transport::{CloseReason, ErrorKind};
use tokio::time::timeout;

use super::stream::Progress;
use super::{FRAMES, HALF_CLOSE, SEQUENCE, YES};
use crate::dialer::Dialer;
use crate::stream::Hyper;
use crate::switch::MAX_HEADERS;
use crate::task::Task;

/// How long the response to a POST may take after its bytes last moved. The server delays the response
/// while the program does not take the messages.
const LIMIT: Duration = Duration::from_secs(90);
/// How many times a POST with an unknown outcome is sent, if its sequence number makes this safe.
const ATTEMPTS: usize = 3;
/// The maximum size of a POST with several messages.
const BATCH: usize = 256 * 1024;
/// The maximum number of messages in a POST.
const MAX_MESSAGES: usize = 1024;

/// The body of one POST.
pub(super) enum PostBody {
    /// Length-prefixed messages for a tieline server, and how many there are.
    Batch(BytesMut, usize),
    /// One message, for any other server.
    Single(Bytes),
    /// The end of the input, without messages. This is only for a tieline server.
    EndOfInput,
}

impl PostBody {
    pub(super) fn has_room(&self) -> bool {
        matches!(self, Self::Batch(body, count) if *count < MAX_MESSAGES && body.len() < BATCH / 2)
    }

    /// Adds a message to a batch that [has room](Self::has_room).
    pub(super) fn push(&mut self, message: &Bytes) {
        if let Self::Batch(body, count) = self {
            body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            body.put_slice(message);
            *count += 1;
        }
    }
}

/// The properties of a POST's body that are stated in its headers.
struct PostKind {
    content_type: &'static str,
    /// Whether the input ends after this POST.
    ends_input: bool,
}

/// A POST that failed.
pub(super) struct PostFailed {
    pub(super) reason: CloseReason,
    /// The server is ours and no longer has the line, whose stream has ended or is about to end.
    pub(super) is_over: bool,
}

impl From<CloseReason> for PostFailed {
    fn from(reason: CloseReason) -> Self {
        Self { reason, is_over: false }
    }
}

pub(super) struct PostClient {
    dialer: Arc<Dialer>,
    target: String,
    is_ours: bool,
    /// The number of the last POST.
    sequence: u64,
    line: Option<(SendRequest<FullBody>, Task)>,
    stall_timeout: Duration,
    /// The progress of all connections.
    progress: Arc<Progress>,
}

impl PostClient {
    pub(super) fn new(
        dialer: Arc<Dialer>,
        target: String,
        is_ours: bool,
        stall_timeout: Duration,
    ) -> Self {
        let progress = Arc::default();
        Self { dialer, target, is_ours, sequence: 0, line: None, stall_timeout, progress }
    }

    /// Returns the progress of all connections.
    pub(super) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Creates the body of a POST with this message.
    pub(super) fn body(&self, first: Bytes) -> PostBody {
        match self.is_ours {
            true => {
                let mut batch = PostBody::Batch(BytesMut::new(), 0);
                batch.push(&first);
                batch
            }
            false => PostBody::Single(first),
        }
    }

    /// Sends a POST and waits for the response.
    pub(super) async fn post(&mut self, batch: PostBody) -> Result<(), PostFailed> {
        self.sequence += 1;
        let ends_input = matches!(batch, PostBody::EndOfInput);
        let (body, content_type) = match batch {
            PostBody::Batch(body, _) => (body.freeze(), FRAMES),
            PostBody::Single(message) => (message, "application/json"),
            PostBody::EndOfInput => (Bytes::new(), FRAMES),
        };
        let mut attempt = 1;
        loop {
            let progress = self.progress.clone();
            let kind = PostKind { content_type, ends_input };
            let asked = self.ask(Method::POST, body.clone(), Some(kind));
            let status = match while_it_moves(&progress, asked).await {
                Some(Ok(status)) => status,
                Some(Err(lost)) => {
                    self.line = None;
                    // Retry if the request was not sent, or if sending it twice is harmless.
                    if attempt < ATTEMPTS && (self.is_ours || !lost.is_sent) {
                        attempt += 1;
                        continue;
                    }
                    return Err(CloseReason::from(lost.error).into());
                }
                None => return Err(CloseReason::TimedOut.into()),
            };
            return match status {
                status if status.is_success() => Ok(()),
                StatusCode::SERVICE_UNAVAILABLE if self.is_ours => Err(CloseReason::Stalled.into()),
                status => {
                    let error = self.dialer.denied(status);
                    let text = match error.kind() {
                        ErrorKind::Denied { status } => {
                            format!("the server answered a POST with status {status}")
                        }
                        // The proxy refused the request.
                        problem => problem.to_string(),
                    };
                    let is_over =
                        self.is_ours && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
                    Err(PostFailed { reason: io::Error::other(text).into(), is_over })
                }
            };
        }
    }

    /// Tells the server that this side is done. Returns whether the server confirmed it.
    pub(super) async fn dismiss(&mut self) -> bool {
        let answered = self.ask(Method::DELETE, Bytes::new(), None).await;
        answered.is_ok_and(|status| status.is_success())
    }

    async fn ask(
        &mut self,
        method: Method,
        body: Bytes,
        kind: Option<PostKind>,
    ) -> Result<StatusCode, Lost> {
        let not_sent = |error: io::Error| Lost { is_sent: false, error };
        let mut request = Request::builder().method(method).uri(self.dialer.uri(&self.target));
        if let Some(kind) = kind {
            let content_type = HeaderValue::from_static(kind.content_type);
            request = request.header(header::CONTENT_TYPE, content_type);
            if self.is_ours {
                request = request.header(SEQUENCE, self.sequence);
            }
            if kind.ends_input {
                request = request.header(HALF_CLOSE, YES);
            }
        }
        let request = self.dialer.introduce(request).map_err(io::Error::other);
        let request = request.and_then(|it| it.body(FullBody(body)).map_err(io::Error::other));
        let request = request.map_err(not_sent)?;
        let is_there = match &mut self.line {
            Some((send, _)) => send.ready().await.is_ok(),
            None => false,
        };
        if !is_there {
            self.line = None;
            self.line = Some(self.connect().await.map_err(not_sent)?);
        }
        let Some((send, _)) = &mut self.line else {
            return Err(not_sent(io::ErrorKind::NotConnected.into()));
        };
        let lost = |error: hyper::Error| Lost {
            is_sent: !error.is_canceled(),
            error: io::Error::other(error),
        };
        let response = send.send_request(request).await.map_err(lost)?;
        let status = response.status();
        if !discard(response).await {
            self.line = None;
        }
        Ok(status)
    }

    async fn connect(&self) -> io::Result<(SendRequest<FullBody>, Task)> {
        let reached = timeout(self.dialer.connect_timeout, self.dialer.reach()).await;
        let (stream, _) = reached?.map_err(io::Error::other)?;
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEADERS).max_buf_size(MAX_HEADERS.max(64 * 1024));
        let stream = Hyper::watched(stream, self.stall_timeout, self.progress.clone());
        let made = builder.handshake(stream).await;
        let (send, connection) = made.map_err(io::Error::other)?;
        Ok((send, Task(tokio::spawn(connection).abort_handle())))
    }
}

/// Waits for a response until no bytes have moved for [`LIMIT`]. Returns `None` if there was no
/// response.
async fn while_it_moves<T>(progress: &Progress, asked: impl Future<Output = T>) -> Option<T> {
    let mut asked = pin!(asked);
    loop {
        let before = progress.moves();
        if let Ok(answer) = timeout(LIMIT, &mut asked).await {
            return Some(answer);
        }
        if progress.moves() == before {
            return None;
        }
    }
}

/// A request without a response.
struct Lost {
    /// Whether the server may have processed the request.
    is_sent: bool,
    error: io::Error,
}

/// Reads the rest of a response, so that the connection can be reused. Returns false if it is too long.
async fn discard(response: Response<Incoming>) -> bool {
    let mut body = response.into_body();
    let mut left = 64 * 1024_usize;
    loop {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => return false,
                }
            }
        }
    }
}

/// A body that is completely in memory.
#[derive(Default)]
pub(crate) struct FullBody(Bytes);

impl FullBody {
    pub(crate) fn of(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Body for FullBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.0))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
