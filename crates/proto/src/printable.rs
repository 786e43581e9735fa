//! Text for people: escaping what is untrusted, and truncating.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `text` on one line, with all control characters escaped so that a terminal does not interpret
/// them.
///
/// Control characters (C0, DEL and C1) become JSON escapes such as `\u001b`, and newlines become `\n`, so
/// that JSON text keeps its value. Bytes that are not UTF-8, which some terminals interpret as C1
/// characters, become
/// `\x9b` and the like. Tabs are kept. Text that needs no escaping is not copied.
pub fn printable(text: &[u8]) -> Cow<'_, str> {
    escape(text, |c| c.is_control() && c != '\t')
}

/// Returns `text` escaped like [`printable`], but keeps newlines.
pub fn printable_lines(text: &[u8]) -> Cow<'_, str> {
    escape(text, |c| c.is_control() && !matches!(c, '\t' | '\n'))
}

fn escape(text: &[u8], is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    match std::str::from_utf8(text) {
        Ok(text) if !text.contains(&is_escaped) => return Cow::Borrowed(text),
        _ => {}
    }
    let mut out = String::with_capacity(text.len() + 16);
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Writing to a `String` cannot fail.
            let _ = match c {
                '\n' if is_escaped(c) => out.write_str("\\n"),
                c if is_escaped(c) => write!(out, "\\u{:04x}", u32::from(c)),
                c => out.write_char(c),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    Cow::Owned(out)
}

/// Returns the longest part of `text`, from its start, that is at most `most` bytes long.
pub(crate) fn truncated(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_truncated_between_characters() {
        for (most, expected) in [(0, ""), (1, "a"), (2, "a"), (3, "aé"), (4, "aéb"), (9, "aéb")]
        {
            assert_eq!(truncated("aéb", most), expected);
        }
    }

    #[test]
    fn control_characters_and_invalid_utf8_are_escaped() {
        let text = "a\u{1b}]0;title\u{7}\tb\r\n\u{9b}1mé\u{7f}".as_bytes();
        assert_eq!(printable(text), "a\\u001b]0;title\\u0007\tb\\u000d\\n\\u009b1mé\\u007f");
        assert_eq!(printable_lines(text), "a\\u001b]0;title\\u0007\tb\\u000d\n\\u009b1mé\\u007f");
        assert_eq!(printable(b"\x9b1m\xe2\x82 \xff"), "\\x9b1m\\xe2\\x82 \\xff");
    }

    #[test]
    fn text_without_control_characters_is_not_copied() {
        assert!(matches!(printable("plain é\t🧀".as_bytes()), Cow::Borrowed(_)));
        assert!(matches!(printable_lines(b"one\ntwo"), Cow::Borrowed(_)));
    }

    #[test]
    fn escaped_json_keeps_its_value() {
        let json = "{\"a\":\"\u{9b}\u{7f}é\"}";
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&printable(json.as_bytes())), value(json));
    }
}
