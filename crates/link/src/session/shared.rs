//! What the halves of a session, its task and its handshakes share.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tieline_proto::session::{
    Delivered, Farewell, Frame, Hello, Refusal, Sequence, Session as Machine, Ticket, Welcome,
};
use tieline_proto::{BackoffConfig, FrameError, Heartbeat, HeartbeatEvent};
use tieline_transport::{
    Account, CloseReason, Control, Endpoint, Holding, LostBy, Outgoing, Reset, SendError, Sender,
    Traffic,
};
use tokio::time::Instant;

use super::core::{Core, Item, Looked, Role, machine};
use super::intake::Intake;
use super::{LineOptions, SessionOptions};
use crate::shared::{Shared as LinkShared, lock, remember};
use crate::{LinkReceiver, LinkSender, Recovery};

pub(super) struct Shared {
    intake: Mutex<Intake>,
    core: Mutex<Core>,
    begun: Instant,
    pub(super) options: SessionOptions,
    pub(super) line: LineOptions,
    /// Set once the first connection is there.
    link: OnceLock<Arc<LinkShared>>,
    of_link: OnceLock<Control>,
    control: OnceLock<Control>,
    /// What was counted, once it is over.
    pub(super) total: Arc<OnceLock<Traffic>>,
}

impl Shared {
    pub(super) fn new(role: Role, options: SessionOptions, line: LineOptions) -> Self {
        let mut core = Core::new(role, &options);
        core.account = Account::of(line.memory.as_ref(), Holding::Queue);
        Self {
            intake: Mutex::new(Intake::new()),
            core: Mutex::new(core),
            begun: Instant::now(),
            options,
            line,
            link: OnceLock::new(),
            of_link: OnceLock::new(),
            control: OnceLock::new(),
            total: Arc::default(),
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// Taken before `core`.
    pub(super) fn intake(&self) -> MutexGuard<'_, Intake> {
        lock(&self.intake)
    }

    pub(super) fn try_intake(&self) -> Option<MutexGuard<'_, Intake>> {
        match self.intake.try_lock() {
            Ok(intake) => Some(intake),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// The Link is there that carries the session.
    pub(super) fn carried(
        &self,
        (sender, receiver): (LinkSender, LinkReceiver),
        link: (Arc<LinkShared>, Control),
        control: Control,
    ) {
        let _ = self.link.set(link.0);
        let _ = self.of_link.set(link.1);
        let _ = self.control.set(control);
        self.intake().carried(receiver);
        self.core().line = Some(sender);
    }

    /// Whether the other side may be on another machine, which did not sleep when this one did.
    pub(super) fn is_remote(&self) -> bool {
        let elsewhere = Recovery::Reconnect(BackoffConfig::REMOTE);
        self.of_link.get().is_some_and(|link| Recovery::suiting(&link.info()) == elsewhere)
    }

    pub(super) fn link(&self) -> Option<&Arc<LinkShared>> {
        self.link.get()
    }

    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.control.get().map(Control::endpoint)
    }

    /// The client's greeting, and whether it is to resume a session.
    pub(super) fn greeting(&self) -> (Hello, bool) {
        let core = self.core();
        match &core.role {
            Role::Client(Some(ticket)) => (ticket.present(core.machine.position()), true),
            _ => (Ticket::ask(), false),
        }
    }

    /// The server has granted the session. What the other side lacks leaves on the connection that it
    /// came over.
    pub(super) fn welcomed(&self, welcome: &Welcome) -> Result<(), CloseReason> {
        let mut core = self.core();
        let Core { machine, role, .. } = &mut *core;
        let Role::Client(ticket) = role else { return Err(CloseReason::ByUs) };
        let granted = match ticket {
            Some(ticket) => match machine.check(welcome.position) {
                Ok(()) => ticket.renewed(welcome),
                Err(refusal) => return Err(core.lost(LostBy::Refused(refusal, String::new()))),
            },
            None => Ticket::granted(welcome).map(|granted| *ticket = Some(granted)),
        };
        if let Err(violation) = granted {
            return Err(core.lost(LostBy::Violation(violation)));
        }
        // It was checked.
        let _ = core.machine.resume(welcome.position);
        self.resumed(&mut core, welcome.position.received);
        Ok(())
    }

    /// The session cannot be resumed. Whether another is to be asked for: not if this one was about to
    /// end.
    pub(super) fn forget(&self, refusal: Refusal, text: String) -> bool {
        let mut core = self.core();
        let cause = core.lost(LostBy::Refused(refusal, text));
        let Delivered { acknowledged, sent } = core.machine.delivered();
        let lost = sent - acknowledged;
        if core.is_closing || core.has_peer_ended {
            // Nothing was left to be said but that this had been heard.
            let is_well = lost == 0 && core.is_closing && core.has_peer_ended;
            core.doom = Some(if is_well { CloseReason::ByPeer } else { cause });
            return false;
        }
        core.counted.messages_out += sent;
        core.counted.messages_in += core.machine.position().received;
        core.machine = machine(&self.options);
        core.timed = None;
        core.role = Role::Client(None);
        core.generation += 1;
        core.untold += lost;
        let before = core.reset.take().map_or(0, |(lost, _)| lost);
        core.reset = Some((before + lost, cause));
        true
    }

    /// The session is over; the first reason stays. The Link that carries it ends, too.
    pub(super) fn finish(&self, reason: CloseReason) {
        let (wakers, reason, line) = {
            let mut core = self.core();
            if core.end.is_some() {
                return;
            }
            let reason = self.control.get().map_or(reason.clone(), |control| control.end(reason));
            core.end = Some(reason.clone());
            let _ = self.total.set(self.count(&core));
            if !core.has_peer_ended {
                core.push(Item::End(reason.clone()));
            }
            let (is_over, position) = (core.is_over(), core.machine.position());
            if let Role::Server(server) = &core.role {
                server.over(is_over.then_some(position));
            }
            let halves = [core.sender.take(), core.gone.take(), core.receiver.take()];
            let wakers = halves.into_iter().chain([core.task.take()]);
            (wakers, reason, core.line.take())
        };
        if let Some(link) = self.link.get() {
            if let CloseReason::ByUs = reason {
                link.leave();
            }
            link.finish(reason);
            link.abort();
        }
        drop(line);
        wakers.flatten().for_each(Waker::wake);
    }

    /// Both halves were dropped. What was closed before lives on until the other side has it all, for
    /// as long as the other side would be waited for; else it ends at once. False if it lives on.
    pub(super) fn leave(&self) -> bool {
        {
            let mut core = self.core();
            if core.is_closed && !core.machine.is_settled() && core.end.is_none() {
                core.lingers_until = Some(self.now().saturating_add(self.options.grace));
                if let Some(task) = &core.task {
                    task.wake_by_ref();
                }
                return false;
            }
        }
        self.say_why();
        self.finish(CloseReason::ByUs);
        true
    }

    /// Tells the other side that the session is over and why, as [`say_farewell`](Self::say_farewell).
    pub(super) fn say_why(&self) {
        let reason = self.control.get().and_then(Control::farewell);
        self.say_farewell(&reason.as_ref().map_or(Cow::Borrowed(""), words));
    }

    /// Tells the other side that the session is over, if that needs no waiting.
    pub(super) fn say_farewell(&self, text: &str) {
        let mut core = self.core();
        // What came and was not taken over goes with the session: the other side is to know.
        let received = core.machine.position().acknowledged;
        let _ = self.pump(&mut core);
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(line) = &mut core.line
            && let Poll::Ready(Ok(())) = line.poll_ready(&mut cx)
        {
            let farewell = Farewell { received, text: text.to_owned() };
            let _ = line.start_send(Frame::Bye(farewell).to_bytes());
            let _ = line.poll_flush(&mut cx);
        }
    }

    /// The task has come by, and wants to be woken.
    pub(super) fn register_task(&self, core: &mut Core, waker: &Waker) {
        core.now = self.now();
        remember(&mut core.task, waker);
    }

    /// The other side is asked for a sign of life when it has long been silent, or, if it may be on another
    /// machine, when this one has slept; its connection is given up when none came.
    pub(super) fn listen_for_life(&self, core: &mut Core, wall: Option<Duration>) {
        if wall.is_some_and(|wall| core.slept.look(core.now, wall)) {
            core.heartbeat.probe_now();
        }
        if core.has_line() && core.heartbeat.next_wake() <= core.now {
            self.look_at_line(core);
        }
        while core.has_line()
            && let Some(beat) = core.heartbeat.poll(core.now)
        {
            match beat {
                HeartbeatEvent::Ping => core.machine.ping(core.lines),
                HeartbeatEvent::Down => self.fence(core, CloseReason::TimedOut),
                _ => {}
            }
        }
    }

    /// A frame may be long: what counts are the bytes of the connection of the moment, both ways.
    fn look_at_line(&self, core: &mut Core) {
        let Some(line) = self.link().and_then(|link| link.line()) else { return };
        let (info, now) = (line.info(), core.now);
        let outgoing = core.line.as_ref().map_or_else(Outgoing::default, |line| line.outgoing());
        core.heartbeat.sending(now, outgoing.left, outgoing.waiting);
        let next = Looked { at: now, bytes_in: info.bytes_in, has_frames: false };
        let looked = std::mem::replace(&mut core.looked, next);
        let has_come = info.bytes_in != looked.bytes_in;
        core.heartbeat.receiving(has_come && !looked.has_frames);
        if has_come {
            // A line that does not know when bytes came says too much.
            let came = now.saturating_sub(info.last_received.elapsed()).max(looked.at);
            core.heartbeat.alive(came);
        }
    }

    /// Writes what the machine has for the connection there is. Ready when nothing is left to be
    /// written. It is the task that is woken to go on: whoever sends may give up.
    pub(super) fn pump(&self, core: &mut Core) -> Poll<()> {
        if core.is_undeliverable {
            return Poll::Ready(());
        }
        let Core { machine, line, task, now, .. } = core;
        let (Some(line), Some(task)) = (line, task) else { return Poll::Pending };
        let mut cx = Context::from_waker(task);
        let mut is_lost = false;
        let polled = line.poll_line(&mut cx, |line, cx| {
            let written = write(line, machine, *now, cx);
            is_lost = matches!(written, Poll::Ready(Err(_)));
            written
        });
        if is_lost {
            machine.unsaid();
        }
        polled
    }

    /// What has gone over all connections.
    pub(super) fn count(&self, core: &Core) -> Traffic {
        let mut counted = core.count();
        if let Some(link) = self.of_link.get() {
            let link = link.info();
            (counted.bytes_in, counted.bytes_out) = (link.bytes_in, link.bytes_out);
        }
        counted
    }

    /// There is a connection, and the machine knows where the other side stands.
    /// `received` by the other side are all up to this one.
    pub(super) fn resumed(&self, core: &mut Core, received: Sequence) {
        core.now = self.now();
        let last = self.link().and_then(|link| link.last_end());
        if let Some(reason) = core.is_tried_in_vain(received, self.options.max_tries, last) {
            core.doom.get_or_insert(reason);
        }
        core.lines += 1;
        core.is_fenced = false;
        core.heartbeat = Heartbeat::new(self.options.heartbeat, self.now());
        core.looked = Looked { at: self.now(), ..Looked::default() };
        self.note_progress(core);
        if let Some((lost, cause)) = core.reset.take() {
            let reset = Reset { epoch: core.lines, lost, cause };
            core.push(Item::Reset(Box::new(reset)));
        }
    }

    /// The receiver was dropped.
    pub(super) fn receiver_gone(&self) {
        let waker = {
            let mut core = self.core();
            core.is_receiver_gone = true;
            core.inbound.clear();
            core.inbound_bytes = 0;
            core.lent_until = None;
            core.task.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The connection of the moment has been overtaken by another, or is dead. The one that follows is
    /// granted under the same lock, so it is not this that is given up in its place.
    pub(super) fn fence(&self, core: &mut Core, reason: CloseReason) {
        core.is_fenced = true;
        if let Some(link) = self.link.get() {
            link.give_up_line(reason);
        }
        if let Some(task) = &core.task {
            task.wake_by_ref();
        }
    }
}

/// Writes what the machine has for this connection.
fn write(
    line: &mut dyn Sender,
    machine: &mut Machine,
    now: Duration,
    cx: &mut Context<'_>,
) -> Poll<Result<(), SendError>> {
    loop {
        ready!(line.poll_ready(cx))?;
        let Some((head, message)) = machine.next_encoded(now) else { break };
        line.start_send_behind(&head, message)?;
    }
    line.poll_flush(cx)
}

/// What the other side is told of why the session ends. Paths, words of programs and the like are this
/// side's own.
fn words(reason: &CloseReason) -> Cow<'static, str> {
    Cow::Borrowed(match reason {
        reason if reason.is_clean() => "",
        CloseReason::Overrun => "there are too many already; try again later",
        CloseReason::Unreachable(_) => "what is behind it cannot be reached",
        CloseReason::ChildExited(_) => "the program has failed",
        CloseReason::Protocol(error @ FrameError::FirstNotJson) => {
            return Cow::Owned(error.to_string());
        }
        CloseReason::NotPassedOn(message) => return Cow::Owned(message.to_string()),
        _ => "",
    })
}

impl Drop for Shared {
    fn drop(&mut self) {
        let core = self.core.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let (Role::Server(server), None) = (&core.role, &core.end) {
            server.over(None);
        }
    }
}
