//! Routes requests to their handlers. Access control comes first.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::body::{Body as HttpBody, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tieline_transport::{Owner, PeerIdentity, Principal};

use super::Server;
use super::access::{Refused, is_preflight};
use super::added::RouteRequest;
use super::body::{Body, Inbound, line};
use super::count::{Cause, count};
use super::events;
use super::limiter::ConnectionPermit;
use super::listen::drain_limits;
use super::oauth::WELL_KNOWN;
use super::routes::{Gate, Handler, Routes};
use super::{exits, login, page, rpc, upgrade};
use crate::drain::DrainLimits;
use crate::events::stream::Progress;
use crate::stream::Hyper;

/// The maximum length of an unread body with which the connection is kept: it is most likely buffered
/// already.
const SHORT_BODY: u64 = 4 * 1024;

/// The connection that a request was received on.
#[derive(Clone)]
pub(super) struct ConnectionContext {
    pub(super) permit: Arc<ConnectionPermit>,
    pub(super) local: Option<SocketAddr>,
    /// The peer's identity, if the system reports it.
    pub(super) identity: Option<PeerIdentity>,
    /// The principal of the client certificate, if one is required.
    pub(super) certificate: Option<Principal>,
    pub(super) progress: Arc<Progress>,
}

impl ConnectionContext {
    /// Returns the owner of everything that a request starts. Its principal is that of the certificate,
    /// or else of the token or cookie.
    fn owner(&self, principal: Option<Principal>) -> Owner {
        Owner { user: self.identity, principal: self.certificate.or(principal) }
    }
}

/// Checks a request and returns the response.
pub(super) async fn respond(
    server: &Arc<Server>,
    context: &ConnectionContext,
    request: Request<Incoming>,
) -> Response<Body> {
    let is_long = request.body().size_hint().exact().is_none_or(|length| length > SHORT_BODY);
    let request = request.map(|body| Inbound::new(body, context.progress.clone()));
    let version = request.version();
    let upgrading = request.extensions().get::<OnUpgrade>().cloned();
    let mut response = judge(server, context, request).await;
    let is_unswitched = upgrading.is_some() && response.status() != StatusCode::SWITCHING_PROTOCOLS;
    if let (true, Some(upgrading)) = (is_unswitched, upgrading) {
        tokio::spawn(end_unswitched(context.permit.clone(), upgrading, drain_limits(server)));
    }
    let is_http1 = version < Version::HTTP_2;
    if is_http1 && (is_unswitched || (is_long && context.progress.has_body())) {
        // The next bytes belong to the rest of the body or to another protocol, so discard them and
        // close the connection.
        let close = HeaderValue::from_static("close");
        response.headers_mut().entry(header::CONNECTION).or_insert(close);
    }
    response
}

/// Ends the connection of a refused upgrade request, which hyper hands over in this case, too.
async fn end_unswitched(permit: Arc<ConnectionPermit>, upgrading: OnUpgrade, limits: DrainLimits) {
    let Ok(upgraded) = upgrading.await else { return };
    let Ok(parts) = upgraded.downcast::<Hyper>() else { return };
    tokio::select! {
        () = parts.io.stream.end(limits) => {}
        () = permit.evicted() => {}
    }
}

async fn judge(
    server: &Arc<Server>,
    context: &ConnectionContext,
    request: Request<Inbound>,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    // The path is needed for access control, so the prefix is removed first.
    let is_bare_prefix = strip_prefix(server, &mut parts);
    let path = parts.uri.path();
    let gate = server.routes.gate(path);
    let asked_of = match server.access.admit(&parts, gate, context.local) {
        Ok(origin) => origin.and(parts.headers.get(header::ORIGIN).cloned()),
        Err(refused) => return refuse(server, refused),
    };
    let exposed = asked_of.as_ref().map(|_| exposed(server, path)).unwrap_or_default();
    let mut response = match (&parts.method, path) {
        (&Method::GET | &Method::HEAD, _) if is_bare_prefix => to_prefix(server, &parts),
        (&Method::GET, "/") if parts.uri.query().is_some_and(|it| it.starts_with("key=")) => {
            login::exchange(server, context, &parts)
        }
        _ if is_preflight(&parts) => preflight(&server.routes, &parts, asked_of.is_some()),
        _ if gate < Gate::Token => {
            let request = Request::from_parts(parts, body);
            serve(server, context, context.owner(None), request).await
        }
        _ => match authenticate(server, &parts).await {
            Err(refused) => login::turn_away(server, &parts, refused),
            Ok(principal) => {
                context.permit.passed();
                count(&server.counters.admitted);
                let owner = context.owner(principal);
                serve(server, context, owner, Request::from_parts(parts, body)).await
            }
        },
    };
    // Only an allowed origin may read the response, and caches must not reuse it for another origin.
    if let Some(origin) = asked_of {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        // An EventSource can only authenticate with its cookie.
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let (false, Ok(exposed)) = (exposed.is_empty(), HeaderValue::try_from(exposed)) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
    response
}

/// Checks the token, the cookie or the access token of a request.
async fn authenticate(server: &Server, request: &Parts) -> Result<Option<Principal>, Refused> {
    match (server.access.authenticate(&request.headers), &server.oauth) {
        (Err(refused), Some(oauth)) if refused.status == StatusCode::UNAUTHORIZED => {
            oauth.authenticate(server, request, refused).await
        }
        (authenticated, _) => authenticated,
    }
}

/// Returns the response headers of a path that pages of allowed origins may read.
fn exposed(server: &Server, path: &str) -> String {
    let exposed = server.routes.exposed(path);
    match (&server.oauth, &*exposed) {
        (None, _) => exposed,
        (Some(_), "") => CHALLENGE.to_owned(),
        (Some(_), _) => format!("{exposed}, {CHALLENGE}"),
    }
}

/// The response header that names the issuer of access tokens.
const CHALLENGE: &str = "www-authenticate";

/// Removes the path of the public URL, for proxies that pass it on. Returns true if nothing follows it,
/// not even a slash. Relative links on the page would then be resolved against the wrong directory.
fn strip_prefix(server: &Server, parts: &mut Parts) -> bool {
    let Some(public) = &server.public_url else { return false };
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    // The path of metadata is inserted before the path of the resource (RFC 9728, section 3.1).
    let (inserted, target) = match target.strip_prefix(WELL_KNOWN) {
        Some(rest) => (WELL_KNOWN, rest),
        None => ("", target),
    };
    let Some(rest) = public.strip(target) else { return false };
    let is_bare = inserted.is_empty() && !rest.starts_with('/');
    let slash = if is_bare { "/" } else { "" };
    let rest = if rest == "/" && !inserted.is_empty() { "" } else { rest };
    let Ok(target) = format!("{slash}{inserted}{rest}").parse() else { return false };
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(target);
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    is_bare
}

/// Redirects from the public URL without its trailing slash to the URL with it.
fn to_prefix(server: &Server, request: &Parts) -> Response<Body> {
    let path = server.public_url.as_ref().map_or("/", |public| public.path());
    let query = request.uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let mut response =
        line(StatusCode::PERMANENT_REDIRECT, "see the same URL with a trailing slash");
    if let Ok(location) = HeaderValue::try_from(format!("{path}{query}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Handles a request that has passed its gate. Nothing is started before this point.
async fn serve(
    server: &Arc<Server>,
    context: &ConnectionContext,
    owner: Owner,
    request: Request<Inbound>,
) -> Response<Body> {
    let path = request.uri().path();
    let Some(handler) = server.routes.find(request.method().as_str(), path) else {
        return server.routes.methods(path).map_or_else(not_found, |it| method_not_allowed(&it));
    };
    match handler {
        Handler::Live => line(StatusCode::OK, "live"),
        Handler::Ready => match server.is_ready.load(Relaxed) {
            true => line(StatusCode::OK, "ready"),
            false => line(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        },
        Handler::ShowLogin => login::show(server, request),
        Handler::PostLogin => login::post(server, context, request).await,
        Handler::Exit => exits::get(server, owner, request.uri()),
        Handler::Metrics => server.metrics(),
        Handler::ResourceMetadata => {
            let parts = request.into_parts().0;
            server.oauth.as_ref().map_or_else(not_found, |oauth| oauth.metadata(server, &parts))
        }
        Handler::Page => page::at(path, &server.page).unwrap_or_else(not_found),
        Handler::WebSocket => upgrade::web_socket(server, context, owner, request),
        Handler::OpenEvents => events::open(server, context, owner, &request).await,
        Handler::PostEvents => events::post(server, owner, request).await,
        Handler::DeleteEvents => events::delete(server, owner, &request),
        Handler::Rpc => rpc::call(server, owner, request).await,
        Handler::Added(handler) => {
            let request = RouteRequest::new(server.clone(), context.clone(), owner, request);
            handler.handle(request).await.0
        }
    }
}

/// Returns 405 with the methods that are allowed.
fn method_not_allowed(methods: &str) -> Response<Body> {
    let text = format!("method not allowed; use {}", methods.replace(", ", " or "));
    let mut response = line(StatusCode::METHOD_NOT_ALLOWED, &text);
    if let Ok(methods) = HeaderValue::try_from(methods) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

/// Returns 503 with `Retry-After`, because a limit was reached.
pub(super) fn busy(server: &Server, text: &'static str) -> Response<Body> {
    let mut response = refuse(server, overloaded(text));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A 503: a limit was reached.
pub(super) const fn overloaded(text: &'static str) -> Refused {
    let (status, cause) = (StatusCode::SERVICE_UNAVAILABLE, Cause::Busy);
    Refused { status, cause, text: Cow::Borrowed(text) }
}

fn not_found() -> Response<Body> {
    line(StatusCode::NOT_FOUND, "not found")
}

/// Answers a CORS preflight: tells a page of an allowed origin which methods and headers it may send to
/// a path.
fn preflight(routes: &Routes, request: &Parts, is_page: bool) -> Response<Body> {
    let path = request.uri.path();
    let Some(methods) = routes.methods(path).filter(|_| is_page) else { return not_found() };
    let mut response = line(StatusCode::OK, "");
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, routes.headers(path, &request.headers)),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

pub(super) fn refuse(server: &Server, refused: Refused) -> Response<Body> {
    server.counters.refused(refused.cause);
    server.refusals.log(&server.endpoint, &refused);
    let mut response = line(refused.status, &refused.text);
    if refused.status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    response
}
