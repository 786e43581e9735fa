//! Options for web endpoints.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as Group;
use tieline_http::{
    Access, ClientConfig, ClientIdentity, ClientTls, Proxies, PublicUrl, ServerConfig, ServerTls,
    Subprotocol, Token,
};
use tieline_proto::FramingKind;
use tieline_transport::{ConfigError, Endpoint, Registry};

use super::credentials::Credentials;
use super::oauth::Oauth;
use super::secrets::Tokens;
use super::values::up_to_a_day;
use crate::report::Failure;
use crate::web::is_local;

fn subprotocol(name: &str) -> Result<Subprotocol, String> {
    Subprotocol::new(name).map_err(|error| format!("a subprotocol must {}", error.must))
}

fn public_url(text: &str) -> Result<PublicUrl, String> {
    text.parse().map_err(|error: ConfigError| format!("must {}", error.must))
}

/// Options for connecting to web servers.
#[derive(Group)]
#[command(next_help_heading = "Options for ws:, wss:, http: and https: endpoints")]
pub(crate) struct WebClient {
    #[command(flatten)]
    credentials: Credentials,
    /// Offer a WebSocket subprotocol, for example mcp; may be repeated, preferred first
    ///
    /// Connecting fails if the server selects none of them.
    #[arg(long, value_name = "NAME", value_parser = subprotocol)]
    #[arg(hide_short_help = true)]
    subprotocol: Vec<Subprotocol>,
    /// Also trust the CA certificates in this PEM file
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Accept every certificate of a server: anyone on the network path can read and change everything
    ///
    /// Use it only for tests. Prefer --tls-ca with the certificate of the server or its issuer.
    #[arg(long, conflicts_with = "tls_ca")]
    #[arg(hide_short_help = true)]
    accept_any_certificate: bool,
    /// Client certificate chain, as PEM, for servers that require one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the client certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl WebClient {
    /// Refuses options that have no effect on a line between these endpoints. Environment variables are
    /// not checked, because they may be meant for other commands.
    pub(crate) fn check_for(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        // Destructure all fields, so that a forgotten option is an unused variable. The ignored one
        // requires --tls-cert.
        let Self { credentials, subprotocol, tls_ca, accept_any_certificate, tls_cert, tls_key: _ } =
            self;
        let scheme = |it: &Endpoint| it.scheme().trim_start_matches("mcp+").to_owned();
        let has = |schemes: &[&str]| endpoints.iter().any(|it| schemes.contains(&&*scheme(it)));
        let with_tls = ["wss", "https"];
        let all = ["ws", "ws-unix", "ws-pipe", "http", "http-unix", "http-pipe"];
        let web = credentials.given().chain([("--subprotocol", !subprotocol.is_empty())]);
        let tls = [
            ("--tls-ca", tls_ca.is_some()),
            ("--accept-any-certificate", *accept_any_certificate),
            ("--tls-cert", tls_cert.is_some()),
        ];
        let web = web.map(|it| (it, has(&all) || has(&with_tls), "a ws:, wss:, http: or https:"));
        let tls = tls.into_iter().map(|it| (it, has(&with_tls), "a wss: or https:"));
        match web.chain(tls).find(|((_, is_given), has_effect, _)| *is_given && !has_effect) {
            None => Ok(()),
            Some(((option, _), _, needs)) => Err(Failure::Usage(format!(
                "{option} has no effect: it needs {needs} endpoint, and there is none"
            ))),
        }
    }

    /// Returns a registry with all transports, including those of the web.
    pub(crate) fn registry(&self) -> Result<Registry, Failure> {
        self.registry_for(FramingKind::Lines)
    }

    /// Returns the same [registry](Self::registry) for a line whose other side uses `framing`. With a
    /// framing that can carry any bytes, WebSocket messages are passed on unchanged.
    pub(crate) fn registry_for(&self, framing: FramingKind) -> Result<Registry, Failure> {
        let mut registry = Registry::new();
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(ClientIdentity { certificate: certificate.clone(), key: key.clone() })
            }
            _ => None,
        };
        let accept_any_certificate = self.accept_any_certificate;
        let tls = ClientTls { extra_roots: self.tls_ca.clone(), identity, accept_any_certificate };
        let config = ClientConfig {
            verbatim: framing == FramingKind::LengthPrefix,
            tls,
            subprotocols: self.subprotocol.clone(),
            proxies: Proxies::from_env(),
            ..self.credentials.client()?
        };
        tieline_http::register_with_mcp(&mut registry, config, tieline_mcp::Remote::boxed);
        Ok(registry)
    }
}

/// Options for listening on web endpoints.
#[derive(Group)]
#[command(next_help_heading = "Options for http: and https: endpoints")]
pub(crate) struct WebServer {
    #[command(flatten)]
    tokens: Tokens,
    /// Accept web clients without a token: every user of this machine can connect
    #[arg(long, conflicts_with_all = ["token", "token_file"])]
    allow_unauthenticated_web: bool,
    #[command(flatten)]
    oauth: Oauth,
    /// Listen without a token or TLS even on an address that other machines can reach
    #[arg(long)]
    #[arg(hide_short_help = true)]
    expose_without_token_and_tls: bool,
    /// Accept this name in the Host header, besides the address and `localhost`; may be repeated
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Accept requests from pages of this origin, for example https://example.org; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    #[arg(hide_short_help = true)]
    allow_origin: Vec<String>,
    /// URL of the server behind a reverse proxy, for example https://example.org/agents/one/
    ///
    /// The URL's host and origin are accepted, and the URL is printed at start.
    #[arg(long, value_name = "URL", value_parser = public_url)]
    pub(crate) public_url: Option<PublicUrl>,
    /// Accept this WebSocket subprotocol, besides mcp and acp; may be repeated
    #[arg(long, value_name = "NAME", value_parser = subprotocol)]
    #[arg(hide_short_help = true)]
    subprotocol: Vec<Subprotocol>,
    /// Server certificate chain, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the server certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Require client certificates issued by a CA in this PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    #[arg(hide_short_help = true)]
    tls_client_ca: Option<PathBuf>,
    /// Keep a disconnected web client's program running for TIME so that the client can resume
    /// [default: the value of --resume, or 2m]
    #[arg(long, value_name = "TIME", value_parser = up_to_a_day)]
    #[arg(hide_short_help = true)]
    pub(crate) session_grace: Option<Duration>,
}

impl WebServer {
    /// Returns how web clients are authenticated, and whether the token is a new random one.
    pub(crate) fn access(&self) -> Result<(Access, bool), Failure> {
        if self.allow_unauthenticated_web {
            return Ok((Access::Anybody, false));
        }
        Ok(match self.tokens.find()? {
            Some(token) => (Access::Token(token), false),
            None => (Access::Token(Token::random()?), true),
        })
    }

    /// Returns whether clients without a token are accepted.
    pub(crate) fn admits_anybody(&self) -> bool {
        self.allow_unauthenticated_web
    }

    /// Returns whether access tokens of an OAuth issuer are accepted.
    pub(crate) fn has_issuer(&self) -> bool {
        self.oauth.is_given()
    }

    /// Returns the first of these options that is on the command line. The environment variable is
    /// ignored, because it may be meant for other commands.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        // Destructure all fields, so that a forgotten option is an unused variable. The two ignored ones
        // require --tls-cert.
        let Self {
            tokens,
            allow_unauthenticated_web,
            oauth,
            expose_without_token_and_tls,
            allow_host,
            allow_origin,
            public_url,
            subprotocol,
            tls_cert,
            tls_key: _,
            tls_client_ca: _,
            session_grace,
        } = self;
        let given = [
            ("--allow-unauthenticated-web", *allow_unauthenticated_web),
            ("--oauth-issuer", oauth.is_given()),
            ("--expose-without-token-and-tls", *expose_without_token_and_tls),
            ("--allow-host", !allow_host.is_empty()),
            ("--allow-origin", !allow_origin.is_empty()),
            ("--public-url", public_url.is_some()),
            ("--subprotocol", !subprotocol.is_empty()),
            ("--tls-cert", tls_cert.is_some()),
            ("--session-grace", session_grace.is_some()),
        ];
        let mut given = tokens.given().into_iter().chain(given);
        given.find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }

    /// Returns the configuration of a server on `endpoint` that authenticates clients with `access`.
    pub(crate) fn config(
        &self,
        endpoint: &Endpoint,
        access: Access,
    ) -> Result<ServerConfig, Failure> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(ServerTls {
                certificate: certificate.clone(),
                key: key.clone(),
                client_roots: self.tls_client_ca.clone(),
            }),
            _ => None,
        };
        if (endpoint.scheme() == "https") != tls.is_some() && !is_local(endpoint.scheme()) {
            let why = match tls {
                Some(_) => "--tls-cert needs an https: endpoint; write https: instead of http:",
                None => "https: needs --tls-cert and --tls-key",
            };
            return Err(Failure::Usage(format!("{endpoint}: {why}")));
        }
        let mut config = ServerConfig::at(endpoint, access)?;
        config.oauth = self.oauth.config(endpoint, self.public_url.is_some())?;
        config.tls = tls;
        config.hosts.clone_from(&self.allow_host);
        config.origins.clone_from(&self.allow_origin);
        config.public_url.clone_from(&self.public_url);
        config.subprotocols.extend(self.subprotocol.iter().cloned());
        config.expose_without_token_and_tls = self.expose_without_token_and_tls;
        Ok(config)
    }
}
