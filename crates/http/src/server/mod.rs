//! The HTTP server: one listener, with access control before everything else.
//!
//! ```text
//!   listener ─▶ ConnectionLimiter ─▶ TLS ─▶ hyper (head, limits) ─▶ AccessPolicy (host, origin, token)
//!                                                                          │
//!               added routes, /health  /metrics  /  ◀── Routes ────────────┤
//!                                                                          ▼ /ws  /sse  /rpc
//!                                   WebAcceptor, plain  ◀── upgrade, events ──▶  WebAcceptor, resumable
//! ```

mod acceptor;
mod access;
mod added;
mod body;
mod body_budget;
mod config;
mod count;
mod events;
mod exits;
mod http2;
mod limiter;
mod listen;
mod log;
mod login;
mod oauth;
mod page;
mod route;
mod routes;
mod rpc;
mod upgrade;

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tieline_proto::json::Limits;
use tieline_proto::session::SessionId;
use tieline_transport::{Address, CloseReason, Endpoint, MemoryBudget, Owner, TransportError};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

pub use acceptor::{LineAcceptor, WebAcceptor, WebLine};
pub use added::{
    EventWriter, Responding, Route, RouteHandler, RouteLine, RouteRequest, RouteResponse,
};
pub use config::{Access, ServerConfig, ServerLimits};
pub use count::ServerCounts;
pub use oauth::OauthConfig;

use self::access::AccessPolicy;
use self::body_budget::BodyBudget;
use self::count::Counters;
use self::events::Table;
use self::limiter::ConnectionLimiter;
use self::listen::{Socket, endpoint_of, keep};
use self::log::{LostLog, RefusalLog};
use self::oauth::ResourceServer;
use self::routes::Routes;
use crate::address::Place;
use crate::lock::lock;
use crate::public_url::PublicUrl;
use crate::subprotocol::Subprotocol;
use crate::tls::TlsAcceptor;
use crate::websocket::{SharedSocket, WebSocketConfig};

/// A listening HTTP server. Dropping it stops listening and ends the event streams; open WebSockets stay
/// open.
pub struct HttpServer {
    server: Arc<Server>,
    listening: AbortHandle,
}

type Failures = dyn Fn(SessionId, &Owner) -> Option<CloseReason> + Send + Sync;

/// The state that all connections share.
struct Server {
    endpoint: Endpoint,
    is_secure: bool,
    routes: Routes,
    access: AccessPolicy,
    oauth: Option<ResourceServer>,
    public_url: Option<PublicUrl>,
    /// The HTML of the page.
    page: Bytes,
    subprotocols: Vec<Subprotocol>,
    limiter: Arc<ConnectionLimiter>,
    counters: Counters,
    lost: LostLog,
    refusals: RefusalLog,
    limits: ServerLimits,
    memory: Option<MemoryBudget>,
    web_socket: WebSocketConfig,
    json: Option<Limits>,
    plain: mpsc::Sender<WebLine>,
    resumable: mpsc::Sender<WebLine>,
    events: Table,
    rpc: Arc<Semaphore>,
    body_budget: BodyBudget,
    is_ready: AtomicBool,
    metrics: Mutex<Option<Arc<dyn Fn() -> String + Send + Sync>>>,
    /// A function that returns why a session failed.
    failures: Mutex<Option<Arc<Failures>>>,
    /// The open WebSockets, by the ids of their connection permits.
    present: Mutex<HashMap<u64, Weak<SharedSocket>>>,
    /// Becomes true when the server shuts down.
    closing: watch::Sender<bool>,
}

impl HttpServer {
    /// Starts listening. This must be called in a tokio runtime.
    ///
    /// The first acceptor yields plain lines. The second yields lines that carry the frames of a
    /// session. They come from clients that request the protocol [`RESUMABLE`](crate::RESUMABLE), and
    /// from EventSources, for which the server keeps a session. If the second acceptor is dropped, an
    /// EventSource opens a plain line. Lines wait in a queue of up to [`ServerLimits::backlog`] until
    /// they are accepted; further lines are refused.
    ///
    /// # Errors
    /// The configuration is out of bounds, TLS cannot be set up, the address is in use, or
    /// [`Unauthenticated`](tieline_transport::ErrorKind::Unauthenticated): the server would be reachable
    /// from other machines without a token and TLS.
    pub async fn listen(
        mut config: ServerConfig,
    ) -> Result<(Self, WebAcceptor, WebAcceptor), TransportError> {
        let wanted = endpoint_of(&config.place, config.tls.is_some());
        let at = |error: TransportError| match error.endpoint() {
            Some(_) => error,
            None => error.at(&wanted),
        };
        config.validate().map_err(|error| at(error.into()))?;
        let tls = config.tls.as_ref().map(TlsAcceptor::new).transpose().map_err(at)?;
        let oauth = config.oauth.take().map(ResourceServer::new).transpose().map_err(at)?;
        let (socket, bound) = Socket::bind(&config).await.map_err(at)?;
        let place = match (&config.place, bound) {
            // For port 0, this is the port that the system chose.
            (Place::Tcp { host, .. }, Some(bound)) => {
                Place::Tcp { host: host.clone(), port: bound.port() }
            }
            (place, _) => place.clone(),
        };
        let endpoint = endpoint_of(&place, config.tls.is_some());
        let limits = config.limits;
        let longest = events::longest_body(config.web_socket.channel.max_message);
        let (plain, plain_arrivals) = mpsc::channel(limits.backlog);
        let (resumable, resumable_arrivals) = mpsc::channel(limits.backlog);
        let server = Arc::new(Server {
            endpoint: endpoint.clone(),
            is_secure: config.tls.is_some(),
            routes: Routes::new(std::mem::take(&mut config.routes), oauth.is_some()),
            access: AccessPolicy::new(&config, bound),
            oauth,
            public_url: config.public_url,
            page: page::html(config.program_name.as_deref()),
            subprotocols: config.subprotocols,
            limiter: Arc::new(ConnectionLimiter::new(
                limits.connections,
                limits.connections_per_peer,
            )),
            counters: Counters::default(),
            lost: LostLog::default(),
            refusals: RefusalLog::default(),
            limits,
            memory: config.memory,
            web_socket: config.web_socket,
            json: config.json,
            plain,
            resumable,
            events: Table::new(limits.event_streams),
            rpc: Arc::new(Semaphore::new(limits.rpc_calls.min(Semaphore::MAX_PERMITS))),
            body_budget: BodyBudget::new(limits.body_bytes.bytes(), longest),
            is_ready: AtomicBool::new(true),
            metrics: Mutex::new(None),
            failures: Mutex::new(None),
            present: Mutex::default(),
            closing: watch::Sender::new(false),
        });
        if let Some(oauth) = &server.oauth {
            oauth.fetch_keys();
        }
        let listening = tokio::spawn(keep(server.clone(), socket, tls)).abort_handle();
        let plain = WebAcceptor::new(plain_arrivals, endpoint.clone());
        let resumable = WebAcceptor::new(resumable_arrivals, endpoint);
        Ok((Self { server, listening }, plain, resumable))
    }

    /// Returns the endpoint that the server listens on: `http://host:port`, `https://host:port` or
    /// `http-unix:/path` or `http-pipe:name`.
    pub fn endpoint(&self) -> &Endpoint {
        &self.server.endpoint
    }

    /// Returns a URL that authenticates one browser once. Show it only to the server's owner. Only the
    /// newest 16 unused URLs are valid. The URL begins with [`ServerConfig::public_url`] if that is set;
    /// otherwise, the result for a server on a Unix socket or a pipe is `None`.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn one_time_url(&self) -> Result<Option<String>, TransportError> {
        self.login_urls().create()
    }

    /// Returns the endpoint for clients on this machine. It has the loopback address if the server
    /// listens on all addresses.
    pub fn local_endpoint(&self) -> Endpoint {
        self.server.local_endpoint()
    }

    /// Returns a handle that creates [one-time URLs](Self::one_time_url).
    pub fn login_urls(&self) -> LoginUrls {
        LoginUrls(Arc::downgrade(&self.server))
    }

    /// Returns the server's counts.
    pub fn counts(&self) -> ServerCounts {
        self.server.counts()
    }

    /// Sets the text that `/metrics` returns to authenticated clients before the
    /// [server's own counts](ServerCounts::prometheus); empty by default.
    pub fn set_metrics(&self, text: impl Fn() -> String + Send + Sync + 'static) {
        *lock(&self.server.metrics) = Some(Arc::new(text));
    }

    /// Sets a function that returns to a session's owner why the session failed. With it, event streams report
    /// the failure, and the page shows what a failed program wrote to stderr.
    pub fn set_failures(
        &self,
        failures: impl Fn(SessionId, &Owner) -> Option<CloseReason> + Send + Sync + 'static,
    ) {
        *lock(&self.server.failures) = Some(Arc::new(failures));
    }

    /// Sets whether `/health/ready` reports ready; true by default.
    pub fn set_ready(&self, is_ready: bool) {
        self.server.is_ready.store(is_ready, Relaxed);
    }

    /// Shuts down: reports not ready, stops accepting connections, answers the requests in progress, and
    /// closes every WebSocket and event stream with code 1001. Waits up to `grace` for all connections
    /// to end, then closes the remaining HTTP connections. WebSockets that are still open stay with
    /// their owners.
    pub async fn close(self, grace: Duration) {
        let server = &self.server;
        server.is_ready.store(false, Relaxed);
        self.listening.abort();
        let closed = async {
            // Each WebSocket has its own task, so that progress of one does not cause all others to be
            // polled.
            let mut tasks = JoinSet::new();
            for web_socket in server.begin_closing() {
                tasks.spawn(poll_fn(move |cx| web_socket.poll_going_away(cx)));
            }
            while tasks.join_next().await.is_some() {}
            server.limiter.emptied().await;
        };
        let _ = timeout(grace, closed).await;
        server.limiter.clear();
    }
}

/// A handle that creates URLs, each of which authenticates one browser once.
#[derive(Clone)]
pub struct LoginUrls(Weak<Server>);

impl LoginUrls {
    /// Returns a new URL, as [`HttpServer::one_time_url`] does. If the server needs no token, this is
    /// the URL of the page. Returns `None` if the server has no URL for browsers, or has been closed.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn create(&self) -> Result<Option<String>, TransportError> {
        let Some(server) = self.0.upgrade() else { return Ok(None) };
        let page = match (&server.public_url, server.local_endpoint().address()) {
            (Some(public), _) => public.to_string(),
            (None, Address::Other { scheme, rest }) if matches!(&**scheme, "http" | "https") => {
                format!("{scheme}:{rest}/")
            }
            _ => return Ok(None),
        };
        if server.access.is_open() {
            return Ok(Some(page));
        }
        let key = server.access.one_time_key()?;
        Ok(Some(format!("{page}?key={}", key.reveal())))
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.listening.abort();
        self.server.closing.send_replace(true);
    }
}

impl Server {
    fn local_endpoint(&self) -> Endpoint {
        let Address::Other { scheme, rest } = self.endpoint.address() else {
            return self.endpoint.clone();
        };
        let rest = match (rest.strip_prefix("//0.0.0.0"), rest.strip_prefix("//[::]")) {
            (Some(port), _) => format!("//127.0.0.1{port}"),
            (_, Some(port)) => format!("//[::1]{port}"),
            _ => return self.endpoint.clone(),
        };
        Endpoint::new(Address::Other { scheme: scheme.clone(), rest })
    }

    /// Records an open WebSocket. Returns false if the server is already closing and has not notified
    /// this WebSocket.
    #[must_use]
    fn present(&self, id: u64, shared: &Arc<SharedSocket>) -> bool {
        let mut present = lock(&self.present);
        present.insert(id, Arc::downgrade(shared));
        !*self.closing.borrow()
    }

    /// Marks the server as closing, and returns the WebSockets that are open at this moment.
    fn begin_closing(&self) -> Vec<Arc<SharedSocket>> {
        let present = lock(&self.present);
        self.closing.send_replace(true);
        present.values().filter_map(Weak::upgrade).collect()
    }

    fn gone(&self, id: u64) {
        lock(&self.present).remove(&id);
    }

    /// Counts and logs messages that a client will not receive.
    fn lose(&self, count: u64, why: &dyn fmt::Display) {
        self.counters.lost(count);
        self.lost.log(count, why);
    }

    fn counts(&self) -> ServerCounts {
        self.counters.snapshot(self.limiter.inside(), self.body_budget.held())
    }

    fn metrics(&self) -> hyper::Response<body::Body> {
        let more = lock(&self.metrics).clone();
        let mut text = more.map_or_else(String::new, |more| more());
        text.push_str(&self.counts().prometheus());
        body::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
    }
}
