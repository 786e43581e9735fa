//! A connection, which consists of two directions of bytes and a plan of its failures.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Slow;

/// The plan of a connection's delays and failures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) calm: Instant,
    pub(super) delay: Duration,
    pub(super) slow: Option<Slow>,
    /// The number of bytes that can be in transit.
    pub(super) window: usize,
    /// The number of written bytes after which each direction is cut.
    pub(super) cut_behind: [Option<u64>; 2],
    pub(super) cut_after: Option<Duration>,
    /// Whether the bytes in transit are lost, for each direction.
    pub(super) loses: [bool; 2],
    /// The time from the cut until each side notices it.
    pub(super) learns: [Duration; 2],
    pub(super) late: Option<Duration>,
    pub(super) ghost: Option<Duration>,
}

/// The number of bytes that arrive at once on a slow connection.
const PACKET: usize = 16 * 1024;

/// The number of bytes at the beginning that are remembered, which is enough for a greeting with its
/// length.
const SAID_FIRST: usize = 75;

pub(super) struct SimulatedLine {
    plan: Plan,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    ways: [Way; 2],
    /// The time from which each side notices the cut.
    cut: Option<[Instant; 2]>,
    said_first: Vec<u8>,
    /// The number of halves that are not dropped yet.
    halves: usize,
}

/// The bytes written by one side.
#[derive(Default)]
struct Way {
    bytes: VecDeque<(Instant, Bytes)>,
    length: usize,
    written: u64,
    /// The time at which the last byte arrives on a slow connection.
    arrives: Option<Instant>,
    /// Whether a writer found no room and waits until enough is free.
    is_full: bool,
    /// The time at which the reader notices the end of this direction, once it has ended.
    ended: Option<Instant>,
    /// The time at which the writer notices that the reader was dropped. This is after all bytes that
    /// the reader's side has sent.
    reader_gone: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn wake(&mut self) -> impl Iterator<Item = Waker> + use<> {
        self.reader.take().into_iter().chain(self.writer.take())
    }
}

/// The outcome of a poll: a result, or the time of the next poll if it is known.
pub(super) enum Polled<T> {
    Ready(T),
    Until(Instant),
    Woken,
}

impl SimulatedLine {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn is_cut(&self) -> bool {
        self.inner().cut.is_some()
    }

    pub(super) fn halves(&self) -> usize {
        self.inner().halves
    }

    pub(super) fn begin_half(&self) {
        self.inner().halves += 1;
    }

    /// Returns the client's first frame with its length, or no bytes if it is incomplete or too long.
    pub(super) fn said_first(&self) -> Vec<u8> {
        let said = &self.inner().said_first;
        let Some(&[a, b, c, d]) = said.first_chunk() else { return Vec::new() };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        said.get(..4 + length).unwrap_or_default().to_vec()
    }

    /// Injects bytes into the client's direction.
    pub(super) fn say(&self, bytes: &[u8]) {
        let mut inner = self.inner();
        inner.ways[0].bytes.push_back((Instant::now(), Bytes::copy_from_slice(bytes)));
        inner.ways[0].length += bytes.len();
    }

    pub(super) fn cut(&self, learns: [Duration; 2]) {
        let mut inner = self.inner();
        if inner.cut.is_some() {
            return;
        }
        let now = Instant::now();
        inner.cut = Some(learns.map(|later| now + later));
        let loses = self.plan.loses;
        let mut wakers = Vec::new();
        for (way, loses) in inner.ways.iter_mut().zip(loses) {
            if loses {
                way.bytes.clear();
                way.length = 0;
            }
            wakers.extend(way.wake());
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn poll_write(
        &self,
        side: usize,
        cx: &Context<'_>,
        bytes: &[u8],
    ) -> Polled<Result<usize, ()>> {
        let now = Instant::now();
        let mut inner = self.inner();
        if let Some(cut) = inner.cut {
            return if cut[side] <= now {
                Polled::Ready(Err(()))
            } else if inner.ways[side].length < self.plan.window {
                // The bytes are lost.
                inner.ways[side].length += bytes.len();
                Polled::Ready(Ok(bytes.len()))
            } else {
                Polled::Until(cut[side])
            };
        }
        let Inner { ways, said_first, .. } = &mut *inner;
        let way = &mut ways[side];
        if way.reader_gone.is_some_and(|gone| gone <= now) || way.ended.is_some() {
            return Polled::Ready(Err(()));
        }
        let room = self.plan.window.saturating_sub(way.length);
        let enough = if self.plan.slow.is_some() && way.is_full { self.plan.window / 3 } else { 1 };
        way.is_full = room < enough;
        if way.is_full {
            way.writer = Some(cx.waker().clone());
            return way.reader_gone.map_or(Polled::Woken, Polled::Until);
        }
        let mut length = bytes.len().min(room);
        let cuts = now < self.plan.calm;
        let left = self.plan.cut_behind[side].map(|behind| behind.saturating_sub(way.written));
        let is_last = cuts && left.is_some_and(|left| length as u64 >= left);
        if let Some(left) = left.filter(|_| is_last) {
            length = left as usize;
        }
        let taken = &bytes[..length];
        if side == 0 && said_first.len() < SAID_FIRST {
            said_first.extend(taken.iter().take(SAID_FIRST - said_first.len()));
        }
        way.written += length as u64;
        way.length += length;
        match self.plan.slow {
            None => way.bytes.push_back((now + self.plan.delay, Bytes::copy_from_slice(taken))),
            // Packets are sent one after the other.
            Some(slow) => {
                for packet in taken.chunks(PACKET) {
                    let takes = Duration::from_secs_f64(packet.len() as f64 / slow.rate as f64);
                    let at = way.arrives.map_or(now, |last| last.max(now)) + takes;
                    way.arrives = Some(at);
                    way.bytes.push_back((at + self.plan.delay, Bytes::copy_from_slice(packet)));
                }
            }
        }
        let reader = way.reader.take();
        drop(inner);
        if let Some(reader) = reader {
            reader.wake();
        }
        if is_last {
            self.cut(self.plan.learns);
            // Bytes beyond the cut are reported as written, but are lost.
            return Polled::Ready(Ok(bytes.len()));
        }
        Polled::Ready(Ok(length))
    }

    pub(super) fn poll_read(
        &self,
        side: usize,
        cx: &Context<'_>,
        mut room: usize,
        mut put: impl FnMut(&[u8]),
    ) -> Polled<Result<(), ()>> {
        let now = Instant::now();
        let mut inner = self.inner();
        let cut = inner.cut;
        let way = &mut inner.ways[1 - side];
        let mut read = 0;
        let mut due = None;
        while let Some((at, bytes)) = way.bytes.front_mut() {
            if *at > now {
                due = Some(*at);
                break;
            }
            let taken = bytes.split_to(room.min(bytes.len()));
            put(&taken);
            read += taken.len();
            room -= taken.len();
            if !bytes.is_empty() {
                break;
            }
            way.bytes.pop_front();
        }
        if read > 0 {
            way.length = way.length.saturating_sub(read);
            let writer = way.writer.take();
            drop(inner);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Polled::Ready(Ok(()));
        }
        way.reader = Some(cx.waker().clone());
        match (due, cut, way.ended) {
            (Some(due), ..) => Polled::Until(due),
            (None, Some(cut), _) if cut[side] <= now => Polled::Ready(Err(())),
            (None, Some(cut), _) => Polled::Until(cut[side]),
            (None, None, Some(ended)) if ended <= now => Polled::Ready(Ok(())),
            (None, None, Some(ended)) => Polled::Until(ended),
            (None, None, None) => Polled::Woken,
        }
    }

    /// Returns the number of bytes from this side that have not arrived, if it can be queried.
    pub(super) fn unsent(&self, side: usize) -> Option<usize> {
        self.plan.slow.filter(|slow| slow.tells)?;
        let now = Instant::now();
        let inner = self.inner();
        let on_the_way = inner.ways[side].bytes.iter().filter(|(at, _)| *at > now);
        Some(on_the_way.map(|(_, bytes)| bytes.len()).sum())
    }

    /// Ends the direction of this side.
    pub(super) fn end(&self, side: usize) {
        let ended = Instant::now() + self.plan.delay;
        let mut inner = self.inner();
        let way = &mut inner.ways[side];
        way.ended.get_or_insert(ended);
        let reader = way.reader.take();
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
    }

    pub(super) fn writer_gone(&self, side: usize) {
        self.inner().halves -= 1;
        self.end(side);
    }

    pub(super) fn reader_gone(&self, side: usize) {
        let learnt = Instant::now() + self.plan.delay;
        let mut inner = self.inner();
        inner.halves -= 1;
        let way = &mut inner.ways[1 - side];
        way.reader_gone = Some(learnt);
        let writer = way.writer.take();
        drop(inner);
        writer.into_iter().for_each(Waker::wake);
    }
}

/// Repeats a poll at the time that the poll returns.
pub(super) fn later<T>(
    sleep: &mut std::pin::Pin<Box<tokio::time::Sleep>>,
    cx: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Polled<T>,
) -> Poll<T> {
    loop {
        match poll(cx) {
            Polled::Ready(ready) => return Poll::Ready(ready),
            Polled::Woken => return Poll::Pending,
            Polled::Until(at) => {
                sleep.as_mut().reset(at);
                std::task::ready!(std::future::Future::poll(sleep.as_mut(), cx));
            }
        }
    }
}
