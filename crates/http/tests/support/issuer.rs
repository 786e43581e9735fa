//! An OAuth authorization server for tests: it publishes its metadata and keys, and the test signs tokens
//! with its keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A private key, and the algorithm of its signatures.
pub enum Signer {
    Ecdsa(&'static str, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(&'static str, RsaKeyPair),
}

/// Returns the DER of the RSA key, as PKCS#8. ring cannot create RSA keys.
fn rsa() -> RsaKeyPair {
    let pem = std::fs::read_to_string(super::file("issuer.key.pem")).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(base64).unwrap()).unwrap()
}

impl Signer {
    pub fn new(algorithm: &'static str) -> Self {
        let random = SystemRandom::new();
        let ecdsa = |method| {
            let key = EcdsaKeyPair::generate_pkcs8(method, &random).unwrap();
            Self::Ecdsa(algorithm, EcdsaKeyPair::from_pkcs8(method, key.as_ref(), &random).unwrap())
        };
        match algorithm {
            "ES256" => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
            }
            "RS256" | "PS512" => Self::Rsa(algorithm, rsa()),
            _ => panic!("{algorithm}"),
        }
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ecdsa(algorithm, _) | Self::Rsa(algorithm, _) => algorithm,
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(_, key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::Rsa(algorithm, key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                match *algorithm {
                    "RS256" => key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature),
                    _ => key.sign(&RSA_PSS_SHA512, &random, message, &mut signature),
                }
                .unwrap();
                signature
            }
        }
    }

    /// Returns the public key as a JWK with this id.
    pub fn jwk(&self, id: &str) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (mut jwk, public) = match self {
            Self::Ecdsa(algorithm, key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if *algorithm == "ES256" { "P-256" } else { "P-384" };
                (json!({ "kty": "EC", "crv": curve }), vec![("x", encode(x)), ("y", encode(y))])
            }
            Self::Ed25519(key) => {
                let x = encode(key.public_key().as_ref());
                (json!({ "kty": "OKP", "crv": "Ed25519" }), vec![("x", x)])
            }
            Self::Rsa(_, key) => {
                let key: RsaPublicKeyComponents<Vec<u8>> = key.public().into();
                let (modulus, exponent) = (encode(&key.n), encode(&key.e));
                (json!({ "kty": "RSA" }), vec![("n", modulus), ("e", exponent)])
            }
        };
        jwk["kid"] = id.into();
        for (name, value) in public {
            jwk[name] = value.into();
        }
        jwk
    }

    /// Returns a token whose header names this key.
    pub fn token(&self, id: &str, claims: &Value) -> String {
        self.token_of(
            &json!({ "typ": "at+jwt", "alg": self.algorithm(), "kid": id }),
            &claims.to_string(),
        )
    }

    /// Returns a token with this header and this JSON text of claims.
    pub fn token_of(&self, header: &Value, claims: &str) -> String {
        let message = unsigned(header, claims);
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// Returns the part of a token that is signed.
pub fn unsigned(header: &Value, claims: &str) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}", encode(&header.to_string()), encode(claims))
}

/// Returns the time in seconds since 1970, plus `offset`.
pub fn time(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_secs()).unwrap() + offset
}

/// What the issuer's server answers.
#[derive(Clone)]
pub enum Reply {
    Json(Value),
    /// These bytes, and then the end of the connection.
    Raw(String),
    /// The same, once the test permits it.
    Held(String, Arc<Notify>),
}

pub const METADATA: &str = "/.well-known/oauth-authorization-server";
pub const KEYS: &str = "/keys";

pub struct Issuer {
    pub url: String,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    /// Starts an issuer that publishes these keys.
    pub async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (replies, requests) = (Arc::<Mutex<HashMap<_, _>>>::default(), Arc::default());
        let issuer = Self { url, replies: replies.clone(), requests };
        let keys_url = format!("{}{KEYS}", issuer.url);
        let metadata = json!({ "issuer": issuer.url, "jwks_uri": keys_url });
        issuer.answer(METADATA, Reply::Json(metadata));
        issuer.publish(keys);
        let requests = issuer.requests.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (replies, requests) = (replies.clone(), requests.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    let reply = replies.lock().unwrap().get(&path).cloned();
                    requests.lock().unwrap().push(head);
                    let text = match reply {
                        None => answer("404 Not Found", "no"),
                        Some(Reply::Json(json)) => answer("200 OK", &json.to_string()),
                        Some(Reply::Raw(text)) => text,
                        Some(Reply::Held(text, permit)) => {
                            permit.notified().await;
                            text
                        }
                    };
                    let _ = stream.write_all(text.as_bytes()).await;
                });
            }
        });
        issuer
    }

    pub fn answer(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    pub fn publish(&self, keys: &[Value]) {
        self.answer(KEYS, Reply::Json(json!({ "keys": keys })));
    }

    /// Returns how often a path was requested.
    pub fn requested(&self, path: &str) -> usize {
        let start = format!("GET {path} ");
        self.requests.lock().unwrap().iter().filter(|head| head.starts_with(&start)).count()
    }

    /// Returns the heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Returns an HTTP response.
pub fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
