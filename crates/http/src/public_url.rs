//! The URL that clients use if a reverse proxy is in front of the server.

use std::fmt;
use std::str::FromStr;

use tieline_transport::{ConfigError, Endpoint};

use crate::address::{Place, WebAddress};

/// The URL of a server as its clients see it through a reverse proxy, like
/// `https://example.org/agents/one/`. It may have a path on the proxy's host.
///
/// # Examples
///
/// ```
/// use tieline_http::PublicUrl;
///
/// let url: PublicUrl = "https://example.org/agents/one".parse()?;
/// assert_eq!(url.to_string(), "https://example.org/agents/one/");
/// assert!("example.org".parse::<PublicUrl>().is_err());
/// # Ok::<(), tieline_transport::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// The URL's `host` or `host:port`.
    authority: String,
    host: String,
    is_secure: bool,
    /// The path, which begins and ends with `/`.
    path: String,
}

impl PublicUrl {
    /// Returns whether clients use TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Returns the path of the server. It begins and ends with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the origin of the server's pages, like `https://example.org`.
    pub fn origin(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Returns the URL of the server's WebSockets, like `wss://example.org/agents/one/ws`.
    pub fn web_socket(&self) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}ws", self.authority, self.path)
    }

    /// Returns the URL of the server's event streams, like `https://example.org/agents/one/sse`.
    pub fn events(&self) -> String {
        format!("{self}sse")
    }

    /// Returns the host in the form of [`ServerConfig::hosts`](crate::ServerConfig::hosts).
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Removes this URL's path from a request's path and query. Returns `None` if the request is not
    /// below this URL.
    pub(crate) fn strip<'a>(&self, target: &'a str) -> Option<&'a str> {
        let prefix = self.path.strip_suffix('/').filter(|prefix| !prefix.is_empty())?;
        let rest = target.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest)
    }
}

impl FromStr for PublicUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let must = "be a URL like https://example.org/agents/one/, without a query";
        let error = ConfigError { field: "public_url", must };
        let endpoint: Endpoint = text.parse().map_err(|_| error)?;
        if !matches!(endpoint.scheme(), "http" | "https")
            || endpoint.is_resumable()
            || endpoint.framing().is_some()
            || text.contains(['?', '#', '%'])
        {
            return Err(error);
        }
        let address = WebAddress::of(&endpoint).map_err(|_| error)?;
        let authority = address.host_header();
        let WebAddress { place: Place::Tcp { host, .. }, is_secure, target: mut path } = address
        else {
            return Err(error);
        };
        if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") {
            return Err(error);
        }
        if !path.ends_with('/') {
            path.push('/');
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(Self { authority, host, is_secure, path })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_urls_are_normalized() {
        for (text, url, web_socket) in [
            ("https://Example.org", "https://example.org/", "wss://example.org/ws"),
            ("https://example.org:443/a", "https://example.org/a/", "wss://example.org/a/ws"),
            ("http://a:8080/x/y/", "http://a:8080/x/y/", "ws://a:8080/x/y/ws"),
            ("http://[::1]:80", "http://[::1]/", "ws://[::1]/ws"),
        ] {
            let read: PublicUrl = text.parse().unwrap();
            assert_eq!(read.to_string(), url, "{text}");
            assert_eq!(read.web_socket(), web_socket, "{text}");
            assert_eq!(read.events(), format!("{url}sse"), "{text}");
            assert_eq!(url.strip_prefix(&read.origin()), Some(read.path()), "{text}");
        }
    }

    #[test]
    fn invalid_public_urls_are_refused() {
        for text in [
            "",
            "example.org",
            "ws://example.org/",
            "resume+https://example.org/",
            "https://",
            "https:///agents",
            "https://user:secret@example.org/",
            "https://example.org/?a=b",
            "https://example.org/#a",
            "https://example.org/a b",
            "https://example.org/a//b",
            "https://example.org/../b",
            "https://example.org/\r\nX: y",
            "http-unix:/run/a.sock",
        ] {
            let error = text.parse::<PublicUrl>().unwrap_err();
            assert_eq!(error.field, "public_url", "{text}");
        }
    }

    #[test]
    fn only_whole_path_segments_are_stripped() {
        let url: PublicUrl = "https://example.org/agents/one".parse().unwrap();
        for (target, rest) in [
            ("/agents/one", Some("")),
            ("/agents/one?key=x", Some("?key=x")),
            ("/agents/one/", Some("/")),
            ("/agents/one/sse?session=x", Some("/sse?session=x")),
            ("/agents/one2/ws", None),
            ("/agents", None),
            ("/ws", None),
        ] {
            assert_eq!(url.strip(target), rest, "{target}");
        }
        let root: PublicUrl = "https://example.org/".parse().unwrap();
        assert_eq!(root.strip("/ws"), None);
    }
}
