//! Encoded bytes and where they go: written in batches, and given up when nothing moves for too long.

use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tieline_proto::WriteBuf;

use super::stall::StallClock;
use crate::{Account, CloseReason, Holding, MemoryBudget, WriteEnd};

/// How many pieces one write takes at most.
const MAX_SLICES: usize = 64;

/// The bytes that wait for the writing end of a stream, and that end.
///
/// It is for channels that write a byte stream: an encoder fills what it derefs to, and asks its length
/// first, as it has no bound. Whatever waits for the stream here waits no longer than the stall timeout
/// without any progress: a byte that the stream takes, or that leaves a buffer below it, the kernel's
/// included where that can be asked ([`WriteEnd::unsent`]).
pub struct WriteQueue<W> {
    bytes: WriteBuf,
    write: W,
    /// How many bytes the writing end has taken.
    written: u64,
    clock: StallClock,
    /// How many bytes waited when a write was first blocked.
    blocked: Option<usize>,
    /// How many bytes waited for how long, when they moved again.
    delay: Option<(usize, Duration)>,
    account: Account,
}

/// What of the bytes that were sent is still on its way out of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outgoing {
    /// How many bytes have left, as far as is known. It grows, and begins anew with another line in place
    /// of a lost one.
    pub left: u64,
    /// How many bytes have not: they wait in a queue here, or in the kernel where that can be asked.
    pub waiting: u64,
}

impl Outgoing {
    /// So many bytes have left, and so many have not.
    pub fn new(left: u64, waiting: u64) -> Self {
        Self { left, waiting }
    }
}

impl<W: WriteEnd> WriteQueue<W> {
    /// An empty one.
    pub fn new(write: W, stall_timeout: Duration) -> Self {
        let bytes = WriteBuf::new();
        let (clock, account) = (StallClock::new(stall_timeout), Account::unbounded());
        Self { bytes, write, written: 0, clock, blocked: None, delay: None, account }
    }

    /// Counts what waits beyond 64 KiB by `budget`.
    #[must_use]
    pub fn within(mut self, budget: Option<&MemoryBudget>) -> Self {
        self.account = Account::of(budget, Holding::Queue);
        self
    }

    /// Waits up to `start_timeout`, if that is longer, for the other side to read its first byte: a program
    /// that is starting has not stalled.
    #[must_use]
    pub fn starting_within(mut self, start_timeout: Duration) -> Self {
        self.clock = self.clock.starting_within(start_timeout);
        self
    }

    /// Returns how far the bytes have come that were put in. This may be a system call.
    pub fn outgoing(&self) -> Outgoing {
        let below = (self.write.unflushed() + self.write.unsent().unwrap_or_default()) as u64;
        let waiting = self.bytes.len() as u64 + below;
        Outgoing { left: self.written.saturating_sub(below), waiting }
    }

    /// Writes once. There has to be something that waits.
    ///
    /// # Errors
    /// The stream's, [`Stalled`](CloseReason::Stalled), or [`NoMemory`](CloseReason::NoMemory).
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
            // The system has given up bytes that the other side did not take.
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

    /// Writes all, through buffers below, too. Its memory is given back then.
    ///
    /// # Errors
    /// As [`poll_write`](Self::poll_write).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while !self.bytes.is_empty() {
            ready!(self.poll_write(cx))?;
        }
        self.bytes.shrink();
        // Less is always granted.
        let _ = self.account.set(0);
        let flushed = Pin::new(&mut self.write).poll_flush(cx);
        Poll::Ready(ready!(self.poll_finished(cx, flushed))?.map_err(Into::into))
    }

    /// Ends the stream. Whatever waits is [flushed](Self::poll_flush) before that or never.
    ///
    /// # Errors
    /// [`Stalled`](CloseReason::Stalled); inside, what the stream said.
    pub fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<io::Result<()>, CloseReason>> {
        let shut = Pin::new(&mut self.write).poll_shutdown(cx);
        self.poll_finished(cx, shut)
    }

    /// Ready when nobody is there any more who could read, where that is noticed.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.write.poll_gone(cx)
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.bytes = WriteBuf::new();
        let _ = self.account.set(0);
        self.blocked = None;
        self.clock.went_on();
    }

    /// How many bytes have waited for how long, if they have, and moved since this was asked last.
    #[inline]
    pub fn take_delay(&mut self) -> Option<(usize, Duration)> {
        self.delay.take()
    }

    /// Passes on the outcome of a flush or a shutdown, unless nothing has moved for too long.
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

    /// Ready when nothing has moved for too long.
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
