//! Names with any characters as tokens: base32 behind `x-`.

use super::is_token_character;

const PREFIX: &str = "x-";
/// The alphabet of RFC 4648, section 6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Returns the name as a token of a subject: the name itself if it is a token that does not begin with
/// `x-`, otherwise `x-` and the name in base32 (RFC 4648 in lower case, without padding).
///
/// ```
/// use tieline_bus::{decode_token, encode_token};
///
/// assert_eq!(encode_token("changed"), "changed");
/// let token = encode_token("tools/call");
/// assert_eq!(token, "x-orxw63dtf5rwc3dm");
/// assert_eq!(decode_token(&token).as_deref(), Some("tools/call"));
/// ```
pub fn encode_token(name: &str) -> String {
    let is_token = !name.is_empty() && name.chars().all(is_token_character);
    if is_token && !name.starts_with(PREFIX) {
        return name.to_owned();
    }
    let mut token = PREFIX.to_owned();
    for chunk in name.as_bytes().chunks(5) {
        let bits = chunk.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let bits = bits << (8 * (5 - chunk.len()));
        for place in 0..(chunk.len() * 8).div_ceil(5) {
            let index = bits >> (35 - 5 * place) & 31;
            token.extend(ALPHABET.get(index as usize).map(|it| char::from(*it)));
        }
    }
    token
}

/// Returns the name that [`encode_token`] has turned into this token. Returns `None` if the token begins
/// with `x-`, but is not the encoding of a name.
pub fn decode_token(token: &str) -> Option<String> {
    let Some(encoded) = token.strip_prefix(PREFIX) else { return Some(token.to_owned()) };
    let (mut name, mut bits, mut length) = (Vec::new(), 0_u64, 0);
    for character in encoded.bytes() {
        let value = ALPHABET.iter().position(|it| *it == character)?;
        bits = (bits << 5 | value as u64) & 0xfff;
        length += 5;
        if length >= 8 {
            length -= 8;
            name.push((bits >> length) as u8);
        }
    }
    let name = String::from_utf8(name).ok()?;
    // There is one encoding of each name, so that equal names have equal subjects.
    (encode_token(&name) == token).then_some(name)
}
