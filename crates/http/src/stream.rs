//! The byte streams below HTTP, in one type, and what hyper needs of them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{ReadBufCursor, Sleep};
#[cfg(unix)]
use tieline_transport::{Connection, UnixConnection};
use tieline_transport::{ReadEnd, StallClock, WriteEnd, from_now};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsStream;

use crate::channel::lock;
use crate::drain::{Drain, DrainLimits};
use crate::events::stream::Progress;

/// The reading half of any of them.
pub(crate) type BoxRead = Box<dyn ReadEnd>;
/// The writing half of any of them.
pub(crate) type BoxWrite = Box<dyn Write>;

/// Where bytes go out.
pub(crate) trait Write: AsyncWrite + Send + Unpin + 'static {
    /// As [`WriteEnd::unsent`].
    fn unsent(&self) -> Option<usize>;
}

impl<T: WriteEnd> Write for T {
    fn unsent(&self) -> Option<usize> {
        WriteEnd::unsent(self)
    }
}

impl WriteEnd for BoxWrite {
    fn unsent(&self) -> Option<usize> {
        (**self).unsent()
    }
}

/// How much of what was written the kernel still holds.
fn unsent_of(stream: &TcpStream) -> Option<usize> {
    #[cfg(unix)]
    return tieline_transport::unsent(stream);
    #[cfg(not(unix))]
    {
        let _ = stream;
        None
    }
}

/// A byte stream below HTTP.
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixConnection),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The two directions, without a lock between them where the system has two.
    pub(crate) fn split(self) -> (BoxRead, BoxWrite) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            #[cfg(unix)]
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Tls(stream) => {
                let shared = Arc::new(Mutex::new(stream));
                (Box::new(TlsHalf(shared.clone())), Box::new(TlsHalf(shared)))
            }
        }
    }

    /// How much of what was written the kernel still holds.
    fn unsent(&self) -> Option<usize> {
        match self {
            Self::Tcp(stream) => unsent_of(stream),
            #[cfg(unix)]
            Self::Unix(stream) => WriteEnd::unsent(stream),
            Self::Tls(stream) => unsent_of(stream.get_ref().0),
        }
    }
}

/// A half of a TLS stream. Both have the same stream: a write may have to read, and a read to write.
struct TlsHalf(Arc<Mutex<Box<TlsStream<TcpStream>>>>);

/// What waits in the kernel is encrypted, and need not be a part of a message.
impl ReadEnd for TlsHalf {}

impl AsyncRead for TlsHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_shutdown(cx)
    }
}

impl WriteEnd for TlsHalf {
    fn unsent(&self) -> Option<usize> {
        unsent_of(lock(&self.0).get_ref().0)
    }
}

/// The same call on whichever stream it is.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $call,
            #[cfg(unix)]
            Self::Unix($stream) => $call,
            Self::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A stream as hyper wants it. What is read is copied once, which keeps it safe code; a WebSocket takes
/// the stream out again.
pub(crate) struct Hyper {
    pub(crate) stream: Stream,
    watched: Option<Watched>,
    ending: Option<Ending>,
}

/// How a connection is closed.
enum Ending {
    /// Nothing more is written; what still comes is discarded.
    Drain(Box<Drain>),
    Done,
}

/// Writes that may not be without progress for too long.
struct Watched {
    clock: StallClock,
    drain: Option<DrainLimits>,
    progress: Arc<Progress>,
    /// How many bytes the stream has taken, and how many of them the kernel did not hold any more when it was
    /// asked last.
    written: u64,
    left: u64,
    /// How long the peer's machine may take to acknowledge any byte that the kernel holds.
    silence: Option<Duration>,
    /// Present while the kernel holds bytes and nothing waits to be written.
    unsent: Option<Unsent>,
}

/// Bytes that the kernel holds, and the next time that it is asked about them.
struct Unsent {
    /// When some of them last left.
    moved: Instant,
    look: Pin<Box<tokio::time::Sleep>>,
}

/// How often the kernel is asked whether the bytes it holds leave.
const LOOK: Duration = Duration::from_secs(2);

impl Watched {
    /// Where the system has given up bytes that the other side did not take, the connection has stalled.
    fn failed(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.progress.stall();
        }
    }

    /// Notes whether the bytes that the kernel holds leave. Ready when the peer's machine has acknowledged none of
    /// them for too long.
    fn poll_silent(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<()> {
        while self.progress.is_under_way() {
            let interval = self.silence.map_or(LOOK, |limit| LOOK.min(limit / 4));
            let unsent = self.unsent.get_or_insert_with(|| Unsent {
                moved: Instant::now(),
                look: Box::pin(sleep(interval)),
            });
            ready!(unsent.look.as_mut().poll(cx));
            let held = stream.unsent().unwrap_or_default() as u64;
            let left = self.written.saturating_sub(held);
            if std::mem::replace(&mut self.left, left) != left {
                self.progress.moved();
                unsent.moved = Instant::now();
            }
            if held == 0 {
                self.progress.arrived();
                break;
            }
            if self.silence.is_some_and(|limit| unsent.moved.elapsed() >= limit) {
                return Poll::Ready(());
            }
            unsent.look.as_mut().reset(from_now(interval));
        }
        self.unsent = None;
        Poll::Pending
    }
}

/// So much is read at once.
const READ: usize = 8 * 1024;

impl Hyper {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, watched: None, ending: None }
    }

    /// A write that makes no progress for so long ends the connection; `progress` is told what was
    /// written.
    pub(crate) fn watched(stream: Stream, limit: Duration, progress: Arc<Progress>) -> Self {
        let clock = StallClock::new(limit);
        let watched = Watched {
            clock,
            drain: None,
            progress,
            written: 0,
            left: 0,
            silence: None,
            unsent: None,
        };
        Self { stream, watched: Some(watched), ending: None }
    }

    /// Ends the connection as stalled when the peer's machine acknowledges none of the bytes that the kernel holds
    /// for `limit`, so that a peer that vanished is noticed although no write is blocked. Only for TCP, and where the
    /// system reports those bytes: a Unix socket's end is never silent.
    pub(crate) fn noticing_silence(mut self, limit: Duration) -> Self {
        let is_tcp = matches!(self.stream, Stream::Tcp(_) | Stream::Tls(_));
        if let (Some(watched), true) = (&mut self.watched, is_tcp) {
            watched.silence = Some(limit);
        }
        self
    }

    /// Before the connection is closed, what a client still sends is discarded within `limits`.
    pub(crate) fn draining(mut self, limits: DrainLimits) -> Self {
        if let Some(watched) = &mut self.watched {
            watched.drain = Some(limits);
        }
        self
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        count: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let Some(watched) = &mut self.watched else { return polled };
        match &polled {
            Poll::Ready(done) => {
                watched.clock.went_on();
                match done {
                    Ok(done) => {
                        let count = count(done);
                        watched.written += count as u64;
                        watched.progress.sent(count);
                    }
                    Err(error) => watched.failed(error),
                }
            }
            Poll::Pending => {
                let (stream, before) = (&self.stream, watched.clock.gone());
                let stalled = watched.clock.poll_stalled(cx, watched.written, || stream.unsent());
                if before.is_some_and(|before| watched.clock.gone() > Some(before)) {
                    watched.progress.moved();
                }
                ready!(stalled);
                watched.progress.stall();
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl hyper::rt::Read for Hyper {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ];
        let room = bytes.len().min(into.remaining());
        let mut buffer = ReadBuf::new(bytes.get_mut(..room).unwrap_or_default());
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        if let (Poll::Ready(Err(error)), Some(watched)) = (&polled, &self.watched) {
            watched.failed(error);
        }
        ready!(polled)?;
        into.put_slice(buffer.filled());
        if let (Some(watched), false) = (&self.watched, buffer.filled().is_empty()) {
            watched.progress.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Hyper {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, polled, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        let flushed = self.written(cx, polled, |()| 0);
        let Self { stream, watched: Some(watched), .. } = &mut *self else { return flushed };
        if let Poll::Ready(Ok(())) = &flushed {
            // HTTP flushes when it has written all that it had, and at each of its turns.
            watched.progress.flushed();
            if watched.poll_silent(stream, cx).is_ready() {
                watched.progress.stall();
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, watched, ending } = &mut *self;
        loop {
            match ending {
                None => {
                    ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                    let unread = watched.as_ref().filter(|it| it.progress.has_unread());
                    *ending = Some(match unread.and_then(|it| it.drain) {
                        Some(limits) => Ending::Drain(Box::new(Drain::new(limits))),
                        None => Ending::Done,
                    });
                }
                Some(Ending::Drain(drain)) => {
                    ready!(drain.poll(stream, cx));
                    *ending = Some(Ending::Done);
                }
                Some(Ending::Done) => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// tokio's clock for hyper's deadlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer;

impl hyper::rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Timeout(Box::pin(tokio::time::sleep(duration))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Timeout(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: std::time::Instant) {
        match sleep.as_mut().downcast_mut_pin::<Timeout>() {
            Some(timeout) => timeout.get_mut().0.as_mut().reset(deadline.into()),
            None => *sleep = self.sleep_until(deadline),
        }
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

struct Timeout(Pin<Box<tokio::time::Sleep>>);

impl Future for Timeout {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Sleep for Timeout {}
