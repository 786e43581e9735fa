//! Access control for requests: the Host header, the Origin header and the token are checked, in this order,
//! before anything is started.
//!
//! Browsers set Host and Origin truthfully, so these two checks keep out pages of other sites, including
//! those that use DNS rebinding. Other clients can send any value; they are kept out by the token.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Mutex;

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tieline_transport::{Principal, TransportError};

use super::config::{Access, ServerConfig};
use super::count::Cause;
use super::routes::Gate;
use crate::address::{Place, authority_of};
use crate::handshake::{TOKEN_PREFIX, words};
use crate::lock::lock;
use crate::public_url::PublicUrl;
use crate::token::{Fingerprint, Token};

/// Decides whether a request is admitted.
pub(super) struct AccessPolicy {
    is_secure: bool,
    usual_port: u16,
    hosts: Vec<HostRule>,
    origins: Vec<Origin>,
    token: Option<Fingerprint>,
    cookie_name: String,
    /// The attributes after the cookie's value.
    cookie_attributes: String,
    keys: Mutex<Ring>,
    cookies: Mutex<Ring>,
}

/// The maximum number of unused one-time keys that are remembered. The oldest is dropped first.
const MAX_KEYS: usize = 16;
/// The maximum number of cookies that are remembered. The oldest is dropped first.
const MAX_COOKIES: usize = 64;

/// How long a browser keeps a cookie, in seconds: 400 days, the longest that browsers allow. The cookie
/// is valid until the server exits.
const COOKIE_AGE: u32 = 400 * 24 * 60 * 60;

/// A host name that the server answers to.
struct HostRule {
    host: String,
    /// The only allowed port, or `None` if any port is allowed.
    port: Option<u16>,
}

/// The origin of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    is_secure: bool,
    host: String,
    port: u16,
}

/// Returns whether the request is not a browser's cross-site request. Requests for images and scripts
/// have no Origin header, but browsers state their site (W3C Fetch Metadata). The check is needed
/// because cookies are shared between the ports of a host.
fn is_own_fetch(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SITE).iter();
    sites.all(|site| site == "same-origin" || site == "none")
}

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The reason why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) cause: Cause,
    pub(super) text: Cow<'static, str>,
}

const fn refused(status: StatusCode, cause: Cause, text: &'static str) -> Refused {
    Refused { status, cause, text: Cow::Borrowed(text) }
}

const MALFORMED_HOST: Refused = refused(
    StatusCode::BAD_REQUEST,
    Cause::Malformed,
    "the request must have one valid Host header",
);
const MISMATCHED_TARGET: Refused = refused(
    StatusCode::FORBIDDEN,
    Cause::Host,
    "the request target names another host than the Host header",
);
const MALFORMED_ORIGIN: Refused = refused(
    StatusCode::BAD_REQUEST,
    Cause::Malformed,
    "the request must have at most one Origin header",
);
const INVALID_ORIGIN: Refused = refused(
    StatusCode::FORBIDDEN,
    Cause::Origin,
    "the Origin header is not the origin of a page (like https://example.org)",
);
const CROSS_SITE: Refused = refused(
    StatusCode::FORBIDDEN,
    Cause::Origin,
    "cross-site request without an Origin header; use a CORS request, and allow its origin with --allow-origin",
);
const DOUBLED_TOKEN: Refused = refused(
    StatusCode::BAD_REQUEST,
    Cause::Malformed,
    "the request has more than one token of the same kind",
);
pub(super) const NO_TOKEN: Refused = refused(
    StatusCode::UNAUTHORIZED,
    Cause::Token,
    "no token; send the server's token in the header `Authorization: Bearer TOKEN`",
);
const WRONG_TOKEN: Refused = refused(
    StatusCode::UNAUTHORIZED,
    Cause::Token,
    "invalid token; send the server's token in the header `Authorization: Bearer TOKEN`",
);

/// The maximum length of a name that is repeated in the response.
const MAX_SHOWN: usize = 255;

fn foreign_host(host: &str) -> Refused {
    let name = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    not_allowed(Cause::Host, "unrecognized Host header", &name, "--allow-host")
}

fn foreign_origin(origin: &Origin) -> Refused {
    not_allowed(Cause::Origin, "origin not allowed", &origin.to_string(), "--allow-origin")
}

fn not_allowed(cause: Cause, problem: &str, name: &str, option: &str) -> Refused {
    let text = match name.len() > MAX_SHOWN {
        true => problem.to_owned(),
        false => format!("{problem}: {name}; add it with {option} {name}"),
    };
    Refused { status: StatusCode::FORBIDDEN, cause, text: text.into() }
}

impl AccessPolicy {
    pub(super) fn new(config: &ServerConfig, bound: Option<SocketAddr>) -> Self {
        let is_secure = config.tls.is_some();
        let usual_port = if is_secure { 443 } else { 80 };
        let port = bound.map(|address| address.port());
        let mut hosts = vec![HostRule { host: "localhost".into(), port }];
        if let (Place::Tcp { host, .. }, Some(bound)) = (&config.place, bound) {
            hosts.push(HostRule { host: host.to_ascii_lowercase(), port });
            hosts.push(HostRule { host: bound.ip().to_string(), port });
            if bound.ip().is_loopback() {
                hosts.push(HostRule { host: "127.0.0.1".into(), port });
                hosts.push(HostRule { host: "::1".into(), port });
            }
        }
        let public = config.public_url.as_ref();
        for text in config.hosts.iter().map(String::as_str).chain(public.map(PublicUrl::host)) {
            // The default of 0 shows that the text has no port.
            if let Some((host, port)) = authority_of(text, 0) {
                hosts.push(HostRule { host, port: (port != 0).then_some(port) });
            }
        }
        let mut origins: Vec<_> =
            config.origins.iter().filter_map(|text| Origin::read(text)).collect();
        if let Some(public) = &config.public_url {
            origins.extend(Origin::read(&public.origin()));
        }
        let token = match &config.access {
            Access::Token(token) => Some(token.fingerprint()),
            Access::Anybody => None,
        };
        let cookie_name = match port {
            Some(port) => format!("tieline_{port}"),
            None => "tieline".to_owned(),
        };
        let mut cookie_attributes = format!("; HttpOnly; SameSite=Strict; Max-Age={COOKIE_AGE}");
        // Without a Path attribute, the cookie's path is the directory of the one-time URL (RFC 6265,
        // section 5.1.4), which is also right with a proxy that strips a prefix.
        if let Some(public) = public {
            cookie_attributes.push_str(&format!("; Path={}", public.path()));
        }
        if is_secure || public.is_some_and(PublicUrl::is_secure) {
            cookie_attributes.push_str("; Secure");
        }
        Self {
            is_secure,
            usual_port,
            hosts,
            origins,
            token,
            cookie_name,
            cookie_attributes,
            keys: Mutex::new(Ring::of(MAX_KEYS)),
            cookies: Mutex::new(Ring::of(MAX_COOKIES)),
        }
    }

    /// Checks the Host and Origin headers of the request. `gate` belongs to the request's path, and
    /// `local` is the local address of the connection. Returns the page's origin if the request has one.
    pub(super) fn admit(
        &self,
        request: &Parts,
        gate: Gate,
        local: Option<SocketAddr>,
    ) -> Result<Option<Origin>, Refused> {
        let host = one(&request.headers, &header::HOST).ok_or(MALFORMED_HOST)?;
        let host = authority_of(host.ok_or(MALFORMED_HOST)?, self.usual_port);
        let host = host.ok_or(MALFORMED_HOST)?;
        if let Some(authority) = request.uri.authority() {
            // The request target is in absolute form, as for a proxy.
            let named = authority_of(authority.as_str(), self.usual_port);
            if named.as_ref() != Some(&host) {
                return Err(MISMATCHED_TARGET);
            }
        }
        if !self.is_ours(&host, local) {
            return Err(foreign_host(&host.0));
        }
        let Some(origin) = one(&request.headers, &header::ORIGIN) else {
            return match request.headers.contains_key(header::ORIGIN) {
                true => Err(MALFORMED_ORIGIN),
                false if gate.keeps_out_pages() && !is_own_fetch(&request.headers) => {
                    Err(CROSS_SITE)
                }
                false => Ok(None),
            };
        };
        let origin = origin.and_then(Origin::read).ok_or(INVALID_ORIGIN)?;
        let own = Origin { is_secure: self.is_secure, host: host.0, port: host.1 };
        // Only the origin with the same host as in Host is the server's own: to a browser, the server's
        // other names are other sites.
        if origin == own || self.origins.contains(&origin) {
            Ok(Some(origin))
        } else {
            Err(foreign_origin(&origin))
        }
    }

    /// Returns the server's origin under the name in the request's Host header, which must have been
    /// [checked](Self::admit).
    #[cfg(feature = "oauth")]
    pub(super) fn own_origin(&self, headers: &HeaderMap) -> Option<Origin> {
        let host = one(headers, &header::HOST)??;
        let (host, port) = authority_of(host, self.usual_port)?;
        Some(Origin { is_secure: self.is_secure, host, port })
    }

    /// Checks the token or cookie of the request and returns its principal. The token has one principal,
    /// and so has each cookie. Returns `None` if the server needs no token.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Option<Principal>, Refused> {
        let Some(token) = &self.token else { return Ok(None) };
        let shown = bearer_tokens(headers)?;
        if shown.is_empty() {
            // The cookie may come from an earlier server at the same address, so it is checked only if
            // no token is sent.
            let mut cookies = self.cookies(headers).peekable();
            let refusal = if cookies.peek().is_none() { NO_TOKEN } else { WRONG_TOKEN };
            let known = lock(&self.cookies);
            let shown = cookies.find(|cookie| known.has(cookie)).ok_or(refusal)?;
            return Ok(Some(Fingerprint::of(shown).principal()));
        }
        match shown.iter().all(|secret| Fingerprint::of(secret) == *token) {
            true => Ok(Some(token.principal())),
            false => Err(WRONG_TOKEN),
        }
    }

    /// Returns whether no token is needed.
    pub(super) fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// Creates a key for the URL that a person opens in a browser. The key can be used once.
    pub(super) fn one_time_key(&self) -> Result<Token, TransportError> {
        let key = Token::random()?;
        lock(&self.keys).push(key.fingerprint());
        Ok(key)
    }

    /// Invalidates a one-time key that a client sent although it was already authenticated.
    pub(super) fn spend(&self, key: &str) {
        lock(&self.keys).take(key);
    }

    /// Invalidates a one-time key and returns the value of the `Set-Cookie` header, or `None` if the key is
    /// unknown.
    pub(super) fn exchange(&self, key: &str) -> Option<String> {
        match lock(&self.keys).take(key) {
            true => self.new_cookie(),
            false => None,
        }
    }

    /// Checks a token that was entered in a browser. Every token is accepted if none is needed.
    pub(super) fn check_token(&self, token: &str) -> Result<(), Refused> {
        match &self.token {
            Some(known) if Fingerprint::of(token) != *known => Err(WRONG_TOKEN),
            _ => Ok(()),
        }
    }

    /// Creates a cookie for a browser that logs in, and returns the value of the `Set-Cookie` header.
    /// Returns `None` if the system provides no random bytes.
    pub(super) fn new_cookie(&self) -> Option<String> {
        let cookie = Token::random().ok()?;
        lock(&self.cookies).push(cookie.fingerprint());
        let (name, value) = (&self.cookie_name, cookie.reveal());
        Some(format!("{name}={value}{}", self.cookie_attributes))
    }

    fn is_ours(&self, (host, port): &(String, u16), local: Option<SocketAddr>) -> bool {
        let is_local = local.is_some_and(|local| {
            // DNS rebinding cannot produce this Host: an IP address is not looked up.
            local.port() == *port && local.ip().to_canonical().to_string() == *host
        });
        is_local
            || self.hosts.iter().any(|rule| {
                rule.host == *host && rule.port.is_none_or(|expected| expected == *port)
            })
    }

    fn cookies<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let lines = headers.get_all(header::COOKIE).iter();
        let pairs = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';'));
        pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (name.trim() == self.cookie_name).then(|| value.trim())
        })
    }
}

impl Origin {
    /// Parses the value of an `Origin` header; `None` for `null` and for invalid values.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (host, port) = authority_of(authority, if is_secure { 443 } else { 80 })?;
        Some(Self { is_secure, host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual_port) = if self.is_secure { ("https", 443) } else { ("http", 80) };
        let Self { host, port, .. } = self;
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]")?,
            false => write!(f, "{scheme}://{host}")?,
        }
        if *port == usual_port { Ok(()) } else { write!(f, ":{port}") }
    }
}

/// Returns whether the request is a CORS preflight. Preflights carry no token.
pub(super) fn is_preflight(request: &Parts) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns the tokens of the request: the one in the Authorization header and the one among the WebSocket
/// subprotocols.
///
/// # Errors
/// The Authorization header is of another kind, or there are two tokens of the same kind.
pub(super) fn bearer_tokens(headers: &HeaderMap) -> Result<Vec<&str>, Refused> {
    let mut shown = Vec::new();
    match one(headers, &header::AUTHORIZATION) {
        Some(value) => {
            let bearer = value.and_then(|value| value.split_once(' '));
            let (scheme, secret) = bearer.ok_or(WRONG_TOKEN)?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(WRONG_TOKEN);
            }
            shown.push(secret.trim());
        }
        None if headers.contains_key(header::AUTHORIZATION) => return Err(DOUBLED_TOKEN),
        None => {}
    }
    let mut by_protocol = protocols(headers).filter_map(|it| it.strip_prefix(TOKEN_PREFIX));
    shown.extend(by_protocol.next());
    if by_protocol.next().is_some() {
        return Err(DOUBLED_TOKEN);
    }
    Ok(shown)
}

/// Returns the WebSocket subprotocols that the client offers.
pub(super) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    words(headers, &header::SEC_WEBSOCKET_PROTOCOL)
}

/// Returns a header that must not be repeated: `None` if it is missing or repeated, `Some(None)` if its
/// value is not text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())
}

/// The fingerprints of the newest secrets.
struct Ring {
    kept: VecDeque<Fingerprint>,
    max: usize,
}

impl Ring {
    fn of(max: usize) -> Self {
        Self { kept: VecDeque::new(), max }
    }

    fn push(&mut self, fingerprint: Fingerprint) {
        if self.kept.len() == self.max {
            self.kept.pop_front();
        }
        self.kept.push_back(fingerprint);
    }

    fn has(&self, secret: &str) -> bool {
        let shown = Fingerprint::of(secret);
        // Compare with all of them, so that the time does not depend on the position.
        self.kept.iter().fold(false, |found, known| found | (*known == shown))
    }

    fn take(&mut self, secret: &str) -> bool {
        let shown = Fingerprint::of(secret);
        let before = self.kept.len();
        self.kept.retain(|known| *known != shown);
        self.kept.len() < before
    }
}

#[cfg(test)]
mod tests;
