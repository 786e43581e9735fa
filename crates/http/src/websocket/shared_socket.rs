//! The state that both halves share, and the wakers of all tasks that wait for a write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tieline_proto::websocket::{Close, CloseCode};
use tieline_transport::{
    Backing, CloseReason, ConnectionInfo, Control, Incoming, Principal, ReceiverExt, SendError,
};
use tokio::time::Instant;

use super::out::Out;
use super::reason::close_for;
use super::receiver::Reader;
use super::{Content, WebSocketConfig};
use crate::lock::lock;
use crate::task::Task;

/// The state that both halves of a WebSocket share.
pub(crate) struct SharedSocket {
    out: Mutex<Out>,
    pub(super) content: Content,
    /// Whether the other side has sent a binary message.
    pub(super) heard_binary: AtomicBool,
    pub(super) config: WebSocketConfig,
    pub(super) counts: Arc<Counts>,
    /// Whether this side may end its input and continue to receive, as negotiated.
    pub(super) half_close: bool,
    pub(super) control: Control,
    /// Whether this side has queued its close frame on its own initiative.
    pub(super) is_closing: AtomicBool,
    /// Whether the receiver waited for bytes when it was last polled.
    pub(super) is_reading: AtomicBool,
    /// The latest time at which a waiting receiver is polled next, for its heartbeat.
    polled_by: Mutex<Option<Instant>>,
    wakers: Arc<Wakers>,
    /// The waker made from `wakers`, with which every write waits.
    waker: Waker,
}

/// The parties that can wait for a write.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Sender,
    Receiver,
    /// The task that reads after the end of the other side's input.
    Reader,
    /// The task that shuts down a server.
    Keeper,
}

impl SharedSocket {
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
            polled_by: Mutex::default(),
            wakers,
            waker,
        }
    }

    #[inline]
    pub(super) fn out(&self) -> MutexGuard<'_, Out> {
        lock(&self.out)
    }

    /// Records when the receiver's heartbeat has to be polled next.
    pub(super) fn poll_receiver_by(&self, deadline: Instant) {
        *lock(&self.polled_by) = Some(deadline);
    }

    /// Returns whether the receiver waits for bytes, and therefore drives the heartbeat. After a
    /// canceled receive, the receiver still seems to wait, but it is polled later than expected, by more
    /// than `slack`.
    pub(super) fn drives_heartbeat(&self, slack: Duration) -> bool {
        let is_late = |by: Instant| Instant::now().saturating_duration_since(by) > slack;
        self.is_reading.load(Relaxed) && !lock(&self.polled_by).is_some_and(is_late)
    }

    /// Polls a function that writes. If it has to wait, `side` is registered and woken together with all
    /// other waiting sides, because a stream has only one waker.
    pub(super) fn poll_out<T>(
        &self,
        side: Side,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Out, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut out = self.out();
        let mut through = Context::from_waker(&self.waker);
        match poll(&mut out, &mut through) {
            // A newly registered side may have missed a wakeup.
            Poll::Pending if self.wakers.register(side, cx) => poll(&mut out, &mut through),
            polled => polled,
        }
    }

    /// Registers `side` to be woken when the state of the line changes.
    pub(super) fn register(&self, side: Side, cx: &Context<'_>) -> bool {
        self.wakers.register(side, cx)
    }

    pub(super) fn wake(&self) {
        self.wakers.wake_by_ref();
    }

    /// Removes the waker of a side that is dropped.
    pub(super) fn forget(&self, side: Side) {
        *lock(self.wakers.of(side)) = None;
    }

    /// Ends the outgoing direction after a write has failed or stalled. The receiver detects the reason
    /// itself, except for a stall or a lack of memory.
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

    /// Sends the close frame of a server that is shutting down, and waits until it is written.
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
            // From here on, the receiver has to wait for the answer. Waking it on every poll would wake
            // this task, too.
            self.wake();
        }
        polled
    }
}

/// Ends the line when it is dropped. Both halves share it.
pub(super) struct Lifeline {
    shared: Arc<SharedSocket>,
    /// The task that reads after the end of the other side's input.
    reader: Mutex<Option<Task>>,
}

impl Lifeline {
    pub(super) fn new(shared: Arc<SharedSocket>) -> Self {
        Self { shared, reader: Mutex::new(None) }
    }

    /// Reads in a task until the line ends: answers pings, detects when the other side is lost, and
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
        let close = match self.shared.control.reason_to_report() {
            // The server already knows that no more messages follow.
            Some(CloseReason::ByUs) if out.has_ended_input() => Close::new(CloseCode::NORMAL),
            farewell => close_for(farewell.as_ref()),
        };
        out.try_goodbye(&close);
    }
}

/// The wakers of all sides that wait for the stream.
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

    /// Registers a waker. Returns whether it is new.
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

/// The channel's counters, its principal, and the value to drop at its end.
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
