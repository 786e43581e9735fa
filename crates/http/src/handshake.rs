//! What both ends of a WebSocket's opening handshake (RFC 6455, section 4) have to know.

use base64::alphabet;
use base64::prelude::*;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tieline_transport::TransportError;

use crate::token::random_bits;

/// The subprotocol of plain messages, for clients that have to name one; of a stream of events, what
/// `Tieline-Protocol` says of one that ends with its connection.
pub const PLAIN: &str = "tieline";
/// The subprotocol of a session that survives its connections: its frames are binary messages. In a stream of
/// events it is what `Tieline-Protocol` says, and the frames are in base64.
pub const RESUMABLE: &str = "tieline.1";
/// A subprotocol that begins so carries a token, for scripts of pages: they cannot set a header.
pub const TOKEN_PREFIX: &str = "tieline.token.";

/// The WebSocket extension by which a client ends its input and goes on receiving.
pub(crate) const HALF_CLOSE: &str = "tieline-half-close";

/// The answer to a key.
pub(crate) fn accept(key: &str) -> String {
    let keyed = [key, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, keyed.as_bytes()))
}

/// A client's key.
pub(crate) fn key() -> Result<String, TransportError> {
    Ok(BASE64_STANDARD.encode(random_bits::<16>()?))
}

/// Whether it is a key: sixteen bytes in base64.
pub(crate) fn is_key(text: &str) -> bool {
    // Some clients put together any digits that there are, so that their last bits are for nothing.
    let is_digit = |digit: char| alphabet::STANDARD.as_str().contains(digit);
    text.len() == 24 && text.strip_suffix("==").is_some_and(|it| it.chars().all(is_digit))
}

/// Whether a header that is a list of words has this one, in any case.
pub(crate) fn has_word<'a>(values: impl IntoIterator<Item = &'a str>, word: &str) -> bool {
    words(values).any(|known| known.eq_ignore_ascii_case(word))
}

/// The words of a header that is a list.
pub(crate) fn words<'a>(
    values: impl IntoIterator<Item = &'a str>,
) -> impl Iterator<Item = &'a str> {
    values.into_iter().flat_map(|value| value.split(',')).map(str::trim).filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_own_key_gets_its_own_answer() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_told_from_what_is_none() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(is_key(&key().unwrap()));
        for text in ["", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25j*Q==", "x"] {
            assert!(!is_key(text), "{text}");
        }
    }
}
