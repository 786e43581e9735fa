//! Options for access tokens of OAuth authorization servers.

use clap::Args as Group;
use tieline_http::{OauthConfig, Proxies};
use tieline_transport::Endpoint;

use crate::report::Failure;
use crate::web::is_local;

#[derive(Group)]
pub(super) struct Oauth {
    /// Also accept access tokens (JWT) of this OAuth issuer; a client's user is the token's subject
    ///
    /// URL must be exactly the issuer in the tokens. The keys that sign them are found through the
    /// issuer's metadata. Clients without a token are told which issuer to ask. The server's own token
    /// stays valid.
    #[arg(long, value_name = "URL", value_parser = issuer)]
    #[arg(conflicts_with = "allow_unauthenticated_web", hide_short_help = true)]
    oauth_issuer: Option<String>,
    /// Audience that an access token must have; may be repeated [default: the server's URL, or that of /mcp or /acp]
    #[arg(long, value_name = "URI", value_parser = audience, requires = "oauth_issuer")]
    #[arg(hide_short_help = true)]
    oauth_audience: Vec<String>,
    /// Scope that an access token must have; may be repeated
    #[arg(long, value_name = "SCOPE", value_parser = scope, requires = "oauth_issuer")]
    #[arg(hide_short_help = true)]
    oauth_scope: Vec<String>,
}

fn issuer(text: &str) -> Result<String, String> {
    checked(OauthConfig::new(text), text)
}

fn audience(text: &str) -> Result<String, String> {
    checked(OauthConfig { audiences: vec![text.to_owned()], ..any() }, text)
}

fn scope(text: &str) -> Result<String, String> {
    checked(OauthConfig { scopes: vec![text.to_owned()], ..any() }, text)
}

/// Returns a valid configuration.
fn any() -> OauthConfig {
    OauthConfig::new("https://localhost")
}

fn checked(config: OauthConfig, text: &str) -> Result<String, String> {
    config.validate().map_err(|error| format!("must {}", error.must))?;
    Ok(text.to_owned())
}

impl Oauth {
    /// Returns whether access tokens are accepted.
    pub(super) fn is_given(&self) -> bool {
        // The other options require this one.
        self.oauth_issuer.is_some()
    }

    /// Returns the configuration of a server on `endpoint`. `has_url` states whether the server has a public URL.
    pub(super) fn config(
        &self,
        endpoint: &Endpoint,
        has_url: bool,
    ) -> Result<Option<OauthConfig>, Failure> {
        let Self { oauth_issuer, oauth_audience, oauth_scope } = self;
        let Some(issuer) = oauth_issuer else { return Ok(None) };
        if is_local(endpoint.scheme()) && !has_url && oauth_audience.is_empty() {
            return Err(Failure::Usage(format!(
                "{endpoint}: --oauth-issuer needs --oauth-audience or --public-url here, because the endpoint is \
                 not a URL that an access token could be for"
            )));
        }
        let config = OauthConfig {
            audiences: oauth_audience.clone(),
            scopes: oauth_scope.clone(),
            proxies: Proxies::from_env(),
            ..OauthConfig::new(issuer)
        };
        config.validate().map_err(tieline_transport::TransportError::from)?;
        Ok(Some(config))
    }
}
