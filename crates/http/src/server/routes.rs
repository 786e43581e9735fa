//! The table of routes. The router, the access policy and the response to a CORS preflight are all derived
//! from it.

use std::borrow::Cow;
use std::sync::Arc;

use hyper::header::{ACCESS_CONTROL_REQUEST_HEADERS, HeaderMap, HeaderName};

use super::added::{Route, RouteHandler};
use super::exits::EXIT_PATH;
use super::login::LOGIN_PATH;
use super::oauth::WELL_KNOWN;
use super::page::PAGE_PATHS;
use super::rpc::RPC_PATH;
use crate::address::WS_PATH;
use crate::events::{HALF_CLOSE, PROTOCOL, SEQUENCE, SSE_PATH};
use crate::handshake::words;

/// A row of the table: methods of a path that have the same handler.
struct Row {
    path: Cow<'static, str>,
    methods: &'static [&'static str],
    gate: Gate,
    /// The request headers that pages of other origins may set, besides `Authorization`. A name that ends
    /// in `-` stands for all names that begin with it.
    headers: &'static [&'static str],
    /// The response headers that such pages may read.
    exposes: &'static [&'static str],
    handler: Handler,
}

/// The checks after those of Host and Origin and before the handler, from the least to the most strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gate {
    /// No check: the response is public.
    Public,
    /// The request must not be a browser's cross-site request without an origin. The handler checks the
    /// token and logs in the browser.
    Login,
    /// The request must have the token.
    Token,
    /// The request must have the token, and must not be a browser's cross-site request without an
    /// origin: the handler may start a program.
    Program,
}

impl Gate {
    /// Returns whether a browser's cross-site request is refused, even if it has no origin.
    pub(super) fn keeps_out_pages(self) -> bool {
        matches!(self, Self::Login | Self::Program)
    }
}

/// The handler that answers a request.
#[derive(Clone)]
pub(super) enum Handler {
    Live,
    Ready,
    ShowLogin,
    PostLogin,
    Exit,
    Metrics,
    ResourceMetadata,
    Page,
    WebSocket,
    OpenEvents,
    PostEvents,
    DeleteEvents,
    Rpc,
    Added(Arc<dyn RouteHandler>),
}

const READ: &[&str] = &["GET", "HEAD"];

/// The header that pages of other origins may set on every path.
const ALWAYS: &str = "authorization";

/// The maximum number of names that a preflight is told because they begin as a row allows.
const MAX_BY_PREFIX: usize = 32;

/// The routes of a server.
pub(super) struct Routes {
    rows: Vec<Row>,
}

impl Routes {
    /// Creates the table from the server's own routes and the added ones. With OAuth, each added route and
    /// the server itself have metadata.
    pub(super) fn new(added: Vec<Route>, has_oauth: bool) -> Self {
        use {Gate::*, Handler::*};
        let posted = &["content-type", "last-event-id", SEQUENCE, HALF_CLOSE];
        let rows: [(_, &[_], _, &[_], _); 11] = [
            ("/health", READ, Public, &[], Live),
            ("/health/ready", READ, Public, &[], Ready),
            (LOGIN_PATH, READ, Login, &[], ShowLogin),
            (LOGIN_PATH, &["POST"], Login, &[], PostLogin),
            (EXIT_PATH, &["GET"], Token, &[], Exit),
            ("/metrics", READ, Token, &[], Metrics),
            (WS_PATH, &["GET"], Program, &[], WebSocket),
            (SSE_PATH, &["GET"], Program, &["last-event-id", PROTOCOL], OpenEvents),
            (SSE_PATH, &["POST"], Program, posted, PostEvents),
            (SSE_PATH, &["DELETE"], Program, &[], DeleteEvents),
            (RPC_PATH, &["POST"], Program, &["content-type"], Rpc),
        ];
        let pages = PAGE_PATHS.map(|path| (path, READ, Token, &[][..], Page));
        let own = rows.into_iter().chain(pages).map(|(path, methods, gate, headers, handler)| {
            Row { path: path.into(), methods, gate, headers, exposes: &[], handler }
        });
        let resources = added.iter().map(|route| route.path).chain([""]).filter(|_| has_oauth);
        let metadata: Vec<_> = resources
            .map(|resource| Row {
                path: format!("{WELL_KNOWN}{resource}").into(),
                methods: READ,
                gate: Public,
                headers: &[],
                exposes: &[],
                handler: ResourceMetadata,
            })
            .collect();
        let added = added.into_iter().map(|Route { path, methods, headers, exposes, handler }| {
            let (path, gate, handler) = (path.into(), Program, Added(handler));
            Row { path, methods, gate, headers, exposes, handler }
        });
        Self { rows: own.chain(metadata).chain(added).collect() }
    }

    /// Returns whether the routes can be added. Their paths must be absolute and free, their methods in
    /// upper case, and the names of their headers in lower case.
    pub(super) fn can_add(added: &[Route]) -> bool {
        let mut table = Self::new(Vec::new(), false);
        added.iter().all(|route| {
            let is_free = table.at(route.path).next().is_none();
            let is_path =
                route.path.starts_with('/') && route.path.bytes().all(|it| it.is_ascii_graphic());
            let are_methods = !route.methods.is_empty()
                && (route.methods.iter()).all(|it| it.bytes().all(|it| it.is_ascii_uppercase()));
            let are_headers = (route.headers.iter().chain(route.exposes))
                .all(|it| it.bytes().all(|it| it.is_ascii_lowercase() || it == b'-'));
            table.rows.extend(Self::new(vec![route.clone()], false).rows.pop());
            is_free && is_path && !route.path.starts_with(WELL_KNOWN) && are_methods && are_headers
        })
    }

    /// Returns the handler for a request, or `None` if the path or its method is unknown.
    pub(super) fn find(&self, method: &str, path: &str) -> Option<Handler> {
        let row = self.at(path).find(|row| row.methods.contains(&method))?;
        Some(row.handler.clone())
    }

    /// Returns the methods of a path as a list, or `None` if the path is unknown.
    pub(super) fn methods(&self, path: &str) -> Option<String> {
        let methods: Vec<&str> = self.at(path).flat_map(|row| row.methods).copied().collect();
        (!methods.is_empty()).then(|| methods.join(", "))
    }

    /// Returns the request headers that pages of other origins may set, as a list. Names that are allowed
    /// by a prefix are included if the preflight asks for them, because browsers do not accept a wildcard
    /// together with credentials.
    pub(super) fn headers(&self, path: &str, preflight: &HeaderMap) -> String {
        let allowed = || self.at(path).flat_map(|row| row.headers).copied();
        let by_prefix = words(preflight, &ACCESS_CONTROL_REQUEST_HEADERS)
            .filter_map(|word| HeaderName::from_bytes(word.as_bytes()).ok())
            .filter(|name| {
                allowed().filter(|it| is_prefix(it)).any(|prefix| {
                    name.as_str().strip_prefix(prefix).is_some_and(|rest| !rest.is_empty())
                })
            });
        let by_prefix: Vec<_> = by_prefix.take(MAX_BY_PREFIX).collect();
        let whole = allowed().filter(|it| !is_prefix(it));
        list([ALWAYS].into_iter().chain(whole).chain(by_prefix.iter().map(HeaderName::as_str)))
    }

    /// Returns the response headers that such pages may read, as a list; empty if there are none.
    pub(super) fn exposed(&self, path: &str) -> String {
        list(self.at(path).flat_map(|row| row.exposes).copied())
    }

    /// Returns the strictest gate of a path, or [`Gate::Token`] for an unknown path.
    pub(super) fn gate(&self, path: &str) -> Gate {
        self.at(path).map(|row| row.gate).max().unwrap_or(Gate::Token)
    }

    /// Returns the paths of the added routes.
    #[cfg(feature = "oauth")]
    pub(super) fn added(&self) -> impl Iterator<Item = &str> {
        let added = self.rows.iter().filter(|row| matches!(row.handler, Handler::Added(_)));
        added.map(|row| &*row.path)
    }

    fn at<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.path == path)
    }
}

/// Returns whether a header in the table stands for all names that begin with it.
fn is_prefix(header: &str) -> bool {
    header.ends_with('-')
}

/// Joins the names without repeating any.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut listed: Vec<&str> = Vec::new();
    for name in names {
        if !listed.contains(&name) {
            listed.push(name);
        }
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests;
