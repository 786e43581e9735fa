//! What both halves share, and how whoever waits for a write is woken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tieline_proto::websocket::{Close, CloseCode};
use tieline_transport::{
    Backing, CloseReason, ConnectionInfo, Control, Incoming, Principal, ReceiverExt, SendError,
};

use super::out::Out;
use super::reason::told;
use super::receiver::Reader;
use super::{Content, WebSocketConfig};
use crate::task::Task;

/// What both halves of a WebSocket share.
pub(crate) struct Shared {
    out: Mutex<Out>,
    pub(super) content: Content,
    /// The other side has sent a binary message.
    pub(super) heard_binary: AtomicBool,
    pub(super) config: WebSocketConfig,
    pub(super) counts: Arc<Counts>,
    /// This side may end its input and go on receiving, as was negotiated.
    pub(super) half_close: bool,
    pub(super) control: Control,
    /// The close frame of this side is on its way or gone, by our own wish.
    pub(super) is_closing: AtomicBool,
    /// The receiver waits for bytes, and so drives the heartbeat.
    pub(super) is_reading: AtomicBool,
    wakers: Arc<Wakers>,
    /// Of `wakers`: what every write waits with.
    waker: Waker,
}

/// Who waits.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Sender,
    Receiver,
    /// The task that reads on after the end of the other side's input.
    Reader,
    /// A server that shuts down.
    Keeper,
}

impl Shared {
    pub(super) fn new(
        out: Out,
        content: Content,
        config: WebSocketConfig,
        half_close: bool,
        counts: Arc<Counts>,
        control: Control,
    ) -> Self {
        let wakers = Arc::new(Wakers::default());
        let waker = Waker::from(wakers.clone());
        Self {
            out: Mutex::new(out),
            content,
            heard_binary: AtomicBool::new(false),
            config,
            counts,
            half_close,
            control,
            is_closing: AtomicBool::new(false),
            is_reading: AtomicBool::new(false),
            wakers,
            waker,
        }
    }

    #[inline]
    pub(super) fn out(&self) -> MutexGuard<'_, Out> {
        lock(&self.out)
    }

    /// Polls something that writes. Where it has to wait, `side` is woken, and so is every other side
    /// that waits: a stream knows only one who does.
    pub(super) fn poll_out<T>(
        &self,
        side: Side,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Out, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut out = self.out();
        let mut through = Context::from_waker(&self.waker);
        match poll(&mut out, &mut through) {
            // Who was not known yet may have missed that it can go on.
            Poll::Pending if self.wakers.register(side, cx) => poll(&mut out, &mut through),
            polled => polled,
        }
    }

    /// Sees to it that `side` is woken when something happens to the line.
    pub(super) fn register(&self, side: Side, cx: &Context<'_>) -> bool {
        self.wakers.register(side, cx)
    }

    pub(super) fn wake(&self) {
        self.wakers.wake_by_ref();
    }

    /// `side` is dropped.
    pub(super) fn forget(&self, side: Side) {
        *lock(self.wakers.of(side)) = None;
    }

    /// A write has failed or made no progress: nothing more goes out, and the receiver finds out why, but
    /// for a line that has stalled, of which it would never hear.
    pub(super) fn broken(&self, out: &mut Out, reason: CloseReason) -> SendError {
        let is_ours = matches!(reason, CloseReason::Stalled | CloseReason::NoMemory(_));
        let reason = match self.control.close_reason() {
            _ if is_ours => self.control.end(reason),
            Some(known) if !matches!(known, CloseReason::ByPeer) => known,
            _ => reason,
        };
        out.end(reason.clone());
        if is_ours {
            self.wake();
        }
        SendError::Closed(Box::new(reason))
    }

    /// Tells the other side that the server goes, and waits until that is written.
    pub(crate) fn poll_going_away(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut is_first = false;
        let polled = self.poll_out(Side::Keeper, cx, |out, cx| {
            if out.closed().is_none() {
                is_first = true;
                out.close(Some(&super::going_away()), CloseReason::ByUs);
                self.is_closing.store(true, Relaxed);
                self.control.end(CloseReason::ByUs);
            }
            out.poll_flush(cx).map(|_| ())
        });
        if is_first {
            // The receiver waits for the answer from now on. Again and again it would be us who are woken.
            self.wake();
        }
        polled
    }
}

/// Owned by both halves. The line ends when it is dropped.
pub(super) struct Lifeline {
    shared: Arc<Shared>,
    /// Reads on after the end of the other side's input.
    reader: Mutex<Option<Task>>,
}

impl Lifeline {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, reader: Mutex::new(None) }
    }

    /// Reads on in a task until the line ends: it answers pings, notices that the other side is gone, and
    /// rejects further messages.
    pub(super) fn read_on(&self, mut reader: Box<Reader>) {
        let reading =
            tokio::spawn(async move { while !matches!(reader.recv().await, Incoming::End(_)) {} });
        *lock(&self.reader) = Some(Task(reading.abort_handle()));
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let mut out = self.shared.out();
        let close = match self.shared.control.farewell() {
            // The server knows already that no more messages come.
            Some(CloseReason::ByUs) if out.has_ended_input() => Close::new(CloseCode::NORMAL),
            farewell => told(farewell.as_ref()),
        };
        out.try_goodbye(&close);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All who wait for the one stream.
#[derive(Default)]
struct Wakers {
    sender: Mutex<Option<Waker>>,
    receiver: Mutex<Option<Waker>>,
    reader: Mutex<Option<Waker>>,
    keeper: Mutex<Option<Waker>>,
}

impl Wakers {
    fn of(&self, side: Side) -> &Mutex<Option<Waker>> {
        match side {
            Side::Sender => &self.sender,
            Side::Receiver => &self.receiver,
            Side::Reader => &self.reader,
            Side::Keeper => &self.keeper,
        }
    }

    /// Whether it was not known before.
    fn register(&self, side: Side, cx: &Context<'_>) -> bool {
        let mut waker = lock(self.of(side));
        let is_new = waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker()));
        if is_new {
            *waker = Some(cx.waker().clone());
        }
        is_new
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        for waker in [&self.sender, &self.receiver, &self.reader, &self.keeper] {
            let waker = lock(waker).clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// What stands behind it: what is counted beside the bytes, whose it is, and what is let go of at the end.
pub(super) struct Counts {
    pub(super) messages_in: AtomicU64,
    pub(super) messages_out: AtomicU64,
    pub(super) faults: AtomicU64,
    held: Mutex<Option<Box<dyn Send + Sync>>>,
    principal: Option<Principal>,
}

impl Counts {
    pub(super) fn holding(
        held: Option<Box<dyn Send + Sync>>,
        principal: Option<Principal>,
    ) -> Self {
        Self {
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            held: Mutex::new(held),
            principal,
        }
    }
}

impl Backing for Counts {
    fn count(&self, info: &mut ConnectionInfo) {
        info.messages_in += self.messages_in.load(Relaxed);
        info.messages_out += self.messages_out.load(Relaxed);
        info.faults += self.faults.load(Relaxed);
    }

    fn principal(&self) -> Option<Principal> {
        self.principal
    }

    fn abort(&self) {
        let held = lock(&self.held).take();
        drop(held);
    }
}
