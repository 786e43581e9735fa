//! The state that both halves of a line share and that outlives them: identity, counters, health, close
//! reason.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::{FrameError, FramingKind};

use crate::PeerIdentity;
use crate::close::{ChildExit, CloseReason};
use crate::endpoint::Endpoint;
use crate::info::{Capabilities, ConnectionInfo, Health, Meter, TransportKind};
use crate::principal::Principal;
use crate::profile::{PerformanceProfile, SlowLog};

/// A boxed future, for the object-safe versions of the async traits.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The process or resource on the other end of a connection's bytes. Custom transports implement it.
///
/// Every method has a default that suits a plain pair of byte streams.
pub trait Backing: Send + Sync + 'static {
    /// Returns whether the other side is alive, without communicating with it.
    fn health(&self) -> Health {
        Health::Up
    }

    /// Waits until it is known how the other side ended. This is called after the end of the stream.
    /// `None` means that only the end of the stream is known.
    fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        Box::pin(std::future::ready(None))
    }

    /// Waits until the child process has exited, however long it runs. Never completes without a child
    /// process, which is the default.
    fn exited(&self) -> BoxFuture<'static, Option<ChildExit>> {
        Box::pin(std::future::pending())
    }

    /// Stops the other side gracefully, and then by force. This is called after the write half was
    /// closed.
    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        Box::pin(std::future::ready(None))
    }

    /// Returns the peer's identity, if it can change during the connection.
    fn peer(&self) -> Option<PeerIdentity> {
        None
    }

    /// Returns the principal that was authenticated for this connection, if any.
    fn principal(&self) -> Option<Principal> {
        None
    }

    /// Returns the process ID of the child while it runs.
    fn child(&self) -> Option<u32> {
        None
    }

    /// Returns true if the child process was stopped by a signal such as SIGSTOP, and waits for SIGCONT.
    fn is_stopped(&self) -> bool {
        false
    }

    /// Adds traffic that did not pass through the connection's own halves.
    fn count(&self, info: &mut ConnectionInfo) {
        let _ = info;
    }

    /// Ends the other side at once. This MUST NOT block and MUST NOT need a runtime, because it is
    /// called when the last half of the line is dropped.
    fn abort(&self) {}
}

/// A connection that consists of nothing but its bytes.
impl Backing for () {}

/// A handle on a line, independent of its halves: identity, counters, health and close reason.
///
/// It is cheap to clone and keeps nothing alive: the line ends when both halves are dropped, even if
/// `Control`s remain.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

struct Shared {
    kind: TransportKind,
    endpoint: Endpoint,
    peer: Option<PeerIdentity>,
    capabilities: Capabilities,
    profile: PerformanceProfile,
    meter: Meter,
    slow: SlowLog,
    closed_by_us: AtomicBool,
    reason: OnceLock<CloseReason>,
    /// The framing, once a channel was created from the connection.
    framing: OnceLock<FramingKind>,
    /// The reason to report to the other side when this side closes.
    reported: OnceLock<CloseReason>,
    /// The other side may be refused because of its first bytes.
    accepted: AtomicBool,
    /// The bytes that refuse the other side.
    refusal: OnceLock<Bytes>,
    /// The waker of the receiver while it waits for bytes.
    receiver: Mutex<Option<Waker>>,
    backing: Arc<dyn Backing>,
}

/// The parameters of a [`Control`] that the transport knows.
pub struct ControlBuilder {
    /// The transport.
    pub kind: TransportKind,
    /// The endpoint of the connecting side, or the listener's endpoint.
    pub endpoint: Endpoint,
    /// The peer's identity.
    pub peer: Option<PeerIdentity>,
    /// The capabilities of the connection.
    pub capabilities: Capabilities,
    /// The transport's expected performance.
    pub profile: PerformanceProfile,
    /// The process or resource on the other end.
    pub backing: Arc<dyn Backing>,
}

impl ControlBuilder {
    /// Builds the handle. The connection's age is measured from this call.
    pub fn build(self) -> Control {
        let Self { kind, endpoint, peer, capabilities, profile, backing } = self;
        let slow = SlowLog::new(&endpoint);
        Control(Arc::new(Shared {
            kind,
            endpoint,
            peer,
            capabilities,
            profile,
            meter: Meter::new(),
            slow,
            closed_by_us: AtomicBool::new(false),
            reason: OnceLock::new(),
            framing: OnceLock::new(),
            reported: OnceLock::new(),
            accepted: AtomicBool::new(kind == TransportKind::STDIO),
            refusal: OnceLock::new(),
            receiver: Mutex::new(None),
            backing,
        }))
    }
}

impl Control {
    /// Returns a snapshot of the line's state and counters.
    pub fn info(&self) -> ConnectionInfo {
        let meter = &self.0.meter;
        let mut info = ConnectionInfo {
            kind: self.0.kind,
            endpoint: self.0.endpoint.clone(),
            peer: self.peer(),
            since: meter.since,
            last_activity: meter.last_activity(),
            last_received: meter.last_received(),
            bytes_in: meter.bytes_in.get(),
            bytes_out: meter.bytes_out.get(),
            messages_in: meter.messages_in.get(),
            messages_out: meter.messages_out.get(),
            faults: meter.faults(),
            session: None,
        };
        self.0.backing.count(&mut info);
        info
    }

    /// Returns the endpoint that the line connected to, or the listener's endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Returns the peer's identity.
    pub fn peer(&self) -> Option<PeerIdentity> {
        self.0.peer.or_else(|| self.0.backing.peer())
    }

    /// Returns the principal that was authenticated by more than the operating system's [peer
    /// identity](Self::peer), such as by a token. Returns `None` without such authentication.
    pub fn principal(&self) -> Option<Principal> {
        self.0.backing.principal()
    }

    /// Returns true if the [child](Self::child) was stopped by a signal such as SIGSTOP, and waits for
    /// SIGCONT. This is only known for a child with a [guardian](crate::Guardian).
    pub fn is_child_stopped(&self) -> bool {
        self.0.backing.is_stopped()
    }

    /// Returns the process ID of the line's child while it runs, for display only. The system may reuse
    /// the ID at any time, so never send a signal to it.
    pub fn child(&self) -> Option<u32> {
        self.0.backing.child()
    }

    /// Returns the capabilities of the line.
    pub fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    /// Returns the kind of the transport.
    pub fn kind(&self) -> TransportKind {
        self.0.kind
    }

    /// Returns the framing that divides the line's bytes into messages. Returns `None` for lines that
    /// carry messages natively, such as WebSockets and sessions, and for custom framings.
    pub fn framing(&self) -> Option<FramingKind> {
        self.0.framing.get().copied()
    }

    /// Records the line's [framing](Self::framing). Only the first call has an effect. Meant for custom
    /// channels.
    pub fn set_framing(&self, framing: FramingKind) {
        let _ = self.0.framing.set(framing);
    }

    /// Returns the transport's expected performance.
    pub fn profile(&self) -> PerformanceProfile {
        self.0.profile
    }

    /// Returns whether the other side is alive, as far as is known without communicating with it.
    pub fn health(&self) -> Health {
        if self.0.reason.get().is_some() { Health::Down } else { self.0.backing.health() }
    }

    /// Returns why the line ended, or `None` if it has not ended or its end has not been noticed yet.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.0.reason.get().cloned()
    }

    /// Waits until it is known how the other side ended ([`Backing::ended`]). Meant for transports on
    /// top of another one, after the end of the stream.
    pub fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        self.0.backing.ended()
    }

    /// Waits until the child process has exited, and returns how. The line itself ends when its last
    /// messages have been received. Never completes without a child process.
    pub fn exited(&self) -> BoxFuture<'static, Option<ChildExit>> {
        self.0.backing.exited()
    }

    /// Stops the child process in stages and returns why the line ended. Close the
    /// [`Sender`](crate::Sender) first: the stages begin with the end of the child's input.
    ///
    /// Without a child process, there is nothing to stop, and this returns at once.
    ///
    /// If a child closes its stdout and continues to run, the stream ends without an exit status; this
    /// method then returns the status.
    ///
    /// Dropping the future does not undo the stages that have begun. Dropping both halves ends the line.
    pub async fn stop(&self) -> CloseReason {
        self.0.closed_by_us.store(true, Ordering::Relaxed);
        let exit = self.0.backing.stop().await;
        let Some(exit) = exit else { return self.end(CloseReason::ByUs) };
        let exit = CloseReason::ChildExited(Arc::new(exit));
        match self.end(exit.clone()) {
            // Its stdout had ended earlier, and its exit status was not known at that time.
            CloseReason::ByUs | CloseReason::StdoutClosed | CloseReason::Unterminated => exit,
            known => known,
        }
    }

    /// Aborts the line's [`Backing`] at once, for example by killing the child process.
    pub fn abort(&self) {
        self.0.closed_by_us.store(true, Ordering::Relaxed);
        self.0.backing.abort();
    }

    /// Ends the line because the other side has stopped reading, and wakes the receiver.
    pub(crate) fn stalled(&self) -> CloseReason {
        let reason = self.end(CloseReason::Stalled);
        self.abort();
        let receiver = self.receiver().take();
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        reason
    }

    /// Polls until the line has [stalled](Self::stalled). `registered` is the receiver's waker that was
    /// registered by the previous call.
    pub(crate) fn poll_stalled(
        &self,
        cx: &mut Context<'_>,
        registered: &mut Option<Waker>,
    ) -> Poll<CloseReason> {
        if registered.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *registered = Some(cx.waker().clone());
            *self.receiver() = registered.clone();
        }
        // `stalled` sets the reason before it wakes the receiver, so a stall cannot be missed.
        match self.0.reason.get() {
            Some(reason @ CloseReason::Stalled) => Poll::Ready(reason.clone()),
            _ => Poll::Pending,
        }
    }

    fn receiver(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.receiver.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Records why the line ended, unless a reason is recorded already, and returns the recorded reason.
    /// Meant for custom channels.
    pub fn end(&self, reason: CloseReason) -> CloseReason {
        self.0.reason.get_or_init(|| reason).clone()
    }

    /// Sets the reason to report to the other side when this side closes, for lines that can carry one,
    /// such as WebSockets with their close codes. This does not end the line. Only the first call has an
    /// effect.
    pub fn report_at_close(&self, reason: CloseReason) {
        let _ = self.0.reported.set(reason);
    }

    /// Returns the reason to report to the other side ([`report_at_close`](Self::report_at_close)), or
    /// else the reason why the line ended. Meant for custom channels.
    pub fn reason_to_report(&self) -> Option<CloseReason> {
        self.0.reported.get().cloned().or_else(|| self.close_reason())
    }

    /// Refuses a client because its first bytes, or its first message, cannot be accepted. If this side
    /// closes without having sent any messages, the client receives the reason
    /// ([`FrameError::refusal`]).
    ///
    /// The line's own receiver does this for the errors that it finds. This has no effect on lines that were not
    /// accepted by a listener or are not divided into messages by a framing.
    pub fn refuse(&self, error: FrameError) {
        let Some(ours) = self.framing().filter(|_| self.0.accepted.load(Ordering::Relaxed)) else {
            return;
        };
        // The parent of this process expects no frames of the session protocol.
        let is_readable = |refusal: &Bytes| {
            self.kind() != TransportKind::STDIO || refusal.first().is_some_and(u8::is_ascii_graphic)
        };
        if let Some(refusal) = error.refusal(ours).filter(is_readable) {
            let _ = self.0.refusal.set(refusal);
        }
    }

    /// Returns true if the client is [refused](Self::refuse) and receives the reason when this side
    /// closes.
    pub fn is_refused(&self) -> bool {
        self.refusal().is_some()
    }

    /// Returns the bytes that refuse the client, unless a message was sent before.
    pub(crate) fn refusal(&self) -> Option<&Bytes> {
        self.0.refusal.get().filter(|_| self.meter().messages_out.get() == 0)
    }

    /// Records that the other side is the client of a listener.
    pub(crate) fn set_accepted(&self) {
        self.0.accepted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn closing(&self) {
        self.0.closed_by_us.store(true, Ordering::Relaxed);
    }

    /// Returns the reason for a clean end of the stream.
    pub(crate) fn clean_end(&self) -> CloseReason {
        let by_us = self.0.closed_by_us.load(Ordering::Relaxed);
        match self.is_child() {
            _ if by_us => CloseReason::ByUs,
            // This is called after a wait for the exit status, so the child is still running.
            true => CloseReason::StdoutClosed,
            false => CloseReason::ByPeer,
        }
    }

    /// Returns true if a child process is on the other end.
    pub(crate) fn is_child(&self) -> bool {
        self.0.kind == TransportKind::PROCESS
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    pub(crate) fn note_write(&self, bytes: usize, elapsed: Duration) {
        let allowed = self.0.profile.slow_write(bytes);
        self.0.slow.note(&self.0.endpoint, "write", elapsed, allowed);
    }

    pub(crate) fn note_connect(&self, elapsed: Duration) {
        let allowed = self.0.profile.slow_connect();
        self.0.slow.note(&self.0.endpoint, "connect", elapsed, allowed);
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.info().fmt(f)
    }
}

/// A guard that both halves hold: the line ends when the last of them is dropped.
#[derive(Debug)]
pub(crate) struct Lifeline(Control);

impl Lifeline {
    pub(crate) fn new(control: Control) -> Arc<Self> {
        Arc::new(Self(control))
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.0.backing.abort();
        self.0.end(CloseReason::ByUs);
    }
}
