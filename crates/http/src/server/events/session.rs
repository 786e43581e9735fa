//! A session in the place of an EventSource, which knows only the ids of its events.
//!
//! ```text
//!   GET ──▶ Hello ──▶ the server's own acceptor of sessions, over a pair of queues
//!   events ◀─ Pen ◀─ EventSession ◀─ frames ◀═╡
//!   POST ──────────▶ EventSession ─▶ frames ═▶╡
//! ```
//!
//! Each GET is a connection of the session. A task of its own carries it, so that the session is answered
//! while the client reads slowly; between two GETs it waits for the next one.

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
use crate::channel::lock;
use crate::events::stream::BodyWriter;
use crate::events::{ChannelBackend, ChannelParams, Outward, pair};
use crate::server::body::{Body, answer, line};
use crate::server::count::count;
use crate::server::route::{ConnectionContext, busy};
use crate::server::{Server, WebLine};

/// What a client has posted is kept until the session has acknowledged it.
const POSTED: SessionConfig =
    SessionConfig { replay_messages: 256, replay_bytes: 1 << 20, commits: true };
/// How long the handshake may take, which crosses no network.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The session of an EventSource.
pub(super) struct Session {
    core: Mutex<Core>,
    /// Something has changed that those who post, or the task, wait for.
    pub(super) changed: watch::Sender<()>,
    pub(super) begun: Instant,
}

pub(super) struct Core {
    pub(super) machine: EventSession,
    /// Which GET is the last; what an older one still does is nothing to the session.
    generation: u64,
    /// Its connection was welcomed.
    is_open: bool,
    /// The client is done.
    pub(super) leaves: bool,
    /// The session is over, and not all of it has come or will come.
    pub(super) is_lost: bool,
    /// What the client has posted and the session has not acknowledged, as it is counted.
    account: Account,
}

impl Core {
    /// Counts less than before, or the same.
    pub(super) fn count_memory(&mut self) {
        // If it has to let go, that is found where it is waited for.
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

    /// The core, as long as this GET is the last.
    pub(super) fn mine(&self, generation: u64) -> Option<MutexGuard<'_, Core>> {
        Some(self.core()).filter(|core| core.generation == generation)
    }

    /// The client has received all events up to this one.
    pub(super) fn proven(&self, last: Sequence) -> Result<(), Refusal> {
        let proven = self.core().machine.proves(self.now(), last);
        self.changed.send_replace(());
        proven.map_err(|stale| no(StatusCode::BAD_REQUEST, &stale.to_string()))
    }

    /// Completes when the session has to end because too much is held in memory.
    pub(super) async fn out_of_memory(&self) -> MemoryRefused {
        poll_fn(|cx| match self.core().account.check(cx.waker()) {
            Err(refused) => Poll::Ready(refused),
            Ok(()) => Poll::Pending,
        })
        .await
    }

    /// Takes messages when there is a stream, and room. Cancel-safe.
    pub(super) async fn post(&self, messages: Vec<Bytes>) -> Result<(), Refusal> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut core = self.core();
                if core.leaves || core.machine.has_ended() {
                    return Err(no(StatusCode::GONE, "it is over"));
                }
                if core.is_open && core.machine.has_room() {
                    let more: usize = messages.iter().map(Bytes::len).sum();
                    let held = core.machine.kept_bytes() + more;
                    if core.account.set(held).is_err() {
                        return Err(no(
                            StatusCode::SERVICE_UNAVAILABLE,
                            "too much is held in memory; try again later",
                        ));
                    }
                    for message in messages {
                        // Its own direction is open as long as the client does not leave.
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

/// `GET` of an EventSource: a new session, or the one that it comes back to.
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
                return line(StatusCode::NOT_FOUND, "there is no such stream");
            };
            match server.events.find(name, owner) {
                Found::Live(stream) => (stream, last),
                // It has all that there was.
                Found::Over(Some(end)) if last >= end => return over(),
                Found::Over(end) => return gone(last, end),
                Found::Nothing => return line(StatusCode::NOT_FOUND, "there is no such stream"),
            }
        }
    };
    let Line::Session(session) = &stream.line else {
        return line(StatusCode::NOT_FOUND, "there is no such stream");
    };
    let mut attending =
        Attending { server, stream: &stream, owner, is_new: id.is_none(), generation: None };
    let params = channel_of(server, owner, true);
    match connect(server, params, session, last, &mut attending.generation).await {
        Ok((generation, backend)) => {
            attending.is_done();
            let (mut writer, response) = begin(server, context, None);
            welcome(&mut writer, &stream, Some(last));
            count(&server.counters.event_streams);
            let params = channel_of(server, owner, true);
            tokio::spawn(run(server.clone(), stream.clone(), generation, backend, writer, params));
            response
        }
        Err(Unopened::Stale(Stale::Over)) => {
            attending.is_done();
            leave(server, owner, &stream);
            over()
        }
        Err(Unopened::Stale(Stale::NeverSent)) => {
            line(StatusCode::BAD_REQUEST, "no event with that id was given out")
        }
        Err(Unopened::Stale(Stale::Gone { last, oldest })) => {
            attending.is_done();
            let end = {
                let mut core = session.core();
                core.is_lost = true;
                core.machine.last()
            };
            tracing::warn!(endpoint = %server.endpoint, last, oldest, "an EventSource lacks too much");
            leave(server, owner, &stream);
            gone(last, Some(end))
        }
        Err(Unopened::Refused(refused)) => match refused {
            Refused::Full | Refused::Draining => busy(server, TOO_MANY),
            _ => {
                attending.is_done();
                session.core().is_lost = true;
                bury(server, &stream);
                gone(last, None)
            }
        },
        Err(Unopened::Busy) => busy(server, TOO_MANY),
        Err(Unopened::Overtaken) => {
            line(StatusCode::CONFLICT, "a newer stream has taken its place")
        }
    }
}

/// A GET that has no stream yet. If it comes to none, or is given up under way, its session is not left to
/// nobody: one that nobody knows of is forgotten, another is waited for as if it had been cut off.
struct Attending<'a> {
    server: &'a Arc<Server>,
    stream: &'a Arc<Stream>,
    owner: Owner,
    is_new: bool,
    /// Once it has taken the place of the GET before.
    generation: Option<u64>,
}

impl Attending<'_> {
    /// Somebody else sees to the session.
    fn is_done(&mut self) {
        (self.is_new, self.generation) = (false, None);
    }
}

impl Drop for Attending<'_> {
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
            if let Line::Session(session) = &stream.line
                && wait(&server, &stream, session, generation).await
            {
                dismiss(&server, params, session).await;
            }
        });
    }
}

/// Why a GET has no stream.
enum Unopened {
    Stale(Stale),
    Refused(Refused),
    /// A newer GET came.
    Overtaken,
    /// Nobody has answered.
    Busy,
}

/// A connection of the session, from the one who plays its client to the acceptor of sessions. `takes_over`
/// is set as soon as those before are of no consequence any more.
async fn connect(
    server: &Server,
    params: ChannelParams,
    session: &Session,
    last: Sequence,
    takes_over: &mut Option<u64>,
) -> Result<(u64, ChannelBackend), Unopened> {
    let place = timeout(HANDSHAKE, server.resumable.clone().reserve_owned());
    let place = place.await.ok().and_then(Result::ok).ok_or(Unopened::Busy)?;
    let (generation, hello) = {
        let mut core = session.core();
        let hello = core.machine.hello(session.now(), last).map_err(Unopened::Stale)?;
        core.generation += 1;
        core.is_open = false;
        (core.generation, hello)
    };
    *takes_over = Some(generation);
    session.changed.send_replace(());
    let (channel, backend) = pair(params);
    backend.push(Incoming::Message(Frame::Hello(hello).to_bytes()));
    place.send(WebLine::Events(channel));
    let answer = timeout(HANDSHAKE, backend.take()).await;
    let mut core = session.mine(generation).ok_or(Unopened::Overtaken)?;
    let Ok(Outward::Message(answer)) = answer else { return Err(Unopened::Busy) };
    backend.handed_on();
    match Frame::decode(answer) {
        Ok(Frame::Welcome(welcome)) => {
            core.machine.welcome(&welcome).map_err(Unopened::Refused)?;
            core.is_open = true;
        }
        Ok(Frame::Refused { refusal, .. }) => return Err(Unopened::Refused(refusal)),
        _ => return Err(Unopened::Refused(Refused::Malformed)),
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

/// Nobody is there: waits for the client to come again, until its grace is over. Returns whether the server's
/// session has to be told that it is over: the client has said so, or too much is held of what it has posted.
async fn wait(server: &Server, stream: &Stream, session: &Session, generation: u64) -> bool {
    let mut changed = session.changed.subscribe();
    let expires = from_now(server.limits.event_grace);
    let mut closing = server.closing.subscribe();
    let (leaves, tells) = loop {
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
                tracing::warn!(endpoint = %server.endpoint, "a session is over: {refused}");
                break (false, true);
            }
            _ = closing.wait_for(|is_closing| *is_closing) => break (false, false),
        }
    };
    if let (false, Some(mut core)) = (leaves, session.mine(generation)) {
        core.is_lost = true;
    }
    bury(server, stream);
    tells
}

/// Says to a session without a connection that its client is done.
async fn dismiss(server: &Server, params: ChannelParams, session: &Session) {
    let last = session.core().machine.acknowledged();
    if let Ok((generation, backend)) = connect(server, params, session, last, &mut None).await {
        bye(session, generation, &backend);
    }
}

/// The session is over: what is said to whoever asks for it is how much of it there was.
fn bury(server: &Server, stream: &Stream) {
    let last = match &stream.line {
        Line::Plain { .. } => None,
        Line::Session(session) => match &*session.core() {
            Core { is_lost: true, .. } => None,
            // It wants no more.
            Core { leaves: true, .. } => Some(0),
            core => Some(core.machine.last()),
        },
    };
    server.events.bury(stream, last, server.limits.event_grace);
}

/// The client is done, and its session is told so: over the connection that it has, or over one for that.
pub(super) fn leave(server: &Arc<Server>, owner: Owner, stream: &Arc<Stream>) {
    let Line::Session(session) = &stream.line else { return };
    let (is_open, was_left) = {
        let mut core = session.core();
        (core.is_open, std::mem::replace(&mut core.leaves, true))
    };
    // Who waits or carries sees to the rest.
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

/// An EventSource that hears this does not come again.
fn over() -> Response<Body> {
    let mut response = line(StatusCode::NO_CONTENT, "");
    *response.body_mut() = Body::Whole(Bytes::new());
    response
}

/// What the client lacks is not there any more; the last event had the number `end`, if that is known.
fn gone(last: Sequence, end: Option<Sequence>) -> Response<Body> {
    let from = last.saturating_add(1);
    let end = end.map_or("null".to_owned(), |end| end.to_string());
    let text = format!(
        "{{\"error\":\"gone\",\"received\":{last},\"missing_from\":{from},\"last\":{end},\"reason\":\
         \"the session is over, and what you lack of it is not kept; ask without Last-Event-ID for a new \
         one\"}}\n"
    );
    answer(StatusCode::GONE, "application/json", text)
}
