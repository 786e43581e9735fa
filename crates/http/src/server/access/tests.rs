#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use hyper::Request;
use hyper::header::HeaderValue;

use super::*;

const TOKEN: &str = "the-token-of-these-tests";

fn access(change: impl FnOnce(&mut ServerConfig)) -> AccessPolicy {
    let place = Place::Tcp { host: "127.0.0.1".into(), port: 8080 };
    let mut config = ServerConfig::new(place, Token::new(TOKEN).unwrap());
    change(&mut config);
    AccessPolicy::new(&config, Some("127.0.0.1:8080".parse().unwrap()))
}

fn request(uri: &str, lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(uri);
    for (name, value) in lines {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn judge(access: &AccessPolicy, lines: &[(&str, &str)]) -> u16 {
    let local = Some("127.0.0.1:8080".parse().unwrap());
    match access.admit(&request("/ws", lines), Gate::Program, local) {
        Ok(_) => 200,
        Err(refused) => refused.status.as_u16(),
    }
}

/// The refused hosts include the forms that DNS rebinding produces.
#[test]
fn only_own_and_configured_hosts_are_admitted() {
    let access = access(|config| {
        config.hosts = vec!["proxy.example".into(), "fixed.example:9000".into()];
    });
    for (host, status) in [
        ("127.0.0.1:8080", 200),
        ("localhost:8080", 200),
        ("LOCALHOST:8080", 200),
        ("LocalHost:8080", 200),
        ("[::1]:8080", 200),
        ("[0:0:0:0:0:0:0:1]:8080", 200),
        ("proxy.example", 200),
        ("proxy.example:80", 200),
        ("proxy.example:31337", 200),
        ("PROXY.example:443", 200),
        ("fixed.example:9000", 200),
        ("fixed.example:9001", 403),
        ("fixed.example", 403),
        // Another port is another server.
        ("127.0.0.1", 403),
        ("127.0.0.1:80", 403),
        ("127.0.0.1:8081", 403),
        ("localhost", 403),
        ("localhost:18080", 403),
        ("localhost:808", 403),
        // Names that resemble the server's.
        ("evil.example:8080", 403),
        ("evil.example", 403),
        ("localhost.evil.example:8080", 403),
        ("127.0.0.1.evil.example:8080", 403),
        ("evillocalhost:8080", 403),
        ("localhost.:8080", 403),
        ("127.0.0.1.:8080", 403),
        ("sub.proxy.example", 403),
        ("xproxy.example", 403),
        ("proxy.example.", 403),
        ("proxy.example.evil.example", 403),
        // Other spellings of an address, which browsers do not send, and other addresses.
        ("127.1:8080", 403),
        ("2130706433:8080", 403),
        ("0x7f.0.0.1:8080", 403),
        ("0.0.0.0:8080", 403),
        ("[::ffff:127.0.0.1]:8080", 403),
        ("127.0.0.2:8080", 403),
        // Invalid hosts.
        ("", 400),
        (":8080", 400),
        ("localhost:", 400),
        ("localhost:x", 400),
        ("localhost:+8080", 400),
        ("localhost:65616", 400),
        ("localhost:8080:8080", 400),
        ("user@localhost:8080", 400),
        ("localhost:8080@evil.example", 400),
        ("localhost:8080/evil", 400),
        ("localhost:8080,evil.example", 400),
        ("localhost 8080", 400),
        ("::1:8080", 400),
        ("[::1:8080", 400),
        ("[::1]8080", 400),
        ("[fe80::1%25lo]:8080", 400),
        ("lócalhost:8080", 400),
    ] {
        assert_eq!(judge(&access, &[("host", host)]), status, "{host:?}");
    }
    let doubled = [("host", "localhost:8080"), ("host", "localhost:8080")];
    assert_eq!(judge(&access, &doubled), 400);
    assert_eq!(judge(&access, &[]), 400, "none");
    // Request targets in absolute form, as for a proxy, must name the same host as Host.
    let local = Some("127.0.0.1:8080".parse().unwrap());
    for (uri, host, is_admitted) in [
        ("http://localhost:8080/ws", "localhost:8080", true),
        ("http://evil.example/ws", "localhost:8080", false),
        ("http://localhost:8080/ws", "evil.example", false),
    ] {
        let request = request(uri, &[("host", host)]);
        assert_eq!(
            access.admit(&request, Gate::Program, local).is_ok(),
            is_admitted,
            "{uri} {host}"
        );
    }
}

#[test]
fn only_own_and_configured_origins_are_admitted() {
    let access = access(|config| {
        config.hosts = vec!["proxy.example".into()];
        config.origins = vec!["https://proxy.example".into(), "http://page.example:3000".into()];
    });
    for (origin, status) in [
        ("http://localhost:8080", 200),
        ("http://LOCALHOST:8080", 200),
        ("HTTP://localhost:8080", 200),
        ("https://proxy.example", 200),
        ("https://proxy.example:443", 200),
        ("https://PROXY.EXAMPLE", 200),
        ("http://page.example:3000", 200),
        // Only the origin with the host that the request was sent to is the server's own.
        ("http://127.0.0.1:8080", 403),
        ("http://[::1]:8080", 403),
        // Another scheme or port is another origin.
        ("https://localhost:8080", 403),
        ("http://localhost", 403),
        ("http://localhost:80", 403),
        ("http://localhost:8081", 403),
        ("http://localhost:18080", 403),
        ("http://proxy.example", 403),
        ("https://proxy.example:8443", 403),
        ("http://page.example", 403),
        ("http://page.example:30000", 403),
        ("https://page.example:3000", 403),
        ("ws://localhost:8080", 403),
        // Other sites, including those with similar names.
        ("http://evil.example", 403),
        ("http://evil.example:8080", 403),
        ("http://localhost.evil.example:8080", 403),
        ("http://localhost:8080.evil.example", 403),
        ("http://evillocalhost:8080", 403),
        ("http://localhost.:8080", 403),
        ("https://proxy.example.", 403),
        ("https://proxy.example.evil.example", 403),
        ("https://sub.proxy.example", 403),
        ("https://xproxy.example", 403),
        ("http://page.example:3000.evil.example", 403),
        // Values without an origin, and invalid values.
        ("null", 403),
        ("NULL", 403),
        ("", 403),
        ("file://", 403),
        ("file:///etc/passwd", 403),
        ("chrome-extension://abcdefgh", 403),
        ("data:text/html,x", 403),
        ("localhost:8080", 403),
        ("//localhost:8080", 403),
        ("http:localhost:8080", 403),
        ("http://", 403),
        ("http://localhost:8080/", 403),
        ("http://localhost:8080/path", 403),
        ("http://user@localhost:8080", 403),
        ("http://localhost:8080 http://evil.example", 403),
        ("http://localhost:8080, http://evil.example", 403),
        ("http://lócalhost:8080", 403),
    ] {
        let lines = [("host", "localhost:8080"), ("origin", origin)];
        assert_eq!(judge(&access, &lines), status, "{origin:?}");
    }
    let host = ("host", "localhost:8080");
    assert_eq!(judge(&access, &[host]), 200, "not a browser");
    let own = ("origin", "http://localhost:8080");
    assert_eq!(judge(&access, &[host, own, own]), 400, "repeated");
    assert_eq!(judge(&access, &[host, own, ("origin", "http://evil.example")]), 400);
    // A page's own origin does not help it after DNS rebinding.
    let rebound = [("host", "evil.example:8080"), ("origin", "http://evil.example:8080")];
    assert_eq!(judge(&access, &rebound), 403);
}

#[test]
fn local_address_of_connection_is_an_allowed_host() {
    let access = access(|_| {});
    let local = Some("192.0.2.7:8080".parse().unwrap());
    for (host, is_admitted) in
        [("192.0.2.7:8080", true), ("192.0.2.7:81", false), ("192.0.2.8:8080", false)]
    {
        let request = request("/ws", &[("host", host)]);
        assert_eq!(access.admit(&request, Gate::Program, local).is_ok(), is_admitted, "{host}");
    }
}

fn authenticate(access: &AccessPolicy, lines: &[(&str, &str)]) -> u16 {
    match access.authenticate(&request("/ws", lines).headers) {
        Ok(_) => 200,
        Err(refused) => refused.status.as_u16(),
    }
}

#[test]
fn missing_wrong_and_repeated_tokens_are_refused() {
    let access = access(|_| {});
    let right = "Bearer the-token-of-these-tests";
    let (bearer, protocol) = ("authorization", "sec-websocket-protocol");
    let by_protocol = "tieline.token.the-token-of-these-tests";
    for (lines, status) in [
        (&[][..], 401),
        (&[(bearer, right)], 200),
        (&[(bearer, "bearer the-token-of-these-tests")], 200),
        (&[(bearer, "Bearer the-token-of-these-test")], 401),
        (&[(bearer, "Bearer the-token-of-these-tests1")], 401),
        (&[(bearer, "Bearer THE-TOKEN-OF-THESE-TESTS")], 401),
        (&[(bearer, "Bearer ")], 401),
        (&[(bearer, "Bearer")], 401),
        (&[(bearer, "")], 401),
        (&[(bearer, "Basic the-token-of-these-tests")], 401),
        (&[(bearer, "the-token-of-these-tests")], 401),
        (&[(bearer, right), (bearer, right)], 400),
        (&[(bearer, right), (bearer, "Bearer other")], 400),
        (&[(protocol, by_protocol)], 200),
        (&[(protocol, "tieline.1, tieline.token.the-token-of-these-tests")], 200),
        (&[(protocol, "tieline.1"), (protocol, by_protocol)], 200),
        (&[(protocol, "tieline")], 401),
        (&[(protocol, "tieline.token.")], 401),
        (&[(protocol, "tieline.token.wrong")], 401),
        (&[(protocol, by_protocol), (protocol, by_protocol)], 400),
        // If several tokens are sent, each must be right.
        (&[(bearer, right), (protocol, by_protocol)], 200),
        (&[(bearer, right), (protocol, "tieline.token.wrong")], 401),
        (&[(bearer, "Bearer wrong"), (protocol, by_protocol)], 401),
        (&[("cookie", "tieline_8080=the-token-of-these-tests")], 401),
        // An outdated cookie is ignored if the right token is sent.
        (&[(bearer, right), ("cookie", "tieline_8080=old")], 200),
    ] {
        assert_eq!(authenticate(&access, lines), status, "{lines:?}");
    }
    let open = AccessPolicy::new(
        &ServerConfig {
            access: Access::Anybody,
            ..ServerConfig::new(
                Place::Tcp { host: "localhost".into(), port: 1 },
                Token::random().unwrap(),
            )
        },
        None,
    );
    assert_eq!(authenticate(&open, &[]), 200);
}

#[test]
fn one_time_key_works_once_and_its_cookie_stays_valid() {
    let access = access(|_| {});
    let key = access.one_time_key().unwrap();
    assert_eq!(access.exchange("guessed"), None);
    let cookie = access.exchange(key.reveal()).unwrap();
    assert_eq!(access.exchange(key.reveal()), None, "used a second time");
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "HttpOnly; SameSite=Strict; Max-Age=34560000");
    let others = format!("a=b; {pair}; c=d");
    assert_eq!(authenticate(&access, &[("cookie", pair)]), 200);
    assert_eq!(authenticate(&access, &[("cookie", &others)]), 200);
    assert_eq!(authenticate(&access, &[("cookie", "tieline_8080=x"), ("cookie", pair)]), 200);
    let (_, value) = pair.split_once('=').unwrap();
    for wrong in [
        format!("tieline_8081={value}"),
        format!("tieline_8080={value}x"),
        format!("xtieline_8080={value}"),
        value.to_owned(),
    ] {
        assert_eq!(authenticate(&access, &[("cookie", &wrong)]), 401, "{wrong}");
    }
    // The cookie is not accepted as a token, and the token is not accepted as a key.
    let bearer = format!("Bearer {value}");
    assert_eq!(authenticate(&access, &[("authorization", &bearer)]), 401);
    assert_eq!(access.exchange(TOKEN), None);
}

#[test]
fn principal_depends_on_the_secret_not_on_how_it_is_sent() {
    let access = access(|_| {});
    let principal = |lines: &[(&str, &str)]| {
        access.authenticate(&request("/ws", lines).headers).unwrap().unwrap()
    };
    let cookies = [(); 2].map(|()| {
        let cookie = access.exchange(access.one_time_key().unwrap().reveal()).unwrap();
        cookie.split(';').next().unwrap().to_owned()
    });
    let bearer = ("authorization", "Bearer the-token-of-these-tests");
    let by_protocol = ("sec-websocket-protocol", "tieline.token.the-token-of-these-tests");
    let owner = principal(&[bearer]);
    assert!(
        principal(&[by_protocol]) == owner
            && principal(&[bearer, ("cookie", &cookies[0])]) == owner
    );
    let [one, other] = [0, 1].map(|number| principal(&[("cookie", &cookies[number])]));
    assert!(one != other && one != owner && other != owner, "each cookie has its own principal");
    assert_eq!(principal(&[("cookie", &cookies[0])]), one);
}

#[test]
fn only_the_newest_unused_one_time_keys_are_valid() {
    let access = access(|_| {});
    let keys: Vec<_> = (0..=MAX_KEYS).map(|_| access.one_time_key().unwrap()).collect();
    assert_eq!(access.exchange(keys[0].reveal()), None);
    assert!(keys[1..].iter().all(|key| access.exchange(key.reveal()).is_some()));
    assert!(lock(&access.keys).kept.is_empty());
}

#[test]
fn refusals_name_the_host_or_origin_and_the_option() {
    let access = access(|_| {});
    let text = |lines: &[(&str, &str)]| {
        access.admit(&request("/ws", lines), Gate::Program, None).unwrap_err().text.into_owned()
    };
    let own = ("host", "localhost:8080");
    let host = |host| text(&[("host", host)]);
    let origin = |origin| text(&[own, ("origin", origin)]);
    for (text, expected) in [
        (
            host("Example.org:8080"),
            "unrecognized Host header: example.org; add it with --allow-host example.org",
        ),
        (host("[::2]"), "unrecognized Host header: [::2]; add it with --allow-host [::2]"),
        (host(&"x".repeat(256)), "unrecognized Host header"),
        (
            origin("https://[::2]:443"),
            "origin not allowed: https://[::2]; add it with --allow-origin https://[::2]",
        ),
        (
            origin("HTTP://example.org:81"),
            "origin not allowed: http://example.org:81; add it with --allow-origin http://example.org:81",
        ),
    ] {
        assert_eq!(text, expected);
    }
    assert!(origin("null").contains("not the origin of a page"));
}
