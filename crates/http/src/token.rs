//! The secret that lets somebody in.

use std::fmt;

use ring::digest::{SHA256, digest};
use tieline_transport::{ConfigError, ErrorKind, Operation, Principal, TransportError};

/// A token: whoever has it is let in. It shows itself to nobody but by [`reveal`](Self::reveal).
#[derive(Clone)]
pub struct Token(String);

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;
const LONGEST: usize = 512;

impl Token {
    /// A new one of 192 random bits, in 48 hexadecimal digits: it can stand behind an option of any
    /// program (base64 for URLs may begin with `-`, as an option does) and is one word to whoever copies it.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn random() -> Result<Self, TransportError> {
        let digits = random_bits::<24>()?.into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Ok(Self(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()))
    }

    /// One that was agreed on: 16 to 512 letters, digits and `-._~+`, so that it fits into every header.
    ///
    /// # Errors
    /// It is shorter, longer, or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, ConfigError> {
        let text = text.into();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte);
        if !(SHORTEST..=LONGEST).contains(&text.len()) || !text.bytes().all(is_plain) {
            let must = "be 16 to 512 letters, digits and -._~+";
            return Err(ConfigError { field: "token", must });
        }
        Ok(Self(text))
    }

    /// The token itself, to be shown to its owner and nobody else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is this one, in a time that does not tell how much of it is right.
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

/// What is kept of a secret, and compared: to know how much of a fingerprint is right helps nobody.
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

    /// Whoever has what it was made of.
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

/// Bits that nobody can foresee.
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
    fn a_token_shows_itself_to_nobody() {
        let token = Token::new("a-token-to-be-kept-secret").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(token.matches("a-token-to-be-kept-secret"));
        for wrong in ["", "a-token-to-be-kept-secreT", "a-token-to-be-kept-secret ", "a"] {
            assert!(!token.matches(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn tokens_that_are_made_differ_and_can_be_given_back() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_ne!(one.reveal(), other.reveal());
        assert!(Token::new(one.reveal()).unwrap().matches(one.reveal()));
        for _ in 0..1000 {
            let token = Token::random().unwrap();
            assert_eq!(token.reveal().len(), 48);
            // Nothing of it looks like an option, and nothing ends a word.
            assert!(token.reveal().bytes().all(|it| it.is_ascii_hexdigit()), "{}", token.reveal());
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in
            ["", "short", "fifteen-letters", "with a space in it all", "quote\"quote\"quote"]
        {
            assert_eq!(Token::new(text).unwrap_err().field, "token", "{text}");
        }
        assert!(Token::new("x".repeat(513)).is_err());
        assert!(Token::new("x".repeat(512)).is_ok());
    }
}
