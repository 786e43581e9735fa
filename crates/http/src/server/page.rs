//! The web page that the one-time URL opens, the scripts that other pages may use, and the error page for
//! browsers that are not authenticated.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::{Body, answer};

/// Scripts come from this server only, connections go to it only, and text never becomes HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Returns the part of the page at `path`, if there is one.
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

/// Returns the error page for a browser that is not authenticated.
pub(super) fn not_let_in(status: StatusCode, why: &str) -> Response<Body> {
    let html = include_str!("page/door.html").replace("WHY", why);
    under_policy(answer(status, HTML, html))
}

/// Whether the client asks for HTML, as browsers do when a person opens a URL.
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
            assert_eq!(is_for_a_person(&headers), is_person, "{accept:?}");
        }
    }

    #[test]
    fn page_uses_nothing_that_the_policy_forbids() {
        for path in ["/", "/page.css", "/page.js", "/tieline.js", "/session.js"] {
            assert!(at(path).unwrap().headers().contains_key(header::CONTENT_SECURITY_POLICY));
        }
        let html = include_str!("page/page.html").to_owned() + include_str!("page/door.html");
        for forbidden in ["<style", " style=", "<script>", "http:", "https:", "javascript:"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }
}
