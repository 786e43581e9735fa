//! Which pending call a message settles, also when the message is not quite a valid response.
//!
//! Rules, from strict to loose: a message that carries the id of a pending call and has no string
//! `method` settles that call; an id that is written differently (`"1"` or `1.0` for `1`) counts if
//! exactly one pending call fits; an error without an id, or with a null id, settles the only pending
//! call. Of text that cannot be parsed, or of which only the beginning is known, the top-level members
//! are looked at without building or validating anything.

use std::borrow::Cow;

use super::{Invalid, InvalidProblem, MAX_BATCH, MAX_ID, Response};
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

/// Which calls a text answers that could not be parsed, as far as its top-level members tell.
///
/// With `is_cut`, `text` is only the beginning of the message, as much as was kept of it. Text that does
/// not begin like a JSON object or array, as a banner or a line of a debug log, answers nothing.
pub fn answers_in_text(text: &[u8], is_cut: bool) -> Vec<Answers<'_>> {
    let objects = Skimmed::all(text, is_cut);
    let answered = objects.into_iter().filter_map(|object| object.answers(is_cut));
    answered.collect()
}

/// The id of the request whose beginning this is, if it surely is one: it has a string `method`.
pub fn request_in_text(text: &[u8]) -> Option<&[u8]> {
    match Skimmed::all(text, true).first()? {
        Skimmed { id, has_method: true, .. } => *id,
        _ => None,
    }
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

/// What the top-level members of an object say, without a look at whether it is valid.
#[derive(Default)]
struct Skimmed<'a> {
    id: Option<&'a [u8]>,
    /// `method` is a string.
    has_method: bool,
    has_params: bool,
    /// There is a `result` or an `error`.
    has_outcome: bool,
    /// Its closing brace was seen.
    is_closed: bool,
}

impl<'a> Skimmed<'a> {
    /// The objects at the beginning of `text`: one, those of a batch, or several behind each other.
    fn all(text: &'a [u8], is_cut: bool) -> Vec<Self> {
        // A byte order mark, a record separator (RFC 7464) or an escape character is none of the message.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut rest = Cursor { text };
        let mut objects = Vec::new();
        rest.skip_while(|byte| byte <= b' ');
        if rest.peek() == Some(b'[') {
            rest.next();
        }
        while objects.len() < MAX_BATCH {
            rest.skip_while(|byte| byte <= b' ' || byte == b',');
            if rest.peek() != Some(b'{') {
                break;
            }
            rest.next();
            objects.push(Self::one(&mut rest, is_cut));
        }
        objects
    }

    fn one(rest: &mut Cursor<'a>, is_cut: bool) -> Self {
        let mut object = Self::default();
        loop {
            rest.skip_while(|byte| byte <= b' ' || byte == b',');
            match rest.peek() {
                Some(b'"') => {}
                Some(b'}') => {
                    rest.next();
                    object.is_closed = true;
                    return object;
                }
                _ => return object,
            }
            let Some(key) = rest.string() else { return object };
            rest.skip_while(|byte| byte <= b' ');
            if rest.next() != Some(b':') {
                return object;
            }
            rest.skip_while(|byte| byte <= b' ');
            let first = rest.peek();
            let value = rest.value();
            // A number at the end of what was kept may have more digits.
            let is_whole = value.is_some() && !(is_cut && rest.text.is_empty());
            match key {
                b"\"id\"" => {
                    let id = value.filter(|id| is_whole && is_id(id));
                    object.id = object.id.or(id);
                }
                b"\"method\"" => object.has_method |= first == Some(b'"'),
                b"\"params\"" => object.has_params = true,
                b"\"result\"" | b"\"error\"" => object.has_outcome = true,
                _ => {}
            }
            if value.is_none() {
                return object;
            }
        }
    }

    fn answers(self, is_cut: bool) -> Option<Answers<'a>> {
        let may_go_on = is_cut && !self.is_closed;
        if self.has_method || (self.has_params && may_go_on) {
            return None;
        }
        match self.id {
            Some(id) => Some(Answers::Call(id)),
            None => (self.has_outcome || may_go_on).then_some(Answers::OnlyCall),
        }
    }
}

fn is_id(value: &[u8]) -> bool {
    value.len() <= MAX_ID && matches!(value.first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

/// The rest of a text that may be anything.
struct Cursor<'a> {
    text: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.text.split_first()?;
        self.text = rest;
        Some(*first)
    }

    fn skip_while(&mut self, skipped: impl Fn(u8) -> bool) {
        let end = self.text.iter().position(|byte| !skipped(*byte));
        self.take(end.unwrap_or(self.text.len()));
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.text.split_at_checked(length).unwrap_or((self.text, b""));
        self.text = rest;
        taken
    }

    /// A string with its quotes; `None` if it does not end.
    fn string(&mut self) -> Option<&'a [u8]> {
        let mut is_escaped = false;
        let end = self.text.iter().skip(1).position(|byte| {
            let is_end = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            is_end
        });
        match end {
            Some(end) => Some(self.take(end + 2)),
            None => {
                self.text = b"";
                None
            }
        }
    }

    /// A value of any kind; `None` if it does not end.
    fn value(&mut self) -> Option<&'a [u8]> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' | b'[' => self.nested(),
            _ => {
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']') || *byte <= b' ';
                let end = self.text.iter().position(is_end);
                Some(self.take(end.unwrap_or(self.text.len())))
            }
        }
    }

    fn nested(&mut self) -> Option<&'a [u8]> {
        let whole = self.text;
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.next();
            if depth == 0 {
                return whole.get(..whole.len() - self.text.len());
            }
        }
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
            (br#"{"id":12"#, &[Call(b"12")], &[OnlyCall]),
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

    #[test]
    fn a_request_is_recognized_by_its_beginning() {
        for (text, id) in [
            (&br#"{"id":7,"method":"m","params":["#[..], Some(&b"7"[..])),
            (br#"{"method":"m","id":"x","params":"#, Some(br#""x""#)),
            (br#"{"method":"m","params":["#, None),
            (br#"{"id":7,"result":"#, None),
            (br#"{"id":7"#, None),
        ] {
            assert_eq!(request_in_text(text), id, "{}", text.escape_ascii());
        }
    }
}
