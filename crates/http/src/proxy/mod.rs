//! HTTP proxies for outgoing connections, and their configuration by the usual environment variables.

mod exceptions;
mod tunnel;
mod url;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use hyper::header::HeaderValue;
use tieline_transport::{ConfigError, Endpoint, ErrorKind, Operation, TransportError};

use crate::address::{Place, WebAddress};
use exceptions::Exceptions;

/// The name of the protocol in errors.
pub(crate) const PROXY: &str = "proxy";

/// The proxies that a client uses; none by default.
///
/// A server on this machine (a Unix socket, `localhost` or a loopback address) is never reached through
/// a proxy. `ws:`, `wss:` and `https:` go through a tunnel (`CONNECT`); with TLS, the proxy sees only
/// the host and the port. Requests for `http:` are sent to the proxy with the whole URL. The connection
/// to the proxy itself has no TLS. The `Debug` output hides user names and passwords.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// The proxy for `http:` and `ws:`.
    http: Option<Choice>,
    /// The proxy for `https:` and `wss:`.
    https: Option<Choice>,
    exceptions: Exceptions,
}

/// A proxy, or the variable with an invalid value. The error is reported only when the proxy would be
/// used.
type Choice = Result<Arc<Proxy>, Invalid>;

#[derive(Clone, Copy, Debug)]
struct Invalid {
    variable: &'static str,
    problem: ConfigError,
}

/// The way to reach a server.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Direct,
    /// Through a tunnel.
    Tunnel(Arc<Proxy>),
    /// Requests are sent to the proxy with the whole URL.
    Forward(Arc<Proxy>),
}

/// A proxy.
pub(crate) struct Proxy {
    host: String,
    port: u16,
    /// `Proxy-Authorization`.
    credentials: Option<HeaderValue>,
    /// The environment variable that names the proxy.
    variable: Option<&'static str>,
}

impl Proxies {
    /// Reads the proxies from environment variables.
    ///
    /// | variable | for |
    /// |---|---|
    /// | `http_proxy`, `HTTP_PROXY` | `http:` and `ws:` |
    /// | `https_proxy`, `HTTPS_PROXY` | `https:` and `wss:` |
    /// | `all_proxy`, `ALL_PROXY` | all of them, if the variable above is not set |
    /// | `no_proxy`, `NO_PROXY` | [exceptions](Self::except) |
    ///
    /// As in curl, the lower-case name takes precedence, and an empty value is ignored. `HTTP_PROXY` is
    /// ignored if `REQUEST_METHOD` is set: in a CGI script, the web server's client chooses its value.
    ///
    /// An invalid value fails the connections that would use it, and no others.
    pub fn from_env() -> Self {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let first =
            |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, get(name)?)));
        let is_cgi = get("REQUEST_METHOD").is_some();
        let http = if is_cgi { ["http_proxy"; 2] } else { ["http_proxy", "HTTP_PROXY"] };
        let all = ["all_proxy", "ALL_PROXY"];
        let choice = |names| {
            let (variable, value) = first(names).or_else(|| first(all))?;
            let parsed = url::parse(value.to_str().unwrap_or_default(), Some(variable));
            Some(parsed.map(Arc::new).map_err(|problem| Invalid { variable, problem }))
        };
        let exceptions = first(["no_proxy", "NO_PROXY"]);
        let exceptions = exceptions.map(|(_, value)| value.to_string_lossy().into_owned());
        Self {
            http: choice(http),
            https: choice(["https_proxy", "HTTPS_PROXY"]),
            exceptions: Exceptions::of(&exceptions.unwrap_or_default()),
        }
    }

    /// Uses the proxy at `url` for every server that is not on this machine: `http://HOST:PORT`, where
    /// `http://` may be omitted and the default port is 80, or `http://USER:PASSWORD@HOST:PORT` with
    /// percent-encoding.
    ///
    /// # Errors
    /// The URL is not of this form. Proxies with TLS (`https:`) and SOCKS are not supported.
    pub fn all(url: &str) -> Result<Self, ConfigError> {
        let proxy = Arc::new(url::parse(url, None)?);
        let choice = Some(Ok(proxy));
        Ok(Self { http: choice.clone(), https: choice, exceptions: Exceptions::default() })
    }

    /// Connects directly to the servers in this list, as in `NO_PROXY`. The list replaces earlier
    /// exceptions.
    ///
    /// The list is separated by commas. An entry is `*` for all servers; an IP address or a network like
    /// `10.0.0.0/8`; or a domain name, with or without a leading `.` or `*.`, which also matches all
    /// names below it. A port may follow an entry that is not a network (`example.org:8443`,
    /// `[::1]:80`). Names are not resolved: an address in the list does not match a name.
    #[must_use]
    pub fn except(mut self, list: &str) -> Self {
        self.exceptions = Exceptions::of(list);
        self
    }

    /// Returns the route to `address`, the parsed address of `endpoint`.
    ///
    /// # Errors
    /// The variable that names the proxy has an invalid value.
    pub(crate) fn route(
        &self,
        endpoint: &Endpoint,
        address: &WebAddress,
    ) -> Result<Route, TransportError> {
        let choice = if address.is_secure { &self.https } else { &self.http };
        let (Some(choice), Place::Tcp { host, port }) = (choice, &address.place) else {
            return Ok(Route::Direct);
        };
        if address.is_on_this_machine() || self.exceptions.has(host, *port) {
            return Ok(Route::Direct);
        }
        let proxy = choice.clone().map_err(|Invalid { variable, problem }| {
            let problem = format!("the proxy in {variable} must {}", problem.must);
            let error =
                TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Connect);
            error.with_hint(format!("correct or unset {variable}, or list {host} in NO_PROXY"))
        })?;
        Ok(match endpoint.scheme() {
            "http" => Route::Forward(proxy),
            _ => Route::Tunnel(proxy),
        })
    }
}

impl Route {
    /// Returns the proxy, if there is one.
    pub(crate) fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Direct => None,
            Self::Tunnel(proxy) | Self::Forward(proxy) => Some(proxy),
        }
    }

    /// Returns the proxy that requests are sent to with the whole URL.
    pub(crate) fn forwarder(&self) -> Option<&Proxy> {
        match self {
            Self::Forward(proxy) => Some(proxy),
            Self::Direct | Self::Tunnel(_) => None,
        }
    }
}

/// Writes `HOST:PORT` and the variable that names the proxy.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.host.clone(), self.port);
        write!(f, "{}", Place::Tcp { host, port })?;
        match self.variable {
            Some(variable) => write!(f, " ({variable})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let get = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Proxies::from_variables(get)
    }

    fn route(proxies: &Proxies, url: &str) -> Result<Route, TransportError> {
        let endpoint: Endpoint = url.parse().unwrap();
        proxies.route(&endpoint, &WebAddress::of(&endpoint).unwrap())
    }

    /// Returns a short description of the route to `url`.
    fn shown(proxies: &Proxies, url: &str) -> String {
        match route(proxies, url) {
            Ok(Route::Direct) => "direct".to_owned(),
            Ok(Route::Tunnel(proxy)) => format!("tunnel {proxy}"),
            Ok(Route::Forward(proxy)) => format!("forward {proxy}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = &[("HTTP_PROXY", "a:1"), ("HTTPS_PROXY", "http://b:2")][..];
        let lower = &[("http_proxy", "c:3"), ("HTTP_PROXY", "a:1"), ("https_proxy", "d:4")];
        let all = &[("ALL_PROXY", "e:5"), ("https_proxy", ""), ("HTTPS_PROXY", "b:2")];
        let cgi = &[("HTTP_PROXY", "a:1"), ("REQUEST_METHOD", "GET")];
        let safe_cgi = &[("http_proxy", "c:3"), ("REQUEST_METHOD", "GET")];
        for (variables, url, expected) in [
            (both, "http://x/sse", "forward a:1 (HTTP_PROXY)"),
            (both, "resume+http://x/sse", "forward a:1 (HTTP_PROXY)"),
            (both, "ws://x/ws", "tunnel a:1 (HTTP_PROXY)"),
            (both, "wss://x/ws", "tunnel b:2 (HTTPS_PROXY)"),
            (both, "resume+wss://x/ws", "tunnel b:2 (HTTPS_PROXY)"),
            (both, "https://x/sse", "tunnel b:2 (HTTPS_PROXY)"),
            (lower, "ws://x", "tunnel c:3 (http_proxy)"),
            (lower, "wss://x", "tunnel d:4 (https_proxy)"),
            (all, "ws://x", "tunnel e:5 (ALL_PROXY)"),
            (all, "wss://x", "tunnel b:2 (HTTPS_PROXY)"),
            (cgi, "ws://x", "direct"),
            (safe_cgi, "ws://x", "tunnel c:3 (http_proxy)"),
            (&[], "wss://x", "direct"),
        ] {
            assert_eq!(shown(&proxies(variables), url), expected, "{variables:?} {url}");
        }
    }

    #[test]
    fn servers_on_this_machine_and_exceptions_are_reached_directly() {
        let some = proxies(&[("ALL_PROXY", "p:1"), ("NO_PROXY", "example.org,10.0.0.0/8")]);
        for (url, is_direct) in [
            ("ws://127.0.0.1:8080/ws", true),
            ("ws://127.9.9.9/ws", true),
            ("http://localhost/sse", true),
            ("wss://LocalHost:8443/ws", true),
            ("https://[::1]/sse", true),
            ("ws-unix:/run/a.sock", true),
            ("http-unix:/run/a.sock", true),
            ("wss://example.org/ws", true),
            ("wss://a.example.org/ws", true),
            ("http://10.1.2.3/sse", true),
            ("wss://example.com/ws", false),
            ("ws://11.0.0.1/ws", false),
            ("ws://localhost.example.com/ws", false),
        ] {
            assert_eq!(shown(&some, url) == "direct", is_direct, "{url}");
        }
        let all = proxies(&[("ALL_PROXY", "p:1"), ("no_proxy", "*"), ("NO_PROXY", "x")]);
        assert_eq!(shown(&all, "wss://example.com"), "direct");
        let library = Proxies::all("p").unwrap().except("example.org");
        assert_eq!(shown(&library, "wss://example.org"), "direct");
        assert_eq!(shown(&library, "wss://example.com"), "tunnel p:80");
    }

    #[test]
    fn an_invalid_proxy_fails_only_the_connections_that_would_use_it() {
        let invalid = proxies(&[("ALL_PROXY", "socks5://abc:1"), ("no_proxy", "example.org")]);
        assert_eq!(shown(&invalid, "ws://localhost/ws"), "direct");
        assert_eq!(shown(&invalid, "wss://example.org/ws"), "direct");
        let error = route(&invalid, "wss://example.com/ws").unwrap_err();
        let text = format!("{error:?}");
        for says in ["ALL_PROXY", "SOCKS", "NO_PROXY"] {
            assert!(text.contains(says), "{text}");
        }
        assert!(!text.contains("abc") && !error.is_retryable(), "{text}");
    }

    #[test]
    fn debug_output_hides_user_name_and_password() {
        let secret = proxies(&[("ALL_PROXY", "http://abc:def@p:1")]);
        let shown = format!("{secret:?} {:?}", route(&secret, "ws://x").unwrap());
        assert!(
            !shown.contains("abc") && !shown.contains("def") && shown.contains("p:1"),
            "{shown}"
        );
    }
}
