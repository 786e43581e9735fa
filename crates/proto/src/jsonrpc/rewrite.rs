//! Replacing single values in a message. All other bytes are kept unchanged, and no JSON values are
//! built.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use super::member::offset;
use super::{Dialect, Notification, Request, Response, write_response};
use crate::json::{JsonError, Limits, Scanner};

/// The error for a member that appears twice. Parsers disagree about which of the two is valid, so
/// neither may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoubledMember;

impl fmt::Display for DoubledMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member appears twice")
    }
}

impl std::error::Error for DoubledMember {}

/// Returns the value at `path` in `object`, as it was written. Returns `None` if there is none, or if a
/// value on the path is not an object.
///
/// ```
/// use tieline_proto::jsonrpc::locate;
///
/// let params = br#"{"_meta":{"progressToken":"a"}}"#;
/// assert_eq!(locate(params, &["_meta", "progressToken"]), Ok(Some(&br#""a""#[..])));
/// ```
///
/// # Errors
/// A member on the path appears twice.
pub fn locate<'a>(object: &'a [u8], path: &[&str]) -> Result<Option<&'a [u8]>, DoubledMember> {
    let found =
        Scanner::new(object, Limits::default()).and_then(|mut scanner| walk(&mut scanner, path));
    match found {
        Ok(Found::At(range)) => Ok(object.get(range)),
        // Text that is not JSON was refused when the message was classified.
        Ok(Found::Nothing) | Err(_) => Ok(None),
        Ok(Found::Doubled) => Err(DoubledMember),
    }
}

enum Found {
    Nothing,
    At(Range<usize>),
    Doubled,
}

fn walk(scanner: &mut Scanner<'_>, path: &[&str]) -> Result<Found, JsonError> {
    let Some((name, rest)) = path.split_first() else {
        return Ok(Found::At(scanner.value()?));
    };
    if !scanner.enter(b'{')? {
        scanner.value()?;
        return Ok(Found::Nothing);
    }
    let (mut found, mut is_first, mut was_there) = (Found::Nothing, true, false);
    while let Some(key) = scanner.next_key(is_first)? {
        is_first = false;
        if *key != *name.as_bytes() {
            scanner.value()?;
        } else if std::mem::replace(&mut was_there, true) {
            scanner.value()?;
            found = Found::Doubled;
        } else {
            found = walk(scanner, rest)?;
        }
    }
    Ok(found)
}

/// Returns the messages of a batch, each as a slice of the batch. Returns `None` if `message` is not a
/// JSON array.
pub fn elements(message: &Bytes) -> Option<Vec<Bytes>> {
    let mut scanner = Scanner::new(message, Limits::default()).ok()?;
    let mut elements = Vec::new();
    if !scanner.enter(b'[').ok()? {
        return None;
    }
    while scanner.next_element(elements.is_empty()).ok()? {
        let element = scanner.value().ok()?;
        elements.push(message.slice(element));
    }
    Some(elements)
}

impl Request {
    /// Returns the message with another id and, if `change` is given, with `change.0` replaced by
    /// `change.1`. `change.0` is a slice of the message, as returned by [`locate`]. All values are raw
    /// JSON.
    ///
    /// The request must not be part of a batch.
    pub fn rewritten(&self, id: &[u8], change: Option<(&[u8], &[u8])>) -> Bytes {
        replaced(&self.message, [Some((self.id(), id)), change])
    }
}

impl Notification {
    /// Returns the message with `part`, a slice of it, replaced by other raw JSON.
    ///
    /// The notification must not be part of a batch.
    pub fn rewritten(&self, part: &[u8], other: &[u8]) -> Bytes {
        replaced(&self.message, [Some((part, other)), None])
    }
}

impl Response {
    /// Returns the message with another id and, if `change` is given, with a part of it replaced, like
    /// [`Request::rewritten`]. A response without an id receives one.
    ///
    /// The response must not be part of a batch.
    pub fn rewritten(&self, dialect: &Dialect, id: &[u8], change: Option<(&[u8], &[u8])>) -> Bytes {
        match self.id {
            Some(old) => replaced(&self.message, [Some((old.of(&self.message), id)), change]),
            None => write_response(dialect, id, self.outcome()).into(),
        }
    }
}

/// Replaces parts of `message` that do not overlap. A slice that is not part of the message is ignored.
fn replaced(message: &[u8], changes: [Option<(&[u8], &[u8])>; 2]) -> Bytes {
    let mut changes = changes.map(|change| {
        let (part, other) = change?;
        let start = offset(message, part)?;
        Some((start, start + part.len(), other))
    });
    changes.sort_unstable_by_key(|change| change.map_or(usize::MAX, |(start, ..)| start));
    let longer: usize = changes.iter().flatten().map(|(.., other)| other.len()).sum();
    let mut written = Vec::with_capacity(message.len() + longer);
    let mut done = 0;
    for (start, end, other) in changes.into_iter().flatten() {
        if let (Some(before), true) = (message.get(done..start), end <= message.len()) {
            written.extend_from_slice(before);
            written.extend_from_slice(other);
            done = end;
        }
    }
    written.extend_from_slice(message.get(done..).unwrap_or_default());
    written.into()
}

#[cfg(test)]
mod tests {
    use super::super::{Message, classify};
    use super::*;

    fn request(text: &'static str) -> Request {
        match classify(text.into(), &Dialect::MCP, Limits::default()) {
            Message::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn path_is_found_unless_a_member_on_it_is_doubled() {
        const PATH: [&str; 2] = ["_meta", "progressToken"];
        for (params, expected) in [
            ("{}", Ok(None)),
            ("[1]", Ok(None)),
            (r#"{"_meta":null}"#, Ok(None)),
            (r#"{"_meta":{"a":1},"b":{"progressToken":2}}"#, Ok(None)),
            (r#"{"a":[{"_meta":1}],"_meta" : { "progressToken" : 7 } }"#, Ok(Some("7"))),
            (r#"{"\u005fmeta":{"progressT\u006fken":"x\"y"}}"#, Ok(Some(r#""x\"y""#))),
            (r#"{"_meta":{"progressToken":{"a":[1]}}}"#, Ok(Some(r#"{"a":[1]}"#))),
            (r#"{"_meta":{"progressToken":1,"progressToken":2}}"#, Err(DoubledMember)),
            (r#"{"_meta":{"progressToken":1},"_meta":{}}"#, Err(DoubledMember)),
            (r#"{"_meta":{},"\u005fmeta":{"progressToken":1}}"#, Err(DoubledMember)),
        ] {
            let found = locate(params.as_bytes(), &PATH);
            assert_eq!(found, expected.map(|it| it.map(str::as_bytes)), "{params}");
        }
    }

    #[test]
    fn only_the_named_values_are_replaced() {
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0", "id" : "a" ,"method":"m","params":{"_meta":{"progressToken":"a"},"x":"é"},"y":1}"#,
                r#"{"jsonrpc":"2.0", "id" : 17 ,"method":"m","params":{"_meta":{"progressToken":17},"x":"é"},"y":1}"#,
            ),
            (
                r#"{"params":{"_meta":{"progressToken":1}},"method":"m","id":1.50,"jsonrpc":"2.0"}"#,
                r#"{"params":{"_meta":{"progressToken":17}},"method":"m","id":17,"jsonrpc":"2.0"}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":9007199254740993,"method":"m"}"#,
                r#"{"jsonrpc":"2.0","id":17,"method":"m"}"#,
            ),
        ] {
            let request = request(text);
            let token = request
                .params()
                .and_then(|params| locate(params, &["_meta", "progressToken"]).unwrap_or_default());
            let written = request.rewritten(b"17", token.map(|token| (token, &b"17"[..])));
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn part_of_another_message_is_not_replaced() {
        let request = request(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#);
        let other = vec![b'x'; 100];
        let written = request.rewritten(b"2", Some((&other, b"y")));
        assert_eq!(written, r#"{"jsonrpc":"2.0","id":2,"method":"m"}"#);
    }

    #[test]
    fn response_gets_the_id_and_keeps_the_rest() {
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","result":{"id":3},"id":3}"#,
                r#"{"jsonrpc":"2.0","result":{"id":3},"id":"\u0061"}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#,
                r#"{"jsonrpc":"2.0","id":"\u0061","error":{"code":1,"message":"x"}}"#,
            ),
        ] {
            let Message::Response(response) =
                classify(text.into(), &Dialect::MCP, Limits::default())
            else {
                panic!("{text}")
            };
            assert_eq!(response.rewritten(&Dialect::MCP, br#""\u0061""#, None), expected);
        }
    }

    #[test]
    fn batch_is_cut_into_its_messages() {
        let batch = Bytes::from_static(b" [ {\"a\":[1]} , 2 ,[]] ");
        assert_eq!(elements(&batch).unwrap(), ["{\"a\":[1]}", "2", "[]"]);
        assert_eq!(elements(&Bytes::from_static(b"[]")).unwrap(), Vec::<Bytes>::new());
        assert_eq!(elements(&Bytes::from_static(b"{}")), None);
    }
}
