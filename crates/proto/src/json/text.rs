//! Escaping and unescaping JSON strings (RFC 8259, section 7).

use std::borrow::Cow;

/// Returns the text of a JSON string. `raw` is the string without its quotes and must have been checked. An
/// unpaired surrogate escape becomes U+FFFD.
pub fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut characters = escaped.chars();
        match characters.next() {
            Some('u') => {
                let (character, behind) = unicode(characters.as_str());
                text.push(character);
                rest = behind;
                continue;
            }
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some(itself) => text.push(itself),
            None => {}
        }
        rest = characters.as_str();
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// Decodes the character after `\u`, including the second escape of a surrogate pair.
fn unicode(behind: &str) -> (char, &str) {
    let Some((unit, rest)) = hex4(behind) else {
        return (char::REPLACEMENT_CHARACTER, behind);
    };
    let low = rest.strip_prefix("\\u").and_then(hex4);
    if let (0xd800..=0xdbff, Some((low @ 0xdc00..=0xdfff, behind_low))) = (unit, low) {
        let character = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        return (char::from_u32(character).unwrap_or(char::REPLACEMENT_CHARACTER), behind_low);
    }
    (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), rest)
}

fn hex4(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

/// Escapes `text` for use between the quotes of a JSON string.
pub fn escape(text: &str) -> Cow<'_, str> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| HEX.get(usize::from(value)).copied().map_or('0', char::from);
    let mut rest = text;
    let mut escaped = String::new();
    while let Some((plain, behind)) = rest.split_at_checked(plain(rest.as_bytes())) {
        let mut characters = behind.chars();
        let Some(special) = characters.next() else { break };
        escaped.push_str(plain);
        match special {
            '"' | '\\' => escaped.extend(['\\', special]),
            _ => {
                let byte = special as u8;
                escaped.push_str("\\u00");
                escaped.extend([digit(byte >> 4), digit(byte & 15)]);
            }
        }
        rest = characters.as_str();
    }
    if escaped.is_empty() {
        return Cow::Borrowed(text);
    }
    escaped.push_str(rest);
    Cow::Owned(escaped)
}

/// Returns how many bytes at the front of `text` need no escaping in a JSON string: no quote, no backslash,
/// no control character.
#[inline]
pub(super) fn plain(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let special = special(u64::from_le_bytes(*word));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = text.get(at..).unwrap_or_default();
    let special = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
    at + special.unwrap_or(rest.len())
}

/// Finds special bytes among eight at once: the lowest set bit is the high bit of the first one. (A borrow
/// can mark more bytes, but only after a special one.)
#[inline]
fn special(word: u64) -> u64 {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    let each = |byte: u8| EACH * u64::from(byte);
    // With this bit flipped, a quote becomes a space, which comes right after the control characters.
    let quoted = (word ^ each(b'"' ^ b' ')).wrapping_sub(each(b' ' + 1));
    let escaped = (word ^ each(b'\\')).wrapping_sub(each(1));
    (quoted | escaped) & !word & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_decoded() {
        for (raw, text) in [
            (r"plain é", "plain é"),
            (r#"a\\b\"\/\n\r\t\b\f"#, "a\\b\"/\n\r\t\u{8}\u{c}"),
            (r"\u0069d", "id"),
            (r"\ud83d\ude00!", "\u{1f600}!"),
            (r"\ud83d", "\u{fffd}"),
            (r"\ud83dx", "\u{fffd}x"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\ude00", "\u{fffd}"),
        ] {
            assert_eq!(unescape(raw), text, "{raw}");
        }
    }

    /// Tests every byte at every position of a word, next to bytes that could be mistaken for special
    /// ones.
    #[test]
    fn special_byte_is_found_at_any_position() {
        for byte in 0..=u8::MAX {
            let is_special = matches!(byte, b'"' | b'\\' | 0..=0x1f);
            for (before, behind) in [(b'x', b'x'), (0x80, 0x80), (b'#', b'!'), (0xff, 0x00)] {
                for at in 0..20 {
                    let mut text = [vec![before; at], vec![byte]].concat();
                    let expected = if is_special { at } else { at + 1 };
                    assert_eq!(plain(&text), expected, "{byte:#x} at {at}");
                    text.extend([behind; 20]);
                    let end = text.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f));
                    assert_eq!(plain(&text), end.unwrap_or(text.len()), "{byte:#x} at {at}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_both_ways(text: String) {
            let ours = format!("\"{}\"", escape(&text));
            prop_assert_eq!(&serde_json::from_str::<String>(&ours).unwrap(), &text);
            let theirs = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(unescape(&theirs[1..theirs.len() - 1]), text);
        }
    }
}
