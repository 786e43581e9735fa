//! One direction of a connection: bytes are read, corrupted, delayed and written.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tieline_transport::WriteEnd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::Faults;
use super::noise::Noise;

pub(super) type Source = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Sink = Box<dyn WriteEnd>;

/// How a direction ended, with its source and sink.
pub(super) struct Over {
    pub(super) end: WayEnd,
    pub(super) source: Source,
    pub(super) sink: Sink,
}

pub(super) enum WayEnd {
    /// The source ended, and the end was passed on to the sink.
    Passed,
    /// The source failed. All bytes read before the failure were passed on.
    Broken(io::Error),
    /// The sink accepts no more bytes.
    Gone,
}

/// The bytes that moved in one direction, of all connections.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) read: AtomicU64,
    pub(super) passed: AtomicU64,
    pub(super) corrupted: AtomicU64,
}

/// The number of bytes that one read requests.
const READ: usize = 16 * 1024;

/// The minimum weight of a queued piece, so that the number of small pieces is bounded.
const LEAST: usize = 64;

/// How many bytes are queued before reading pauses: few, so that a stalled reader soon blocks the writer,
/// but more if bytes are delayed.
const WAITING: usize = 64 * 1024;
const WAITING_DELAYED: usize = 1024 * 1024;

/// How many writes per second a throttled direction is split into, so that bytes flow evenly.
const EVENLY: u64 = 20;

pub(super) struct Way<'a> {
    faults: &'a Faults,
    noise: Option<Noise>,
    moved: &'a Moved,
    waiting: VecDeque<Piece>,
    /// The number of waiting bytes; each piece counts as at least [`LEAST`].
    weight: usize,
    /// When to pass the end on to the sink, once the source has ended.
    end: Option<Instant>,
    failure: Option<io::Error>,
    is_unflushed: bool,
    /// When a throttled direction may write again.
    free: Instant,
    /// How much of the first piece may be written, and when.
    let_through: Option<(usize, Instant)>,
}

struct Piece {
    due: Instant,
    bytes: Bytes,
}

enum Done {
    Wrote(usize),
    Flushed,
    Ended,
}

impl<'a> Way<'a> {
    /// Creates a direction. `stream` distinguishes the directions that share a seed.
    pub(super) fn new(faults: &'a Faults, moved: &'a Moved, stream: u64) -> Self {
        Self {
            faults,
            noise: Noise::new(faults.corrupt, faults.seed, stream),
            moved,
            waiting: VecDeque::new(),
            weight: 0,
            end: None,
            failure: None,
            is_unflushed: false,
            free: Instant::now(),
            let_through: None,
        }
    }

    /// Passes bytes on until the source or the sink ends. Dropping the future drops queued bytes.
    pub(super) async fn pump(mut self, mut source: Source, mut sink: Sink) -> Over {
        let most = if self.faults.delay.is_zero() { WAITING } else { WAITING_DELAYED };
        let mut buffer = BytesMut::new();
        let end = loop {
            if buffer.capacity() == buffer.len() {
                buffer.reserve(READ);
            }
            let reads = self.end.is_none() && self.weight < most;
            tokio::select! {
                read = source.read_buf(&mut buffer), if reads => self.take(read, &mut buffer),
                done = self.next(&mut sink) => match done {
                    Ok(Done::Wrote(0)) | Err(_) => break WayEnd::Gone,
                    Ok(Done::Wrote(written)) => self.wrote(written),
                    Ok(Done::Flushed) => self.is_unflushed = false,
                    Ok(Done::Ended) => break match self.failure.take() {
                        // A black hole does not report failures to the other side either.
                        Some(error) if !self.faults.blackhole => WayEnd::Broken(error),
                        _ => WayEnd::Passed,
                    },
                },
            }
        };
        Over { end, source, sink }
    }

    /// Handles the result of one read.
    fn take(&mut self, read: io::Result<usize>, buffer: &mut BytesMut) {
        let due = Instant::now() + self.faults.delay;
        match read {
            Ok(0) => self.end = Some(due),
            Ok(read) => {
                self.moved.read.fetch_add(read as u64, Relaxed);
                let mut bytes = buffer.split();
                if self.faults.blackhole {
                    return;
                }
                if let Some(noise) = &mut self.noise {
                    self.moved.corrupted.fetch_add(noise.corrupt(&mut bytes), Relaxed);
                }
                self.weight += weight(bytes.len());
                self.waiting.push_back(Piece { due, bytes: bytes.freeze() });
            }
            Err(error) => {
                self.failure = Some(error);
                self.end = Some(due);
            }
        }
    }

    /// Performs the next operation on the sink. Cancel-safe: an operation that was not done is done by the next
    /// call.
    fn next<'s>(
        &'s mut self,
        sink: &'s mut Sink,
    ) -> impl Future<Output = io::Result<Done>> + Send + use<'s, 'a> {
        let let_through = self.let_through();
        let (end, is_unflushed) = (self.end, self.is_unflushed);
        let is_hole = self.faults.blackhole;
        let first = self.waiting.front();
        async move {
            if let (Some((length, at)), Some(piece)) = (let_through, first) {
                sleep_until(at).await;
                let bytes = piece.bytes.get(..length).unwrap_or(&piece.bytes);
                return sink.write(bytes).await.map(Done::Wrote);
            }
            if is_unflushed {
                return sink.flush().await.map(|()| Done::Flushed);
            }
            match end {
                Some(_) if is_hole => Ok(Done::Ended),
                Some(at) => {
                    sleep_until(at).await;
                    sink.shutdown().await.map(|()| Done::Ended)
                }
                // A black hole does not pass on that a side has disconnected.
                None if is_hole => std::future::pending().await,
                None => {
                    poll_fn(|cx| sink.poll_gone(cx)).await;
                    Err(io::ErrorKind::BrokenPipe.into())
                }
            }
        }
    }

    /// Returns how much of the first piece is written next, and when.
    fn let_through(&mut self) -> Option<(usize, Instant)> {
        if self.let_through.is_none() {
            let piece = self.waiting.front()?;
            self.let_through = Some(match self.faults.throttle {
                None => (piece.bytes.len(), piece.due),
                Some(rate) => {
                    let rate = (rate.bytes() as u64).max(1);
                    let length = (piece.bytes.len() as u64).min((rate / EVENLY).max(1));
                    self.free = self.free.max(piece.due) + time_for(length, rate);
                    (length as usize, self.free)
                }
            });
        }
        self.let_through
    }

    fn wrote(&mut self, written: usize) {
        self.moved.passed.fetch_add(written as u64, Relaxed);
        self.is_unflushed = true;
        if let Some((length, at)) = self.let_through {
            self.let_through = (written < length).then(|| (length - written, at));
        }
        let Some(piece) = self.waiting.front_mut() else { return };
        let before = weight(piece.bytes.len());
        piece.bytes.advance(written.min(piece.bytes.len()));
        let after = if piece.bytes.is_empty() { 0 } else { weight(piece.bytes.len()) };
        self.weight -= before - after;
        if after == 0 {
            self.waiting.pop_front();
        }
    }
}

fn weight(length: usize) -> usize {
    length.max(LEAST)
}

/// Returns how long `length` bytes take at `rate` bytes per second.
fn time_for(length: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(length) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
