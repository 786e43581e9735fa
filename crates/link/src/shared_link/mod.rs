//! The state shared by the halves of a link and its control: the current line, and how the link ended.
//!
//! Locks are taken in the order `receiving`, `sending`, `life`. No task is woken while `life` is locked.

mod receiving;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::Waker;

use crate::lock::{lock, remember};
use crate::state::{LineState, StatePublisher};
use tieline_transport::{
    Backing, BoxFuture, ChildExit, CloseReason, ConnectionInfo, Control, DynConnector, Health,
    PeerIdentity, Principal, Sender, Traffic,
};

pub use self::receiving::RESTARTS;
pub(crate) use self::receiving::Receiving;

pub(crate) struct SharedLink {
    pub(crate) connector: Arc<dyn DynConnector>,
    publisher: StatePublisher,
    pub(crate) sending: Mutex<Sending>,
    pub(crate) receiving: Mutex<Receiving>,
    /// The sender has failed, and the receiver has not received the end of the line yet.
    pub(crate) is_broken: AtomicBool,
    /// A session has made progress over the current line, so the waits start over if the line is lost.
    pub(crate) is_well: AtomicBool,
    /// The receiver returns messages that are available, but does not wait for more.
    pub(crate) is_hung_up: AtomicBool,
    pub(crate) control: OnceLock<Control>,
    life: Mutex<Life>,
}

/// The outgoing half of the current line.
#[derive(Default)]
pub(crate) struct Sending {
    pub(crate) line: Option<Box<dyn Sender>>,
    /// No more messages are accepted.
    pub(crate) is_closing: bool,
    /// The number of messages that the line has accepted since the last flush.
    pub(crate) unflushed: u64,
    /// The number of messages lost with a line, to be reported by the next reset.
    lost: u64,
    /// How many of the lost messages the sender has not reported yet.
    pub(crate) unreported: u64,
    /// How many bytes were not written when the last line was removed, plus those of messages accepted since.
    /// Reset when the next line is installed.
    pub(crate) unwritten: usize,
}

impl Sending {
    /// Removes the line. Messages that it may not have written are counted as lost.
    pub(crate) fn take(&mut self) -> Option<Box<dyn Sender>> {
        let unflushed = std::mem::take(&mut self.unflushed);
        self.lose(unflushed);
        let line = self.line.take();
        self.unwritten += line.as_ref().map_or(0, Sender::unwritten);
        line
    }

    pub(crate) fn lose(&mut self, messages: u64) {
        self.lost += messages;
        self.unreported += messages;
    }
}

/// The state of the link's life cycle.
#[derive(Default)]
struct Life {
    line: Option<Control>,
    /// The traffic of earlier lines.
    earlier: Traffic,
    /// Why the sender failed, if it was the first to notice.
    failure: Option<CloseReason>,
    /// How the line before the current one ended.
    last_end: Option<CloseReason>,
    /// The link no longer reconnects.
    is_leaving: bool,
    is_receiver_gone: bool,
    end: Option<CloseReason>,
    sender: Option<Waker>,
    receiver: Option<Waker>,
    /// Something has changed since the receiver was last polled.
    is_news: bool,
}

impl SharedLink {
    pub(crate) fn new(
        connector: Arc<dyn DynConnector>,
        publisher: StatePublisher,
        sender: Box<dyn Sender>,
        receiving: Receiving,
        line: Control,
    ) -> Self {
        let sending = Sending { line: Some(sender), ..Sending::default() };
        Self {
            connector,
            publisher,
            sending: Mutex::new(sending),
            receiving: Mutex::new(receiving),
            is_broken: AtomicBool::new(false),
            is_well: AtomicBool::new(false),
            is_hung_up: AtomicBool::new(false),
            control: OnceLock::new(),
            life: Mutex::new(Life { line: Some(line), ..Life::default() }),
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        lock(&self.life)
    }

    pub(crate) fn publisher(&self) -> &StatePublisher {
        &self.publisher
    }

    pub(crate) fn end(&self) -> Option<CloseReason> {
        self.life().end.clone()
    }

    /// Returns the control of the current line.
    pub(crate) fn line(&self) -> Option<Control> {
        self.life().line.clone()
    }

    /// Returns how the line before the current one ended.
    pub(crate) fn last_end(&self) -> Option<CloseReason> {
        self.life().last_end.clone()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.life().is_leaving
    }

    /// Handles the failure of `sending`'s line: removes it and notifies the receiver.
    pub(crate) fn broken(&self, sending: &mut Sending, reason: CloseReason) {
        drop(sending.take());
        let is_unread = {
            let mut life = self.life();
            life.failure = Some(reason.clone());
            life.is_receiver_gone
        };
        self.is_broken.store(true, Ordering::Release);
        if is_unread { self.finish(reason) } else { self.wake(false) }
    }

    /// Gives up the current line for a reason on this side.
    pub(crate) fn give_up_line(&self, reason: CloseReason) {
        let mut sending = lock(&self.sending);
        if sending.line.is_some() {
            self.broken(&mut sending, reason);
        }
    }

    /// Registers the sender's task, to be woken by a new line and by the end.
    pub(crate) fn register_sender(&self, waker: &Waker) {
        remember(&mut self.life().sender, waker);
    }

    /// Registers the receiver's task, to be woken by any change. Returns false if something has changed
    /// since the last call.
    pub(crate) fn register_receiver(&self, waker: &Waker) -> bool {
        let mut life = self.life();
        remember(&mut life.receiver, waker);
        !std::mem::take(&mut life.is_news)
    }

    /// Wakes the receiver, and with `both` also the sender.
    fn wake(&self, both: bool) {
        let (receiver, sender) = {
            let mut life = self.life();
            life.is_news = true;
            let sender = if both { life.sender.take() } else { None };
            (life.receiver.take(), sender)
        };
        receiver.into_iter().chain(sender).for_each(Waker::wake);
    }

    /// Removes the current line.
    pub(crate) fn uninstall(&self) -> Option<Box<dyn Sender>> {
        let (line, waiting) = {
            let mut sending = lock(&self.sending);
            let mut life = self.life();
            if let Some(line) = life.line.take() {
                life.earlier.add(&line.info());
            }
            (sending.take(), life.sender.take())
        };
        // A waiting flush has nothing left to wait for, and reports the lost messages.
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        line
    }

    /// Returns why the current line has ended. Combines the reasons that the two halves have noticed.
    pub(crate) fn cause(&self, reason: CloseReason) -> CloseReason {
        let mut life = self.life();
        let cause = match (life.failure.clone(), reason) {
            // The line was stopped because the sender had failed.
            (Some(failure), CloseReason::ByUs) => failure,
            (_, reason) => reason,
        };
        life.last_end = Some(cause.clone());
        cause
    }

    /// Installs the next line. Returns how many messages were lost with the previous ones, or `None` if the
    /// link is ending.
    pub(crate) fn install(&self, sender: Box<dyn Sender>, line: Control) -> Option<u64> {
        let lost = {
            let mut sending = lock(&self.sending);
            let mut life = self.life();
            if life.is_leaving || life.end.is_some() {
                return None;
            }
            life.line = Some(line);
            life.failure = None;
            self.is_broken.store(false, Ordering::Release);
            sending.line = Some(sender);
            // The reset reports these messages.
            sending.unwritten = 0;
            std::mem::take(&mut sending.lost)
        };
        self.wake(true);
        Some(lost)
    }

    /// Publishes a state, unless the link has ended or is ending.
    pub(crate) fn publish(&self, state: LineState) {
        let life = self.life();
        if life.end.is_none() && !life.is_leaving {
            self.publisher.publish(state);
        }
    }

    /// Stops reconnecting. Returns the current line, which must still be ended.
    pub(crate) fn leave(&self) -> Option<Control> {
        let is_first = {
            let mut life = self.life();
            let is_first = !std::mem::replace(&mut life.is_leaving, true);
            if is_first && life.end.is_none() {
                self.publisher.publish(LineState::Draining);
            }
            is_first
        };
        // Without a line there is no end to wait for. The link ends for the reason of the last loss,
        // which is the last thing known about the peer.
        let cause = if is_first { lock(&self.receiving).cut_if_away() } else { None };
        if let Some(cause) = cause {
            self.finish(cause);
        }
        self.life().line.clone()
    }

    /// Ends the link. The first reason is kept.
    pub(crate) fn finish(&self, reason: CloseReason) {
        let reason = match self.control.get() {
            Some(control) => control.end(reason),
            None => reason,
        };
        {
            let mut life = self.life();
            if life.end.is_none() {
                life.end = Some(reason.clone());
                let by_us = life.is_leaving;
                self.publisher.publish(LineState::Closed { by_us, reason });
            }
        }
        self.wake(true);
    }

    /// Stops sending. The receiver returns messages that are available, but does not wait for more.
    pub(crate) fn hang_up(&self) {
        self.is_hung_up.store(true, Ordering::Release);
        let sender = lock(&self.sending).take();
        drop(sender);
        self.wake(true);
    }

    /// Ends everything at once.
    pub(crate) fn abort(&self) {
        let line = {
            let mut life = self.life();
            life.is_leaving |= life.end.is_none();
            life.line.clone()
        };
        if let Some(line) = line {
            line.abort();
        }
        let receiver = lock(&self.receiving).cut();
        let sender = lock(&self.sending).take();
        drop((receiver, sender));
        self.finish(CloseReason::ByUs);
    }

    /// Handles the drop of the receiver. The sender may continue as long as its line lasts.
    pub(crate) fn receiver_gone(&self) {
        self.life().is_receiver_gone = true;
        self.leave();
        drop(lock(&self.receiving).cut());
        if lock(&self.sending).line.is_none() {
            self.finish(CloseReason::ByUs);
        }
    }
}

impl Drop for SharedLink {
    fn drop(&mut self) {
        self.life().is_leaving = true;
        self.finish(CloseReason::ByUs);
    }
}

/// The backing of the link's control. It does not keep the link alive.
pub(crate) struct LinkBacking(pub(crate) Weak<SharedLink>);

impl LinkBacking {
    fn line(&self) -> Option<Control> {
        self.0.upgrade()?.life().line.clone()
    }
}

impl Backing for LinkBacking {
    fn health(&self) -> Health {
        self.line().map_or(Health::Down, |line| line.health())
    }

    fn peer(&self) -> Option<PeerIdentity> {
        self.line()?.peer()
    }

    fn principal(&self) -> Option<Principal> {
        self.line()?.principal()
    }

    fn child(&self) -> Option<u32> {
        self.line()?.child()
    }

    fn is_stopped(&self) -> bool {
        self.line().is_some_and(|line| line.is_child_stopped())
    }

    fn count(&self, info: &mut ConnectionInfo) {
        let Some(shared) = self.0.upgrade() else { return };
        let life = shared.life();
        let mut totals = life.earlier;
        if let Some(line) = &life.line {
            let line = line.info();
            totals.add(&line);
            info.last_activity = info.last_activity.max(line.last_activity);
            info.last_received = info.last_received.max(line.last_received);
            info.session = line.session;
        }
        totals.add_to(info);
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let link = self.0.clone();
        Box::pin(async move {
            let line = link.upgrade()?.leave()?;
            let reason = line.stop().await;
            let exit = reason.child_exit().cloned();
            if let Some(shared) = link.upgrade() {
                shared.finish(reason);
            }
            exit
        })
    }

    fn abort(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.abort();
        }
    }
}
