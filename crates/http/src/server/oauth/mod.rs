//! The server as an OAuth resource server: it admits clients that show an access token (a JWT) of an
//! authorization server. It issues no tokens itself.
//!
//! ```text
//!   bearer token ─▶ verify ─▶ Keys ─▶ discovery ─▶ the issuer's metadata and keys
//!        │                    cached
//!        ▼
//!   Principal, or a refusal with a challenge ─▶ the metadata of this resource (RFC 9728)
//! ```
//!
//! The configuration exists in every build. Without the feature `oauth`, it is refused: `disabled` has the
//! same names as `enabled`, but its type cannot be created.

#[cfg(not(feature = "oauth"))]
mod disabled;
#[cfg(feature = "oauth")]
mod enabled;

#[cfg(not(feature = "oauth"))]
pub(super) use self::disabled::ResourceServer;
#[cfg(feature = "oauth")]
pub(super) use self::enabled::ResourceServer;

use tieline_transport::{ConfigError, Endpoint};

use crate::address::WebAddress;
use crate::proxy::Proxies;
use crate::tls::ClientTls;

/// The path below which the metadata of protected resources are (RFC 9728).
pub(super) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Admits clients that show an access token of an OAuth authorization server, besides those with the
/// server's own token. Needs the feature `oauth`.
///
/// An access token is a JWT (RFC 9068) that the issuer has signed with a key that it publishes. The
/// signature algorithms are RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA (Ed25519).
/// The token must have the issuer, an accepted audience, a subject, an expiry, and all required scopes.
/// Clocks may differ by a minute. The subject is the client's principal.
///
/// The keys are found through the issuer's metadata (RFC 8414 or OpenID Connect Discovery). They are
/// fetched again after 10 minutes, and when a token names an unknown key, at most every 30 s. Keys that
/// are older than an hour are not used: then, and before keys have been fetched, access tokens are
/// answered with 503.
///
/// The first server in a process that uses this installs a provider for the cryptography of the crate
/// `jsonwebtoken`, based on ring, which verifies signatures and cannot sign. A program that also signs
/// with that crate installs its own provider first.
#[derive(Clone, Debug)]
pub struct OauthConfig {
    /// The issuer, exactly as in its tokens: an `https:` URL without query, or an `http:` URL of this
    /// machine, for tests.
    pub issuer: String,
    /// The accepted audiences. If there are none, these are the server's URL and the URLs of
    /// [added routes](super::Route). The server's URL is [`ServerConfig::public_url`](super::ServerConfig)
    /// or, without one, the scheme and the name in the request's `Host` header.
    pub audiences: Vec<String>,
    /// The scopes that a token must have, all of them.
    pub scopes: Vec<String>,
    /// The TLS configuration of the connections to the issuer.
    pub tls: ClientTls,
    /// The proxies for the connections to the issuer.
    pub proxies: Proxies,
}

/// The maximum length of an audience.
const LONGEST_AUDIENCE: usize = 512;
/// The maximum number of audiences, and of scopes.
const MAX_NAMES: usize = 32;

impl OauthConfig {
    /// Creates the default configuration for an issuer.
    pub fn new(issuer: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: Vec::new(),
            scopes: Vec::new(),
            tls: ClientTls::default(),
            proxies: Proxies::default(),
        }
    }

    /// Checks all values.
    ///
    /// # Errors
    /// A value is invalid. The error names the first one.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |is_valid: bool, field, must| match is_valid {
            true => Ok(()),
            false => Err(ConfigError { field, must }),
        };
        let has_query = self.issuer.contains(['?', '#']);
        let must = "be an https: URL without a query, or an http: URL on this machine";
        check(!has_query && url(&self.issuer).is_some(), "issuer", must)?;
        let is_audience = |text: &String| {
            !text.is_empty()
                && text.len() <= LONGEST_AUDIENCE
                && text.bytes().all(|it| it.is_ascii_graphic())
        };
        let are_audiences =
            self.audiences.len() <= MAX_NAMES && self.audiences.iter().all(is_audience);
        let must = "be at most 32 URIs of up to 512 printable ASCII characters";
        check(are_audiences, "audiences", must)?;
        let is_scope = |text: &String| {
            !text.is_empty()
                && text.len() <= LONGEST_AUDIENCE
                && text.bytes().all(|it| it.is_ascii_graphic() && !b"\"\\".contains(&it))
        };
        let are_scopes = self.scopes.len() <= MAX_NAMES && self.scopes.iter().all(is_scope);
        let must = "be at most 32 words of printable ASCII characters without \" and \\";
        check(are_scopes, "scopes", must)
    }
}

/// Parses a URL of the issuer. Returns `None` if keys from there cannot be trusted, because it is neither
/// `https:` nor on this machine.
fn url(text: &str) -> Option<(Endpoint, WebAddress)> {
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return None;
    }
    let endpoint: Endpoint = text.parse().ok()?;
    let address = WebAddress::of(&endpoint).ok()?;
    (address.is_secure || address.is_on_this_machine()).then_some((endpoint, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_configurations_are_refused_with_the_field() {
        let of = |issuer: &str| OauthConfig::new(issuer);
        let many = vec!["a".to_owned(); MAX_NAMES + 1];
        let audiences = |audiences: &[&str]| OauthConfig {
            audiences: audiences.iter().map(|&it| it.to_owned()).collect(),
            ..of("https://a")
        };
        let scopes = |scopes: &[&str]| OauthConfig {
            scopes: scopes.iter().map(|&it| it.to_owned()).collect(),
            ..of("https://a")
        };
        for (config, field) in [
            (of("https://example.org"), None),
            (of("https://example.org/tenants/one/"), None),
            (of("http://127.0.0.1:8080"), None),
            (of("http://example.org"), Some("issuer")),
            (of("https://example.org/?a"), Some("issuer")),
            (of("https://example.org/#a"), Some("issuer")),
            (of("https://me:secret@example.org"), Some("issuer")),
            (of("resume+https://example.org"), Some("issuer")),
            (of("wss://example.org"), Some("issuer")),
            (of("http-unix:/run/a.sock"), Some("issuer")),
            (of("example.org"), Some("issuer")),
            (of(""), Some("issuer")),
            (audiences(&["api://a", "https://b/mcp"]), None),
            (audiences(&[""]), Some("audiences")),
            (audiences(&["a b"]), Some("audiences")),
            (audiences(&[&"a".repeat(LONGEST_AUDIENCE + 1)]), Some("audiences")),
            (OauthConfig { audiences: many.clone(), ..of("https://a") }, Some("audiences")),
            (scopes(&["mcp:tools"]), None),
            (scopes(&[""]), Some("scopes")),
            (scopes(&["a b"]), Some("scopes")),
            (scopes(&["a\""]), Some("scopes")),
            (OauthConfig { scopes: many, ..of("https://a") }, Some("scopes")),
        ] {
            assert_eq!(config.validate().err().map(|error| error.field), field, "{config:?}");
        }
    }
}
