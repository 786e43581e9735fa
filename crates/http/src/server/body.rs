//! Bodies of requests and answers.

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

/// The body of an answer.
pub(crate) enum Body {
    /// All of it; none is left once it is sent.
    Whole(Bytes),
    /// The same, given out in pieces, so that it is counted for as long as it waits for the client.
    Counted(Bytes, Account),
    /// It goes on until it ends.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Send>>),
}

/// How much of a large answer is given to the connection at once.
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

/// The body of a request. Tells the connection when all of it was read.
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

/// An answer in words. No browser guesses what it is, keeps it, or shows it inside another page.
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

/// An answer of one line.
pub(crate) fn line(status: StatusCode, text: &str) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// How long the next bytes of a body may take, and how long all of it may, whatever its length,
const LIMIT: Duration = Duration::from_secs(60);
/// and a second more for so many bytes of it: a slow line is not refused, but a body that trickles is.
const LEAST_A_SECOND: usize = 8 * 1024;

/// The body of a request: at most `most` bytes, without a pause of a minute, within a minute and a
/// second more for each 8 KiB that have come, and the room that it takes, which is to be kept for as long as the bytes are. `heard` is told of
/// bytes as they come. What it says of its length is held against the bound before a
/// byte is kept, and is not believed beyond that: room is taken for what has come, up to twice as much,
/// and where there is none nothing more is read.
///
/// # Errors
/// The answer to who sends more, or too slowly, or goes away, or finds no room.
pub(super) async fn read(
    server: &Server,
    body: Inbound,
    most: usize,
    heard: impl Fn(usize),
) -> Result<(Bytes, Held), Box<Response<Body>>> {
    let not_taken = |status| Box::new(line(status, "the body is not taken"));
    if body.size_hint().lower() > most as u64 {
        return Err(not_taken(StatusCode::PAYLOAD_TOO_LARGE));
    }
    match gather(server, body, most, heard).await {
        Ok(read) => Ok(read),
        Err(Unread::Bad(status)) => Err(not_taken(status)),
        Err(Unread::NoRoom) => {
            Err(Box::new(busy(server, "too much is being sent at once; try again later")))
        }
    }
}

enum Unread {
    Bad(StatusCode),
    NoRoom,
}

async fn gather(
    server: &Server,
    mut body: Inbound,
    most: usize,
    heard: impl Fn(usize),
) -> Result<(Bytes, Held), Unread> {
    let begun = Instant::now();
    let told = body.size_hint().exact().and_then(|it| usize::try_from(it).ok());
    let most_needed = told.map_or(most, |told| told.min(most));
    let (mut kept, mut held) = (Vec::<u8>::new(), Held::new(server.memory.as_ref()));
    // Of what there is room for, the first bytes are everybody's.
    let mut granted = SHORT;
    loop {
        let more = Duration::from_secs((kept.len() / LEAST_A_SECOND) as u64);
        let frame = poll_fn(|cx| {
            let polled = Pin::new(&mut body).poll_frame(cx);
            if polled.is_pending() {
                held.account.check(cx.waker())?;
            }
            polled.map(Ok)
        });
        let until = (begun + LIMIT + more).min(Instant::now() + LIMIT);
        let frame = timeout_at(until, frame).await;
        let frame = frame.map_err(|_| Unread::Bad(StatusCode::REQUEST_TIMEOUT))?;
        let Some(frame) = frame.map_err(|MemoryRefused { .. }| Unread::NoRoom)? else { break };
        let frame = frame.map_err(|_| Unread::Bad(StatusCode::BAD_REQUEST))?;
        let Ok(data) = frame.into_data() else { continue };
        heard(data.len());
        let needed = kept.len() + data.len();
        if needed > most {
            return Err(Unread::Bad(StatusCode::PAYLOAD_TOO_LARGE));
        }
        while granted < needed {
            let doubled = granted.saturating_mul(2).min(most_needed).max(needed);
            let more = u32::try_from(doubled - granted).unwrap_or(u32::MAX);
            if !server.body_budget.add(&mut held, more, server.limits.post_wait).await {
                return Err(Unread::NoRoom);
            }
            granted += more as usize;
        }
        if kept.capacity() < needed {
            // Never more than there is granted for.
            let grown = granted.min(most_needed).max(needed);
            let granted = poll_fn(|cx| held.account.poll_set(grown, cx)).await;
            granted.map_err(|MemoryRefused { .. }| Unread::NoRoom)?;
            kept.reserve_exact(grown - kept.len());
        }
        kept.extend_from_slice(&data);
    }
    Ok((kept.into(), held))
}
