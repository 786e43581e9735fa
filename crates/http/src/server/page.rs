//! The web page that the one-time URL opens, and scripts that other pages can use.

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::{Body, answer};

/// The maximum number of characters of the program's name that the page shows.
const MAX_NAME: usize = 80;

/// The page's policy: scripts are loaded only from this server, connections are made only to it, and
/// text is never parsed as HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

pub(super) const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = concat!(include_str!("page/common.css"), include_str!("page/page.css"));
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Returns the page's HTML with the name of the program that it talks to.
pub(super) fn html(name: Option<&str>) -> Bytes {
    let name = name.unwrap_or("tieline").chars().filter(|c| !c.is_control()).take(MAX_NAME);
    let mut escaped = String::new();
    for c in name {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c => escaped.push(c),
        }
    }
    include_str!("page/page.html").replace("NAME", &escaped).into()
}

/// The paths of the page's parts.
pub(super) const PAGE_PATHS: [&str; 5] =
    ["/", "/page.css", "/page.js", "/tieline.js", "/session.js"];

/// Returns the part of the page at this path, if there is one. `html` is the result of [`html`].
pub(super) fn at(path: &str, html: &Bytes) -> Option<Response<Body>> {
    let (content_type, text) = match path {
        "/" => return Some(under_policy(answer(StatusCode::OK, HTML, html.clone()))),
        "/page.css" => ("text/css; charset=utf-8", STYLE),
        "/page.js" => (SCRIPT, include_str!("page/page.js")),
        "/tieline.js" => (SCRIPT, include_str!("page/tieline.js")),
        "/session.js" => (SCRIPT, include_str!("page/session.js")),
        _ => return None,
    };
    Some(under_policy(answer(StatusCode::OK, content_type, text)))
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
    fn the_page_names_its_program_and_escapes_the_name() {
        let shown = |name| String::from_utf8(html(name).to_vec()).unwrap();
        assert!(shown(None).contains("<title>tieline</title>"));
        let page = shown(Some("a<b>\n&amp;"));
        let escaped = "a&lt;b&gt;&amp;amp;";
        assert!(page.contains(&format!("<title>{escaped}</title>")), "{page}");
        assert!(page.contains(&format!("<h1>{escaped}</h1>")), "{page}");
        let long = shown(Some(&"x".repeat(1000)));
        assert!(long.contains(&format!("<h1>{}</h1>", "x".repeat(MAX_NAME))), "{long}");
    }

    #[test]
    fn page_uses_nothing_that_the_policy_forbids() {
        for path in PAGE_PATHS {
            let part = at(path, &html(None)).unwrap();
            assert!(part.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        }
        let html = include_str!("page/page.html");
        assert_eq!(html.matches("NAME").count(), 2);
        for forbidden in ["<style", " style=", "<script>", "http:", "https:", "javascript:"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }
}
