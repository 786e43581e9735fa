//! Messages of the gateway itself, which are sent before those that are passed on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tieline_transport::{Outgoing, SendError, Sender};

use crate::line_memory::{LineMemory, MemoryPart};
use crate::lock::lock;

/// The queue has room while it holds fewer messages than this, and fewer bytes than [`BYTES`].
const MESSAGES: usize = 1024;
const BYTES: usize = 4 << 20;

/// The memory that a message uses in addition to its bytes.
const EACH: usize = size_of::<Bytes>();

/// A queue of the gateway's messages for one side of a line, with a gate that holds back all other messages.
#[derive(Default)]
pub(crate) struct GatewayMessages {
    /// The queue has messages, or the gate is closed.
    is_busy: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    held: MemoryPart,
    is_closed: bool,
    sink: Option<Waker>,
    room: Option<Waker>,
}

impl State {
    fn hold(&mut self) {
        self.held.set(self.bytes + self.queue.len() * EACH);
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= MESSAGES || self.bytes >= BYTES
    }
}

impl GatewayMessages {
    /// Creates a queue whose memory is counted in `held`.
    pub(crate) fn within(held: Option<&Arc<LineMemory>>) -> Self {
        let own = Self::default();
        own.state().held = MemoryPart::of(held);
        own
    }

    /// Discards all queued messages. Returns how many there were.
    pub(crate) fn clear(&self) -> usize {
        let mut state = self.state();
        let cleared = std::mem::take(&mut state.queue).len();
        state.bytes = 0;
        self.changed(state);
        cleared
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Queues a message even if the queue is full. Use this only for messages whose number is bounded
    /// elsewhere.
    pub(crate) fn push(&self, message: Bytes) {
        let mut state = self.state();
        state.bytes += message.len();
        state.queue.push_back(message);
        self.changed(state);
    }

    /// Queues a message if there is room. Returns whether it was queued.
    pub(crate) fn try_push(&self, message: Bytes) -> bool {
        let is_full = self.state().is_full();
        if !is_full {
            self.push(message);
        }
        !is_full
    }

    /// Waits until there is room. Only one task may wait.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.is_full() {
            return Poll::Ready(());
        }
        state.room = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Closes the gate: until it is opened again, only messages of this queue are sent. Discards the messages
    /// in the queue, which were meant for another program.
    pub(crate) fn close_gate(&self) {
        let mut state = self.state();
        state.queue.clear();
        state.bytes = 0;
        state.is_closed = true;
        self.changed(state);
    }

    pub(crate) fn open_gate(&self) {
        let mut state = self.state();
        state.is_closed = false;
        self.changed(state);
    }

    fn changed(&self, mut state: MutexGuard<'_, State>) {
        state.hold();
        self.is_busy.store(state.is_closed || !state.queue.is_empty(), Relaxed);
        let wakers = [state.sink.take(), state.room.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn take(&self) -> Option<Bytes> {
        let mut state = self.state();
        let message = state.queue.pop_front()?;
        state.bytes -= message.len();
        state.hold();
        let room = state.room.take();
        self.is_busy.store(state.is_closed || !state.queue.is_empty(), Relaxed);
        drop(state);
        room.into_iter().for_each(Waker::wake);
        Some(message)
    }

    /// Registers the sink to be woken when something changes. Returns whether the queue is empty.
    fn register(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        match &mut state.sink {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        state.queue.is_empty()
    }

    fn is_closed(&self) -> bool {
        self.state().is_closed
    }
}

/// A sender to one side, with the gateway's own messages for that side.
pub(crate) struct WithGatewayMessages<S> {
    pub(crate) sender: S,
    own: Option<Arc<GatewayMessages>>,
}

impl<S: Sender> WithGatewayMessages<S> {
    pub(crate) fn new(sender: S, own: Option<Arc<GatewayMessages>>) -> Self {
        Self { sender, own }
    }

    fn busy(&self) -> Option<Arc<GatewayMessages>> {
        self.own.as_ref().filter(|own| own.is_busy.load(Relaxed)).map(Arc::clone)
    }

    /// Sends the gateway's own messages. Returns `Ready` when none is left.
    fn poll_own(
        &mut self,
        own: &GatewayMessages,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            if own.register(cx) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.sender.poll_ready(cx))?;
            let Some(message) = own.take() else { continue };
            if let Err(error) = self.sender.pass_on(message) {
                tracing::debug!("a message of the gateway itself was not sent: {error}");
                if matches!(error, SendError::Closed(_)) {
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<S: Sender> Sender for WithGatewayMessages<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let Some(own) = self.busy() {
            ready!(self.poll_own(&own, cx))?;
            if own.is_closed() {
                // Messages sent so far must not wait for the gate to open.
                return match self.sender.poll_flush(cx) {
                    Poll::Ready(Err(error @ SendError::Closed(_))) => Poll::Ready(Err(error)),
                    _ => Poll::Pending,
                };
            }
        }
        self.sender.poll_ready(cx)
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.sender.start_send(message)
    }

    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        self.sender.pass_on(message)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        match self.busy() {
            Some(own) => ready!(self.poll_own(&own, cx))?,
            // Later messages must wake the task.
            None => drop(self.own.as_ref().map(|own| own.register(cx))),
        }
        self.sender.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let Some(own) = self.busy() {
            let _ = ready!(self.poll_own(&own, cx));
        }
        self.sender.poll_close(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sender.poll_gone(cx)
    }

    fn outgoing(&self) -> Outgoing {
        self.sender.outgoing()
    }

    fn unwritten(&self) -> usize {
        self.sender.unwritten()
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sender.poll_acknowledged(cx)
    }
}
