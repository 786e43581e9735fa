//! The resource server of a build with OAuth.

mod crypto;
mod discovery;
mod key_set;
mod keys;
mod verify;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use ring::digest::{Context, SHA256};
use serde::Serialize;
use tieline_transport::{Principal, TransportError};

use self::key_set::NoKey;
use self::keys::Keys;
use self::verify::{Claims, Invalid, header_of, verify};
use super::{OauthConfig, WELL_KNOWN};
use crate::client_config::ClientConfig;
use crate::dialer::Client;
use crate::server::Server;
use crate::server::access::{NO_TOKEN, Refused, bearer_tokens};
use crate::server::body::{Body, JSON, answer, line};
use crate::server::count::Cause;

/// Admits clients with access tokens.
pub(in crate::server) struct ResourceServer {
    config: OauthConfig,
    keys: Keys,
}

const NO_KEYS: Refused = Refused {
    status: StatusCode::SERVICE_UNAVAILABLE,
    cause: Cause::Issuer,
    text: Cow::Borrowed(
        "the access token cannot be checked, because the keys of its issuer are not available; try again later",
    ),
};
const SCOPE: Refused = Refused {
    status: StatusCode::FORBIDDEN,
    cause: Cause::Scope,
    text: Cow::Borrowed("the access token lacks a required scope; see the WWW-Authenticate header"),
};

impl ResourceServer {
    /// Creates a resource server. This must be called in a tokio runtime.
    pub(in crate::server) fn new(config: OauthConfig) -> Result<Self, TransportError> {
        crypto::install();
        let client = ClientConfig {
            tls: config.tls.clone(),
            proxies: config.proxies.clone(),
            ..ClientConfig::default()
        };
        let (issuer, client) = (config.issuer.clone(), Arc::new(Client::new(client)));
        let keys = Keys::new(&config.issuer, move || {
            let (issuer, client) = (issuer.clone(), client.clone());
            Box::pin(async move { discovery::keys_of(&issuer, &client).await })
        });
        Ok(Self { config, keys })
    }

    /// Starts to fetch the keys, so that a wrong configuration is logged before the first client connects.
    pub(in crate::server) fn fetch_keys(&self) {
        self.keys.start(Duration::ZERO);
    }

    /// Checks the access token of a request. `otherwise` is the refusal if the request has none.
    pub(in crate::server) async fn authenticate(
        &self,
        server: &Server,
        request: &Parts,
        otherwise: Refused,
    ) -> Result<Option<Principal>, Refused> {
        let tokens = bearer_tokens(&request.headers)?;
        let Some((token, others)) = tokens.split_first() else { return Err(otherwise) };
        if others.iter().any(|other| other != token) {
            return Err(otherwise);
        }
        let claims = match self.verify(token, &self.audiences(server, request)).await {
            Ok(claims) => claims,
            Err(Failed::NoKeys) => return Err(NO_KEYS),
            Err(Failed::Invalid(Invalid::NotAJwt)) => return Err(otherwise),
            Err(Failed::Invalid(invalid)) => {
                let text = match invalid {
                    Invalid::Because(text) => text,
                    Invalid::NoKey(why) => why.to_string().into(),
                    Invalid::Audience | Invalid::NotAJwt => {
                        let own = self.resource(server, request);
                        let own = self.config.audiences.first().unwrap_or(&own);
                        format!("the access token is for another audience than {own}").into()
                    }
                };
                return Err(Refused {
                    status: StatusCode::UNAUTHORIZED,
                    cause: Cause::Token,
                    text,
                });
            }
        };
        match self.config.scopes.iter().all(|scope| claims.has(scope)) {
            true => Ok(Some(self.principal(&claims))),
            false => Err(SCOPE),
        }
    }

    async fn verify(&self, token: &str, audiences: &[String]) -> Result<Claims, Failed> {
        let header = header_of(token)?;
        let keys = self.keys.current().await.ok_or(Failed::NoKeys)?;
        let issuer = &self.config.issuer;
        match verify(token, &header, &keys, issuer, audiences) {
            Err(Invalid::NoKey(NoKey::Unknown)) => {}
            other => return Ok(other?),
        }
        // The issuer may have a new key.
        let newer = self.keys.newer(&keys).await.ok_or(Invalid::NoKey(NoKey::Unknown))?;
        Ok(verify(token, &header, &newer, issuer, audiences)?)
    }

    /// Returns the accepted audiences.
    fn audiences(&self, server: &Server, request: &Parts) -> Vec<String> {
        if !self.config.audiences.is_empty() {
            return self.config.audiences.clone();
        }
        let base = base_url(server, request);
        let resources = server.routes.added().map(|path| format!("{base}{path}"));
        // As some clients write it.
        let with_slash = format!("{base}/");
        [base.clone(), with_slash].into_iter().chain(resources).collect()
    }

    /// Returns the client that a token identifies. A renewed token has the same principal.
    fn principal(&self, claims: &Claims) -> Principal {
        let mut hash = Context::new(&SHA256);
        for part in ["oauth", &self.config.issuer, &claims.sub] {
            // The length shows where each part ends.
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut name = [0; 32];
        for (place, byte) in name.iter_mut().zip(hash.finish().as_ref()) {
            *place = *byte;
        }
        Principal::new(name)
    }

    /// Returns the URL of the resource that a request is for: that of an added route, or that of the
    /// server.
    fn resource(&self, server: &Server, request: &Parts) -> String {
        format!("{}{}", base_url(server, request), resource_path(server, request.uri.path()))
    }

    /// Returns the value of `WWW-Authenticate` for a refused request (RFC 6750, RFC 9728).
    pub(in crate::server) fn challenge(
        &self,
        server: &Server,
        request: &Parts,
        refused: &Refused,
    ) -> Option<String> {
        let error = match (refused.status, refused.cause) {
            (StatusCode::UNAUTHORIZED, _) if *refused == NO_TOKEN => "",
            (StatusCode::UNAUTHORIZED, _) => ", error=\"invalid_token\"",
            (_, Cause::Scope) => ", error=\"insufficient_scope\"",
            _ => return None,
        };
        let base = base_url(server, request);
        let path = resource_path(server, request.uri.path());
        let scope = match self.config.scopes.join(" ") {
            scope if scope.is_empty() => scope,
            scope => format!(", scope=\"{scope}\""),
        };
        Some(format!("Bearer resource_metadata=\"{base}{WELL_KNOWN}{path}\"{scope}{error}"))
    }

    /// Returns the metadata of a protected resource (RFC 9728).
    pub(in crate::server) fn metadata(&self, server: &Server, request: &Parts) -> Response<Body> {
        let path = request.uri.path().strip_prefix(WELL_KNOWN).unwrap_or_default();
        let metadata = Metadata {
            resource: format!("{}{path}", base_url(server, request)),
            authorization_servers: [&self.config.issuer],
            scopes_supported: &self.config.scopes,
            bearer_methods_supported: ["header"],
        };
        match serde_json::to_string(&metadata) {
            Ok(metadata) => answer(StatusCode::OK, JSON, metadata),
            Err(error) => line(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

/// The metadata of a protected resource.
#[derive(Serialize)]
struct Metadata<'a> {
    resource: String,
    authorization_servers: [&'a str; 1],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    scopes_supported: &'a [String],
    bearer_methods_supported: [&'static str; 1],
}

/// Returns the server's URL without a slash at its end: the public URL, or the origin under the name in the
/// request's Host header, which was checked.
fn base_url(server: &Server, request: &Parts) -> String {
    match &server.public_url {
        Some(public) => public.to_string().trim_end_matches('/').to_owned(),
        None => {
            let origin = server.access.own_origin(&request.headers);
            origin.map(|origin| origin.to_string()).unwrap_or_default()
        }
    }
}

/// Returns the path of the resource that `path` belongs to, which is empty for the server itself.
fn resource_path<'a>(server: &Server, path: &'a str) -> &'a str {
    match server.routes.added().any(|added| added == path) {
        true => path,
        false => "",
    }
}

/// The reason why a token was not accepted.
enum Failed {
    NoKeys,
    Invalid(Invalid),
}

impl From<Invalid> for Failed {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}
