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

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use tieline_proto::session::{Farewell, Frame, Refusal as Refused, Sequence, SessionConfig};
use tieline_proto::sse::{self, EventSession, Stale, Taken};
use tieline_proto::websocket::{Close, CloseCode};
use tieline_transport::{CloseReason, Incoming};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::plain::until;
use super::table::{Found, Line, Owner, Stream, read_id};
use super::{QUIET, Refusal, TOO_MANY, begin, channel_of, no, welcome};
use crate::channel::{going_away, lock};
use crate::events::message::{event, last as last_event};
use crate::events::stream::Pen;
use crate::events::{Far, Of, Outward, pair};
use crate::server::body::{Body, answer, line};
use crate::server::count::count;
use crate::server::route::{Guest, busy};
use crate::server::{Server, WebLine};

/// What a client has posted is kept until the session has acknowledged it.
const POSTED: SessionConfig =
    SessionConfig { replay_messages: 256, replay_bytes: 1 << 20, commits: true };
/// How long the handshake may take, which crosses no network.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long behind the last event a client that was cut off may come for it.
const LINGER: Duration = Duration::from_secs(30);
/// While the client reads slowly, the session hears so often that it does.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The session of an EventSource.
pub(super) struct Session {
    core: Mutex<Core>,
    /// Something has changed that those who post, or the task, wait for.
    changed: watch::Sender<()>,
    begun: Instant,
}

struct Core {
    machine: EventSession,
    /// Which GET is the last; what an older one still does is nothing to the session.
    generation: u64,
    /// Its connection was welcomed.
    is_open: bool,
    /// The client is done.
    leaves: bool,
}

impl Session {
    fn new() -> Self {
        let machine = EventSession::new(POSTED);
        let core = Core { machine, generation: 0, is_open: false, leaves: false };
        Self { core: Mutex::new(core), changed: watch::Sender::new(()), begun: Instant::now() }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The core, as long as this GET is the last.
    fn mine(&self, generation: u64) -> Option<MutexGuard<'_, Core>> {
        Some(self.core()).filter(|core| core.generation == generation)
    }

    /// The client has received all events up to this one.
    pub(super) fn proven(&self, last: Sequence) -> Result<(), Refusal> {
        let proven = self.core().machine.proves(self.now(), last);
        self.changed.send_replace(());
        proven.map_err(|stale| no(StatusCode::BAD_REQUEST, &stale.to_string()))
    }

    /// Takes messages when there is a stream, and room. Cancel-safe.
    pub(super) async fn post(&self, messages: Vec<Bytes>) -> Result<(), Refusal> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut core = self.core();
                if core.leaves {
                    return Err(no(StatusCode::GONE, "it is over"));
                }
                if core.is_open && core.machine.has_room() {
                    for message in messages {
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
    guest: &Guest,
    owner: Owner,
    id: Option<&str>,
) -> Response<Body> {
    let (stream, last) = match id {
        None => match server.events.add(owner, Line::Session(Session::new())) {
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
                Found::Over(end) if last >= end => return over(),
                Found::Over(end) => return gone(last, end + 1, end),
                Found::Nothing => return line(StatusCode::NOT_FOUND, "there is no such stream"),
            }
        }
    };
    let Line::Session(session) = &stream.line else {
        return line(StatusCode::NOT_FOUND, "there is no such stream");
    };
    match connect(server, channel_of(server, guest, true), session, last).await {
        Ok((generation, far)) => {
            let (mut pen, response) = begin(guest, None);
            welcome(&mut pen, &stream, Some(last));
            count(&server.counters.event_streams);
            let of = channel_of(server, guest, true);
            tokio::spawn(run(server.clone(), stream.clone(), generation, far, pen, of));
            response
        }
        Err(Unopened::Stale(Stale::Over)) => {
            leave(server, guest, &stream);
            over()
        }
        Err(Unopened::Stale(Stale::NeverSent)) => {
            line(StatusCode::BAD_REQUEST, "no event with that id was given out")
        }
        Err(Unopened::Stale(Stale::Gone { last, oldest })) => {
            let end = session.core().machine.last();
            leave(server, guest, &stream);
            gone(last, oldest, end)
        }
        Err(Unopened::Refused(refused)) => {
            let end = session.core().machine.last();
            match refused {
                Refused::Full | Refused::Draining => {
                    if id.is_none() {
                        server.events.remove(&stream);
                    }
                    busy(server, TOO_MANY)
                }
                _ => {
                    bury(server, &stream);
                    gone(last, last + 1, end)
                }
            }
        }
        Err(Unopened::Busy) => {
            if id.is_none() {
                server.events.remove(&stream);
            }
            busy(server, TOO_MANY)
        }
        Err(Unopened::Overtaken) => {
            line(StatusCode::CONFLICT, "a newer stream has taken its place")
        }
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

/// A connection of the session, from the one who plays its client to the acceptor of sessions.
async fn connect(
    server: &Server,
    of: Of,
    session: &Session,
    last: Sequence,
) -> Result<(u64, Far), Unopened> {
    let place = timeout(HANDSHAKE, server.resumable.clone().reserve_owned());
    let place = place.await.ok().and_then(Result::ok).ok_or(Unopened::Busy)?;
    let (generation, hello) = {
        let mut core = session.core();
        let hello = core.machine.hello(session.now(), last).map_err(Unopened::Stale)?;
        core.generation += 1;
        core.is_open = false;
        (core.generation, hello)
    };
    session.changed.send_replace(());
    let (channel, far) = pair(of);
    far.push(Incoming::Message(Frame::Hello(hello).to_bytes()));
    place.send(WebLine::Events(channel));
    let answer = match timeout(HANDSHAKE, far.take()).await {
        Ok(Outward::Message(answer)) => Frame::decode(answer),
        _ => return Err(Unopened::Busy),
    };
    far.handed_on();
    let mut core = session.mine(generation).ok_or(Unopened::Overtaken)?;
    match answer {
        Ok(Frame::Welcome(welcome)) => {
            core.machine.welcome(&welcome).map_err(Unopened::Refused)?;
            core.is_open = true;
        }
        Ok(Frame::Refused { refusal, .. }) => return Err(Unopened::Refused(refusal)),
        _ => return Err(Unopened::Refused(Refused::Malformed)),
    }
    drop(core);
    session.changed.send_replace(());
    Ok((generation, far))
}

/// How a stream has ended.
enum Ended {
    /// The connection is gone, or the session's is; the client may come again.
    Away,
    /// A newer one has taken its place.
    Overtaken,
    /// The session is over.
    Over,
    /// The server shuts down.
    Closing,
}

async fn run(
    server: Arc<Server>,
    stream: Arc<Stream>,
    generation: u64,
    far: Far,
    pen: Pen,
    of: Of,
) {
    let Line::Session(session) = &stream.line else { return };
    let carrier = Carrier { server: &server, stream: &stream, session, generation, far };
    match carrier.carry(pen).await {
        Ended::Overtaken => {}
        Ended::Over => bury(&server, &stream),
        Ended::Closing => server.events.remove(&stream),
        Ended::Away => {
            if wait(&server, &stream, session, generation).await {
                dismiss(&server, of, session).await;
            }
        }
    }
}

/// Nobody is there: waits for the client to come again, until its grace is over. Whether it said instead
/// that it is done.
async fn wait(server: &Server, stream: &Stream, session: &Session, generation: u64) -> bool {
    let mut changed = session.changed.subscribe();
    let expires = Instant::now() + server.limits.event_grace;
    let mut closing = server.closing.subscribe();
    let leaves = loop {
        {
            let Some(mut core) = session.mine(generation) else { return false };
            core.is_open = false;
            if core.leaves {
                break true;
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep_until(expires) => break false,
            _ = closing.wait_for(|is_closing| *is_closing) => break false,
        }
    };
    bury(server, stream);
    leaves
}

/// Says to a session without a connection that its client is done.
async fn dismiss(server: &Server, of: Of, session: &Session) {
    let last = session.core().machine.acknowledged();
    if let Ok((generation, far)) = connect(server, of, session, last).await {
        bye(session, generation, &far);
    }
}

fn bury(server: &Server, stream: &Stream) {
    let last = match &stream.line {
        Line::Session(session) => session.core().machine.last(),
        Line::Plain { .. } => 0,
    };
    server.events.bury(stream, last, server.limits.event_grace);
}

/// The client is done, and its session is told so: over the connection that it has, or over one for that.
pub(super) fn leave(server: &Arc<Server>, guest: &Guest, stream: &Arc<Stream>) {
    let Line::Session(session) = &stream.line else { return };
    let (is_open, was_left) = {
        let mut core = session.core();
        (core.is_open, std::mem::replace(&mut core.leaves, true))
    };
    // Who waits or carries sees to the rest.
    session.changed.send_replace(());
    if !is_open && !was_left {
        bury(server, stream);
        let of = channel_of(server, guest, true);
        let (server, stream) = (server.clone(), stream.clone());
        tokio::spawn(async move {
            if let Line::Session(session) = &stream.line {
                dismiss(&server, of, session).await;
            }
        });
    }
}

/// A connection of a session, and the stream of the GET that it was made for.
struct Carrier<'a> {
    server: &'a Server,
    stream: &'a Stream,
    session: &'a Session,
    generation: u64,
    far: Far,
}

/// The client's end of it.
struct Reader {
    pen: Pen,
    /// Events by where they end in the stream.
    marks: std::collections::VecDeque<(u64, Sequence)>,
    quiet: Instant,
    /// How many bytes the connection had taken when that was last looked at.
    sent: u64,
}

impl Carrier<'_> {
    async fn carry(self, pen: Pen) -> Ended {
        let Self { session, far, generation, .. } = &self;
        let mut changed = session.changed.subscribe();
        let mut closing = self.server.closing.subscribe();
        let sent = pen.sent();
        let quiet = Instant::now() + QUIET;
        let mut reader = Some(Reader { pen, marks: Default::default(), quiet, sent });
        // Behind the last event.
        let mut lingers: Option<Instant> = None;
        loop {
            let Some(wake_at) = say(session, *generation, far) else { return Ended::Overtaken };
            {
                let Some(core) = session.mine(*generation) else { return Ended::Overtaken };
                if core.machine.is_over() {
                    return Ended::Over;
                }
                if core.leaves {
                    drop(core);
                    self.bye(reader.as_mut());
                    return Ended::Over;
                }
            }
            if far.is_over() {
                return Ended::Away;
            }
            let is_held_up = !far.has_room();
            let (known, had_room) = match &reader {
                Some(reader) => (reader.pen.written(), reader.pen.has_room()),
                None => (0, true),
            };
            let looks = Instant::now() + SIGN_OF_LIFE;
            tokio::select! {
                outward = far.take(), if had_room => {
                    let Outward::Message(frame) = outward else { return Ended::Away };
                    let mut next = Some(frame);
                    while let Some(frame) = next {
                        match self.hear(frame, reader.as_mut()) {
                            Heard::Nothing => {}
                            Heard::Over => return Ended::Over,
                            Heard::Overtaken => return Ended::Overtaken,
                            Heard::End => {
                                reader = None;
                                lingers = Some(Instant::now() + LINGER);
                            }
                        }
                        let is_full = reader.as_ref().is_some_and(|it| !it.pen.has_room());
                        next = if is_full { None } else { far.try_take() };
                    }
                    far.handed_on();
                }
                () = moved(reader.as_ref(), known, had_room) => {
                    let Some(reader) = &mut reader else { continue };
                    if reader.pen.is_torn() {
                        return Ended::Away;
                    }
                    self.wrote(reader);
                }
                _ = changed.changed() => {}
                () = far.room(), if is_held_up => {}
                () = until(wake_at), if !is_held_up => {}
                () = until(reader.as_ref().map(|it| it.quiet)) => {
                    let Some(reader) = &mut reader else { continue };
                    reader.quiet = Instant::now() + QUIET;
                    if had_room {
                        reader.pen.write(|out| sse::comment("", out));
                    }
                }
                () = sleep_until(looks), if !had_room => {
                    // It reads, slowly: then the session must not be given up.
                    let Some(reader) = &mut reader else { continue };
                    let sent = reader.pen.sent();
                    if std::mem::replace(&mut reader.sent, sent) != sent && far.has_room() {
                        let acknowledged = session.core().machine.acknowledged();
                        far.push(Incoming::Message(Frame::Ack { acknowledged }.to_bytes()));
                    }
                }
                () = until(lingers) => {
                    lingers = None;
                    let Some(mut core) = session.mine(*generation) else {
                        return Ended::Overtaken;
                    };
                    core.machine.finish(session.now());
                }
                _ = closing.wait_for(|is_closing| *is_closing) => {
                    if let Some(reader) = &mut reader {
                        reader.pen.write(|out| last_event(&going_away(), None, out));
                    }
                    return Ended::Closing;
                }
            }
        }
    }

    /// A frame of the session.
    fn hear(&self, frame: Bytes, reader: Option<&mut Reader>) -> Heard {
        let taken = {
            let Some(mut core) = self.session.mine(self.generation) else {
                return Heard::Overtaken;
            };
            let had_room = core.machine.has_room();
            let now = self.session.now();
            let taken = Frame::decode(frame)
                .map_err(Into::into)
                .and_then(|frame| core.machine.receive(now, frame));
            let has_room = core.machine.has_room();
            drop(core);
            if has_room && !had_room {
                self.session.changed.send_replace(());
            }
            taken
        };
        let id = |sequence| format!("{}.{sequence}", self.stream.name);
        let last = |reader: Option<&mut Reader>, close: Close, sequence| {
            if let Some(reader) = reader {
                reader.pen.write(|out| last_event(&close, Some(&id(sequence)), out));
            }
        };
        match taken {
            Ok(None) => Heard::Nothing,
            Ok(Some(Taken::Event { sequence, message })) => {
                if let Some(reader) = reader {
                    let id = id(sequence);
                    let at = reader.pen.write(|out| event(&message, Some(&id), out));
                    reader.marks.push_back((at, sequence));
                    reader.quiet = Instant::now() + QUIET;
                }
                Heard::Nothing
            }
            Ok(Some(Taken::End { sequence })) => {
                last(reader, Close::new(CloseCode::NORMAL), sequence);
                Heard::End
            }
            Ok(Some(Taken::Bye(Farewell { text, .. }))) => {
                let close = match text.is_empty() {
                    true => Close::new(CloseCode::NORMAL),
                    false => Close::because(CloseCode::INTERNAL, text),
                };
                let sequence = self.session.core().machine.last();
                last(reader, close, sequence);
                Heard::Over
            }
            Err(violation) => {
                tracing::warn!(endpoint = %self.server.endpoint, "a session is over: {violation}");
                let close = Close::because(CloseCode::INTERNAL, "the session has broken");
                last(reader, close, self.session.core().machine.last());
                Heard::Over
            }
        }
    }

    /// More was written to the client's connection.
    fn wrote(&self, reader: &mut Reader) {
        let written = reader.pen.written();
        let mut last = None;
        while let Some((at, sequence)) = reader.marks.front().copied()
            && at <= written
        {
            reader.marks.pop_front();
            last = Some(sequence);
        }
        if let (Some(last), Some(mut core)) = (last, self.session.mine(self.generation)) {
            core.machine.wrote(self.session.now(), last);
        }
    }

    /// The client is done, and so is all: the session hears what was posted before, and the stream ends.
    fn bye(&self, reader: Option<&mut Reader>) {
        bye(self.session, self.generation, &self.far);
        if let Some(reader) = reader {
            reader.pen.write(|out| last_event(&Close::new(CloseCode::NORMAL), None, out));
        }
    }
}

/// Says to the session what there is to say, and when there will be more. `None`: it is not for this
/// connection any more.
fn say(session: &Session, generation: u64, far: &Far) -> Option<Option<Instant>> {
    let mut core = session.mine(generation)?;
    let now = session.now();
    while far.has_room()
        && let Some(frame) = core.machine.next(now)
    {
        far.push(Incoming::Message(frame.to_bytes()));
    }
    Some(core.machine.wake_at().map(|at| session.begun + at))
}

/// The last that a session hears.
fn bye(session: &Session, generation: u64, far: &Far) {
    let received = {
        let Some(mut core) = session.mine(generation) else { return };
        core.machine.finish(session.now());
        core.machine.acknowledged()
    };
    say(session, generation, far);
    let farewell = Farewell { received, text: String::new() };
    far.push(Incoming::Message(Frame::Bye(farewell).to_bytes()));
    far.end_inward(CloseReason::ByPeer);
}

/// What came of a frame.
enum Heard {
    Nothing,
    /// The last event was written.
    End,
    /// The session is over.
    Over,
    Overtaken,
}

async fn moved(reader: Option<&Reader>, known: u64, had_room: bool) {
    match reader {
        Some(reader) => reader.pen.moved(known, had_room).await,
        None => std::future::pending().await,
    }
}

/// An EventSource that hears this does not come again.
fn over() -> Response<Body> {
    let mut response = line(StatusCode::NO_CONTENT, "");
    *response.body_mut() = Body::Whole(Bytes::new());
    response
}

/// What the client lacks is not there any more.
fn gone(last: Sequence, oldest: Sequence, end: Sequence) -> Response<Body> {
    let text = format!(
        "{{\"error\":\"gone\",\"received\":{last},\"missing_from\":{},\"kept_from\":{oldest},\
         \"last\":{end},\"reason\":\"events that you lack are not kept any more, and the session is \
         over; ask again without Last-Event-ID for a new one\"}}\n",
        last.saturating_add(1)
    );
    answer(StatusCode::GONE, "application/json", text)
}
