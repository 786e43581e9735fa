//! HTTP and WebSocket endpoints: `ws:`, `wss:`, `ws-unix:`, `ws-pipe:`, `http:`, `https:`, `http-unix:` and
//! `http-pipe:`.

use std::ffi::OsString;
use std::fmt;

use tieline_transport::{Address, Endpoint, ErrorKind, Operation, TransportError, is_loopback};

use crate::events::SSE_PATH;

/// The address of an HTTP server, and the path and query to request.
///
/// | endpoint | meaning |
/// |---|---|
/// | `ws://host:port/path?query` | WebSocket over TCP; the default port is 80 |
/// | `wss://host:port/path?query` | WebSocket over TLS; the default port is 443 |
/// | `ws-unix:/run/agent.sock:/path` | WebSocket over a Unix socket; the default path is `/ws` |
/// | `http://…`, `https://…` | the same addresses, for events and POSTs, or to listen on |
/// | `http-unix:/run/agent.sock:/path` | events and POSTs over a Unix socket; the default path is `/sse` |
/// | `mcp+http://…`, `mcp+https://…` | the same addresses, for MCP |
/// | `mcp+http-unix:/run/agent.sock:/path` | MCP over a Unix socket; the default path is `/mcp` |
/// | `ws-pipe:agent:/path`, `http-pipe:agent:/path`, `mcp+http-pipe:agent:/path` | the same over a named pipe, on Windows |
///
/// In these, a colon in the socket's path or the pipe's name is written as `%3A`. Other bytes are escaped
/// as in `unix:` and `pipe:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddress {
    /// Where to connect.
    pub place: Place,
    /// Whether the connection uses TLS.
    pub is_secure: bool,
    /// The path and query, beginning with `/`.
    pub target: String,
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP port.
    Tcp {
        /// A host name or an IP address. An IPv6 address is written without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(OsString),
    /// A named pipe on Windows, without `\\\\.\\pipe\\`.
    Pipe(String),
}

/// The prefix of the schemes for MCP.
pub(crate) const MCP: &str = "mcp+";

const NOT_WEB: &str =
    "its scheme is not one of ws, wss, ws-unix, ws-pipe, http, https, http-unix, http-pipe";

/// The path of tieline's own WebSockets.
pub(crate) const WS_PATH: &str = "/ws";

impl WebAddress {
    /// Parses an endpoint with one of the schemes in the table above.
    ///
    /// # Errors
    /// The endpoint has another scheme, or is malformed.
    pub fn of(endpoint: &Endpoint) -> Result<Self, TransportError> {
        let Address::Other { scheme, rest } = endpoint.address() else {
            return Err(bad(endpoint, NOT_WEB, ""));
        };
        let (is_secure, usual_port) = match scheme.strip_prefix(MCP).unwrap_or(scheme) {
            "ws" | "http" => (false, 80),
            "wss" | "https" => (true, 443),
            "ws-unix" | "http-unix" => return on_unix(endpoint, rest),
            "ws-pipe" | "http-pipe" => return on_pipe(endpoint, rest),
            _ => {
                return Err(bad(endpoint, NOT_WEB, ""));
            }
        };
        let hint = "write it like ws://127.0.0.1:8080/ws or wss://example.org/agent";
        let Some(rest) = rest.strip_prefix("//") else {
            return Err(bad(endpoint, "the scheme must be followed by `//` and a host", hint));
        };
        let (authority, target) = match rest.find(['/', '?', '#']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        if authority.contains('@') {
            let hint =
                "pass the token with an option (--token), so that it does not appear in logs";
            return Err(bad(endpoint, "user name and password in the URL are not supported", hint));
        }
        let (host, port) = authority_of(authority, usual_port)
            .ok_or_else(|| bad(endpoint, "it has no valid host and port", hint))?;
        let target = target_of(target)
            .ok_or_else(|| bad(endpoint, "its path is not valid in a URL", hint))?;
        Ok(Self { place: Place::Tcp { host, port }, is_secure, target })
    }

    /// Returns whether the server is on this machine: on a Unix socket, on a named pipe, or on a host that is
    /// [loopback](is_loopback).
    pub fn is_on_this_machine(&self) -> bool {
        match &self.place {
            Place::Unix(_) | Place::Pipe(_) => true,
            Place::Tcp { host, .. } => is_loopback(host),
        }
    }

    /// Returns whether the last segment of the path is `name`.
    pub(crate) fn ends_with(&self, name: &str) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        path.trim_end_matches('/').rsplit('/').next() == Some(name)
    }

    /// Returns the value for the `Host` header.
    pub(crate) fn host_header(&self) -> String {
        let usual_port = if self.is_secure { 443 } else { 80 };
        match &self.place {
            Place::Unix(_) | Place::Pipe(_) => "localhost".to_owned(),
            Place::Tcp { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                match *port == usual_port {
                    true => host,
                    false => format!("{host}:{port}"),
                }
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", std::path::Path::new(path).display()),
            Self::Pipe(name) => write!(f, r"\\.\pipe\{name}"),
        }
    }
}

fn on_unix(endpoint: &Endpoint, rest: &str) -> Result<WebAddress, TransportError> {
    let hint = "write it like ws-unix:/run/agent.sock or ws-unix:/run/agent.sock:/path";
    let (path, target) = local(endpoint, rest, hint)?;
    // The path follows the rules of `unix:`.
    match format!("unix:{path}").parse::<Endpoint>().as_ref().map(Endpoint::address) {
        Ok(Address::Unix(path)) => {
            Ok(WebAddress { place: Place::Unix(path.clone()), is_secure: false, target })
        }
        _ => Err(bad(endpoint, "it has no valid socket path", hint)),
    }
}

fn on_pipe(endpoint: &Endpoint, rest: &str) -> Result<WebAddress, TransportError> {
    let hint = "write it like ws-pipe:agent or ws-pipe:agent:/path";
    let (name, target) = local(endpoint, rest, hint)?;
    // The name follows the rules of `pipe:`.
    match format!("pipe:{name}").parse::<Endpoint>().as_ref().map(Endpoint::address) {
        Ok(Address::Pipe(name)) => {
            Ok(WebAddress { place: Place::Pipe(name.clone()), is_secure: false, target })
        }
        _ => Err(bad(endpoint, "it has no valid pipe name", hint)),
    }
}

/// Splits the text of an endpoint on this machine into its place and the path to request.
fn local<'a>(
    endpoint: &Endpoint,
    rest: &'a str,
    hint: &'static str,
) -> Result<(&'a str, String), TransportError> {
    let usual = match endpoint.scheme() {
        "http-unix" | "http-pipe" => SSE_PATH,
        "ws-unix" | "ws-pipe" => WS_PATH,
        _ => "/mcp",
    };
    let (place, target) = rest.split_once(':').unwrap_or((rest, usual));
    let target = Some(target).filter(|target| target.starts_with('/')).and_then(target_of);
    let target = target.ok_or_else(|| bad(endpoint, "its path is not valid in a URL", hint))?;
    Ok((place, target))
}

/// Parses a host and a port. Returns the host in lower case.
pub(crate) fn authority_of(text: &str, usual_port: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            // Normalizes the address, so that all its spellings are equal.
            (host.parse::<std::net::Ipv6Addr>().ok()?.to_string(), port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (host, port) = text.split_at(end);
            let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
            if host.is_empty() || !host.bytes().all(is_plain) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => usual_port,
        // `parse` alone would accept a sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    Some((host, port))
}

/// Returns the path and query for a request, without the fragment (`#`), or `None` if they are not valid
/// in a URL.
pub(crate) fn target_of(text: &str) -> Option<String> {
    let text = text.split('#').next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    if !text.bytes().all(is_plain) {
        return None;
    }
    Some(if text.starts_with('/') { text.to_owned() } else { format!("/{text}") })
}

fn bad(endpoint: &Endpoint, problem: &str, hint: &'static str) -> TransportError {
    let kind = ErrorKind::InvalidEndpoint { problem: problem.to_owned() };
    let error = TransportError::new(kind, Operation::Parse).at(endpoint);
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_endpoints_are_parsed() {
        let tcp = |host: &str, port| Place::Tcp { host: host.into(), port };
        let unix = |path: &str| Place::Unix(path.into());
        let pipe = |name: &str| Place::Pipe(name.into());
        for (text, place, is_secure, target, host) in [
            ("ws://127.0.0.1:8080/ws", tcp("127.0.0.1", 8080), false, "/ws", "127.0.0.1:8080"),
            ("ws://Example.ORG", tcp("example.org", 80), false, "/", "example.org"),
            ("ws://a:80/", tcp("a", 80), false, "/", "a"),
            ("wss://a/b?c=d#e", tcp("a", 443), true, "/b?c=d", "a"),
            ("wss://a:80?q", tcp("a", 80), true, "/?q", "a:80"),
            ("ws://[::1]:9/x", tcp("::1", 9), false, "/x", "[::1]:9"),
            ("https://[::1]", tcp("::1", 443), true, "/", "[::1]"),
            ("ws-unix:/run/a.sock", unix("/run/a.sock"), false, "/ws", "localhost"),
            ("ws-unix:/a%3Ab%20c:/x?y", unix("/a:b c"), false, "/x?y", "localhost"),
            ("http-unix:/run/a.sock", unix("/run/a.sock"), false, "/sse", "localhost"),
            ("ws-pipe:agent", pipe("agent"), false, "/ws", "localhost"),
            (r"http-pipe:\\.\pipe\a b", pipe("a b"), false, "/sse", "localhost"),
            ("http-pipe:a%3Ab:/mcp", pipe("a:b"), false, "/mcp", "localhost"),
            ("resume+http://a:1/sse", tcp("a", 1), false, "/sse", "a:1"),
            ("resume+ws://a:1/ws", tcp("a", 1), false, "/ws", "a:1"),
            ("mcp+http://a/x", tcp("a", 80), false, "/x", "a"),
            ("mcp+https://a", tcp("a", 443), true, "/", "a"),
            ("mcp+http-unix:/a", unix("/a"), false, "/mcp", "localhost"),
            ("mcp+http-pipe:a", pipe("a"), false, "/mcp", "localhost"),
            ("mcp+http-unix:/a:/x", unix("/a"), false, "/x", "localhost"),
        ] {
            let address = WebAddress::of(&text.parse().unwrap()).unwrap();
            assert_eq!(address.host_header(), host, "{text}");
            let target = target.to_owned();
            assert_eq!(address, WebAddress { place, is_secure, target }, "{text}");
        }
    }

    #[test]
    fn invalid_endpoints_are_refused_with_a_reason() {
        for (text, says) in [
            ("tcp:a:1", "its scheme is not"),
            ("ftp://a", "its scheme is not"),
            ("ws:a", "`//`"),
            ("ws://", "no valid host"),
            ("ws:///x", "no valid host"),
            ("ws://a:x/", "no valid host"),
            ("ws://a:+1/", "no valid host"),
            ("ws://a:65536/", "no valid host"),
            ("ws://a b/", "no valid host"),
            ("ws://[::1/", "no valid host"),
            ("ws://[a]/", "no valid host"),
            ("ws://::1/", "no valid host"),
            ("ws://user:secret@a/", "user name and password"),
            ("ws://a/b c", "not valid in a URL"),
            ("ws://a/\r\nX: y", "not valid in a URL"),
            ("ws://a/é", "not valid in a URL"),
            ("ws-unix:", "no valid socket path"),
            ("ws-unix:/a:x", "not valid in a URL"),
            ("ws-pipe:", "no valid pipe name"),
            (r"ws-pipe:\\machine\pipe\a", "no valid pipe name"),
            ("http-pipe:a:x", "not valid in a URL"),
        ] {
            let error = WebAddress::of(&text.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
