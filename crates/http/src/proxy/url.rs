//! The URL of a proxy.

use hyper::header::HeaderValue;
use tieline_transport::{ConfigError, percent_decoded};

use super::Proxy;
use crate::address::authority_of;
use crate::request_header::basic;

/// The maximum length of a URL.
const MAX_URL: usize = 4096;

/// Parses the URL of a proxy. The error does not quote the URL, because it may contain a password.
pub(super) fn parse(url: &str, variable: Option<&'static str>) -> Result<Proxy, ConfigError> {
    let wrong = |must| ConfigError { field: "proxy", must };
    let form = || wrong("be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT");
    if url.len() > MAX_URL {
        return Err(wrong("have at most 4096 bytes"));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if !scheme.eq_ignore_ascii_case("http") {
        let must = "begin with http://; proxies with TLS (https:) and SOCKS are not supported";
        return Err(wrong(must));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, authority) = match rest.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, rest),
    };
    let (host, port) = authority_of(authority, 80).ok_or_else(form)?;
    let credentials = user.map(|user| credentials(user).ok_or_else(form)).transpose()?;
    Ok(Proxy { host, port, credentials, variable })
}

/// Returns the value of `Proxy-Authorization`.
fn credentials(user: &str) -> Option<HeaderValue> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let (mut text, password) =
        (percent_decoded(user.as_bytes())?, percent_decoded(password.as_bytes())?);
    // A colon would end the user name.
    if text.contains(&b':') {
        return None;
    }
    text.push(b':');
    text.extend(password);
    basic(&text)
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine};

    use super::*;

    #[test]
    fn valid_urls_are_parsed() {
        for (url, shown, user) in [
            ("proxy", "proxy:80", None),
            ("proxy:3128", "proxy:3128", None),
            ("http://Proxy.Example:3128/", "proxy.example:3128", None),
            ("HTTP://10.0.0.1:8080", "10.0.0.1:8080", None),
            ("http://[::1]:8080", "[::1]:8080", None),
            ("http://me:secret@proxy:1", "proxy:1", Some("me:secret")),
            ("me:secret@proxy:1", "proxy:1", Some("me:secret")),
            ("http://me@proxy:1", "proxy:1", Some("me:")),
            ("http://m%40e:p%3a%2F@b@proxy:1", "proxy:1", Some("m@e:p:/@b")),
        ] {
            let proxy = parse(url, None).unwrap();
            let expected = user.map(|user| format!("Basic {}", BASE64_STANDARD.encode(user)));
            let credentials = proxy.credentials.as_ref().map(|it| it.to_str().unwrap().to_owned());
            assert_eq!((proxy.to_string(), credentials), (shown.to_owned(), expected), "{url}");
        }
    }

    #[test]
    fn invalid_urls_are_refused_without_quoting_them() {
        let long = format!("http://{}", "a".repeat(5000));
        for (url, says) in [
            ("", "http://HOST:PORT"),
            ("http://", "http://HOST:PORT"),
            ("http://secret:x", "http://HOST:PORT"),
            ("http://secret:70000", "http://HOST:PORT"),
            ("http://secret/path", "http://HOST:PORT"),
            ("http://secret proxy:1", "http://HOST:PORT"),
            ("http://me:secret%zz@proxy:1", "http://HOST:PORT"),
            ("http://me:secret%4@proxy:1", "http://HOST:PORT"),
            ("http://m%3ae:secret@proxy:1", "http://HOST:PORT"),
            ("https://secret:1", "not supported"),
            ("socks5h://secret:1", "not supported"),
            (&long, "at most"),
        ] {
            let error = parse(url, None).unwrap_err();
            assert!(error.must.contains(says) && !error.must.contains("secret"), "{url}: {error}");
        }
    }
}
