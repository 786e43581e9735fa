//! The listening sockets, and the setup of each connection before its first request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tieline_proto::ByteSize;
use tieline_transport::{
    Address, Connection, Endpoint, ErrorKind, Listener, Operation, PeerIdentity, TransportError,
    WarnThrottle,
};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use super::Server;
use super::config::{Access, ServerConfig};
use super::count::{Cause, count};
use super::http2;
use super::limiter::{Admission, ConnectionPermit};
use super::route::{self, ConnectionContext};
use crate::address::Place;
use crate::drain::DrainLimits;
use crate::events::stream::Progress;
use crate::local::{self, LocalListener};
use crate::stream::{Hyper, Stream, Timer};
use crate::tls::{self, TlsAcceptor};

/// How long to wait before the next attempt after `accept` has failed.
const PAUSE: Duration = Duration::from_millis(50);

/// A listening socket.
pub(super) enum Socket {
    Tcp(TcpListener),
    Local(Box<LocalListener>),
}

/// An accepted connection.
struct Arrived {
    stream: Stream,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
    identity: Option<PeerIdentity>,
}

impl Socket {
    pub(super) async fn bind(
        config: &ServerConfig,
    ) -> Result<(Self, Option<SocketAddr>), TransportError> {
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
                    let hint = "listen on 127.0.0.1, or set a token and a TLS certificate";
                    return Err(fail(ErrorKind::Unauthenticated).with_hint(hint));
                }
                let listener = TcpListener::bind(found.as_slice()).await.map_err(io)?;
                let bound = listener.local_addr().map_err(io)?;
                Ok((Self::Tcp(listener), Some(bound)))
            }
            _ => Ok((Self::Local(Box::new(local::listen(config).await?)), None)),
        }
    }

    async fn accept(&mut self) -> Result<Arrived, TransportError> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener
                    .accept()
                    .await
                    .map_err(|error| TransportError::of(error, Operation::Accept))?;
                let _ = stream.set_nodelay(true);
                let local = stream.local_addr().ok();
                let stream = Stream::Tcp(stream);
                Ok(Arrived { stream, remote: Some(remote), local, identity: None })
            }
            Self::Local(listener) => {
                let connection = listener.accept().await?;
                let identity = connection.control().peer();
                let stream = Stream::Local(connection);
                Ok(Arrived { stream, remote: None, local: None, identity })
            }
        }
    }
}

/// Accepts connections until its task is aborted.
pub(super) async fn keep(server: Arc<Server>, mut socket: Socket, tls: Option<TlsAcceptor>) {
    let endpoint = server.endpoint.clone();
    let warnings = WarnThrottle::new(move |count| {
        tracing::warn!(%endpoint, count, "accepting connections kept failing");
    });
    loop {
        let arrived = match socket.accept().await {
            Ok(arrived) => arrived,
            Err(error) => {
                if let Some(unreported) = warnings.admit(Instant::now().into_std()) {
                    let (endpoint, hint) = (&server.endpoint, error.hint().unwrap_or_default());
                    tracing::warn!(%endpoint, unreported, "{error}; retrying; {hint}");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        count(&server.counters.connections);
        let permit = match server.limiter.try_admit(arrived.remote.map(|remote| remote.ip())) {
            Admission::Admitted(permit) => permit,
            Admission::AdmittedByEviction(permit) => {
                count(&server.counters.evicted);
                permit
            }
            Admission::Full => {
                server.counters.refused(Cause::Busy);
                continue;
            }
        };
        tokio::spawn(attend(server.clone(), arrived, tls.clone(), permit));
    }
}

/// Serves one connection until it ends or becomes a WebSocket.
async fn attend(
    server: Arc<Server>,
    arrived: Arrived,
    tls: Option<TlsAcceptor>,
    permit: ConnectionPermit,
) {
    let permit = Arc::new(permit);
    let Arrived { stream, remote: _, local, identity } = arrived;
    let limits = server.limits;
    let mut evicted = pin!(permit.evicted());
    let mut certificate = None;
    let stream = match (tls, stream) {
        (Some(tls), Stream::Tcp(stream)) => {
            let done = timeout(limits.handshake_timeout, tls.accept(stream));
            let done = tokio::select! {
                done = done => done,
                () = &mut evicted => return,
            };
            match done {
                Ok(Ok((stream, shown))) => {
                    certificate = shown;
                    Stream::Tls(stream)
                }
                Ok(Err(stream)) => {
                    // The client was sent an alert with the reason; wait until it arrives.
                    let ending = Stream::Tcp(stream).end(drain_limits(&server));
                    tokio::select! {
                        () = ending => {}
                        () = &mut evicted => {}
                    }
                    return;
                }
                Err(_) => return,
            }
        }
        (_, stream) => stream,
    };
    let mut stream = stream;
    let is_http2 = match &stream {
        Stream::Tls(stream) => Some(tls::is_http2(stream)),
        _ => None,
    };
    let (is_http2, first) = match is_http2 {
        Some(is_http2) => (is_http2, Bytes::new()),
        None => {
            let first = timeout(limits.header_timeout, http2::first_bytes(&mut stream));
            tokio::select! {
                first = first => match first {
                    Ok(Ok(first)) => first,
                    Ok(Err(_)) | Err(_) => return,
                },
                () = &mut evicted => return,
            }
        }
    };
    let progress = Arc::new(Progress::default());
    let context = ConnectionContext {
        permit: permit.clone(),
        local,
        identity,
        certificate,
        progress: progress.clone(),
    };
    let stall = server.web_socket.channel.stall_timeout;
    // The limit is twice that of writes, so that a blocked write fails first, with its own reason.
    let stream = Hyper::watched(stream, stall, progress)
        .noticing_silence(stall.saturating_mul(2))
        .draining(drain_limits(&server))
        .after(first);
    if is_http2 {
        return http2::serve(&server, context, stream, evicted).await;
    }
    let (server_of_service, context) = (server.clone(), Arc::new(context));
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, context) = (server_of_service.clone(), context.clone());
        async move { Ok::<_, Infallible>(route::respond(&server, &context, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(Timer)
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    let mut connection = pin!(builder.serve_connection(stream, service).with_upgrades());
    let mut closing = server.closing.subscribe();
    let mut closing = pin!(closing.wait_for(|is_closing| *is_closing));
    let mut is_closing = false;
    loop {
        tokio::select! {
            // An error is caused by the client, and was answered where possible.
            _ = &mut connection => return,
            () = &mut evicted => return,
            _ = &mut closing, if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Returns the limits of reading from a connection that is being closed.
pub(super) fn drain_limits(server: &Server) -> DrainLimits {
    let longest = server.web_socket.channel.max_message.bytes();
    let bytes = server.limits.drain_bytes.bytes().max(longest.saturating_mul(2));
    DrainLimits { bytes: ByteSize::new(bytes), timeout: server.limits.drain_timeout }
}

/// Returns the endpoint of a listener.
pub(super) fn endpoint_of(place: &Place, is_secure: bool) -> Endpoint {
    let (scheme, rest) = match place {
        Place::Tcp { .. } => (if is_secure { "https" } else { "http" }, format!("//{place}")),
        // The path is absolute. Both are written as in a `unix:` or `pipe:` endpoint, but with colons
        // escaped, because a colon separates them from the URL's path.
        Place::Unix(path) => ("http-unix", written(&Endpoint::unix(path).absolute())),
        Place::Pipe(name) => ("http-pipe", written(&Endpoint::new(Address::Pipe(name.clone())))),
    };
    Endpoint::new(Address::Other { scheme: scheme.to_owned(), rest })
}

/// Returns the text of a local endpoint after its scheme, with colons escaped.
fn written(endpoint: &Endpoint) -> String {
    let text = endpoint.exact().to_string();
    text.split_once(':').map_or(&*text, |(_, rest)| rest).replace(':', "%3A")
}
