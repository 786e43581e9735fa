//! Lines that end with their stream. They carry plain messages, or the frames of a client's session.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};
use tieline_proto::sse;
use tieline_transport::{CloseReason, Owner};
use tokio::time::{Instant, sleep_until};

use super::table::{Line, Stream};
use super::{GOODBYE, QUIET, TOO_MANY, begin, channel_of, torn, welcome};
use crate::events::message::{carried, event, last};
use crate::events::stream::BodyWriter;
use crate::events::{ChannelBackend, HALF_CLOSE, Outward, YES, pair};
use crate::handshake::RESUMABLE;
use crate::server::body::Body;
use crate::server::count::count;
use crate::server::route::{ConnectionContext, busy};
use crate::server::{Server, WebLine};
use crate::websocket::going_away;

/// Opens a stream if its line can be queued for the acceptor.
pub(super) fn open(
    server: &Arc<Server>,
    context: &ConnectionContext,
    owner: Owner,
    protocol: Option<&'static str>,
) -> Response<Body> {
    let is_carrier = protocol == Some(RESUMABLE);
    let queue = if is_carrier { &server.resumable } else { &server.plain };
    let Ok(place) = queue.clone().try_reserve_owned() else { return busy(server, TOO_MANY) };
    let (channel, backend) = pair(channel_of(server, owner, is_carrier));
    backend.goes_over(context.progress.clone());
    let Some(stream) = server.events.add(owner, Line::Plain { backend, is_carrier }) else {
        return busy(server, TOO_MANY);
    };
    let (mut writer, mut response) = begin(server, context, protocol);
    if !is_carrier {
        let name = HeaderName::from_static(HALF_CLOSE);
        response.headers_mut().insert(name, HeaderValue::from_static(YES));
    }
    welcome(&mut writer, &stream, None);
    count(&server.counters.event_streams);
    place.send(WebLine::Events(channel));
    tokio::spawn(run(server.clone(), stream, writer));
    response
}

/// Delivers outgoing messages until the line ends on either side.
async fn run(server: Arc<Server>, stream: Arc<Stream>, mut writer: BodyWriter) {
    if let Line::Plain { backend, is_carrier } = &stream.line {
        let reason = carry(&server, &stream, backend, *is_carrier, &mut writer).await;
        backend.end(reason);
    }
    server.events.remove(&stream);
}

async fn carry(
    server: &Server,
    stream: &Stream,
    backend: &ChannelBackend,
    is_carrier: bool,
    writer: &mut BodyWriter,
) -> CloseReason {
    let mut closing = server.closing.subscribe();
    let mut quiet = Instant::now() + QUIET;
    // When to stop delivering messages in flight after the client has left.
    let mut leave_until: Option<Instant> = None;
    // The connection's progress at the last check.
    let mut moved = 0;
    let mut pushed = 0;
    loop {
        let (known, had_room) = (writer.written(), writer.has_room());
        if known >= pushed {
            backend.handed_on();
        }
        tokio::select! {
            outward = backend.take(), if had_room => match outward {
                Outward::Message(message) => {
                    pushed = write(writer, is_carrier, &message);
                    while writer.has_room() {
                        let Some(message) = backend.try_take() else { break };
                        pushed = write(writer, is_carrier, &message);
                    }
                    quiet = Instant::now() + QUIET;
                }
                Outward::End(close) => {
                    if !is_carrier {
                        writer.write(|out| last(&close, None, out));
                    }
                    return CloseReason::ByUs;
                }
            },
            () = writer.moved(known, had_room) => {
                if writer.is_torn() {
                    return torn(writer);
                }
            }
            () = stream.leaves.notified(), if leave_until.is_none() => {
                backend.end_inward(CloseReason::ByPeer);
                leave_until = Some(Instant::now() + GOODBYE);
                moved = writer.moves();
            }
            () = sleep_until(quiet) => {
                if had_room {
                    writer.write(|out| sse::comment("", out));
                }
                quiet = Instant::now() + QUIET;
            }
            () = until(leave_until) => {
                if writer.written() >= pushed {
                    return CloseReason::ByPeer;
                }
                // A long message is still being written to the client.
                let moves = writer.moves();
                if std::mem::replace(&mut moved, moves) == moves {
                    return CloseReason::Stalled;
                }
                leave_until = Some(Instant::now() + GOODBYE);
            }
            _ = closing.wait_for(|is_closing| *is_closing) => {
                if !is_carrier {
                    writer.write(|out| last(&going_away(), None, out));
                }
                return CloseReason::ByUs;
            }
        }
    }
}

fn write(writer: &mut BodyWriter, is_carrier: bool, message: &Bytes) -> u64 {
    writer.write(|out| match is_carrier {
        true => carried(message, out),
        false => event(message, None, out),
    })
}

/// Waits until `moment`, or forever if there is none.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
