//! Bodies of requests and answers.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

/// The body of an answer.
pub(crate) enum Body {
    /// All of it; none is left once it is sent.
    Whole(Bytes),
    /// It goes on until it ends.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Send>>),
}

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
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
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

/// The body of a request: at most `most` bytes, within `limit`. What it says of its length is held
/// against the bound before a byte is kept.
///
/// # Errors
/// The answer to who sends more, or too slowly, or goes away.
pub(crate) async fn read(
    mut body: Incoming,
    most: usize,
    limit: Duration,
) -> Result<Bytes, StatusCode> {
    if body.size_hint().lower() > most as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut kept = BytesMut::new();
    let reading = poll_fn(|cx| {
        loop {
            match ready!(Pin::new(&mut body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(_)) => return Poll::Ready(Err(StatusCode::BAD_REQUEST)),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if kept.len() + data.len() > most {
                        return Poll::Ready(Err(StatusCode::PAYLOAD_TOO_LARGE));
                    }
                    kept.extend_from_slice(&data);
                }
            }
        }
    });
    tokio::time::timeout(limit, reading).await.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))?;
    Ok(kept.freeze())
}
