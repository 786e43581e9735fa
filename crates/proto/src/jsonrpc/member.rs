//! The members of a JSON object.

use std::borrow::Cow;

use crate::json::{Limits, Scanner};

/// Returns the value of the member `name` of a JSON object, as it was written.
pub fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut scanner = Scanner::new(object, Limits::default()).ok()?;
    let mut first = true;
    if !scanner.enter(b'{').ok()? {
        return None;
    }
    while let Some(key) = scanner.next_key(first).ok()? {
        first = false;
        let value = scanner.value().ok()?;
        if *key == *name.as_bytes() {
            return object.get(value);
        }
    }
    None
}

/// Returns the names and values of a JSON object, in order; the values as they were written. `None` if it is not
/// an object.
pub fn members(object: &[u8]) -> Option<Vec<(Cow<'_, str>, &[u8])>> {
    let mut scanner = Scanner::new(object, Limits::default()).ok()?;
    let mut members = Vec::new();
    if !scanner.enter(b'{').ok()? {
        return None;
    }
    while let Some(key) = scanner.next_key(members.is_empty()).ok()? {
        let name = match key {
            Cow::Borrowed(name) => String::from_utf8_lossy(name),
            Cow::Owned(name) => String::from_utf8_lossy(&name).into_owned().into(),
        };
        members.push((name, object.get(scanner.value().ok()?)?));
    }
    Some(members)
}

/// Returns the offset of `part`, a slice of `whole`.
pub(super) fn offset(whole: &[u8], part: &[u8]) -> Option<usize> {
    part.as_ptr().addr().checked_sub(whole.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_listed_in_order_with_their_text() {
        let object = br#" {"a" : 1.50,"\u0062":{"c":[2]},"a":null} "#;
        let expected = [("a", "1.50"), ("b", r#"{"c":[2]}"#), ("a", "null")];
        let found = members(object).unwrap();
        let found: Vec<_> =
            found.iter().map(|(name, it)| (&**name, std::str::from_utf8(it).unwrap())).collect();
        assert_eq!(found, expected);
        assert_eq!(members(b"{}"), Some(Vec::new()));
        for text in ["[]", "1", "", "{\"a\"}", "{\"a\":1"] {
            assert_eq!(members(text.as_bytes()), None, "{text}");
        }
    }
}
