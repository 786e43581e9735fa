//! Resolves relative URLs from a server (RFC 3986, section 5).

use crate::address::{WebAddress, authority_of, target_of};

/// Resolves a reference against `base`, and returns the path and query. Returns `None` if the reference
/// is invalid or has another origin.
pub(super) fn resolve(base: &WebAddress, reference: &str) -> Option<String> {
    let (own, usual_port) = if base.is_secure { ("https", 443) } else { ("http", 80) };
    // The fragment is not sent.
    let reference = reference.split('#').next().unwrap_or_default();
    let rest = match scheme_of(reference) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(own) && rest.starts_with("//") => rest,
        Some(_) => return None,
        None => reference,
    };
    let (base_path, base_query) = cut(&base.target, '?');
    let target = if let Some(rest) = rest.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let own = authority_of(&base.host_header(), usual_port)?;
        if authority_of(authority, usual_port)? != own {
            return None;
        }
        let (path, query) = cut(target, '?');
        format!("{}{query}", without_dots(path))
    } else {
        let (path, query) = cut(rest, '?');
        match path {
            "" if query.is_empty() => format!("{base_path}{base_query}"),
            "" => format!("{base_path}{query}"),
            path if path.starts_with('/') => format!("{}{query}", without_dots(path)),
            path => {
                let folder = base_path.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{}{query}", without_dots(&format!("{folder}/{path}")))
            }
        }
    };
    target_of(&target)
}

/// Splits a reference into its scheme and the text after the colon.
fn scheme_of(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
    is_scheme.then_some((scheme, rest))
}

/// Splits before the first `mark`.
fn cut(text: &str, mark: char) -> (&str, &str) {
    text.split_at(text.find(mark).unwrap_or(text.len()))
}

/// Removes dot segments (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // The result ends with a slash.
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> WebAddress {
        WebAddress::of(&text.parse().unwrap()).unwrap()
    }

    /// The examples of RFC 3986, sections 5.4.1 and 5.4.2.
    #[test]
    fn references_resolve_as_in_the_rfc() {
        let base = of("http://a/b/c/d;p?q");
        for (reference, expected) in [
            ("g:h", None),
            ("g", Some("/b/c/g")),
            ("./g", Some("/b/c/g")),
            ("g/", Some("/b/c/g/")),
            ("/g", Some("/g")),
            ("//g", None),
            ("?y", Some("/b/c/d;p?y")),
            ("g?y", Some("/b/c/g?y")),
            ("#s", Some("/b/c/d;p?q")),
            ("g#s", Some("/b/c/g")),
            ("g?y#s", Some("/b/c/g?y")),
            (";x", Some("/b/c/;x")),
            ("g;x", Some("/b/c/g;x")),
            ("g;x?y#s", Some("/b/c/g;x?y")),
            ("", Some("/b/c/d;p?q")),
            (".", Some("/b/c/")),
            ("./", Some("/b/c/")),
            ("..", Some("/b/")),
            ("../", Some("/b/")),
            ("../g", Some("/b/g")),
            ("../..", Some("/")),
            ("../../", Some("/")),
            ("../../g", Some("/g")),
            ("../../../g", Some("/g")),
            ("../../../../g", Some("/g")),
            ("/./g", Some("/g")),
            ("/../g", Some("/g")),
            ("g.", Some("/b/c/g.")),
            (".g", Some("/b/c/.g")),
            ("g..", Some("/b/c/g..")),
            ("..g", Some("/b/c/..g")),
            ("./../g", Some("/b/g")),
            ("./g/.", Some("/b/c/g/")),
            ("g/./h", Some("/b/c/g/h")),
            ("g/../h", Some("/b/c/h")),
            ("g;x=1/./y", Some("/b/c/g;x=1/y")),
            ("g;x=1/../y", Some("/b/c/y")),
            ("g?y/./x", Some("/b/c/g?y/./x")),
            ("g?y/../x", Some("/b/c/g?y/../x")),
            ("g#s/../x", Some("/b/c/g")),
            ("http:g", None),
        ] {
            assert_eq!(resolve(&base, reference).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn another_origin_is_refused() {
        let base = of("http://example.org:8080/mcp/sse?x=y");
        for (reference, expected) in [
            ("/messages?id=1", Some("/messages?id=1")),
            ("sse?session=2", Some("/mcp/sse?session=2")),
            ("http://example.org:8080/m", Some("/m")),
            ("//example.org:8080/m", Some("/m")),
            ("HTTP://EXAMPLE.org:8080?a=b", Some("/?a=b")),
            ("/m?to=http://other.example/", Some("/m?to=http://other.example/")),
            ("m?to=http://other.example/", Some("/mcp/m?to=http://other.example/")),
            ("http://example.org/m", None),
            ("https://example.org:8080/m", None),
            ("http://other.example:8080/m", None),
            ("http://example.org:8080@other.example/m", None),
            ("//other.example/m", None),
            ("ftp:m", None),
            ("/m\r\nX: y", None),
            ("/m x", None),
        ] {
            assert_eq!(resolve(&base, reference).as_deref(), expected, "{reference}");
        }
        let secure = of("https://example.org/sse");
        assert_eq!(resolve(&secure, "https://example.org:443/m").as_deref(), Some("/m"));
        assert_eq!(resolve(&secure, "http://example.org/m"), None);
    }
}
