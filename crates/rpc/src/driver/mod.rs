//! The future that drives a line: it reads, dispatches, writes and closes.

mod dispatch;
mod stage;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::thread;

use tieline_transport::{
    Channel, CloseReason, Control, Incoming, Receiver, Refused, Reset, SendError, Sender,
};
use tokio::time::Sleep;

use self::stage::Stage;
use crate::allowance::Allowance;
use crate::handler::Handler;
use crate::inbound::Inbound;
use crate::instead::instead_of;
use crate::peer::Peer;
use crate::shared_peer::{Outgoing, Responses, SharedPeer};

/// Drives a peer's line. Everything on the line happens while this future is polled: spawn it, or
/// await it next to the calls. It completes when the line has ended, with the reason.
///
/// Dropping it ends the line at once, and stops the child process at the other end, if there is one.
/// Pending calls fail as not sent or unknown, and running handlers are dropped.
#[must_use = "nothing happens on the line unless its driver is polled"]
pub struct Driver<C: Channel, H: Handler> {
    sender: C::Sender,
    receiver: C::Receiver,
    control: Control,
    inbound: Inbound<H>,
    shared: Arc<SharedPeer>,
    stage: Stage,
    /// Messages taken from the queue that are being sent. Empty unless that is in progress.
    taken: VecDeque<Outgoing>,
    /// Responses that have been read and not delivered yet.
    responses: Responses,
    /// The deadline while reading is stopped because too much is queued.
    overfull: Option<Pin<Box<Sleep>>>,
    /// Whether this side serves requests.
    serves: bool,
    /// Whether unreadable messages are answered, because they are assumed to come from a client. Once
    /// this side has made a call, they may be responses or stray output instead. The value does not
    /// change within a batch.
    answers_unreadable: bool,
    /// The rate limit for errors without an id.
    allowance: Allowance,
    /// Whether an invalid message has been logged.
    has_logged_invalid: bool,
}

/// No field is structurally pinned.
impl<C: Channel, H: Handler> Unpin for Driver<C, H> {}

/// How many responses are read before their callers are woken.
const MAX_RESPONSES: usize = 1024;

/// How many other messages are read before the responses to them are written.
///
/// On several cores, writing early lets the other side start on the first responses while the rest are
/// produced. On a single core, each extra write only adds a context switch. (64 calls in flight between
/// two cores: 205 k/s without a limit, 540 k/s at 16; on one core 420 k/s without a limit, 310 k/s at 32.)
static MAX_AT_ONCE: LazyLock<usize> = LazyLock::new(|| match thread::available_parallelism() {
    Ok(cores) if cores.get() > 1 => 16,
    _ => 1024,
});

impl<C: Channel, H: Handler> Driver<C, H> {
    pub(crate) fn new(channel: C, handler: H, peer: Peer, shared: Arc<SharedPeer>) -> Self {
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        let serves = handler.serves();
        let inbound = Inbound::new(handler, peer, shared.clone());
        Self {
            sender,
            receiver,
            control,
            inbound,
            shared,
            stage: Stage::Open,
            taken: VecDeque::new(),
            responses: Responses::default(),
            overfull: None,
            serves,
            answers_unreadable: serves,
            allowance: Allowance::default(),
            has_logged_invalid: false,
        }
    }

    /// Reads and dispatches incoming messages. Returns true if there may be more.
    ///
    /// Their responses are delivered together. A caller that is woken while the next response is parsed would
    /// be run by another worker at once, which would then have to be woken again for the next one.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> bool {
        let may_be_more = self.poll_messages(cx);
        self.shared.deliver(&mut self.responses);
        may_be_more
    }

    fn poll_messages(&mut self, cx: &mut Context<'_>) -> bool {
        let mut others = 0;
        while others < *MAX_AT_ONCE && self.responses.len() < MAX_RESPONSES {
            let responses = self.responses.len();
            if !matches!(self.stage, Stage::Open | Stage::Closing(_)) || self.is_overfull(cx) {
                return false;
            }
            match self.receiver.poll_recv(cx) {
                Poll::Ready(Incoming::Message(message)) => self.message(message, cx),
                Poll::Ready(other) => {
                    // Responses that were read before it come first.
                    self.shared.deliver(&mut self.responses);
                    match other {
                        Incoming::Fault(fault) => self.fault(&fault),
                        Incoming::Reset(reset) => self.reset(*reset, cx),
                        Incoming::End(reason) => self.no_more(reason),
                        _ => {}
                    }
                }
                Poll::Pending => {
                    self.shared.note_unfinished(self.receiver.unfinished());
                    return false;
                }
            }
            others += usize::from(self.responses.len() == responses);
        }
        true
    }

    /// Checks whether reading has to stop because too many notifications are queued or the other side does
    /// not read the errors sent to it. If this lasts longer than the grace period, the line ends.
    ///
    /// Responses to requests that were carried out do not count. Two sides that each wait for the other to
    /// read would deadlock; instead, no further requests are started until those responses are sent.
    fn is_overfull(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.inbound.is_full() && !self.shared.is_flooded() {
            self.overfull = None;
            return false;
        }
        let patience = self.shared.options.grace;
        let deadline = self.overfull.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if deadline.as_mut().poll(cx).is_ready() {
            let reading =
                if self.inbound.is_full() { CloseReason::Overrun } else { CloseReason::Stalled };
            self.stop(reading);
        }
        true
    }

    /// Writes queued messages. Returns true once all of them were handed to the operating system.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> bool {
        while self.shared.take_outgoing(&mut self.taken) {
            let mut sent = 0;
            let stopped = self.poll_send(cx, &mut sent);
            if !self.taken.is_empty() {
                self.shared.put_back(&mut self.taken);
            }
            self.shared.free(sent);
            match stopped {
                None => {}
                Some(Poll::Pending) => return false,
                Some(Poll::Ready(error)) => return self.cannot_send(error),
            }
        }
        match self.sender.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => self.cannot_send(error),
            Poll::Pending => false,
        }
    }

    /// Hands the messages taken from the queue to the sender, and adds up their weights. Returns why it
    /// stopped, if it did before the last one: there is no room, or the line has ended.
    fn poll_send(&mut self, cx: &mut Context<'_>, sent: &mut usize) -> Option<Poll<SendError>> {
        while !self.taken.is_empty() {
            match self.sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Some(Poll::Ready(error)),
                Poll::Pending => return Some(Poll::Pending),
            }
            let Outgoing { message, call, weight, .. } = self.taken.pop_front()?;
            *sent += weight;
            match self.sender.start_send(message) {
                Ok(()) => {}
                Err(SendError::Message(refused)) => match call {
                    Some(call) => self.shared.refused(call, refused.error),
                    None => self.refused(&refused),
                },
                Err(error) => return Some(Poll::Ready(error)),
            }
        }
        None
    }

    /// Replaces a response that the line cannot carry with an error.
    fn refused(&mut self, refused: &Refused) {
        let Refused { message, error } = refused;
        tracing::warn!("message not sent: {error}");
        for answer in instead_of(message, error, &self.shared.options.dialect) {
            if self.sender.start_send(answer.into()).is_ok() {
                return;
            }
        }
    }

    /// Handles the end of the write direction: the other side no longer reads. Messages that it still
    /// sends may say why.
    fn cannot_send(&mut self, error: SendError) -> bool {
        let SendError::Closed(reason) = error else { return true };
        self.stop(*reason);
        true
    }

    /// Switches to the line that replaces one that was lost.
    fn reset(&mut self, reset: Reset, cx: &mut Context<'_>) {
        self.shared.reset(reset.epoch, &reset.cause);
        self.inbound.reset(reset);
        self.inbound.poll(cx);
    }
}

impl<C: Channel, H: Handler> Future for Driver<C, H> {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = &mut *self;
        loop {
            if let Stage::Ended(reason) = &this.stage {
                return Poll::Ready(reason.clone());
            }
            let mut goes_on = this.poll_incoming(cx);
            this.inbound.poll(cx);
            let is_flushed = this.poll_outgoing(cx);
            goes_on |= this.inbound.can_resume();
            goes_on |= this.poll_stage(cx, is_flushed);
            // Resume reading if there is room again.
            goes_on |= this.overfull.is_some() && !this.is_overfull(cx);
            // A change made while the driver was awake did not wake it: check before sleeping.
            if !goes_on && this.shared.sleep(cx.waker()).is_ok() {
                return Poll::Pending;
            }
            ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
        }
    }
}

impl<C: Channel, H: Handler> Drop for Driver<C, H> {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Ended(_)) {
            self.shared.end(CloseReason::ByUs);
        }
    }
}
