//! Logs browsers in, with the one-time URL or with the login form.

use std::borrow::Cow;

use base64::prelude::*;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use ring::digest::{SHA256, digest};
use tieline_transport::percent_decoded;

use super::Server;
use super::access::{NO_TOKEN, Refused};
use super::body::{Body, Inbound, answer, line, read};
use super::count::Cause;
use super::page::HTML;
use super::route::{ConnectionContext, refuse};

/// The path that the login form posts to.
pub(super) const LOGIN_PATH: &str = "/login";

/// The maximum length of the form's body. The longest token fits, with every character escaped.
const LONGEST_FORM: usize = 2048;

const STYLE: &str = concat!(include_str!("page/common.css"), include_str!("page/login.css"));

/// The response to a one-time URL whose key is unknown or used up.
const USED_KEY: Refused = Refused {
    status: StatusCode::FORBIDDEN,
    cause: Cause::Token,
    text: Cow::Borrowed(
        "this one-time URL was already used, or is not from this server; `tieline status --url` prints a new one. \
         Programs send the token in the header `Authorization: Bearer TOKEN`",
    ),
};

/// Handles the one-time URL: exchanges its key for a cookie.
pub(super) fn exchange(
    server: &Server,
    context: &ConnectionContext,
    request: &Parts,
) -> Response<Body> {
    let query = request.uri.query().unwrap_or_default();
    let key = query.strip_prefix("key=").unwrap_or_default();
    // An authenticated browser keeps its identity, because its sessions belong to it. Opening the URL
    // again still shows the page.
    let is_authenticated = server.access.authenticate(&request.headers).is_ok();
    let cookie = if is_authenticated {
        server.access.spend(key);
        None
    } else {
        server.access.exchange(key)
    };
    match is_authenticated || cookie.is_some() {
        true => admitted(context, cookie),
        false => turn_away(server, request, USED_KEY),
    }
}

/// Handles the login form: exchanges the token for a cookie. The token is sent in the body, never in the
/// URL.
pub(super) async fn post(
    server: &Server,
    context: &ConnectionContext,
    request: Request<Inbound>,
) -> Response<Body> {
    let (request, body) = request.into_parts();
    let (form, _held) = match read(server, body, LONGEST_FORM, |_| ()).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let token = field(&form, b"token").unwrap_or_default();
    match server.access.check_token(token.trim()) {
        Err(refused) => turn_away(server, &request, refused),
        // The browser keeps its identity, as in `exchange`.
        Ok(()) if server.access.authenticate(&request.headers).is_ok() => admitted(context, None),
        Ok(()) => admitted(context, server.access.new_cookie()),
    }
}

/// Shows the login form, or the page if the browser is logged in.
pub(super) fn show(server: &Server, request: Request<Inbound>) -> Response<Body> {
    match server.access.authenticate(request.headers()) {
        Ok(_) => to_page(),
        Err(refused) => turn_away(server, &request.into_parts().0, refused),
    }
}

/// Redirects to the page.
fn to_page() -> Response<Body> {
    let mut response = line(StatusCode::SEE_OTHER, "see ./");
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("./"));
    response
}

fn admitted(context: &ConnectionContext, cookie: Option<String>) -> Response<Body> {
    context.permit.passed();
    let mut response = to_page();
    if let Some(Ok(mut cookie)) = cookie.map(HeaderValue::try_from) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Refuses an unauthenticated request, with a login page for browsers.
pub(super) fn turn_away(server: &Server, request: &Parts, refused: Refused) -> Response<Body> {
    let mut response = refuse(server, refused.clone());
    let challenge = server.oauth.as_ref().and_then(|it| it.challenge(server, request, &refused));
    if let Some(Ok(challenge)) = challenge.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    if refused.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    if accepts_html(&request.headers) {
        let (parts, body) = login_page(&refused, request).into_parts();
        response.headers_mut().extend(parts.headers);
        *response.body_mut() = body;
    }
    response
}

fn login_page(refused: &Refused, request: &Parts) -> Response<Body> {
    // Responses to programs say which header to send; this page is for people.
    let why = match refused.cause {
        Cause::Token if refused.status == StatusCode::FORBIDDEN => {
            "This one-time URL was already used, or is not from this server."
        }
        Cause::Token if *refused == NO_TOKEN => "",
        Cause::Token if request.uri.path() == LOGIN_PATH => "This is not the server's token.",
        Cause::Token => "This browser is no longer logged in: the server was restarted.",
        _ => &refused.text,
    };
    let html = include_str!("page/login.html")
        .replace("WHY", why)
        .replace("ACTION", &to_login(request.uri.path()))
        .replace("STYLE", STYLE);
    let mut response = answer(refused.status, HTML, html);
    let headers = response.headers_mut();
    let hash = BASE64_STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    // With `no-referrer`, browsers send `Origin: null` with the form.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Returns the URL of the login form's target, relative to `path`, so that it is right behind a proxy
/// that strips a prefix.
fn to_login(path: &str) -> String {
    let depth = path.matches('/').count().saturating_sub(1);
    format!("{}{}", "../".repeat(depth), LOGIN_PATH.trim_start_matches('/'))
}

/// Returns the value of a field in a form (`application/x-www-form-urlencoded`).
fn field(form: &[u8], name: &[u8]) -> Option<String> {
    let mut fields = form.split(|byte| *byte == b'&');
    let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix(b"="))?;
    let spaced: Vec<u8> =
        value.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    String::from_utf8(percent_decoded(&spaced)?).ok()
}

/// Returns whether the client asks for HTML, as browsers do when a person opens a URL.
fn accepts_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok());
    accepted.flat_map(|it| it.split(',')).any(|it| {
        let kind = it.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/html")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_recognized_by_their_accept_header() {
        for (accept, is_person) in [
            (&["text/html,application/xhtml+xml,*/*;q=0.8"][..], true),
            (&["application/json, Text/HTML ;q=0.9"], true),
            (&["application/json", "text/html"], true),
            (&["*/*"], false),
            (&["text/html5"], false),
            (&["application/json;a=\"text/html\""], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for accept in accept {
                headers.append(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(accepts_html(&headers), is_person, "{accept:?}");
        }
    }

    #[test]
    fn form_fields_are_decoded_and_malformed_ones_are_missing() {
        for (form, token) in [
            ("token=abc", Some("abc")),
            ("x=1&token=a%2Bb+c%7e&y", Some("a+b c~")),
            ("token=", Some("")),
            ("token=%", None),
            ("token=%2", None),
            ("token=%zz", None),
            ("token=%ff", None),
            ("token=%+1", None),
            ("tokens=abc", None),
            ("atoken=abc", None),
            ("", None),
        ] {
            assert_eq!(field(form.as_bytes(), b"token").as_deref(), token, "{form}");
        }
    }

    #[test]
    fn form_is_posted_to_the_login_path_from_every_path() {
        for (path, action) in [("/", "login"), ("/page.css", "login"), ("/a/b", "../login")] {
            assert_eq!(to_login(path), action, "{path}");
        }
    }

    #[test]
    fn login_page_has_no_script_and_loads_nothing() {
        let html = include_str!("page/login.html");
        for forbidden in ["<script", " style=", "<link", "src=", "http:", "https:", "javascript:"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert!(!STYLE.contains("url(") && !STYLE.contains('<'));
    }
}
