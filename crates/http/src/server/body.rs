//! Bodies of requests and responses.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use tieline_transport::{Account, MemoryRefused};
use tokio::time::{Instant, timeout_at};

use super::Server;
use super::body_budget::{Held, SHORT};
use super::route::busy;
use crate::events::stream::Progress;

/// The body of a response.
pub(crate) enum Body {
    /// The whole body in one piece; empty after it was sent.
    Whole(Bytes),
    /// The whole body in pieces. It counts against the memory budget until the last piece is taken.
    Counted(Bytes, Account),
    /// A body whose length is not known in advance.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Send>>),
}

/// The size of the pieces of a counted body.
const PIECE: usize = 64 * 1024;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Counted(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            Self::Counted(bytes, account) => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                if bytes.is_empty() {
                    let _ = account.set(0);
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) | Self::Counted(bytes, _) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) | Self::Counted(bytes, _) => {
                SizeHint::with_exact(bytes.len() as u64)
            }
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

/// The body of a request. It notifies the connection when it has been read completely.
pub(super) struct Inbound {
    body: Incoming,
    progress: Arc<Progress>,
}

impl Inbound {
    pub(super) fn new(body: Incoming, progress: Arc<Progress>) -> Self {
        progress.requested(!body.is_end_stream());
        Self { body, progress }
    }
}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.progress.requested(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(super) const JSON: &str = "application/json";

/// Creates a text response with headers that forbid guessing its type, caching it, and showing it in a
/// frame.
pub(crate) fn answer(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::Whole(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Creates a response with one line of text.
pub(crate) fn line(status: StatusCode, text: &str) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// Creates a response without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = line(status, "");
    *response.body_mut() = Body::Whole(Bytes::new());
    response
}

/// Returns 204, which makes an EventSource stop reconnecting.
pub(super) fn no_content() -> Response<Body> {
    empty(StatusCode::NO_CONTENT)
}

/// Creates a JSON response that is counted in `account` until the client has taken it.
pub(super) fn counted(status: StatusCode, json: Bytes, account: Account) -> Response<Body> {
    let mut response = answer(status, JSON, Bytes::new());
    *response.body_mut() = Body::Counted(json, account);
    response
}

/// How long a body may pause, and how long it may take in total, plus the time for its length.
const LIMIT: Duration = Duration::from_secs(60);
/// The minimum rate: a body may take one more second for each 8 KiB. Slow connections are accepted, but
/// not bodies that trickle in.
const MIN_BYTES_PER_SECOND: usize = 8 * 1024;

/// Reads the body of a request: at most `max` bytes, without a pause of more than a minute, within a
/// minute and one more second for each 8 KiB received. Returns the bytes with their part of the budget,
/// which must be kept as long as the bytes. Calls `on_bytes` with the number of bytes as they arrive.
///
/// A declared length above `max` is refused before anything is read. Otherwise, the reserved memory is
/// at most twice the bytes that have arrived. Reading stops while the budget is used up.
///
/// # Errors
/// The body is too long, too slow or incomplete, or the budget is used up. The error is the response to
/// send.
pub(super) async fn read(
    server: &Server,
    body: Inbound,
    max: usize,
    on_bytes: impl Fn(usize),
) -> Result<(Bytes, Held), Box<Response<Body>>> {
    let read = match body.size_hint().lower() > max as u64 {
        true => Err(Unread::TooLong),
        false => gather(server, body, max, on_bytes).await,
    };
    read.map_err(|unread| Box::new(unread.response(server)))
}

/// The reason why a body was not read to its end.
enum Unread {
    TooLong,
    TooSlow,
    Broken,
    NoRoom,
}

impl Unread {
    fn response(self, server: &Server) -> Response<Body> {
        let (status, text) = match self {
            Self::TooLong => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "the request body is longer than this server accepts",
            ),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the request body arrived too slowly"),
            Self::Broken => {
                (StatusCode::BAD_REQUEST, "the request body is incomplete or malformed")
            }
            Self::NoRoom => {
                let text = "too many request bodies are being sent at once; try again later";
                return busy(server, text);
            }
        };
        line(status, text)
    }
}

async fn gather(
    server: &Server,
    mut body: Inbound,
    max: usize,
    on_bytes: impl Fn(usize),
) -> Result<(Bytes, Held), Unread> {
    let begun = Instant::now();
    let declared = body.size_hint().exact().and_then(|it| usize::try_from(it).ok());
    let max_needed = declared.map_or(max, |declared| declared.min(max));
    let (mut kept, mut held) = (Vec::<u8>::new(), Held::new(server.memory.as_ref()));
    // The first bytes of each body are not counted.
    let mut granted = SHORT;
    loop {
        let more = Duration::from_secs((kept.len() / MIN_BYTES_PER_SECOND) as u64);
        let frame = poll_fn(|cx| {
            let polled = Pin::new(&mut body).poll_frame(cx);
            if polled.is_pending() {
                held.account.check(cx.waker())?;
            }
            polled.map(Ok)
        });
        let until = (begun + LIMIT + more).min(Instant::now() + LIMIT);
        let frame = timeout_at(until, frame).await;
        let frame = frame.map_err(|_| Unread::TooSlow)?;
        let Some(frame) = frame.map_err(|MemoryRefused { .. }| Unread::NoRoom)? else { break };
        let frame = frame.map_err(|_| Unread::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        on_bytes(data.len());
        let needed = kept.len() + data.len();
        if needed > max {
            return Err(Unread::TooLong);
        }
        while granted < needed {
            let doubled = granted.saturating_mul(2).min(max_needed).max(needed);
            let more = u32::try_from(doubled - granted).unwrap_or(u32::MAX);
            if !server.body_budget.add(&mut held, more, server.limits.post_wait).await {
                return Err(Unread::NoRoom);
            }
            granted += more as usize;
        }
        if kept.capacity() < needed {
            // The buffer is never larger than the memory that was granted.
            let grown = granted.min(max_needed).max(needed);
            let granted = poll_fn(|cx| held.account.poll_set(grown, cx)).await;
            granted.map_err(|MemoryRefused { .. }| Unread::NoRoom)?;
            kept.reserve_exact(grown - kept.len());
        }
        kept.extend_from_slice(&data);
    }
    Ok((kept.into(), held))
}
