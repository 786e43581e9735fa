//! One member of a JSON object.

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

/// Returns the offset of `part`, a slice of `whole`.
pub(super) fn offset(whole: &[u8], part: &[u8]) -> Option<usize> {
    part.as_ptr().addr().checked_sub(whole.as_ptr().addr())
}
