//! Tests of access tokens: which are admitted, and what clients without one are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::*;
use ring::hmac;
use serde_json::{Value, json};
use support::events::ask;
use support::issuer::{Issuer, KEYS, METADATA, Reply, Signer, answer, time, unsigned};
use support::{BEARER, Served, config, serve, status_of, upgrade};
use tieline_http::{
    Access, HttpServer, OauthConfig, Place, Responding, Route, RouteHandler, RouteRequest,
    ServerConfig,
};
use tieline_transport::Principal;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Reports the principal of each request, and whether it has a header that could contain a token.
struct Handler(mpsc::UnboundedSender<Option<Principal>>);

impl RouteHandler for Handler {
    fn handle(&self, request: RouteRequest) -> Responding<'_> {
        let _ = self.0.send(request.owner().principal);
        Box::pin(async move { request.empty(204) })
    }
}

struct Site {
    served: Served,
    principals: mpsc::UnboundedReceiver<Option<Principal>>,
}

impl Site {
    async fn start(oauth: OauthConfig, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let (sender, principals) = mpsc::unbounded_channel();
        let route = Route {
            path: "/mcp",
            methods: &["POST"],
            headers: &[],
            exposes: &["mcp-session-id"],
            handler: Arc::new(Handler(sender)),
        };
        let mut config = ServerConfig { routes: vec![route], oauth: Some(oauth), ..config() };
        change(&mut config);
        Self { served: serve(config).await, principals }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.served.port)
    }

    /// Posts to the route with these header lines. Returns the head and the body of the response.
    async fn post(&self, lines: &str) -> (String, String) {
        ask("POST", self.served.port, "/mcp", "", lines).await
    }

    /// Posts with this token. Returns the status and the text of the response.
    async fn show(&self, token: &str) -> (u16, String) {
        let (head, body) = self.post(&bearer(token)).await;
        (status_of(&head), body.trim_end().to_owned())
    }

    fn claims(&self, issuer: &Issuer) -> Value {
        json!({
            "iss": issuer.url, "aud": format!("{}/mcp", self.url()), "sub": "one",
            "exp": time(300), "scope": "mcp:use profile",
        })
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Returns the claims with some of them changed; null removes a claim.
fn with(claims: &Value, changes: Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        match value.is_null() {
            true => drop(claims.as_object_mut().unwrap().remove(name)),
            false => claims[name] = value.clone(),
        }
    }
    claims
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn tokens_of_each_algorithm_are_admitted_and_identify_their_subject() {
    let signers = ["RS256", "PS512", "ES256", "ES384", "EdDSA"].map(Signer::new);
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk(signer.algorithm())).collect();
    let issuer = Issuer::start(&keys).await;
    let mut site = Site::start(OauthConfig::new(&issuer.url), |_| {}).await;
    let claims = site.claims(&issuer);
    let mut seen = Vec::new();
    for signer in &signers {
        let token = signer.token(signer.algorithm(), &claims);
        assert_eq!(site.show(&token).await, (204, String::new()), "{}", signer.algorithm());
        seen.push(site.principals.recv().await.unwrap().unwrap());
    }
    assert!(seen.iter().all(|principal| *principal == seen[0]), "one subject is one principal");
    let other = signers[2].token("ES256", &with(&claims, json!({ "sub": "other" })));
    assert_eq!(site.show(&other).await.0, 204);
    let other = site.principals.recv().await.unwrap().unwrap();
    assert!(other != seen[0]);
    let (head, _) = site.post(BEARER).await;
    assert_eq!(status_of(&head), 204, "the server's own token is valid, too");
    let own = site.principals.recv().await.unwrap().unwrap();
    assert!(own != seen[0] && own != other);
    assert_eq!(issuer.requested(KEYS), 1, "the keys are kept");
    assert!(issuer.heads().iter().all(|head| !head.to_lowercase().contains("authorization:")));
}

#[tokio::test]
async fn accepted_variants_of_tokens() {
    let signer = Signer::new("ES256");
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let oauth = OauthConfig { scopes: vec!["mcp:use".into()], ..OauthConfig::new(&issuer.url) };
    let site = Site::start(oauth, |_| {}).await;
    let (claims, url) = (site.claims(&issuer), site.url());
    for (what, changes) in [
        ("the server as audience", json!({ "aud": url })),
        ("with a slash", json!({ "aud": format!("{url}/") })),
        ("several audiences", json!({ "aud": ["https://other.example", format!("{url}/mcp")] })),
        ("expired within the tolerance", json!({ "exp": time(-30) })),
        ("a fractional time", json!({ "exp": time(30) as f64 + 0.5 })),
        ("valid since a second", json!({ "nbf": time(-1) })),
        ("scopes as a list", json!({ "scope": null, "scp": ["other", "mcp:use"] })),
        ("scopes in scp", json!({ "scope": null, "scp": "mcp:use other" })),
    ] {
        let token = signer.token("a", &with(&claims, changes));
        assert_eq!(site.show(&token).await.0, 204, "{what}");
    }
    for header in [
        json!({ "alg": "ES256" }),
        json!({ "alg": "ES256", "typ": "JWT", "kid": "a" }),
        json!({ "alg": "ES256", "typ": "application/at+JWT", "kid": "a" }),
    ] {
        let token = signer.token_of(&header, &claims.to_string());
        assert_eq!(site.show(&token).await.0, 204, "{header}");
    }
    // A token may be used by every name of the server, but is for one.
    let at_localhost = format!("http://localhost:{}/mcp", site.served.port);
    let token = signer.token("a", &with(&claims, json!({ "aud": at_localhost })));
    assert_eq!(site.show(&token).await.0, 401);
    let host = format!("Host: localhost:{}\r\n{}", site.served.port, bearer(&token));
    let head = site.served.ask(format!("POST /mcp HTTP/1.1\r\n{host}\r\n")).await;
    assert_eq!(status_of(&head), 204, "{head}");
}

#[tokio::test]
async fn hostile_tokens_are_refused_with_a_reason() {
    let signer = Signer::new("RS256");
    let ecdsa = Signer::new("ES256");
    let mut for_encryption = Signer::new("ES256").jwk("enc");
    for_encryption["use"] = "enc".into();
    let mut limited = signer.jwk("only-ps512");
    limited["alg"] = "PS512".into();
    let secret = json!({ "kty": "oct", "kid": "secret", "k": BASE64_URL_SAFE_NO_PAD.encode("k") });
    let jwk = signer.jwk("rsa");
    let keys = [jwk.clone(), signer.jwk("rsa-2"), ecdsa.jwk("ec"), for_encryption, limited, secret];
    let issuer = Issuer::start(&keys).await;
    let start = Instant::now();
    let site = Site::start(OauthConfig::new(&issuer.url), |_| {}).await;
    let claims = site.claims(&issuer);
    let text = claims.to_string();
    let of = |changes: Value| signer.token("rsa", &with(&claims, changes));
    let head = |changes: Value| {
        let header = with(&json!({ "alg": "RS256", "kid": "rsa" }), changes);
        signer.token_of(&header, &text)
    };
    let with_secret = |header: Value, secret: &[u8]| {
        let message = unsigned(&header, &text);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    };
    let none = |name: &str| format!("{}.", unsigned(&json!({ "alg": name }), &text));
    let modulus = BASE64_URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    let pem = std::fs::read(support::file("issuer.key.pem")).unwrap();
    let good = signer.token("rsa", &claims);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let doubled = |more: &str| signer.token_of(&json!({ "alg": "RS256", "kid": "rsa" }), more);
    let mut cut = good.clone();
    cut.pop();
    let other_claims = unsigned(
        &json!({ "typ": "at+jwt", "alg": "RS256", "kid": "rsa" }),
        &with(&claims, json!({ "sub": "root" })).to_string(),
    );
    let (malformed, lacks) = ("the access token is malformed", "the access token lacks the claim");
    for (what, token, says) in [
        ("algorithm none", none("none"), malformed),
        ("algorithm None", none("None"), malformed),
        ("no algorithm", head(json!({ "alg": null })), malformed),
        (
            "signed with the public key as a secret",
            with_secret(json!({ "alg": "HS256", "kid": "rsa" }), &modulus),
            "shared secret",
        ),
        ("with its PEM", with_secret(json!({ "alg": "HS256" }), &pem), "shared secret"),
        (
            "a published secret",
            with_secret(json!({ "alg": "HS256", "kid": "secret" }), b"k"),
            "shared secret",
        ),
        (
            "HMAC with an RSA header",
            with_secret(json!({ "alg": "RS256", "kid": "rsa" }), &modulus),
            "is wrong",
        ),
        ("another key's id", ecdsa.token("rsa", &claims), "does not publish"),
        (
            "an id of another algorithm",
            head(json!({ "alg": "ES256", "kid": "rsa" })),
            "does not publish",
        ),
        ("a key for encryption", Signer::new("ES256").token("enc", &claims), "does not publish"),
        ("a key for another algorithm", signer.token("only-ps512", &claims), "does not publish"),
        ("a foreign key", Signer::new("ES256").token("ec", &claims), "is wrong"),
        ("no id among several keys", head(json!({ "kid": null })), "does not name its key"),
        ("another signature", format!("{other_claims}.{signature}"), "is wrong"),
        ("no signature", format!("{message}."), "is wrong"),
        ("a cut signature", cut, "the access token"),
        ("bytes after the signature", format!("{good}AAAA"), "is wrong"),
        (
            "another audience",
            of(json!({ "aud": "https://other.example/mcp" })),
            "another audience than",
        ),
        (
            "a prefix as audience",
            of(json!({ "aud": format!("{}/mc", site.url()) })),
            "another audience",
        ),
        ("no audience", of(json!({ "aud": null })), lacks),
        ("an empty list of audiences", of(json!({ "aud": [] })), "another audience"),
        ("another issuer", of(json!({ "iss": "https://other.example" })), "another issuer"),
        (
            "an issuer with a slash",
            of(json!({ "iss": format!("{}/", issuer.url) })),
            "another issuer",
        ),
        ("several issuers", of(json!({ "iss": [issuer.url, "https://b"] })), malformed),
        ("no issuer", of(json!({ "iss": null })), "the access token"),
        ("no subject", of(json!({ "sub": null })), "the access token"),
        ("a subject that is no text", of(json!({ "sub": 7 })), malformed),
        ("expired", of(json!({ "exp": time(-90) })), "has expired"),
        ("no expiry", of(json!({ "exp": null })), lacks),
        ("an expiry that is text", of(json!({ "exp": "9999999999" })), "the access token"),
        ("a negative expiry", of(json!({ "exp": -1 })), "the access token"),
        ("not valid yet", of(json!({ "nbf": time(90) })), "is not valid yet"),
        ("a begin that is text", of(json!({ "nbf": "0" })), malformed),
        ("bound to a key", of(json!({ "cnf": { "jkt": "x" } })), "is bound to a key"),
        ("a logout token", head(json!({ "typ": "logout+jwt" })), "is not an access token"),
        ("an extension", head(json!({ "crit": ["b64"], "b64": "x" })), "an extension"),
        ("doubled subject", doubled(&text.replace("{", r#"{"sub":"root","#)), malformed),
        ("doubled audience", doubled(&text.replace("{", r#"{"aud":"https://b","#)), malformed),
        ("doubled expiry", doubled(&text.replace("{", r#"{"exp":1,"#)), malformed),
        ("claims that are a list", doubled("[]"), malformed),
        ("claims that are no JSON", doubled("{"), malformed),
        (
            "deeply nested claims",
            doubled(&format!("{}{}", "[".repeat(3000), "]".repeat(3000))),
            malformed,
        ),
        ("five parts", format!("{good}.a.b"), "invalid token"),
        ("one part", "a".repeat(200), "invalid token"),
        ("empty parts", "..".into(), malformed),
        ("no text", "\u{e9}.\u{e9}.\u{e9}".into(), "invalid token"),
    ] {
        let (status, body) = site.show(&token).await;
        assert_eq!(status, 401, "{what}: {body}");
        assert!(body.contains(says), "{what}: {body}");
    }
    let huge = with(&claims, json!({ "more": "x".repeat(20_000) }));
    assert_eq!(site.show(&signer.token("rsa", &huge)).await.0, 431, "longer than a head may be");
    for (lines, status) in [
        (format!("{}{}", bearer(&good), bearer(&good)), 400),
        (format!("{}{BEARER}", bearer(&good)), 400),
        (format!("Authorization: Basic {good}\r\n"), 401),
        (format!("Authorization: DPoP {good}\r\n"), 401),
        (format!("Cookie: tieline_{}={good}\r\n", site.served.port), 401),
        (format!("Proxy-Authorization: Bearer {good}\r\n"), 401),
    ] {
        assert_eq!(status_of(&site.post(&lines).await.0), status, "{lines}");
    }
    for query in ["access_token", "token", "key"] {
        let path = format!("/mcp?{query}={good}");
        let (head, _) = ask("POST", site.served.port, &path, "", "").await;
        assert_eq!(status_of(&head), 401, "a token in the query: {query}");
    }
    assert_eq!(site.show(&good).await.0, 204);
    assert!(issuer.requested(KEYS) <= most_fetches(start));
}

#[tokio::test]
async fn clients_without_a_token_learn_where_to_get_one() {
    let signer = Signer::new("ES256");
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let scopes = vec!["mcp:use".to_owned(), "mcp:admin".to_owned()];
    let oauth = OauthConfig { scopes, ..OauthConfig::new(&issuer.url) };
    let site = Site::start(oauth, |_| {}).await;
    let (url, port) = (site.url(), site.served.port);
    let challenge = |path: &str, error: &str| {
        let scope = r#"scope="mcp:use mcp:admin""#;
        format!(r#"Bearer resource_metadata="{url}{WELL_KNOWN}{path}", {scope}{error}"#)
    };
    let claims = site.claims(&issuer);
    let expired = signer.token("a", &with(&claims, json!({ "exp": 1 })));
    let less = signer.token("a", &claims);
    let (invalid, scope) = (r#", error="invalid_token""#, r#", error="insufficient_scope""#);
    for (path, lines, status, expected) in [
        ("/mcp", String::new(), 401, challenge("/mcp", "")),
        ("/rpc", String::new(), 401, challenge("", "")),
        ("/mcp", bearer("a-token-without-a-principal"), 401, challenge("/mcp", invalid)),
        ("/mcp", bearer(&expired), 401, challenge("/mcp", invalid)),
        ("/mcp", bearer(&less), 403, challenge("/mcp", scope)),
        ("/mcp", format!("Accept: text/html\r\n{}", bearer(&less)), 403, challenge("/mcp", scope)),
    ] {
        let (head, _) = ask("POST", port, path, "", &lines).await;
        assert_eq!(status_of(&head), status, "{path} {lines}");
        assert_eq!(header(&head, "www-authenticate"), Some(&*expected), "{path} {lines}");
    }
    assert_eq!(site.served.web.counts().refused_scope, 2);
    for (path, resource) in [("", url.clone()), ("/mcp", format!("{url}/mcp"))] {
        let (head, body) = ask("GET", port, &format!("{WELL_KNOWN}{path}"), "", "").await;
        assert_eq!(status_of(&head), 200, "{head}");
        assert_eq!(header(&head, "content-type"), Some("application/json"));
        let expected = json!({
            "resource": resource, "authorization_servers": [issuer.url],
            "scopes_supported": ["mcp:use", "mcp:admin"], "bearer_methods_supported": ["header"],
        });
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
    }
    let (head, _) = ask("POST", port, WELL_KNOWN, "", "").await;
    assert_eq!((status_of(&head), header(&head, "allow")), (405, Some("GET, HEAD")));
    for (path, status) in [("/other", 401), ("/mcp/", 401), ("/rpc", 401)] {
        let (head, _) = ask("GET", port, &format!("{WELL_KNOWN}{path}"), "", "").await;
        assert_eq!(status_of(&head), status, "{path}");
    }
    // The name in Host must be one of the server's own.
    let foreign = format!("GET {WELL_KNOWN} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(status_of(&site.served.ask(foreign).await), 403);
    // A page of an allowed origin can read the challenge.
    let (head, _) = site.post(&format!("Origin: {url}\r\n")).await;
    let exposed = header(&head, "access-control-expose-headers");
    assert_eq!((status_of(&head), exposed), (401, Some("mcp-session-id, www-authenticate")));
}

#[tokio::test]
async fn public_url_is_the_resource() {
    let signer = Signer::new("ES256");
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let public = "https://example.org/agents/one";
    let site = Site::start(OauthConfig::new(&issuer.url), |config| {
        config.public_url = Some(public.parse().unwrap());
    })
    .await;
    let (head, _) = site.post("").await;
    let metadata = format!("{public}{WELL_KNOWN}/mcp");
    let expected = format!(r#"Bearer resource_metadata="{metadata}""#);
    assert_eq!(header(&head, "www-authenticate"), Some(&*expected));
    // With the prefix and without it, as proxies pass it on, and where clients look by themselves.
    for (path, resource) in [
        ("/agents/one/.well-known/oauth-protected-resource/mcp", format!("{public}/mcp")),
        ("/.well-known/oauth-protected-resource/mcp", format!("{public}/mcp")),
        ("/.well-known/oauth-protected-resource/agents/one/mcp", format!("{public}/mcp")),
        ("/.well-known/oauth-protected-resource/agents/one/", public.to_owned()),
        ("/.well-known/oauth-protected-resource/agents/one", public.to_owned()),
    ] {
        let (head, body) = ask("GET", site.served.port, path, "", "").await;
        assert_eq!(status_of(&head), 200, "{path}");
        let metadata: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(metadata["resource"], resource, "{path}");
    }
    let claims = site.claims(&issuer);
    for (audience, status) in [
        (format!("{public}/mcp"), 204),
        (public.to_owned(), 204),
        (format!("{public}/"), 204),
        (format!("{}/mcp", site.url()), 401),
        ("https://example.org/agents/two/mcp".to_owned(), 401),
    ] {
        let token = signer.token("a", &with(&claims, json!({ "aud": audience })));
        assert_eq!(site.show(&token).await.0, status, "{audience}");
    }
}

#[tokio::test]
async fn configured_audience_replaces_the_url() {
    let signer = Signer::new("ES256");
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let audiences = vec!["api://tieline".to_owned()];
    let oauth = OauthConfig { audiences, ..OauthConfig::new(&issuer.url) };
    let site = Site::start(oauth, |_| {}).await;
    let claims = site.claims(&issuer);
    let (status, body) = site.show(&signer.token("a", &claims)).await;
    assert_eq!(status, 401);
    assert_eq!(body, "the access token is for another audience than api://tieline");
    let token = signer.token("a", &with(&claims, json!({ "aud": "api://tieline" })));
    assert_eq!(site.show(&token).await.0, 204);
}

/// Scripts of pages cannot set a header on a WebSocket.
#[tokio::test]
async fn web_socket_may_have_the_token_in_a_subprotocol() {
    let signer = Signer::new("ES256");
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let site = Site::start(OauthConfig::new(&issuer.url), |_| {}).await;
    let claims = site.claims(&issuer);
    let token = signer.token("a", &claims);
    let other = signer.token("a", &with(&claims, json!({ "sub": "other" })));
    let protocol =
        |token: &str| format!("Sec-WebSocket-Protocol: tieline, tieline.token.{token}\r\n");
    for (lines, status) in [
        (protocol(&token), 101),
        (protocol(&token) + &bearer(&token), 101),
        (protocol(&token) + &bearer(&other), 401),
        (protocol(&token) + BEARER, 401),
        (protocol(&format!("{token}x")), 401),
    ] {
        let head = site.served.ask(upgrade(site.served.port, &lines)).await;
        assert_eq!(status_of(&head), status, "{lines}: {head}");
    }
}

#[tokio::test]
async fn new_key_of_the_issuer_is_fetched_and_unknown_keys_cannot_flood_it() {
    let (old, new) = (Signer::new("ES256"), Signer::new("ES256"));
    let issuer = Issuer::start(&[old.jwk("old")]).await;
    let start = Instant::now();
    let site = Arc::new(Site::start(OauthConfig::new(&issuer.url), |_| {}).await);
    let claims = site.claims(&issuer);
    let (old_token, new_token) = (old.token("old", &claims), new.token("new", &claims));
    assert_eq!(site.show(&old_token).await.0, 204);
    for wave in 0..10 {
        let mut flood = tokio::task::JoinSet::new();
        for number in 0..20 {
            let token = new.token(&format!("unknown-{wave}-{number}"), &claims);
            let site = site.clone();
            flood.spawn(async move { site.show(&token).await });
        }
        for (status, body) in flood.join_all().await {
            assert_eq!((status, body.contains("does not publish")), (401, true), "{body}");
        }
    }
    assert!(issuer.requested(KEYS) <= most_fetches(start));
    assert_eq!(site.show(&old_token).await.0, 204, "other clients are not affected");
    issuer.publish(&[old.jwk("old"), new.jwk("new")]);
    tokio::time::pause();
    tokio::time::advance(UNKNOWN_INTERVAL).await;
    tokio::time::resume();
    assert_eq!(site.show(&new_token).await.0, 204);
    assert_eq!(site.show(&old_token).await.0, 204);
    assert!(issuer.requested(KEYS) <= most_fetches(start));
}

/// The minimum time between two fetches because of an unknown key.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(30);

/// Returns how often the keys may have been fetched by a server that was started at `start`.
fn most_fetches(start: Instant) -> usize {
    1 + usize::try_from(start.elapsed().as_secs() / UNKNOWN_INTERVAL.as_secs()).unwrap()
}

#[tokio::test]
async fn without_keys_access_tokens_are_answered_with_503() {
    let signer = Signer::new("ES256");
    let key = signer.jwk("a");
    let keys = json!({ "keys": [key] }).to_string();
    let moved = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    let cut = answer("200 OK", &keys).replace(&format!(": {}\r", keys.len()), ": 9999\r");
    let long = json!({ "keys": [key], "more": "x".repeat(300 << 10) }).to_string();
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(300 << 10));
    let head = format!("HTTP/1.1 200 OK\r\nMore: {}\r\n\r\n{keys}", "x".repeat(64 << 10));
    for (what, path, reply) in [
        ("no metadata", METADATA, answer("404 Not Found", "")),
        ("metadata moved", METADATA, moved.into()),
        ("metadata without keys", METADATA, answer("200 OK", r#"{"issuer":"x"}"#)),
        (
            "metadata of another issuer",
            METADATA,
            answer("200 OK", r#"{"issuer":"https://other.example","jwks_uri":"https://a"}"#),
        ),
        ("no keys", KEYS, answer("500 Internal Server Error", "")),
        ("keys moved", KEYS, moved.into()),
        ("keys cut off", KEYS, cut),
        ("too long", KEYS, answer("200 OK", &long)),
        ("without an end", KEYS, endless),
        ("a head that is too long", KEYS, head),
        ("no HTTP", KEYS, "keys".into()),
        ("no response", KEYS, String::new()),
        ("no JSON", KEYS, answer("200 OK", "<html>")),
        ("no list", KEYS, answer("200 OK", r#"{"keys":{}}"#)),
        ("an empty list", KEYS, answer("200 OK", r#"{"keys":[]}"#)),
        ("only secrets", KEYS, answer("200 OK", r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#)),
    ] {
        let issuer = Issuer::start(&[]).await;
        issuer.publish(std::slice::from_ref(&key));
        issuer.answer(path, Reply::Raw(reply));
        let site = Site::start(OauthConfig::new(&issuer.url), |_| {}).await;
        let (head, body) = site.post(&bearer(&signer.token("a", &site.claims(&issuer)))).await;
        assert_eq!(status_of(&head), 503, "{what}: {body}");
        assert!(header(&head, "retry-after").is_some(), "{what}: {head}");
        assert!(!body.contains(&issuer.url), "the reason is only in the log: {body}");
        assert_eq!(status_of(&site.post(BEARER).await.0), 204, "{what}: the server's token");
        assert_eq!(site.served.web.counts().refused_issuer, 1);
        assert_eq!(issuer.requested("/elsewhere"), 0, "redirects are not followed");
    }
}

/// The keys are fetched when the server starts. Clients that come meanwhile wait for them, and one that
/// disconnects does not end the fetch.
#[tokio::test]
async fn clients_wait_for_the_first_keys() {
    let signer = Signer::new("ES256");
    let issuer = Issuer::start(&[]).await;
    let permit = Arc::new(Notify::new());
    let keys = json!({ "keys": [signer.jwk("a")] }).to_string();
    issuer.answer(KEYS, Reply::Held(answer("200 OK", &keys), permit.clone()));
    let site = Arc::new(Site::start(OauthConfig::new(&issuer.url), |_| {}).await);
    let token = signer.token("a", &site.claims(&issuer));
    let waiting = |site: Arc<Site>, token: String| async move { site.show(&token).await };
    let left = tokio::spawn(waiting(site.clone(), token.clone()));
    while site.served.web.counts().open == 0 {
        tokio::task::yield_now().await;
    }
    left.abort();
    let stayed = tokio::spawn(waiting(site.clone(), token));
    permit.notify_one();
    assert_eq!(stayed.await.unwrap().0, 204);
    assert_eq!(issuer.requested(KEYS), 1);
}

#[tokio::test]
async fn contradicting_configurations_are_refused() {
    let issuer = || OauthConfig::new("https://example.org");
    let open = ServerConfig { access: Access::Anybody, oauth: Some(issuer()), ..config() };
    let unix = ServerConfig {
        place: Place::Unix("/nowhere/a.sock".into()),
        oauth: Some(issuer()),
        ..config()
    };
    let invalid = ServerConfig { oauth: Some(OauthConfig::new("ftp://a")), ..config() };
    for (config, says) in [
        (open, "oauth must not be used by a server that needs no token"),
        (unix, "oauth must have audiences on a Unix socket or a pipe without a public URL"),
        (invalid, "issuer must be an https: URL"),
    ] {
        let error = HttpServer::listen(config).await.err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
