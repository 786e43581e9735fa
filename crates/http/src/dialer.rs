//! Opens connections to one server, through a proxy if one is configured.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::http::request::Builder;
use tieline_transport::{
    Connection, Endpoint, ErrorKind, MemoryBudget, Operation, Options, PeerIdentity, TransportError,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::address::{Place, WebAddress};
use crate::client_config::ClientConfig;
use crate::dial_error::failed;
use crate::local;
use crate::proxy::{PROXY, Proxy, Route};
use crate::stream::Stream;
use crate::tls::{Trust, check_supported};

/// A configuration, and the TLS roots that were loaded for it.
pub(crate) struct Client {
    pub(crate) config: ClientConfig,
    pub(crate) trust: Trust,
}

impl Client {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self { trust: Trust::of(config.tls.clone()), config }
    }
}

/// Opens connections to one server.
pub(crate) struct Dialer {
    pub(crate) client: Arc<Client>,
    pub(crate) address: WebAddress,
    route: Route,
    allow_uids: Vec<u32>,
    pub(crate) connect_timeout: Duration,
    pub(crate) memory: Option<MemoryBudget>,
}

impl Dialer {
    /// Creates a dialer for `address`, the parsed address of `endpoint`.
    ///
    /// # Errors
    /// The headers contradict each other, the proxy for this server is invalid, or the server needs TLS and this
    /// build lacks it.
    pub(crate) fn new(
        client: Arc<Client>,
        endpoint: &Endpoint,
        address: WebAddress,
        options: &Options,
    ) -> Result<Self, TransportError> {
        client.config.check_headers()?;
        local::check_platform(&address.place, Operation::Connect)?;
        if address.is_secure {
            check_supported(Operation::Connect)?;
        }
        let route = client.config.proxies.route(endpoint, &address)?;
        let (allow_uids, connect_timeout) = (options.allow_uids.clone(), options.connect_timeout);
        let memory = options.memory.clone();
        Ok(Self { client, address, route, allow_uids, connect_timeout, memory })
    }

    pub(crate) async fn reach(&self) -> Result<(Stream, Option<PeerIdentity>), TransportError> {
        self.client.config.may_go_to(&self.address)?;
        match &self.address.place {
            Place::Tcp { host, port } => {
                let stream = match &self.route {
                    Route::Direct => {
                        TcpStream::connect((host.as_str(), *port)).await.map_err(unreached)?
                    }
                    Route::Tunnel(proxy) => proxy.tunnel(&self.address.place.to_string()).await?,
                    Route::Forward(proxy) => proxy.connect().await?,
                };
                // Messages are written in batches already; Nagle's algorithm would only delay them.
                let _ = stream.set_nodelay(true);
                Ok(match self.address.is_secure {
                    true => (Stream::Tls(self.client.trust.connect(host, stream).await?), None),
                    false => (Stream::Tcp(stream), None),
                })
            }
            place => {
                let connecting = local::connect(place, &self.allow_uids, self.connect_timeout);
                let connection = connecting.await?;
                let peer = connection.control().peer();
                Ok((Stream::Local(connection), peer))
            }
        }
    }

    /// Runs `dialing` with the connect timeout.
    pub(crate) async fn in_time<T>(
        &self,
        endpoint: &Endpoint,
        dialing: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let limit = self.connect_timeout;
        let made = timeout(limit, dialing).await;
        made.unwrap_or_else(|_| Err(failed(ErrorKind::TimedOut(limit))))
            .map_err(|error| self.naming_proxy(error).at(endpoint))
    }

    /// Adds the proxy to the hint of an error that does not name it.
    fn naming_proxy(&self, error: TransportError) -> TransportError {
        let names_it = matches!(error.kind(), ErrorKind::Handshake { protocol: PROXY, .. });
        let Some(proxy) = self.route.proxy().filter(|_| !names_it) else { return error };
        let hint = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
        error.with_hint(format!("{hint}the connection goes through the proxy {proxy}"))
    }

    /// Returns the target of a request: the path, or the whole URL if a proxy forwards the request.
    pub(crate) fn uri(&self, path: &str) -> String {
        match self.route.forwarder() {
            None => path.to_owned(),
            Some(_) => format!("http://{}{path}", self.address.host_header()),
        }
    }

    /// Returns the error for a response with an unexpected status.
    pub(crate) fn denied(&self, status: StatusCode) -> TransportError {
        let error = failed(ErrorKind::Denied { status: status.as_u16() });
        match (&self.address.place, status) {
            (Place::Unix(_), StatusCode::FORBIDDEN) => error.with_hint(
                "the server does not accept your user (add it to the server's --allow-uid), or it does not \
                 accept this Host or Origin header (--allow-host or --allow-origin)",
            ),
            (_, StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                self.route.forwarder().map_or(error, |proxy| proxy.denied(status))
            }
            _ => error,
        }
    }

    /// Adds the `Host` header and the client's credentials to a request.
    pub(crate) fn introduce(&self, request: Builder) -> Result<Builder, TransportError> {
        let request = self.client.config.introduce(request, &self.address)?;
        Ok(match self.route.forwarder().and_then(Proxy::credentials) {
            Some((name, value)) => request.header(name, value),
            None => request,
        })
    }
}

fn unreached(error: io::Error) -> TransportError {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        // Unknown host or no route: both may be temporary.
        _ => ErrorKind::NotFound,
    };
    failed(kind).because(error).with_hint("start the server first, or check host and port")
}
