//! Finding the pending calls that messages answer, even if the messages are not valid responses.
//!
//! These are the rules, from strict to loose. A message with the id of a pending call and no string
//! `method` answers that call. An id that is written differently (`"1"` or `1.0` for `1`) also matches
//! if it fits exactly one pending call. An error without an id, or with a null id, answers the only
//! pending call. If the text cannot be parsed, or only its beginning is known, its top-level members are
//! read without validation.

use std::borrow::Cow;

use super::{Invalid, InvalidProblem, Outline, Response};
use crate::json::unescape;

/// The call that a message answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers<'a> {
    /// The call with this id, as written in the message.
    Call(&'a [u8]),
    /// The only pending call, if there is exactly one: the message has no id.
    OnlyCall,
}

impl Answers<'_> {
    /// Returns the key of the answered call among `pending`, an iterator of keys and ids. Returns `None`
    /// if no call or more than one call matches.
    ///
    /// Takes time linear in the number of pending calls, so look up the exact id in a map first.
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
    /// Returns which call the response answers. A result always answers the call with its id; an error with a
    /// null id, or without an id, answers the only pending call.
    pub fn answers(&self) -> Answers<'_> {
        match (self.id(), self.outcome()) {
            (b"null", Err(_)) => Answers::OnlyCall,
            (id, _) => Answers::Call(id),
        }
    }
}

impl Invalid {
    /// Returns the calls that the message answers, as far as they can be determined. The result is empty
    /// if the message is not a response. A batch that is not accepted may answer several calls.
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

/// How many bytes of an invalid response are shown.
const SHOWN: usize = 200;

impl Invalid {
    /// Returns the text of the error that a client receives in place of this response of a program. It
    /// contains the problem and the beginning of the response.
    pub fn instead_of_response(&self) -> String {
        let problem = self.response_problem();
        let shown = self.message.get(..SHOWN).unwrap_or(&self.message);
        let shown = String::from_utf8_lossy(shown);
        format!("the program's response is not valid: {problem}; received: {shown:?}")
    }
}

/// Returns the calls that are answered by a text that could not be parsed, based on its [`Outline`].
///
/// With `is_cut`, `text` is only the beginning of the message. Text that does not begin like a JSON object or
/// array, such as a banner or a log line, answers no call.
pub fn answers_in_text(text: &[u8], is_cut: bool) -> Vec<Answers<'_>> {
    let answered = Outline::all(text).into_iter().filter_map(|outline| {
        let may_go_on = is_cut && !outline.is_complete();
        // Parameters without a method belong to a request whose method was cut off.
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

/// Normalizes an id: `1`, `1.0`, `1e0` and `"1"` are the same.
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

/// Removes a zero fraction and a zero exponent from a number. Any other text is returned unchanged.
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
    fn exact_id_takes_precedence_and_a_loose_one_must_be_unique() {
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
    fn text_that_cannot_be_parsed_answers_the_call_that_its_members_name() {
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
            // The missing rest may make it a response.
            (br#"{"jsonrpc":"2.0","meta":"long"#, &[], &[OnlyCall]),
            (b"{", &[], &[OnlyCall]),
            // An id that was cut off may be longer.
            (br#"{"id":12"#, &[], &[OnlyCall]),
            (br#"{"id":"12"#, &[], &[OnlyCall]),
            (br#"{"id":null,"result":1,}"#, &[OnlyCall], &[OnlyCall]),
            // Requests and notifications.
            (br#"{"id":1,"method":"m","params":["#, &[], &[]),
            (br#"{"method":"m","params":["#, &[], &[]),
            (br#"{"id":1,"params":["#, &[Call(b"1")], &[]),
            (br#"{"id":1,"method":null,"result":1,}"#, &[Call(b"1")], &[Call(b"1")]),
            // Batches, and several messages in one line.
            (
                br#"[{"id":1,"result":1},{"id":2,"result":"long"#,
                &[Call(b"1"), Call(b"2")],
                &[Call(b"1"), Call(b"2")],
            ),
            (br#"{"method":"n"}{"id":1,"result":5}"#, &[Call(b"1")], &[Call(b"1")]),
            // Texts that are not JSON-RPC.
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
