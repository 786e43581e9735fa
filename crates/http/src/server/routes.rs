//! The table of routes. The router, the access policy and the response to a CORS preflight are all derived
//! from it.

use super::exits::EXIT_PATH;
use super::login::LOGIN_PATH;
use super::page::PAGE_PATHS;
use super::rpc::RPC_PATH;
use crate::address::WS_PATH;
use crate::events::{HALF_CLOSE, PROTOCOL, SEQUENCE, SSE_PATH};

/// One row: the methods of a path that have the same handler.
pub(super) struct Route {
    path: &'static str,
    methods: &'static [&'static str],
    gate: Gate,
    /// The request headers that pages of other origins may set, besides `Authorization`.
    headers: &'static [&'static str],
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

const READ: &[&str] = &["GET", "HEAD"];

/// The header that pages of other origins may set on every path.
const ALWAYS: &str = "authorization";

/// The routes of a server.
pub(super) struct Routes {
    rows: Vec<Route>,
}

impl Routes {
    /// Creates the table.
    pub(super) fn new() -> Self {
        use {Gate::*, Handler::*};
        let posted = &["content-type", "last-event-id", SEQUENCE, HALF_CLOSE];
        let rows: [(_, &[_], _, &[_], _); _] = [
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
        let rows = rows.into_iter().chain(pages).map(|(path, methods, gate, headers, handler)| {
            Route { path, methods, gate, headers, handler }
        });
        Self { rows: rows.collect() }
    }

    /// Returns the handler for a request, or `None` if the path or its method is unknown.
    pub(super) fn find(&self, method: &str, path: &str) -> Option<Handler> {
        self.at(path).find(|route| route.methods.contains(&method)).map(|route| route.handler)
    }

    /// Returns the methods of a path as a list, or `None` if the path is unknown.
    pub(super) fn methods(&self, path: &str) -> Option<String> {
        let methods: Vec<&str> = self.at(path).flat_map(|route| route.methods).copied().collect();
        (!methods.is_empty()).then(|| methods.join(", "))
    }

    /// Returns the request headers that pages of other origins may set, as a list.
    pub(super) fn headers(&self, path: &str) -> String {
        let mut headers = vec![ALWAYS];
        for header in self.at(path).flat_map(|route| route.headers) {
            if !headers.contains(header) {
                headers.push(header);
            }
        }
        headers.join(", ")
    }

    /// Returns the strictest gate of a path; that of an unknown path is [`Gate::Token`].
    pub(super) fn gate(&self, path: &str) -> Gate {
        self.at(path).map(|route| route.gate).max().unwrap_or(Gate::Token)
    }

    fn at<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Route> {
        self.rows.iter().filter(move |route| route.path == path)
    }
}

#[cfg(test)]
mod tests;
