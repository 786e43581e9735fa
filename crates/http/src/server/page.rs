//! The page behind the one-time URL: a line to type into, over the WebSocket.

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::{Body, answer};

/// Only what comes from this server is run, and it talks to nobody else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) const SCRIPT_PATH: &str = "/page.js";

pub(super) fn page() -> Response<Body> {
    let mut page = answer(StatusCode::OK, "text/html; charset=utf-8", include_str!("page.html"));
    let policy = HeaderValue::from_static(POLICY);
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    page
}

pub(super) fn script() -> Response<Body> {
    answer(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page.js"))
}
