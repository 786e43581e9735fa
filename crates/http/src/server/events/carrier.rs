//! One connection of a session: converts frames of the session to events in the response to a GET.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{Farewell, Frame, Sequence};
use tieline_proto::sse::{self, Taken};
use tieline_proto::websocket::{Close, CloseCode};
use tieline_transport::{CloseReason, Incoming, MemoryRefused};
use tokio::time::{Instant, sleep_until};

use super::QUIET;
use super::plain::until;
use super::session::Session;
use super::table::Stream;
use crate::events::message::{event, last as last_event};
use crate::events::stream::BodyWriter;
use crate::events::{ChannelBackend, Outward};
use crate::server::Server;
use crate::server::exits::failure_of;
use crate::websocket::{close_for, going_away};

/// How long a disconnected client can reconnect for the last event.
const LINGER: Duration = Duration::from_secs(30);
/// While a client reads slowly, the session is kept alive at this interval.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The way in which a connection ended.
pub(super) enum Ended {
    /// The connection to the client or to the session is lost; the client may reconnect.
    Away,
    /// A newer connection has replaced it.
    Overtaken,
    /// The session is over.
    Over,
    /// The server shuts down.
    Closing,
}

/// A connection of a session, and the stream of its GET.
pub(super) struct Carrier<'a> {
    pub(super) server: &'a Server,
    pub(super) stream: &'a Stream,
    pub(super) session: &'a Session,
    pub(super) generation: u64,
    pub(super) backend: ChannelBackend,
}

/// The client's end of the connection.
struct Reader {
    writer: BodyWriter,
    /// The end position in the stream and the number of each event that is not fully written.
    marks: VecDeque<(u64, Sequence)>,
    quiet: Instant,
    /// The connection's progress at the last check.
    moves: u64,
}

impl Carrier<'_> {
    /// Serves the connection until the client, the session or the server ends it.
    pub(super) async fn carry(self, writer: BodyWriter) -> Ended {
        let Self { session, backend, generation, .. } = &self;
        let mut changed = session.changed.subscribe();
        let mut closing = self.server.closing.subscribe();
        let moves = writer.moves();
        let quiet = Instant::now() + QUIET;
        let mut reader = Some(Reader { writer, marks: Default::default(), quiet, moves });
        // How long to wait for the client to reconnect after the last event.
        let mut linger_until: Option<Instant> = None;
        // When to check next whether a slow client still reads.
        let mut next_check = Instant::now() + SIGN_OF_LIFE;
        loop {
            let (known, had_room) = match &mut reader {
                Some(reader) => {
                    // Report here as well as in the wait below, because bytes that were written in
                    // between cause no further wakeup.
                    let known = reader.writer.written();
                    self.wrote(reader);
                    (known, reader.writer.has_room())
                }
                None => (0, true),
            };
            let Some(wake_at) = send_pending(session, *generation, backend) else {
                return Ended::Overtaken;
            };
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
            // After its end, the queue may still hold earlier frames, such as a farewell.
            let is_held_up = !backend.has_room() && !backend.is_over();
            tokio::select! {
                outward = backend.take(), if had_room => {
                    let Outward::Message(frame) = outward else { return Ended::Away };
                    let mut next = Some(frame);
                    while let Some(frame) = next {
                        match self.handle(frame, reader.as_mut()) {
                            FrameOutcome::Nothing => {}
                            FrameOutcome::Over => return Ended::Over,
                            FrameOutcome::Overtaken => return Ended::Overtaken,
                            FrameOutcome::End => {
                                reader = None;
                                linger_until = Some(Instant::now() + LINGER);
                            }
                        }
                        let is_full = reader.as_ref().is_some_and(|it| !it.writer.has_room());
                        next = if is_full { None } else { backend.try_take() };
                    }
                    backend.handed_on();
                }
                () = moved(reader.as_ref(), known, had_room) => {
                    if reader.as_ref().is_some_and(|reader| reader.writer.is_torn()) {
                        return Ended::Away;
                    }
                }
                _ = changed.changed() => {}
                refused = session.out_of_memory() => {
                    self.refuse(refused, reader.as_mut());
                    return Ended::Over;
                }
                () = backend.room(), if is_held_up => {}
                () = until(wake_at), if !is_held_up => {}
                () = until(reader.as_ref().map(|it| it.quiet)) => {
                    let Some(reader) = &mut reader else { continue };
                    reader.quiet = Instant::now() + QUIET;
                    if had_room {
                        reader.writer.write(|out| sse::comment("", out));
                    }
                }
                () = sleep_until(next_check), if !had_room => {
                    // The client still reads, though slowly, so keep the session alive.
                    next_check = Instant::now() + SIGN_OF_LIFE;
                    let Some(reader) = &mut reader else { continue };
                    let moves = reader.writer.moves();
                    if std::mem::replace(&mut reader.moves, moves) != moves && backend.has_room() {
                        let acknowledged = session.core().machine.acknowledged();
                        backend.push(Incoming::Message(Frame::Ack { acknowledged }.to_bytes()));
                    }
                }
                () = until(linger_until) => {
                    linger_until = None;
                    let Some(mut core) = session.mine(*generation) else {
                        return Ended::Overtaken;
                    };
                    core.machine.finish(session.now());
                }
                _ = closing.wait_for(|is_closing| *is_closing) => {
                    if let Some(reader) = &mut reader {
                        reader.writer.write(|out| last_event(&going_away(), None, out));
                    }
                    return Ended::Closing;
                }
            }
        }
    }

    /// Closes the session because the client's posted messages hold too much memory.
    fn refuse(&self, refused: MemoryRefused, reader: Option<&mut Reader>) {
        tracing::warn!(endpoint = %self.server.endpoint, "session closed: {refused}");
        let close = close_for(Some(&refused.into()));
        let sequence = {
            let mut core = self.session.core();
            core.is_lost = true;
            core.machine.last()
        };
        if let Some(reader) = reader {
            let id = format!("{}.{sequence}", self.stream.name);
            reader.writer.write(|out| last_event(&close, Some(&id), out));
        }
        send_bye(self.session, self.generation, &self.backend, refused.to_string());
    }

    /// Handles a frame of the session.
    fn handle(&self, frame: Bytes, reader: Option<&mut Reader>) -> FrameOutcome {
        let taken = {
            let Some(mut core) = self.session.mine(self.generation) else {
                return FrameOutcome::Overtaken;
            };
            let had_room = core.machine.has_room();
            let now = self.session.now();
            let taken = Frame::decode(frame)
                .map_err(Into::into)
                .and_then(|frame| core.machine.receive(now, frame));
            let has_room = core.machine.has_room();
            core.count_memory();
            drop(core);
            if has_room && !had_room {
                self.session.changed.send_replace(());
            }
            taken
        };
        let id = |sequence| format!("{}.{sequence}", self.stream.name);
        let last = |reader: Option<&mut Reader>, close: Close, sequence| {
            if let Some(reader) = reader {
                reader.writer.write(|out| last_event(&close, Some(&id(sequence)), out));
            }
        };
        match taken {
            Ok(None) => FrameOutcome::Nothing,
            Ok(Some(Taken::Event { sequence, message })) if message.is_empty() => {
                // An EventSource ignores an event without data.
                let text = format!(
                    "message {sequence} is empty, and an event cannot carry an empty message"
                );
                tracing::warn!(endpoint = %self.server.endpoint, "session closed: {text}");
                self.session.core().is_lost = true;
                last(reader, Close::because(CloseCode::INTERNAL, &*text), sequence - 1);
                send_bye(self.session, self.generation, &self.backend, text);
                FrameOutcome::Over
            }
            Ok(Some(Taken::Event { sequence, message })) => {
                if let Some(reader) = reader {
                    let id = id(sequence);
                    let at = reader.writer.write(|out| event(&message, Some(&id), out));
                    reader.marks.push_back((at, sequence));
                    reader.quiet = Instant::now() + QUIET;
                }
                FrameOutcome::Nothing
            }
            Ok(Some(Taken::End { sequence })) => {
                last(reader, self.orderly(), sequence);
                FrameOutcome::End
            }
            Ok(Some(Taken::Bye(Farewell { text, .. }))) => {
                let close = match text.is_empty() {
                    true => self.orderly(),
                    false => Close::because(CloseCode::INTERNAL, text),
                };
                let sequence = self.session.core().machine.last();
                last(reader, close, sequence);
                FrameOutcome::Over
            }
            Err(violation) => {
                tracing::warn!(endpoint = %self.server.endpoint, "session closed: {violation}");
                let close =
                    Close::because(CloseCode::INTERNAL, "the session violated its protocol");
                let sequence = {
                    let mut core = self.session.core();
                    core.is_lost = true;
                    core.machine.last()
                };
                last(reader, close, sequence);
                FrameOutcome::Over
            }
        }
    }

    /// Returns the close reason of an orderly end. Events are acknowledged too late for the session to report why
    /// it failed, and it does not report that the server is shutting down, but the server knows.
    fn orderly(&self) -> Close {
        let session = self.session.core().machine.session();
        let failure = session.and_then(|it| failure_of(self.server, it, &self.stream.owner));
        match (failure, self.server.is_ready.load(Relaxed)) {
            (Some(reason), _) => close_for(Some(&reason)),
            (None, true) => Close::new(CloseCode::NORMAL),
            (None, false) => going_away(),
        }
    }

    /// Tells the session which events were fully written to the client's connection.
    fn wrote(&self, reader: &mut Reader) {
        let written = reader.writer.written();
        let mut last = None;
        while let Some(&(at, sequence)) = reader.marks.front() {
            if at > written {
                break;
            }
            reader.marks.pop_front();
            last = Some(sequence);
        }
        if let (Some(last), Some(mut core)) = (last, self.session.mine(self.generation)) {
            core.machine.wrote(self.session.now(), last);
        }
    }

    /// Sends the session all messages that were posted before the client left, and ends the stream.
    fn bye(&self, reader: Option<&mut Reader>) {
        bye(self.session, self.generation, &self.backend);
        if let Some(reader) = reader {
            reader.writer.write(|out| last_event(&Close::new(CloseCode::NORMAL), None, out));
        }
    }
}

/// Sends the session its pending frames, and returns when to send more. Returns `None` if a newer
/// connection has replaced this one.
fn send_pending(
    session: &Session,
    generation: u64,
    backend: &ChannelBackend,
) -> Option<Option<Instant>> {
    let mut core = session.mine(generation)?;
    let now = session.now();
    while backend.has_room() {
        let Some(frame) = core.machine.next(now) else { break };
        backend.push(Incoming::Message(frame.to_bytes()));
    }
    Some(core.machine.wake_at().map(|at| session.begun + at))
}

/// Sends the last frames of a client that has left.
pub(super) fn bye(session: &Session, generation: u64, backend: &ChannelBackend) {
    if let Some(mut core) = session.mine(generation) {
        core.machine.finish(session.now());
    }
    send_bye(session, generation, backend, String::new());
}

/// Ends the session, for the reason in `text` if there is one.
fn send_bye(session: &Session, generation: u64, backend: &ChannelBackend, text: String) {
    let Some(received) = session.mine(generation).map(|core| core.machine.acknowledged()) else {
        return;
    };
    send_pending(session, generation, backend);
    let farewell = Farewell { received, text };
    backend.push(Incoming::Message(Frame::Bye(farewell).to_bytes()));
    backend.end_inward(CloseReason::ByPeer);
}

/// The result of handling a frame.
enum FrameOutcome {
    Nothing,
    /// The last event was written.
    End,
    /// The session is over.
    Over,
    Overtaken,
}

async fn moved(reader: Option<&Reader>, known: u64, had_room: bool) {
    match reader {
        Some(reader) => reader.writer.moved(known, had_room).await,
        None => std::future::pending().await,
    }
}
