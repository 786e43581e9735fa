//! Who is let in: a name that is ours, a page that may, a secret that fits; in this order, and before
//! anything is started.
//!
//! Browsers say truly what host a page asked for and of which origin it is, and nobody else has to be
//! kept from lying by these two. They keep foreign pages out, also those whose name was made to lead
//! here (DNS rebinding). Everybody else is kept out by the secret.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tieline_transport::{Principal, TransportError};

use super::config::{Access, ServerConfig};
use super::count::Cause;
use super::rpc::RPC_PATH;
use crate::address::{Place, WS_PATH, authority_of};
use crate::channel::lock;
use crate::events::SSE_PATH;
use crate::handshake::{TOKEN_PREFIX, words};
use crate::public_url::PublicUrl;
use crate::token::{Fingerprint, Token};

/// Judges requests.
pub(super) struct AccessPolicy {
    is_secure: bool,
    usual_port: u16,
    hosts: Vec<HostRule>,
    origins: Vec<Origin>,
    token: Option<Fingerprint>,
    cookie_name: String,
    /// What follows the cookie's value.
    cookie_attributes: String,
    keys: Mutex<Ring>,
    cookies: Mutex<Ring>,
}

/// So many one-time keys that were not used are remembered, and so many cookies; of more, the newest.
const MAX_KEYS: usize = 16;
const MAX_COOKIES: usize = 64;

/// A name that the server is called by.
struct HostRule {
    host: String,
    /// `None`: any.
    port: Option<u16>,
}

/// Where a page is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    is_secure: bool,
    host: String,
    port: u16,
}

/// Whether something may be started for it, if it is let in.
fn starts_something(request: &Parts) -> bool {
    [WS_PATH, SSE_PATH, RPC_PATH].contains(&request.uri.path())
}

/// Whether the request is not one that a browser makes for a page of elsewhere. Of what an image or a
/// script asks for browsers say no origin, but whether it is their own (W3C Fetch Metadata); and a cookie
/// goes along between the ports of a host.
fn is_own_fetch(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SITE).iter();
    sites.all(|site| site == "same-origin" || site == "none")
}

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) cause: Cause,
    pub(super) text: &'static str,
}

const fn refused(status: StatusCode, cause: Cause, text: &'static str) -> Refused {
    Refused { status, cause, text }
}

const MALFORMED_HOST: Refused =
    refused(StatusCode::BAD_REQUEST, Cause::Malformed, "there must be one Host");
const FOREIGN_HOST: Refused =
    refused(StatusCode::FORBIDDEN, Cause::Host, "this server is not called so");
const MALFORMED_ORIGIN: Refused =
    refused(StatusCode::BAD_REQUEST, Cause::Malformed, "there must be at most one Origin");
const FOREIGN_ORIGIN: Refused =
    refused(StatusCode::FORBIDDEN, Cause::Origin, "pages of this origin may not talk to it");
const DOUBLED_TOKEN: Refused =
    refused(StatusCode::BAD_REQUEST, Cause::Malformed, "there must be one token of a kind");
const NO_TOKEN: Refused = refused(StatusCode::UNAUTHORIZED, Cause::Token, "a token is needed");
const WRONG_TOKEN: Refused =
    refused(StatusCode::UNAUTHORIZED, Cause::Token, "the token is not the right one");

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
            // A port that nobody has tells whether one was written.
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
        let mut cookie_attributes = "; HttpOnly; SameSite=Strict".to_owned();
        // Without a path the browser takes the folder of the one-time URL, which is the right one behind a
        // proxy that strips a prefix, too (RFC 6265, section 5.1.4).
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

    /// Whether the request may come here at all, whoever makes it. `local` is where the connection leads.
    /// Gives the origin of the page, if a page makes it.
    pub(super) fn admit(
        &self,
        request: &Parts,
        local: Option<SocketAddr>,
    ) -> Result<Option<Origin>, Refused> {
        let host = one(&request.headers, &header::HOST).ok_or(MALFORMED_HOST)?;
        let host = authority_of(host.ok_or(MALFORMED_HOST)?, self.usual_port);
        let host = host.ok_or(MALFORMED_HOST)?;
        if let Some(authority) = request.uri.authority() {
            // A request for somebody else, as a proxy would get it.
            let named = authority_of(authority.as_str(), self.usual_port);
            if named.as_ref() != Some(&host) {
                return Err(FOREIGN_HOST);
            }
        }
        if !self.is_ours(&host, local) {
            return Err(FOREIGN_HOST);
        }
        let Some(origin) = one(&request.headers, &header::ORIGIN) else {
            return match request.headers.contains_key(header::ORIGIN) {
                true => Err(MALFORMED_ORIGIN),
                false if starts_something(request) && !is_own_fetch(&request.headers) => {
                    Err(FOREIGN_ORIGIN)
                }
                false => Ok(None),
            };
        };
        let origin = origin.and_then(Origin::read).ok_or(FOREIGN_ORIGIN)?;
        let own = Origin { is_secure: self.is_secure, host: host.0.clone(), port: host.1 };
        // Its own is the one that it was asked by: another of its names is another site to a browser.
        if origin == own || self.origins.contains(&origin) {
            Ok(Some(origin))
        } else {
            Err(FOREIGN_ORIGIN)
        }
    }

    /// Whether whoever makes the request has a secret that fits, and whom that makes them: each cookie is
    /// somebody of their own. `None` where nobody needs one.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Option<Principal>, Refused> {
        let Some(token) = &self.token else { return Ok(None) };
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
        if shown.is_empty() {
            // A cookie may be one of an earlier server at the same place: it counts only if there is
            // nothing else.
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

    /// Whether everybody is let in.
    pub(super) fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// A key that is good once, for the URL that a person opens in a browser.
    pub(super) fn one_time_key(&self) -> Result<Token, TransportError> {
        let key = Token::random()?;
        lock(&self.keys).push(key.fingerprint());
        Ok(key)
    }

    /// Takes a one-time key that somebody shows who is in already and needs none.
    pub(super) fn spend(&self, key: &str) {
        lock(&self.keys).take(key);
    }

    /// Takes a one-time key; gives the cookie to be set for it.
    pub(super) fn exchange(&self, key: &str) -> Option<String> {
        if !lock(&self.keys).take(key) {
            return None;
        }
        let cookie = Token::random().ok()?;
        lock(&self.cookies).push(cookie.fingerprint());
        let (name, value) = (&self.cookie_name, cookie.reveal());
        Some(format!("{name}={value}{}", self.cookie_attributes))
    }

    fn is_ours(&self, (host, port): &(String, u16), local: Option<SocketAddr>) -> bool {
        let is_local = local.is_some_and(|local| {
            // No name was looked up for it, so none can have been made to lead here.
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
    /// Reads what stands in `Origin`; `None` for `null` and whatever else is none.
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

/// Whether a page asks what it may do, before it does it. It shows no secret then.
pub(super) fn is_preflight(request: &Parts) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The subprotocols that are asked for.
pub(super) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    words(values.filter_map(|value| value.to_str().ok()))
}

/// A header that may stand once: `None` if it does not stand there once, and inside if it is no text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())
}

/// The newest secrets, by their fingerprints.
struct Ring {
    kept: VecDeque<Fingerprint>,
    most: usize,
}

impl Ring {
    fn of(most: usize) -> Self {
        Self { kept: VecDeque::new(), most }
    }

    fn push(&mut self, fingerprint: Fingerprint) {
        if self.kept.len() == self.most {
            self.kept.pop_front();
        }
        self.kept.push_back(fingerprint);
    }

    fn has(&self, secret: &str) -> bool {
        let shown = Fingerprint::of(secret);
        // All are looked at, whichever it is.
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
