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

pub(crate) const STANDARD: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
pub(crate) const URL_SAFE: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64, padded with `=`.
pub(crate) fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        for (place, byte) in word.iter_mut().skip(1).zip(chunk) {
            *place = *byte;
        }
        let word = u32::from_be_bytes(word);
        for position in 0..4 {
            let index = (word >> (18 - 6 * position)) & 0x3f;
            let digit = alphabet.get(index as usize).copied().unwrap_or_default();
            text.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// What stands in base64 of the alphabet for URLs, with padding or without; `None` if it is none.
pub(crate) fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    let padded = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let (digits, _) = text.split_at_checked(text.len() - padded)?;
    if digits.len() % 4 == 1 || (padded > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for chunk in digits.chunks(4) {
        let mut word = 0_u32;
        for digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(value);
        }
        let missing = 4 - chunk.len();
        let word = (word << (6 * missing)).to_be_bytes();
        bytes.extend_from_slice(word.get(1..4 - missing)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_base64_comes_out_again() {
        for length in 0..70 {
            let bytes: Vec<u8> = (0..length).map(|it| (it * 37 + 250) as u8).collect();
            let text = base64(&bytes, URL_SAFE);
            assert_eq!(unbase64(text.as_bytes()), Some(bytes.clone()));
            assert_eq!(unbase64(text.trim_end_matches('=').as_bytes()), Some(bytes));
        }
        for bad in ["A", "AAAAA", "A===", "A=", "AA=A", "AA A", "AA+A", "AAA==", "=", "AAAA="] {
            assert_eq!(unbase64(bad.as_bytes()), None, "{bad}");
        }
    }

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

    /// RFC 4648, section 10.
    #[test]
    fn base64_is_as_everybody_writes_it() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes(), STANDARD), text);
        }
        assert_eq!(base64(&[0xfb, 0xff], STANDARD), "+/8=");
        assert_eq!(base64(&[0xfb, 0xff], URL_SAFE), "-_8=");
    }
}
