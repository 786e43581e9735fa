//! The state shared by the halves of a session, its task and its handshakes.

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
use crate::link::LinkSender;
use crate::receiver::LinkReceiver;
use crate::recovery::Recovery;
use crate::shared::{Shared as LinkShared, lock, remember};

pub(super) struct Shared {
    intake: Mutex<Intake>,
    core: Mutex<Core>,
    begun: Instant,
    pub(super) options: SessionOptions,
    pub(super) line: LineOptions,
    /// Set once the first connection is established.
    link: OnceLock<Arc<LinkShared>>,
    of_link: OnceLock<Control>,
    control: OnceLock<Control>,
    /// The final counters, once the session is over.
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

    /// Locks the intake. This lock is taken before `core`.
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

    /// Sets the Link that carries the session.
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

    /// Returns whether the other end may be on another machine, which is not suspended together with this
    /// one.
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

    /// Returns the client's greeting, and whether it resumes a session.
    pub(super) fn greeting(&self) -> (Hello, bool) {
        let core = self.core();
        match &core.role {
            Role::Client(Some(ticket)) => (ticket.present(core.machine.position()), true),
            _ => (Ticket::ask(), false),
        }
    }

    /// Processes the server's welcome. Missing messages are then sent on the connection that it was
    /// received on.
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
        // Checked above.
        let _ = core.machine.resume(welcome.position);
        self.resumed(&mut core, welcome.position.received);
        Ok(())
    }

    /// Handles a session that cannot be resumed. Returns whether to request a new one: not if this one was
    /// ending.
    pub(super) fn forget(&self, refusal: Refusal, text: String) -> bool {
        let mut core = self.core();
        let cause = core.lost(LostBy::Refused(refusal, text));
        let Delivered { acknowledged, sent } = core.machine.delivered();
        let lost = sent - acknowledged;
        if core.is_closing || core.has_peer_ended {
            // Only the last acknowledgement was missing.
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

    /// Ends the session, and the Link that carries it. The first reason is kept.
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

    /// Handles the drop of both halves. If the sender was closed before, the session lingers until the
    /// other end has acknowledged everything, for at most the grace period; otherwise it ends at once.
    /// Returns false if it lingers.
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

    /// Tells the other end why the session is over, like [`say_farewell`](Self::say_farewell).
    pub(super) fn say_why(&self) {
        let reason = self.control.get().and_then(Control::farewell);
        self.say_farewell(&reason.as_ref().map_or(Cow::Borrowed(""), words));
    }

    /// Tells the other end that the session is over, if that is possible without waiting.
    pub(super) fn say_farewell(&self, text: &str) {
        let mut core = self.core();
        // Received messages that were not consumed are lost with the session, so they are not acknowledged.
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

    /// Registers the session's task, which is being polled.
    pub(super) fn register_task(&self, core: &mut Core, waker: &Waker) {
        core.now = self.now();
        remember(&mut core.task, waker);
    }

    /// Pings the other end when the connection is idle, or after a suspend if it may be on another machine.
    /// Gives up the connection if it does not respond.
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

    /// Updates the heartbeat with the byte counts of the current connection in both directions, as a single
    /// frame may take long.
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
            // A line that does not know when bytes arrived overstates the time since.
            let came = now.saturating_sub(info.last_received.elapsed()).max(looked.at);
            core.heartbeat.alive(came);
        }
    }

    /// Writes waiting frames to the current connection. Ready when nothing is left to write. The session's
    /// task is woken to continue, because the sender may be dropped.
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

    /// Returns the traffic over all connections.
    pub(super) fn count(&self, core: &Core) -> Traffic {
        let mut counted = core.count();
        if let Some(link) = self.of_link.get() {
            let link = link.info();
            (counted.bytes_in, counted.bytes_out) = (link.bytes_in, link.bytes_out);
        }
        counted
    }

    /// Begins a new connection, after the handshake. The other end has received all messages up to
    /// `received`.
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

    /// Handles the drop of the receiver.
    pub(super) fn receiver_gone(&self) {
        let waker = {
            let mut core = self.core();
            core.is_receiver_gone = true;
            core.inbound.clear();
            (core.inbound_bytes, core.taken_bytes) = (0, 0);
            core.lent_until = None;
            core.task.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Gives up the current connection, because another replaces it, or because it is dead. The next one is
    /// granted under the same lock, so that it cannot be given up by mistake.
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

/// Writes waiting frames to this connection.
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

/// Returns the text of the farewell for a close reason. Details such as paths and the program's output stay
/// private.
fn words(reason: &CloseReason) -> Cow<'static, str> {
    Cow::Borrowed(match reason {
        reason if reason.is_clean() => "",
        CloseReason::Overrun => "too many connections; try again later",
        CloseReason::Unreachable(_) => "the upstream endpoint cannot be reached",
        CloseReason::ChildExited(_) => "the program has failed",
        CloseReason::Protocol(error @ FrameError::FirstNotJson) => {
            return Cow::Owned(error.to_string());
        }
        CloseReason::NotPassedOn(message) => return Cow::Owned(message.to_string()),
        reason @ CloseReason::InputUnread(_) => return Cow::Owned(reason.to_string()),
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
