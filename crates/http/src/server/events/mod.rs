//! Streams of events, and what is posted to them.
//!
//! ```text
//!   GET /sse                            what it is                       where it goes
//!   Tieline-Protocol: tieline           a line that ends with it         plain
//!   Tieline-Protocol: tieline.1         frames of the client's session   resumable
//!   (neither)                           an EventSource: a session that   resumable; plain, without ids,
//!                                       is resumed here in its place     if nobody takes sessions
//! ```

mod carrier;
mod plain;
mod session;
mod table;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use tieline_proto::session::OVERHEAD;
use tieline_proto::{ByteSize, Fault};
use tieline_transport::{CloseReason, Incoming, Owner, TransportKind};
use tokio::time::timeout;

pub(super) use table::Table;

use self::table::{Found, Line, Stream, read_id};
use super::body::{Body, Inbound, answer, line, read};
use super::count::count;
use super::route::{ConnectionContext, busy};
use super::{Server, WebLine};
use crate::events::message::{framed, messages};
use crate::events::stream::{BodyWriter, Events, stream};
use crate::events::{
    ChannelParams, ENDPOINT, EVENT_STREAM, FRAMES, HALF_CLOSE, PROTOCOL, SEQUENCE, SSE_PATH, YES,
    pair,
};
use crate::handshake::{PLAIN, RESUMABLE};
use tieline_proto::sse::{self, Encoder};

/// A comment says so often that the line is still there.
const QUIET: Duration = Duration::from_secs(15);
/// What a body with messages behind their lengths may have beyond one message.
const BATCH: usize = 256 * 1024;
/// How long a client that has left may still be told what is on its way to it.
const GOODBYE: Duration = Duration::from_secs(10);

const TOO_MANY: &str = "there are too many at once; try again later";

/// `GET`: a stream of events.
pub(super) async fn open(
    server: &Arc<Server>,
    context: &ConnectionContext,
    owner: Owner,
    request: &Request<Inbound>,
) -> Response<Body> {
    let headers = request.headers();
    let asked = match one(headers, PROTOCOL) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    match asked {
        Some(PLAIN) => plain::open(server, context, owner, Some(PLAIN)),
        Some(RESUMABLE) => plain::open(server, context, owner, Some(RESUMABLE)),
        Some(_) => line(StatusCode::BAD_REQUEST, "that protocol is not spoken here"),
        None if server.resumable.is_closed() => plain::open(server, context, owner, None),
        None => match one(headers, "last-event-id") {
            Ok(id) => session::open(server, context, owner, id.filter(|id| !id.is_empty())).await,
            Err(response) => *response,
        },
    }
}

/// `POST`: messages for a stream.
pub(super) async fn post(
    server: &Arc<Server>,
    owner: Owner,
    request: Request<Inbound>,
) -> Response<Body> {
    let posted = take(server, owner, request).await;
    posted.unwrap_or_else(|refused| *refused)
}

type Refusal = Box<Response<Body>>;

fn no(status: StatusCode, text: &str) -> Refusal {
    Box::new(line(status, text))
}

async fn take(
    server: &Arc<Server>,
    owner: Owner,
    request: Request<Inbound>,
) -> Result<Response<Body>, Refusal> {
    let stream = find(server, owner, request.uri())?;
    let (parts, body) = request.into_parts();
    let sequence = match one(&parts.headers, SEQUENCE)? {
        None => None,
        Some(text) if !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit()) => {
            match text.parse() {
                Ok(0) => return Err(no(StatusCode::BAD_REQUEST, "POSTs are counted from 1")),
                Ok(sequence) => Some(sequence),
                Err(_) => return Err(no(StatusCode::BAD_REQUEST, "nobody counts so far")),
            }
        }
        Some(_) => return Err(no(StatusCode::BAD_REQUEST, "Tieline-Sequence is a number")),
    };
    let proven = match one(&parts.headers, "last-event-id")?.filter(|id| !id.is_empty()) {
        None => None,
        Some(id) => match read_id(id) {
            Some((name, last)) if name == stream.name => Some(last),
            _ => return Err(no(StatusCode::BAD_REQUEST, "that is no id of this stream's events")),
        },
    };
    let is_carrier = matches!(&stream.line, Line::Plain { is_carrier: true, .. });
    let ends_input = match one(&parts.headers, HALF_CLOSE)? {
        None => false,
        Some(YES) if matches!(&stream.line, Line::Plain { is_carrier: false, .. }) => true,
        Some(YES) => {
            let text =
                "this stream is a session, whose input is ended by its own protocol or by DELETE";
            return Err(no(StatusCode::BAD_REQUEST, text));
        }
        Some(_) => {
            return Err(no(StatusCode::BAD_REQUEST, "the value of Tieline-Half-Close must be 1"));
        }
    };
    let is_framed = is_carrier || parts.headers.get(header::CONTENT_TYPE).is_some_and(is_frames);
    let largest = server.web_socket.channel.max_message;
    let largest = if is_carrier { carrier_limit(largest) } else { largest };
    // Several that are short may stand in front of one that is as long as any.
    let most = largest.bytes().saturating_add(if is_framed { BATCH } else { 0 });
    // Its room is kept until the line's queue has it, or nobody.
    let heard = |bytes| {
        if let Line::Plain { backend, .. } = &stream.line {
            backend.hear(bytes);
        }
    };
    let (body, _held) = read(server, body, most, heard).await?;
    let messages = if is_framed {
        framed(body, largest).ok_or_else(|| no(StatusCode::BAD_REQUEST, "these are no frames"))?
    } else {
        let text = messages(body, server.json.unwrap_or_default());
        text.map_err(|_| no(StatusCode::PAYLOAD_TOO_LARGE, "there are too many messages in it"))?
    };
    if !is_carrier && messages.iter().any(Bytes::is_empty) {
        // None of them is taken, so that the client can tell what was.
        return Err(no(StatusCode::BAD_REQUEST, "an empty message cannot be passed on"));
    }
    if let (Some(limits), false) = (server.json, is_carrier)
        && messages.iter().any(|message| Fault::unless_json(message, limits).is_some())
    {
        return Err(no(StatusCode::BAD_REQUEST, "that is no JSON"));
    }
    let posted = Posted { sequence, proven, messages, ends_input };
    let waiting = take_in_turn(server, &stream, posted);
    match timeout(server.limits.take_wait, waiting).await {
        Ok(taken) => taken,
        Err(_) => Err(Box::new(busy(server, "more comes than is taken; try again later"))),
    }
}

/// Whether a type is that of frames, whatever parameters it has.
fn is_frames(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FRAMES))
}

/// The content of a POST.
struct Posted {
    /// Its number among those of its stream.
    sequence: Option<u64>,
    /// The last event that the client has received, if it says so.
    proven: Option<u64>,
    messages: Vec<Bytes>,
    /// The client's input ends after them.
    ends_input: bool,
}

/// Takes messages behind those that came before them. Cancel-safe: it takes all or none.
async fn take_in_turn(
    server: &Server,
    stream: &Stream,
    Posted { sequence, proven, messages, ends_input }: Posted,
) -> Result<Response<Body>, Refusal> {
    let mut posts = stream.posts.lock().await;
    if let (Some(proven), Line::Session(session)) = (proven, &stream.line) {
        session.proven(proven)?;
    }
    let accepted = || line(StatusCode::ACCEPTED, "");
    match sequence {
        Some(sequence) if sequence <= *posts => return Ok(accepted()),
        Some(sequence) if sequence > *posts + 1 => {
            let text = format!("the next POST is number {}", *posts + 1);
            return Err(no(StatusCode::CONFLICT, &text));
        }
        _ => {}
    }
    if !messages.is_empty() {
        match &stream.line {
            Line::Plain { backend, .. } => {
                backend.room().await;
                if backend.is_half_closed() {
                    let text = "the client has already ended its input";
                    return Err(no(StatusCode::GONE, text));
                }
                for message in messages {
                    if !backend.push(Incoming::Message(message)) {
                        return Err(no(StatusCode::GONE, "the line has ended"));
                    }
                }
            }
            Line::Session(session) => session.post(messages).await?,
        }
    }
    if let (true, Line::Plain { backend, .. }) = (ends_input, &stream.line) {
        backend.half_close();
    }
    if let Some(sequence) = sequence {
        *posts = sequence;
    }
    count(&server.counters.posts);
    Ok(accepted())
}

/// `DELETE`: the client is done.
pub(super) fn delete(
    server: &Arc<Server>,
    owner: Owner,
    request: &Request<Inbound>,
) -> Response<Body> {
    match find(server, owner, request.uri()) {
        Err(refused) => *refused,
        Ok(stream) => {
            session::leave(server, owner, &stream);
            stream.leaves.notify_one();
            let mut response = line(StatusCode::NO_CONTENT, "");
            *response.body_mut() = Body::Whole(Bytes::new());
            response
        }
    }
}

/// The stream that a request is for, if it is one of whoever makes it.
fn find(server: &Server, owner: Owner, uri: &Uri) -> Result<Arc<Stream>, Refusal> {
    let query = uri.query().unwrap_or_default();
    let name = query.split('&').find_map(|it| it.strip_prefix("session=")).unwrap_or_default();
    match server.events.find(name, owner) {
        Found::Live(stream) => Ok(stream),
        Found::Over(_) => Err(no(StatusCode::GONE, "it is over")),
        Found::Nothing => Err(no(StatusCode::NOT_FOUND, "there is no such stream")),
    }
}

/// The one value of a header that may stand once.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    let value = values.next().map(|value| value.to_str());
    match (value, values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value.trim())),
        _ => Err(no(StatusCode::BAD_REQUEST, "a header stands twice, or is no text")),
    }
}

/// The answer that goes on, and the pen that writes it.
fn begin(
    server: &Server,
    context: &ConnectionContext,
    protocol: Option<&'static str>,
) -> (BodyWriter, Response<Body>) {
    let (writer, events): (BodyWriter, Events) =
        stream(context.progress.clone(), server.memory.as_ref());
    let mut response = answer(StatusCode::OK, EVENT_STREAM, Bytes::new());
    *response.body_mut() = Body::Stream(Box::pin(events));
    let headers = response.headers_mut();
    // For nginx, which would keep events back until there are many.
    let no = HeaderValue::from_static("no");
    headers.insert(HeaderName::from_static("x-accel-buffering"), no);
    if let Some(protocol) = protocol {
        let name = HeaderName::from_static(PROTOCOL);
        headers.insert(name, HeaderValue::from_static(protocol));
    }
    (writer, response)
}

/// How every stream begins: with a sign of life, and where to post.
fn welcome(writer: &mut BodyWriter, stream: &Stream, last: Option<u64>) {
    // Relative to the URL of the stream, so that it is right behind a proxy that strips a prefix.
    let uri = format!("{}?session={}", SSE_PATH.trim_start_matches('/'), stream.name);
    let id = last.map(|last| format!("{}.{last}", stream.name));
    writer.write(|out| {
        sse::comment("tieline", out);
        let Ok(event) = Encoder::default().event(ENDPOINT) else { return };
        let event = id.as_deref().map_or(Ok(event), |id| event.id(id)).unwrap_or(event);
        let _ = event.data(uri.as_bytes(), out);
    });
}

/// What the channels of a server are.
fn channel_of(server: &Server, owner: Owner, is_carrier: bool) -> ChannelParams {
    let mut config = server.web_socket.channel;
    if is_carrier {
        config.max_message = carrier_limit(config.max_message);
    }
    ChannelParams {
        kind: TransportKind::custom(if server.is_secure { "https" } else { "http" }),
        endpoint: server.endpoint.clone(),
        peer: owner.user,
        principal: owner.principal,
        unauthenticated: server.access.is_open(),
        config,
        memory: server.memory.clone(),
        is_carrier,
        // A server only ends the whole line.
        half_close: false,
    }
}

/// The longest body that is taken, where a message is at most so long.
pub(super) fn longest_body(max_message: ByteSize) -> usize {
    carrier_limit(max_message).bytes().saturating_add(BATCH)
}

/// A frame of a session has a message in it, which may be as long as any.
fn carrier_limit(most: ByteSize) -> ByteSize {
    ByteSize::new(most.bytes().saturating_add(OVERHEAD))
}

/// A plain line that nothing is known of but what a POST brings: its far end, handed over.
pub(super) fn called(server: &Server, owner: Owner) -> Option<crate::events::ChannelBackend> {
    let place = server.plain.clone().try_reserve_owned().ok()?;
    let (channel, backend) = pair(channel_of(server, owner, false));
    place.send(WebLine::Events(channel));
    Some(backend)
}

/// Whose doing it was that a connection is gone.
fn torn(writer: &BodyWriter) -> CloseReason {
    match writer.refused() {
        Some(refused) => refused.into(),
        None if writer.has_stalled() => CloseReason::Stalled,
        None => CloseReason::ByPeer,
    }
}
