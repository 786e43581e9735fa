//! `%XX` in the path of a Unix socket, for arbitrary bytes (RFC 3986, section 2.1).

use std::ffi::OsString;
use std::fmt;

use super::invalid::invalid;
use crate::error::TransportError;

/// Writes UTF-8 unchanged, and control characters, `%`, `?` and all other bytes as `%XX`.
pub(super) fn write(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || matches!(character, '%' | '?') {
                let mut utf8 = [0; 4];
                escape(f, character.encode_utf8(&mut utf8).as_bytes())?;
            } else {
                fmt::Write::write_char(f, character)?;
            }
        }
        escape(f, chunk.invalid())?;
    }
    Ok(())
}

fn escape(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
}

pub(super) fn decode(text: &str) -> Result<OsString, TransportError> {
    let bytes = percent_decoded(text.as_bytes()).ok_or_else(|| {
        let problem = "`%` is not followed by two hexadecimal digits".into();
        invalid(problem, "write a percent sign as %25")
    })?;
    from_bytes(bytes)
}

/// Replaces each `%XX` with the byte for which it stands. Returns `None` if a `%` is not followed by two
/// hexadecimal digits.
pub fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let (&[high, low], after) = rest.split_first_chunk::<2>()?;
        decoded.push(hex(high)? << 4 | hex(low)?);
        rest = after;
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|value| value.try_into().ok())
}

#[cfg(unix)]
fn from_bytes(bytes: Vec<u8>) -> Result<OsString, TransportError> {
    use std::os::unix::ffi::OsStringExt;
    Ok(OsString::from_vec(bytes))
}

#[cfg(not(unix))]
fn from_bytes(bytes: Vec<u8>) -> Result<OsString, TransportError> {
    let text = String::from_utf8(bytes);
    text.map(Into::into).map_err(|_| invalid("the path is not UTF-8".into(), ""))
}
