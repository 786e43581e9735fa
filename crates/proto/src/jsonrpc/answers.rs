//! Which pending call a message settles, also when the message is not quite a valid response.
//!
//! Rules, from strict to loose: a message that carries the id of a pending call and has no string
//! `method` settles that call; an id that is written differently (`"1"` or `1.0` for `1`) counts if
//! exactly one pending call fits; an error without an id, or with a null id, settles the only pending
//! call. Of text that cannot be parsed, or of which only the beginning is known, the top-level members
//! are looked at without building or validating anything.

use std::borrow::Cow;

use super::{Invalid, InvalidProblem, Outline, Response};
use crate::json::unescape;

/// Which call a message answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers<'a> {
    /// The call with this id, as the id was written.
    Call(&'a [u8]),
    /// The only pending call, if there is exactly one: the message names none.
    OnlyCall,
}

impl Answers<'_> {
    /// The key of the one call of `pending`, given as keys and ids, that is answered. `None`: no call
    /// fits, or more than one.
    ///
    /// Takes time linear in the number of pending calls: look for the exact id in a map first.
    pub fn find<K, I: AsRef<[u8]>>(self, pending: impl IntoIterator<Item = (K, I)>) -> Option<K> {
        let exact = match self {
            Self::Call(id) => id,
            Self::OnlyCall => b"null",
        };
        let loose = meaning(exact);
        let mut found = None;
        let mut is_ambiguous = false;
        for (key, id) in pending {
            let id = id.as_ref();
            if id == exact {
                return Some(key);
            }
            if self == Self::OnlyCall || meaning(id) == loose {
                is_ambiguous |= found.replace(key).is_some();
            }
        }
        found.filter(|_| !is_ambiguous)
    }
}

impl Response {
    /// Which call it answers. A result is always for the id that it has; an error with a null id, or
    /// none, is for the only pending call.
    pub fn answers(&self) -> Answers<'_> {
        match (self.id(), self.outcome()) {
            (b"null", Err(_)) => Answers::OnlyCall,
            (id, _) => Answers::Call(id),
        }
    }
}

impl Invalid {
    /// Which calls it answers, as far as that can be told; empty if it is no answer. A batch that is
    /// not accepted as one may answer several.
    pub fn answers(&self) -> Vec<Answers<'_>> {
        match self.problem {
            InvalidProblem::Json(_) | InvalidProblem::NoBatches | InvalidProblem::LongBatch => {
                answers_in_text(&self.message, false)
            }
            _ if self.has_method => Vec::new(),
            _ => match self.id() {
                b"null" if self.is_response => vec![Answers::OnlyCall],
                b"null" => Vec::new(),
                id => vec![Answers::Call(id)],
            },
        }
    }
}

/// Which calls a text answers that could not be parsed, as far as its [`Outline`] tells.
///
/// With `is_cut`, `text` is only the beginning of the message, as much as was kept of it. Text that does
/// not begin like a JSON object or array, as a banner or a line of a log, answers nothing.
pub fn answers_in_text(text: &[u8], is_cut: bool) -> Vec<Answers<'_>> {
    let answered = Outline::all(text).into_iter().filter_map(|outline| {
        let may_go_on = is_cut && !outline.is_complete();
        // Parameters without a method are those of a request whose method is still to come.
        if outline.is_call() || (may_go_on && !outline.may_be_answer()) {
            return None;
        }
        match outline.id() {
            Some(id) => Some(Answers::Call(id)),
            None => (outline.has_outcome() || may_go_on).then_some(Answers::OnlyCall),
        }
    });
    answered.collect()
}

/// What an id means apart from how it is written: `1`, `1.0`, `1e0` and `"1"` mean the same.
fn meaning(id: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(id).unwrap_or_default();
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        None => Cow::Borrowed(integer(text).as_bytes()),
        Some(string) => match unescape(string) {
            Cow::Borrowed(string) => Cow::Borrowed(integer(string).as_bytes()),
            Cow::Owned(string) => Cow::Owned(integer(&string).as_bytes().to_vec()),
        },
    }
}

/// A number without a fraction and an exponent that say nothing; any other text as it is.
fn integer(text: &str) -> &str {
    let is_zero = |digits: &str| !digits.is_empty() && digits.bytes().all(|it| it == b'0');
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let is_integer = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    match is_integer && is_zero(fraction) && is_zero(exponent.trim_start_matches(['+', '-'])) {
        true => whole,
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::Answers::{Call, OnlyCall};
    use super::*;

    #[test]
    fn exact_ids_come_first_and_loose_ones_only_if_one_fits() {
        let pending = |ids: &[&'static str]| ids.iter().map(|id| (*id, *id)).collect::<Vec<_>>();
        for (answer, ids, expected) in [
            (Call(b"1"), &["1", "\"1\""][..], Some("1")),
            (Call(b"\"1\""), &["1", "\"1\""], Some("\"1\"")),
            (Call(b"\"1\""), &["1", "2"], Some("1")),
            (Call(b"1.0"), &["1", "2"], Some("1")),
            (Call(b"1.00e+0"), &["1"], Some("1")),
            (Call(b"1.0"), &["1", "\"1\""], None),
            (Call(b"1"), &["\"1.0\"", "\"\\u0031\""], None),
            (Call(b"1"), &["\"\\u0031\"", "2"], Some("\"\\u0031\"")),
            (Call(b"-7.0"), &["7", "-7"], Some("-7")),
            (Call(b"\"a\\u0062\""), &["\"ab\""], Some("\"ab\"")),
            (Call(b"10"), &["1"], None),
            (Call(b"1.5"), &["1"], None),
            (Call(b"1e1"), &["1"], None),
            (Call(b"3"), &["1"], None),
            (OnlyCall, &["1"], Some("1")),
            (OnlyCall, &["1", "2"], None),
            (OnlyCall, &["1", "null"], Some("null")),
            (OnlyCall, &[], None),
        ] {
            assert_eq!(answer.find(pending(ids)), expected, "{answer:?} {ids:?}");
        }
    }

    #[test]
    fn what_cannot_be_parsed_answers_what_its_members_say() {
        for (text, whole, cut) in [
            (
                &br#"{"jsonrpc":"2.0","id":1,"result":"caf"#[..],
                &[Call(b"1")][..],
                &[Call(b"1")][..],
            ),
            (b"{\"id\":1,\"result\":\"caf\xe9\"}", &[Call(b"1")], &[Call(b"1")]),
            (b"\x1e{\"id\":1,\"result\":5}", &[Call(b"1")], &[Call(b"1")]),
            (b"\xef\xbb\xbf{\"id\":1,\"result\":5}", &[Call(b"1")], &[Call(b"1")]),
            (b"{\"id\":1,\"result\":5}\0", &[Call(b"1")], &[Call(b"1")]),
            (
                br#"{"result":{"id":9,"x":[{"a":"}"}]},"id":"a\"b","#,
                &[Call(br#""a\"b""#)],
                &[Call(br#""a\"b""#)],
            ),
            (br#"{"result":"long"#, &[OnlyCall], &[OnlyCall]),
            (br#"{"error":{"message":"long"#, &[OnlyCall], &[OnlyCall]),
            // The rest may be an answer, or not.
            (br#"{"jsonrpc":"2.0","meta":"long"#, &[], &[OnlyCall]),
            (b"{", &[], &[OnlyCall]),
            // A number that was cut may have more digits.
            (br#"{"id":12"#, &[], &[OnlyCall]),
            (br#"{"id":"12"#, &[], &[OnlyCall]),
            (br#"{"id":null,"result":1,}"#, &[OnlyCall], &[OnlyCall]),
            // Requests and notifications.
            (br#"{"id":1,"method":"m","params":["#, &[], &[]),
            (br#"{"method":"m","params":["#, &[], &[]),
            (br#"{"id":1,"params":["#, &[Call(b"1")], &[]),
            (br#"{"id":1,"method":null,"result":1,}"#, &[Call(b"1")], &[Call(b"1")]),
            // Batches, and several in one line.
            (
                br#"[{"id":1,"result":1},{"id":2,"result":"long"#,
                &[Call(b"1"), Call(b"2")],
                &[Call(b"1"), Call(b"2")],
            ),
            (br#"{"method":"n"}{"id":1,"result":5}"#, &[Call(b"1")], &[Call(b"1")]),
            // Not JSON-RPC at all.
            (b"Welcome to my server {\"id\":1,\"result\":5}", &[], &[]),
            (b"DEBUG: \"id\":1", &[], &[]),
            (b"{ id: 1, result: 5 }", &[], &[OnlyCall]),
            (b"", &[], &[]),
            (b"[[[[", &[], &[]),
        ] {
            let shown = text.escape_ascii();
            assert_eq!(answers_in_text(text, false), whole, "{shown}");
            assert_eq!(answers_in_text(text, true), cut, "{shown}, cut");
        }
    }
}
