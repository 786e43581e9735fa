//! What both halves of a line share, and what outlives them: identity, counts, health, the end.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tieline_proto::FramingKind;

use crate::info::Meter;
use crate::profile::SlowLog;
use crate::{
    Capabilities, ChildExit, CloseReason, ConnectionInfo, Endpoint, Health, PeerIdentity,
    PerformanceProfile, Principal, TransportKind,
};

/// A boxed future, for the object-safe twins of the async traits.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What stands behind a connection's bytes, for those who write a transport.
///
/// Everything has a default that suits a plain pair of byte streams.
pub trait Backing: Send + Sync + 'static {
    /// Whether it is alive, without asking it.
    fn health(&self) -> Health {
        Health::Up
    }

    /// Completes when it is known how the far side ended, once its stream has. `None`: there is
    /// nothing to know beyond the end of the stream.
    fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        Box::pin(std::future::ready(None))
    }

    /// Ends what stands behind, politely first. The write half was closed before.
    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        Box::pin(std::future::ready(None))
    }

    /// Who is on the other end, where that changes.
    fn peer(&self) -> Option<PeerIdentity> {
        None
    }

    /// Who was authenticated on the way in, where somebody was.
    fn principal(&self) -> Option<Principal> {
        None
    }

    /// The child process that stands behind it, while it runs.
    fn child(&self) -> Option<u32> {
        None
    }

    /// Whether that process was stopped by a signal, as SIGSTOP does, and does nothing until SIGCONT.
    fn is_stopped(&self) -> bool {
        false
    }

    /// Adds what moved elsewhere than through the connection's own halves.
    fn count(&self, info: &mut ConnectionInfo) {
        let _ = info;
    }

    /// Ends what stands behind at once. MUST NOT block and MUST NOT need a runtime: it is called
    /// when the last half of the line is dropped.
    fn abort(&self) {}
}

/// Nothing but the bytes.
impl Backing for () {}

/// A handle on a line, apart from its halves: who it is, how it does, and its end.
///
/// It is cheap to clone and keeps nothing alive: when both halves are dropped the line ends,
/// whoever holds a `Control`.
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
    /// How the bytes are cut into messages, once a channel has been made of the connection.
    framing: OnceLock<FramingKind>,
    /// What the other side is told of why this one closes.
    farewell: OnceLock<CloseReason>,
    /// The receiver, while it waits for bytes.
    receiver: Mutex<Option<Waker>>,
    backing: Arc<dyn Backing>,
}

/// What a transport knows of a connection that it just made.
pub struct ControlBuilder {
    /// The transport.
    pub kind: TransportKind,
    /// Where it leads, or on which listener it came in.
    pub endpoint: Endpoint,
    /// Who is on the other end.
    pub peer: Option<PeerIdentity>,
    /// What the connection can do.
    pub capabilities: Capabilities,
    /// What it is expected to do.
    pub profile: PerformanceProfile,
    /// What stands behind it.
    pub backing: Arc<dyn Backing>,
}

impl ControlBuilder {
    /// The handle; the connection's time begins now.
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
            farewell: OnceLock::new(),
            receiver: Mutex::new(None),
            backing,
        }))
    }
}

impl Control {
    /// A snapshot of what is known.
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

    /// Where the line leads, or on which listener it came in.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Who is on the other end.
    pub fn peer(&self) -> Option<PeerIdentity> {
        self.0.peer.or_else(|| self.0.backing.peer())
    }

    /// Who was authenticated on the way in, by more than what the operating system says of the
    /// [peer](Self::peer); `None` where nobody was.
    pub fn principal(&self) -> Option<Principal> {
        self.0.backing.principal()
    }

    /// Whether the [child](Self::child) was stopped by a signal, as SIGSTOP does, and does nothing until
    /// SIGCONT. It is known of a child that a [guardian](crate::Guardian) holds.
    pub fn is_child_stopped(&self) -> bool {
        self.0.backing.is_stopped()
    }

    /// The number of the child process that stands behind the line, while it runs: for people to
    /// read. It may be another's a moment later, so it must not be signalled.
    pub fn child(&self) -> Option<u32> {
        self.0.backing.child()
    }

    /// What the line can do.
    pub fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    /// The kind of the transport.
    pub fn kind(&self) -> TransportKind {
        self.0.kind
    }

    /// The framing that cuts the line's bytes into messages; `None` for lines that carry messages
    /// natively, such as WebSockets and sessions, and for framings that no endpoint names.
    pub fn framing(&self) -> Option<FramingKind> {
        self.0.framing.get().copied()
    }

    /// Records the line's [framing](Self::framing). The first one stays. For those who write a channel of
    /// their own.
    pub fn set_framing(&self, framing: FramingKind) {
        let _ = self.0.framing.set(framing);
    }

    /// What the transport is expected to do.
    pub fn profile(&self) -> PerformanceProfile {
        self.0.profile
    }

    /// Whether it is alive, as far as can be told without asking the far side.
    pub fn health(&self) -> Health {
        if self.0.reason.get().is_some() { Health::Down } else { self.0.backing.health() }
    }

    /// Why the line ended; `None` as long as it has not, or nobody has noticed.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.0.reason.get().cloned()
    }

    /// Completes when it is known how the far side ended, once its stream has ([`Backing::ended`]):
    /// for a transport that stands on another.
    pub fn ended(&self) -> BoxFuture<'static, Option<ChildExit>> {
        self.0.backing.ended()
    }

    /// Ends what stands behind the line, in stages, and says why the line ended. Close the
    /// [`Sender`](crate::Sender) first: the stages begin with the end of the child's input.
    ///
    /// For anything but a child process there is nothing to end and this returns at once.
    ///
    /// A child that closes its stdout and goes on ends the stream without an exit status. Where that was all
    /// that was known, this returns the status.
    ///
    /// Dropping the future leaves the stages where they are; dropping the halves ends the line.
    pub async fn stop(&self) -> CloseReason {
        self.0.closed_by_us.store(true, Ordering::Relaxed);
        let exit = self.0.backing.stop().await;
        let Some(exit) = exit else { return self.end(CloseReason::ByUs) };
        let exit = CloseReason::ChildExited(Arc::new(exit));
        match self.end(exit.clone()) {
            // Its stdout had ended before it did, and nothing more was known then.
            CloseReason::ByUs | CloseReason::StdoutClosed | CloseReason::Unterminated => exit,
            known => known,
        }
    }

    /// Ends what stands behind the line at once.
    pub fn abort(&self) {
        self.0.closed_by_us.store(true, Ordering::Relaxed);
        self.0.backing.abort();
    }

    /// Ends the line because the far side has stopped reading, and lets the receiver know.
    pub(crate) fn stalled(&self) -> CloseReason {
        let reason = self.end(CloseReason::Stalled);
        self.abort();
        let receiver = self.receiver().take();
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        reason
    }

    /// Ready when the line has [stalled](Self::stalled). `registered` is the receiver's waker that
    /// is known here already.
    pub(crate) fn poll_stalled(
        &self,
        cx: &mut Context<'_>,
        registered: &mut Option<Waker>,
    ) -> Poll<CloseReason> {
        if registered.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *registered = Some(cx.waker().clone());
            *self.receiver() = registered.clone();
        }
        // It stalls first and wakes then, so this is not missed.
        match self.0.reason.get() {
            Some(reason @ CloseReason::Stalled) => Poll::Ready(reason.clone()),
            _ => Poll::Pending,
        }
    }

    fn receiver(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.receiver.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes why the line ended, and says which reason it is: the first stays. For those who write a
    /// channel of their own.
    pub fn end(&self, reason: CloseReason) -> CloseReason {
        self.0.reason.get_or_init(|| reason).clone()
    }

    /// Notes what the other side is to be told when this one closes, where the line has words for it, as
    /// a WebSocket has close codes. It ends nothing; the first reason stays.
    pub fn say_at_close(&self, reason: CloseReason) {
        let _ = self.0.farewell.set(reason);
    }

    /// What [was noted](Self::say_at_close) for the other side, or why the line ended. For those who write
    /// a channel of their own.
    pub fn farewell(&self) -> Option<CloseReason> {
        self.0.farewell.get().cloned().or_else(|| self.close_reason())
    }

    pub(crate) fn closing(&self) {
        self.0.closed_by_us.store(true, Ordering::Relaxed);
    }

    /// A clean end of the stream: whose doing was it?
    pub(crate) fn clean_end(&self) -> CloseReason {
        let by_us = self.0.closed_by_us.load(Ordering::Relaxed);
        match self.is_child() {
            _ if by_us => CloseReason::ByUs,
            // It would have been waited for in vain, had it not gone on.
            true => CloseReason::StdoutClosed,
            false => CloseReason::ByPeer,
        }
    }

    /// What is on the other end is a child process.
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

/// Held by both halves: the line ends with the last of them.
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
