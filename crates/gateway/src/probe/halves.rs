//! The halves of a channel to a program that is pinged.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::ByteSize;
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, ChildExit, CloseReason, Control, Incoming, Outgoing, Receiver,
    SendError, Sender, Unresponsive, from_now,
};
use tokio::time::{Sleep, sleep_until};

use super::machine::{MISSES, Machine, Tick};
use crate::lock::{lock, remember};

/// How many answers to pings are taken out in one poll before the task yields.
const TURN: usize = 64;

/// Adds pings to a channel.
pub(super) fn probe(channel: BoxChannel, machine: Machine, interval: Duration) -> BoxChannel {
    let control = channel.control().clone();
    let (sender, receiver) = channel.split();
    let tasks = Arc::new(Tasks::default());
    let state = State {
        sender: Some(sender),
        machine,
        is_closing: false,
        is_stopping: false,
        has_unflushed: false,
    };
    let line = Arc::new(Line { state: Mutex::new(state), waker: tasks.clone().into(), tasks });
    let receiver = ProbedReceiver {
        receiver,
        line: line.clone(),
        control: control.clone(),
        interval,
        timer: Box::pin(sleep_until(from_now(interval))),
        seen: 0,
        stopping: None,
        end: None,
    };
    BoxChannel::from_parts(Box::new(ProbedSender(line)), Box::new(receiver), control)
}

/// What both halves share. Both may send, so both are woken when the line has room.
struct Line {
    state: Mutex<State>,
    waker: Waker,
    tasks: Arc<Tasks>,
}

struct State {
    /// `None` once the sender was dropped.
    sender: Option<Box<dyn Sender>>,
    machine: Machine,
    /// The program's input ends, so it is not pinged any more.
    is_closing: bool,
    /// The program did not answer, and is being stopped.
    is_stopping: bool,
    has_unflushed: bool,
}

/// The tasks that use the halves.
#[derive(Default)]
struct Tasks([Mutex<Option<Waker>>; 2]);

const SENDING: usize = 0;
const RECEIVING: usize = 1;

impl Tasks {
    fn remember(&self, which: usize, cx: &Context<'_>) {
        if let Some(place) = self.0.get(which) {
            remember(&mut lock(place), cx.waker());
        }
    }
}

impl Wake for Tasks {
    fn wake(self: Arc<Self>) {
        for place in &self.0 {
            let waker = lock(place).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Calls `act` with the sender, which wakes both tasks later.
    fn on_sender<T>(
        &self,
        which: usize,
        cx: &Context<'_>,
        act: impl FnOnce(&mut State, &mut Context<'_>) -> T,
    ) -> T {
        self.tasks.remember(which, cx);
        act(&mut self.lock(), &mut Context::from_waker(&self.waker))
    }
}

impl State {
    fn poll(
        &mut self,
        act: impl FnOnce(&mut Box<dyn Sender>) -> Poll<Result<(), SendError>>,
    ) -> Poll<Result<(), SendError>> {
        let closed = || Poll::Ready(Err(SendError::Closed(Box::new(CloseReason::ByUs))));
        self.sender.as_mut().map_or_else(closed, act)
    }

    /// Sends a ping if the program's line has room for it.
    fn ping(&mut self, ping: Bytes, cx: &mut Context<'_>) {
        let length = ping.len();
        let Some(sender) = &mut self.sender else { return };
        if let Poll::Ready(Ok(())) = sender.poll_ready(cx) {
            if sender.start_send(ping).is_ok() {
                self.machine.pinged(length);
                self.has_unflushed = true;
            }
        }
    }

    /// Sends what was queued by the receiver.
    fn flush(&mut self, cx: &mut Context<'_>) {
        if let (true, Some(sender)) = (self.has_unflushed, &mut self.sender) {
            self.has_unflushed = sender.poll_flush(cx).is_pending();
        }
    }
}

struct ProbedSender(Arc<Line>);

impl Drop for ProbedSender {
    fn drop(&mut self) {
        let sender = self.0.lock().sender.take();
        drop(sender);
    }
}

impl ProbedSender {
    fn start(
        &self,
        message: &Bytes,
        start: impl FnOnce(&mut dyn Sender) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let state = &mut *self.0.lock();
        state.machine.passed(message);
        match &mut state.sender {
            Some(sender) => start(sender),
            None => Err(SendError::Closed(Box::new(CloseReason::ByUs))),
        }
    }
}

impl Sender for ProbedSender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.on_sender(SENDING, cx, |state, cx| match state.is_stopping {
            // Messages wait for the next program.
            true => Poll::Pending,
            false => state.poll(|sender| sender.poll_ready(cx)),
        })
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.start(&message.clone(), |sender| sender.start_send(message))
    }

    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        self.start(&message.clone(), |sender| sender.pass_on(message))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.on_sender(SENDING, cx, |state, cx| state.poll(|sender| sender.poll_flush(cx)))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.on_sender(SENDING, cx, |state, cx| {
            state.is_closing = true;
            state.poll(|sender| sender.poll_close(cx))
        })
    }

    fn unwritten(&self) -> usize {
        self.0.lock().sender.as_ref().map_or(0, |sender| sender.unwritten())
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.on_sender(SENDING, cx, |state, cx| {
            let sender = state.sender.as_mut();
            sender.map_or(Poll::Ready(()), |sender| sender.poll_acknowledged(cx))
        })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.on_sender(SENDING, cx, |state, cx| {
            state.sender.as_mut().map_or(Poll::Ready(()), |sender| sender.poll_gone(cx))
        })
    }

    fn outgoing(&self) -> Outgoing {
        self.0.lock().sender.as_ref().map_or_else(Outgoing::default, |sender| sender.outgoing())
    }
}

struct ProbedReceiver {
    receiver: Box<dyn Receiver>,
    line: Arc<Line>,
    control: Control,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    /// How many bytes had arrived when the time between two pings last passed.
    seen: u64,
    /// The stop of a program that did not answer.
    stopping: Option<BoxFuture<'static, CloseReason>>,
    end: Option<CloseReason>,
}

impl ProbedReceiver {
    /// Pings the program when it is time, or begins to stop it.
    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        while self.timer.as_mut().poll(cx).is_ready() {
            self.timer.as_mut().reset(from_now(self.interval));
            let arrived = self.control.info().bytes_in;
            let moved = std::mem::replace(&mut self.seen, arrived) != arrived;
            let is_gone = self.line.on_sender(RECEIVING, cx, |state, cx| {
                if state.is_closing {
                    return false;
                }
                match state.machine.tick(moved) {
                    Tick::Nothing => {}
                    Tick::Ping(ping) => state.ping(ping, cx),
                    Tick::Gone => state.is_stopping = true,
                }
                state.is_stopping
            });
            if is_gone {
                let pid = self.control.child();
                tracing::warn!(pid, "the program did not answer {MISSES} pings, and is stopped");
                let control = self.control.clone();
                self.stopping = Some(Box::pin(async move { control.stop().await }));
                return;
            }
        }
        self.line.on_sender(RECEIVING, cx, State::flush);
    }

    /// Stops the program. Returns how it has ended.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Some(stopping) = &mut self.stopping else { return Poll::Pending };
        self.line.on_sender(RECEIVING, cx, |state, cx| {
            let _ = state.poll(|sender| sender.poll_close(cx));
        });
        stopping.as_mut().poll(cx).map(|stopped| {
            let reason = Unresponsive { pings: MISSES, stopped };
            CloseReason::Unresponsive(Arc::new(reason))
        })
    }

    fn end(&mut self, reason: CloseReason) -> Incoming {
        // Pings are not the client's input.
        let due = self.line.lock().machine.due_bytes() as u64;
        let reason = match reason {
            CloseReason::ChildExited(exit) if exit.unread.is_some() && due > 0 => {
                let unread = exit.unread.map(|unread| unread.saturating_sub(due));
                CloseReason::ChildExited(Arc::new(ChildExit { unread, ..(*exit).clone() }))
            }
            reason => reason,
        };
        self.stopping = None;
        self.end = Some(reason.clone());
        Incoming::End(reason)
    }
}

impl Receiver for ProbedReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if let Some(reason) = &self.end {
            return Poll::Ready(Incoming::End(reason.clone()));
        }
        for _ in 0..TURN {
            match self.receiver.poll_recv(cx) {
                Poll::Ready(Incoming::Message(message)) => {
                    let message = self.line.lock().machine.received(message);
                    if let Some(message) = message {
                        return Poll::Ready(Incoming::Message(message));
                    }
                }
                Poll::Ready(Incoming::End(reason)) if self.stopping.is_none() => {
                    return Poll::Ready(self.end(reason));
                }
                Poll::Ready(Incoming::End(_)) => {
                    return self.poll_stop(cx).map(|reason| self.end(reason));
                }
                Poll::Ready(other) => {
                    self.line.lock().machine.alive();
                    return Poll::Ready(other);
                }
                Poll::Pending => {
                    if self.stopping.is_none() {
                        self.poll_timer(cx);
                    }
                    return self.poll_stop(cx).map(|reason| self.end(reason));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        self.receiver.limit_to(most)
    }

    fn holds_part(&self) -> bool {
        self.receiver.holds_part()
    }

    fn unfinished(&self) -> usize {
        self.receiver.unfinished()
    }

    fn keep_sender_open(&mut self) {
        self.receiver.keep_sender_open();
    }

    fn unread(&self) -> u64 {
        self.receiver.unread()
    }
}
