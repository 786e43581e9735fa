//! The server: one listener, and a gate in front of everything.
//!
//! ```text
//!   listener ─▶ Door (how many) ─▶ TLS ─▶ hyper (head, limits) ─▶ Gate (host, origin, token)
//!                                                                   │
//!                         /health  /metrics  /  ◀── route ──────────┤
//!                                                                   ▼ /ws
//!                                        WebAcceptor, plain  ◀── upgrade ──▶  WebAcceptor, resumable
//! ```

mod body;
mod config;
mod count;
mod door;
mod gate;
mod page;
mod route;
mod upgrade;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use tieline_proto::json::Limits;
use tieline_transport::{
    Acceptor, Address, CloseReason, Endpoint, ErrorKind, Operation, PeerIdentity, TransportError,
};
#[cfg(unix)]
use tieline_transport::{Connection, Listener, Transport, Unix, UnixConfig, UnixListener};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

pub use config::{Access, ServerConfig, ServerLimits};
pub use count::ServerCounts;

use self::count::{Counters, count};
use self::door::{Answer, Door, Visit};
use self::gate::Gate;
use self::route::Guest;
use crate::address::Place;
use crate::channel::{Shared, WebChannel, WebSocketConfig, going_away, lock};
use crate::stream::{Hyper, Stream, Timer};

/// How long a failing listener is left alone.
const PAUSE: Duration = Duration::from_millis(50);

/// A server of the web that listens. Dropping it stops listening; the WebSockets there are go on.
pub struct Web {
    server: Arc<Server>,
    listening: AbortHandle,
}

/// What every connection needs.
struct Server {
    endpoint: Endpoint,
    is_secure: bool,
    gate: Gate,
    door: Arc<Door>,
    counters: Counters,
    limits: ServerLimits,
    web_socket: WebSocketConfig,
    json: Option<Limits>,
    plain: mpsc::Sender<WebChannel>,
    resumable: mpsc::Sender<WebChannel>,
    is_ready: AtomicBool,
    metrics: Mutex<Option<Arc<dyn Fn() -> String + Send + Sync>>>,
    /// The WebSockets there are, by their visits.
    present: Mutex<HashMap<u64, Weak<Shared>>>,
    /// True once it shuts down.
    closing: watch::Sender<bool>,
}

impl Web {
    /// Starts to listen. Plain WebSockets come out of the first acceptor; those that asked for the
    /// subprotocol [`RESUMABLE`](crate::RESUMABLE), and carry the frames of sessions, out of the second.
    /// What comes while nobody accepts waits, up to [`ServerLimits::backlog`]; then it is refused. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// The configuration is out of bounds, TLS cannot be set up from its files, the place is taken, or
    /// [`Unauthenticated`](ErrorKind::Unauthenticated): it would be reached from beyond this machine
    /// without token and TLS.
    pub async fn listen(
        config: ServerConfig,
    ) -> Result<(Self, WebAcceptor, WebAcceptor), TransportError> {
        let wanted = endpoint_of(&config.place, config.tls.is_some());
        let at = |error: TransportError| match error.endpoint() {
            Some(_) => error,
            None => error.at(&wanted),
        };
        config.validate().map_err(|error| at(error.into()))?;
        let tls = config.tls.as_ref().map(|tls| tls.acceptor()).transpose().map_err(at)?;
        let (socket, bound) = Socket::bind(&config).await.map_err(at)?;
        let place = match (&config.place, bound) {
            // With port 0, the one that was found.
            (Place::Tcp { host, .. }, Some(bound)) => {
                Place::Tcp { host: host.clone(), port: bound.port() }
            }
            (place, _) => place.clone(),
        };
        let endpoint = endpoint_of(&place, config.tls.is_some());
        let limits = config.limits;
        let (plain, plain_arrivals) = mpsc::channel(limits.backlog);
        let (resumable, resumable_arrivals) = mpsc::channel(limits.backlog);
        let server = Arc::new(Server {
            endpoint: endpoint.clone(),
            is_secure: config.tls.is_some(),
            gate: Gate::new(&config, bound),
            door: Arc::new(Door::new(limits.connections, limits.connections_per_peer)),
            counters: Counters::default(),
            limits,
            web_socket: config.web_socket,
            json: config.json,
            plain,
            resumable,
            is_ready: AtomicBool::new(true),
            metrics: Mutex::new(None),
            present: Mutex::default(),
            closing: watch::Sender::new(false),
        });
        let listening = tokio::spawn(keep(server.clone(), socket, tls)).abort_handle();
        let plain = WebAcceptor { arrivals: plain_arrivals, endpoint: endpoint.clone() };
        let resumable = WebAcceptor { arrivals: resumable_arrivals, endpoint };
        Ok((Self { server, listening }, plain, resumable))
    }

    /// Where it listens: `http://host:port`, `https://host:port` or `http-unix:/path`.
    pub fn endpoint(&self) -> &Endpoint {
        &self.server.endpoint
    }

    /// A URL that lets a browser in, once: to be shown to its owner and nobody else. Of those that were
    /// not used the newest 16 are good. On a Unix socket there is none.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn one_time_url(&self) -> Result<Option<String>, TransportError> {
        let Address::Other { scheme, rest } = self.server.endpoint.address() else {
            return Ok(None);
        };
        if scheme == "http-unix" {
            return Ok(None);
        }
        let key = self.server.gate.one_time_key()?;
        Ok(Some(format!("{scheme}:{rest}/?key={}", key.reveal())))
    }

    /// What it has counted.
    pub fn counts(&self) -> ServerCounts {
        self.server.counters.snapshot(self.server.door.inside())
    }

    /// What `/metrics` says, for who is let in; nothing by default.
    pub fn set_metrics(&self, text: impl Fn() -> String + Send + Sync + 'static) {
        *lock(&self.server.metrics) = Some(Arc::new(text));
    }

    /// What `/health/ready` says; ready by default.
    pub fn set_ready(&self, is_ready: bool) {
        self.server.is_ready.store(is_ready, Relaxed);
    }

    /// Shuts down: not ready, no new connections, requests under way are answered, every WebSocket is told
    /// 1001. Waits until all have gone, `grace` at most; then what is left of HTTP is cut off. WebSockets
    /// belong to those who accepted them.
    pub async fn close(self, grace: Duration) {
        let server = &self.server;
        server.is_ready.store(false, Relaxed);
        self.listening.abort();
        server.closing.send_replace(true);
        let goodbye = going_away();
        let told = async {
            let mut waiting: Vec<_> =
                lock(&server.present).values().filter_map(Weak::upgrade).collect();
            poll_fn(|cx| {
                waiting.retain(|it| it.poll_going_away(cx, &goodbye).is_pending());
                match waiting.is_empty() {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            })
            .await;
            server.door.emptied().await;
        };
        let _ = timeout(grace, told).await;
        server.door.clear();
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.listening.abort();
        self.server.closing.send_replace(true);
    }
}

/// Yields the WebSockets of a [`Web`]. Dropping it refuses them.
pub struct WebAcceptor {
    arrivals: mpsc::Receiver<WebChannel>,
    endpoint: Endpoint,
}

impl Acceptor for WebAcceptor {
    type Channel = WebChannel;

    async fn accept(&mut self) -> Result<WebChannel, TransportError> {
        self.arrivals.recv().await.ok_or_else(|| {
            let kind = ErrorKind::Closed(CloseReason::ByUs);
            TransportError::new(kind, Operation::Accept).at(&self.endpoint)
        })
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Server {
    fn present(&self, id: u64, shared: &Arc<Shared>) {
        lock(&self.present).insert(id, Arc::downgrade(shared));
    }

    fn gone(&self, id: u64) {
        lock(&self.present).remove(&id);
    }

    fn metrics(&self) -> hyper::Response<body::Body> {
        let metrics = lock(&self.metrics).clone();
        match metrics {
            None => body::line(StatusCode::NOT_FOUND, "there are no metrics"),
            Some(text) => {
                body::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text())
            }
        }
    }
}

/// What is listened on.
enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(Box<UnixListener>),
}

/// Who has connected.
struct Arrived {
    stream: Stream,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
    identity: Option<PeerIdentity>,
}

impl Socket {
    async fn bind(config: &ServerConfig) -> Result<(Self, Option<SocketAddr>), TransportError> {
        let fail = |kind| TransportError::new(kind, Operation::Listen);
        match &config.place {
            Place::Tcp { host, port } => {
                let io = |error: std::io::Error| {
                    let kind = match error.kind() {
                        std::io::ErrorKind::AddrInUse => ErrorKind::AddressInUse,
                        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                        _ => ErrorKind::Io,
                    };
                    fail(kind).because(error).with_hint("choose another host or port")
                };
                let found = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(io)?;
                let found: Vec<SocketAddr> = found.collect();
                let is_safe = config.tls.is_some() && matches!(config.access, Access::Token(_));
                let is_near = found.iter().all(|it| it.ip().to_canonical().is_loopback());
                if !is_near && !is_safe && !config.expose_without_token_and_tls {
                    let hint = "listen on 127.0.0.1, or with a token and a certificate";
                    return Err(fail(ErrorKind::Unauthenticated).with_hint(hint));
                }
                let listener = TcpListener::bind(found.as_slice()).await.map_err(io)?;
                let bound = listener.local_addr().map_err(io)?;
                Ok((Self::Tcp(listener), Some(bound)))
            }
            #[cfg(unix)]
            Place::Unix(path) => {
                let allow_uids = config.allow_uids.clone();
                let unix = UnixConfig { allow_uids, ..UnixConfig::new(path) };
                Ok((Self::Unix(Box::new(Unix.listen(&unix).await?)), None))
            }
            #[cfg(not(unix))]
            Place::Unix(_) => Err(fail(ErrorKind::UnsupportedPlatform)),
        }
    }

    async fn accept(&mut self) -> Result<Arrived, TransportError> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await.map_err(|error| {
                    TransportError::new(ErrorKind::Io, Operation::Accept).because(error)
                })?;
                let _ = stream.set_nodelay(true);
                let local = stream.local_addr().ok();
                let stream = Stream::Tcp(stream);
                Ok(Arrived { stream, remote: Some(remote), local, identity: None })
            }
            #[cfg(unix)]
            Self::Unix(listener) => {
                let connection = listener.accept().await?;
                let identity = connection.control().peer();
                let stream = Stream::Unix(connection);
                Ok(Arrived { stream, remote: None, local: None, identity })
            }
        }
    }
}

/// Takes connections until it is ended.
async fn keep(server: Arc<Server>, mut socket: Socket, tls: Option<TlsAcceptor>) {
    loop {
        let arrived = match socket.accept().await {
            Ok(arrived) => arrived,
            Err(error) => {
                tracing::warn!("{error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        count(&server.counters.connections);
        let visit = match server.door.knock(arrived.remote.map(|remote| remote.ip())) {
            Answer::Come(visit) => visit,
            Answer::ComeInstead(visit) => {
                count(&server.counters.evicted);
                visit
            }
            Answer::Full => {
                server.counters.refused(count::Cause::Busy);
                continue;
            }
        };
        tokio::spawn(attend(server.clone(), arrived, tls.clone(), visit));
    }
}

/// Serves one connection to its end, or until it becomes a WebSocket.
async fn attend(server: Arc<Server>, arrived: Arrived, tls: Option<TlsAcceptor>, visit: Visit) {
    let visit = Arc::new(visit);
    let Arrived { stream, remote: _, local, identity } = arrived;
    let limits = server.limits;
    let mut evicted = pin!(visit.evicted());
    let stream = match (tls, stream) {
        (Some(tls), Stream::Tcp(stream)) => {
            let shaken = timeout(limits.handshake_timeout, tls.accept(stream));
            let shaken = tokio::select! {
                shaken = shaken => shaken,
                () = &mut evicted => return,
            };
            match shaken {
                Ok(Ok(stream)) => Stream::Tls(Box::new(stream.into())),
                _ => return,
            }
        }
        (_, stream) => stream,
    };
    let guest = Guest { visit: visit.clone(), local, identity };
    let (of_service, guest) = (server.clone(), Arc::new(guest));
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, guest) = (of_service.clone(), guest.clone());
        async move { Ok::<_, Infallible>(route::respond(&server, &guest, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(Timer)
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    let mut connection = pin!(builder.serve_connection(Hyper(stream), service).with_upgrades());
    let mut closing = server.closing.subscribe();
    let mut closing = pin!(closing.wait_for(|is_closing| *is_closing));
    let mut is_closing = false;
    loop {
        tokio::select! {
            // Whatever went wrong was the other side's, and was answered where that was possible.
            _ = &mut connection => return,
            () = &mut evicted => return,
            _ = &mut closing, if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Where a server listens, as text.
fn endpoint_of(place: &Place, is_secure: bool) -> Endpoint {
    let (scheme, rest) = match place {
        Place::Tcp { .. } => (if is_secure { "https" } else { "http" }, format!("//{place}")),
        Place::Unix(path) => {
            // Written as `unix:` writes it; a colon would begin a path of the URL.
            let unix = Endpoint::unix(path).to_string();
            let path = unix.strip_prefix("unix:").unwrap_or(&unix).replace(':', "%3A");
            ("http-unix", path)
        }
    };
    Endpoint::new(Address::Other { scheme: scheme.to_owned(), rest })
}
