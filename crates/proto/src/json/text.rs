//! JSON strings: escapes taken out and put in (RFC 8259, section 7).

use std::borrow::Cow;

/// The text of a JSON string whose syntax was checked, given without its quotes. An escaped
/// surrogate without its other half becomes U+FFFD.
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

/// The character behind `\u`, both halves of a surrogate pair taken together.
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

/// Appends `text` as a JSON string with its quotes.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => {
                out.extend_from_slice(b"\\u00");
                let digit = |value: u8| HEX.get(usize::from(value)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_taken_out() {
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

    proptest! {
        #[test]
        fn agrees_with_serde_json_both_ways(text: String) {
            let mut ours = Vec::new();
            write_string(&text, &mut ours);
            let ours = String::from_utf8(ours).unwrap();
            prop_assert_eq!(&serde_json::from_str::<String>(&ours).unwrap(), &text);
            let theirs = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(unescape(&theirs[1..theirs.len() - 1]), text);
        }
    }
}
