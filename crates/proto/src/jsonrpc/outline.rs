//! Reading the members of a message that is damaged, too long or truncated, as far as possible.

/// The members that determine a message's kind and the call to which it belongs, as far as they can be
/// read.
///
/// Unlike [`classify`](super::classify()), this accepts any bytes. The text may be truncated or invalid
/// UTF-8, may be nested to any depth, and may contain duplicate members, of which the last one is used,
/// as in most parsers. It is used to fail a call whose response was lost. Reading takes time linear in
/// the length, and allocates nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outline<'a> {
    id: Option<&'a [u8]>,
    method: Option<&'a [u8]>,
    has_params: bool,
    has_outcome: bool,
    is_object: bool,
    is_complete: bool,
}

impl<'a> Outline<'a> {
    /// Reads as much of `message` as possible.
    pub fn of(message: &'a [u8]) -> Self {
        let mut reader = Reader { rest: message };
        reader.skip_space();
        Self::read(&mut reader)
    }

    /// Reads the objects at the beginning of `text`: the messages of a batch, or several messages in one
    /// line, up to [`MAX_BATCH`](super::MAX_BATCH). Skips a byte order mark and control characters
    /// before them, such as the record separator of RFC 7464. The result is empty if `text` begins with
    /// other text, such as a banner or a log line.
    pub fn all(text: &'a [u8]) -> Vec<Self> {
        let mut reader = Reader { rest: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) };
        let mut outlines = Vec::new();
        reader.skip_control();
        reader.eat(b'[');
        while outlines.len() < super::MAX_BATCH {
            reader.skip_control();
            reader.eat(b',');
            reader.skip_control();
            let outline = Self::read(&mut reader);
            if !outline.is_object {
                break;
            }
            outlines.push(outline);
        }
        outlines
    }

    fn read(reader: &mut Reader<'a>) -> Self {
        let mut outline = Self { is_object: reader.eat(b'{'), ..Self::default() };
        if outline.is_object {
            while outline.read_member(reader).is_some() {}
            reader.skip_space();
            outline.is_complete = reader.eat(b'}');
        }
        outline
    }

    fn read_member(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        reader.skip_space();
        reader.eat(b',');
        reader.skip_space();
        let name = reader.string()?;
        reader.skip_space();
        if !reader.eat(b':') {
            return None;
        }
        reader.skip_space();
        // The beginning of a value is enough to know that the member exists.
        match name {
            b"\"params\"" => self.has_params = true,
            b"\"result\"" | b"\"error\"" => self.has_outcome = true,
            b"\"method\"" if reader.rest.starts_with(b"\"") => self.method = Some(b""),
            _ => {}
        }
        let value = reader.value()?;
        match name {
            b"\"id\"" if matches!(value.first(), Some(b'"' | b'-' | b'0'..=b'9')) => {
                self.id = Some(value).filter(|id| id.len() <= super::MAX_ID);
            }
            b"\"method\"" => {
                self.method = value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\""));
            }
            _ => {}
        }
        Some(())
    }

    /// Returns the id as it was written, if it is a complete string or number of at most
    /// [`MAX_ID`](super::MAX_ID) bytes.
    pub fn id(&self) -> Option<&'a [u8]> {
        self.id
    }

    /// Returns whether the message is an object, or begins like one.
    pub fn is_object(&self) -> bool {
        self.is_object
    }

    /// Returns whether the closing brace was found.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns whether the message has a `result` or an `error`, or the beginning of one.
    pub fn has_outcome(&self) -> bool {
        self.has_outcome
    }

    /// Returns whether the message is a request or a notification: it has a string `method`.
    pub fn is_call(&self) -> bool {
        self.method.is_some()
    }

    /// Returns whether the message may be a response: an object without a string `method`, and without
    /// `params` unless it also has a `result` or an `error`.
    pub fn may_be_answer(&self) -> bool {
        self.is_object && !self.is_call() && (self.has_outcome || !self.has_params)
    }
}

/// A position in bytes that may be JSON.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn skip_control(&mut self) {
        let end = self.rest.iter().position(|byte| *byte > b' ');
        self.rest = self.rest.get(end.unwrap_or(self.rest.len())..).unwrap_or_default();
    }

    fn eat(&mut self, byte: u8) -> bool {
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    /// Takes a string with its quotes. Returns `None` if there is no string or its end is missing.
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = string_length(self.rest)?;
        self.take(length)
    }

    /// Takes a value. Returns `None` if its end is missing.
    fn value(&mut self) -> Option<&'a [u8]> {
        match self.rest.first()? {
            b'"' => self.string(),
            b'{' | b'[' => self.skip_container().map(|()| &b""[..]),
            _ => {
                let is_end =
                    |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                let length = self.rest.iter().position(is_end)?;
                self.take(length)
            }
        }
    }

    /// Skips an object or an array by counting brackets of both kinds, which is enough if it is well-formed.
    fn skip_container(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            let at =
                self.rest.iter().position(|it| matches!(it, b'"' | b'{' | b'[' | b'}' | b']'))?;
            self.take(at)?;
            match self.rest.first()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                _ => depth -= 1,
            }
            self.take(1)?;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// Returns the length of the string at the beginning of `text`, including its quotes.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    text.strip_prefix(b"\"")?;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        match text.get(at)? {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Dialect, Message, classify};
    use super::*;
    use crate::json::Limits;

    #[track_caller]
    fn check(message: &[u8], id: Option<&str>, is_call: bool, may_be_answer: bool) {
        let seen = Outline::of(message);
        let shown = String::from_utf8_lossy(message);
        assert_eq!(seen.id(), id.map(str::as_bytes), "{shown}");
        assert_eq!((seen.is_call(), seen.may_be_answer()), (is_call, may_be_answer), "{shown}");
    }

    #[test]
    fn complete_messages_are_recognized() {
        check(br#"{"jsonrpc":"2.0","id":7,"method":"m","params":[1]}"#, Some("7"), true, false);
        check(
            br#" { "result" : {"id":1,"method":"x"} , "id" : "a\"b" } "#,
            Some(r#""a\"b""#),
            false,
            true,
        );
        check(br#"{"method":"m"}"#, None, true, false);
        check(br#"{"id":1.0,"method":null,"result":1}"#, Some("1.0"), false, true);
        check(br#"{"id":null,"error":{}}"#, None, false, true);
        check(br#"{"id":[1],"error":{}}"#, None, false, true);
        check(br#"{"id":1}"#, Some("1"), false, true);
        check(br#"{"id":1,"params":[]}"#, Some("1"), false, false);
        check(b"[1]", None, false, false);
        check(b"Welcome, version {1}", None, false, false);
        check(b"", None, false, false);
    }

    #[test]
    fn damaged_and_truncated_messages_are_read_as_far_as_possible() {
        check(b"{\"id\":5,\"result\":\"\xff\xfe", Some("5"), false, true);
        check(b"{\"result\":\"\xff\",\"id\":5}", Some("5"), false, true);
        check(br#"{"id":5"#, None, false, true);
        check(br#"{"id":"5"#, None, false, true);
        check(br#"{"id":5,"met"#, Some("5"), false, true);
        check(br#"{"id":5,"method":"to"#, Some("5"), true, false);
        check(br#"{"params":{"deep":"#, None, false, false);
        check(br#"{"id":1,"id":2,"method":"m"}"#, Some("2"), true, false);
        check(br#"{"id":1 x"result":2}"#, Some("1"), false, true);
        let deep = [
            b"{\"params\":".as_slice(),
            &[b'['; 5000],
            &[b']'; 5000],
            b",\"method\":\"m\",\"id\":3}",
        ];
        check(&deep.concat(), Some("3"), true, false);
    }

    #[test]
    fn id_above_the_limit_is_ignored() {
        let long = format!("{{\"id\":\"{}\",\"result\":1}}", "x".repeat(super::super::MAX_ID));
        check(long.as_bytes(), None, false, true);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, pieces in proptest::collection::vec(
            proptest::sample::select(vec!["{", "}", "[", "]", "\"", "\\", ":", ",", "\"id\"", "1", "x", " "]), 0..20,
        )) {
            let _ = Outline::of(&bytes);
            let _ = Outline::of(pieces.concat().as_bytes());
        }

        /// A truncated message never yields a different id than the complete one.
        #[test]
        fn truncated_message_has_the_same_id_or_none(
            id in prop_oneof![Just("17"), Just("-1.5e3"), Just("\"a\\\"b\"")],
            order in Just(["id", "result", "x"].to_vec()).prop_shuffle(),
        ) {
            let members: Vec<_> = order.iter().map(|name| match *name {
                "id" => format!("\"id\": {id} "),
                name => format!("\"{name}\":{{\"id\":[0,\"]\"],\"method\":\"m\"}}"),
            }).collect();
            let message = format!("{{\"jsonrpc\":\"2.0\",{}}}", members.join(","));
            let whole = classify(message.clone().into(), &Dialect::STRICT, Limits::default());
            prop_assert!(matches!(whole, Message::Response(_)), "{message}");
            for end in 0..message.len() {
                let seen = Outline::of(&message.as_bytes()[..end]);
                prop_assert!(seen.id().is_none_or(|seen| seen == id.as_bytes()), "{message} at {end}");
                prop_assert!(!seen.is_call());
            }
            prop_assert_eq!(Outline::of(message.as_bytes()).id(), Some(id.as_bytes()));
        }
    }
}
