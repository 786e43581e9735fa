//! Event streams (server-sent events), and the POSTs to them.
//!
//! ```text
//!   GET /sse                            the stream                       its acceptor
//!   Tieline-Protocol: tieline           a plain line, which ends with    plain
//!                                       the stream
//!   Tieline-Protocol: tieline.1         frames of the client's session   resumable
//!   (neither)                           an EventSource: the server       resumable; if that is dropped,
//!                                       keeps a session on its behalf    a plain line without ids
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
use super::body::{Body, Inbound, answer, line, no_content, read};
use super::count::count;
use super::route::{ConnectionContext, busy};
use super::{Server, WebLine};
use crate::events::message::{framed, messages};
use crate::events::stream::{BodyWriter, Events, Progress, stream};
use crate::events::{
    ChannelParams, ENDPOINT, EVENT_STREAM, FRAMES, HALF_CLOSE, PROTOCOL, SEQUENCE, SSE_PATH, YES,
    pair,
};
use crate::handshake::{PLAIN, RESUMABLE};
use tieline_proto::sse::{self, Encoder};

/// After this time, a comment is sent on an idle stream.
const QUIET: Duration = Duration::from_secs(15);
/// How much longer than one message a body of length-prefixed messages may be, in bytes.
const BATCH: usize = 256 * 1024;
/// How long messages in flight may still be delivered to a client that has left.
const GOODBYE: Duration = Duration::from_secs(10);

const TOO_MANY: &str = "too many clients are connected or waiting; try again later";

/// Handles `GET`: opens an event stream.
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
        Some(_) => line(
            StatusCode::BAD_REQUEST,
            "unknown Tieline-Protocol; use `tieline` or `tieline.1`, or leave the header out",
        ),
        None if server.resumable.is_closed() => plain::open(server, context, owner, None),
        None => match one(headers, "last-event-id") {
            Ok(id) => session::open(server, context, owner, id.filter(|id| !id.is_empty())).await,
            Err(response) => *response,
        },
    }
}

/// Handles `POST`: accepts messages for a stream.
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
                Ok(0) => return Err(no(StatusCode::BAD_REQUEST, "Tieline-Sequence begins with 1")),
                Ok(sequence) => Some(sequence),
                Err(_) => return Err(no(StatusCode::BAD_REQUEST, "Tieline-Sequence is too large")),
            }
        }
        Some(_) => {
            return Err(no(StatusCode::BAD_REQUEST, "Tieline-Sequence must be a decimal number"));
        }
    };
    let proven = match one(&parts.headers, "last-event-id")?.filter(|id| !id.is_empty()) {
        None => None,
        Some(id) => match read_id(id) {
            Some((name, last)) if name == stream.name => Some(last),
            _ => {
                return Err(no(
                    StatusCode::BAD_REQUEST,
                    "Last-Event-ID is not an event id of this stream",
                ));
            }
        },
    };
    let is_carrier = matches!(&stream.line, Line::Plain { is_carrier: true, .. });
    let ends_input = match one(&parts.headers, HALF_CLOSE)? {
        None => false,
        Some(YES) if matches!(&stream.line, Line::Plain { is_carrier: false, .. }) => true,
        Some(YES) => {
            let text =
                "this stream is a session; end its input with DELETE or with the session protocol";
            return Err(no(StatusCode::BAD_REQUEST, text));
        }
        Some(_) => {
            return Err(no(StatusCode::BAD_REQUEST, "the value of Tieline-Half-Close must be 1"));
        }
    };
    let is_framed = is_carrier || parts.headers.get(header::CONTENT_TYPE).is_some_and(is_frames);
    let largest = server.web_socket.channel.max_message;
    let largest = if is_carrier { carrier_limit(largest) } else { largest };
    // Short messages may precede one of maximum length.
    let max = largest.bytes().saturating_add(if is_framed { BATCH } else { 0 });
    // `_held` keeps the bytes counted until the line's queue counts them or they are dropped.
    let on_bytes = |bytes| {
        if let Line::Plain { backend, .. } = &stream.line {
            backend.received_part(bytes);
        }
    };
    let (body, _held) = read(server, body, max, on_bytes).await?;
    let messages = if is_framed {
        framed(body, largest).ok_or_else(|| {
            no(StatusCode::BAD_REQUEST, "the body is not a sequence of length-prefixed messages")
        })?
    } else {
        let text = messages(body, server.json.unwrap_or_default());
        text.map_err(|_| {
            no(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body has too many messages; send fewer in one POST",
            )
        })?
    };
    if !is_carrier && messages.iter().any(Bytes::is_empty) {
        // No message of the body is taken, so that the client knows which messages were taken.
        return Err(no(
            StatusCode::BAD_REQUEST,
            "the body has an empty message, which cannot be delivered",
        ));
    }
    let limits = server.json.filter(|_| !is_carrier);
    let is_fault = |message: &Bytes| {
        limits.is_some_and(|limits| Fault::unless_json(message, limits).is_some())
    };
    if messages.iter().any(is_fault) {
        return Err(no(
            StatusCode::BAD_REQUEST,
            "a message in the body is not valid JSON, or exceeds the limits",
        ));
    }
    let posted = Posted { sequence, proven, messages, ends_input };
    let waiting = take_in_turn(server, &stream, posted);
    match timeout(server.limits.take_wait, waiting).await {
        Ok(taken) => taken,
        Err(_) => Err(Box::new(busy(
            server,
            "the program did not take the messages in time; try again later",
        ))),
    }
}

/// Returns whether a content type, with any parameters, is that of length-prefixed messages.
fn is_frames(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FRAMES))
}

/// The content of a POST.
struct Posted {
    /// The POST's sequence number in the stream.
    sequence: Option<u64>,
    /// The last event that the client has received, if the request states it.
    proven: Option<u64>,
    messages: Vec<Bytes>,
    /// Whether the client's input ends after these messages.
    ends_input: bool,
}

/// Takes the messages in the order of the POSTs. Cancel-safe: takes all or none.
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
            let text = format!("unexpected Tieline-Sequence; the next one is {}", *posts + 1);
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
                        return Err(no(StatusCode::GONE, "the line has ended; open a new stream"));
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

/// Handles `DELETE`: ends the stream of a client that leaves.
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
            no_content()
        }
    }
}

/// Finds the stream that a request names, if it belongs to `owner`.
fn find(server: &Server, owner: Owner, uri: &Uri) -> Result<Arc<Stream>, Refusal> {
    let query = uri.query().unwrap_or_default();
    let name = query.split('&').find_map(|it| it.strip_prefix("session=")).unwrap_or_default();
    match server.events.find(name, owner) {
        Found::Live(stream) => Ok(stream),
        Found::Over(_) => Err(no(StatusCode::GONE, "the stream has ended; open a new one")),
        Found::Nothing => Err(no(StatusCode::NOT_FOUND, "unknown stream; open a new one with GET")),
    }
}

/// Returns the value of a header that must not be repeated.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    let value = values.next().map(|value| value.to_str());
    match (value, values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value.trim())),
        _ => {
            let text = format!("the header {name} is repeated or not text");
            Err(no(StatusCode::BAD_REQUEST, &text))
        }
    }
}

/// Creates the response of an event stream with tieline's own protocol, and the writer of its body.
fn begin(
    server: &Server,
    context: &ConnectionContext,
    protocol: Option<&'static str>,
) -> (BodyWriter, Response<Body>) {
    let (writer, mut response) = event_stream(server, context.progress.clone());
    if let Some(protocol) = protocol {
        let name = HeaderName::from_static(PROTOCOL);
        response.headers_mut().insert(name, HeaderValue::from_static(protocol));
    }
    (writer, response)
}

/// Creates the response of an event stream over a connection with this progress, and the writer of its body.
pub(super) fn event_stream(
    server: &Server,
    progress: Arc<Progress>,
) -> (BodyWriter, Response<Body>) {
    let (writer, events): (BodyWriter, Events) = stream(progress, server.memory.as_ref());
    let mut response = answer(StatusCode::OK, EVENT_STREAM, Bytes::new());
    *response.body_mut() = Body::Stream(Box::pin(events));
    // Tells nginx not to buffer the events.
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), no);
    (writer, response)
}

/// Writes the start of every stream: a comment, and the URL for POSTs.
fn welcome(writer: &mut BodyWriter, stream: &Stream, last: Option<u64>) {
    // The URL is relative to that of the stream, so that it is right behind a proxy that strips a
    // prefix.
    let uri = format!("{}?session={}", SSE_PATH.trim_start_matches('/'), stream.name);
    let id = last.map(|last| format!("{}.{last}", stream.name));
    writer.write(|out| {
        sse::comment("tieline", out);
        let Ok(event) = Encoder::default().event(ENDPOINT) else { return };
        let event = id.as_deref().map_or(Ok(event), |id| event.id(id)).unwrap_or(event);
        let _ = event.data(uri.as_bytes(), out);
    });
}

/// Returns the parameters of a new channel.
pub(super) fn channel_of(server: &Server, owner: Owner, is_carrier: bool) -> ChannelParams {
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
        // The server's side cannot end only its input; it ends the whole line.
        half_close: false,
        acknowledges_late: false,
    }
}

/// Returns the length of the longest accepted body if messages have at most `max_message` bytes.
pub(super) fn longest_body(max_message: ByteSize) -> usize {
    carrier_limit(max_message).bytes().saturating_add(BATCH)
}

/// Returns the maximum size of a session's frame, which holds one message of up to `max` bytes.
fn carrier_limit(max: ByteSize) -> ByteSize {
    ByteSize::new(max.bytes().saturating_add(OVERHEAD))
}

/// Opens a plain line for a call by POST, and returns the server's end of it.
pub(super) fn open_call(server: &Server, owner: Owner) -> Option<crate::events::ChannelBackend> {
    let place = server.plain.clone().try_reserve_owned().ok()?;
    let (channel, backend) = pair(channel_of(server, owner, false));
    place.send(WebLine::Events(channel));
    Some(backend)
}

/// Returns why a connection was lost.
fn torn(writer: &BodyWriter) -> CloseReason {
    match writer.refused() {
        Some(refused) => refused.into(),
        None if writer.has_stalled() => CloseReason::Stalled,
        None => CloseReason::ByPeer,
    }
}
