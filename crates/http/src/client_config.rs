//! The configuration of a client.

use tieline_proto::HeartbeatConfig;

use crate::proxy::Proxies;
use crate::request_header::{BasicAuth, RequestHeader};
use crate::subprotocol::Subprotocol;
use crate::tls::ClientTls;
use crate::token::Token;

/// The configuration of a client, for all of its connections.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Sent as `Authorization: Bearer`, only to the endpoint's host: redirects are not followed.
    pub token: Option<Token>,
    /// Sent as `Authorization: Basic`, instead of a token.
    pub basic: Option<BasicAuth>,
    /// Added to every request. `Authorization` and `Origin` may be among them if nothing else here sets them.
    pub headers: Vec<RequestHeader>,
    /// Allows sending token, password and [credentials](RequestHeader::is_credential) among the headers to other
    /// machines without TLS, where they can be read on the network. By default that is
    /// [refused](tieline_transport::ErrorKind::CleartextCredential). Only `localhost` and loopback addresses count
    /// as this machine.
    pub send_token_without_tls: bool,
    /// The proxies through which servers are reached. None by default: those of the environment are used only with
    /// [`Proxies::from_env`].
    pub proxies: Proxies,
    /// Sent as `Origin`, for servers that require one; none by default.
    pub origin: Option<String>,
    /// Subprotocols that a WebSocket offers, the preferred one first; none by default. If the server chooses
    /// none of them, the connection fails, as in browsers.
    pub subprotocols: Vec<Subprotocol>,
    /// TLS roots and the client certificate.
    pub tls: ClientTls,
    /// When to ping an idle connection; `None`: never.
    pub heartbeat: Option<HeartbeatConfig>,
    /// See [`WebSocketConfig::verbatim`](crate::WebSocketConfig::verbatim).
    pub verbatim: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            token: None,
            basic: None,
            headers: Vec::new(),
            send_token_without_tls: false,
            proxies: Proxies::default(),
            origin: None,
            subprotocols: Vec::new(),
            tls: ClientTls::default(),
            heartbeat: Some(HeartbeatConfig::default()),
            verbatim: false,
        }
    }
}
