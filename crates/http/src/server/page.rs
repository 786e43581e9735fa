//! The page behind the one-time URL, the script that others may use, too, and what a person sees who is
//! not let in.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::{Body, answer};

/// Only what comes from this server is run, it talks to nobody else, and text never becomes HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What there is at this path, if it is a part of the page.
pub(super) fn at(path: &str) -> Option<Response<Body>> {
    let (content_type, text) = match path {
        "/" => (HTML, include_str!("page/page.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/page.js" => (SCRIPT, include_str!("page/page.js")),
        "/tieline.js" => (SCRIPT, include_str!("page/tieline.js")),
        "/session.js" => (SCRIPT, include_str!("page/session.js")),
        _ => return None,
    };
    Some(under_policy(answer(StatusCode::OK, content_type, text)))
}

/// For a person who is not let in, and why.
pub(super) fn not_let_in(status: StatusCode, why: &'static str) -> Response<Body> {
    let html = include_str!("page/door.html").replace("WHY", why);
    under_policy(answer(status, HTML, html))
}

/// Whether a person reads the answer.
pub(super) fn is_for_a_person(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok());
    accepted.flat_map(|it| it.split(',')).any(|it| {
        let kind = it.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/html")
    })
}

fn under_policy(mut response: Response<Body>) -> Response<Body> {
    let policy = HeaderValue::from_static(POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_from_programs_by_what_they_accept() {
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
            assert_eq!(is_for_a_person(&headers), is_person, "{accept:?}");
        }
    }

    #[test]
    fn nothing_of_the_page_needs_what_the_policy_forbids() {
        for path in ["/", "/page.css", "/page.js", "/tieline.js", "/session.js"] {
            assert!(at(path).unwrap().headers().contains_key(header::CONTENT_SECURITY_POLICY));
        }
        let html = include_str!("page/page.html").to_owned() + include_str!("page/door.html");
        for forbidden in ["<style", " style=", "<script>", "http:", "https:", "javascript:"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }
}
