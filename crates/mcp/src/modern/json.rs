//! Reads and writes parts of JSON texts.

use std::borrow::Cow;

use tieline_proto::json::escape;
use tieline_proto::jsonrpc::member;

pub(super) use crate::text::string;

/// Writes a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", escape(text))
}

pub(crate) fn is_object(value: &[u8]) -> bool {
    value.starts_with(b"{")
}

/// Writes an object of members whose values are raw JSON.
pub(crate) fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut object = vec![b'{'];
    for (name, value) in members {
        if object.len() > 1 {
            object.push(b',');
        }
        object.extend_from_slice(quoted(name).as_bytes());
        object.push(b':');
        object.extend_from_slice(value);
    }
    object.push(b'}');
    object
}

/// Adds the default members that an object lacks. Other values are returned unchanged.
pub(crate) fn completed<'a>(value: &'a [u8], defaults: &[(&str, &[u8])]) -> Cow<'a, [u8]> {
    let Some(rest) = value.strip_prefix(b"{") else { return Cow::Borrowed(value) };
    let missing = defaults.iter().filter(|(name, _)| member(value, name).is_none()).copied();
    let mut added = object(missing);
    if added.len() == 2 {
        return Cow::Borrowed(value);
    }
    added.pop();
    if !rest.trim_ascii_start().starts_with(b"}") {
        added.push(b',');
    }
    added.extend_from_slice(rest);
    Cow::Owned(added)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_members_are_added() {
        const DEFAULTS: &[(&str, &[u8])] = &[("a", b"1"), ("b\"", b"\"x\"")];
        for (text, expected) in [
            ("{}", r#"{"a":1,"b\"":"x"}"#),
            ("{ }", r#"{"a":1,"b\"":"x" }"#),
            (r#"{"c":{}}"#, r#"{"a":1,"b\"":"x","c":{}}"#),
            (r#"{"\u0061":2}"#, r#"{"b\"":"x","\u0061":2}"#),
            (r#"{"a":2,"b\"":3}"#, r#"{"a":2,"b\"":3}"#),
            ("[1]", "[1]"),
            ("null", "null"),
        ] {
            assert_eq!(completed(text.as_bytes(), DEFAULTS), expected.as_bytes(), "{text}");
        }
    }

    #[test]
    fn only_strings_have_a_text() {
        assert_eq!(string(br#""a\"b""#).unwrap(), "a\"b");
        assert_eq!(string(b"1"), None);
        assert_eq!(string(b"\""), None);
    }
}
