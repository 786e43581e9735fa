//! Routes that the user of the library adds to a server.
//!
//! The server checks Host, Origin and token before it calls a handler, and limits the memory for the
//! bodies that the handler reads and writes.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use tieline_transport::{Account, CloseReason, Holding, Incoming, Owner};
use tokio::sync::{mpsc, watch};

use super::Server;
use super::WebLine;
use super::body::{self, Body, Inbound, JSON, answer, counted, empty};
use super::body_budget::Held;
use super::count::count;
use super::events::{channel_of, event_stream};
use super::route::{ConnectionContext, busy};
use super::upgrade::{self, is_upgrade};
use crate::events::stream::BodyWriter;
use crate::events::{ChannelBackend, EventChannel, Outward, pair};

/// A route to add to a server. Its requests pass the same checks as those of `/ws`: Host, Origin, and
/// the token if there is one. Cross-site requests of browsers without an Origin header are refused.
#[derive(Clone)]
pub struct Route {
    /// The path, for example `/mcp`. It must not be one of the server's own paths.
    pub path: &'static str,
    /// The allowed methods, in upper case. Other methods are answered with 405.
    pub methods: &'static [&'static str],
    /// The request headers that pages of allowed origins may set, in lower case, besides `authorization`.
    /// A name that ends in `-` stands for all names that begin with it, of which a preflight may ask for
    /// 32.
    pub headers: &'static [&'static str],
    /// The response headers that such pages may read, in lower case.
    pub exposes: &'static [&'static str],
    /// The handler that answers the requests.
    pub handler: Arc<dyn RouteHandler>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, methods, .. } = self;
        f.debug_struct("Route")
            .field("path", path)
            .field("methods", methods)
            .finish_non_exhaustive()
    }
}

/// The future of a response.
pub type Responding<'a> = Pin<Box<dyn Future<Output = RouteResponse> + Send + 'a>>;

/// Answers the requests of a [`Route`].
pub trait RouteHandler: Send + Sync {
    /// Answers a request. The future is dropped if the client disconnects before there is a response.
    fn handle(&self, request: RouteRequest) -> Responding<'_>;
}

/// An admitted request.
pub struct RouteRequest {
    server: Arc<Server>,
    context: ConnectionContext,
    owner: Owner,
    parts: Parts,
    /// `None` after the body was read.
    body: Option<Inbound>,
    /// The body's part of the memory budget.
    held: Option<Held>,
}

impl RouteRequest {
    pub(super) fn new(
        server: Arc<Server>,
        context: ConnectionContext,
        owner: Owner,
        request: Request<Inbound>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        Self { server, context, owner, parts, body: Some(body), held: None }
    }

    /// Returns the method.
    pub fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    /// Returns the headers, as names in lower case and values. Their size is bounded by
    /// [`ServerLimits`](super::ServerLimits).
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    /// Returns the client's identity. A client must not have access to anything that belongs to another
    /// owner.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Reads the body, which may be as long as a message. The body counts against the memory budget
    /// until the request is dropped. Returns an empty body if it was read before.
    ///
    /// # Errors
    /// The body is too long, too slow or incomplete, or too much memory is in use. The error is the
    /// response to send.
    pub async fn body(&mut self) -> Result<Bytes, RouteResponse> {
        let Some(body) = self.body.take() else { return Ok(Bytes::new()) };
        let max = self.server.web_socket.channel.max_message.bytes();
        let read = body::read(&self.server, body, max, |_| ()).await;
        let (body, held) = read.map_err(|refused| RouteResponse(*refused))?;
        self.held = Some(held);
        Ok(body)
    }

    /// Opens a line that belongs to this client. Returns the acceptor's end and the handler's end.
    /// Dropping either ends the line.
    pub fn line(&self) -> (EventChannel, RouteLine) {
        let (channel, backend) = pair(channel_of(&self.server, self.owner, false));
        (channel, RouteLine { backend, server: Arc::downgrade(&self.server) })
    }

    /// Returns whether the client asks for an upgrade to a WebSocket.
    pub fn is_upgrade(&self) -> bool {
        is_upgrade(&self.parts.headers)
    }

    /// Accepts the upgrade to a WebSocket, and puts its line into `lines` after the client has received the
    /// response. Binary messages of the client are ignored. If the upgrade cannot be accepted or the queue is full,
    /// the response says so.
    pub fn web_socket(self, lines: &mpsc::Sender<WebLine>) -> RouteResponse {
        let Some(body) = self.body else { return RouteResponse(empty(StatusCode::BAD_REQUEST)) };
        let request = Request::from_parts(self.parts, body);
        RouteResponse(upgrade::of_route(&self.server, &self.context, self.owner, request, lines))
    }

    /// Creates an event stream: its writer, and the response.
    pub fn events(&self) -> (EventWriter, RouteResponse) {
        count(&self.server.counters.event_streams);
        let (body, response) = event_stream(&self.server, self.context.progress.clone());
        let closing = self.server.closing.subscribe();
        (EventWriter { body, closing }, RouteResponse(response))
    }

    /// Creates a JSON response, which counts against the memory budget until the client has taken it. If
    /// there is too little memory, the response is lost: it is counted and logged, and the client gets a 503 with the JSON of `instead`.
    pub fn json(&self, status: u16, json: Bytes, instead: impl FnOnce() -> Bytes) -> RouteResponse {
        let mut account = Account::of(self.server.memory.as_ref(), Holding::Queue);
        if let Err(refused) = account.set(json.len()) {
            self.server.lose(1, &refused);
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return RouteResponse(counted(status, instead(), account));
        }
        RouteResponse(counted(status_of(status), json, account))
    }

    /// Creates a JSON response that says why the request is refused.
    pub fn refused(&self, status: u16, json: Bytes) -> RouteResponse {
        RouteResponse(answer(status_of(status), JSON, json))
    }

    /// Creates a response without a body.
    pub fn empty(&self, status: u16) -> RouteResponse {
        RouteResponse(empty(status_of(status)))
    }

    /// Creates a 503 with `Retry-After`, and counts the refusal.
    pub fn busy(&self, text: &'static str) -> RouteResponse {
        RouteResponse(busy(&self.server, text))
    }
}

/// Returns the status with this number, or 500 if there is none.
fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The response to a request.
pub struct RouteResponse(pub(super) Response<Body>);

impl RouteResponse {
    /// Sets a header. A header with a name or value that HTTP does not allow is omitted.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        let name = HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }
}

/// Writes a streaming response. Dropping it ends the response after all data that was written.
pub struct EventWriter {
    body: BodyWriter,
    closing: watch::Receiver<bool>,
}

impl EventWriter {
    /// Calls `write` to append whole events or comments. Wait for [`ready`](Self::ready) before each
    /// call; otherwise, the queue grows.
    pub fn write(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.body.write(write);
    }

    /// Waits until fewer than 64 KiB are queued. Returns false if no more should be written: the client
    /// is gone or has stopped reading, too much memory is in use, or the server is closing. Cancel-safe.
    pub async fn ready(&mut self) -> bool {
        let Self { body, closing } = self;
        loop {
            if body.is_torn() || *closing.borrow() {
                return false;
            }
            if body.has_room() {
                return true;
            }
            tokio::select! {
                () = body.moved(u64::MAX, false) => {}
                _ = closing.wait_for(|is_closing| *is_closing) => {}
            }
        }
    }

    /// Completes when no more should be written, as in [`ready`](Self::ready). Cancel-safe.
    pub async fn gone(&mut self) {
        let Self { body, closing } = self;
        tokio::select! {
            // With `had_room` set, it completes only when the connection is gone.
            () = body.moved(u64::MAX, true) => {}
            _ = closing.wait_for(|is_closing| *is_closing) => {}
        }
    }
}

/// The handler's end of a line.
pub struct RouteLine {
    backend: ChannelBackend,
    server: Weak<Server>,
}

impl RouteLine {
    /// Takes the next message for the client; `None` when the line has ended. Messages are counted as
    /// undelivered until [`handed_on`](Self::handed_on) is called. Cancel-safe. Only one task may wait.
    pub async fn take(&self) -> Option<Bytes> {
        match self.backend.take().await {
            Outward::Message(message) => Some(message),
            Outward::End(_) => None,
        }
    }

    /// Takes the next message for the client if one is queued, as [`take`](Self::take) does.
    pub fn try_take(&self) -> Option<Bytes> {
        self.backend.try_take()
    }

    /// Counts and logs messages that were taken and will not be delivered.
    pub fn lose(&self, messages: u64, why: &dyn fmt::Display) {
        if let Some(server) = self.server.upgrade() {
            server.lose(messages, why);
        }
    }

    /// Records that all messages taken so far are delivered.
    pub fn handed_on(&self) {
        self.backend.handed_on();
    }

    /// Waits until another message may be [pushed](Self::push), or the line has ended. Cancel-safe. Only
    /// one task may wait.
    pub async fn room(&self) {
        self.backend.room().await;
    }

    /// Queues a message of the client. Returns false if the line has ended.
    pub fn push(&self, message: Bytes) -> bool {
        self.backend.push(Incoming::Message(message))
    }

    /// Ends the line: the client has left.
    pub fn end(&self) {
        self.backend.end(CloseReason::ByPeer);
    }
}
