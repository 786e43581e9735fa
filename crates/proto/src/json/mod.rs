//! JSON validation within limits (RFC 8259), in one pass and without building a tree.

mod scan;
mod text;

use std::fmt;
use std::str::Utf8Error;

use bytes::Bytes;

pub(crate) use scan::Scanner;
pub use text::{escape, unescape};

/// Limits on the structure of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deeply arrays and objects may be nested; at most 128, which is the default.
    pub depth: u32,
    /// How many object members a message may have in total; 100,000 by default.
    pub keys: u32,
}

/// The deepest nesting that can be allowed: each level takes one bit of a `u128`.
const MAX_DEPTH: u32 = u128::BITS;

impl Default for Limits {
    fn default() -> Self {
        Self { depth: MAX_DEPTH, keys: 100_000 }
    }
}

/// The error for text that is not JSON within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The offset of the first byte that is not allowed.
    pub at: usize,
    /// The kind of problem there.
    pub problem: Problem,
}

/// The problems that a JSON text can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The text is not UTF-8.
    NotUtf8,
    /// The grammar does not allow this byte here.
    Unexpected(u8),
    /// The text ends too early.
    UnexpectedEnd,
    /// The text is nested deeper than [`Limits::depth`].
    TooDeep,
    /// The text has more object members than [`Limits::keys`].
    TooManyKeys,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, problem } = self;
        match problem {
            Problem::NotUtf8 => write!(f, "invalid UTF-8 at byte {at}"),
            Problem::Unexpected(byte) => {
                write!(f, "unexpected `{}` at byte {at}", byte.escape_ascii())
            }
            Problem::UnexpectedEnd => write!(f, "unexpected end at byte {at}"),
            Problem::TooDeep => write!(f, "nested too deep at byte {at}"),
            Problem::TooManyKeys => write!(f, "too many object members at byte {at}"),
        }
    }
}

impl JsonError {
    /// Returns whether the text exceeded a limit. If so, it is JSON up to that point.
    pub fn is_limit(&self) -> bool {
        matches!(self.problem, Problem::TooDeep | Problem::TooManyKeys)
    }
}

impl std::error::Error for JsonError {}

/// U+FEFF in UTF-8, which some programs write before a message (RFC 8259, section 8.1).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the JSON text after a byte order mark, or all of it if there is none.
#[inline]
pub(crate) fn after_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Returns the message without a byte order mark at its start, if the rest is JSON within `limits`. Any other
/// message is returned unchanged.
#[inline]
pub fn without_byte_order_mark(message: Bytes, limits: Limits) -> Bytes {
    match message.first() {
        Some(0xef) => skip_byte_order_mark(message, limits),
        _ => message,
    }
}

#[cold]
fn skip_byte_order_mark(message: Bytes, limits: Limits) -> Bytes {
    let text = after_byte_order_mark(&message);
    let is_marked_once = text.len() < message.len() && !text.starts_with(BYTE_ORDER_MARK);
    if is_marked_once && check(text, limits).is_ok() {
        return message.slice_ref(text);
    }
    message
}

/// Checks that `text` is one JSON value within `limits`. Whitespace around the value and a byte order
/// mark before it are allowed.
///
/// Takes time linear in the length, and allocates nothing.
///
/// # Errors
/// `text` is not JSON within `limits`. The error is the first problem in the text.
pub fn check(text: &[u8], limits: Limits) -> Result<(), JsonError> {
    Scanner::new(text, limits)?.document()
}

fn check_utf8(text: &[u8]) -> Result<(), JsonError> {
    // Most text is ASCII, which is faster to check.
    let words = text.chunks_exact(8);
    let high = words.remainder().iter().fold(0, |all, byte| all | byte) >> 7;
    let words = words.filter_map(|word| word.try_into().ok()).map(u64::from_le_bytes);
    let all = words.fold(0, |all, word| all | word);
    if all & u64::from_le_bytes([0x80; 8]) == 0 && high == 0 {
        return Ok(());
    }
    let not_utf8 =
        |error: Utf8Error| JsonError { at: error.valid_up_to(), problem: Problem::NotUtf8 };
    std::str::from_utf8(text).map(drop).map_err(not_utf8)
}

/// Returns the same JSON on one line: raw newlines, which can only be between tokens, become spaces. A byte
/// order mark before it is removed.
///
/// # Errors
/// `text` is not JSON within `limits`.
pub fn to_one_line(text: &[u8], limits: Limits) -> Result<Bytes, JsonError> {
    check(text, limits)?;
    let is_newline = |byte: &u8| matches!(byte, b'\n' | b'\r');
    Ok(after_byte_order_mark(text)
        .iter()
        .map(|byte| if is_newline(byte) { b' ' } else { *byte })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(text: &[u8]) -> Problem {
        check(text, Limits::default()).unwrap_err().problem
    }

    #[test]
    fn valid_json_is_accepted() {
        for text in [
            "0",
            "-0",
            "1.5e+10",
            "1E9",
            "\"\"",
            "\"\\u00e9\\n\\ud800\"",
            "null",
            "true",
            "false",
            "[]",
            "{}",
            " [ ] ",
            "{\"a\":{\"b\":[1,2,{}]},\"c\":\"é\"}",
            "[[[]],[]]",
            "\r\n{\r\n}\r\n",
        ] {
            assert_eq!(check(text.as_bytes(), Limits::default()), Ok(()), "{text}");
        }
    }

    #[test]
    fn each_problem_is_detected() {
        assert_eq!(problem(b""), Problem::UnexpectedEnd);
        assert_eq!(problem(b"{\"a\":1"), Problem::UnexpectedEnd);
        assert_eq!(problem(b"\"a"), Problem::UnexpectedEnd);
        assert_eq!(problem(b"01"), Problem::Unexpected(b'1'));
        assert_eq!(problem(b"[1,]"), Problem::Unexpected(b']'));
        assert_eq!(problem(b"{\"a\"}"), Problem::Unexpected(b'}'));
        assert_eq!(problem(b"[1}"), Problem::Unexpected(b'}'));
        assert_eq!(problem(b"{}{}"), Problem::Unexpected(b'{'));
        assert_eq!(problem(b"nul"), Problem::UnexpectedEnd);
        assert_eq!(problem(b"NaN"), Problem::Unexpected(b'N'));
        assert_eq!(problem(b"\"a\nb\""), Problem::Unexpected(b'\n'));
        assert_eq!(problem(b"\"\\x\""), Problem::Unexpected(b'x'));
        assert_eq!(problem(b"\"\xff\""), Problem::NotUtf8);
        assert_eq!(problem(b"{\"a\":1,}"), Problem::Unexpected(b'}'));
    }

    #[test]
    fn limits_are_exact() {
        let limits = Limits { depth: 3, keys: 2 };
        assert_eq!(check(b"[[[]]]", limits), Ok(()));
        assert_eq!(check(b"[[[[]]]]", limits).unwrap_err().problem, Problem::TooDeep);
        assert_eq!(check(br#"{"a":{"b":1}}"#, limits), Ok(()));
        let error = check(br#"{"a":{"b":1},"c":2}"#, limits).unwrap_err();
        assert_eq!(error.problem, Problem::TooManyKeys);
        let deepest = [vec![b'['; 128], vec![b']'; 128]].concat();
        assert_eq!(check(&deepest, Limits { depth: u32::MAX, keys: 0 }), Ok(()));
        let deeper = [vec![b'['; 129], vec![b']'; 129]].concat();
        let error = check(&deeper, Limits { depth: u32::MAX, keys: 0 }).unwrap_err();
        assert_eq!(error, JsonError { at: 128, problem: Problem::TooDeep });
    }

    #[test]
    fn a_million_levels_do_not_overflow_the_stack() {
        assert_eq!(problem(&vec![b'['; 1_000_000]), Problem::TooDeep);
    }

    #[test]
    fn byte_order_mark_is_skipped_at_the_start_of_json_only() {
        let limits = Limits::default();
        let of = |text: &'static str| without_byte_order_mark(Bytes::from(text), limits);
        assert_eq!(check("\u{feff}{}".as_bytes(), limits), Ok(()));
        assert_eq!(check("\u{feff} [1]".as_bytes(), limits), Ok(()));
        assert_eq!(to_one_line("\u{feff}[\n1]".as_bytes(), limits).unwrap(), "[ 1]");
        for (text, kept) in [
            ("\u{feff}{\"a\":1}", "{\"a\":1}"),
            ("{\"a\":\"\u{feff}\"}", "{\"a\":\"\u{feff}\"}"),
            ("\u{feff}\u{feff}{}", "\u{feff}\u{feff}{}"),
            ("\u{feff}plain words", "\u{feff}plain words"),
            ("\u{feff}", "\u{feff}"),
            ("", ""),
        ] {
            assert_eq!(of(text), kept, "{text:?}");
        }
        for text in ["\u{feff}", " \u{feff}{}", "{\u{feff}}", "{}\u{feff}", "\u{feff}\u{feff}{}"] {
            assert!(check(text.as_bytes(), limits).is_err(), "{text:?}");
        }
        let error = check("\u{feff}{".as_bytes(), limits).unwrap_err();
        assert_eq!(error, JsonError { at: 4, problem: Problem::UnexpectedEnd });
    }

    #[test]
    fn json_on_one_line_has_the_same_value() {
        let pretty = b"{\r\n  \"a\": [\n1,\r2]\n}";
        let line = to_one_line(pretty, Limits::default()).unwrap();
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(pretty));
    }

    /// Generates text that is JSON or almost JSON.
    fn almost_json() -> impl Strategy<Value = String> {
        let token = proptest::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"\\u12aF\"",
            "\"\\u12\"",
            "1",
            "-",
            "0",
            ".5",
            "e3",
            "true",
            "null",
            " ",
            "\n",
            "\"",
            "\\",
            "é",
            "x",
        ]);
        proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The texts are too small to reach a limit.
        #[test]
        fn agrees_with_serde_json(text in almost_json()) {
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(check(text.as_bytes(), Limits::default()).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(text: Vec<u8>) {
            let _ = check(&text, Limits::default());
        }
    }
}
