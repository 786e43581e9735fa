//! The headers that repeat parts of a request's body, so that intermediaries need not read it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::PROTOCOL_VERSION;

/// The header that repeats the method.
pub const METHOD: &str = "mcp-method";
/// The header that repeats the name of a tool or prompt, or the URI of a resource.
pub const NAME: &str = "mcp-name";
/// The prefix of the headers that repeat arguments of a tool.
pub const PARAM: &str = "mcp-param-";

/// The headers of a request that repeat parts of its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModernHead {
    pub(super) version: Repeated,
    pub(super) method: Repeated,
    pub(super) name: Repeated,
    /// The headers that repeat arguments of a tool, by their lower-case names.
    params: BTreeMap<String, Repeated>,
}

/// The value of a header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Repeated {
    #[default]
    Missing,
    /// A value of printable ASCII, without spaces or tabs at its ends.
    Is(String),
    /// The header was sent twice, or its value is not printable ASCII.
    Malformed,
}

impl ModernHead {
    /// Reads the headers, given as lower-case names and values.
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            let slot = match name {
                PROTOCOL_VERSION => &mut head.version,
                METHOD => &mut head.method,
                NAME => &mut head.name,
                _ if name.starts_with(PARAM) => head.params.entry(name.to_owned()).or_default(),
                _ => continue,
            };
            let text = std::str::from_utf8(value.trim_ascii()).ok();
            let text =
                text.filter(|text| text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')));
            *slot = match (&*slot, text) {
                (Repeated::Missing, Some(text)) => Repeated::Is(text.to_owned()),
                _ => Repeated::Malformed,
            };
        }
        head
    }

    /// Returns the header with this lower-case name.
    pub(super) fn param(&self, name: &str) -> &Repeated {
        self.params.get(name).unwrap_or(&Repeated::Missing)
    }
}

impl Repeated {
    /// Returns the value, which is decoded if it is in base64. Returns `None` if the header is missing
    /// or malformed.
    pub(super) fn decoded(&self) -> Option<Cow<'_, str>> {
        let Self::Is(value) = self else { return None };
        let inner = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
        match inner {
            None => Some(Cow::Borrowed(value)),
            Some(digits) => String::from_utf8(base64(digits.as_bytes())?).ok().map(Cow::Owned),
        }
    }
}

/// Decodes base64 with padding (RFC 4648, section 4).
fn base64(digits: &[u8]) -> Option<Vec<u8>> {
    if digits.len() % 4 != 0 {
        return None;
    }
    let padding = digits.iter().rev().take_while(|digit| **digit == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    for group in digits.chunks_exact(4) {
        let mut word = 0;
        for digit in group {
            // Padding that is not at the end is rejected below.
            word = word << 6 | if *digit == b'=' { 0 } else { digit_value(*digit)? };
        }
        let [_, first, second, third] = u32::to_be_bytes(word);
        bytes.extend([first, second, third]);
    }
    let is_inner = |digit: &u8| *digit != b'=';
    if !digits.get(..digits.len() - padding)?.iter().all(is_inner) {
        return None;
    }
    bytes.truncate(bytes.len() - padding);
    Some(bytes)
}

/// Encodes bytes in base64 with padding (RFC 4648, section 4).
pub(crate) fn base64_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit =
        |value: u32| DIGITS.get(value as usize & 63).map_or('=', |digit| char::from(*digit));
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digits = [word >> 18, word >> 12, word >> 6, word].map(digit);
        text.extend(digits.iter().take(group.len() + 1));
        text.extend(std::iter::repeat_n('=', 3 - group.len()));
    }
    text
}

fn digit_value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(value: &str) -> Option<String> {
        let head = ModernHead::of([(NAME, value.as_bytes())]);
        head.name.decoded().map(Cow::into_owned)
    }

    #[test]
    fn a_value_in_base64_is_decoded() {
        for (value, expected) in [
            ("plain", Some("plain")),
            (" \t a b ", Some("a b")),
            ("", Some("")),
            ("=?base64?w6k=?=", Some("é")),
            ("=?base64?IGEg?=", Some(" a ")),
            ("=?base64??=", Some("")),
            ("=?base64?PT9iYXNlNjQ/eD89?=", Some("=?base64?x?=")),
            // Without the exact wrapper, this is the value itself.
            ("w6k=?=", Some("w6k=?=")),
            ("=?base64?w6k=", Some("=?base64?w6k=")),
            ("=?BASE64?w6k=?=", Some("=?BASE64?w6k=?=")),
            ("=?base64?w6k?=", None),
            ("=?base64?w6=k?=", None),
            ("=?base64?w6!=?=", None),
            ("=?base64?====?=", None),
            ("=?base64?/w==?=", None),
            ("é", None),
            ("a\u{1}", None),
        ] {
            assert_eq!(decoded(value).as_deref(), expected, "{value:?}");
        }
    }

    #[test]
    fn a_header_that_is_sent_twice_is_malformed() {
        let twice = [
            ("mcp-param-x", &b"a"[..]),
            ("mcp-param-x", b"a"),
            ("mcp-param-y", b"b"),
            ("other", b"\xff"),
        ];
        let head = ModernHead::of(twice);
        assert_eq!(head.param("mcp-param-x"), &Repeated::Malformed);
        assert_eq!(head.param("mcp-param-y"), &Repeated::Is("b".into()));
        assert_eq!(head.param("mcp-param-z"), &Repeated::Missing);
    }
}
