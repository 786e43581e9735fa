//! A scanner that moves over a JSON text once, without building values.

use std::borrow::Cow;
use std::ops::Range;

use super::text::{plain, unescape};
use super::{JsonError, Limits, MAX_DEPTH, Problem, after_byte_order_mark, check_utf8};

/// A position in a JSON text, and the nesting there.
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    limits: Limits,
    depth: u32,
    /// One bit for each level, with the innermost level in the lowest bit. The bit is set for an object
    /// and clear for an array.
    objects: u128,
    keys: u32,
    /// True if the last string contains an escape.
    is_escaped: bool,
}

impl<'a> Scanner<'a> {
    /// Creates a scanner at the beginning of `text`, after a byte order mark. Checks that `text` is
    /// UTF-8.
    pub(crate) fn new(text: &'a [u8], limits: Limits) -> Result<Self, JsonError> {
        check_utf8(text)?;
        let at = text.len() - after_byte_order_mark(text).len();
        Ok(Self { text, at, limits, depth: 0, objects: 0, keys: 0, is_escaped: false })
    }

    /// Checks that the whole text is one value.
    pub(crate) fn document(mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.skip_value()?;
        self.end()
    }

    /// Checks that only whitespace is left.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Skips the next value and returns its range.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<Range<usize>, JsonError> {
        self.skip_space();
        let start = self.at;
        self.skip_value()?;
        Ok(start..self.at)
    }

    /// Skips the value that begins here, without leading whitespace. It does not recurse, so each level
    /// costs only a bit.
    fn skip_value(&mut self) -> Result<(), JsonError> {
        let floor = self.depth;
        loop {
            let opened = match self.peek() {
                Some(b'{') => self.open(true)?,
                Some(b'[') => self.open(false)?,
                Some(b'"') => self.string().map(|()| false)?,
                Some(b'-' | b'0'..=b'9') => self.number().map(|()| false)?,
                Some(b't') => self.word(b"true").map(|()| false)?,
                Some(b'f') => self.word(b"false").map(|()| false)?,
                Some(b'n') => self.word(b"null").map(|()| false)?,
                _ => return Err(self.unexpected()),
            };
            if !opened && self.after_value(floor)? {
                return Ok(());
            }
            self.skip_space();
        }
    }

    /// Enters the object or array that comes next. Returns false if another value comes next.
    pub(crate) fn enter(&mut self, bracket: u8) -> Result<bool, JsonError> {
        self.skip_space();
        if self.peek() != Some(bracket) {
            return Ok(false);
        }
        self.descend(bracket == b'{')?;
        Ok(true)
    }

    /// Returns the next key of the object that was entered, or `None` at its end.
    #[inline]
    pub(crate) fn next_key(&mut self, first: bool) -> Result<Option<Cow<'a, [u8]>>, JsonError> {
        if !self.next_item(first, b'}')? {
            return Ok(None);
        }
        let start = self.at + 1;
        let end = self.key()?;
        let raw = self.text.get(start..end).unwrap_or_default();
        Ok(Some(if self.is_escaped { unescaped(raw) } else { Cow::Borrowed(raw) }))
    }

    /// Returns whether another element of the array that was entered follows.
    pub(crate) fn next_element(&mut self, first: bool) -> Result<bool, JsonError> {
        self.next_item(first, b']')
    }

    #[inline]
    fn next_item(&mut self, first: bool, end: u8) -> Result<bool, JsonError> {
        self.skip_space();
        match self.peek() {
            Some(byte) if byte == end => {
                self.close();
                return Ok(false);
            }
            Some(b',') if !first => self.at += 1,
            Some(_) if first => {}
            _ => return Err(self.unexpected()),
        }
        self.skip_space();
        Ok(true)
    }

    /// Enters a container. Returns true if a value comes next, or false if the container was empty and
    /// is closed.
    fn open(&mut self, object: bool) -> Result<bool, JsonError> {
        self.descend(object)?;
        self.skip_space();
        let end = if object { b'}' } else { b']' };
        if self.peek() == Some(end) {
            self.close();
            return Ok(false);
        }
        if object {
            self.key()?;
        }
        Ok(true)
    }

    fn descend(&mut self, object: bool) -> Result<(), JsonError> {
        if self.depth >= self.limits.depth.min(MAX_DEPTH) {
            return Err(self.error(Problem::TooDeep));
        }
        self.at += 1;
        self.depth += 1;
        self.objects = (self.objects << 1) | u128::from(object);
        Ok(())
    }

    fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
    }

    /// Closes the containers that end after a value. Returns true once the depth is `floor` again, or
    /// false if another value comes first.
    fn after_value(&mut self, floor: u32) -> Result<bool, JsonError> {
        loop {
            if self.depth == floor {
                return Ok(true);
            }
            self.skip_space();
            let in_object = self.objects & 1 == 1;
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    if in_object {
                        self.skip_space();
                        self.key()?;
                    }
                    return Ok(false);
                }
                Some(b'}') if in_object => self.close(),
                Some(b']') if !in_object => self.close(),
                _ => return Err(self.unexpected()),
            }
        }
    }

    /// Skips a key and its colon. Returns the position of the key's closing quote.
    #[inline]
    fn key(&mut self) -> Result<usize, JsonError> {
        if self.keys >= self.limits.keys {
            return Err(self.error(Problem::TooManyKeys));
        }
        self.keys += 1;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        self.string()?;
        let end = self.at - 1;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(end)
    }

    #[inline]
    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        self.is_escaped = false;
        loop {
            self.at += plain(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.is_escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return Err(self.unexpected());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.unexpected()),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Skips one or more digits.
    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.unexpected());
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        for expected in word {
            if self.peek() != Some(*expected) {
                return Err(self.unexpected());
            }
            self.at += 1;
        }
        Ok(())
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[cold]
    fn unexpected(&self) -> JsonError {
        self.error(self.peek().map_or(Problem::UnexpectedEnd, Problem::Unexpected))
    }

    fn error(&self, problem: Problem) -> JsonError {
        JsonError { at: self.at, problem }
    }
}

/// Returns the text of a key that contains an escape.
#[cold]
fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    let text = unescape(std::str::from_utf8(raw).unwrap_or_default());
    Cow::Owned(text.into_owned().into_bytes())
}
