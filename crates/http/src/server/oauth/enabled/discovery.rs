//! Fetches the keys of an issuer: its metadata name where they are.

use std::sync::Arc;

use serde::Deserialize;
use tieline_transport::Endpoint;

use super::super::url;
use super::key_set::KeySet;
use crate::address::WebAddress;
use crate::dialer::Client;
use crate::fetch::fetch;

/// The members of an authorization server's metadata that are used (RFC 8414, OpenID Connect Discovery).
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the keys of `issuer`.
///
/// # Errors
/// No metadata of this issuer or no keys were found.
pub(super) async fn keys_of(issuer: &str, client: &Arc<Client>) -> Result<KeySet, String> {
    let mut failures = Vec::new();
    for place in metadata_urls(issuer) {
        match keys_at(&place, issuer, client).await {
            Ok(keys) => return Ok(keys),
            Err(why) => failures.push(format!("{place}: {why}")),
        }
    }
    Err(failures.join("; "))
}

/// Returns the URLs at which the metadata of an issuer may be, in the order in which they are tried.
fn metadata_urls(issuer: &str) -> Vec<String> {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    let start = issuer.find("://").map_or(0, |at| at + 3);
    let end =
        issuer.get(start..).and_then(|rest| rest.find('/')).map_or(issuer.len(), |at| start + at);
    let (origin, path) = issuer.split_at(end);
    let mut urls = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        urls.push(format!("{issuer}/.well-known/openid-configuration"));
    }
    urls
}

async fn keys_at(place: &str, issuer: &str, client: &Arc<Client>) -> Result<KeySet, String> {
    let document = get(place, client).await?;
    let Metadata { issuer: named, jwks_uri } = serde_json::from_slice(&document)
        .map_err(|error| format!("the document is not an issuer's metadata: {error}"))?;
    if named != issuer {
        let named: String = named.escape_debug().take(MAX_SHOWN).collect();
        return Err(format!("the document names the issuer {named}, not {issuer}"));
    }
    let in_keys = |why: String| {
        let place: String = jwks_uri.escape_debug().take(MAX_SHOWN).collect();
        format!("{place}: {why}")
    };
    // Keys from elsewhere must not be easier to replace than the metadata that name them.
    let is_downgrade = issuer.starts_with("https:") && !jwks_uri.starts_with("https:");
    if is_downgrade {
        return Err(in_keys("the keys of an https: issuer must be at an https: URL".to_owned()));
    }
    let document = get(&jwks_uri, client).await.map_err(in_keys)?;
    KeySet::parse(&document).map_err(in_keys)
}

/// The maximum number of characters of a foreign text in an error.
const MAX_SHOWN: usize = 256;

async fn get(place: &str, client: &Arc<Client>) -> Result<Vec<u8>, String> {
    let (endpoint, address): (Endpoint, WebAddress) =
        url(place).ok_or("the URL is neither https: nor on this machine")?;
    fetch(client, &endpoint, address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_sought_where_the_standards_say() {
        for (issuer, urls) in [
            (
                "https://example.org",
                &[
                    "https://example.org/.well-known/oauth-authorization-server",
                    "https://example.org/.well-known/openid-configuration",
                ][..],
            ),
            (
                "https://example.org/",
                &[
                    "https://example.org/.well-known/oauth-authorization-server",
                    "https://example.org/.well-known/openid-configuration",
                ],
            ),
            (
                "http://127.0.0.1:8080/tenants/one",
                &[
                    "http://127.0.0.1:8080/.well-known/oauth-authorization-server/tenants/one",
                    "http://127.0.0.1:8080/.well-known/openid-configuration/tenants/one",
                    "http://127.0.0.1:8080/tenants/one/.well-known/openid-configuration",
                ],
            ),
        ] {
            assert_eq!(metadata_urls(issuer), urls, "{issuer}");
        }
    }
}
