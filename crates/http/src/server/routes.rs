//! The table of routes. The router, the access policy and the response to a CORS preflight are all derived
//! from it.

use std::sync::Arc;

use super::added::{Route, RouteHandler};
use super::exits::EXIT_PATH;
use super::login::LOGIN_PATH;
use super::page::PAGE_PATHS;
use super::rpc::RPC_PATH;
use crate::address::WS_PATH;
use crate::events::{HALF_CLOSE, PROTOCOL, SEQUENCE, SSE_PATH};

/// One row: the methods of a path that have the same handler.
struct Row {
    path: &'static str,
    methods: &'static [&'static str],
    gate: Gate,
    /// The request headers that pages of other origins may set, besides `Authorization`.
    headers: &'static [&'static str],
    /// The response headers that such pages may read.
    exposes: &'static [&'static str],
    handler: Handler,
}

/// What is checked after Host and Origin and before the handler runs, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gate {
    /// Nothing: the response is for everyone.
    Public,
    /// That the request is not a browser's cross-site request without an origin: the handler checks the token, and
    /// logs in the browser.
    Login,
    /// The token.
    Token,
    /// The token, and that the request is not a browser's cross-site request without an origin: the handler
    /// may start a program.
    Program,
}

impl Gate {
    /// Returns whether a browser's cross-site request is refused, even if it has no origin.
    pub(super) fn keeps_out_pages(self) -> bool {
        matches!(self, Self::Login | Self::Program)
    }
}

/// What answers a request.
#[derive(Clone)]
pub(super) enum Handler {
    Live,
    Ready,
    ShowLogin,
    PostLogin,
    Exit,
    Metrics,
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

/// The routes of a server.
pub(super) struct Routes {
    rows: Vec<Row>,
}

impl Routes {
    /// Creates the table of the server's own routes and those that are added.
    pub(super) fn new(added: Vec<Route>) -> Self {
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
            Row { path, methods, gate, headers, exposes: &[], handler }
        });
        let added = added.into_iter().map(|Route { path, methods, headers, exposes, handler }| {
            Row { path, methods, gate: Program, headers, exposes, handler: Added(handler) }
        });
        Self { rows: own.chain(added).collect() }
    }

    /// Returns whether the routes can be added: absolute paths that are not taken, each with methods in
    /// upper case, and lower-case names of headers.
    pub(super) fn can_add(added: &[Route]) -> bool {
        let mut table = Self::new(Vec::new());
        added.iter().all(|route| {
            let is_free = table.at(route.path).next().is_none();
            let is_path =
                route.path.starts_with('/') && route.path.bytes().all(|it| it.is_ascii_graphic());
            let are_methods = !route.methods.is_empty()
                && (route.methods.iter()).all(|it| it.bytes().all(|it| it.is_ascii_uppercase()));
            let are_headers = (route.headers.iter().chain(route.exposes))
                .all(|it| it.bytes().all(|it| it.is_ascii_lowercase() || it == b'-'));
            table.rows.extend(Self::new(vec![route.clone()]).rows.pop());
            is_free && is_path && are_methods && are_headers
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

    /// Returns the request headers that pages of other origins may set, as a list.
    pub(super) fn headers(&self, path: &str) -> String {
        list([ALWAYS].iter().chain(self.at(path).flat_map(|row| row.headers)))
    }

    /// Returns the response headers that such pages may read, as a list; empty if there are none.
    pub(super) fn exposed(&self, path: &str) -> String {
        list(self.at(path).flat_map(|row| row.exposes))
    }

    /// Returns the strictest gate of a path; that of an unknown path is [`Gate::Token`].
    pub(super) fn gate(&self, path: &str) -> Gate {
        self.at(path).map(|row| row.gate).max().unwrap_or(Gate::Token)
    }

    fn at<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.path == path)
    }
}

/// Joins different names.
fn list<'a>(names: impl Iterator<Item = &'a &'static str>) -> String {
    let mut listed: Vec<&str> = Vec::new();
    for name in names {
        if !listed.contains(name) {
            listed.push(name);
        }
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests;
