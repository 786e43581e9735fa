//! The public keys of an issuer (RFC 7517).

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header};
use serde::Deserialize;
use serde_json::Value;

/// The maximum number of keys. Further ones are ignored.
const MAX_KEYS: usize = 256;

/// The keys that an issuer publishes for signatures.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The algorithms with which the key may be used.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The reason why a set has no key for a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The set may be too old.
    Unknown,
    /// The token does not name its key, and several keys are possible.
    Ambiguous,
}

impl KeySet {
    /// Parses a set of keys. Keys of unknown kinds, for encryption, and with a shared secret are skipped.
    ///
    /// # Errors
    /// The document is not a set of keys, or no key is left.
    pub(super) fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let Document { keys } = serde_json::from_slice(document)
            .map_err(|error| format!("the document is not a set of keys: {error}"))?;
        let keys: Vec<Key> = keys.into_iter().filter_map(Key::parse).take(MAX_KEYS).collect();
        match keys.is_empty() {
            true => Err("the document has no public key for signatures".to_owned()),
            false => Ok(Self(keys)),
        }
    }

    /// Returns the key for a token with this header.
    pub(super) fn find(&self, header: &Header) -> Result<&DecodingKey, NoKey> {
        let id = header.kid.as_ref();
        let mut keys = self.0.iter().filter(|key| {
            key.algorithms.contains(&header.alg) && (id.is_none() || key.id.as_ref() == id)
        });
        match (keys.next(), keys.next()) {
            (None, _) => Err(NoKey::Unknown),
            (Some(_), Some(_)) if id.is_none() => Err(NoKey::Ambiguous),
            (Some(key), _) => Ok(&key.key),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    fn parse(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let is_for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature)
                && (jwk.common.key_operations.as_ref())
                    .is_none_or(|it| it.contains(&KeyOperations::Verify));
        if !is_for_signatures {
            return None;
        }
        let possible: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                EllipticCurve::P521 | EllipticCurve::Ed25519 => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            AlgorithmParameters::OctetKeyPair(_) | AlgorithmParameters::OctetKey(_) => return None,
        };
        let algorithms = match jwk.common.key_algorithm {
            None => possible.to_vec(),
            Some(named) => {
                let named: Algorithm = named.to_string().parse().ok()?;
                possible.iter().copied().filter(|it| *it == named).collect()
            }
        };
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: jwk.common.key_id, algorithms, key })
    }
}

impl fmt::Display for NoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => {
                "the access token is signed with a key that its issuer does not publish"
            }
            Self::Ambiguous => "the access token does not name its key, and its issuer has several",
        })
    }
}
