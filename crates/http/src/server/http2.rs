//! HTTP/2 connections: how they are recognized, what limits them, and which of their responses have stalled.
//!
//! hyper drives the connection. A task runs for each request, and ends with the connection.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tieline_transport::from_now;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::Server;
use super::body::{Body, line};
use super::count::Cause;
use super::route::{self, ConnectionContext};
use crate::events::stream::Progress;
use crate::lock::lock;
use crate::stream::{Hyper, Stream, Timer};

/// What a client that knows that the server speaks HTTP/2 sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many bytes are read at once until the protocol is known.
const READ: usize = 8 * 1024;

/// How many bytes of a body a client may send before they are read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all requests of a connection together.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// The size of the pieces of a response, of which each request may have one that the client does not take.
const PIECE: usize = 16 * 1024;
/// How many more requests than were answered a client may cancel.
const MAX_CANCELED: usize = 128;
/// How many streams may be reset because of a client's errors, after which the connection ends.
const MAX_ERRORS: usize = 128;
/// How many streams a client may reset before their request was handled, after which the connection ends.
const MAX_UNSEEN: usize = 32;
/// How long a client may take to close a connection without requests that is to be closed.
const LINGER: Duration = Duration::from_secs(5);
/// How often a client is asked whether it is still there.
const PING: Duration = Duration::from_secs(15);

/// Reads the first bytes of a connection without TLS. Returns whether they begin HTTP/2, and the bytes.
///
/// # Errors
/// The connection has failed.
pub(super) async fn first_bytes(stream: &mut Stream) -> io::Result<(bool, Bytes)> {
    let mut first = BytesMut::new();
    loop {
        let read = poll_fn(|cx| {
            let mut bytes = [const { MaybeUninit::uninit() }; READ];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            first.extend_from_slice(buffer.filled());
            Poll::Ready(io::Result::Ok(buffer.filled().len()))
        });
        let is_over = read.await? == 0;
        let is_http2 = first.starts_with(PREFACE);
        if is_over || is_http2 || !PREFACE.starts_with(&first) {
            return Ok((is_http2, first.freeze()));
        }
    }
}

/// Serves a connection until it ends or is evicted.
pub(super) async fn serve(
    server: &Arc<Server>,
    context: ConnectionContext,
    stream: Hyper,
    mut evicted: impl Future<Output = ()> + Unpin,
) {
    let limits = server.limits;
    let stall = server.web_socket.channel.stall_timeout;
    let (requests, next) = (Arc::<Requests>::default(), Arc::default());
    let executor = Executor { next: Arc::clone(&next), stall };
    let service = {
        let (server, requests) = (server.clone(), requests.clone());
        service_fn(move |request: Request<Incoming>| {
            let progress = Arc::new(Progress::of_stream(context.progress.clone()));
            let delivery =
                Arc::new(Delivery { given: Mutex::default(), progress: progress.clone() });
            *lock(&next) = Some(delivery.clone());
            let context = ConnectionContext { progress, ..context.clone() };
            let (server, mut active) = (server.clone(), Active::begin(&requests));
            async move {
                let response = respond(&server, &context, request).await;
                active.is_answered = true;
                Ok::<_, Infallible>(response.map(|body| Watched {
                    body,
                    rest: Bytes::new(),
                    delivery,
                    _active: active,
                }))
            }
        })
    };
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(Timer)
        .max_concurrent_streams(u32::try_from(limits.streams).unwrap_or(u32::MAX))
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(PIECE)
        .max_local_error_reset_streams(MAX_ERRORS)
        .max_pending_accept_reset_streams(MAX_UNSEEN)
        .keep_alive_interval(PING)
        .keep_alive_timeout(stall.saturating_mul(2));
    let mut connection = pin!(builder.serve_connection(stream, service));
    let mut closing = server.closing.subscribe();
    let mut closing = pin!(closing.wait_for(|is_closing| *is_closing));
    // Without a request, the connection is closed after some time, which also limits the time for a head.
    let mut idle = pin!(sleep(limits.header_timeout));
    let mut is_leaving = false;
    loop {
        tokio::select! {
            // An error is caused by the client.
            _ = &mut connection => return,
            () = &mut evicted => return,
            _ = &mut closing, if !is_leaving => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
                idle.as_mut().reset(Instant::now() + LINGER);
            }
            () = &mut idle, if requests.active.load(Relaxed) == 0 => {
                if is_leaving {
                    return;
                }
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
                idle.as_mut().reset(Instant::now() + LINGER);
            }
            () = requests.changed.notified() => {
                if requests.canceled.load(Relaxed) > MAX_CANCELED {
                    server.counters.refused(Cause::Busy);
                    return;
                }
                if requests.active.load(Relaxed) == 0 {
                    let time = if is_leaving { LINGER } else { limits.header_timeout };
                    idle.as_mut().reset(from_now(time));
                }
            }
        }
    }
}

/// Checks what HTTP/1 checks elsewhere, and returns the response.
async fn respond(
    server: &Arc<Server>,
    context: &ConnectionContext,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if request.headers().len() > server.limits.headers {
        let text = "the request has too many header lines";
        return line(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text);
    }
    if !request.headers().contains_key(header::HOST) {
        let authority = request.uri().authority();
        let host = authority.and_then(|it| HeaderValue::from_str(it.as_str()).ok());
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host);
        }
    }
    let is_head = request.method() == Method::HEAD;
    let mut response = route::respond(server, context, request).await;
    if is_head {
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
        }
        *response.body_mut() = Body::Whole(Bytes::new());
    }
    response
}

/// The requests of a connection.
#[derive(Default)]
struct Requests {
    /// The number of requests whose response was not written to the end.
    active: AtomicUsize,
    /// How many more requests were canceled than answered. A client that opens and resets streams in turn stays
    /// below the limit of concurrent streams.
    canceled: AtomicUsize,
    changed: Notify,
}

/// A request that is active until this is dropped.
struct Active {
    requests: Arc<Requests>,
    is_answered: bool,
}

impl Active {
    fn begin(requests: &Arc<Requests>) -> Self {
        requests.active.fetch_add(1, Relaxed);
        requests.changed.notify_one();
        Self { requests: requests.clone(), is_answered: false }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let Requests { active, canceled, changed } = &*self.requests;
        let _ = canceled.fetch_update(Relaxed, Relaxed, |canceled| match self.is_answered {
            true => canceled.checked_sub(1),
            false => Some(canceled + 1),
        });
        active.fetch_sub(1, Relaxed);
        changed.notify_one();
    }
}

/// How far a response has been taken.
struct Delivery {
    /// Since when a piece waits for the client to have a window for it.
    given: Mutex<Option<Instant>>,
    progress: Arc<Progress>,
}

impl Delivery {
    /// Completes if the client takes nothing of a response for this time.
    async fn stalled(&self, limit: Duration) {
        loop {
            let given = *lock(&self.given);
            match given.map(|given| given.checked_add(limit)) {
                Some(Some(until)) if until <= Instant::now() => {
                    self.progress.stall();
                    return;
                }
                Some(Some(until)) => sleep_until(until).await,
                _ => sleep_until(from_now(limit)).await,
            }
        }
    }
}

/// Runs the tasks of requests. A task ends early if its response has stalled, which resets the stream.
#[derive(Clone)]
struct Executor {
    /// That of the request whose task is next: hyper starts the task right after it has called the service.
    next: Arc<Mutex<Option<Arc<Delivery>>>>,
    stall: Duration,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let (delivery, stall) = (lock(&self.next).take(), self.stall);
        tokio::spawn(async move {
            let Some(delivery) = delivery else { return task.await };
            tokio::select! {
                () = task => {}
                () = delivery.stalled(stall) => {}
            }
        });
    }
}

/// The body of a response, in pieces. hyper asks for another piece when the client has a window for it.
struct Watched {
    body: Body,
    rest: Bytes,
    delivery: Arc<Delivery>,
    _active: Active,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        *lock(&self.delivery.given) = None;
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|it| it.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(never)) => match never {},
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        *lock(&self.delivery.given) = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest.is_empty() {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn preface_of_http2_is_recognized_in_any_pieces() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (sent, expected) in [
            (PREFACE, true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", true),
            (b"GET / HTTP/1.1\r\n", false),
            (b"PRI * HTTP/2.0\r\n\r\nSN", false),
            (b"PRI * HTTP/1.1", false),
            (b"P", false),
            (b"", false),
        ] {
            for size in [1, 7, 1000] {
                let mut client = TcpStream::connect(address).await.unwrap();
                let mut stream = Stream::Tcp(listener.accept().await.unwrap().0);
                let sending = async {
                    for piece in sent.chunks(size) {
                        client.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    let _ = client.shutdown().await;
                };
                let (found, ()) = tokio::join!(first_bytes(&mut stream), sending);
                let (is_http2, first) = found.unwrap();
                assert_eq!(is_http2, expected, "{sent:?}");
                assert!(sent.starts_with(&first), "{first:?}");
            }
        }
    }
}
