//! The byte streams below HTTP, as one type, and their adapter for hyper.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{ReadBufCursor, Sleep};
use tieline_transport::{Connection, ReadEnd, StallClock, WriteEnd, from_now};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::drain::{Drain, DrainLimits};
use crate::events::stream::Progress;
use crate::local::LocalConnection;
use crate::tls::{self, TlsStream};
use crate::unsent::unsent;

/// The reading half of any stream.
pub(crate) type BoxRead = Box<dyn ReadEnd>;
/// The writing half of any stream.
pub(crate) type BoxWrite = Box<dyn Write>;

/// A sink for bytes that can be boxed.
pub(crate) trait Write: AsyncWrite + Send + Unpin + 'static {
    /// See [`WriteEnd::unsent`].
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

/// A byte stream below HTTP.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Local(LocalConnection),
    Tls(TlsStream),
}

impl Stream {
    /// Splits the stream. Only the halves of a TLS stream share a lock.
    pub(crate) fn split(self) -> (BoxRead, BoxWrite) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Local(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tls::split(stream);
                (Box::new(read), Box::new(write))
            }
        }
    }

    /// Returns whether this side can end its direction and still read. A named pipe ends in both
    /// directions at once.
    fn has_half_close(&self) -> bool {
        cfg!(unix) || !matches!(self, Self::Local(_))
    }

    /// Ends a stream that is not HTTP (or not yet): ends this side's direction, and discards incoming
    /// bytes.
    pub(crate) async fn end(mut self, limits: DrainLimits) {
        if self.has_half_close() && self.shutdown().await.is_err() {
            return;
        }
        let mut drain = Drain::new(limits);
        poll_fn(|cx| drain.poll(&mut self, cx)).await;
        let _ = self.shutdown().await;
    }

    /// Returns how many written bytes the kernel still holds.
    fn unsent(&self) -> Option<usize> {
        match self {
            Self::Tcp(stream) => unsent(stream),
            Self::Local(stream) => WriteEnd::unsent(stream),
            Self::Tls(stream) => unsent(tls::tcp_of(stream)),
        }
    }
}

/// Calls the same method on any variant.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $call,
            Self::Local($stream) => $call,
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

/// A stream with hyper's traits. Reads copy the bytes once, which avoids unsafe code. A WebSocket takes
/// the stream out again after the upgrade.
pub(crate) struct Hyper {
    pub(crate) stream: Stream,
    /// Bytes that were read from the stream before.
    pub(crate) first: Bytes,
    watched: Option<Watched>,
    ending: Option<Ending>,
}

/// The steps of closing a connection.
enum Ending {
    /// Nothing more is sent; incoming bytes are discarded.
    Drain(Box<Drain>),
    Done,
}

/// Detects when writes make no progress for too long.
struct Watched {
    clock: StallClock,
    drain: Option<DrainLimits>,
    progress: Arc<Progress>,
    /// The number of bytes that were written.
    written: u64,
    /// How many of these bytes had left the kernel at the last check.
    left: u64,
    /// How long the peer may take to acknowledge any of the bytes that the kernel holds.
    silence: Option<Duration>,
    /// Present while the kernel holds bytes and nothing waits to be written.
    unsent: Option<Unsent>,
}

/// Bytes that the kernel holds, and when to check them again.
struct Unsent {
    /// When some of these bytes last left the kernel.
    moved: Instant,
    timer: Pin<Box<tokio::time::Sleep>>,
}

/// How often to check whether the bytes in the kernel are leaving.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

impl Watched {
    /// Records an error. If the system has given up on bytes that the peer did not acknowledge, the
    /// connection has stalled.
    fn failed(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.progress.stall();
        }
    }

    /// Records whether bytes are leaving the kernel. Completes when the peer has acknowledged none of
    /// them for too long.
    fn poll_silent(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<()> {
        while self.progress.is_under_way() {
            let interval =
                self.silence.map_or(CHECK_INTERVAL, |limit| CHECK_INTERVAL.min(limit / 4));
            let unsent = self.unsent.get_or_insert_with(|| Unsent {
                moved: Instant::now(),
                timer: Box::pin(sleep(interval)),
            });
            ready!(unsent.timer.as_mut().poll(cx));
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
            unsent.timer.as_mut().reset(from_now(interval));
        }
        self.unsent = None;
        Poll::Pending
    }
}

/// How many bytes are read at once.
const READ: usize = 8 * 1024;

impl Hyper {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, first: Bytes::new(), watched: None, ending: None }
    }

    /// Ends the connection if a write makes no progress for `limit`, and reports the bytes written to
    /// `progress`.
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
        Self { stream, first: Bytes::new(), watched: Some(watched), ending: None }
    }

    /// Ends the connection as stalled if the peer acknowledges none of the bytes in the kernel for
    /// `limit`. This detects a vanished peer even if no write is blocked. It applies only to TCP, and
    /// only if the system reports these bytes; the peer of a local stream is on this machine.
    pub(crate) fn noticing_silence(mut self, limit: Duration) -> Self {
        let is_tcp = matches!(self.stream, Stream::Tcp(_) | Stream::Tls(_));
        if let (Some(watched), true) = (&mut self.watched, is_tcp) {
            watched.silence = Some(limit);
        }
        self
    }

    /// Yields these bytes before those of the stream.
    pub(crate) fn after(self, first: Bytes) -> Self {
        Self { first, ..self }
    }

    /// Before the connection is closed, discards bytes that the client still sends, within `limits`.
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
        if !self.first.is_empty() {
            let length = self.first.len().min(into.remaining());
            into.put_slice(&self.first.split_to(length));
            if let Some(watched) = &self.watched {
                watched.progress.received();
            }
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [const { MaybeUninit::uninit() }; READ];
        let room = bytes.len().min(into.remaining());
        let mut buffer = ReadBuf::uninit(bytes.get_mut(..room).unwrap_or_default());
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
            // hyper flushes after it has written everything, and each time it is polled.
            watched.progress.flushed();
            if watched.poll_silent(stream, cx).is_ready() {
                watched.progress.stall();
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, watched, ending, .. } = &mut *self;
        loop {
            match ending {
                None => {
                    if stream.has_half_close() {
                        ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                    }
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
                Some(Ending::Done) if stream.has_half_close() => return Poll::Ready(Ok(())),
                Some(Ending::Done) => return Pin::new(&mut *stream).poll_shutdown(cx),
            }
        }
    }
}

/// Tokio's clock for hyper's timers.
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
