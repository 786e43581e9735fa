//! A queue of encoded bytes that are written in batches. It detects stalled writes.

use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tieline_proto::WriteBuf;

use super::stall::StallClock;
use crate::budget::{Account, Holding, MemoryBudget};
use crate::close::CloseReason;
use crate::connection::WriteEnd;

/// The maximum number of slices of one vectored write.
const MAX_SLICES: usize = 64;

/// A queue of bytes, and the write half to which they are written.
///
/// It is for channels on a byte stream. An encoder appends to the buffer to which the queue derefs; the
/// queue has no bound, so check its length first. A write that makes no progress for the stall timeout
/// fails. It makes progress when the stream accepts a byte or a byte leaves a buffer below it, including
/// the kernel's buffer if its fill level is known ([`WriteEnd::unsent`]).
pub struct WriteQueue<W> {
    bytes: WriteBuf,
    write: W,
    /// How many bytes the write half has accepted.
    written: u64,
    clock: StallClock,
    /// How many bytes were queued when a write first blocked.
    blocked: Option<usize>,
    /// How many bytes waited, and for how long, when a blocked write continued.
    delay: Option<(usize, Duration)>,
    account: Account,
}

/// How many of the sent bytes have left this machine, and how many have not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outgoing {
    /// How many bytes have left, as far as is known. It only grows, but restarts at 0 when a new
    /// connection replaces a lost one.
    pub left: u64,
    /// How many bytes have not left: they are queued here, or in the kernel's buffer if its fill level
    /// is known.
    pub waiting: u64,
}

impl Outgoing {
    /// Creates a value from the number of bytes that have left and that have not.
    pub fn new(left: u64, waiting: u64) -> Self {
        Self { left, waiting }
    }
}

impl<W: WriteEnd> WriteQueue<W> {
    /// Creates an empty queue.
    pub fn new(write: W, stall_timeout: Duration) -> Self {
        let bytes = WriteBuf::new();
        let (clock, account) = (StallClock::new(stall_timeout), Account::unbounded());
        Self { bytes, write, written: 0, clock, blocked: None, delay: None, account }
    }

    /// Counts queued bytes beyond 64 KiB against `budget`.
    #[must_use]
    pub fn within(mut self, budget: Option<&MemoryBudget>) -> Self {
        self.account = Account::of(budget, Holding::Queue);
        self
    }

    /// Allows up to `start_timeout`, if that is longer, until the other side reads its first byte: a
    /// program that is still starting has not stalled.
    #[must_use]
    pub fn starting_within(mut self, start_timeout: Duration) -> Self {
        self.clock = self.clock.starting_within(start_timeout);
        self
    }

    /// Returns how many bytes have left this machine, and how many have not. This may be a system call.
    pub fn outgoing(&self) -> Outgoing {
        let below = (self.write.unflushed() + self.write.unsent().unwrap_or_default()) as u64;
        let waiting = self.bytes.len() as u64 + below;
        Outgoing { left: self.written.saturating_sub(below), waiting }
    }

    /// Returns how many bytes have not reached the operating system: they are queued here, or in a buffer below.
    pub fn unwritten(&self) -> usize {
        self.bytes.len() + self.write.unflushed()
    }

    /// Writes once. The queue must not be empty.
    ///
    /// # Errors
    /// The stream's error, [`Stalled`](CloseReason::Stalled), or [`NoMemory`](CloseReason::NoMemory).
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        self.account.set(self.bytes.len())?;
        let write = Pin::new(&mut self.write);
        let written = if self.bytes.is_one_chunk() {
            write.poll_write(cx, self.bytes.first_chunk())
        } else {
            let mut slices = [io::IoSlice::new(&[]); MAX_SLICES];
            let filled = self.bytes.chunks(&mut slices);
            write.poll_write_vectored(cx, slices.get(..filled).unwrap_or_default())
        };
        match written {
            Poll::Ready(Ok(0)) => {
                Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()))
            }
            Poll::Ready(Ok(written)) => {
                self.bytes.advance(written);
                self.written += written as u64;
                self.progressed();
                Poll::Ready(Ok(()))
            }
            // The system discarded bytes that the other side did not acknowledge in time.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Poll::Ready(Err(CloseReason::Stalled))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => {
                self.account.check(cx.waker())?;
                self.poll_stalled(cx).map(Err)
            }
        }
    }

    /// Writes and flushes all bytes, including those in lower-level buffers, and then releases the
    /// queue's memory.
    ///
    /// # Errors
    /// See [`poll_write`](Self::poll_write).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while !self.bytes.is_empty() {
            ready!(self.poll_write(cx))?;
        }
        self.bytes.shrink();
        // Shrinking is always granted.
        let _ = self.account.set(0);
        let flushed = Pin::new(&mut self.write).poll_flush(cx);
        Poll::Ready(ready!(self.poll_finished(cx, flushed))?.map_err(Into::into))
    }

    /// Shuts down the stream. [Flush](Self::poll_flush) queued bytes first: they are not written after a
    /// shutdown.
    ///
    /// # Errors
    /// [`Stalled`](CloseReason::Stalled). The inner result is the stream's own.
    pub fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<io::Result<()>, CloseReason>> {
        let shut = Pin::new(&mut self.write).poll_shutdown(cx);
        self.poll_finished(cx, shut)
    }

    /// Polls until no process can read from the other end any more. Never ready if the system does not
    /// report that.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.write.poll_gone(cx)
    }

    /// Discards the queued bytes.
    pub fn clear(&mut self) {
        self.bytes = WriteBuf::new();
        let _ = self.account.set(0);
        self.blocked = None;
        self.clock.went_on();
    }

    /// Takes the last delay, which consists of the number of blocked bytes and the duration. Returns
    /// `None` if no blocked write has continued since the last call.
    #[inline]
    pub fn take_delay(&mut self) -> Option<(usize, Duration)> {
        self.delay.take()
    }

    /// Returns the outcome of a flush or a shutdown, or `Stalled` if it has made no progress for too
    /// long.
    fn poll_finished(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<()>>,
    ) -> Poll<Result<io::Result<()>, CloseReason>> {
        match polled {
            Poll::Ready(outcome) => {
                self.progressed();
                Poll::Ready(Ok(outcome))
            }
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }

    fn progressed(&mut self) {
        if let Some(waited) = self.clock.went_on() {
            self.delay = self.blocked.take().map(|bytes| (bytes, waited));
        }
    }

    /// Polls until there has been no progress for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let unflushed = self.write.unflushed();
        self.blocked.get_or_insert(self.bytes.len() + unflushed);
        let left = self.written.saturating_sub(unflushed as u64);
        let write = &self.write;
        self.clock.poll_stalled(cx, left, || write.unsent()).map(|()| CloseReason::Stalled)
    }
}

impl<W> Deref for WriteQueue<W> {
    type Target = WriteBuf;

    #[inline]
    fn deref(&self) -> &WriteBuf {
        &self.bytes
    }
}

impl<W> DerefMut for WriteQueue<W> {
    #[inline]
    fn deref_mut(&mut self) -> &mut WriteBuf {
        &mut self.bytes
    }
}
