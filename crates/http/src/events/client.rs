//! Opens an event stream, and POSTs messages to the URL that the stream names.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming as IncomingBody};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderName};
use hyper::{Request, StatusCode};
use tieline_proto::json::Limits;
use tieline_proto::sse::{Event, Item, Parser};
use tieline_proto::{ByteSize, Fault, FrameError};
use tieline_transport::{
    BoxFuture, ChannelConfig, CloseReason, Connector, DynAcceptor, DynConnector, Endpoint,
    ErrorKind, Incoming, Operation, Options, Scheme, TransportError, TransportKind,
};
use tokio::time::timeout;

use super::backend::{ChannelBackend, Outward};
use super::channel::{ChannelParams, EventChannel, pair};
use super::message::{decoded, limits, why};
use super::posting::{FullBody, PostBody, PostClient, PostFailed};
use super::reference::resolve;
use super::{BINARY, END, ENDPOINT, EVENT_STREAM, HALF_CLOSE, PROTOCOL, YES};
use crate::address::WebAddress;
use crate::credentials::unsendable;
use crate::dial_error::{lost, no_session};
use crate::dialer::{Client, Dialer};
use crate::handshake::one;
use crate::handshake::{PLAIN, RESUMABLE};
use crate::stream::Hyper;
use crate::switch::{MAX_HEADERS, gone};
use crate::task::Task;
use crate::websocket::reason_of;

/// A tieline server that is silent for this long is considered lost: it sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(40);
/// How long messages in transit may take to arrive after this side has ended.
const GOODBYE: Duration = Duration::from_secs(10);
/// How long the DELETE request may take.
const DISMISSAL: Duration = Duration::from_secs(2);
/// If fewer bytes than this arrive in an interval, they are taken for comments, not for a part of a
/// message.
const MOVES: u64 = 1024;

/// The schemes for events and POSTs.
pub(crate) struct EventStreams(pub(crate) Arc<Client>);

impl Scheme for EventStreams {
    fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError> {
        options.channel.validate()?;
        let address = WebAddress::of(endpoint)?;
        if endpoint.framing().is_some() {
            let kind = ErrorKind::UnsupportedOperation;
            let error = TransportError::new(kind, Operation::Configure);
            return Err(error.with_hint("omit the framing: events delimit messages themselves"));
        }
        Ok(Box::new(EventConnector {
            dialer: Arc::new(Dialer::new(self.0.clone(), endpoint, address, options)?),
            endpoint: endpoint.clone(),
            kind: TransportKind::custom(match endpoint.scheme() {
                "https" => "https",
                "http-unix" => "http-unix",
                "http-pipe" => "http-pipe",
                _ => "http",
            }),
            is_carrier: endpoint.is_carrier(),
            json: options.json.then(Limits::default),
            channel: options.channel,
        }))
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        _: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynAcceptor>, TransportError>> {
        Box::pin(async move {
            let error = TransportError::new(ErrorKind::UnsupportedOperation, Operation::Listen);
            Err(error
                .at(endpoint)
                .with_hint("to listen on HTTP, use `tieline serve` or `HttpServer`"))
        })
    }
}

struct EventConnector {
    dialer: Arc<Dialer>,
    endpoint: Endpoint,
    kind: TransportKind,
    is_carrier: bool,
    json: Option<Limits>,
    channel: ChannelConfig,
}

impl Connector for EventConnector {
    type Channel = EventChannel;

    async fn connect(&self) -> Result<EventChannel, TransportError> {
        self.dialer.in_time(&self.endpoint, self.dial()).await
    }
}

impl EventConnector {
    async fn dial(&self) -> Result<EventChannel, TransportError> {
        let gone = gone(no_events);
        let (stream, peer) = self.dialer.reach().await?;
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEADERS).max_buf_size(64 * 1024);
        let (mut send, connection) = builder.handshake(Hyper::new(stream)).await.map_err(&gone)?;
        let connection = Task(tokio::spawn(connection).abort_handle());
        let response = send.send_request(self.request()?).await.map_err(&gone)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(self.dialer.denied(status));
        }
        let kind = one(response.headers(), &header::CONTENT_TYPE).unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some(EVENT_STREAM) {
            return Err(no_events(format!("the content type is {kind:?}, not {EVENT_STREAM:?}")));
        }
        let accepted = one(response.headers(), &HeaderName::from_static(PROTOCOL));
        let is_ours = accepted == Some(self.protocol());
        if self.is_carrier && !is_ours {
            let problem = format!("the server did not accept the protocol {RESUMABLE}");
            return Err(no_session(problem));
        }
        let half_close = one(response.headers(), &HeaderName::from_static(HALF_CLOSE));
        let half_close = is_ours && !self.is_carrier && half_close == Some(YES);
        let mut reader = Reader {
            body: response.into_body(),
            parser: Parser::new(limits(self.channel.max_message)),
            bytes: Bytes::new(),
            is_ours,
            is_carrier: self.is_carrier,
            json: self.json,
            max: self.channel.max_message,
            _connection: connection,
        };
        let target = loop {
            match reader.next(None).await {
                Ok(Some(Item::Event(event))) if event.event == ENDPOINT => {
                    break self.posted_to(&event)?;
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    return Err(no_events(
                        "the stream ended before the event with the URL for POSTs".into(),
                    ));
                }
                Err(reason) => return Err(lost(reason)),
            }
        };
        let params = ChannelParams {
            kind: self.kind,
            endpoint: self.endpoint.clone(),
            peer,
            principal: None,
            unauthenticated: false,
            config: self.channel,
            memory: self.dialer.memory.clone(),
            is_carrier: self.is_carrier,
            half_close,
            acknowledges_late: false,
        };
        let (channel, backend) = pair(params);
        let stall = self.channel.stall_timeout;
        let client = PostClient::new(self.dialer.clone(), target, is_ours, stall);
        backend.goes_over(client.progress());
        tokio::spawn(drive(reader, client, backend));
        Ok(channel)
    }

    fn protocol(&self) -> &'static str {
        if self.is_carrier { RESUMABLE } else { PLAIN }
    }

    fn request(&self) -> Result<Request<FullBody>, TransportError> {
        let request = Request::get(self.dialer.uri(&self.dialer.address.target))
            .header(header::ACCEPT, EVENT_STREAM)
            .header(header::CACHE_CONTROL, "no-store")
            .header(PROTOCOL, self.protocol());
        let request = self.dialer.introduce(request)?;
        request.body(FullBody::default()).map_err(|_| unsendable("the path"))
    }

    /// Returns the path for POSTs. It must be on the same server, so that messages and the token are not
    /// sent elsewhere.
    fn posted_to(&self, event: &Event) -> Result<String, TransportError> {
        let text = std::str::from_utf8(&event.data).unwrap_or_default().trim();
        resolve(&self.dialer.address, text).ok_or_else(|| {
            no_events(format!("the URL for POSTs has another origin: {}", text.escape_debug()))
        })
    }
}

fn no_events(problem: String) -> TransportError {
    TransportError::handshake("server-sent events", problem).with_hint(
        "check the path (/sse on a tieline server), that the server sends events there, and whether it expects TLS",
    )
}

/// Runs both directions until the line ends.
async fn drive(mut reader: Reader, mut client: PostClient, backend: ChannelBackend) {
    let (is_ours, is_carrier) = (reader.is_ours, reader.is_carrier);
    let ended = {
        let mut reading = pin!(reader.read(&backend));
        let written = tokio::select! {
            // The line may end before the response to the POST that ended the input.
            reason = &mut reading => Err(Ok(reason)),
            written = write(&mut client, &backend) => written.map_err(Err),
        };
        let (has_ended_input, reason) = match written {
            // The server ends the line, unless the channel is dropped first.
            Ok(Written::InputEnded) => tokio::select! {
                reason = &mut reading => (true, Some(reason)),
                () = backend.over() => (true, None),
            },
            Ok(Written::All) => (false, None),
            Err(Ok(reason)) => (backend.ended_input(), Some(reason)),
            Err(Err(Unsent { failed: PostFailed { reason, is_over }, bytes })) => {
                // The server refuses POSTs after the end of the line, and the stream ends with the reason. That
                // of a session ends with its last frames.
                let may_be_over = matches!(reason, CloseReason::Io(_)) && is_ours && !is_carrier;
                let ended = match is_over || may_be_over {
                    true => while_it_comes(&backend, reading.as_mut()).await,
                    false => None,
                };
                let reason = match ended {
                    // The other side did not take the messages of this POST before it ended.
                    Some(ended) if ended.is_clean() && bytes > 0 => CloseReason::InputUnread(bytes),
                    Some(ended) if ended.is_clean() => ended,
                    Some(ended @ CloseReason::ByPeerBecause(_)) => ended,
                    _ => reason,
                };
                (backend.ended_input(), Some(reason))
            }
        };
        if let Some(reason) = reason {
            backend.end(match reason {
                CloseReason::ByPeer if has_ended_input => CloseReason::ByUs,
                reason => reason,
            });
            return;
        }
        // This side is done. Messages in transit from the other side are still received.
        let dismissed = timeout(DISMISSAL, client.dismiss()).await;
        match dismissed == Ok(true) && is_ours && !is_carrier && !backend.is_over() {
            true => while_it_comes(&backend, reading).await,
            false => None,
        }
    };
    // A message that was cut off must not look like a clean end.
    let is_cut = is_ours && !is_carrier && !backend.is_over() && reader.parser.holds_part();
    backend.end(match (is_cut, ended) {
        (false, _) => CloseReason::ByUs,
        (true, Some(reason)) if !reason.is_clean() => reason,
        (true, _) => CloseReason::TimedOut,
    });
}

/// Waits for the end of the stream, until no message has arrived for [`GOODBYE`]. Returns `None` if the
/// stream did not end.
async fn while_it_comes(
    backend: &ChannelBackend,
    mut reading: Pin<&mut impl Future<Output = CloseReason>>,
) -> Option<CloseReason> {
    loop {
        let before = backend.bytes_received();
        if let Ok(reason) = timeout(GOODBYE, &mut reading).await {
            return Some(reason);
        }
        if backend.bytes_received() - before < MOVES {
            return None;
        }
    }
}

/// The last item that was sent.
enum Written {
    /// The last message.
    All,
    /// The end of the input. Messages are still received.
    InputEnded,
}

/// What was not sent because a POST failed.
struct Unsent {
    failed: PostFailed,
    /// The length of its messages in bytes.
    bytes: u64,
}

/// POSTs outgoing messages until there are no more.
async fn write(client: &mut PostClient, backend: &ChannelBackend) -> Result<Written, Unsent> {
    loop {
        let Outward::Message(first) = backend.take().await else { break };
        let mut bytes = first.len() as u64;
        let mut batch = client.body(first);
        while batch.has_room() {
            let Some(message) = backend.try_take() else { break };
            bytes += message.len() as u64;
            batch.push(&message);
        }
        client.post(batch).await.map_err(|failed| Unsent { failed, bytes })?;
        backend.handed_on();
    }
    if !backend.ends_input() || backend.is_over() {
        return Ok(Written::All);
    }
    let ended = client.post(PostBody::EndOfInput).await;
    ended.map_err(|failed| Unsent { failed, bytes: 0 })?;
    backend.ended_input();
    Ok(Written::InputEnded)
}

/// The incoming direction.
struct Reader {
    body: IncomingBody,
    parser: Parser,
    bytes: Bytes,
    /// Whether the server is a tieline server, which ends its streams with an event.
    is_ours: bool,
    is_carrier: bool,
    json: Option<Limits>,
    max: ByteSize,
    _connection: Task,
}

impl Reader {
    /// Returns the next item; `None` at the end of the stream.
    async fn next(
        &mut self,
        backend: Option<&ChannelBackend>,
    ) -> Result<Option<Item>, CloseReason> {
        loop {
            if let Some(item) = self.parser.parse(&mut self.bytes) {
                return Ok(Some(item));
            }
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
            let frame = match self.is_ours {
                true => timeout(SILENCE, frame).await.map_err(|_| CloseReason::TimedOut)?,
                false => frame.await,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(std::io::Error::other(error).into()),
                Some(Ok(frame)) => {
                    self.bytes = frame.into_data().unwrap_or_default();
                    if let Some(backend) = backend {
                        backend.received_part(self.bytes.len());
                    }
                }
            }
        }
    }

    /// Passes on incoming messages until the line ends, and returns the reason.
    async fn read(&mut self, backend: &ChannelBackend) -> CloseReason {
        loop {
            backend.room().await;
            let item = match self.next(Some(backend)).await {
                Ok(Some(item)) => item,
                Ok(None) if self.is_ours => {
                    return std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into();
                }
                Ok(None) => return CloseReason::ByPeer,
                Err(reason) => return reason,
            };
            let incoming = match item {
                Item::Event(event) => match self.take(event) {
                    Ok(Some(incoming)) => incoming,
                    Ok(None) => continue,
                    Err(reason) => return reason,
                },
                Item::Lost(_) if !self.is_carrier => {
                    Incoming::Fault(Fault::oversize(self.max, &self.parser.take_lost_head()))
                }
                Item::Lost(_) => {
                    // The length is unknown, because the message was not kept.
                    let (length, limit) = (self.max.bytes() as u64 + 1, self.max);
                    return CloseReason::Protocol(FrameError::Oversize { length, limit });
                }
                _ => continue,
            };
            if !backend.push(incoming) {
                // The message will not be taken; the other direction detects the end of the line.
                std::future::pending::<()>().await;
            }
        }
    }

    fn take(&self, event: Event) -> Result<Option<Incoming>, CloseReason> {
        let broken = || CloseReason::from(std::io::Error::from(std::io::ErrorKind::InvalidData));
        let message = match event.event.as_str() {
            "" | "message" if self.is_carrier => decoded(&event).ok_or_else(broken)?,
            "" | "message" => event.data,
            BINARY if self.is_ours => decoded(&event).ok_or_else(broken)?,
            END if self.is_ours => return Err(reason_of(why(&event))),
            _ => return Ok(None),
        };
        let fault = self.json.and_then(|limits| Fault::unless_json(&message, limits));
        Ok(Some(match fault {
            Some(fault) => Incoming::Fault(fault),
            None if message.len() > self.max.bytes() => {
                Incoming::Fault(Fault::oversize(self.max, &message))
            }
            // An empty event is not a message.
            None if message.is_empty() && !self.is_carrier => return Ok(None),
            None => Incoming::Message(message),
        }))
    }
}
