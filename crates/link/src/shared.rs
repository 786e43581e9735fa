//! What the halves of a link and its control share: the line of the moment, and how it all ended.
//!
//! Locks are taken in this order: `receiving`, `sending`, `life`. Nothing is woken under `life`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::Waker;

use crate::State;
use crate::receiver::Receiving;
use crate::state::StatePublisher;
use tieline_transport::{
    Backing, BoxFuture, ChildExit, CloseReason, ConnectionInfo, Control, DynConnector, Health,
    PeerIdentity, Principal, Sender, Traffic,
};

pub(crate) struct Shared {
    pub(crate) connector: Arc<dyn DynConnector>,
    told: StatePublisher,
    pub(crate) sending: Mutex<Sending>,
    pub(crate) receiving: Mutex<Receiving>,
    /// The sender has found the line broken, and the receiver has not seen its end.
    pub(crate) is_broken: AtomicBool,
    /// A session has come on over the line of the moment: if that is lost, the wait begins anew.
    pub(crate) is_well: AtomicBool,
    /// Nothing more is waited for, only taken if it is there.
    pub(crate) is_hung_up: AtomicBool,
    pub(crate) control: OnceLock<Control>,
    life: Mutex<Life>,
}

/// The outgoing half of the line of the moment.
#[derive(Default)]
pub(crate) struct Sending {
    pub(crate) line: Option<Box<dyn Sender>>,
    /// Nothing more is taken.
    pub(crate) is_closing: bool,
    /// Messages that the line has taken since it was last flushed.
    pub(crate) unflushed: u64,
    /// Messages that were lost with a line, for the next reset to tell.
    lost: u64,
    /// Those of them that the sender is yet to tell.
    pub(crate) untold: u64,
}

impl Sending {
    /// Takes the line away; what it may not have written is lost.
    pub(crate) fn take(&mut self) -> Option<Box<dyn Sender>> {
        let unflushed = std::mem::take(&mut self.unflushed);
        self.lose(unflushed);
        self.line.take()
    }

    pub(crate) fn lose(&mut self, messages: u64) {
        self.lost += messages;
        self.untold += messages;
    }
}

/// Where the link stands.
#[derive(Default)]
struct Life {
    line: Option<Control>,
    /// What went over the lines before.
    earlier: Traffic,
    /// Why the sender could not go on, if it was the first to know.
    failure: Option<CloseReason>,
    /// How the last line before that of the moment has ended.
    last_end: Option<CloseReason>,
    /// It does not come back from here on.
    is_leaving: bool,
    is_receiver_gone: bool,
    end: Option<CloseReason>,
    sender: Option<Waker>,
    receiver: Option<Waker>,
    /// Something has changed that the receiver has not looked at.
    is_news: bool,
}

impl Shared {
    pub(crate) fn new(
        connector: Arc<dyn DynConnector>,
        told: StatePublisher,
        sender: Box<dyn Sender>,
        receiving: Receiving,
        line: Control,
    ) -> Self {
        let sending = Sending { line: Some(sender), ..Sending::default() };
        Self {
            connector,
            told,
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

    pub(crate) fn told(&self) -> &StatePublisher {
        &self.told
    }

    pub(crate) fn end(&self) -> Option<CloseReason> {
        self.life().end.clone()
    }

    /// The line of the moment.
    pub(crate) fn line(&self) -> Option<Control> {
        self.life().line.clone()
    }

    /// How the last line before that of the moment has ended.
    pub(crate) fn last_end(&self) -> Option<CloseReason> {
        self.life().last_end.clone()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.life().is_leaving
    }

    /// `sending`'s line has failed. It is taken away, and the receiver is told.
    pub(crate) fn broken(&self, sending: &mut Sending, reason: CloseReason) {
        drop(sending.take());
        let nobody_reads = {
            let mut life = self.life();
            life.failure = Some(reason.clone());
            life.is_receiver_gone
        };
        self.is_broken.store(true, Ordering::Release);
        if nobody_reads { self.finish(reason) } else { self.wake(false) }
    }

    /// The line of the moment is given up, for a reason that only this side knows.
    pub(crate) fn give_up_line(&self, reason: CloseReason) {
        let mut sending = lock(&self.sending);
        if sending.line.is_some() {
            self.broken(&mut sending, reason);
        }
    }

    /// The sender is woken by a new line and by the end.
    pub(crate) fn register_sender(&self, waker: &Waker) {
        remember(&mut self.life().sender, waker);
    }

    /// The receiver is woken by whatever concerns it. False if something has changed since it last
    /// asked.
    pub(crate) fn register_receiver(&self, waker: &Waker) -> bool {
        let mut life = self.life();
        remember(&mut life.receiver, waker);
        !std::mem::take(&mut life.is_news)
    }

    /// Wakes the receiver, and the sender if it concerns both.
    fn wake(&self, both: bool) {
        let (receiver, sender) = {
            let mut life = self.life();
            life.is_news = true;
            let sender = if both { life.sender.take() } else { None };
            (life.receiver.take(), sender)
        };
        receiver.into_iter().chain(sender).for_each(Waker::wake);
    }

    /// The line of the moment is done with.
    pub(crate) fn uninstall(&self) -> Option<Box<dyn Sender>> {
        let (line, waiting) = {
            let mut sending = lock(&self.sending);
            let mut life = self.life();
            if let Some(line) = life.line.take() {
                life.earlier.add(&line.info());
            }
            (sending.take(), life.sender.take())
        };
        // Who flushes has nothing to wait for any more, and is told what was lost.
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        line
    }

    /// Why the line of the moment has ended, as far as both halves know.
    pub(crate) fn cause(&self, reason: CloseReason) -> CloseReason {
        let mut life = self.life();
        let cause = match (life.failure.clone(), reason) {
            // It ended because it was stopped, as it took no more.
            (Some(failure), CloseReason::ByUs) => failure,
            (_, reason) => reason,
        };
        life.last_end = Some(cause.clone());
        cause
    }

    /// There is a line again, in place of one under which so many messages were lost. `None`: it is
    /// not wanted any more.
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
            std::mem::take(&mut sending.lost)
        };
        self.wake(true);
        Some(lost)
    }

    /// Nothing is told behind the end, nor that anything is hoped for on the way to it.
    pub(crate) fn publish(&self, state: State) {
        let life = self.life();
        if life.end.is_none() && !life.is_leaving {
            self.told.tell(state);
        }
    }

    /// This side wants no other line. Gives the one there is, which is still to end.
    pub(crate) fn leave(&self) -> Option<Control> {
        let is_first = {
            let mut life = self.life();
            let is_first = !std::mem::replace(&mut life.is_leaving, true);
            if is_first && life.end.is_none() {
                self.told.tell(State::Draining);
            }
            is_first
        };
        // What is on its way to a new line has no end of its own to wait for.
        // How the last one was lost is the last that is known of the other side.
        let cause = if is_first { lock(&self.receiving).cut_if_away() } else { None };
        if let Some(cause) = cause {
            self.finish(cause);
        }
        self.life().line.clone()
    }

    /// The link has ended; the first reason stays.
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
                self.told.tell(State::Closed { by_us, reason });
            }
        }
        self.wake(true);
    }

    /// Sends no more, and takes what has come in, without waiting for more.
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

    /// The receiver's half was dropped. The sender may go on for as long as its line does.
    pub(crate) fn receiver_gone(&self) {
        self.life().is_receiver_gone = true;
        self.leave();
        drop(lock(&self.receiving).cut());
        if lock(&self.sending).line.is_none() {
            self.finish(CloseReason::ByUs);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.life().is_leaving = true;
        self.finish(CloseReason::ByUs);
    }
}

/// What the link's control knows of it. It keeps nothing alive.
pub(crate) struct Behind(pub(crate) Weak<Shared>);

impl Behind {
    fn line(&self) -> Option<Control> {
        self.0.upgrade()?.life().line.clone()
    }
}

impl Backing for Behind {
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

/// Whoever waits in this place is woken by this, from now on.
pub(crate) fn remember(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        none => *none = Some(waker.clone()),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
