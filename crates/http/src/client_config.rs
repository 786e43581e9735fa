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
    /// The token to send as `Authorization: Bearer`. It is sent only to the endpoint's host: redirects
    /// are not followed.
    pub token: Option<Token>,
    /// The user name and password to send as `Authorization: Basic`, instead of a token.
    pub basic: Option<BasicAuth>,
    /// Headers to add to every request. They may include `Authorization` and `Origin` if no other field
    /// sets these.
    pub headers: Vec<RequestHeader>,
    /// Allows sending the token, the password and [secret headers](RequestHeader::is_credential) to
    /// other machines without TLS, where they can be read on the network. By default, this is
    /// [refused](tieline_transport::ErrorKind::CleartextCredential). Only `localhost` and loopback
    /// addresses are considered to be on this machine.
    pub send_token_without_tls: bool,
    /// The proxies through which servers are reached. None by default: environment variables are read
    /// only by [`Proxies::from_env`].
    pub proxies: Proxies,
    /// The `Origin` header, for servers that require one; none by default.
    pub origin: Option<String>,
    /// Subprotocols that a WebSocket offers, the preferred one first; none by default. If the server chooses
    /// none of them, the connection fails, as in browsers.
    pub subprotocols: Vec<Subprotocol>,
    /// TLS roots and the client certificate.
    pub tls: ClientTls,
    /// When to ping an idle connection; never if `None`.
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
