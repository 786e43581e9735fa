//! The secret that authenticates clients.

use std::fmt;

use ring::digest::{SHA256, digest};
use tieline_transport::{ConfigError, ErrorKind, Operation, Principal, TransportError};

/// A token, which authenticates a client. The `Debug` output hides the secret; [`reveal`](Self::reveal)
/// returns it.
#[derive(Clone)]
pub struct Token(String);

/// The minimum length: shorter tokens could be guessed.
const SHORTEST: usize = 16;
const LONGEST: usize = 512;

impl Token {
    /// Creates a token of 192 random bits in 48 hexadecimal digits. Unlike base64 for URLs, it never
    /// begins with `-`, so it can be the value of a command-line option, and a double click selects all
    /// of it.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn random() -> Result<Self, TransportError> {
        let digits = random_bits::<24>()?.into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Ok(Self(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()))
    }

    /// Creates a token from a text of 16 to 512 letters, digits and `-._~+`, which is valid in every header.
    ///
    /// # Errors
    /// The text is too short or too long, or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, ConfigError> {
        let text = text.into();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte);
        if !(SHORTEST..=LONGEST).contains(&text.len()) || !text.bytes().all(is_plain) {
            let must = "be 16 to 512 letters, digits and -._~+";
            return Err(ConfigError { field: "token", must });
        }
        Ok(Self(text))
    }

    /// Returns the secret. Show it only to the token's owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns whether `other` is this token. The time that this takes does not depend on how much of
    /// `other` is right.
    pub fn matches(&self, other: &str) -> bool {
        self.fingerprint() == Fingerprint::of(other)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The hash of a secret, which is stored and compared. The time that a comparison takes reveals nothing
/// useful.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(secret: impl AsRef<[u8]>) -> Self {
        let hash = digest(&SHA256, secret.as_ref());
        let mut kept = [0; 32];
        for (place, byte) in kept.iter_mut().zip(hash.as_ref()) {
            *place = *byte;
        }
        Self(kept)
    }

    /// Returns the principal that the secret authenticates.
    pub(crate) fn principal(self) -> Principal {
        Principal::new(self.0)
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

/// Returns unpredictable bits.
pub(crate) fn random_bits<const N: usize>() -> Result<[u8; N], TransportError> {
    let mut bits = [0; N];
    getrandom::fill(&mut bits).map_err(|error| {
        let error = std::io::Error::other(error.to_string());
        TransportError::new(ErrorKind::Io, Operation::Configure).because(error)
    })?;
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_token() {
        let token = Token::new("a-token-to-be-kept-secret").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(token.matches("a-token-to-be-kept-secret"));
        for wrong in ["", "a-token-to-be-kept-secreT", "a-token-to-be-kept-secret ", "a"] {
            assert!(!token.matches(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn random_tokens_differ_and_are_valid() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_ne!(one.reveal(), other.reveal());
        assert!(Token::new(one.reveal()).unwrap().matches(one.reveal()));
        for _ in 0..1000 {
            let token = Token::random().unwrap();
            assert_eq!(token.reveal().len(), 48);
            // A token is one word and does not look like an option.
            assert!(token.reveal().bytes().all(|it| it.is_ascii_hexdigit()), "{}", token.reveal());
        }
    }

    #[test]
    fn invalid_tokens_are_refused() {
        for text in
            ["", "short", "fifteen-letters", "with a space in it all", "quote\"quote\"quote"]
        {
            assert_eq!(Token::new(text).unwrap_err().field, "token", "{text}");
        }
        assert!(Token::new("x".repeat(513)).is_err());
        assert!(Token::new("x".repeat(512)).is_ok());
    }
}
