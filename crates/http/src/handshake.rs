//! The parts of a WebSocket's opening handshake (RFC 6455, section 4) that both ends need.

use base64::alphabet;
use base64::prelude::*;
use hyper::header::{HeaderMap, HeaderName};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tieline_transport::TransportError;

use crate::token::random_bits;

/// The subprotocol of plain messages, for clients that must name one. In an event stream, it is the
/// value of `Tieline-Protocol` for a line that ends with its connection.
pub const PLAIN: &str = "tieline";
/// The subprotocol of a session that survives its connections; its frames are binary messages. In an
/// event stream, it is the value of `Tieline-Protocol` for such a session; the frames are in base64.
pub const RESUMABLE: &str = "tieline.1";
/// The prefix of a subprotocol that carries a token, for scripts in web pages, which cannot set headers.
pub const TOKEN_PREFIX: &str = "tieline.token.";

/// The WebSocket extension by which a client ends its input and continues to receive.
pub(crate) const HALF_CLOSE: &str = "tieline-half-close";

/// Returns the value of `Sec-WebSocket-Accept` for a key.
pub(crate) fn accept(key: &str) -> String {
    let keyed = [key, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, keyed.as_bytes()))
}

/// Returns a random key for a client.
pub(crate) fn key() -> Result<String, TransportError> {
    Ok(BASE64_STANDARD.encode(random_bits::<16>()?))
}

/// Returns whether `text` is a key: sixteen bytes in base64.
pub(crate) fn is_key(text: &str) -> bool {
    // Some clients use random base64 digits, so that the unused last bits are not zero.
    let is_digit = |digit: char| alphabet::STANDARD.as_str().contains(digit);
    text.len() == 24 && text.strip_suffix("==").is_some_and(|it| it.chars().all(is_digit))
}

/// Returns whether a header that is a comma-separated list contains `word`, ignoring case.
pub(crate) fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|known| known.eq_ignore_ascii_case(word))
}

/// Splits the values of a header that is a comma-separated list. Values that are not text are skipped.
pub(crate) fn words<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|it| !it.is_empty())
}

/// Returns the value of a header that may appear once.
pub(crate) fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_value_matches_the_rfc_example() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_16_bytes_in_base64_are_a_key() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(is_key(&key().unwrap()));
        for text in ["", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25j*Q==", "x"] {
            assert!(!is_key(text), "{text}");
        }
    }
}
