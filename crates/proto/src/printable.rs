//! Text for users: escaping untrusted text, and truncating.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::time::Duration;

/// A number with its noun, which is displayed in the plural unless the number is 1: `1 byte`, `0 bytes`.
#[derive(Clone, Copy, Debug)]
pub struct Count<N>(pub N, pub &'static str);

impl<N: Display + PartialEq + From<u8>> Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, noun) = self;
        let plural = if *number == N::from(1) { "" } else { "s" };
        write!(f, "{number} {noun}{plural}")
    }
}

/// Returns a measured time rounded up for display: from one minute, to seconds; from one second, to
/// tenths; and otherwise to milliseconds.
pub fn rounded(time: Duration) -> Duration {
    let step = match time.as_secs() {
        0 => Duration::from_millis(1),
        1..60 => Duration::from_millis(100),
        _ => Duration::from_secs(1),
    };
    let steps = time.as_nanos().div_ceil(step.as_nanos());
    step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

/// Returns `text` on one line, with all control characters escaped so that a terminal does not interpret
/// them.
///
/// Control characters (C0, DEL and C1) become JSON escapes such as `\u001b`, and newlines become `\n`,
/// so that JSON text keeps its value. Bytes that are not UTF-8, which some terminals interpret as C1
/// characters, become escapes such as `\x9b`. Tabs are kept. Text that needs no escaping is not copied.
pub fn printable(text: &[u8]) -> Cow<'_, str> {
    escape(text, |c| c.is_control() && c != '\t')
}

/// Returns `text` escaped like [`printable`], except that newlines are kept.
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

/// Returns the longest beginning of `text` that has at most `most` bytes.
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
    fn one_is_singular() {
        let texts = [0_u64, 1, 2].map(|number| Count(number, "more byte").to_string());
        assert_eq!(texts, ["0 more bytes", "1 more byte", "2 more bytes"]);
    }

    #[test]
    fn measured_times_are_rounded_up() {
        for (time, shown) in [
            (Duration::ZERO, "0ns"),
            (Duration::from_nanos(1), "1ms"),
            (Duration::from_micros(999_001), "1s"),
            (Duration::from_nanos(4_999_823_412), "5s"),
            (Duration::from_millis(1_201), "1.3s"),
            (Duration::from_millis(60_001), "61s"),
        ] {
            assert_eq!(format!("{:?}", rounded(time)), shown, "{time:?}");
        }
        assert!(rounded(Duration::MAX) > Duration::from_secs(3600));
    }

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
