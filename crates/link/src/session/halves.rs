//! The two halves of a session, as the consumer has them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, MutexGuard, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::session::Sequence;
use tieline_transport::{
    Backing, BoxFuture, Channel, ChildExit, CloseReason, ConnectionInfo, Control, ControlBuilder,
    DynConnector, Health, Incoming, PeerIdentity, Principal, Receiver, Refused, SendError, Sender,
    SenderExt, Traffic, TransportError,
};
use tokio::task::AbortHandle;

use super::Session;
use super::core::{Core, Item};
use super::driver::Driver;
use super::shared::Shared;
use crate::shared::remember;
use crate::state::Told;
use crate::{Link, LinkOptions, State};

/// Puts a session together over the first connection that `connector` makes. `shared` waits for it.
pub(super) async fn assemble(
    shared: Arc<Shared>,
    connector: Arc<dyn DynConnector>,
) -> Result<Session, TransportError> {
    let options = LinkOptions { recovery: shared.options.recovery, is_carrier: true };
    let told = Told::first(State::Connecting { attempt: 1 });
    let link = Link::connect_as(connector, options, told).await?;
    let (of_link, states, link_shared) = (link.control().clone(), link.states(), link.shared());
    let mut capabilities = of_link.capabilities();
    capabilities.half_close = true;
    capabilities.notices_hangup = true;
    let control = ControlBuilder {
        kind: of_link.info().kind,
        endpoint: of_link.endpoint().clone().resumable(),
        peer: of_link.peer(),
        capabilities,
        profile: of_link.profile(),
        backing: Arc::new(Behind {
            shared: Arc::downgrade(&shared),
            total: shared.total.clone(),
            link: of_link.clone(),
        }),
    };
    let control = control.build();
    let (sender, receiver) = link.split();
    shared.carried(sender, (link_shared, of_link), control.clone());
    let task = tokio::spawn(Driver::new(shared.clone(), receiver)).abort_handle();
    let lifeline = Arc::new(Lifeline { shared: shared.clone(), task });
    let sender = SessionSender { shared: shared.clone(), lifeline: lifeline.clone() };
    let receiver = SessionReceiver {
        shared,
        _lifeline: lifeline,
        taken: VecDeque::new(),
        given: 0,
        last: None,
    };
    Ok(Session { sender, receiver, control, states })
}

/// The outgoing half of a [`Session`].
pub struct SessionSender {
    shared: Arc<Shared>,
    lifeline: Arc<Lifeline>,
}

impl SessionSender {
    /// [Closes](SenderExt::close) this direction, and waits until the other side has taken over all that
    /// was sent. Cancel-safe: the direction stays closed.
    ///
    /// # Errors
    /// [`SendError::Closed`]: the session has ended before; the reason may say what was delivered.
    /// [`SendError::Lost`]: an earlier session was lost with so many messages.
    pub async fn settle(&mut self) -> Result<(), SendError> {
        self.close().await?;
        poll_fn(|cx| {
            let mut core = self.shared.core();
            if core.machine.is_settled() {
                return Poll::Ready(Ok(()));
            }
            if let Some(closed) = core.closed() {
                return Poll::Ready(Err(closed));
            }
            remember(&mut core.sender, cx.waker());
            Poll::Pending
        })
        .await
    }

    fn poll_written(
        &self,
        mut core: MutexGuard<'_, Core>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        if let Some(closed) = core.closed() {
            return Poll::Ready(Err(closed));
        }
        let written = self.shared.pump(&mut core);
        match std::mem::take(&mut core.untold) {
            0 => {}
            lost => return Poll::Ready(Err(SendError::Lost(lost))),
        }
        if written.is_pending() && core.has_line() {
            remember(&mut core.sender, cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl Sender for SessionSender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut core = self.shared.core();
        if let Some(closed) = core.closed() {
            return Poll::Ready(Err(closed));
        }
        if core.is_closing {
            return Poll::Ready(Err(SendError::Closed(Box::new(CloseReason::ByUs))));
        }
        if core.machine.has_room() {
            return Poll::Ready(Ok(()));
        }
        remember(&mut core.sender, cx.waker());
        let _ = self.shared.pump(&mut core);
        Poll::Pending
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        let limit = self.shared.line.max_message;
        if message.len() > limit.bytes() {
            let error = EncodeError::Oversize { length: message.len(), limit };
            return Err(SendError::Message(Box::new(Refused { message, error })));
        }
        let mut core = self.shared.core();
        if let Some(closed) = core.closed() {
            return Err(closed);
        }
        match core.machine.send(message) {
            Some(sequence) => {
                core.timed.get_or_insert_with(|| (sequence, self.shared.now()));
                Ok(())
            }
            None => Err(SendError::Closed(Box::new(CloseReason::ByUs))),
        }
    }

    /// Ready when everything was handed to the operating system, or is kept for the next connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_written(self.shared.core(), cx)
    }

    /// Ready when everything, and that no more will come, was handed to the operating system or is kept
    /// for the next connection. [`settle`](SessionSender::settle) waits for more.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut core = self.shared.core();
        core.is_closing = true;
        core.is_closed = true;
        core.machine.end();
        if core.machine.is_settled() && core.untold == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_written(core, cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.shared.core();
        if core.end.is_some() {
            return Poll::Ready(());
        }
        remember(&mut core.sender, cx.waker());
        Poll::Pending
    }
}

impl Drop for SessionSender {
    fn drop(&mut self) {
        let waker = {
            let mut core = self.shared.core();
            core.is_closing = true;
            core.ends_soon = true;
            core.task.clone()
        };
        // With the last half all ends at once; else what was sent still leaves.
        if Arc::strong_count(&self.lifeline) > 1
            && let Some(waker) = waker
        {
            waker.wake();
        }
    }
}

/// The incoming half of a [`Session`].
pub struct SessionReceiver {
    shared: Arc<Shared>,
    _lifeline: Arc<Lifeline>,
    /// Taken out of the session's queue at once, to be given one by one.
    taken: VecDeque<Item>,
    /// The last that was given.
    given: Sequence,
    last: Option<CloseReason>,
}

impl SessionReceiver {
    /// The number of the last message, or fault in place of a message, that was given; 0 before the
    /// first. Numbers begin anew behind a [`Reset`](Incoming::Reset).
    pub fn sequence(&self) -> Sequence {
        self.given
    }

    /// To say what was taken over, where the session [commits](super::SessionConfig::commits).
    pub fn commits(&self) -> Commits {
        Commits { shared: Arc::downgrade(&self.shared) }
    }

    /// What was given is acknowledged, and what waits is taken.
    fn take_over(&mut self) {
        let mut core = self.shared.core();
        let is_present = core.generation == core.given_generation;
        if !self.shared.options.session.commits && is_present {
            let now = core.now;
            core.machine.commit(now, self.given);
        }
        if core.machine.owes(core.now) {
            let _ = self.shared.pump(&mut core);
        }
        core.take_inbound(&mut self.taken);
        let nudges = core.is_held_up || (!core.is_timed && core.machine.wake_at().is_some());
        let task = if nudges { core.task.clone() } else { None };
        drop(core);
        task.into_iter().for_each(Waker::wake);
    }
}

impl Receiver for SessionReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            match self.taken.pop_front() {
                Some(Item::Message(sequence, message)) => {
                    self.given = sequence;
                    return Poll::Ready(Incoming::Message(message));
                }
                Some(Item::Fault(sequence, fault)) => {
                    self.given = sequence;
                    return Poll::Ready(Incoming::Fault(fault));
                }
                Some(Item::Reset(reset)) => {
                    self.given = 0;
                    self.shared.core().given_generation += 1;
                    return Poll::Ready(Incoming::Reset(reset));
                }
                Some(Item::End(reason)) => {
                    self.last = Some(reason);
                    self.take_over();
                }
                None => {}
            }
            if let Some(reason) = &self.last {
                return Poll::Ready(Incoming::End(reason.clone()));
            }
            self.take_over();
            if self.taken.is_empty() {
                let mut core = self.shared.core();
                if core.inbound.is_empty() {
                    remember(&mut core.receiver, cx.waker());
                    return Poll::Pending;
                }
            }
        }
    }

    fn holds_part(&self) -> bool {
        !self.taken.is_empty() || !self.shared.core().inbound.is_empty()
    }
}

impl Drop for SessionReceiver {
    fn drop(&mut self) {
        self.take_over();
        self.taken.clear();
        self.shared.receiver_gone();
    }
}

/// Says what the consumer has taken over, where that is for it to say: then a message is acknowledged,
/// and the other side forgets it. Cheap to clone, and keeps nothing alive.
#[derive(Clone)]
pub struct Commits {
    shared: Weak<Shared>,
}

impl Commits {
    /// All messages up to this [number](SessionReceiver::sequence) were taken over. One that was not
    /// received yet counts as the last that was. Of a session that was lost nothing can be committed any
    /// more: until the receiver has given the [`Reset`](Incoming::Reset), this does nothing.
    pub fn commit(&self, sequence: Sequence) {
        let Some(shared) = self.shared.upgrade() else { return };
        let task = {
            let mut core = shared.core();
            if core.given_generation != core.generation {
                return;
            }
            let now = shared.now();
            core.now = now;
            core.machine.commit(now, sequence);
            if core.machine.owes(now) {
                let _ = shared.pump(&mut core);
            }
            if core.is_timed { None } else { core.task.clone() }
        };
        task.into_iter().for_each(Waker::wake);
    }
}

/// Held by both halves: with the last of them the session ends.
struct Lifeline {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if self.shared.leave() {
            self.task.abort();
        }
    }
}

/// What the session's control knows of it. It keeps nothing alive.
struct Behind {
    shared: Weak<Shared>,
    total: Arc<OnceLock<Traffic>>,
    link: Control,
}

impl Backing for Behind {
    fn health(&self) -> Health {
        self.link.health()
    }

    fn peer(&self) -> Option<PeerIdentity> {
        self.link.peer()
    }

    fn principal(&self) -> Option<Principal> {
        self.link.principal()
    }

    fn count(&self, info: &mut ConnectionInfo) {
        let of_link = self.link.info();
        info.last_activity = info.last_activity.max(of_link.last_activity);
        info.last_received = info.last_received.max(of_link.last_received);
        match (self.total.get(), self.shared.upgrade()) {
            (Some(total), _) => total.add_to(info),
            (None, Some(shared)) => {
                let core = shared.core();
                shared.count(&core).add_to(info);
                info.session = Some(Box::new(core.info()));
            }
            (None, None) => {}
        }
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let (shared, link) = (self.shared.clone(), self.link.clone());
        Box::pin(async move {
            if let Some(shared) = shared.upgrade() {
                shared.say_farewell("");
            }
            let exit = link.stop().await.child_exit().cloned();
            if let Some(shared) = shared.upgrade() {
                shared.finish(CloseReason::ByUs);
            }
            exit
        })
    }

    fn abort(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.finish(CloseReason::ByUs);
        }
    }
}

#[cfg(test)]
mod tests;
