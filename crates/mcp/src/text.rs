//! Reads JSON strings.

use std::borrow::Cow;

use tieline_proto::json::unescape;

/// Returns the text of a JSON string, or `None` if the value is not a string.
pub(crate) fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(value).ok()?;
    Some(unescape(text.strip_prefix('"')?.strip_suffix('"')?))
}
