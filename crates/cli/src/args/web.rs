//! What concerns endpoints of the web alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as Group;
use tieline_http::{
    Access, ClientConfig, ClientIdentity, ClientTls, PublicUrl, ServerConfig, ServerTls,
    Subprotocol, Token,
};
use tieline_proto::FramingKind;
use tieline_transport::{ConfigError, Endpoint, Registry};

use super::values::up_to_a_day;
use crate::report::Failure;

/// The environment's name for the token, on both sides.
pub(crate) const TOKEN: &str = "TIELINE_TOKEN";

/// The token, from the command line, a file, or the environment.
#[derive(Group)]
struct Tokens {
    /// The token of a server on the web. Everybody on this machine can read it in the list of
    /// processes: it is better in a file, or in the environment as TIELINE_TOKEN
    #[arg(long, value_name = "TOKEN", value_parser = token, conflicts_with = "token_file")]
    token: Option<Token>,
    /// The file that holds the token, and nothing else
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Tokens {
    fn find(&self) -> Result<Option<Token>, Failure> {
        if let Some(token) = &self.token {
            return Ok(Some(token.clone()));
        }
        if let Some(file) = &self.token_file {
            return read(file).map(Some);
        }
        match std::env::var(TOKEN) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => {
                token(&text).map(Some).map_err(|why| Failure::Usage(format!("{TOKEN}: {why}")))
            }
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error) => Err(Failure::Usage(format!("{TOKEN}: {error}"))),
        }
    }
}

/// A token's file is no longer than the longest token and the end of its line.
const LONGEST_FILE: u64 = 1024;

fn read(file: &Path) -> Result<Token, Failure> {
    let failed = |why: String| Failure::Said(format!("--token-file {}: {why}", file.display()));
    let mut text = String::new();
    let opened = tieline_transport::open_secret(file).map_err(|error| failed(error.to_string()))?;
    std::io::Read::read_to_string(&mut std::io::Read::take(opened, LONGEST_FILE), &mut text)
        .map_err(|error| failed(error.to_string()))?;
    token(text.trim_end_matches(['\r', '\n'])).map_err(failed)
}

/// What it was is not said: it may be a real one with a slip in it.
fn token(text: &str) -> Result<Token, String> {
    Token::new(text).map_err(|error| format!("a token must {}", error.must))
}

fn subprotocol(name: &str) -> Result<Subprotocol, String> {
    Subprotocol::new(name).map_err(|error| format!("a subprotocol must {}", error.must))
}

fn public_url(text: &str) -> Result<PublicUrl, String> {
    text.parse().map_err(|error: ConfigError| format!("it must {}", error.must))
}

/// For those who connect to servers on the web.
#[derive(Group)]
#[command(next_help_heading = "Options for ws:, wss:, http: and https: endpoints")]
pub(crate) struct WebClient {
    #[command(flatten)]
    tokens: Tokens,
    /// Send the token without TLS to other machines, too, where whoever is on the way can read it
    #[arg(long)]
    send_token_without_tls: bool,
    /// Offer this WebSocket subprotocol, like mcp, and fail if the server does not grant it; may be given
    /// several times, most wanted first
    #[arg(long, value_name = "NAME", value_parser = subprotocol)]
    subprotocol: Vec<Subprotocol>,
    /// Trust servers whose certificate rests on one in this PEM file, too
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The certificate for servers that ask for one, and those it rests on, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl WebClient {
    /// All transports, those of the web among them.
    pub(crate) fn registry(&self) -> Result<Registry, Failure> {
        self.registry_for(FramingKind::Lines)
    }

    /// The same, for messages that come from or go to a line in `framing`: one that carries any bytes keeps
    /// the messages of WebSockets as they are.
    pub(crate) fn registry_for(&self, framing: FramingKind) -> Result<Registry, Failure> {
        let mut registry = Registry::new();
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(ClientIdentity { certificate: certificate.clone(), key: key.clone() })
            }
            _ => None,
        };
        let tls = ClientTls { extra_roots: self.tls_ca.clone(), identity };
        let config = ClientConfig {
            token: self.tokens.find()?,
            send_token_without_tls: self.send_token_without_tls,
            verbatim: framing == FramingKind::LengthPrefix,
            tls,
            subprotocols: self.subprotocol.clone(),
            ..ClientConfig::default()
        };
        tieline_http::register(&mut registry, config);
        Ok(registry)
    }
}

/// For those who serve on the web.
#[derive(Group)]
#[command(next_help_heading = "Options for http: and https: endpoints")]
pub(crate) struct WebServer {
    #[command(flatten)]
    tokens: Tokens,
    /// Let in whoever reaches the port, without a token: every user of the machine
    #[arg(long, conflicts_with_all = ["token", "token_file"])]
    allow_unauthenticated_web: bool,
    /// Listen where other machines reach it, although there is no token or no TLS
    #[arg(long)]
    expose_without_token_and_tls: bool,
    /// A name that the server is called by, beside its address and `localhost`; may be given several
    /// times
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Pages of this origin, like https://example.org, may talk to it, too; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// The URL that clients use where a reverse proxy stands in front of the server, like
    /// https://example.org/agents/one/. Accepts its host and origin, and prints it
    #[arg(long, value_name = "URL", value_parser = public_url)]
    pub(crate) public_url: Option<PublicUrl>,
    /// Grant this WebSocket subprotocol to clients that offer it, besides mcp and acp; may be given several
    /// times
    #[arg(long, value_name = "NAME", value_parser = subprotocol)]
    subprotocol: Vec<Subprotocol>,
    /// The server's certificate and those it rests on, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Clients must have a certificate that rests on one in this PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// How long a program runs on whose client on the web has lost its connection
    /// [default: as --resume says, or 2m]
    #[arg(long, value_name = "TIME", value_parser = up_to_a_day)]
    pub(crate) session_grace: Option<Duration>,
}

impl WebServer {
    /// Who is let in at every endpoint of the web, and whether nobody has said so.
    pub(crate) fn access(&self) -> Result<(Access, bool), Failure> {
        if self.allow_unauthenticated_web {
            return Ok((Access::Anybody, false));
        }
        Ok(match self.tokens.find()? {
            Some(token) => (Access::Token(token), false),
            None => (Access::Token(Token::random()?), true),
        })
    }

    /// A server at `endpoint` for those who have `access`.
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
        if (endpoint.scheme() == "https") != tls.is_some() && endpoint.scheme() != "http-unix" {
            let why = match tls {
                Some(_) => "with --tls-cert it listens at https:, not at http:",
                None => "https: needs --tls-cert and --tls-key",
            };
            return Err(Failure::Usage(format!("{endpoint}: {why}")));
        }
        let mut config = ServerConfig::at(endpoint, access)?;
        config.tls = tls;
        config.hosts.clone_from(&self.allow_host);
        config.origins.clone_from(&self.allow_origin);
        config.public_url.clone_from(&self.public_url);
        config.subprotocols.extend(self.subprotocol.iter().cloned());
        config.expose_without_token_and_tls = self.expose_without_token_and_tls;
        Ok(config)
    }
}
