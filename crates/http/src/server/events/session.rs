//! A session that the server keeps on behalf of an EventSource, which knows only the ids of its events.
//!
//! ```text
//!   GET ──▶ Hello ──▶ the server's own acceptor of sessions, over a pair of queues
//!   events ◀─ BodyWriter ◀─ EventSession ◀─ frames ◀═╡
//!   POST ─────────────────▶ EventSession ─▶ frames ═▶╡
//! ```
//!
//! Each GET is a connection of the session. A separate task serves it, so that the session receives
//! acknowledgments even while the client reads slowly. Between two GETs, the task waits for the next
//! one.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use tieline_proto::session::{Frame, Refusal as Refused, Sequence, SessionConfig};
use tieline_proto::sse::{EventSession, Stale};
use tieline_transport::{Account, Holding, Incoming, MemoryBudget, MemoryRefused, Owner, from_now};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::carrier::{Carrier, Ended, bye};
use super::table::{Found, Line, Stream, read_id};
use super::{Refusal, TOO_MANY, begin, channel_of, no, welcome};
use crate::events::stream::BodyWriter;
use crate::events::{ChannelBackend, ChannelParams, Outward, pair};
use crate::lock::lock;
use crate::server::body::{Body, answer, line, no_content};
use crate::server::count::count;
use crate::server::route::{ConnectionContext, busy};
use crate::server::{Server, WebLine};

/// The limits of posted messages, which are kept until the session has acknowledged them.
const POSTED: SessionConfig =
    SessionConfig { replay_messages: 256, replay_bytes: 1 << 20, commits: true };
const UNKNOWN_STREAM: &str = "unknown stream in Last-Event-ID; leave it out to open a new one";

/// How long the handshake, which stays in this process, may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The session of an EventSource.
pub(super) struct Session {
    core: Mutex<Core>,
    /// Notifies waiting POSTs and the connection's task of changes.
    pub(super) changed: watch::Sender<()>,
    pub(super) begun: Instant,
}

pub(super) struct Core {
    pub(super) machine: EventSession,
    /// The number of the newest GET. Older ones must not touch the session.
    generation: u64,
    /// Whether the session has accepted the connection.
    is_open: bool,
    /// Whether the client has left.
    pub(super) leaves: bool,
    /// Whether the session is over and the client cannot receive all of its events.
    pub(super) is_lost: bool,
    /// The memory that unacknowledged posted messages use.
    account: Account,
}

impl Core {
    /// Updates the counted memory, which can only shrink here.
    pub(super) fn count_memory(&mut self) {
        // A refusal is reported by `out_of_memory`.
        let _ = self.account.set(self.machine.kept_bytes());
    }
}

impl Session {
    fn new(memory: Option<&MemoryBudget>) -> Self {
        let core = Core {
            machine: EventSession::new(POSTED),
            generation: 0,
            is_open: false,
            leaves: false,
            is_lost: false,
            account: Account::of(memory, Holding::Queue),
        };
        Self { core: Mutex::new(core), changed: watch::Sender::new(()), begun: Instant::now() }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns the core if `generation` belongs to the newest GET.
    pub(super) fn mine(&self, generation: u64) -> Option<MutexGuard<'_, Core>> {
        Some(self.core()).filter(|core| core.generation == generation)
    }

    /// Records that the client has received all events up to `last`.
    pub(super) fn proven(&self, last: Sequence) -> Result<(), Refusal> {
        let proven = self.core().machine.proves(self.now(), last);
        self.changed.send_replace(());
        proven.map_err(|stale| no(StatusCode::BAD_REQUEST, &stale.to_string()))
    }

    /// Completes when the session has to end because too much memory is in use.
    pub(super) async fn out_of_memory(&self) -> MemoryRefused {
        poll_fn(|cx| match self.core().account.check(cx.waker()) {
            Err(refused) => Poll::Ready(refused),
            Ok(()) => Poll::Pending,
        })
        .await
    }

    /// Sends messages once a stream is connected and has room. Cancel-safe.
    pub(super) async fn post(&self, messages: Vec<Bytes>) -> Result<(), Refusal> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut core = self.core();
                if core.leaves || core.machine.has_ended() {
                    return Err(no(StatusCode::GONE, "the session is over; open a new stream"));
                }
                if core.is_open && core.machine.has_room() {
                    let more: usize = messages.iter().map(Bytes::len).sum();
                    let held = core.machine.kept_bytes() + more;
                    if core.account.set(held).is_err() {
                        return Err(no(
                            StatusCode::SERVICE_UNAVAILABLE,
                            "the server is short of memory; try again later",
                        ));
                    }
                    for message in messages {
                        // The session accepts messages until the client leaves.
                        core.machine.send(message);
                    }
                    break;
                }
            }
            let _ = changed.changed().await;
        }
        self.changed.send_replace(());
        Ok(())
    }
}

/// Handles the `GET` of an EventSource: starts a session, or resumes one.
pub(super) async fn open(
    server: &Arc<Server>,
    context: &ConnectionContext,
    owner: Owner,
    id: Option<&str>,
) -> Response<Body> {
    let (stream, last) = match id {
        None => match server
            .events
            .add(owner, Line::Session(Box::new(Session::new(server.memory.as_ref()))))
        {
            Some(stream) => (stream, 0),
            None => return busy(server, TOO_MANY),
        },
        Some(id) => {
            let Some((name, last)) = read_id(id) else {
                return line(
                    StatusCode::NOT_FOUND,
                    "unknown Last-Event-ID; leave it out to open a new stream",
                );
            };
            match server.events.find(name, owner) {
                Found::Live(stream) => (stream, last),
                // The client has received everything.
                Found::Over(Some(end)) if last >= end => return no_content(),
                Found::Over(end) => return gone(last, end),
                Found::Nothing => {
                    return line(StatusCode::NOT_FOUND, UNKNOWN_STREAM);
                }
            }
        }
    };
    let Line::Session(session) = &stream.line else {
        return line(StatusCode::NOT_FOUND, UNKNOWN_STREAM);
    };
    let mut pending =
        PendingGet { server, stream: &stream, owner, is_new: id.is_none(), generation: None };
    let params = channel_of(server, owner, true);
    match connect(server, params, session, last, &mut pending.generation).await {
        Ok((generation, backend)) => {
            pending.is_done();
            let (mut writer, response) = begin(server, context, None);
            welcome(&mut writer, &stream, Some(last));
            count(&server.counters.event_streams);
            let params = channel_of(server, owner, true);
            tokio::spawn(run(server.clone(), stream.clone(), generation, backend, writer, params));
            response
        }
        Err(OpenError::Stale(Stale::Over)) => {
            pending.is_done();
            leave(server, owner, &stream);
            no_content()
        }
        Err(OpenError::Stale(Stale::NeverSent)) => {
            line(StatusCode::BAD_REQUEST, "Last-Event-ID names an event that was not sent")
        }
        Err(OpenError::Stale(Stale::Gone { last, oldest })) => {
            pending.is_done();
            let end = {
                let mut core = session.core();
                core.is_lost = true;
                core.machine.last()
            };
            let endpoint = &server.endpoint;
            tracing::warn!(%endpoint, last, oldest, "EventSource not resumed: missing events are lost");
            leave(server, owner, &stream);
            gone(last, Some(end))
        }
        Err(OpenError::Refused(refused)) => match refused {
            Refused::Full | Refused::Draining => busy(server, TOO_MANY),
            _ => {
                pending.is_done();
                session.core().is_lost = true;
                bury(server, &stream);
                gone(last, None)
            }
        },
        Err(OpenError::Busy) => busy(server, TOO_MANY),
        Err(OpenError::Overtaken) => {
            line(StatusCode::CONFLICT, "a newer GET has replaced this one")
        }
    }
}

/// A GET that has no stream yet. If it fails or is canceled, its session is cleaned up: a new session is
/// removed; an existing one waits for the client, as after a lost connection.
struct PendingGet<'a> {
    server: &'a Arc<Server>,
    stream: &'a Arc<Stream>,
    owner: Owner,
    is_new: bool,
    /// This GET's generation, once it has replaced the previous GET.
    generation: Option<u64>,
}

impl PendingGet<'_> {
    /// Records that nothing is left to clean up.
    fn is_done(&mut self) {
        (self.is_new, self.generation) = (false, None);
    }
}

impl Drop for PendingGet<'_> {
    fn drop(&mut self) {
        if self.is_new {
            self.server.events.remove(self.stream);
            return;
        }
        let (Some(generation), Ok(runtime)) = (self.generation, Handle::try_current()) else {
            return;
        };
        let params = channel_of(self.server, self.owner, true);
        let (server, stream) = (self.server.clone(), self.stream.clone());
        runtime.spawn(async move {
            let Line::Session(session) = &stream.line else { return };
            if wait(&server, &stream, session, generation).await {
                dismiss(&server, params, session).await;
            }
        });
    }
}

/// The reason why a GET opens no stream.
enum OpenError {
    Stale(Stale),
    Refused(Refused),
    /// A newer GET has replaced this one.
    Overtaken,
    /// The acceptor did not respond in time.
    Busy,
}

/// Opens a connection of the session to the acceptor of sessions. Sets `takes_over` as soon as this
/// connection replaces the previous one.
async fn connect(
    server: &Server,
    params: ChannelParams,
    session: &Session,
    last: Sequence,
    takes_over: &mut Option<u64>,
) -> Result<(u64, ChannelBackend), OpenError> {
    let place = timeout(HANDSHAKE, server.resumable.clone().reserve_owned());
    let place = place.await.ok().and_then(Result::ok).ok_or(OpenError::Busy)?;
    let (generation, hello) = {
        let mut core = session.core();
        let hello = core.machine.hello(session.now(), last).map_err(OpenError::Stale)?;
        core.generation += 1;
        core.is_open = false;
        (core.generation, hello)
    };
    *takes_over = Some(generation);
    session.changed.send_replace(());
    let (channel, backend) = pair(ChannelParams { acknowledges_late: true, ..params });
    backend.push(Incoming::Message(Frame::Hello(hello).to_bytes()));
    place.send(WebLine::Events(channel));
    let answer = timeout(HANDSHAKE, backend.take()).await;
    let mut core = session.mine(generation).ok_or(OpenError::Overtaken)?;
    let Ok(Outward::Message(answer)) = answer else { return Err(OpenError::Busy) };
    backend.handed_on();
    match Frame::decode(answer) {
        Ok(Frame::Welcome(welcome)) => {
            core.machine.welcome(&welcome).map_err(OpenError::Refused)?;
            core.is_open = true;
        }
        Ok(Frame::Refused { refusal, .. }) => return Err(OpenError::Refused(refusal)),
        _ => return Err(OpenError::Refused(Refused::Malformed)),
    }
    drop(core);
    session.changed.send_replace(());
    Ok((generation, backend))
}

async fn run(
    server: Arc<Server>,
    stream: Arc<Stream>,
    generation: u64,
    backend: ChannelBackend,
    writer: BodyWriter,
    params: ChannelParams,
) {
    let Line::Session(session) = &stream.line else { return };
    let carrier = Carrier { server: &server, stream: &stream, session, generation, backend };
    match carrier.carry(writer).await {
        Ended::Overtaken => {}
        Ended::Over => bury(&server, &stream),
        Ended::Closing => server.events.remove(&stream),
        Ended::Away => {
            if wait(&server, &stream, session, generation).await {
                dismiss(&server, params, session).await;
            }
        }
    }
}

/// Waits until a disconnected client reconnects or its grace period is over. Returns true if the
/// acceptor's session has to be closed, because the client has left or too much memory is in use.
async fn wait(server: &Server, stream: &Stream, session: &Session, generation: u64) -> bool {
    let mut changed = session.changed.subscribe();
    let expires = from_now(server.limits.event_grace);
    let mut closing = server.closing.subscribe();
    let (leaves, must_close) = loop {
        {
            let Some(mut core) = session.mine(generation) else { return false };
            core.is_open = false;
            if core.leaves {
                break (true, true);
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep_until(expires) => break (false, false),
            refused = session.out_of_memory() => {
                tracing::warn!(endpoint = %server.endpoint, "session closed: {refused}");
                break (false, true);
            }
            _ = closing.wait_for(|is_closing| *is_closing) => break (false, false),
        }
    };
    if let (false, Some(mut core)) = (leaves, session.mine(generation)) {
        core.is_lost = true;
    }
    bury(server, stream);
    must_close
}

/// Tells a session without a connection that its client has left.
async fn dismiss(server: &Server, params: ChannelParams, session: &Session) {
    let last = session.core().machine.acknowledged();
    if let Ok((generation, backend)) = connect(server, params, session, last, &mut None).await {
        bye(session, generation, &backend);
    }
}

/// Removes the stream of a session that is over. Later GETs are answered according to the number of its
/// last event.
fn bury(server: &Server, stream: &Stream) {
    let last = match &stream.line {
        Line::Plain { .. } => None,
        Line::Session(session) => match &*session.core() {
            Core { is_lost: true, .. } => None,
            // The client has left and needs no more events.
            Core { leaves: true, .. } => Some(0),
            core => Some(core.machine.last()),
        },
    };
    server.events.bury(stream, last, server.limits.event_grace);
}

/// Ends the session of a client that has left, over its current connection or over a new one.
pub(super) fn leave(server: &Arc<Server>, owner: Owner, stream: &Arc<Stream>) {
    let Line::Session(session) = &stream.line else { return };
    let (is_open, was_left) = {
        let mut core = session.core();
        (core.is_open, std::mem::replace(&mut core.leaves, true))
    };
    // The task that serves the connection, or waits for one, does the rest.
    session.changed.send_replace(());
    if !is_open && !was_left {
        bury(server, stream);
        let params = channel_of(server, owner, true);
        let (server, stream) = (server.clone(), stream.clone());
        tokio::spawn(async move {
            if let Line::Session(session) = &stream.line {
                dismiss(&server, params, session).await;
            }
        });
    }
}

/// Returns 410, because events that the client lacks are no longer kept. `end` is the number of the last
/// event, if known.
fn gone(last: Sequence, end: Option<Sequence>) -> Response<Body> {
    let from = last.saturating_add(1);
    let end = end.map_or("null".to_owned(), |end| end.to_string());
    let text = format!(
        "{{\"error\":\"gone\",\"received\":{last},\"missing_from\":{from},\"last\":{end},\"reason\":\
         \"the session is over and the missing events are not kept; send a GET without Last-Event-ID for a new \
         one\"}}\n"
    );
    answer(StatusCode::GONE, "application/json", text)
}
